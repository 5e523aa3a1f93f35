use super::*;
use crate::fault::vector;
use crate::interp::system::segment::load;
use crate::state::flag;
use SegmentRegister::{Ds, Fs, Ss};

fn with(vector: u8, selector: u16) -> Result<(), Fault> {
    Err(Fault::with_error(vector, u32::from(selector & 0xFFFC)))
}

#[test]
fn loads_are_checked_by_type_privilege_and_presence() {
    let gp = |selector| with(vector::GP, selector);
    let cases = [
        (0, Ds, DATA0, Ok(())),
        (0, Ds, DATA3, Ok(())),
        (0, Ds, CODE0, Ok(())),
        (0, Ds, READ_ONLY, Ok(())),
        (3, Ds, DATA3, Ok(())),
        (3, Ds, CONFORMING | 3, Ok(())),
        (0, Ds, 0, Ok(())),
        (3, Fs, 3, Ok(())),
        (0, Ds, EXECUTE_ONLY, gp(EXECUTE_ONLY)),
        (3, Ds, DATA0, gp(DATA0)),
        (0, Ds, DATA0 | 3, gp(DATA0)),
        (0, Ds, TABLE, gp(TABLE)),
        (0, Ds, 0x100, gp(0x100)),
        (0, Ds, 4, gp(4)),
        (0, Ds, ABSENT, with(vector::NP, ABSENT)),
        (0, Ss, DATA0, Ok(())),
        (3, Ss, DATA3, Ok(())),
        (0, Ss, 0, Err(Fault::GP0)),
        (0, Ss, DATA3, gp(DATA3)),
        (0, Ss, READ_ONLY, gp(READ_ONLY)),
        (0, Ss, CODE0, gp(CODE0)),
        (3, Ss, ABSENT | 3, with(vector::SS, ABSENT)),
    ];
    for (cpl, name, value, expected) in cases {
        let mut core = machine(Bits::B32, cpl);
        let before = core.segments;
        assert_eq!(load(&mut core, name, value), expected, "CPL {cpl}, {name:?} = {value:#x}");
        match expected {
            Ok(()) => assert_eq!(selector(&core, name), value),
            Err(_) => assert_eq!(core.segments, before),
        }
    }
}

#[test]
fn a_null_ss_is_for_64_bit_code_below_cpl_3() {
    let mut core = machine(Bits::B64, 0);
    assert_eq!(load(&mut core, Ss, 0), Ok(()));
    assert_eq!(core.cpl(), 0);
    assert_eq!(load(&mut core, Ss, 3), Err(Fault::GP0));
    let mut core = machine(Bits::B64, 3);
    assert_eq!(load(&mut core, Ss, 3), Err(Fault::GP0));
}

#[test]
fn a_load_sets_the_accessed_bit_once() {
    let mut core = machine(Bits::B32, 0);
    put_descriptor(&core, SPARE, FLAT_DATA0 & !(1 << 40) | 0x12 << 56);
    assert_eq!(load(&mut core, Ds, SPARE), Ok(()));
    assert_eq!(get_descriptor(&core, SPARE), FLAT_DATA0 | 0x12 << 56);
    assert_eq!(core.segments[Ds as usize].base, 0x1200_0000);
    assert_eq!(core.segments[Ds as usize].access & 1, 1);
}

#[test]
fn the_local_table_is_used_once_loaded() {
    let mut core = machine(Bits::B32, 0);
    put64(&core, LDT + 8, FLAT_DATA0 | 0x55 << 16);
    assert_eq!(run(&mut core, &[0x0F, 0x00, 0xD0]), Ok(()), "LLDT of a null selector");
    assert_eq!(load(&mut core, Ds, 0xC), with(vector::GP, 0xC));
    core.gpr[0] = u64::from(TABLE);
    assert_eq!(run(&mut core, &[0x0F, 0x00, 0xD0]), Ok(()));
    assert_eq!(load(&mut core, Ds, 0xC), Ok(()));
    assert_eq!(core.segments[Ds as usize].base, 0x55);
    core.gpr[0] = u64::from(DATA0);
    assert_eq!(run(&mut core, &[0x0F, 0x00, 0xD0]), with(vector::GP, DATA0));
}

#[test]
fn real_mode_loads_keep_limits_and_virtual_8086_ones_fix_them() {
    let mut core = testing::real_mode();
    core.segments[Ds as usize].limit = u32::MAX;
    load(&mut core, Ds, 0x1234).expect("real-mode loads cannot fail");
    assert_eq!(core.segments[Ds as usize], Segment { base: 0x12340, limit: u32::MAX, selector: 0x1234, access: 0x93 });
    let mut core = vm86_machine();
    core.segments[Ds as usize].limit = u32::MAX;
    load(&mut core, Ds, 0x1234).expect("virtual-8086 loads cannot fail");
    assert_eq!(core.segments[Ds as usize], Segment { base: 0x12340, limit: 0xFFFF, selector: 0x1234, access: 0xF3 });
}

#[test]
fn ltr_marks_the_task_busy_and_reads_16_bytes_in_long_mode() {
    let mut core = machine(Bits::B64, 0);
    core.gpr[0] = u64::from(TASK);
    let ltr = [0x0F, 0x00, 0xD8];
    assert_eq!(run(&mut core, &ltr), with(vector::GP, TASK), "busy already");
    put_descriptor(&core, TASK, system(TSS, 0x67, 9, 0));
    put_descriptor(&core, TASK + 8, 0xFFFF_8000);
    assert_eq!(run(&mut core, &ltr), Ok(()));
    assert_eq!((core.tr.base, core.tr.limit, core.tr.access), (0xFFFF_8000_0000_0000 | TSS, 0x67, 0x8B));
    assert_eq!(get_descriptor(&core, TASK), system(TSS, 0x67, 11, 0));
    core.gpr[0] = 0;
    assert_eq!(run(&mut core, &ltr), Err(Fault::GP0));
    core.gpr[0] = 4;
    assert_eq!(run(&mut core, &ltr), with(vector::GP, 4));
    let mut core = machine(Bits::B64, 3);
    assert_eq!(run(&mut core, &ltr), Err(Fault::GP0));
    assert_eq!(run(&mut testing::real_mode(), &ltr), Err(Fault::UD));
}

