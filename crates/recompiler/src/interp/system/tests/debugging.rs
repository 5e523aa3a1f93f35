//! Single steps, breakpoints on instructions, data and ports, and what holds them off.

use super::*;
use crate::fault::vector;
use crate::interp::single;
use crate::state::{cr4, flag};
use testing::CODE;

const DATA: u64 = 0x5_0000;

const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;

/// Enables breakpoint `index` at an address; `condition` is its R/W, `length` its LEN field.
fn breakpoint(core: &mut Core, index: usize, address: u64, condition: u64, length: u64) {
    core.dr[index] = address;
    core.dr7 |= 2 << (index * 2) | (length << 2 | condition) << (16 + index * 4);
    core.flush_tlb(false);
}

const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const IO: u64 = 2;
const READ_WRITE: u64 = 3;
const BYTES_4: u64 = 3;

/// Runs `count` instructions of `code` and gives each #DB as (offset of RIP in the code, why as in DR6). Handlers are
/// not run; a breakpoint on an instruction is passed with RF.
fn debug_exceptions(core: &mut Core, code: &[u8], count: usize) -> Vec<(u64, u64)> {
    core.memory.write(CODE, code).expect("RAM");
    let mut seen = Vec::new();
    for _ in 0..count {
        if let Err(fault) = single(core) {
            assert_eq!(fault.vector, vector::DB, "{fault:x?}");
            seen.push((core.rip - CODE, core.dr6 & 0xE00F));
            core.dr6 = 0xFFFF_0FF0;
            core.rflags |= if fault.trap { 0 } else { flag::RF };
        }
    }
    seen
}

#[test]
fn every_instruction_that_begins_with_tf_traps_behind_itself() {
    let mut core = machine(Bits::B64, 0);
    core.rflags |= flag::TF;
    // nop; sti; nop; pushfq; and qword [rsp], ~TF; popfq; nop
    let code = [0x90, 0xFB, 0x90, 0x9C, 0x48, 0x81, 0x24, 0x24, 0xFF, 0xFE, 0xFF, 0xFF, 0x9D, 0x90];
    let expected: Vec<_> = [1, 2, 3, 4, 12, 13].map(|rip| (rip, BS)).into();
    assert_eq!(debug_exceptions(&mut core, &code, 7), expected);
}

#[test]
fn with_btf_the_single_step_goes_from_branch_to_branch() {
    let mut core = machine(Bits::B64, 0);
    core.rflags |= flag::TF;
    core.gpr[1] = 0;
    // nop; jrcxz +1; nop; inc ecx; jrcxz +1; jmp +0; nop
    let code = [0x90, 0xE3, 0x01, 0x90, 0xFF, 0xC1, 0xE3, 0x01, 0xEB, 0x00, 0x90];
    assert!(core.write_msr(crate::msr::index::DEBUGCTL, 3));
    assert_eq!(debug_exceptions(&mut core, &code, 2), [(4, BS)]);
    assert_eq!(core.read_msr(crate::msr::index::DEBUGCTL), Some(0), "each #DB ends it");
    assert!(core.write_msr(crate::msr::index::DEBUGCTL, 2));
    assert_eq!(debug_exceptions(&mut core, &code, 3), [(10, BS)]);
    assert_eq!(debug_exceptions(&mut core, &code, 1), [(11, BS)]);
}

#[test]
fn mov_ss_holds_the_single_step_off_once() {
    let mut core = machine(Bits::B64, 0);
    core.rflags |= flag::TF;
    core.gpr[0] = u64::from(DATA0);
    // mov ss, ax; nop; mov ss, ax; mov ss, ax; nop
    let code = [0x8E, 0xD0, 0x90, 0x8E, 0xD0, 0x8E, 0xD0, 0x90];
    assert_eq!(debug_exceptions(&mut core, &code, 5), [(3, BS), (7, BS), (8, BS)]);
}

#[test]
fn software_interrupts_are_not_stepped_into() {
    for code in [&[0xCC][..], &[0xF1], &[0xCD, 0x40]] {
        let mut core = machine(Bits::B64, 0);
        core.rflags |= flag::TF;
        core.memory.write(CODE, code).expect("RAM");
        assert_eq!(single(&mut core), Ok(()), "{code:x?}");
        assert!(core.rip >= HANDLER && core.rflags & flag::TF == 0);
        assert_ne!(get64(&core, rsp(&core) + 16) & flag::TF, 0, "the interrupted program's flags have it");
    }
}

#[test]
fn a_breakpoint_on_an_instruction_comes_before_it_and_rf_passes_it() {
    let mut core = machine(Bits::B64, 0);
    breakpoint(&mut core, 2, CODE + 1, EXECUTE, 0);
    core.dr6 |= BS | 2;
    let code = [0x90, 0x90, 0x90];
    assert_eq!(debug_exceptions(&mut core, &code, 4), [(1, BS | 4)], "BS stays, the bits of others do not");
    assert_eq!((core.rip, core.rflags & flag::RF), (CODE + 3, 0));
}

