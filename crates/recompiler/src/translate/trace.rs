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