#[test]
fn lar_lsl_verr_and_verw_answer_in_the_zero_flag() {
    let lar = [0x0F, 0x02, 0xC1];
    let lsl = [0x0F, 0x03, 0xC1];
    let verr = [0x0F, 0x00, 0xE1];
    let verw = [0x0F, 0x00, 0xE9];
    let ask = |cpl: u8, value: u16, instruction: &[u8]| {
        let mut core = machine(Bits::B32, cpl);
        core.gpr[0] = 0xDEAD;
        core.gpr[1] = u64::from(value);
        run(&mut core, instruction).expect("no fault");
        (core.rflags & flag::ZF != 0).then_some(core.gpr[0])
    };
    assert_eq!(ask(0, DATA0, &lar), Some(0x00CF_9300));
    assert_eq!(ask(0, DATA0, &lsl), Some(0xFFFF_FFFF));
    assert_eq!(ask(3, DATA0, &lar), None);
    assert_eq!(ask(0, TASK, &lsl), Some(u64::from(TSS_LIMIT)));
    assert_eq!(ask(0, 0, &lar), None);
    assert_eq!(ask(0, 0xFFF8, &lsl), None);
    assert!(ask(0, READ_ONLY, &verr).is_some() && ask(0, READ_ONLY, &verw).is_none());
    assert!(ask(0, DATA0, &verw).is_some() && ask(0, CODE0, &verw).is_none());
    assert!(ask(0, EXECUTE_ONLY, &verr).is_none() && ask(3, CONFORMING, &verr).is_some());
}

#[test]
fn far_pointer_loads_take_offset_and_selector() {
    let mut core = machine(Bits::B32, 0);
    put64(&core, testing::DATA + 0x8000, u64::from(DATA3) << 32 | 0x1234_5678);
    core.gpr[3] = testing::DATA + 0x8000;
    assert_eq!(run(&mut core, &[0xC5, 0x03]), Ok(()));
    assert_eq!((core.gpr[0], selector(&core, Ds)), (0x1234_5678, DATA3));
    put64(&core, testing::DATA + 0x8000, u64::from(ABSENT) << 32);
    assert_eq!(run(&mut core, &[0xC5, 0x03]), with(vector::NP, ABSENT));
    assert_eq!((core.gpr[0], selector(&core, Ds)), (0x1234_5678, DATA3));
}

#[test]
fn arpl_raises_the_requested_level_only() {
    let mut core = machine(Bits::B32, 3);
    core.gpr[0] = 0x10;
    core.gpr[3] = 3;
    assert_eq!(run(&mut core, &[0x63, 0xD8]), Ok(()));
    assert_eq!((core.gpr[0], core.rflags & flag::ZF), (0x13, flag::ZF));
    core.gpr[3] = 1;
    assert_eq!(run(&mut core, &[0x63, 0xD8]), Ok(()));
    assert_eq!((core.gpr[0], core.rflags & flag::ZF), (0x13, 0));
}

#[test]
fn bound_traps_outside_of_its_limits() {
    let mut core = machine(Bits::B32, 3);
    core.gpr[3] = testing::DATA + 0x8000;
    put(&core, testing::DATA + 0x8000, (-5i32).to_le_bytes());
    put(&core, testing::DATA + 0x8004, 5i32.to_le_bytes());
    for (index, expected) in [(-5i32, Ok(())), (5, Ok(())), (-6, Err(Fault::plain(5))), (6, Err(Fault::plain(5)))] {
        core.gpr[0] = u64::from(index as u32);
        assert_eq!(run(&mut core, &[0x62, 0x03]), expected, "{index}");
    }
}

#[test]
fn arpl_writes_only_what_it_changes() {
    let mut core = machine(Bits::B32, 0);
    core.gpr[3] = 2;
    put(&core, 0x5_0000, [0xF2, 0xFF, 0xF0, 0xFF]);
    core.segments[SegmentRegister::Ds as usize].access &= !2;
    let arpl = |offset: u32| [&[0x63, 0x1D][..], &(0x5_0000 + offset).to_le_bytes()].concat();
    assert_eq!(run(&mut core, &arpl(0)), Ok(()), "read-only, and right already");
    assert_eq!(core.rflags & flag::ZF, 0);
    assert_eq!(run(&mut core, &arpl(2)), Err(Fault::GP0));
}

#[test]
fn system_segments_need_canonical_bases() {
    for (kind, load) in [(9, [0x0F, 0x00, 0xD8]), (2, [0x0F, 0x00, 0xD0])] {
        let mut core = machine(Bits::B64, 0);
        put_descriptor(&core, SPARE, system(0x1000, 0xFF, kind, 0));
        core.gpr[0] = u64::from(SPARE);
        put_descriptor(&core, SPARE + 8, 0x8000);
        assert_eq!(run(&mut core, &load), Err(Fault::with_error(vector::GP, SPARE.into())));
        put_descriptor(&core, SPARE + 8, 0x7FFF);
        assert_eq!(run(&mut core, &load), Ok(()));
    }
}
