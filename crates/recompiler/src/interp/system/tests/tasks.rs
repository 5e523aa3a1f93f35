use super::*;
use crate::fault::vector;
use crate::interp::Delivered;
use crate::state::{cr0, flag};
use SegmentRegister::{Cs, Ss};

const OTHER: u64 = 0x2_5000;

fn put32(core: &Core, address: u64, value: u32) {
    put(core, address, value.to_le_bytes());
}

/// A machine with a second 32-bit task at SPARE: EIP 0x5000, ESP 0x7000, the ring's flat segments.
fn two_tasks(kind: u64, code: u16, data: u16) -> Box<Core> {
    let core = machine(Bits::B32, 0);
    put_descriptor(&core, SPARE, system(OTHER, 0x67, kind, 0));
    put32(&core, OTHER + 0x20, 0x5000);
    put32(&core, OTHER + 0x24, 2 | flag::CF as u32);
    put32(&core, OTHER + 0x28, 0xAAAA);
    put32(&core, OTHER + 0x38, 0x7000);
    for at in [0x48, 0x50, 0x54, 0x58, 0x5C] {
        put32(&core, OTHER + at, u32::from(data));
    }
    put32(&core, OTHER + 0x4C, u32::from(code));
    put32(&core, OTHER + 0x60, u32::from(TABLE));
    core
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    [&[opcode, 0, 0, 0, 0][..], &selector.to_le_bytes()].concat()
}

fn kind_of(core: &Core, selector: u16) -> u64 {
    get_descriptor(core, selector) >> 40 & 0xF
}

#[test]
fn a_jump_saves_one_task_and_loads_the_other() {
    let mut core = two_tasks(9, CODE0, DATA0);
    core.gpr[0] = 0x1234;
    let rip = core.rip;
    assert_eq!(run(&mut core, &far(0xEA, SPARE)), Ok(()));
    assert_eq!((core.rip, core.gpr[0], rsp(&core), core.rflags), (0x5000, 0xAAAA, 0x7000, 2 | flag::CF));
    assert_eq!((core.tr.selector, core.ldtr.selector, core.ldtr.base), (SPARE, TABLE, LDT));
    assert_eq!((kind_of(&core, TASK), kind_of(&core, SPARE)), (9, 11));
    assert_eq!((get32(&core, TSS + 0x20), get32(&core, TSS + 0x28)), (rip + 7, 0x1234));
    assert_eq!(get32(&core, TSS + 0x4C), u64::from(CODE0));
    assert_ne!(core.cr0 & cr0::TS, 0);
    assert_eq!(run(&mut core, &far(0xEA, SPARE)), Err(Fault::gp(SPARE)), "the task is busy");
}

#[test]
fn a_called_task_returns_by_iret() {
    let mut core = two_tasks(9, CODE3, DATA3);
    let rip = core.rip;
    assert_eq!(run(&mut core, &far(0x9A, SPARE)), Ok(()));
    assert_eq!((core.cpl(), core.rflags & flag::NT), (3, flag::NT));
    assert_eq!((get16(&core, OTHER), kind_of(&core, TASK)), (u64::from(TASK), 11));
    assert_eq!(run(&mut core, &[0xCF]), Ok(()));
    assert_eq!((core.rip, core.cpl(), core.tr.selector, rsp(&core)), (rip + 7, 0, TASK, STACK0));
    assert_eq!((kind_of(&core, SPARE), get32(&core, OTHER + 0x24) & flag::NT), (9, 0));
}

#[test]
fn an_exception_through_a_task_gate_pushes_its_error_there() {
    let mut core = two_tasks(9, CODE0, DATA0);
    put_gate(&core, vector::GP, gate(SPARE, 0, 5, 0, 0));
    let rip = core.rip;
    assert_eq!(core.deliver_fault(Fault::with_error(vector::GP, 0x42)), Delivered::Ok);
    assert_eq!((core.rip, rsp(&core), get32(&core, 0x6FFC)), (0x5000, 0x6FFC, 0x42));
    assert_eq!(get32(&core, TSS + 0x20), rip);
    assert_ne!(core.rflags & flag::NT, 0);
}

#[test]
fn a_bad_segment_is_the_new_tasks_fault() {
    let cases = [
        (0x4C, DATA0, Fault::with_error(vector::TS, u32::from(DATA0))),
        (0x50, CODE0, Fault::with_error(vector::TS, u32::from(CODE0))),
        (0x54, EXECUTE_ONLY, Fault::with_error(vector::TS, u32::from(EXECUTE_ONLY))),
        (0x54, ABSENT, Fault::with_error(vector::NP, u32::from(ABSENT))),
        (0x60, DATA0, Fault::with_error(vector::TS, u32::from(DATA0))),
    ];
    for (at, value, expected) in cases {
        let mut core = two_tasks(9, CODE0, DATA0);
        put32(&core, OTHER + at, u32::from(value));
        assert_eq!(run(&mut core, &far(0xEA, SPARE)), Err(expected), "{at:#x}");
        assert_eq!((core.rip, core.tr.selector), (0x5000, SPARE));
    }
}

#[test]
fn a_short_or_absent_tss_leaves_the_old_task_running() {
    let mut core = two_tasks(9, CODE0, DATA0);
    put_descriptor(&core, SPARE, system(OTHER, 0x66, 9, 0));
    let rip = core.rip;
    assert_eq!(run(&mut core, &far(0xEA, SPARE)), Err(Fault::with_error(vector::TS, u32::from(SPARE))));
    put_descriptor(&core, SPARE, system(OTHER, 0x67, 9, 0) & !(1 << 47));
    assert_eq!(run(&mut core, &far(0xEA, SPARE)), Err(Fault::with_error(vector::NP, u32::from(SPARE))));
    assert_eq!((core.rip, core.tr.selector), (rip, TASK));
}

#[test]
fn the_debug_trap_flag_traps_in_the_new_task() {
    let mut core = two_tasks(9, CODE0, DATA0);
    put(&core, OTHER + 0x64, [1]);
    assert_eq!(run(&mut core, &far(0xEA, SPARE)), Err(Fault { trap: true, ..Fault::plain(vector::DB) }));
    assert_eq!((core.rip, core.dr6 & 0x8000), (0x5000, 0x8000));
}

#[test]
fn a_16_bit_task_has_16_bit_registers() {
    let mut core = machine(Bits::B32, 0);
    put_descriptor(&core, SPARE, system(OTHER, 0x2B, 1, 0));
    let words = [0u16, 0, 0, 0, 0, 0, 0, 0x5000, 2, 0x11, 0x22, 0x33, 0x44, 0x7000, 0, 0, 0, 0, CODE0, DATA0, 0, 0];
    for (index, word) in words.into_iter().enumerate() {
        put(&core, OTHER + index as u64 * 2, word.to_le_bytes());
    }
    assert_eq!(run(&mut core, &far(0xEA, SPARE)), Ok(()));
    assert_eq!((core.rip, core.gpr[0], rsp(&core)), (0x5000, 0xFFFF_0011, 0xFFFF_7000));
    assert_eq!((selector(&core, Cs), selector(&core, Ss)), (CODE0, DATA0));
    assert_eq!(kind_of(&core, SPARE), 3);
}
