//! Vector and x87 instructions through their stubs.

use super::area::{self, ymm};
use crate::fault::{Fault, vector};
use crate::state::{Bits, Core, cr0, cr4, flag};
use crate::testing::{self, CODE, DATA, execute};

const RSI: u64 = DATA;
const RDI: u64 = DATA + 0x2000;

/// A 64-bit processor with RSI and RDI at data.
fn core() -> Box<Core> {
    let mut core = testing::core(Bits::B64, 0);
    core.gpr[6] = RSI;
    core.gpr[7] = RDI;
    core
}

fn put(core: &Core, at: u64, data: &[u8]) {
    core.memory.write(at, data).unwrap();
}

fn get<const N: usize>(core: &Core, at: u64) -> [u8; N] {
    let mut data = [0; N];
    core.memory.read(at, &mut data).unwrap();
    data
}

fn lanes(values: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (index, value) in values.iter().enumerate() {
        bytes[4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn floats(values: [f32; 8]) -> [u8; 32] {
    lanes(values.map(f32::to_bits))
}

fn set(core: &mut Core, register: usize, value: [u8; 32]) {
    area::set_ymm(core, register, &value);
}

#[test]
fn a_legacy_vector_operation_reads_memory_and_keeps_the_upper_half() {
    let mut core = core();
    put(&core, RSI, &lanes([10, 20, 30, 40, 0, 0, 0, 0])[..16]);
    set(&mut core, 1, lanes([1, 2, 3, 4, 5, 6, 7, 8]));
    execute(&mut core, &[0x66, 0x0F, 0xFE, 0x0E]).unwrap();
    assert_eq!(ymm(&core, 1), lanes([11, 22, 33, 44, 5, 6, 7, 8]));
}

#[test]
fn aligned_forms_fault_on_a_misaligned_operand_and_unaligned_forms_do_not() {
    let mut core = core();
    core.gpr[6] = RSI + 4;
    assert_eq!(execute(&mut core, &[0x0F, 0x28, 0x06]), Err(Fault::GP0));
    assert_eq!(execute(&mut core, &[0x66, 0x0F, 0xFE, 0x0E]), Err(Fault::GP0));
    set(&mut core, 1, lanes([7; 8]));
    execute(&mut core, &[0x0F, 0x11, 0x0E]).unwrap();
    assert_eq!(get::<16>(&core, RSI + 4), lanes([7; 8])[..16]);
}

#[test]
fn conversions_to_mmx_are_sse_instructions() {
    let mut core = core();
    core.gpr[6] = RSI + 8;
    // CVTPD2PI mm1, [rsi]: aligned, and forbidden without CR4.OSFXSR.
    let cvtpd2pi = [0x66, 0x0F, 0x2D, 0x0E];
    assert_eq!(execute(&mut core, &cvtpd2pi), Err(Fault::GP0));
    core.cr4 &= !cr4::OSFXSR;
    assert_eq!(execute(&mut core, &cvtpd2pi), Err(Fault::UD));
}

#[test]
fn loading_and_saving_the_environment_leaves_the_registers_where_they_are() {
    let mut core = core();
    for number in 0..8 {
        core.fpu.0[area::ST + 16 * number] = number as u8;
    }
    let first = |core: &Core| core.fpu.0[area::ST];
    let mut environment = [0xFF; 28];
    environment[..2].copy_from_slice(&0x37Fu16.to_le_bytes());
    environment[4..6].copy_from_slice(&(3u16 << 11).to_le_bytes());
    put(&core, RSI, &environment);
    // FLDENV: TOP from 0 to 3. FNSAVE: back to 0.
    execute(&mut core, &[0xD9, 0x26]).unwrap();
    assert_eq!((first(&core), area::top(&core)), (3, 3));
    execute(&mut core, &[0xDD, 0x37]).unwrap();
    assert_eq!((first(&core), area::top(&core)), (0, 0));
    assert_eq!(get::<1>(&core, RDI + 28), [3]);
}

#[test]
fn an_unmasked_exception_hides_what_computing_would_have_raised() {
    let mut core = core();
    // 1 / 0 and 1 / 3: division by zero is found first, and the inexact quotient is never computed.
    set(&mut core, 0, floats([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]));
    set(&mut core, 1, floats([0.0, 3.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]));
    core.set_area32(area::MXCSR, 0x1F80 & !0x200);
    core.set_area16(area::FSW, 0x8081);
    assert_eq!(execute(&mut core, &[0x0F, 0x5E, 0xC1]), Err(Fault::plain(vector::XM)));
    assert_eq!(core.area32(area::MXCSR) & 0x3F, 4);
    // A pending x87 exception is none of its business.
    assert_eq!(core.area16(area::FSW), 0x8081);
}

#[test]
fn unmasked_underflow_is_reported_for_exact_results() {
    let mut core = core();
    // A denormal number plus zero.
    set(&mut core, 0, lanes([1, 0, 0, 0, 0, 0, 0, 0]));
    core.set_area32(area::MXCSR, 0x1F80 & !0x800);
    assert_eq!(execute(&mut core, &[0x0F, 0x58, 0xC1]), Err(Fault::plain(vector::XM)));
    core.set_area32(area::MXCSR, 0x1F80);
    execute(&mut core, &[0x0F, 0x58, 0xC1]).unwrap();
    assert_eq!(core.area32(area::MXCSR) & 0x10, 0);
}

#[test]
fn text_comparisons_take_operands_anywhere_with_lengths_of_any_width() {
    let text: [u8; 16] = *b"the quick brown ";
    for prefix in [&[0x66, 0x0F, 0x3A, 0x61, 0x0E, 0x0C][..], &[0x66, 0x48, 0x0F, 0x3A, 0x61, 0x0E, 0x0C]] {
        let mut core = core();
        core.gpr[6] = RSI + 5;
        put(&core, RSI + 5, &text);
        let mut needle = [0; 32];
        needle[..5].copy_from_slice(b"quick");
        set(&mut core, 1, needle);
        (core.gpr[0], core.gpr[2]) = (5, 16);
        // PCMPESTRI, equal ordered: where in the second text the first one lies.
        execute(&mut core, prefix).unwrap();
        assert_eq!(core.gpr[1], 4);
    }
}

#[test]
fn a_vex_operation_works_on_256_bits_and_needs_xcr0() {
    let mut core = core();
    put(&core, RSI, &floats([0.5; 8]));
    set(&mut core, 1, floats([1.0; 8]));
    let vaddps = [0xC5, 0xF4, 0x58, 0x06];
    execute(&mut core, &vaddps).unwrap();
    assert_eq!(ymm(&core, 0), floats([1.5; 8]));
    core.xcr0 = 3;
    assert_eq!(execute(&mut core, &vaddps), Err(Fault::UD));
    core.xcr0 = 7;
    core.cr0 |= cr0::TS;
    assert_eq!(execute(&mut core, &vaddps), Err(Fault::NM));
}

#[test]
fn an_unmasked_sse_exception_discards_the_result_and_keeps_the_flag() {
    let divps = [0x0F, 0x5E, 0xC1];
    let mut core = core();
    set(&mut core, 0, floats([1.0; 8]));
    set(&mut core, 1, floats([0.0; 8]));
    let before = ymm(&core, 0);
    // Everything masked but division by zero.
    core.set_area32(area::MXCSR, 0x1F80 & !0x200);
    assert_eq!(execute(&mut core, &divps), Err(Fault::plain(vector::XM)));
    assert_eq!(ymm(&core, 0), before);
    assert_eq!(core.area32(area::MXCSR), 0x1F80 & !0x200 | 4);
    assert_eq!(core.rip, CODE);
    core.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(execute(&mut core, &divps), Err(Fault::UD));
    core.set_area32(area::MXCSR, 0x1F80);
    execute(&mut core, &divps).unwrap();
    assert_eq!(ymm(&core, 0)[..16], floats([f32::INFINITY; 8])[..16]);
    assert_eq!(core.area32(area::MXCSR), 0x1F84);
}

#[test]
fn an_unmasked_x87_exception_is_reported_by_the_next_waiting_instruction() {
    let mut core = core();
    put(&core, RSI, &0x37Bu16.to_le_bytes());
    for bytes in [&[0xDB, 0xE3][..], &[0xD9, 0x2E], &[0xD9, 0xE8], &[0xD9, 0xEE], &[0xDE, 0xF9]] {
        execute(&mut core, bytes).unwrap();
    }
    // FNSTSW does not wait: zero divide, stack fault clear, summary set.
    execute(&mut core, &[0xDF, 0xE0]).unwrap();
    assert_eq!(core.gpr[0] & 0xFF, 0x84);
    assert_eq!(execute(&mut core, &[0xD9, 0xE8]), Err(Fault::plain(vector::MF)));
    assert_eq!(execute(&mut core, &[0x9B]), Err(Fault::plain(vector::MF)));
    core.cr0 &= !cr0::NE;
    execute(&mut core, &[0xD9, 0xE8]).unwrap();
    assert!(area::x87_pending(&core));
}

#[test]
fn x87_converts_through_memory_and_remembers_the_instruction_for_fnstenv() {
    let mut core = core();
    put(&core, RSI, &2.5f64.to_le_bytes());
    execute(&mut core, &[0xDD, 0x06]).unwrap();
    let at = core.rip;
    execute(&mut core, &[0xDD, 0x17]).unwrap();
    assert_eq!(get::<8>(&core, RDI), 2.5f64.to_le_bytes());
    execute(&mut core, &[0xD9, 0x37]).unwrap();
    let environment = get::<28>(&core, RDI);
    assert_eq!(environment[12..16], (at as u32).to_le_bytes());
    assert_eq!(environment[20..24], (RDI as u32).to_le_bytes());
    // ST7 physically valid, the others empty.
    assert_eq!(environment[8..10], 0x3FFFu16.to_le_bytes());
    assert_eq!(core.area16(area::FCW), 0x37F);
}

#[test]
fn fnsave_and_frstor_bring_the_stack_back() {
    let mut core = core();
    for bytes in [[0xD9, 0xE8], [0xD9, 0xEB]] {
        execute(&mut core, &bytes).unwrap();
    }
    let before = core.fpu.0[area::ST..area::XMM].to_vec();
    execute(&mut core, &[0xDD, 0x37]).unwrap();
    assert_eq!(core.area16(area::FTW), 0);
    core.fpu.0[area::ST..area::XMM].fill(0);
    execute(&mut core, &[0xDD, 0x27]).unwrap();
    assert_eq!(core.fpu.0[area::ST..area::XMM], before);
    assert_eq!((core.area16(area::FTW), area::top(&core)), (0xC0, 6));
}

#[test]
fn saved_areas_restore_and_reject_reserved_bits() {
    let mut core = core();
    set(&mut core, 9, lanes([1, 2, 3, 4, 5, 6, 7, 8]));
    (core.gpr[0], core.gpr[2]) = (7, 0);
    execute(&mut core, &[0x48, 0x0F, 0xAE, 0x27]).unwrap();
    set(&mut core, 9, [0; 32]);
    execute(&mut core, &[0x48, 0x0F, 0xAE, 0x2F]).unwrap();
    assert_eq!(ymm(&core, 9), lanes([1, 2, 3, 4, 5, 6, 7, 8]));
    // A component that the area calls initial is cleared.
    put(&core, RDI + 512, &2u64.to_le_bytes());
    execute(&mut core, &[0x48, 0x0F, 0xAE, 0x2F]).unwrap();
    assert_eq!(ymm(&core, 9), lanes([1, 2, 3, 4, 0, 0, 0, 0]));
    put(&core, RDI + 512, &8u64.to_le_bytes());
    assert_eq!(execute(&mut core, &[0x48, 0x0F, 0xAE, 0x2F]), Err(Fault::GP0));
    put(&core, RDI + 24, &0x1_1F80u32.to_le_bytes());
    assert_eq!(execute(&mut core, &[0x48, 0x0F, 0xAE, 0x0F]), Err(Fault::GP0));
    core.gpr[7] += 8;
    assert_eq!(execute(&mut core, &[0x48, 0x0F, 0xAE, 0x07]), Err(Fault::GP0));
}

#[test]
fn components_that_a_loaded_state_calls_initial_read_as_such() {
    let mut core = core();
    core.fpu.0[area::ST..area::XMM_END].fill(0x55);
    core.fpu.0[area::YMM_HIGH..area::YMM_HIGH + 256].fill(0x55);
    core.set_area16(area::FCW, 0);
    core.set_area64(area::XSTATE_BV, area::SSE);
    core.settle_vector_state();
    assert_eq!((core.area16(area::FCW), core.fpu.0[area::ST]), (0x37F, 0));
    let mut expected = [0; 32];
    expected[..16].fill(0x55);
    assert_eq!(ymm(&core, 3), expected);
}

#[test]
fn fxsave_shows_no_address_of_the_host() {
    let mut core = core();
    execute(&mut core, &[0xD9, 0xE8]).unwrap();
    execute(&mut core, &[0x48, 0x0F, 0xAE, 0x07]).unwrap();
    assert_eq!(get::<8>(&core, RDI + 8), CODE.to_le_bytes());
    assert_eq!(get::<8>(&core, RDI + 16), [0; 8]);
}

#[test]
fn a_gather_reads_only_selected_elements_and_keeps_its_progress() {
    let mut core = core();
    put(&core, RSI, &lanes([100, 101, 102, 103, 104, 105, 106, 107]));
    set(&mut core, 1, lanes([9; 8]));
    set(&mut core, 2, lanes([7, 6, 5, 4, 3, 2, 1, 0]));
    set(&mut core, 3, lanes([1 << 31, 0, 1 << 31, 0, 1 << 31, 0, 1 << 31, 0]));
    let gather = [0xC4, 0xE2, 0x65, 0x90, 0x0C, 0x96];
    execute(&mut core, &gather).unwrap();
    assert_eq!(ymm(&core, 1), lanes([107, 9, 105, 9, 103, 9, 101, 9]));
    assert_eq!(ymm(&core, 3), [0; 32]);
    // The third element leads to an unmapped page.
    core.gpr[6] = testing::RAM - 32;
    set(&mut core, 2, lanes([0, 1, 1 << 20, 0, 0, 0, 0, 0]));
    set(&mut core, 3, lanes([u32::MAX; 8]));
    let fault = execute(&mut core, &gather).unwrap_err();
    assert_eq!((fault.vector, fault.address), (vector::PF, testing::RAM - 32 + (4 << 20)));
    assert_eq!(ymm(&core, 3), lanes([0, 0, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX]));
}

#[test]
fn masked_stores_touch_only_selected_elements() {
    let mut core = core();
    set(&mut core, 1, lanes([u32::MAX, 0, u32::MAX, 0, 0, 0, 0, u32::MAX]));
    set(&mut core, 2, lanes([1, 2, 3, 4, 5, 6, 7, 8]));
    execute(&mut core, &[0xC4, 0xE2, 0x75, 0x8E, 0x17]).unwrap();
    assert_eq!(get::<32>(&core, RDI), lanes([1, 0, 3, 0, 0, 0, 0, 8]));
    // Only the first element is asked for, so that the page behind it does not matter.
    core.gpr[7] = testing::RAM - 4;
    set(&mut core, 1, lanes([u32::MAX, 0, 0, 0, 0, 0, 0, 0]));
    execute(&mut core, &[0xC4, 0xE2, 0x75, 0x8E, 0x17]).unwrap();
    core.gpr[7] = RDI;
    set(&mut core, 1, lanes([0x0403_0201; 8]));
    set(&mut core, 2, lanes([0x8000_0080, 0, 0, 0, 0, 0, 0, 0]));
    put(&core, RDI, &[0xEE; 16]);
    execute(&mut core, &[0x66, 0x0F, 0xF7, 0xCA]).unwrap();
    assert_eq!(get::<5>(&core, RDI), [1, 0xEE, 0xEE, 4, 0xEE]);
}

#[test]
fn general_registers_and_flags_go_in_and_out() {
    let mut core = core();
    core.gpr[9] = 5u64.wrapping_neg();
    execute(&mut core, &[0xF2, 0x49, 0x0F, 0x2A, 0xD9]).unwrap();
    assert_eq!(ymm(&core, 3)[..8], (-5f64).to_le_bytes());
    put(&core, RSI, &(-7.9f64).to_le_bytes());
    execute(&mut core, &[0xF2, 0x4C, 0x0F, 0x2C, 0x26]).unwrap();
    assert_eq!(core.gpr[12], 7u64.wrapping_neg());
    core.gpr[10] = u64::MAX;
    set(&mut core, 0, lanes([1 << 31, 0, 1 << 31, 0, 0, 0, 0, 0]));
    execute(&mut core, &[0x44, 0x0F, 0x50, 0xD0]).unwrap();
    assert_eq!(core.gpr[10], 5);
    set(&mut core, 0, [0; 32]);
    execute(&mut core, &[0x66, 0x0F, 0x38, 0x17, 0xC0]).unwrap();
    assert_eq!(core.rflags & flag::ARITHMETIC, flag::ZF | flag::CF);
    // PCMPESTRI, equal any: "c" of three first found in the second string at index 2.
    set(&mut core, 0, lanes([0x0063, 0, 0, 0, 0, 0, 0, 0]));
    set(&mut core, 1, lanes([0x6463_6261, 0, 0, 0, 0, 0, 0, 0]));
    (core.gpr[0], core.gpr[1], core.gpr[2]) = (1, 99, 4);
    execute(&mut core, &[0x66, 0x0F, 0x3A, 0x61, 0xC1, 0]).unwrap();
    assert_eq!(core.gpr[1], 2);
}

#[test]
fn mmx_shares_the_x87_registers() {
    let mut core = core();
    put(&core, RSI, &[1, 2, 3, 4, 5, 6, 7, 8]);
    execute(&mut core, &[0x0F, 0xFC, 0x06]).unwrap();
    assert_eq!(core.fpu.0[area::ST..area::ST + 10], [1, 2, 3, 4, 5, 6, 7, 8, 0xFF, 0xFF]);
    assert_eq!(core.area16(area::FTW), 0xFF);
    execute(&mut core, &[0x0F, 0x77]).unwrap();
    assert_eq!(core.area16(area::FTW), 0);
    core.cr0 |= cr0::EM;
    assert_eq!(execute(&mut core, &[0x0F, 0x77]), Err(Fault::UD));
    assert_eq!(execute(&mut core, &[0xD9, 0xE8]), Err(Fault::NM));
}

#[test]
fn a_store_that_faults_leaves_the_stack_alone() {
    let mut core = core();
    execute(&mut core, &[0xD9, 0xE8]).unwrap();
    let before = core.fpu.0;
    core.gpr[7] = testing::RAM - 4;
    assert_eq!(execute(&mut core, &[0xDD, 0x1F]).unwrap_err().vector, vector::PF);
    assert!(core.fpu.0 == before);
}

#[test]
fn many_different_instructions_do_not_exhaust_the_stubs() {
    let mut core = core();
    // PSHUFD with every immediate, register pair by register pair: more encodings than there are slots.
    for round in 0..80u8 {
        for immediate in 0..=255 {
            let modrm = 0xC0 | round & 0x3F;
            let rex = 0x40 | round >> 6;
            execute(&mut core, &[0x66, rex, 0x0F, 0x70, modrm, immediate]).unwrap();
        }
        core.rip = CODE;
    }
    set(&mut core, 1, lanes([1, 2, 3, 4, 0, 0, 0, 0]));
    execute(&mut core, &[0x66, 0x0F, 0x70, 0xC1, 0x1B]).unwrap();
    assert_eq!(ymm(&core, 0)[..16], lanes([4, 3, 2, 1, 0, 0, 0, 0])[..16]);
}

/// A hostile guest's bytes in every mode, on hostile register contents: exceptions go to the guest, never to this process.
#[test]
fn random_encodings_in_random_states_do_no_harm() {
    use iced_x86::{Decoder, DecoderOptions};
    let wanted: u64 = std::env::var("WIRT_LOCKSTEP_N").ok().and_then(|text| text.parse().ok()).unwrap_or(40_000);
    let mut state = 0x0123_4567_89AB_CDEF_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut cores = [Bits::B64, Bits::B32, Bits::B16].map(|bits| testing::core(bits, 3));
    let (mut executed, mut faulted) = (0u64, 0u64);
    while executed + faulted < wanted {
        let core = &mut cores[(next() % 3) as usize];
        let mut bytes = [0; 15];
        bytes.iter_mut().for_each(|byte| *byte = next() as u8);
        let start = next() as usize;
        let prefix: &[u8] = [
            &[0x0F][..],
            &[0x66, 0x0F],
            &[0xF2, 0x0F],
            &[0xF3, 0x0F],
            &[0x0F, 0x38],
            &[0x66, 0x0F, 0x38],
            &[0x66, 0x0F, 0x3A],
            &[0xC5],
            &[0xC4, 0xE2],
            &[0xC4, 0xE3],
            &[0xD8],
            &[0xDA],
            &[],
        ][start % 13];
        bytes[..prefix.len()].copy_from_slice(prefix);
        if prefix == [0xD8] || prefix == [0xDA] {
            bytes[0] = 0xD8 + (next() & 7) as u8;
        }
        let instruction = Decoder::with_ip(core.bits() as u32, &bytes, CODE, DecoderOptions::NONE).decode();
        let handler = super::handler(&instruction).or_else(|| crate::interp::integer::handler(&instruction));
        let Some(handler) = handler else { continue };
        core.gpr.iter_mut().for_each(|register| *register = DATA + (next() & 0xF_FFFF));
        core.rflags = next() & (flag::ARITHMETIC | flag::DF) | flag::FIXED;
        core.rip = CODE;
        core.cr0 = core.cr0 & !cr0::NE | if next() & 1 == 0 { cr0::NE } else { 0 };
        for at in (area::ST..area::XMM_END).chain(area::YMM_HIGH..area::YMM_HIGH + 256) {
            core.fpu.0[at] = next() as u8;
        }
        core.set_area64(area::XSTATE_BV, 7);
        core.set_area16(area::FCW, next() as u16 & 0x1F3F | 0x40);
        core.set_area16(area::FSW, area::summarised(next() as u16, core.area16(area::FCW)));
        core.fpu.0[area::FTW] = next() as u8;
        core.set_area32(area::MXCSR, next() as u32 & 0xFFFF);
        match crate::interp::step(core, &instruction, handler) {
            Ok(()) => executed += 1,
            Err(_) => faulted += 1,
        }
    }
    assert!(executed > wanted / 10 && faulted > 0, "{executed} executed, {faulted} faulted");
}
