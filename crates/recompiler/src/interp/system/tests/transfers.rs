use super::*;
use crate::fault::vector;
use crate::state::{efer, flag};
use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};

/// JMP ptr16:32.
fn far_jump(selector: u16, offset: u32) -> Vec<u8> {
    [&[0xEA][..], &offset.to_le_bytes(), &selector.to_le_bytes()].concat()
}

/// CALL ptr16:32.
fn far_call(selector: u16, offset: u32) -> Vec<u8> {
    [&[0x9A][..], &offset.to_le_bytes(), &selector.to_le_bytes()].concat()
}

fn gp(selector: u16) -> Result<(), Fault> {
    Err(Fault::gp(selector))
}

#[test]
fn far_jumps_check_the_code_segment() {
    let np = |selector: u16| Err(Fault::with_error(vector::NP, u32::from(selector & 0xFFFC)));
    let cases = [
        (0, CODE0, Ok(())),
        (0, CONFORMING, Ok(())),
        (3, CODE3, Ok(())),
        (3, CONFORMING | 3, Ok(())),
        (0, 0, gp(0)),
        (0, 3, gp(0)),
        (0, DATA0, gp(DATA0)),
        (0, CODE3, gp(CODE3)),
        (0, CODE0 | 3, gp(CODE0)),
        (3, CODE0, gp(CODE0)),
        (0, TABLE, gp(TABLE)),
        (0, 0x7F8, gp(0x7F8)),
        (0, SPARE, np(SPARE)),
    ];
    for (cpl, target, expected) in cases {
        let mut core = machine(Bits::B32, cpl);
        put_descriptor(&core, SPARE, FLAT_CODE0 & !(1 << 47));
        let before = (core.segments, core.gpr);
        assert_eq!(run(&mut core, &far_jump(target, 0x5000)), expected, "CPL {cpl} to {target:#x}");
        if expected.is_ok() {
            assert_eq!((core.rip, core.cpl()), (0x5000, cpl));
            assert_eq!(selector(&core, Cs), target & !3 | u16::from(cpl));
        } else {
            assert_eq!((core.segments, core.gpr), before);
        }
    }
}

#[test]
fn a_far_jump_beyond_the_limit_is_refused_and_16_bit_code_follows_the_descriptor() {
    let mut core = machine(Bits::B32, 0);
    assert_eq!(run(&mut core, &far_jump(CODE16, 0x1_0000)), Err(Fault::GP0));
    assert_eq!(run(&mut core, &far_jump(CODE16, 0x8000)), Ok(()));
    assert_eq!(core.bits(), Bits::B16);
}

#[test]
fn real_mode_far_jumps_and_calls_set_the_base() {
    let mut core = testing::real_mode();
    core.gpr[4] = 0x8000;
    assert_eq!(run(&mut core, &[0x9A, 0x10, 0x00, 0x00, 0x20]), Ok(()));
    assert_eq!((core.linear_rip(), rsp(&core)), (0x2_0010, 0x7FFC));
    assert_eq!(run(&mut core, &[0xCA, 0x06, 0x00]), Ok(()));
    assert_eq!((core.rip, selector(&core, Cs), rsp(&core)), (0x1005, 0, 0x8006));
}

#[test]
fn a_far_call_and_return_at_the_same_level_meet_again() {
    let mut core = machine(Bits::B32, 0);
    let (rip, before) = (core.rip, rsp(&core));
    assert_eq!(run(&mut core, &far_call(CODE0, 0x5000)), Ok(()));
    assert_eq!((get32(&core, rsp(&core)), get32(&core, rsp(&core) + 4)), (rip + 7, u64::from(CODE0)));
    assert_eq!(run(&mut core, &[0xCB]), Ok(()));
    assert_eq!((core.rip, rsp(&core)), (rip + 7, before));
}

