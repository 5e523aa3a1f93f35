//! Guests that end badly: the exit says what happened.

mod machine;

use hv::{Exit, GuestMemory, InternalError, MpState, Region};
use hv_kvm::KvmVm;
use machine::{Access, CODE, EXIT_PORT, Machine, Mode, machine, run};
use std::sync::Arc;
use std::time::Instant;

/// Only on an emulating KVM do these guests fail; hardware runs them.
fn emulating(machine: Option<Machine>) -> Option<Machine> {
    let probe = hv_kvm::probe();
    if machine.is_some() && !matches!(probe.verdict, hv_kvm::Verdict::Emulating) {
        eprintln!("skipped: {probe}, and this is about one that emulates");
        return None;
    }
    machine
}

fn internal_error(mode: Mode, program: &[u8]) -> Option<Box<InternalError>> {
    let machine = emulating(machine(1))?;
    let mut vcpu = machine.boot(mode, program);
    match run(&mut *vcpu) {
        Exit::InternalError(error) => Some(error),
        exit => panic!("{exit:x?}"),
    }
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    let Some(machine) = machine(1) else { return };
    // lidt [0x6000], which is zero; ud2
    let mut vcpu = machine.boot(Mode::Protected, &[0x0F, 0x01, 0x1D, 0x00, 0x60, 0x00, 0x00, 0x0F, 0x0B]);
    assert!(matches!(run(&mut *vcpu), Exit::Shutdown));
}

#[test]
fn an_instruction_that_kvm_cannot_do_is_reported_with_bytes_and_registers() {
    // nop; fld1; hlt
    let Some(error) = internal_error(Mode::Long, &[0x90, 0xD9, 0xE8, 0xF4]) else { return };
    assert_eq!(error.instruction[..2], [0xD9, 0xE8]);
    assert!(error.what.contains("0x1001") && error.what.contains("d9 e8"), "{}", error.what);
    let state = error.state.unwrap();
    assert_eq!((state.rip, state.mp_state), (CODE + 1, MpState::Runnable));
}

#[test]
fn an_instruction_that_kvm_begins_again_for_ever_is_found_by_the_watchdog() {
    let vmcall = [0x0F, 0x01, 0xC1];
    let int80 = [0xCD, 0x80];
    for (mode, program) in [(Mode::Long, &vmcall[..]), (Mode::Protected, &vmcall), (Mode::Real, &int80)] {
        let start = Instant::now();
        let Some(error) = internal_error(mode, program) else { return };
        eprintln!("{mode:?}: {} after {:?}", error.what, start.elapsed());
        assert_eq!(error.instruction[..program.len()], *program);
        assert_eq!(error.state.unwrap().rip, CODE);
    }
}

#[test]
fn the_watchdog_leaves_a_guest_alone_that_waits_in_a_loop() {
    let pause_loop = [0xF3, 0x90, 0xEB, 0xFC]; //      pause; jmp -4
    let poll_loop = [0x38, 0x06, 0x00, 0x60, 0x75, 0xFA, 0xE6, 0xF4]; // cmp [0x6000], al; jne -6; out 0xf4, al
    let jump_to_itself = [0xEB, 0xFE];
    for (program, ends) in [(&jump_to_itself[..], false), (&pause_loop, false), (&poll_loop, true)] {
        let Some(machine) = emulating(machine(1)) else { return };
        machine.memory.write(0x6000, &[1]).unwrap();
        let mut vcpu = machine.boot(Mode::Real, program);
        let (exit, _) = machine::kick_after(&mut *vcpu, std::time::Duration::from_millis(1500));
        assert!(matches!(exit, Exit::Kicked), "{exit:x?}");
        if ends {
            machine.memory.write(0x6000, &[0]).unwrap();
            machine::run_to_end(&mut *vcpu);
            assert_eq!(machine.bus.accesses().last(), Some(&Access::PioWrite(EXIT_PORT, 1, 0)));
        }
    }
}

#[test]
fn machines_that_kvm_cannot_make_are_refused_by_one_sentence() {
    let Some(Machine { bus, memory, .. }) = machine(1) else { return };
    for cpus in [0, 1 << 20] {
        let error = KvmVm::new(memory.clone(), bus.clone(), cpus, hv::CpuModel::Host).err().unwrap().to_string();
        assert!(error.contains("choose 1 to"), "{error}");
    }
    let region = Region { address: 0xFEFF_E000, size: 0x1000, offset: 0, readonly: false };
    let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
    let error = KvmVm::new(memory, bus, 1, hv::CpuModel::Host).err().unwrap().to_string();
    assert!(error.contains("KVM's own"), "{error}");
}