#[test]
fn rf_of_an_earlier_fault_does_not_hide_a_new_breakpoint() {
    let mut core = machine(Bits::B64, 0);
    core.rflags |= flag::RF;
    core.gpr[0] = 2;
    assert_eq!(run(&mut core, &[0x0F, 0x23, 0xF8]), Ok(()), "mov dr7, rax");
    core.dr[0] = core.rip;
    core.memory.write(core.rip, &[0x90]).expect("RAM");
    assert_eq!(single(&mut core), Err(Fault::plain(vector::DB)));
}

#[test]
fn data_breakpoints_trap_behind_writes_or_any_accesses_that_overlap_them() {
    let place = DATA + 0x100;
    // mov [rbx], al; mov al, [rbx]; inc dword [rbx - 3]; mov [rbx + 4], al; movups [rbx - 15], xmm0; push rax
    let code = [0x88, 0x03, 0x8A, 0x03, 0xFF, 0x43, 0xFD, 0x88, 0x43, 0x04, 0x0F, 0x11, 0x43, 0xF1, 0x50];
    for (condition, expected) in [(WRITE, vec![2, 7, 14]), (READ_WRITE, vec![2, 4, 7, 14])] {
        let mut core = machine(Bits::B64, 0);
        core.gpr[3] = place;
        // The TLB knows the page before the breakpoint is set.
        core.write(place, 0u8).expect("RAM");
        breakpoint(&mut core, 1, place, condition, BYTES_4);
        let expected: Vec<_> = expected.into_iter().map(|rip| (rip, 2)).collect();
        assert_eq!(debug_exceptions(&mut core, &code, 6), expected);
    }
}

#[test]
fn a_repeated_instruction_stops_behind_the_element_that_meets_a_breakpoint() {
    let mut core = machine(Bits::B64, 0);
    breakpoint(&mut core, 0, DATA + 2, WRITE, 0);
    (core.gpr[1], core.gpr[7]) = (4, DATA);
    // rep stosb; nop
    assert_eq!(debug_exceptions(&mut core, &[0xF3, 0xAA, 0x90], 5), [(0, 1)]);
    assert_eq!((core.gpr[1], core.gpr[7], core.rip), (0, DATA + 4, CODE + 3));
}

#[test]
fn port_breakpoints_need_de() {
    // out 0x42, al; in ax, 0x41; out 0x44, eax
    let code = [0xE6, 0x42, 0x66, 0xE5, 0x41, 0xE7, 0x44];
    let mut core = machine(Bits::B64, 0);
    breakpoint(&mut core, 3, 0x42, IO, 1);
    assert_eq!(debug_exceptions(&mut core, &code, 3), []);
    core.rip = CODE;
    core.cr4 |= cr4::DE;
    assert_eq!(debug_exceptions(&mut core, &code, 3), [(2, 8), (5, 8)]);
}

#[test]
fn what_mov_ss_meets_is_reported_behind_the_next_instruction() {
    let mut core = machine(Bits::B64, 0);
    core.write(DATA, DATA0).expect("RAM");
    core.gpr[3] = DATA;
    breakpoint(&mut core, 1, DATA, READ_WRITE, 1);
    // mov ss, [rbx]; nop; mov ss, [rbx]; int1
    let code = [0x8E, 0x13, 0x90, 0x8E, 0x13, 0xF1];
    assert_eq!(debug_exceptions(&mut core, &code, 4), [(3, 2)]);
    assert_eq!((core.rip, core.dr6 & 0xF), (HANDLER + 16, 2), "INT1 reports it itself");
    assert!(!core.stack_shadow && core.breakpoints_met == 0);
}

#[test]
fn the_guard_of_the_debug_registers_works_behind_mov_ss() {
    let mut core = machine(Bits::B64, 0);
    core.rflags |= flag::TF;
    core.dr7 |= 1 << 13;
    core.gpr[0] = u64::from(DATA0);
    // mov ss, ax; mov rcx, dr6
    let code = [0x8E, 0xD0, 0x0F, 0x21, 0xF1];
    assert_eq!(debug_exceptions(&mut core, &code, 3), [(2, BD), (5, BS)]);
}

#[test]
fn sysret_with_tf_traps_at_once() {
    let mut core = machine(Bits::B64, 0);
    core.efer |= 1;
    core.gpr[1] = 0x1234;
    core.gpr[11] = flag::TF | flag::FIXED;
    let trap = run(&mut core, &[0x48, 0x0F, 0x07]).expect_err("a trap");
    assert!(trap.trap && trap.vector == vector::DB);
    assert_eq!((core.rip, core.cpl()), (0x1234, 3));
}
