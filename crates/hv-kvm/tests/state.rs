//! A processor's state survives leaving one machine and entering another.

mod machine;

use hv::{CpuState, Error, Exit, MpState, Vm};
use machine::{Access, EXIT_PORT, Mode, kick_after, machine, run_to_end};
use std::time::Duration;

/// Counts down ECX from 0x40, port writes at 0x20 and 0: a state in the middle of a loop.
const COUNTDOWN: [u8; 20] = [
    0xB9, 0x40, 0x00, 0x00, 0x00, //       mov ecx, 0x40
    0xFF, 0xC9, //                         dec ecx
    0x83, 0xF9, 0x20, 0x74, 0x05, //       cmp ecx, 0x20; je +5
    0x83, 0xF9, 0x00, 0x75, 0xF4, //       cmp ecx, 0; jne -12
    0xE6, 0xF4, 0x90, //                   out 0xf4, al; nop
];
/// jmp to the `dec`, at the end of [`COUNTDOWN`].
const AGAIN: [u8; 2] = [0xEB, 0xEF];

fn countdown() -> Vec<u8> {
    [&COUNTDOWN[..], &AGAIN[..]].concat()
}

/// What has to be the same after a round trip: the clock and what it drives go on.
fn still(mut state: CpuState) -> CpuState {
    const CURRENT_COUNT: usize = 0x390;
    state.tsc = None;
    // IA32_TSC_ADJUST, and registers whose value is a time.
    state.msrs.retain(|(index, _)| ![0x3B, 0xE7, 0xE8].contains(index));
    if let Some(apic) = &mut state.apic {
        apic[CURRENT_COUNT..CURRENT_COUNT + 4].fill(0);
    }
    state
}

#[test]
fn a_state_loaded_into_a_new_machine_goes_on_where_it_was() {
    for mode in [Mode::Protected, Mode::Long] {
        let Some(first) = machine(1) else { return };
        let mut vcpu = first.boot(mode, &countdown());
        let mut state = vcpu.state().unwrap();
        // What the guest itself cannot be made to set on an emulating KVM.
        state.gpr[3..].iter_mut().zip(0x1234_5678u64..).for_each(|(register, value)| *register = value);
        state.fpu.area[512] = 0b11; // XSTATE_BV: x87 and SSE
        state.fpu.area[160..176].copy_from_slice(b"the first of xmm");
        state.dr = [0x1000, 0x2000, 0x3000, 0x4000];
        state.cr8 = 5;
        if let Some(apic) = &mut state.apic {
            apic[0x80] = 0x50; // the same task priority in the APIC
        }
        vcpu.set_state(&state).unwrap();
        run_to_end(&mut *vcpu);
        let saved = vcpu.state().unwrap();
        assert_eq!(saved.gpr[1], 0x20);
        let mut ram = vec![0; machine::ROM as usize];
        first.memory.read(0, &mut ram).unwrap();
        drop((vcpu, first));

        let second = machine(1).unwrap();
        second.memory.write(0, &ram).unwrap();
        let mut vcpu = second.vcpu(0);
        vcpu.set_state(&saved).unwrap();
        let loaded = vcpu.state().unwrap();
        assert_eq!(still(loaded.clone()), still(saved), "{mode:?}");
        assert_eq!(&loaded.fpu.area[160..176], b"the first of xmm");
        run_to_end(&mut *vcpu);
        assert_eq!(vcpu.state().unwrap().gpr[1], 0, "{mode:?}");
        assert_eq!(second.bus.accesses(), [Access::PioWrite(EXIT_PORT, 1, 0)]);
    }
}

#[test]
fn a_halted_state_stays_halted_and_events_are_kept() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Real, &[0xF4, 0xE6, 0xF4]);
    let mut state = vcpu.state().unwrap();
    state.mp_state = MpState::Halted;
    vcpu.set_state(&state).unwrap();
    let (exit, _) = kick_after(&mut *vcpu, Duration::from_millis(20));
    assert!(matches!(exit, Exit::Kicked));
    assert_eq!(vcpu.state().unwrap().rip, machine::CODE, "no instruction was run");

    for events in [
        hv::CpuEvents { exception: Some((13, Some(0x18))), ..Default::default() },
        hv::CpuEvents { interrupt: Some(0x31), nmi_masked: true, ..Default::default() },
        hv::CpuEvents { nmi_pending: true, interrupt_shadow: true, ..Default::default() },
    ] {
        state.events = events;
        state.mp_state = MpState::Runnable;
        vcpu.set_state(&state).unwrap();
        assert_eq!(vcpu.state().unwrap().events, events);
    }
}

