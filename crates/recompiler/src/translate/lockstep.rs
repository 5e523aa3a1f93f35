//! Random blocks of instructions, translated and interpreted from the same state, must end alike: registers, flags,
//! vector state, memory, and the faults they raise.
//!
//! `WIRT_LOCKSTEP_N` sets the number of blocks, `WIRT_LOCKSTEP_SEED` where the sequence starts.

use super::form::{Plan, Planner};
use crate::blocks::{Decoded, Mode};
use crate::interp;
use crate::state::{Bits, Core};
use crate::testing::{self, CODE, RAM, Random, environment};
use crate::vcpu::RecompilerVcpu;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use std::sync::Arc;

/// Where data registers point: in the middle of RAM, near the end of a page.
const WINDOW: u64 = 0x10_0000;
const _: () = assert!(WINDOW + 0x1_0000 < RAM);

struct NoKick;

impl hv::Kick for NoKick {
    fn kick(&self) {}
    fn interrupt(&self) {}
}

/// Fifteen bytes that look like an instruction, with memory operands near a data register more often than not.
fn encoding(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (prefix, odds) in [(0x66, 6), (0xF2, 12), (0xF3, 8), (0xF0, 20), (0x64, 30), (0x67, 40)] {
        if random.below(odds) == 0 {
            bytes.push(prefix);
        }
    }
    let vex = random.below(6) == 0;
    if vex {
        bytes.clear();
        let map = 1 + random.below(3) as u8;
        bytes.extend([0xC4, (random.next() as u8 & 0xE0) | map, random.next() as u8]);
    } else {
        if random.below(3) != 0 {
            bytes.push(0x40 | random.below(16) as u8);
        }
        match random.below(5) {
            0..=1 => {}
            2..=3 => bytes.push(0x0F),
            _ => bytes.extend([0x0F, if random.below(2) == 0 { 0x38 } else { 0x3A }]),
        }
    }
    bytes.push(random.next() as u8);
    match random.below(3) {
        0 => bytes.push(0xC0 | random.next() as u8),
        1 => {
            // [base + disp8], base one of RBX, RSI, RDI (or R11, R14, R15 with REX.B)
            let base = [3, 6, 7][random.below(3) as usize];
            bytes.extend([0x40 | (random.below(8) as u8 * 8) | base, random.next() as u8]);
        }
        _ => {
            // [base + disp32] with a small displacement
            let base = [3, 6, 7][random.below(3) as usize];
            bytes.push(0x80 | (random.below(8) as u8 * 8) | base);
            bytes.extend((random.below(0x2000) as u32).to_le_bytes());
        }
    }
    while bytes.len() < 15 {
        bytes.push(random.next() as u8);
    }
    bytes.truncate(15);
    bytes
}