#[test]
fn a_call_gate_copies_parameters_to_the_inner_stack_and_ret_drops_them() {
    let mut core = machine(Bits::B32, 3);
    put_descriptor(&core, CALL_GATE, gate(CODE0, 0x6000, 12, 3, 2));
    core.gpr[4] = STACK3 - 8;
    put64(&core, STACK3 - 8, 0x2222_2222_1111_1111);
    let rip = core.rip;
    assert_eq!(run(&mut core, &far_call(CALL_GATE | 3, 0)), Ok(()));
    assert_eq!((core.rip, core.cpl(), rsp(&core)), (0x6000, 0, STACK0 - 24));
    let frame: Vec<u64> = (0..6).map(|index| get32(&core, rsp(&core) + index * 4)).collect();
    assert_eq!(frame, [rip + 7, u64::from(CODE3), 0x1111_1111, 0x2222_2222, STACK3 - 8, u64::from(DATA3)]);
    assert_eq!(run(&mut core, &[0xCA, 8, 0]), Ok(()));
    assert_eq!((core.rip, core.cpl(), rsp(&core)), (rip + 7, 3, STACK3));
    assert_eq!(selector(&core, Ss), DATA3);
}

#[test]
fn a_call_gate_is_for_its_dpl_only() {
    let mut core = machine(Bits::B32, 3);
    put_descriptor(&core, CALL_GATE, gate(CODE0, 0x6000, 12, 0, 0));
    assert_eq!(run(&mut core, &far_call(CALL_GATE | 3, 0)), gp(CALL_GATE));
    put_descriptor(&core, CALL_GATE, gate(CODE0, 0x6000, 12, 3, 0));
    assert_eq!(run(&mut core, &far_jump(CALL_GATE | 3, 0)), gp(CODE0), "a jump may not gain privilege");
}

#[test]
fn a_64_bit_call_gate_is_16_bytes_long() {
    let mut core = machine(Bits::B64, 3);
    put_descriptor(&core, CALL_GATE, gate(CODE0_64, 0x6000, 12, 3, 0));
    put_descriptor(&core, CALL_GATE + 8, 0);
    // call far dword [rip+0]: the pointer lies behind the instruction.
    let pointer = core.rip + 6;
    put64(&core, pointer, u64::from(CALL_GATE | 3) << 32);
    let call = [0xFF, 0x1D, 0, 0, 0, 0];
    assert_eq!(run(&mut core, &call), Ok(()));
    assert_eq!((core.rip, core.cpl(), rsp(&core)), (0x6000, 0, STACK0 - 32));
    assert_eq!(run(&mut core, &[0x48, 0xCB]), Ok(()));
    assert_eq!((core.rip, core.cpl(), rsp(&core)), (pointer, 3, STACK3));
    put_descriptor(&core, CALL_GATE + 8, 0x1F << 40);
    core.rip = pointer - 6;
    assert_eq!(run(&mut core, &call), gp(CALL_GATE), "the upper half has a type");
}

/// Pushes a frame for IRETQ: RIP, CS, RFLAGS, RSP, SS.
fn frame64(core: &mut Core, values: [u64; 5]) {
    core.gpr[4] = STACK0 - 40;
    for (index, value) in values.into_iter().enumerate() {
        put64(core, STACK0 - 40 + index as u64 * 8, value);
    }
}

const IRETQ: [u8; 2] = [0x48, 0xCF];

#[test]
fn iretq_returns_to_user_code() {
    let mut core = machine(Bits::B64, 0);
    core.nmi_masked = true;
    core.segments[Fs as usize] = Segment { base: 0x7777_0000, limit: 0, selector: 0, access: 0 };
    frame64(&mut core, [0x5000, u64::from(CODE3_64), flag::IF | flag::RF | 2, 0x7000, u64::from(DATA3)]);
    assert_eq!(run(&mut core, &IRETQ), Ok(()));
    assert_eq!((core.rip, rsp(&core), core.cpl(), core.bits()), (0x5000, 0x7000, 3, Bits::B64));
    assert_eq!(core.rflags, flag::IF | flag::RF | 2);
    assert_eq!(core.segments[Ds as usize].access & Segment::P, 0, "a kernel data segment is out of reach");
    assert_eq!(core.segments[Fs as usize].base, 0x7777_0000, "the thread pointer stays");
    assert!(!core.nmi_masked);
}

#[test]
fn iretq_to_compatibility_mode_narrows_rip_and_rsp() {
    let mut core = machine(Bits::B64, 0);
    frame64(&mut core, [0x5000, u64::from(CODE3), 2, 0x7000, u64::from(DATA3)]);
    assert_eq!(run(&mut core, &IRETQ), Ok(()));
    assert_eq!((core.rip, rsp(&core), core.bits()), (0x5000, 0x7000, Bits::B32));
    let mut core = machine(Bits::B64, 0);
    frame64(&mut core, [1 << 32, u64::from(CODE3), 2, 0x7000, u64::from(DATA3)]);
    assert_eq!(run(&mut core, &IRETQ), Err(Fault::GP0));
}

