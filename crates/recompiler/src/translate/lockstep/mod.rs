//! Random blocks of instructions, translated and interpreted from the same state, must end alike: registers, flags,
//! vector state, memory, and the faults they raise.
//!
//! `WIRT_LOCKSTEP_N` sets the number of blocks, `WIRT_LOCKSTEP_SEED` where the sequence starts.

mod code;
mod setting;

use super::form::Planner;
use crate::blocks;
use crate::interp;
use crate::mode::Mode;
use crate::state::Core;
use crate::testing::{CODE, NoKick, Random, environment};
use crate::vcpu::RecompilerVcpu;
use hv::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind};
use setting::{Kind, WINDOW};
use std::sync::Arc;

/// Flags that are undefined behind an instruction when these were in front of it; `None`: it reads one of them.
pub(super) fn undefined_behind(undefined: u32, instruction: &Instruction) -> Option<u32> {
    if instruction.rflags_read() & undefined != 0 {
        return None;
    }
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    let shift = matches!(instruction.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd);
    let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
    // A count of zero leaves the flags as they were.
    let last = instruction.op_count().saturating_sub(1);
    let kept = if shift && instruction.op_kind(last) == OpKind::Register { undefined } else { undefined & !defined };
    // OF is defined for a count of 1 only.
    let overflow = if shift { iced_x86::RflagsBits::OF } else { 0 };
    Some(kept | instruction.rflags_undefined() | overflow)
}

/// Flags that a run of instructions leaves undefined; `None`: one of them reads an undefined flag.
fn undefined_flags(code: &[Instruction]) -> Option<u32> {
    code.iter().try_fold(0, undefined_behind)
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
pub(super) fn result_undefined(instruction: &Instruction) -> bool {
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
    cr2: u64,
    segments: [hv::Segment; 6],
    vectors: Vec<u8>,
    memory: Vec<u8>,
}

fn outcome(core: &Core) -> Outcome {
    let mut memory = vec![0; 0x18000];
    let (window, code) = memory.split_at_mut(0x14000);
    core.memory.read(WINDOW - 0x2000, window).expect("RAM");
    core.memory.read(CODE, code).expect("RAM");
    let mut vectors = core.fpu.0[..832].to_vec();
    // Instruction and operand pointers, opcode, and the header.
    vectors[6..24].fill(0);
    vectors[28..32].fill(0);
    vectors[416..576].fill(0);
    let Core { gpr, rip, rflags, cr2, segments, .. } = *core;
    Outcome { gpr, rip, rflags, cr2, segments, vectors, memory }
}

/// One case: a processor, its state, and the code it runs.
struct Case {
    kind: Kind,
    seed: u64,
    code: Vec<u8>,
    instructions: Vec<Instruction>,
}

impl Case {
    fn new(seed: u64, planner: &mut Planner) -> Case {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let kind = Kind::of(&mut random);
        let core = setting::core(kind, &mut random);
        let (mut code, instructions) = code::code(&mut random, planner, kind, Mode::of(&core), core.rip);
        code.push(0xF4);
        Case { kind, seed, code, instructions }
    }

    fn core(&self) -> Box<Core> {
        let mut random = Random(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        Kind::of(&mut random);
        let mut core = setting::core(self.kind, &mut random);
        core.memory.write(Mode::of(&core).linear(core.rip), &self.code).expect("RAM");
        setting::prepare(&mut core, self.kind, &mut random);
        core
    }

    /// `None`: a store went astray into the code, which now goes round in circles.
    fn interpreted(&self) -> Option<Outcome> {
        let mut core = self.core();
        // A repeated instruction takes as many steps as it has thousands of elements.
        for _ in 0..4096 {
            let stepped = blocks::fetch_one(&mut core)
                .and_then(|decoded| interp::step(&mut core, &decoded.instruction, decoded.handler));
            if let Err(fault) = stepped {
                // No handler: this ends in a triple fault that changes CR2 alone.
                assert!(matches!(core.deliver_fault(fault), interp::Delivered::TripleFault));
                return Some(outcome(&core));
            }
            if core.halted {
                return Some(outcome(&core));
            }
        }
        None
    }

    fn translated(&self) -> Outcome {
        let mut vcpu = RecompilerVcpu::new(self.core(), Arc::new(NoKick)).expect("a translator");
        vcpu.translate_after(0);
        vcpu.run().expect("a run");
        outcome(&vcpu.core)
    }

    /// Where the code ends: what HLT leaves, and where it faults.
    fn is_end(&self, rip: u64) -> bool {
        let last = self.instructions.last().map_or(self.core().rip, Instruction::next_ip);
        rip == last || rip == last + 1
    }
}

#[test]
fn random_blocks_end_as_interpreted() {
    let count = environment("WIRT_LOCKSTEP_N", 3000);
    let first = environment("WIRT_LOCKSTEP_SEED", 1);
    let mut planner = Planner::new();
    let (mut run, mut failures) = (0, 0);
    for seed in first..first + count {
        let case = Case::new(seed, &mut planner);
        let instructions = &case.instructions;
        let Some(undefined) = undefined_flags(instructions) else { continue };
        if instructions.iter().any(result_undefined) {
            continue;
        }
        run += 1;
        if std::env::var_os("WIRT_LOCKSTEP_SHOW").is_some() {
            eprintln!("seed {seed} {:?} {:02x?}", case.kind, case.code);
            instructions.iter().for_each(|instruction| eprintln!("    {:#x} {instruction}", instruction.ip()));
        }
        let Some(expected) = case.interpreted() else { continue };
        let found = case.translated();
        let ignored = as_rflags(undefined);
        // A fault in the middle leaves dead flags behind that the translator does not keep.
        let faulted = !case.is_end(expected.rip);
        let flags_differ = !faulted && (expected.rflags ^ found.rflags) & !ignored & !0x1_0000 != 0;
        let differs = expected.gpr != found.gpr
            || expected.rip != found.rip
            || expected.cr2 != found.cr2
            || expected.segments != found.segments
            || flags_differ
            || expected.vectors != found.vectors
            || expected.memory != found.memory;
        if differs {
            failures += 1;
            if failures > 12 {
                break;
            }
            eprintln!("seed {seed} {:?}: rip {:#x} / {:#x}", case.kind, expected.rip, found.rip);
            eprintln!("    cr2 {:#x} / {:#x} {:x?}", expected.cr2, found.cr2, expected.segments);
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
    assert!(run > count / 3, "only {run} of {count} blocks could be compared");
    assert_eq!(failures, 0, "blocks that end differently when translated");
}