/// An instruction whose translation is worth a test, as bytes.
fn instruction(random: &mut Random, planner: &mut Planner, mode: Mode, ip: u64) -> Option<(Vec<u8>, Instruction)> {
    for _ in 0..1000 {
        let bytes = encoding(random);
        let mut decoder = Decoder::with_ip(64, &bytes, ip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() || instruction.flow_control() != FlowControl::Next {
            continue;
        }
        let decoded = Decoded { instruction, handler: interp::handler(&instruction) };
        let bytes = bytes[..instruction.len()].to_vec();
        // Time and randomness differ between two runs; RSP is left alone half of the time.
        let skipped =
            matches!(instruction.mnemonic(), Mnemonic::Rdrand | Mnemonic::Rdseed | Mnemonic::Rdtsc | Mnemonic::Rdtscp);
        match planner.plan(&decoded, &bytes, mode) {
            Plan::Copy(_) | Plan::Rule if !skipped => return Some((bytes, instruction)),
            _ => {}
        }
    }
    None
}

/// The state that a case starts from.
fn prepare(core: &mut Core, seed: u64) {
    let mut random = Random(seed);
    for register in &mut core.gpr {
        *register = random.value();
    }
    for register in [3, 6, 7, 11, 14, 15] {
        core.gpr[register] = WINDOW + random.below(0x3000);
        if random.below(4) == 0 {
            core.gpr[register] = (core.gpr[register] | 0xFFF) - random.below(24);
        }
    }
    core.gpr[4] = WINDOW + 0x8000 + random.below(0x200) * 8;
    core.rflags = core.rflags & !0x8D5 | random.next() & 0x8D5;
    // A count for repeated instructions, some of which go down.
    if random.below(2) == 0 {
        core.gpr[1] = random.below(0x180);
        core.rflags |= random.next() & 0x400;
    }
    let mut data = vec![0; 0x6000];
    data.iter_mut().for_each(|byte| *byte = random.next() as u8);
    core.memory.write(WINDOW - 0x1000, &data).expect("RAM");
    let vectors: Vec<u8> = (0..256).map(|_| random.next() as u8).collect();
    core.fpu.0[160..416].copy_from_slice(&vectors);
    // The stubs keep the upper halves apart from the lower ones: in half of the cases they are not in use.
    core.fpu.0[512] = 3;
    if random.below(2) == 0 {
        core.fpu.0[576..832].copy_from_slice(&vectors);
        core.fpu.0[512] = 7;
    }
}

/// Flags that a run of instructions leaves undefined; `None`: one of them reads an undefined flag.
fn undefined_flags(code: &[Instruction]) -> Option<u32> {
    let mut undefined = 0;
    for instruction in code {
        if instruction.rflags_read() & undefined != 0 {
            return None;
        }
        use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
        let shift = matches!(instruction.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd);
        let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        // A count of zero leaves the flags as they were.
        let last = instruction.op_count().saturating_sub(1);
        if !(shift && instruction.op_kind(last) == OpKind::Register) {
            undefined &= !defined;
        }
        undefined |= instruction.rflags_undefined();
        // OF is defined for a count of 1 only.
        if shift {
            undefined |= iced_x86::RflagsBits::OF;
        }
    }
    Some(undefined)
}

/// Iced's flag bits as RFLAGS.
fn as_rflags(flags: u32) -> u64 {
    use iced_x86::RflagsBits as B;
    [(B::CF, 0), (B::PF, 2), (B::AF, 4), (B::ZF, 6), (B::SF, 7), (B::OF, 11)]
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, shift)| 1 << shift)
        .sum()
}

/// Results that the architecture leaves undefined and that processors of different makers differ in.
fn result_undefined(instruction: &Instruction) -> bool {
    let count = instruction.try_immediate(instruction.op_count().saturating_sub(1)).unwrap_or(0) & 31;
    match instruction.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr => true,
        // Counts above the operand's width.
        Mnemonic::Shld | Mnemonic::Shrd => {
            instruction.op0_register().size().max(instruction.memory_size().size()) == 2
                && (count > 16 || instruction.op2_register() == iced_x86::Register::CL)
        }
        // 16-bit BSWAP.
        Mnemonic::Bswap => instruction.op0_register().size() == 2,
        _ => false,
    }
}

struct Outcome {
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
    vectors: Vec<u8>,
    memory: Vec<u8>,
    /// No store went so far astray that it hit the code.
    code_is_whole: bool,
}

fn outcome(core: &Core, code: &[u8]) -> Outcome {
    let mut left = vec![0; code.len()];
    core.memory.read(CODE, &mut left).expect("RAM");
    let mut memory = vec![0; 0x10000];
    core.memory.read(WINDOW - 0x1000, &mut memory).expect("RAM");
    let mut vectors = core.fpu.0[..832].to_vec();
    // Instruction and operand pointers, opcode, and the header.
    vectors[6..24].fill(0);
    vectors[28..32].fill(0);
    vectors[416..576].fill(0);
    Outcome { gpr: core.gpr, rip: core.rip, rflags: core.rflags, vectors, memory, code_is_whole: left == code }
}

