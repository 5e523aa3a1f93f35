use super::*;
use crate::fault::vector;
use crate::interp::Delivered;
use crate::state::flag;
use SegmentRegister::{Cs, Ds, Es, Gs, Ss};

fn handler(vector: u8) -> u64 {
    HANDLER + u64::from(vector) * 16
}

#[test]
fn an_interrupt_from_64_bit_user_code_pushes_five_words_on_the_kernel_stack() {
    let mut core = machine(Bits::B64, 3);
    put64(&core, TSS + 4, STACK0 + 9);
    core.rflags |= flag::CF | flag::TF;
    let (rip, flags) = (core.rip, core.rflags);
    assert_eq!(core.deliver_interrupt(0x40), Delivered::Ok);
    assert_eq!((core.rip, core.cpl(), rsp(&core)), (handler(0x40), 0, STACK0 - 40));
    let frame: Vec<u64> = (0..5).map(|index| get64(&core, rsp(&core) + index * 8)).collect();
    assert_eq!(frame, [rip, u64::from(CODE3_64), flags, STACK3, u64::from(DATA3)]);
    assert_eq!(core.rflags & (flag::IF | flag::TF | flag::CF), flag::CF);
    assert_eq!((selector(&core, Ss), selector(&core, Cs)), (0, CODE0_64));
}

#[test]
fn an_interrupt_at_the_same_level_aligns_the_64_bit_stack() {
    let mut core = machine(Bits::B64, 0);
    core.gpr[4] = STACK0 - 3;
    assert_eq!(core.deliver_interrupt(0x40), Delivered::Ok);
    assert_eq!(rsp(&core), STACK0 - 16 - 40);
    assert_eq!(get64(&core, rsp(&core) + 24), STACK0 - 3);
    assert_eq!(selector(&core, Ss), DATA0);
}

#[test]
fn a_page_fault_writes_cr2_and_pushes_its_error_and_rf() {
    let mut core = machine(Bits::B64, 3);
    assert_eq!(core.deliver_fault(Fault::page(0x1234_5678, 6)), Delivered::Ok);
    assert_eq!((core.cr2, core.rip), (0x1234_5678, handler(vector::PF)));
    assert_eq!(get64(&core, rsp(&core)), 6);
    assert_ne!(get64(&core, rsp(&core) + 24) & flag::RF, 0);
    assert_eq!(core.rflags & flag::RF, 0);
}

#[test]
fn a_trap_pushes_no_rf() {
    let mut core = machine(Bits::B64, 0);
    let trap = core.debug_trap(0, true);
    assert_eq!(core.deliver_fault(trap), Delivered::Ok);
    assert_eq!(get64(&core, rsp(&core) + 16) & flag::RF, 0);
    assert_eq!(core.dr6 & 0x4000, 0x4000);
}

#[test]
fn the_interrupt_stack_table_is_used_at_any_level() {
    let mut core = machine(Bits::B64, 0);
    put_gate(&core, 2, gate(CODE0_64, HANDLER, 14, 0, 2));
    assert_eq!(core.deliver_nmi(), Delivered::Ok);
    assert_eq!(rsp(&core), IST2 - 40);
    assert!(core.nmi_masked);
}

#[test]
fn a_software_interrupt_needs_the_gates_permission_and_an_external_one_does_not() {
    let mut core = machine(Bits::B64, 3);
    assert_eq!(run(&mut core, &[0xCD, 0x80]), Err(Fault::with_error(vector::GP, 0x80 * 8 + 2)));
    put_gate(&core, 0x80, gate(CODE0_64, HANDLER, 15, 3, 0));
    let rip = core.rip;
    assert_eq!(run(&mut core, &[0xCD, 0x80]), Ok(()));
    assert_eq!((core.rip, get64(&core, rsp(&core))), (HANDLER, rip + 2));
    assert_ne!(core.rflags & flag::IF, 0, "a trap gate leaves IF alone");
}

#[test]
fn int3_and_into_return_behind_themselves() {
    let mut core = machine(Bits::B32, 0);
    let rip = core.rip;
    assert_eq!(run(&mut core, &[0xCC]), Ok(()));
    assert_eq!((core.rip, get32(&core, rsp(&core))), (handler(3), rip + 1));
    let mut core = machine(Bits::B32, 0);
    assert_eq!(run(&mut core, &[0xCE]), Ok(()));
    assert_eq!(core.rip, rip + 1);
    core.rflags |= flag::OF;
    assert_eq!(run(&mut core, &[0xCE]), Ok(()));
    assert_eq!(core.rip, handler(4));
}

