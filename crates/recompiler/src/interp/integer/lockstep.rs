//! Random integer instructions, run by the interpreter and by the host's processor, must end alike.
//!
//! `WIRT_LOCKSTEP_N` sets the number of instructions.

use super::handler;
use crate::native::{Host, State, UNITS, WINDOW, aim, gpr_index, window};
use crate::state::{Bits, flag};
use crate::testing::{self, Random, environment};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::collections::BTreeMap;

/// Where guest RAM is seen, by the guest and by this process.
const RAM: u64 = 0x2000_0000;

/// Bytes that may well be an integer instruction, followed by more of them.
fn encoding(random: &mut Random) -> [u8; 15] {
    let mut bytes = Vec::new();
    for (prefix, odds) in [(0x66, 4), (0xF0, 12), (0xF2, 12), (0xF3, 8), (0x67, 12)] {
        if random.below(odds) == 0 {
            bytes.push(prefix);
        }
    }
    if random.below(10) == 0 {
        // VEX with map 0F38 or 0F3A.
        bytes.clear();
        bytes.extend([0xC4, random.next() as u8 & 0xE0 | (2 + random.below(2) as u8), random.next() as u8 & 0xFB]);
        bytes.push(0xF0 + random.below(8) as u8);
    } else {
        if random.below(2) == 0 {
            bytes.push(0x40 | random.below(16) as u8);
        }
        match random.below(16) {
            0..8 => {}
            8..14 => bytes.push(0x0F),
            _ => bytes.extend([0x0F, 0x38, 0xF0 + random.below(8) as u8]),
        }
        bytes.push(random.next() as u8);
    }
    let mut all = [0; 15];
    all.iter_mut().for_each(|byte| *byte = random.next() as u8);
    all[..bytes.len()].copy_from_slice(&bytes);
    all
}

/// Instructions that cannot be compared: they branch, show this process's selectors, or would turn on traps.
fn comparable(instruction: &Instruction) -> bool {
    let segment = |register: Register| register.is_segment_register();
    let mnemonic = instruction.mnemonic();
    let conditional_set = instruction.condition_code() != iced_x86::ConditionCode::None;
    !(instruction.is_jmp_short_or_near()
        || instruction.is_jmp_near_indirect()
        || instruction.is_call_near()
        || instruction.is_call_near_indirect()
        || (conditional_set && matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch16))
        || segment(instruction.op0_register())
        || segment(instruction.op1_register())
        || matches!(instruction.memory_segment(), Register::FS | Register::GS)
        || matches!(
            mnemonic,
            Mnemonic::Ret
                | Mnemonic::Loop
                | Mnemonic::Loope
                | Mnemonic::Loopne
                | Mnemonic::Jcxz
                | Mnemonic::Jecxz
                | Mnemonic::Jrcxz
                | Mnemonic::Popf
                | Mnemonic::Popfq
                | Mnemonic::Rdsspd
                | Mnemonic::Rdsspq
                | Mnemonic::Clwb
                | Mnemonic::Cldemote
                | Mnemonic::Rdrand
                | Mnemonic::Rdseed
                // With REX.B this is XCHG R8 to some processors.
                | Mnemonic::Pause
                // 0F 0D with a register: undefined to some processors.
                | Mnemonic::Reservednop
        ))
}

struct Case {
    bytes: Vec<u8>,
    instruction: Instruction,
    gpr: [u64; 16],
    rflags: u64,
}