#[test]
fn the_clock_goes_on() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.vcpu(0);
    let before = vcpu.state().unwrap();
    vcpu.set_state(&before).unwrap();
    let after = vcpu.state().unwrap();
    let [before, after] = [before, after].map(|state| state.tsc.expect("a saved counter"));
    assert!(after > before && after - before < 60_000_000_000, "{before} {after}");
}

#[test]
fn the_state_after_reset_can_be_loaded() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.vcpu(0);
    let mut reset = CpuState::reset();
    vcpu.set_state(&reset).unwrap();
    let loaded = vcpu.state().unwrap();
    reset.tsc = loaded.tsc;
    reset.msrs = loaded.msrs.clone();
    reset.apic = loaded.apic.clone();
    reset.fpu = loaded.fpu.clone();
    assert_eq!(loaded, reset);
}

#[test]
fn impossible_and_foreign_states_are_refused_by_one_sentence() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.vcpu(0);
    let good = vcpu.state().unwrap();
    let mut refused = |change: fn(&mut CpuState)| {
        let mut state = good.clone();
        change(&mut state);
        match vcpu.set_state(&state) {
            Err(Error::InvalidState(text)) => text,
            other => panic!("{other:?} for {state:x?}"),
        }
    };
    assert!(refused(|state| state.cr0 = 0x8000_0000).contains("paging without protection"));
    assert!(refused(|state| state.msrs.push((0xFFFF_0000, 1))).contains("0xffff0000"));
    assert!(refused(|state| state.msrs.insert(0, (0x10, 5))).contains("0x10"));
    assert!(refused(|state| state.xcr0 = 1 << 62 | 1).contains("XCR0"));
    assert!(refused(|state| state.fpu.area[519] = 0xFF).contains("x87, SSE and AVX"));
    assert!(refused(|state| state.cr4 = 1 << 40).contains("control registers"));
}

#[test]
fn a_state_that_an_emulating_kvm_drops_is_refused() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Protected, &[0xF4]);
    let mut state = vcpu.state().unwrap();
    (state.cr0, state.cr3) = (0xE000_0011, 0x2000);
    match (hv_kvm::probe().verdict, vcpu.set_state(&state)) {
        (hv_kvm::Verdict::Hardware, result) => result.unwrap(),
        (_, Err(Error::Unavailable(text))) => assert!(text.contains("CR0"), "{text}"),
        (_, Ok(())) => assert_eq!(vcpu.state().unwrap().cr0, state.cr0),
        (_, Err(error)) => panic!("{error}"),
    }
}

#[test]
fn addresses_are_translated_as_the_guest_sees_them() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Long, &[0xF4]);
    assert_eq!(vcpu.translate(machine::CODE), Some(machine::CODE));
    assert_eq!(vcpu.translate(machine::LONG_DEVICE + 0x123), Some(machine::DEVICE + 0x123));
    assert_eq!(vcpu.translate(0x4000_0000), None);
}

#[test]
fn a_machine_refuses_processors_that_it_does_not_have() {
    let Some(machine) = machine(1) else { return };
    let error = machine.vm.create_vcpu(1, None).err().unwrap();
    assert!(error.to_string().contains("there is no number 1"), "{error}");
    let _vcpu = machine.vm.create_vcpu(0, None).unwrap();
    assert!(matches!(machine.vm.create_vcpu(0, None), Err(Error::Os { .. })), "made twice");
}

#[test]
fn model_specific_registers_that_the_guest_may_set_are_kept() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.vcpu(0);
    let mut state = vcpu.state().unwrap();
    // LSTAR, KERNEL_GS_BASE, SYSENTER_EIP, PAT, and the first variable and the default memory type range.
    let values = [(0x176, 0x1234), (0x200, 0x8000_0006), (0x277, 0x0007_0106_0007_0106), (0x2FF, 0xC06)];
    let long = [(0xC000_0082, 0xFFFF_8000_0000_1000), (0xC000_0102, 0xFFFF_8000_0000_2000)];
    for (index, value) in values.into_iter().chain(long) {
        match state.msrs.iter_mut().find(|(known, _)| *known == index) {
            Some(register) => register.1 = value,
            None => panic!("{index:#x} is not saved"),
        }
    }
    vcpu.set_state(&state).unwrap();
    assert_eq!(still(vcpu.state().unwrap()).msrs, still(state).msrs);
}