#[test]
fn iretq_refuses_bad_frames_and_changes_nothing() {
    let ok = [0x5000, u64::from(CODE3_64), 2, 0x7000, u64::from(DATA3)];
    let with = |index: usize, value: u64| {
        let mut frame = ok;
        frame[index] = value;
        frame
    };
    let cases = [
        (with(0, 0x8000_0000_0000), Fault::GP0),
        (with(1, 0), Fault::GP0),
        (with(1, u64::from(DATA3)), Fault::gp(DATA3)),
        (with(1, u64::from(CODE0_64 | 3)), Fault::gp(CODE0_64)),
        (with(4, 0), Fault::GP0),
        (with(4, 3), Fault::GP0),
        (with(4, u64::from(DATA0)), Fault::gp(DATA0)),
        (with(4, u64::from(CODE3)), Fault::gp(CODE3)),
        (with(4, u64::from(ABSENT | 3)), Fault::with_error(vector::SS, u32::from(ABSENT))),
    ];
    for (frame, expected) in cases {
        let mut core = machine(Bits::B64, 0);
        frame64(&mut core, frame);
        let before = (core.gpr, core.segments, core.rflags, core.rip);
        assert_eq!(run(&mut core, &IRETQ), Err(expected), "{frame:x?}");
        assert_eq!((core.gpr, core.segments, core.rflags, core.rip), before, "{frame:x?}");
    }
    let mut core = machine(Bits::B64, 0);
    frame64(&mut core, with(4, 0));
    put64(&core, STACK0 - 32, u64::from(CODE0_64));
    assert_eq!(run(&mut core, &IRETQ), Ok(()), "a null SS is fine at CPL 0");
    core.rflags |= flag::NT;
    assert_eq!(run(&mut core, &IRETQ), Err(Fault::GP0), "there are no nested tasks in IA-32e mode");
}

#[test]
fn iret_at_cpl_3_changes_neither_iopl_nor_if() {
    let mut core = machine(Bits::B32, 3);
    core.gpr[4] = STACK3 - 12;
    put(&core, STACK3 - 12, 0x5000u32.to_le_bytes());
    put(&core, STACK3 - 8, u32::from(CODE3).to_le_bytes());
    put(&core, STACK3 - 4, ((flag::IOPL | flag::CF | flag::VM) as u32).to_le_bytes());
    assert_eq!(run(&mut core, &[0xCF]), Ok(()));
    assert_eq!(core.rflags, flag::IF | flag::CF | 2);
    assert_eq!((core.rip, rsp(&core)), (0x5000, STACK3));
}

#[test]
fn syscall_and_sysret_move_between_flat_segments() {
    let mut core = machine(Bits::B64, 3);
    let syscall = [0x0F, 0x05];
    assert_eq!(run(&mut core, &syscall), Err(Fault::UD));
    core.efer |= efer::SCE;
    core.msr.star = 0x23u64 << 48 | 0x10 << 32;
    core.msr.lstar = 0xFFFF_8000_0000_1000;
    core.msr.fmask = flag::IF | flag::TF;
    core.rflags |= flag::CF;
    let (rip, flags) = (core.rip, core.rflags);
    assert_eq!(run(&mut core, &syscall), Ok(()));
    assert_eq!((core.gpr[1], core.gpr[11]), (rip + 2, flags));
    assert_eq!((core.rip, core.cpl(), core.rflags), (core.msr.lstar, 0, flag::CF | 2));
    assert_eq!((selector(&core, Cs), selector(&core, Ss)), (0x10, 0x18));
    assert_eq!(core.bits(), Bits::B64);

    assert_eq!(run(&mut core, &[0x48, 0x0F, 0x07]), Ok(()));
    assert_eq!((core.rip, core.rflags, core.cpl(), core.bits()), (rip + 2, flags, 3, Bits::B64));
    assert_eq!((selector(&core, Cs), selector(&core, Ss)), (0x33, 0x2B));
    assert_eq!(run(&mut core, &[0x48, 0x0F, 0x07]), Err(Fault::GP0), "SYSRET is for CPL 0");

    assert_eq!(run(&mut core, &syscall), Ok(()));
    core.gpr[1] = 0x8000_0000_0000;
    assert_eq!(run(&mut core, &[0x48, 0x0F, 0x07]), Err(Fault::GP0));
    assert_eq!(run(&mut core, &[0x0F, 0x07]), Ok(()));
    assert_eq!((core.rip, core.bits(), selector(&core, Cs)), (0, Bits::B32, 0x23));
}