fn interpreted(code: &[u8], seed: u64) -> Outcome {
    let mut core = testing::core(Bits::B64, 0);
    core.memory.write(CODE, code).expect("RAM");
    prepare(&mut core, seed);
    // A repeated instruction takes as many steps as it has thousands of elements.
    for _ in 0..4096 {
        let at = core.rip - CODE;
        let mut decoder = Decoder::with_ip(64, &code[at as usize..], core.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let stepped = interp::step(&mut core, &instruction, interp::handler(&instruction));
        if stepped.is_err() || core.halted {
            break;
        }
    }
    outcome(&core, code)
}

fn translated(code: &[u8], seed: u64) -> Outcome {
    let mut core = testing::core(Bits::B64, 0);
    core.memory.write(CODE, code).expect("RAM");
    prepare(&mut core, seed);
    let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
    vcpu.translate_at_once();
    vcpu.execute();
    outcome(&vcpu.core, code)
}

#[test]
fn random_blocks_end_as_interpreted() {
    let count = environment("WIRT_LOCKSTEP_N", 1500);
    let first = environment("WIRT_LOCKSTEP_SEED", 1);
    let mut planner = Planner::new();
    let mode = Mode::of(&testing::core(Bits::B64, 0));
    let (mut run, mut failures) = (0, 0);
    for seed in first..first + count {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let length = 1 + random.below(10);
        let mut code = Vec::new();
        let mut instructions = Vec::new();
        for _ in 0..length {
            if let Some((bytes, decoded)) = instruction(&mut random, &mut planner, mode, CODE + code.len() as u64) {
                code.extend(bytes);
                instructions.push(decoded);
            }
        }
        code.push(0xF4);
        let Some(undefined) = undefined_flags(&instructions) else { continue };
        if instructions.iter().any(result_undefined) {
            continue;
        }
        run += 1;
        if std::env::var_os("WIRT_LOCKSTEP_SHOW").is_some() {
            eprintln!("seed {seed} {code:02x?}");
            instructions.iter().for_each(|instruction| eprintln!("    {:#x} {instruction}", instruction.ip()));
        }
        let expected = interpreted(&code, seed);
        if !expected.code_is_whole {
            continue;
        }
        let found = translated(&code, seed);
        let ignored = as_rflags(undefined);
        // A fault in the middle leaves dead flags behind that the translator does not keep.
        let faulted = expected.rip != CODE + code.len() as u64;
        let flags_differ = !faulted && (expected.rflags ^ found.rflags) & !ignored & !0x1_0000 != 0;
        let differs = expected.gpr != found.gpr
            || expected.rip != found.rip
            || flags_differ
            || expected.vectors != found.vectors
            || expected.memory != found.memory;
        if differs {
            failures += 1;
            if failures > 12 {
                break;
            }
            eprintln!("seed {seed}: rip {:#x} / {:#x}", expected.rip, found.rip);
            instructions.iter().for_each(|instruction| eprintln!("    {:#x} {instruction}", instruction.ip()));
            for (number, (a, b)) in expected.gpr.iter().zip(&found.gpr).enumerate() {
                if a != b {
                    eprintln!("    register {number}: {a:#x}, translated {b:#x}");
                }
            }
            if flags_differ {
                eprintln!("    flags {:#x}, translated {:#x}", expected.rflags, found.rflags);
            }
            if let Some(at) = (0..expected.vectors.len()).find(|&at| expected.vectors[at] != found.vectors[at]) {
                eprintln!("    vector state at {at}: {:#x}, translated {:#x}", expected.vectors[at], found.vectors[at]);
            }
            if let Some(at) = (0..expected.memory.len()).find(|&at| expected.memory[at] != found.memory[at]) {
                eprintln!("    memory at {at:#x}: {:#x}, translated {:#x}", expected.memory[at], found.memory[at]);
            }
        }
    }
    eprintln!("{run} of {count} random blocks compared");
    assert!(run > count / 2, "only {run} of {count} blocks could be compared");
    assert_eq!(failures, 0, "blocks that end differently when translated");
}