fn case(random: &mut Random, ip: u64) -> Option<Case> {
    let mut bytes = encoding(random);
    let mut gpr = [0; 16];
    gpr.iter_mut().for_each(|register| *register = random.value());
    let middle = RAM + (WINDOW.start + WINDOW.end) / 2;
    gpr[4] = middle + random.below(0x4000);
    let copy = bytes;
    let mut decoder = Decoder::with_ip(64, &copy, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() || !comparable(&instruction) || handler(&instruction).is_none() {
        return None;
    }
    let mut target = middle + random.below(0x1_0000);
    if random.below(2) == 0 {
        target &= !15;
    }
    match instruction.mnemonic() {
        Mnemonic::Enter | Mnemonic::Leave => gpr[5] = target,
        Mnemonic::Xlatb => gpr[3] = target,
        _ if instruction.is_string_instruction() => {
            gpr[6] = target;
            gpr[7] = middle + random.below(0x4000);
            gpr[1] = random.below(300);
        }
        Mnemonic::Div | Mnemonic::Idiv if random.below(2) == 0 => {
            gpr[2] = random.below(3).wrapping_sub(1);
            gpr[0] = random.value();
        }
        _ => {}
    }
    if !aim(&instruction, &mut bytes, &decoder, &mut gpr, target, random) {
        return None;
    }
    if matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
    {
        let selector = instruction.op1_register().full_register();
        if selector == instruction.memory_base().full_register()
            || selector == instruction.memory_index().full_register()
        {
            return None;
        }
        gpr[gpr_index(selector)] = random.below(1 << 17).wrapping_sub(1 << 16);
    }
    let patched = Decoder::with_ip(64, &bytes, ip, DecoderOptions::NONE).decode();
    let rflags = random.next() & (flag::ARITHMETIC | flag::DF) | flag::FIXED | flag::IF;
    Some(Case { bytes: bytes[..patched.len()].to_vec(), instruction: patched, gpr, rflags })
}

/// Flags that the instruction leaves defined; the count decides it for shifts.
fn defined_flags(case: &Case) -> u64 {
    use iced_x86::RflagsBits;
    let undefined = case.instruction.rflags_undefined();
    let bits = [
        (RflagsBits::CF, flag::CF),
        (RflagsBits::PF, flag::PF),
        (RflagsBits::AF, flag::AF),
        (RflagsBits::ZF, flag::ZF),
        (RflagsBits::SF, flag::SF),
        (RflagsBits::OF, flag::OF),
    ];
    let mut defined = flag::ARITHMETIC | flag::DF;
    bits.iter().filter(|(name, _)| undefined & name != 0).for_each(|(_, bit)| defined &= !bit);
    let width = super::operand::size(&case.instruction, 0) as u64;
    match case.instruction.mnemonic() {
        Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr => {
            // OF is defined for counts of one, CF while the count is below the width.
            let count = match case.instruction.op1_kind() {
                OpKind::Register => case.gpr[1] & if width == 8 { 63 } else { 31 },
                _ => u64::from(case.instruction.immediate8()) & if width == 8 { 63 } else { 31 },
            };
            if count > 1 {
                defined &= !flag::OF;
            }
            if count >= 8 * width
                && matches!(case.instruction.mnemonic(), Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr)
            {
                defined &= !flag::CF;
            }
        }
        _ => {}
    }
    defined
}

/// SHLD and SHRD of 16 bits by more than 16 have an undefined result.
fn result_undefined(case: &Case) -> bool {
    let double = matches!(case.instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
    let count = match case.instruction.op_kind(2) {
        OpKind::Register => case.gpr[1],
        _ => u64::from(case.instruction.immediate8()),
    };
    double && super::operand::size(&case.instruction, 0) == 2 && count & 31 > 16
}

#[test]
fn random_instructions_end_as_on_the_host() {
    let wanted = environment("WIRT_LOCKSTEP_N", 20_000);
    let mut core = testing::core(Bits::B64, 3);
    let mut host = Host::new(&core, RAM);
    // Every component in its initial state.
    let mut units = [0; UNITS];
    units[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
    let mut random = Random(0x57_49_52_54);
    let filled: Vec<u8> = (0..WINDOW.end - WINDOW.start).map(|_| random.next() as u8).collect();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let (mut faults, mut done) = (0, 0);
    let mut differences = Vec::new();
    while done < wanted {
        let Some(mut case) = case(&mut random, host.ip()) else { continue };
        if result_undefined(&case) {
            continue;
        }
        core.memory.write(WINDOW.start, &filled).expect("RAM");
        if matches!(case.instruction.mnemonic(), Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b)
            && random.below(2) == 0
        {
            // Half of the exchanges find what they expect.
            core.gpr = case.gpr;
            core.next_rip = case.instruction.next_ip();
            let target = super::operand::effective_offset(&core, &case.instruction).wrapping_sub(RAM);
            if WINDOW.contains(&target) {
                let mut found = [0; 16];
                core.memory.read(target, &mut found).expect("RAM");
                let half =
                    |range: std::ops::Range<usize>| u64::from_le_bytes(found[range].try_into().expect("8 bytes"));
                let expected = [case.gpr[0], case.gpr[2]];
                if case.instruction.mnemonic() == Mnemonic::Cmpxchg16b {
                    (case.gpr[0], case.gpr[2]) = (half(0..8), half(8..16));
                } else {
                    (case.gpr[0], case.gpr[2]) = (half(0..8), half(0..8) >> 32);
                }
                core.gpr = case.gpr;
                if super::operand::effective_offset(&core, &case.instruction).wrapping_sub(RAM) != target {
                    [case.gpr[0], case.gpr[2]] = expected;
                }
            }
        }
        let before = State { gpr: case.gpr, rflags: case.rflags, units };
        let (signal, State { gpr: host_gpr, rflags: host_flags, .. }) = host.run(&case.bytes, &before);
        let host_memory = window(&core);
        core.memory.write(WINDOW.start, &filled).expect("RAM");
        core.gpr = case.gpr;
        core.rflags = case.rflags;
        core.rip = case.instruction.ip();
        let result = testing::execute_all(&mut core, &case.bytes);
        done += 1;
        *seen.entry(format!("{:?}", case.instruction.mnemonic())).or_default() += 1;
        let describe = |what: &str| format!("{what}: {:02x?} {}", case.bytes, case.instruction);
        if signal.is_some() != result.is_err() {
            differences.push(describe(&format!("host signal {signal:?}, interpreter {result:?}")));
        } else if signal.is_some() {
            faults += 1;
            if core.gpr != case.gpr {
                differences.push(describe("registers changed by a fault"));
            }
        } else {
            for index in (0..16).filter(|&index| core.gpr[index] != host_gpr[index]) {
                let text = format!(
                    "register {index} host {:x} interpreter {:x}, before {:x?} flags {:x}",
                    host_gpr[index], core.gpr[index], case.gpr, case.rflags
                );
                differences.push(describe(&text));
            }
            let wrong = (core.rflags ^ host_flags) & defined_flags(&case);
            if wrong != 0 {
                let text = format!("flags {wrong:x} host {host_flags:x} before {:x} {:x?}", case.rflags, case.gpr);
                differences.push(describe(&text));
            }
        }
        if window(&core) != host_memory {
            differences.push(describe("memory"));
        }
        if differences.len() > 30 {
            break;
        }
    }
    println!("{done} instructions, {} mnemonics, {faults} faults on both: {seen:?}", seen.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(seen.len() > 80 || wanted < 10_000, "only {} mnemonics were generated", seen.len());
}
