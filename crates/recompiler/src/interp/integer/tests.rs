//! Corner cases of integer instructions that random ones seldom meet, and the modes they cannot compare.

use crate::fault::{Fault, vector};
use crate::state::{Bits, Core, cr0, cr4, flag};
use crate::testing::{self, CODE, DATA, RAM, execute, execute_all};
use hv::{Segment, SegmentRegister};

fn core64() -> Box<Core> {
    testing::core(Bits::B64, 0)
}

fn core32() -> Box<Core> {
    testing::core(Bits::B32, 0)
}

fn put(core: &Core, at: u64, data: &[u8]) {
    core.memory.write(at, data).unwrap();
}

fn get<const N: usize>(core: &Core, at: u64) -> [u8; N] {
    let mut data = [0; N];
    core.memory.read(at, &mut data).unwrap();
    data
}

#[test]
fn a_shift_by_zero_changes_no_flag_but_clears_the_upper_half() {
    let mut core = core64();
    core.rflags |= flag::ARITHMETIC;
    (core.gpr[0], core.gpr[1]) = (u64::MAX, 32);
    execute(&mut core, &[0xD3, 0xE0]).unwrap();
    assert_eq!(core.gpr[0], 0xFFFF_FFFF);
    assert_eq!(core.rflags & flag::ARITHMETIC, flag::ARITHMETIC);
}

#[test]
fn a_byte_shifted_out_entirely_is_zero_and_rcl_goes_round_nine_bits() {
    let mut core = core64();
    (core.gpr[0], core.gpr[1]) = (0x81, 9);
    execute(&mut core, &[0xD2, 0xE8]).unwrap();
    assert_eq!(core.gpr[0], 0);
    core.gpr[0] = 0x81;
    core.rflags |= flag::CF;
    execute(&mut core, &[0xD2, 0xD0]).unwrap();
    assert_eq!((core.gpr[0], core.rflags & flag::CF), (0x81, flag::CF));
    core.gpr[1] = 1;
    execute(&mut core, &[0xD2, 0xD0]).unwrap();
    assert_eq!((core.gpr[0], core.rflags & flag::CF), (0x03, flag::CF));
}

#[test]
fn a_quotient_that_does_not_fit_is_a_divide_error() {
    let mut core = core64();
    (core.gpr[0], core.gpr[2], core.gpr[1]) = (0, 1, 1);
    assert_eq!(execute(&mut core, &[0x48, 0xF7, 0xF1]), Err(Fault::DE));
    // The most negative number by -1, and its neighbour that just fits.
    (core.gpr[0], core.gpr[2], core.gpr[1]) = (0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFF);
    assert_eq!(execute(&mut core, &[0xF7, 0xF9]), Err(Fault::DE));
    core.gpr[0] = 0x8000_0001;
    execute(&mut core, &[0xF7, 0xF9]).unwrap();
    assert_eq!((core.gpr[0], core.gpr[2]), (0x7FFF_FFFF, 0));
    (core.gpr[0], core.gpr[2], core.gpr[1]) = (0, 1 << 63, u64::MAX);
    assert_eq!(execute(&mut core, &[0x48, 0xF7, 0xF9]), Err(Fault::DE));
    assert_eq!(core.gpr[2], 1 << 63);
}

#[test]
fn a_bit_offset_in_a_register_reaches_below_and_above_the_operand() {
    let mut core = core64();
    core.gpr[3] = DATA + 0x100;
    core.gpr[0] = 1u64.wrapping_neg();
    execute(&mut core, &[0x48, 0x0F, 0xAB, 0x03]).unwrap();
    assert_eq!(get::<1>(&core, DATA + 0xFF), [0x80]);
    core.gpr[0] = 8 * 0x200 + 3;
    execute(&mut core, &[0x48, 0x0F, 0xBB, 0x03]).unwrap();
    assert_eq!(get::<1>(&core, DATA + 0x300), [8]);
    // An immediate stays inside.
    execute(&mut core, &[0x0F, 0xBA, 0x2B, 0x21]).unwrap();
    assert_eq!(get::<4>(&core, DATA + 0x100), [2, 0, 0, 0]);
}