#[test]
fn faults_of_an_external_delivery_have_the_ext_bit() {
    for bits in [Bits::B32, Bits::B64] {
        let mut core = machine(bits, 3);
        let code = if bits == Bits::B64 { CODE0_64 } else { CODE0 };
        put_gate(&core, 0x41, gate(code, HANDLER, 14, 0, 0) & !(1 << 47));
        assert_eq!(core.deliver_interrupt(0x41), Delivered::Ok);
        assert_eq!(core.rip, handler(vector::NP));
        let error = if bits == Bits::B64 { get64(&core, rsp(&core)) } else { get32(&core, rsp(&core)) };
        assert_eq!(error, 0x41 * 8 + 2 + 1);
    }
}

/// First exception, what its delivery raises, and the handler that is entered in the end. SDM table 6-5.
#[test]
fn exceptions_combine_as_the_manual_says() {
    const PF: u8 = vector::PF;
    let contributory = [vector::DE, vector::TS, vector::NP, vector::SS, vector::GP];
    let first_fault = |number: u8| match number {
        vector::DE | vector::UD => Fault::plain(number),
        PF => Fault::page(0x1000, 0),
        _ => Fault::with_error(number, 0),
    };
    for absent in contributory.into_iter().filter(|&number| number != vector::NP) {
        let mut core = machine(Bits::B64, 0);
        put_gate(&core, absent, gate(CODE0_64, HANDLER, 14, 0, 0) & !(1 << 47));
        assert_eq!(core.deliver_fault(first_fault(absent)), Delivered::Ok);
        assert_eq!((core.rip, get64(&core, rsp(&core))), (handler(vector::DF), 0), "#{absent} then #NP");
    }
    let mut core = machine(Bits::B64, 0);
    put_gate(&core, vector::UD, 0);
    assert_eq!(core.deliver_fault(Fault::UD), Delivered::Ok);
    assert_eq!(core.rip, handler(vector::GP), "a benign exception and #GP come one after the other");

    // A page fault on the stack: the handlers of #PF and #DF use another one.
    let broken_stack = |with_ist: &[u8]| {
        let mut core = machine(Bits::B64, 0);
        for &number in with_ist {
            put_gate(&core, number, gate(CODE0_64, handler(number), 14, 0, 2));
        }
        core.gpr[4] = 0x4000_0000;
        core
    };
    let mut core = broken_stack(&[PF]);
    assert_eq!(core.deliver_fault(Fault::GP0), Delivered::Ok);
    assert_eq!((core.rip, core.cr2), (handler(PF), 0x4000_0000 - 8), "contributory, then #PF");
    let mut core = broken_stack(&[vector::DF]);
    assert_eq!(core.deliver_fault(Fault::page(0x1000, 0)), Delivered::Ok);
    assert_eq!(core.rip, handler(vector::DF), "#PF, then #PF");
    let mut core = broken_stack(&[]);
    assert_eq!(core.deliver_fault(Fault::page(0x1000, 0)), Delivered::TripleFault);
}

#[test]
fn without_an_idt_everything_is_a_triple_fault() {
    for bits in [Bits::B32, Bits::B64] {
        let mut core = machine(bits, 0);
        core.idtr.limit = 0;
        assert_eq!(core.deliver_fault(Fault::UD), Delivered::TripleFault);
        assert_eq!(core.deliver_interrupt(0x20), Delivered::TripleFault);
    }
}

#[test]
fn gates_of_both_widths_switch_stacks_in_32_bit_mode() {
    for (kind, size) in [(14, 4), (6, 2)] {
        let mut core = machine(Bits::B32, 3);
        put_gate(&core, 0x40, gate(CODE0, 0x1234, kind, 0, 0));
        let rip = core.rip;
        assert_eq!(core.deliver_interrupt(0x40), Delivered::Ok);
        assert_eq!((core.rip, rsp(&core), core.cpl()), (0x1234, STACK0 - 5 * size, 0));
        let frame: Vec<u64> =
            (0..5)
                .map(|index| {
                    if size == 4 { get32(&core, rsp(&core) + index * 4) } else { get16(&core, rsp(&core) + index * 2) }
                })
                .collect();
        let mask = if size == 4 { u64::MAX } else { 0xFFFF };
        assert_eq!((frame[0], frame[1]), (rip & mask, u64::from(CODE3)));
        assert_eq!((frame[3], frame[4]), (STACK3 & mask, u64::from(DATA3)));
        assert_eq!(selector(&core, Ss), DATA0);
    }
}

#[test]
fn a_bad_stack_in_the_tss_raises_ts() {
    for (ss, error) in [(0, 0), (DATA3, DATA3 & 0xFFFC), (CODE0, CODE0), (0xF000, 0xF000)] {
        let mut core = machine(Bits::B32, 3);
        put64(&core, TSS + 4, STACK0 | u64::from(ss) << 32);
        put_gate(&core, 0x80, gate(CODE0, HANDLER, 14, 3, 0));
        let expected = Err(Fault::with_error(vector::TS, u32::from(error)));
        assert_eq!(run(&mut core, &[0xCD, 0x80]), expected, "SS {ss:#x}");
    }
    let mut core = machine(Bits::B32, 3);
    core.tr.limit = 8;
    put_gate(&core, 0x80, gate(CODE0, HANDLER, 14, 3, 0));
    assert_eq!(run(&mut core, &[0xCD, 0x80]), Err(Fault::with_error(vector::TS, u32::from(TASK))));
}

