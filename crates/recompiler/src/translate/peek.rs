//! What the code behind a block does with the flags: mostly it overwrites them unread, and then nobody has to keep them.
//!
//! Looked at is code of the block's own page alone, which is mapped wherever the block is. The block depends on its bytes as
//! on its own: it is dropped when they change.

use super::flags::{self, ALL, Flags};
use crate::blocks::Key;
use crate::cpuid::CpuModel;
use crate::state::Core;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

/// Most instructions looked at on each way out of a block.
const MOST: usize = 12;

/// Flags that are wanted behind a block, and why.
pub struct Peeked {
    /// The flags.
    pub wanted: Flags,
    /// The bytes of the RAM file this was read from, as offset and size.
    pub pieces: Vec<(u64, u64)>,
}

impl Peeked {
    fn nothing() -> Self {
        Peeked { wanted: ALL, pieces: Vec::new() }
    }
}

/// Looks behind the last instruction of a block, and has stores to what was looked at noticed from then on.
pub fn behind(core: &mut Core, key: Key, last: &Instruction) -> Peeked {
    let Some(ways) = ways(last).filter(|_| key.mode.long() && key.second.is_none()) else { return Peeked::nothing() };
    let page = key.offset & !0xFFF;
    let Some(physical) = core.memory.address_of(page) else { return Peeked::nothing() };
    let mut bytes = [0; 4096];
    core.physical_read(physical, &mut bytes);
    let start = key.rip.wrapping_sub(key.offset & 0xFFF);
    let mut walk = Walk { model: &core.cpuid.clone(), bytes: &bytes, start, seen: Vec::new() };
    let wanted = ways.into_iter().flatten().fold(0, |wanted, rip| wanted | walk.from(rip));
    if wanted == ALL {
        return Peeked::nothing();
    }
    let seen = walk.seen;
    for &(at, size) in &seen {
        let (shared, memory, mut party) = core.smp();
        shared.register_code(&mut party, memory, page + at as u64, size as u64);
    }
    // A store that came since the bytes were read shows now.
    let mut again = [0; 4096];
    core.physical_read(physical, &mut again);
    if seen.iter().any(|&(at, size)| again[at..at + size] != bytes[at..at + size]) {
        return Peeked::nothing();
    }
    Peeked { wanted, pieces: seen.into_iter().map(|(at, size)| (page + at as u64, size as u64)).collect() }
}

/// Where an instruction at the end of a block leads; `None` where that is not known.
fn ways(last: &Instruction) -> Option<[Option<u64>; 2]> {
    let target = || Some(last.near_branch_target());
    match last.flow_control() {
        FlowControl::Next => Some([Some(last.next_ip()), None]),
        FlowControl::UnconditionalBranch if last.is_jmp_short_or_near() => Some([target(), None]),
        FlowControl::Call if last.is_call_near() => Some([target(), None]),
        FlowControl::ConditionalBranch if last.is_jcc_short_or_near() => Some([target(), Some(last.next_ip())]),
        _ => None,
    }
}

struct Walk<'a> {
    model: &'a CpuModel,
    /// The page.
    bytes: &'a [u8; 4096],
    /// Instruction pointer of its first byte.
    start: u64,
    /// Pieces of the page that were looked at.
    seen: Vec<(usize, usize)>,
}

impl Walk<'_> {
    /// The flags that code wants.
    fn from(&mut self, mut rip: u64) -> Flags {
        let (mut wanted, mut killed) = (0, 0);
        let mut piece: Option<(usize, usize)> = None;
        for _ in 0..MOST {
            let at = rip.wrapping_sub(self.start);
            let Some(bytes) = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)) else { break };
            let decoded = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
            let instruction = self.model.as_shown(decoded);
            if instruction.is_invalid() {
                break;
            }
            let (at, size) = (at as usize, instruction.len());
            piece = match piece {
                Some((first, length)) if first + length == at => Some((first, length + size)),
                before => {
                    self.seen.extend(before);
                    Some((at, size))
                }
            };
            let used = of(&instruction);
            wanted |= used.0 & !killed;
            killed |= used.1;
            if killed == ALL {
                break;
            }
            match ways(&instruction) {
                Some([Some(next), None]) => rip = next,
                _ => break,
            }
        }
        self.seen.extend(piece);
        wanted | ALL & !killed
    }
}

/// The flags that an instruction reads, and those that it surely overwrites. HLT is where others look at a processor.
fn of(instruction: &Instruction) -> (Flags, Flags) {
    let used = flags::of(instruction);
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if instruction.mnemonic() == Mnemonic::Hlt {
        (ALL, 0)
    } else if repeated && instruction.is_string_instruction() {
        (used.reads | used.writes, 0)
    } else {
        (used.reads, used.writes)
    }
}
