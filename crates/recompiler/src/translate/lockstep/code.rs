//! Random instructions worth a translation, and pieces of control flow between them.

use super::setting::Kind;
use crate::blocks::Decoded;
use crate::interp;
use crate::mode::Mode;
use crate::state::Bits;
use crate::testing::Random;
use crate::translate::form::{Plan, Planner};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

/// Fifteen bytes that look like an instruction, with memory operands near a data register more often than not.
fn encoding(random: &mut Random, bits: Bits) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (prefix, odds) in [(0x66, 6), (0xF2, 12), (0xF3, 8), (0xF0, 20), (0x64, 30), (0x67, 40)] {
        let odds = if bits == Bits::B16 && odds != 20 { odds.min(8) } else { odds };
        if random.below(odds) == 0 {
            bytes.push(prefix);
        }
    }
    if bits != Bits::B64 && random.below(8) == 0 {
        bytes.push([0x26, 0x2E, 0x36, 0x3E, 0x65][random.below(5) as usize]);
    }
    let vex = random.below(6) == 0 && bits != Bits::B16;
    if vex {
        bytes.clear();
        let map = 1 + random.below(3) as u8;
        let fixed = if bits == Bits::B64 { 0 } else { 0xC0 };
        bytes.extend([0xC4, (random.next() as u8 & 0xE0) | map | fixed, random.next() as u8]);
    } else {
        if bits == Bits::B64 && random.below(3) != 0 {
            bytes.push(0x40 | random.below(16) as u8);
        }
        match random.below(if bits == Bits::B64 { 5 } else { 8 }) {
            2..=3 => bytes.push(0x0F),
            4 => bytes.extend([0x0F, if random.below(2) == 0 { 0x38 } else { 0x3A }]),
            _ => {}
        }
    }
    bytes.push(random.next() as u8);
    let short = bits == Bits::B16 && !bytes.contains(&0x67) || bits == Bits::B32 && bytes.contains(&0x67);
    // [base + displacement], base one of RBX, RSI, RDI (or R11, R14, R15 with REX.B); SI, DI, BP and BX in short addresses
    let base = if short { 4 + random.below(4) as u8 } else { [3, 6, 7][random.below(3) as usize] };
    match random.below(3) {
        0 => bytes.push(0xC0 | random.next() as u8),
        1 => bytes.extend([0x40 | (random.below(8) as u8 * 8) | base, random.next() as u8]),
        _ => {
            bytes.push(0x80 | (random.below(8) as u8 * 8) | base);
            let displacement = (random.below(0x2000) as u32).to_le_bytes();
            bytes.extend(&displacement[..if short { 2 } else { 4 }]);
        }
    }
    while bytes.len() < 15 {
        bytes.push(random.next() as u8);
    }
    bytes.truncate(15);
    bytes
}

/// Interpreted at their sites, and harmless to the state that a case rests on.
fn worth_interpreting(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let string = instruction.is_string_instruction()
        && !instruction.has_rep_prefix()
        && !instruction.has_repne_prefix()
        && !matches!(instruction.mnemonic(), Insb | Insw | Insd | Outsb | Outsw | Outsd);
    let known = matches!(
        instruction.mnemonic(),
        Pusha | Pushad | Popa | Popad | Enter | Pop | Aaa | Aad | Aam | Aas | Daa | Das | Xlatb | Idiv | Bound
    );
    known && !instruction.op0_register().is_segment_register() || string
}

/// An instruction whose translation is worth a test, as bytes.
fn instruction(random: &mut Random, planner: &mut Planner, mode: Mode, ip: u64) -> Option<(Vec<u8>, Instruction)> {
    for _ in 0..1000 {
        let bytes = encoding(random, mode.bits());
        let mut decoder = Decoder::with_ip(mode.bits() as u32, &bytes, ip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() || instruction.flow_control() != FlowControl::Next {
            continue;
        }
        let decoded = Decoded { instruction, handler: interp::handler(&instruction) };
        let bytes = bytes[..instruction.len()].to_vec();
        // Time and randomness differ between two runs.
        let skipped =
            matches!(instruction.mnemonic(), Mnemonic::Rdrand | Mnemonic::Rdseed | Mnemonic::Rdtsc | Mnemonic::Rdtscp);
        match planner.plan(&decoded, &bytes, mode) {
            Plan::Copy(_) | Plan::Rule if !skipped => return Some((bytes, instruction)),
            Plan::Interpret if !mode.long() && worth_interpreting(&instruction) => return Some((bytes, instruction)),
            _ => {}
        }
    }
    None
}

/// A branch that goes on right behind itself, whether it is taken or not.
fn branch(random: &mut Random, bits: Bits, next: impl Fn(usize) -> u64) -> Vec<u8> {
    let wide = bits != Bits::B16;
    let prefixed = !wide && random.below(2) == 0;
    let zero = &[0; 4][..if wide || prefixed { 4 } else { 2 }];
    let mut bytes = if prefixed { vec![0x66] } else { Vec::new() };
    match random.below(8) {
        0..=1 => return vec![0x70 | random.below(16) as u8, 0],
        2 => return vec![[0xE2, 0xE3, 0xEB][random.below(3) as usize], 0],
        3 => bytes.extend([&[0x0F, 0x80 | random.below(16) as u8], zero].concat()),
        4..=5 => bytes.extend([&[0xE8], zero].concat()),
        _ => {
            // push imm; ret
            let length = 2 * bytes.len() + 1 + zero.len() + 1;
            let target = next(length).to_le_bytes();
            let prefix = bytes.clone();
            bytes.push(0x68);
            bytes.extend(&target[..zero.len()]);
            bytes.extend(prefix);
            bytes.push(0xC3);
        }
    }
    bytes
}

/// A store into the instruction behind it: `mov al, imm`.
fn patch(random: &mut Random, bits: Bits, next: impl Fn(usize) -> u64) -> Vec<u8> {
    let value = random.next() as u8;
    let mut bytes: Vec<u8> = match bits {
        Bits::B64 => vec![0xC6, 0x04, 0x25],
        Bits::B32 => vec![0xC6, 0x05],
        Bits::B16 => vec![0x2E, 0xC6, 0x06],
    };
    let address = if bits == Bits::B16 { 2 } else { 4 };
    let target = next(bytes.len() + address + 1) + 1;
    bytes.extend(&target.to_le_bytes()[..address]);
    bytes.extend([value, 0xB0, random.next() as u8]);
    bytes
}

/// Random code at `ip`, without its end; the instructions in it.
pub(super) fn code(
    random: &mut Random,
    planner: &mut Planner,
    kind: Kind,
    mode: Mode,
    ip: u64,
) -> (Vec<u8>, Vec<Instruction>) {
    let mut code = Vec::new();
    let mut instructions = Vec::new();
    for _ in 0..1 + random.below(10) {
        let at = ip + code.len() as u64;
        let next = |length: usize| at + length as u64;
        let bytes = match random.below(12) {
            0 => branch(random, kind.bits(), next),
            1 if kind.patches_itself() && random.below(3) == 0 => patch(random, kind.bits(), next),
            _ => match instruction(random, planner, mode, at) {
                Some((bytes, _)) => bytes,
                None => continue,
            },
        };
        instructions.extend(Decoder::with_ip(kind.bits() as u32, &bytes, at, DecoderOptions::NONE).iter());
        code.extend(bytes);
    }
    (code, instructions)
}
