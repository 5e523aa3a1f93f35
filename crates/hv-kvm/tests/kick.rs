//! A kick ends `run` wherever the vCPU is, and only once.

mod machine;

use hv::{Exit, Vcpu};
use machine::{Access, Mode, kick_after, machine, run};
use std::time::{Duration, Instant};

const JUMP_TO_ITSELF: [u8; 2] = [0xEB, 0xFE];
/// Sleeps, so that no tick of the watchdog stands in for a lost kick.
const CLI_HLT: [u8; 2] = [0xFA, 0xF4];
/// Facts: usually 0.1 ms, up to 11 ms, and the host may be loaded.
const SOON: Duration = Duration::from_millis(500);

fn assert_kicked_soon(vcpu: &mut dyn Vcpu) {
    let (exit, late) = kick_after(vcpu, Duration::from_millis(20));
    assert!(matches!(exit, Exit::Kicked) && late < SOON, "{exit:x?} after {late:?}");
}

#[test]
fn a_kick_ends_an_endless_loop_in_every_mode() {
    for mode in [Mode::Real, Mode::Protected, Mode::Long] {
        let Some(machine) = machine(1) else { return };
        let mut vcpu = machine.boot(mode, &JUMP_TO_ITSELF);
        assert_kicked_soon(&mut *vcpu);
        assert_kicked_soon(&mut *vcpu);
    }
}

#[test]
fn a_kick_ends_hlt_with_interrupts_off() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Real, &CLI_HLT);
    assert_kicked_soon(&mut *vcpu);
    assert_eq!(vcpu.state().unwrap().mp_state, hv::MpState::Halted);
    assert_kicked_soon(&mut *vcpu);
}

#[test]
fn a_kick_ends_the_wait_of_a_processor_that_nobody_started() {
    let Some(machine) = machine(2) else { return };
    let mut vcpu = machine.vcpu(1);
    assert_kicked_soon(&mut *vcpu);
    assert_eq!(vcpu.state().unwrap().mp_state, hv::MpState::Uninitialized);
}

#[test]
fn a_kick_before_the_first_run_is_kept_and_counts_once() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Real, &CLI_HLT);
    vcpu.kicker().kick();
    vcpu.kicker().kick();
    assert!(matches!(run(&mut *vcpu), Exit::Kicked));
    let start = Instant::now();
    assert_kicked_soon(&mut *vcpu);
    assert!(start.elapsed() >= Duration::from_millis(20), "the second run ended before its kick");
}

#[test]
fn no_kick_is_lost_however_it_falls() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Real, &CLI_HLT);
    let kick = vcpu.kicker();
    let (ask, asked) = std::sync::mpsc::channel::<u32>();
    // Spins for a different time each round, so that kicks fall before, at and after the entry.
    let kicker = std::thread::spawn(move || {
        for spins in asked {
            (0..spins).for_each(|_| std::hint::spin_loop());
            kick.kick();
        }
    });
    for round in 0..300 {
        ask.send(round * 37 % 2000).unwrap();
        assert!(matches!(run(&mut *vcpu), Exit::Kicked), "round {round}");
    }
    drop(ask);
    kicker.join().unwrap();
}

#[test]
fn a_kick_after_the_vcpu_or_its_thread_is_gone_does_nothing() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Real, &JUMP_TO_ITSELF);
    let kick = vcpu.kicker();
    let vcpu = std::thread::spawn(move || {
        vcpu.kicker().kick();
        assert!(matches!(run(&mut *vcpu), Exit::Kicked));
        vcpu
    });
    let mut vcpu = vcpu.join().unwrap();
    kick.kick();
    assert!(matches!(run(&mut *vcpu), Exit::Kicked), "another thread takes over");
    drop(vcpu);
    drop(machine);
    kick.kick();
    kick.interrupt();
}

#[test]
fn a_kick_reaches_a_thread_that_has_all_signals_blocked() {
    let Some(machine) = machine(1) else { return };
    // SAFETY: plain C calls on a local signal set, which concern this test's thread only.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
    let mut vcpu = machine.boot(Mode::Real, &JUMP_TO_ITSELF);
    assert_kicked_soon(&mut *vcpu);
}

#[test]
fn a_kicked_port_read_is_completed_first() {
    let Some(machine) = machine(1) else { return };
    // in al, 0x80; out 0xf4, al; jmp $ — the bus kicks at the OUT.
    let mut vcpu = machine.boot(Mode::Real, &[0xE4, 0x80, 0xE6, 0xF4, 0xEB, 0xFE]);
    vcpu.kicker().kick();
    while !machine.bus.accesses().contains(&Access::PioRead(0x80, 1)) {
        assert!(matches!(run(&mut *vcpu), Exit::Kicked));
    }
    let state = vcpu.state().unwrap();
    assert_eq!((state.gpr[0] & 0xFF, state.rip), (0xA0, machine::CODE + 4));
}