#[test]
fn a_virtual_8086_program_is_left_with_its_segments_and_resumed_by_iret() {
    let mut core = vm86_machine();
    let (flags, segments) = (core.rflags, core.segments);
    assert_eq!(core.deliver_interrupt(0x40), Delivered::Ok);
    assert!(!core.vm86() && core.cpl() == 0);
    assert_eq!(rsp(&core), STACK0 - 9 * 4);
    let frame: Vec<u64> = (0..9).map(|index| get32(&core, rsp(&core) + index * 4)).collect();
    assert_eq!(frame, [0x123, 0x1000, flags, 0x8000, 0x3000, 0x2000, 0x2000, 0x2000, 0x2000]);
    assert_eq!([selector(&core, Es), selector(&core, Ds), selector(&core, Gs)], [0; 3]);
    assert_eq!(run(&mut core, &[0xCF]), Ok(()));
    assert_eq!((core.rip, rsp(&core), core.rflags), (0x123, 0x8000, flags));
    assert_eq!(core.segments, segments);
}

#[test]
fn int_n_of_a_virtual_8086_program_follows_iopl_and_the_redirection_map() {
    let mut core = vm86_machine();
    assert_eq!(run(&mut core, &[0xCD, 0x21]), Err(Fault::GP0));
    core.cr4 |= crate::state::cr4::VME;
    put(&core, TSS + 0x66, 0x100u16.to_le_bytes());
    put(&core, 0x21 * 4, [0x00, 0x05, 0x00, 0x40]);
    core.rflags |= flag::VIF;
    assert_eq!(run(&mut core, &[0xCD, 0x21]), Ok(()));
    assert_eq!((core.rip, selector(&core, Cs)), (0x500, 0x4000));
    assert_eq!(core.rflags & (flag::VIF | flag::IF), flag::IF);
    let pushed = get16(&core, 0x3_0000 + rsp(&core) + 4);
    assert_eq!(pushed & (flag::IOPL | flag::IF), flag::IOPL | flag::IF, "the program sees IOPL 3 and its VIF");
    assert_eq!(run(&mut core, &[0xCF]), Ok(()));
    assert_eq!((core.rip, selector(&core, Cs)), (0x125, 0x1000));
    assert_ne!(core.rflags & flag::VIF, 0);
}

#[test]
fn real_mode_uses_the_vector_table() {
    let mut core = testing::real_mode();
    put(&core, 0x21 * 4, [0x34, 0x12, 0x00, 0x50]);
    core.gpr[4] = 0x8000;
    core.rflags = 2 | flag::IF | flag::TF;
    assert_eq!(run(&mut core, &[0xCD, 0x21]), Ok(()));
    assert_eq!((core.rip, selector(&core, Cs), core.linear_rip()), (0x1234, 0x5000, 0x5_1234));
    assert_eq!(
        [get16(&core, 0x7FFA), get16(&core, 0x7FFC), get16(&core, 0x7FFE)],
        [0x1002, 0, 2 | flag::IF | flag::TF]
    );
    assert_eq!(core.rflags & (flag::IF | flag::TF), 0);
    assert_eq!(run(&mut core, &[0xCF]), Ok(()));
    assert_eq!((core.rip, core.rflags, rsp(&core)), (0x1002, 2 | flag::IF | flag::TF, 0x8000));
}

#[test]
fn a_code_breakpoint_is_held_off_by_rf() {
    let mut core = machine(Bits::B64, 0);
    core.dr[1] = core.rip;
    core.dr7 = 0x404;
    assert_eq!(core.instruction_breakpoint(), Err(Fault::plain(vector::DB)));
    assert_eq!(core.dr6 & 0xF, 2);
    core.rflags |= flag::RF;
    assert_eq!(core.instruction_breakpoint(), Ok(()));
}

#[test]
fn events_of_a_loaded_state_are_delivered_in_order() {
    let mut core = machine(Bits::B64, 0);
    core.events.exception = Some((vector::GP, Some(0x18)));
    core.events.interrupt = Some(0x33);
    assert_eq!(core.deliver_loaded_events(), Delivered::Ok);
    assert_eq!((core.rip, get64(&core, rsp(&core))), (handler(vector::GP), 0x18));
    assert_eq!(core.deliver_loaded_events(), Delivered::Ok);
    assert_eq!(core.rip, handler(0x33));
}
