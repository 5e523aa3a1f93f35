//! What is translated as one: a block, and those behind it that the guest mostly goes on to.
//!
//! A block ends at every branch. Where a forward branch of 64-bit code was seldom taken while its block was interpreted,
//! the translation goes on behind it, and the branch becomes a way out in the middle: no jump is spent on going on, what a
//! leader has checked stays checked, and flags are kept for fewer ways. The blocks that were appended stay as they are, for
//! those who come by other ways.

use crate::blocks::{Block, BlockId, Blocks, Body, Decoded, Key, MAX_INSTRUCTIONS};
use iced_x86::{Instruction, OpKind};

/// Guest code that is translated as one, all of it in a row.
pub struct Trace {
    /// What its first block was found by.
    pub key: Key,
    /// Bytes.
    pub size: u32,
    /// The instructions. Those that branch, but for the last, are forward branches that were seldom taken.
    pub code: Vec<Decoded>,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

impl Trace {
    /// Takes the code out of a block, which covers all of the trace from then on; `None` when there is none in it.
    pub fn take(blocks: &mut Blocks, id: BlockId) -> Option<Trace> {
        let block = &mut blocks.list[id as usize];
        let entered = block.entered;
        let Body::Code { code, bytes } = std::mem::replace(&mut block.body, Body::Gone) else { return None };
        let mut trace = Trace { key: block.key, size: block.size, code: code.into_vec(), bytes: bytes.into_vec() };
        while let Some(next) = trace.next(blocks, entered) {
            let (code, bytes) = next.code();
            trace.code.extend_from_slice(code);
            trace.bytes.extend_from_slice(bytes);
            trace.size += next.size;
        }
        blocks.list[id as usize].size = trace.size;
        Some(trace)
    }

    /// The block behind the trace, when that goes on there as a rule: it was entered half as often at least.
    fn next<'a>(&self, blocks: &'a Blocks, entered: u32) -> Option<&'a Block> {
        let last = self.code.last()?.instruction;
        if !self.key.mode.long() || self.key.second.is_some() || !continues(&last) {
            return None;
        }
        let offset = self.key.offset + u64::from(self.size);
        let rip = self.key.rip.wrapping_add(u64::from(self.size));
        if offset & 0xFFF == 0 || !self.key.mode.reaches(last.near_branch_target()) {
            return None;
        }
        let next = &blocks.list[blocks.known(&Key { offset, rip, ..self.key })? as usize];
        let code = next.code().0;
        let fits = !code.is_empty() && self.code.len() + code.len() <= MAX_INSTRUCTIONS;
        (fits && next.entered != 0 && u64::from(next.entered) * 2 >= u64::from(entered)).then_some(next)
    }

    /// The branches in the middle, by their indices.
    pub fn branches(&self) -> impl Iterator<Item = usize> {
        (0..self.code.len().saturating_sub(1)).filter(|&index| continues(&self.code[index].instruction))
    }
}

/// Whether a translation can go on behind a branch.
fn continues(instruction: &Instruction) -> bool {
    instruction.is_jcc_short_or_near()
        && instruction.op0_kind() == OpKind::NearBranch64
        && instruction.near_branch_target() > instruction.ip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Mode;
    use crate::state::Bits;
    use crate::testing::{self, CODE, DATA, NoKick};
    use crate::vcpu::RecompilerVcpu;
    use hv::{Exit, Vcpu};
    use std::sync::Arc;

    const LOOP: [&[u8]; 8] = [
        &[0xFF, 0xC0],                   // again: inc eax
        &[0x83, 0xFB, 7],                // cmp ebx, 7
        &[0x74, 0x10],                   // je out
        &[0x48, 0x8B, 0x7C, 0xCD, 0x40], // mov rdi, [rbp + 8 * rcx + 64]
        &[0xC6, 0x07, 0xCA],             // mov byte [rdi], CA
        &[0x48, 0xFF, 0xC2],             // inc rdx, later dec rdx
        &[0xFF, 0xC9],                   // dec ecx
        &[0x75, 0xEA, 0xF4, 0xF4],       // jnz again; hlt; out: hlt
    ];
    const SIZE: u32 = 22;

    /// Runs the loop twenty times, and in the round with this number lets it store to its own code.
    fn run(ebx: u64, changed: u64) -> RecompilerVcpu {
        let mut core = testing::core(Bits::B64, 0);
        core.memory.write(CODE, &LOOP.concat()).expect("RAM");
        core.gpr[..4].copy_from_slice(&[0, 20, 0, ebx]);
        core.gpr[5] = DATA;
        for ecx in 1..=20 {
            let place = if ecx == changed { CODE + 17 } else { DATA };
            core.memory.write(DATA + 64 + 8 * ecx, &place.to_le_bytes()).expect("RAM");
        }
        let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
        vcpu.translate_after(2);
        assert!(matches!(vcpu.run(), Ok(Exit::Halted)));
        vcpu
    }

    fn size(vcpu: &RecompilerVcpu) -> u32 {
        let key = Key { offset: CODE, rip: CODE, mode: Mode::of(&vcpu.core), second: None };
        let block = &vcpu.blocks.list[vcpu.blocks.known(&key).expect("a block") as usize];
        assert!(block.translated().is_some());
        block.size
    }

    #[test]
    fn a_trace_goes_on_behind_a_branch_that_is_seldom_taken() {
        let vcpu = run(0, 0);
        assert_eq!((vcpu.core.gpr[0], vcpu.core.gpr[2]), (20, 20));
        assert_eq!(size(&vcpu), SIZE);
    }

    #[test]
    fn a_trace_is_dropped_when_code_behind_its_branch_changes() {
        let vcpu = run(0, 10);
        assert_eq!((vcpu.core.gpr[0], vcpu.core.gpr[2]), (20, 0));
        assert_eq!(size(&vcpu), SIZE);
    }

    #[test]
    fn a_trace_is_left_in_its_middle() {
        let vcpu = run(7, 0);
        assert_eq!((vcpu.core.gpr[0], vcpu.core.rip), (1, CODE + u64::from(SIZE) + 2));
        let mut vcpu = run(0, 0);
        vcpu.core.halted = false;
        vcpu.core.rip = CODE;
        vcpu.core.gpr[3] = 7;
        assert!(matches!(vcpu.run(), Ok(Exit::Halted)));
        assert_eq!((vcpu.core.gpr[0], vcpu.core.rip), (21, CODE + u64::from(SIZE) + 2));
    }
}