#[test]
fn sysenter_and_sysexit_use_their_registers() {
    let mut core = machine(Bits::B32, 3);
    assert_eq!(run(&mut core, &[0x0F, 0x34]), Err(Fault::GP0));
    core.msr.sysenter_cs = 0x100;
    core.msr.sysenter_esp = 0x9000;
    core.msr.sysenter_eip = 0xA000;
    assert_eq!(run(&mut core, &[0x0F, 0x34]), Ok(()));
    assert_eq!((core.rip, rsp(&core), core.cpl(), core.rflags & flag::IF), (0xA000, 0x9000, 0, 0));
    assert_eq!((selector(&core, Cs), selector(&core, Ss)), (0x100, 0x108));
    core.gpr[1] = 0x1111;
    core.gpr[2] = 0x2222;
    assert_eq!(run(&mut core, &[0x0F, 0x35]), Ok(()));
    assert_eq!((core.rip, rsp(&core), core.cpl()), (0x2222, 0x1111, 3));
    assert_eq!((selector(&core, Cs), selector(&core, Ss)), (0x113, 0x11B));
    assert_eq!(run(&mut core, &[0x0F, 0x35]), Err(Fault::GP0));
}

#[test]
fn a_far_return_to_an_outer_level_drops_inner_segments() {
    let mut core = machine(Bits::B32, 0);
    core.gpr[4] = STACK0 - 16;
    for (index, value) in [0x5000, u32::from(CODE3), 0x7000, u32::from(DATA3)].into_iter().enumerate() {
        put(&core, STACK0 - 16 + index as u64 * 4, value.to_le_bytes());
    }
    assert_eq!(run(&mut core, &[0xCB]), Ok(()));
    assert_eq!((core.rip, rsp(&core), core.cpl()), (0x5000, 0x7000, 3));
    assert_eq!((selector(&core, Ds), selector(&core, Es)), (0, 0));
}

#[test]
fn a_return_to_user_code_takes_inner_segments_but_leaves_their_bases() {
    let mut core = machine(Bits::B64, 0);
    core.segments[SegmentRegister::Gs as usize].base = 0xFFFF_8000_0000_1000;
    let frame = [0x5000, u64::from(CODE3_64), 2, STACK3, u64::from(DATA3)];
    core.gpr[4] = STACK0 - 40;
    for (index, value) in frame.into_iter().enumerate() {
        put64(&core, STACK0 - 40 + index as u64 * 8, value);
    }
    assert_eq!(run(&mut core, &IRETQ), Ok(()));
    let gs = core.segments[SegmentRegister::Gs as usize];
    assert_eq!((gs.selector, gs.access & Segment::P, gs.base), (0, 0, 0xFFFF_8000_0000_1000));
}

#[test]
fn a_return_to_an_outer_level_takes_the_rpl_from_null_selectors() {
    let returned = |code: u16| {
        let mut core = machine(Bits::B64, 0);
        for (index, name) in [Es, Ds, Fs, Gs].into_iter().enumerate() {
            core.segments[name as usize] = Segment { selector: index as u16, base: 0x1000, limit: 0, access: 0 };
        }
        let stack = if code & 3 == 0 { 0 } else { DATA3 };
        frame64(&mut core, [0x5000, u64::from(code), 2, 0x7000, u64::from(stack)]);
        assert_eq!(run(&mut core, &IRETQ), Ok(()));
        [Es, Ds, Fs, Gs].map(|name| (selector(&core, name), core.segments[name as usize].base))
    };
    assert_eq!(returned(CODE3_64), [0; 4].map(|selector| (selector, 0x1000)));
    assert_eq!(returned(CODE0_64), [0, 1, 2, 3].map(|selector| (selector, 0x1000)));
}