#[test]
fn cmpxchg16b_needs_alignment_and_reports_what_it_found() {
    let mut core = core64();
    core.gpr[6] = DATA + 8;
    let instruction = [0xF0, 0x48, 0x0F, 0xC7, 0x0E];
    assert_eq!(execute(&mut core, &instruction), Err(Fault::GP0));
    core.gpr[6] = DATA;
    put(&core, DATA, &[5, 0, 0, 0, 0, 0, 0, 0, 6]);
    (core.gpr[3], core.gpr[1]) = (0x11, 0x22);
    execute(&mut core, &instruction).unwrap();
    assert_eq!((core.gpr[0], core.gpr[2], core.rflags & flag::ZF), (5, 6, 0));
    execute(&mut core, &instruction).unwrap();
    assert_eq!(core.rflags & flag::ZF, flag::ZF);
    assert_eq!(get::<9>(&core, DATA), [0x11, 0, 0, 0, 0, 0, 0, 0, 0x22]);
}

#[test]
fn a_locked_access_across_pages_works_and_faults_before_it_changes_anything() {
    let mut core = core64();
    core.gpr[6] = DATA + 0xFFE;
    core.gpr[0] = 0x0001_0001;
    put(&core, DATA + 0xFFE, &[0xFF, 0xFF, 0, 0]);
    execute(&mut core, &[0xF0, 0x01, 0x06]).unwrap();
    assert_eq!(get::<4>(&core, DATA + 0xFFE), [0, 0, 2, 0]);
    core.gpr[6] = RAM - 2;
    put(&core, RAM - 2, &[1, 2]);
    assert_eq!(execute(&mut core, &[0xF0, 0x01, 0x06]).unwrap_err().vector, vector::PF);
    assert_eq!(get::<2>(&core, RAM - 2), [1, 2]);
}

#[test]
fn a_repeat_count_of_zero_does_nothing_at_all() {
    let mut core = core64();
    (core.gpr[1], core.gpr[6], core.gpr[7]) = (0, u64::MAX / 3, u64::MAX / 3);
    core.rflags |= flag::ARITHMETIC;
    for bytes in [[0xF3, 0xA4], [0xF3, 0xA6], [0xF2, 0xAE], [0xF3, 0xAA]] {
        execute(&mut core, &bytes).unwrap();
    }
    assert_eq!((core.gpr[6], core.gpr[7]), (u64::MAX / 3, u64::MAX / 3));
    assert_eq!(core.rflags & flag::ARITHMETIC, flag::ARITHMETIC);
}

#[test]
fn a_long_copy_stops_for_interrupts_with_rip_on_itself() {
    let mut core = core64();
    // Backwards, so that it goes element by element.
    core.rflags |= flag::DF;
    (core.gpr[1], core.gpr[6], core.gpr[7]) = (5000, DATA + 0x4FFF, DATA + 0x1_4FFF);
    put(&core, DATA, &[7; 0x5000]);
    execute(&mut core, &[0xF3, 0xA4]).unwrap();
    assert_eq!(core.rip, CODE);
    assert!(core.gpr[1] > 0 && core.gpr[1] < 5000);
    execute_all(&mut core, &[0xF3, 0xA4]).unwrap();
    assert_eq!((core.gpr[1], core.gpr[7]), (0, DATA + 0x1_4FFF - 5000));
    assert_eq!(get::<2>(&core, DATA + 0x1_4FFF - 5000), [0, 7]);
}

#[test]
fn a_copy_stops_exactly_at_the_page_that_faults() {
    let mut core = core64();
    (core.gpr[1], core.gpr[6], core.gpr[7]) = (0x2000, DATA, RAM - 0x1000 - 8);
    let fault = execute_all(&mut core, &[0xF3, 0xA4]).unwrap_err();
    assert_eq!((fault.vector, fault.address), (vector::PF, RAM));
    assert_eq!((core.gpr[1], core.gpr[6], core.gpr[7]), (0x2000 - 0x1008, DATA + 0x1008, RAM));
    assert_eq!(core.rip, CODE);
}

#[test]
fn a_copy_a_little_ahead_of_itself_repeats_the_pattern() {
    let mut core = core64();
    put(&core, DATA, &[1, 2, 3]);
    (core.gpr[1], core.gpr[6], core.gpr[7]) = (9, DATA, DATA + 3);
    execute_all(&mut core, &[0xF3, 0xA4]).unwrap();
    assert_eq!(get::<12>(&core, DATA), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_single_step_does_one_element() {
    let mut core = core64();
    core.rflags |= flag::TF;
    (core.gpr[1], core.gpr[6], core.gpr[7]) = (100, DATA, DATA + 0x1000);
    execute(&mut core, &[0xF3, 0xA4]).unwrap();
    // The budget of one element is spent; RIP stays.
    assert_eq!((core.gpr[1], core.rip), (99, CODE));
}

#[test]
fn real_mode_wraps_its_index_registers_and_faults_at_the_limit() {
    let mut core = testing::real_mode();
    core.segments[3].base = 0x2_0000;
    core.segments[0].base = 0x4_0000;
    put(&core, 0x2_FFFF, &[9]);
    put(&core, 0x2_0000, &[8]);
    (core.gpr[1], core.gpr[6], core.gpr[7]) = (0xAAAA_0002, 0xBBBB_FFFF, 0);
    execute_all(&mut core, &[0xF3, 0xA4]).unwrap();
    assert_eq!(get::<2>(&core, 0x4_0000), [9, 8]);
    assert_eq!((core.gpr[1], core.gpr[6]), (0xAAAA_0000, 0xBBBB_0001));
    core.gpr[6] = 0xFFFF;
    assert_eq!(execute(&mut core, &[0xAD]).map_err(|fault| fault.vector), Err(vector::GP));
    // BP addresses the stack segment.
    core.gpr[5] = 0xFFFF;
    assert_eq!(execute(&mut core, &[0x8B, 0x46, 0x00]).map_err(|fault| fault.vector), Err(vector::SS));
}

#[test]
fn segment_limits_types_and_directions_are_checked() {
    let mut core = core32();
    core.segments[3] = Segment { base: DATA, limit: 0xF, selector: 0x10, access: 0x93 };
    let load = |core: &mut Core, offset: u64| {
        core.gpr[6] = offset;
        execute(core, &[0x8B, 0x06])
    };
    load(&mut core, 0xC).unwrap();
    assert_eq!(load(&mut core, 0xD), Err(Fault::GP0));
    // Expand-down: only above the limit.
    core.segments[3].access = 0x97;
    assert_eq!(load(&mut core, 0xC), Err(Fault::GP0));
    load(&mut core, 0x10).unwrap();
    assert_eq!(load(&mut core, 0xFFFE), Err(Fault::GP0));
    // Read-only data.
    core.segments[3].access = 0x91;
    load(&mut core, 4).unwrap();
    assert_eq!(execute(&mut core, &[0x89, 0x06]), Err(Fault::GP0));
    // A null selector.
    core.segments[3].access = 0;
    assert_eq!(load(&mut core, 4), Err(Fault::GP0));
    // Execute-only code, through CS.
    core.segments[1].access &= !2;
    assert_eq!(execute(&mut core, &[0x2E, 0x8B, 0x06]), Err(Fault::GP0));
}

#[test]
fn a_non_canonical_stack_is_a_stack_fault_and_leaves_rsp() {
    let mut core = core64();
    core.gpr[4] = 1 << 50;
    core.gpr[0] = 1 << 50;
    assert_eq!(execute(&mut core, &[0x50]), Err(Fault::SS0));
    assert_eq!(execute(&mut core, &[0x58]), Err(Fault::SS0));
    assert_eq!(core.gpr[4], 1 << 50);
    assert_eq!(execute(&mut core, &[0x8B, 0x00]), Err(Fault::GP0));
    assert_eq!(execute(&mut core, &[0xFF, 0xE0]), Err(Fault::GP0));
}

#[test]
fn sixteen_bit_stacks_wrap_in_sp_and_keep_the_rest() {
    let mut core = core32();
    core.segments[2] = Segment { base: DATA, limit: 0xFFFF, selector: 0x10, access: 0x93 };
    core.gpr[4] = 0x1234_0000;
    core.gpr[0] = 0xCAFE;
    execute(&mut core, &[0x66, 0x50]).unwrap();
    assert_eq!(core.gpr[4], 0x1234_FFFE);
    assert_eq!(get::<2>(&core, DATA + 0xFFFE), [0xFE, 0xCA]);
    execute(&mut core, &[0x66, 0x5B]).unwrap();
    assert_eq!((core.gpr[4], core.gpr[3]), (0x1234_0000, 0xCAFE));
}

#[test]
fn a_pop_addresses_memory_with_the_pointer_after_it() {
    let mut core = core64();
    let top = core.gpr[4];
    put(&core, top, &0x55u64.to_le_bytes());
    execute(&mut core, &[0x8F, 0x04, 0x24]).unwrap();
    assert_eq!((core.gpr[4], get::<1>(&core, top + 8)), (top + 8, [0x55]));
    execute(&mut core, &[0x54]).unwrap();
    assert_eq!(get::<8>(&core, top), (top + 8).to_le_bytes());
    execute(&mut core, &[0x5C]).unwrap();
    assert_eq!(core.gpr[4], top + 8);
}

#[test]
fn pusha_and_popa_are_each_others_inverse() {
    let mut core = core32();
    (0..8).filter(|&index| index != 4).for_each(|index| core.gpr[index] = 0x1000 + index as u64);
    let before = core.gpr;
    execute(&mut core, &[0x60]).unwrap();
    assert_eq!(get::<4>(&core, core.gpr[4] + 12), (before[4] as u32).to_le_bytes());
    let top = core.gpr[4];
    core.gpr = [0; 16];
    core.gpr[4] = top;
    execute(&mut core, &[0x61]).unwrap();
    assert_eq!(core.gpr, before);
}

#[test]
fn pusha_and_popa_wrap_in_a_16_bit_stack_between_elements_but_not_within_one() {
    let mut core = testing::real_mode();
    (0..8).for_each(|index| core.gpr[index] = 0x1100 + index as u64);
    core.gpr[4] = 6;
    let base = core.segments[SegmentRegister::Ss as usize].base;
    let before = core.gpr;
    execute(&mut core, &[0x60]).unwrap();
    assert_eq!(core.gpr[4], 0xFFF6);
    // AX, CX, DX below the start, BX at the end of the segment.
    assert_eq!(get::<6>(&core, base), [0x02, 0x11, 0x01, 0x11, 0x00, 0x11]);
    assert_eq!(get::<2>(&core, base + 0xFFFE), [0x03, 0x11]);
    assert_eq!(get::<2>(&core, base + 0xFFF6), [0x07, 0x11]);
    (0..8).filter(|&index| index != 4).for_each(|index| core.gpr[index] = 0);
    execute(&mut core, &[0x61]).unwrap();
    assert_eq!(core.gpr, before);
    for pointer in [1, 7, 15] {
        core.gpr[4] = pointer;
        assert_eq!(execute(&mut core, &[0x60]), Err(Fault::SS0));
        assert_eq!(core.gpr[4], pointer);
    }
    core.gpr[4] = 0xFFF1;
    assert_eq!(execute(&mut core, &[0x61]), Err(Fault::SS0));
}

#[test]
fn pusha_and_popa_have_the_alignment_of_each_element_checked() {
    let mut core = testing::core(Bits::B32, 3);
    core.cr0 |= cr0::AM;
    core.rflags |= flag::AC;
    core.gpr[4] = core.gpr[4] & !0xF | 4;
    execute(&mut core, &[0x60]).unwrap();
    execute(&mut core, &[0x61]).unwrap();
    core.gpr[4] += 2;
    assert_eq!(execute(&mut core, &[0x60]), Err(Fault::with_error(vector::AC, 0)));
    assert_eq!(execute(&mut core, &[0x61]), Err(Fault::with_error(vector::AC, 0)));
}

#[test]
fn popf_changes_only_what_the_privilege_allows() {
    let popf = |cpl: u8, iopl: u64, value: u64| {
        let mut core = testing::core(Bits::B64, cpl);
        core.rflags = flag::FIXED | iopl << 12;
        put(&core, core.gpr[4], &value.to_le_bytes());
        execute(&mut core, &[0x9D]).unwrap();
        core.rflags
    };
    let all = u64::MAX;
    let always = flag::ARITHMETIC | flag::TF | flag::DF | flag::NT | flag::AC | flag::ID | flag::FIXED;
    assert_eq!(popf(0, 0, all), always | flag::IF | flag::IOPL);
    assert_eq!(popf(3, 3, all), always | flag::IF | flag::IOPL);
    assert_eq!(popf(3, 0, all), always);
    assert_eq!(popf(3, 3, 0), flag::FIXED | flag::IOPL);
}

#[test]
fn virtual_8086_mode_protects_or_virtualises_the_interrupt_flag() {
    let mut core = testing::real_mode();
    core.cr0 |= cr0::PE;
    core.segments.iter_mut().for_each(|segment| segment.access = 0xF3);
    core.rflags = flag::FIXED | flag::VM | flag::VIF;
    core.gpr[4] = 0x8000;
    assert_eq!(execute(&mut core, &[0x9C]), Err(Fault::GP0));
    core.cr4 |= cr4::VME;
    execute(&mut core, &[0x9C]).unwrap();
    assert_eq!(get::<2>(&core, 0x7FFE), ((flag::FIXED | flag::IF | flag::IOPL) as u16).to_le_bytes());
    put(&core, 0x7FFE, &[2, 0]);
    execute(&mut core, &[0x9D]).unwrap();
    assert_eq!(core.rflags, flag::FIXED | flag::VM);
    core.rflags |= flag::VIP;
    put(&core, 0x8000, &(flag::IF as u16).to_le_bytes());
    assert_eq!(execute(&mut core, &[0x9D]), Err(Fault::GP0));
    core.rflags |= flag::IOPL;
    execute(&mut core, &[0x9D]).unwrap();
    assert_eq!(core.rflags & (flag::IF | flag::IOPL), flag::IF | flag::IOPL);
}

#[test]
fn branches_wrap_are_checked_and_return() {
    let mut core = core64();
    let top = core.gpr[4];
    execute(&mut core, &[0xE8, 0x10, 0, 0, 0]).unwrap();
    assert_eq!((core.rip, core.gpr[4]), (CODE + 0x15, top - 8));
    execute(&mut core, &[0xC2, 0x08, 0]).unwrap();
    assert_eq!((core.rip, core.gpr[4]), (CODE + 5, top + 8));
    core.gpr[1] = 1;
    execute(&mut core, &[0xE2, 0xFE]).unwrap();
    assert_eq!((core.gpr[1], core.rip), (0, CODE + 7));
    execute(&mut core, &[0xE3, 0x10]).unwrap();
    assert_eq!(core.rip, CODE + 0x19);
    // With a 16-bit operand size the instruction pointer is cut.
    let mut core = testing::real_mode();
    core.rip = 0xFFF0;
    execute(&mut core, &[0xEB, 0x7F]).unwrap();
    assert_eq!(core.rip, 0x71);
    core.segments[1].limit = 0x100;
    assert_eq!(execute(&mut core, &[0xE9, 0x00, 0x20]).map_err(|fault| fault.vector), Err(vector::GP));
}

#[test]
fn conditional_jumps_follow_their_flags() {
    let mut core = core64();
    for condition in 0..16u8 {
        for bits in 0..32u64 {
            let pick = |index: u64, flag: u64| if bits >> index & 1 != 0 { flag } else { 0 };
            let [cf, pf, zf, sf, of] = [(0, flag::CF), (1, flag::PF), (2, flag::ZF), (3, flag::SF), (4, flag::OF)]
                .map(|(index, flag)| pick(index, flag) != 0);
            core.rip = CODE;
            core.rflags = flag::FIXED
                | [(0, flag::CF), (1, flag::PF), (2, flag::ZF), (3, flag::SF), (4, flag::OF)]
                    .iter()
                    .fold(0, |set, &(index, flag)| set | pick(index, flag));
            execute(&mut core, &[0x70 | condition, 0x20]).unwrap();
            let base = [of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of][usize::from(condition >> 1)];
            assert_eq!(core.rip == CODE + 0x22, base != (condition & 1 != 0), "condition {condition}, flags {bits:b}");
        }
    }
}

#[test]
fn decimal_arithmetic_follows_the_manual() {
    let mut core = core32();
    let mut run = |ax: u64, flags: u64, bytes: &[u8]| {
        core.gpr[0] = ax;
        core.rflags = flag::FIXED | flags;
        execute(&mut core, bytes).map(|()| (core.gpr[0], core.rflags & (flag::CF | flag::AF)))
    };
    // 79 + 35 in packed decimal is 114: the sum AEh becomes 14h and a carry.
    assert_eq!(run(0xAE, 0, &[0x27]), Ok((0x14, flag::CF | flag::AF)));
    // 35 - 47 is -12: EEh with borrows becomes 88h.
    assert_eq!(run(0xEE, flag::CF | flag::AF, &[0x2F]), Ok((0x88, flag::CF | flag::AF)));
    assert_eq!(run(0x000B, 0, &[0x37]), Ok((0x0101, flag::CF | flag::AF)));
    assert_eq!(run(0x01FF, flag::AF, &[0x3F]), Ok((0x0009, flag::CF | flag::AF)));
    assert_eq!(run(0x003F, 0, &[0xD4, 10]), Ok((0x0603, 0)));
    assert_eq!(run(0x0603, 0, &[0xD5, 10]), Ok((0x003F, 0)));
    assert_eq!(run(0x0603, 0, &[0xD4, 0]), Err(Fault::DE));
}

#[test]
fn alignment_is_checked_at_privilege_3_when_asked_for() {
    let mut core = testing::core(Bits::B64, 3);
    core.gpr[6] = DATA + 1;
    execute(&mut core, &[0x8B, 0x06]).unwrap();
    core.cr0 |= cr0::AM;
    core.rflags |= flag::AC;
    assert_eq!(execute(&mut core, &[0x8B, 0x06]), Err(Fault::with_error(vector::AC, 0)));
    execute(&mut core, &[0x8A, 0x06]).unwrap();
}

#[test]
fn vex_encoded_instructions_do_not_exist_in_real_mode() {
    let mut core = testing::real_mode();
    // ANDN EAX, EBX, ECX.
    assert_eq!(execute(&mut core, &[0xC4, 0xE2, 0x60, 0xF2, 0xC1]), Err(Fault::UD));
    let mut core = core32();
    (core.gpr[3], core.gpr[1]) = (0b1100, 0b1010);
    execute(&mut core, &[0xC4, 0xE2, 0x60, 0xF2, 0xC1]).unwrap();
    assert_eq!(core.gpr[0], 0b0010);
}

#[test]
fn rip_relative_operands_follow_where_the_code_runs() {
    use iced_x86::{Decoder, DecoderOptions};
    let mut core = core64();
    put(&core, DATA + 7, &[0x2A]);
    // Decoded at one address, executed at another: code shared by two mappings.
    let instruction = Decoder::with_ip(64, &[0x48, 0x8B, 0x05, 0, 0, 0, 0], 0x7000_0000, DecoderOptions::NONE).decode();
    core.rip = DATA;
    crate::interp::step(&mut core, &instruction, crate::interp::handler(&instruction)).unwrap();
    assert_eq!(core.gpr[0], 0x2A);
}
