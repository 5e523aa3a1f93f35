//! What the code where a trace is left does with the flags: mostly it overwrites them unread, and then nobody has to keep them.
//!
//! Looked at is code of the block's own page alone, which is mapped wherever the block is. The block depends on its bytes as
//! on its own: it is dropped when they change.

use super::flags::{self, ALL, Flags};
use super::trace::Trace;
use crate::blocks::Key;
use crate::cpuid::CpuModel;
use crate::state::Core;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

/// Most instructions looked at on each way out.
const MOST: usize = 12;

/// Flags that are wanted where a trace is left, and why.
pub struct Peeked {
    /// The flags: where the branches in the middle lead, by their indices, and behind the last instruction.
    wanted: Vec<(usize, Flags)>,
    /// The bytes that this was read from.
    pub pieces: Pieces,
}

impl Peeked {
    /// What is wanted where instruction `index` leads: nothing for one that leads to the next.
    pub fn wanted(&self, index: usize) -> Flags {
        self.wanted.iter().find(|&&(known, _)| known == index).map_or(0, |&(_, wanted)| wanted)
    }
}

/// Pieces of a page, as offset and size; a size of 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pieces([(u16, u16); MOST_PIECES]);

const MOST_PIECES: usize = 4;

impl Pieces {
    /// The pieces that instructions lie in, or where there are too many, one that holds all.
    fn of(seen: &[Seen]) -> Self {
        let mut pieces = Pieces::default();
        let mut used = 0;
        for &Seen { at, size, .. } in seen {
            let (at, size) = (at as u16, size as u16);
            match pieces.0[..used].last_mut() {
                Some((first, length)) if *first + *length == at => *length += size,
                _ if used < MOST_PIECES => {
                    pieces.0[used] = (at, size);
                    used += 1;
                }
                _ => {
                    let start = seen.iter().map(|seen| seen.at).min().unwrap_or(0);
                    let end = seen.iter().map(|seen| seen.at + seen.size).max().unwrap_or(start);
                    let mut one = Pieces::default();
                    one.0[0] = (start as u16, (end - start) as u16);
                    return one;
                }
            }
        }
        pieces
    }

    /// In the RAM file, where the page is at `page`: offset and size of each.
    pub fn pieces(self, page: u64) -> impl Iterator<Item = (u64, u64)> {
        self.0.into_iter().filter(|&(_, size)| size != 0).map(move |(at, size)| (page + u64::from(at), u64::from(size)))
    }
}

/// Looks behind the branches of a trace and its last instruction, and has stores to what was looked at noticed from then on.
pub fn behind(core: &mut Core, trace: &Trace) -> Peeked {
    let last = trace.code.len().saturating_sub(1);
    let exits = trace.branches().chain([last]);
    let nothing = |exits: &mut dyn Iterator<Item = usize>| Peeked {
        wanted: exits.map(|index| (index, ALL)).collect(),
        pieces: Pieces::default(),
    };
    if !trace.key.mode.long() || trace.key.second.is_some() {
        return nothing(&mut exits.into_iter());
    }
    let page = Page::of(core, trace.key);
    let mut walk = Walk { model: &core.cpuid, page: &page, seen: Vec::new() };
    let mut wanted = Vec::new();
    for index in exits {
        let instruction = &trace.code[index].instruction;
        let leads = ways(instruction).map(|[taken, next]| [taken, next.filter(|_| index == last)]);
        let before = walk.seen.len();
        let flags = leads.map_or(ALL, |ways| ways.into_iter().flatten().fold(0, |flags, rip| flags | walk.from(rip)));
        if flags == ALL {
            // Nothing depends on what was seen.
            walk.seen.truncate(before);
        }
        wanted.push((index, flags));
    }
    let seen = walk.seen;
    if seen.is_empty() {
        return Peeked { wanted, pieces: Pieces::default() };
    }
    let pieces = Pieces::of(&seen);
    for (offset, size) in pieces.pieces(page.offset) {
        let (shared, memory, mut party) = core.smp();
        shared.register_code(&mut party, memory, offset, size);
    }
    // A store that came since the bytes were read shows now.
    if seen.iter().any(|seen| page.read(seen.at).0[..seen.size] != seen.bytes[..seen.size]) {
        return nothing(&mut wanted.into_iter().map(|(index, _)| index));
    }
    Peeked { wanted, pieces }
}

/// The page of a block.
struct Page {
    /// Its place in the RAM file.
    offset: u64,
    /// Its place in this process.
    host: *const u8,
    /// Instruction pointer of its first byte.
    start: u64,
}

impl Page {
    fn of(core: &Core, key: Key) -> Self {
        let offset = key.offset & !0xFFF;
        assert!(offset < core.memory.size(), "a block is in the RAM file");
        let host = core.memory.base().wrapping_add(offset as usize);
        Page { offset, host, start: key.rip.wrapping_sub(key.offset & 0xFFF) }
    }

    /// At most the bytes of one instruction, and how many there are before the page ends.
    fn read(&self, at: usize) -> ([u8; 15], usize) {
        let mut bytes = [0; 15];
        let count = bytes.len().min(4096usize.saturating_sub(at));
        // SAFETY: within a page of the RAM file, which stays mapped. Other vCPUs may write there meanwhile: whoever relies on
        // the bytes reads them twice.
        unsafe { std::ptr::copy_nonoverlapping(self.host.wrapping_add(at), bytes.as_mut_ptr(), count) };
        (bytes, count)
    }
}

/// An instruction that was looked at.
struct Seen {
    /// Offset in the page.
    at: usize,
    size: usize,
    bytes: [u8; 15],
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
    page: &'a Page,
    seen: Vec<Seen>,
}

impl Walk<'_> {
    /// The flags that code wants.
    fn from(&mut self, mut rip: u64) -> Flags {
        let (mut wanted, mut killed) = (0, 0);
        for _ in 0..MOST {
            let at = rip.wrapping_sub(self.page.start);
            if at >= 4096 {
                break;
            }
            let at = at as usize;
            let (bytes, count) = self.page.read(at);
            let decoded = Decoder::with_ip(64, &bytes[..count], rip, DecoderOptions::NONE).decode();
            let instruction = self.model.as_shown(decoded);
            if instruction.is_invalid() {
                break;
            }
            self.seen.push(Seen { at, size: instruction.len(), bytes });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Decoded;
    use crate::interp;
    use crate::state::Bits;
    use crate::testing::{self, CODE, DATA, NoKick};
    use crate::vcpu::RecompilerVcpu;
    use hv::{Exit, Vcpu};
    use std::sync::Arc;

    const NOP: u8 = 0x90;

    /// What is wanted behind a jump to some code.
    fn wanted(code: &[u8]) -> Flags {
        let mut core = testing::core(Bits::B64, 0);
        core.memory.write(CODE, &[&[0xEB, 0], code].concat()).expect("RAM");
        let key = Key { offset: CODE, rip: CODE, mode: crate::mode::Mode::of(&core), second: None };
        let instruction = Decoder::with_ip(64, &[0xEB, 0], CODE, DecoderOptions::NONE).decode();
        let jump = Decoded { handler: interp::handler(&instruction), instruction };
        let trace = Trace { key, size: 2, code: vec![jump], bytes: vec![0xEB, 0] };
        behind(&mut core, &trace).wanted(0)
    }

    #[test]
    fn flags_are_wanted_until_they_are_overwritten() {
        use iced_x86::RflagsBits as F;
        assert_eq!(wanted(&[0x48, 0x01, 0xD8]), 0); // add rax, rbx
        assert_eq!(wanted(&[0x89, 0xD8, 0x48, 0x39, 0xD8]), 0); // mov eax, ebx; cmp rax, rbx
        assert_eq!(wanted(&[0xEB, 2, 0xF4, 0xF4, 0x48, 0x39, 0xD8]), 0); // jmp over two HLTs; cmp rax, rbx
        assert_eq!(wanted(&[0x0F, 0x94, 0xC0, 0x39, 0xD8]), F::ZF); // sete al; cmp eax, ebx
        assert_eq!(wanted(&[0xFF, 0xC0, 0x39, 0xD8]), 0); // inc eax, which leaves CF; cmp eax, ebx
        assert_eq!(wanted(&[0x72, 0, 0x39, 0xD8]), ALL); // jb to the next instruction: no further
        assert_eq!(wanted(&[0xFF, 0xC0, 0xC3]), F::CF); // inc eax; ret
        assert_eq!(wanted(&[0x0F, 0x20, 0xC0, 0xF4]), ALL); // mov rax, cr0; hlt
        assert_eq!(wanted(&[0xF4]), ALL); // hlt
        assert_eq!(wanted(&[&[NOP; MOST][..], &[0x39, 0xD8]].concat()), ALL);
        assert_eq!(wanted(&[0x06]), ALL); // no instruction
    }

    #[test]
    fn pieces_hold_all_that_was_seen() {
        let pieces = |seen: &[(usize, usize)]| {
            let seen: Vec<Seen> = seen.iter().map(|&(at, size)| Seen { at, size, bytes: [0; 15] }).collect();
            Pieces::of(&seen).pieces(0x7000).collect::<Vec<_>>()
        };
        assert_eq!(pieces(&[]), []);
        assert_eq!(pieces(&[(16, 3), (19, 2)]), [(0x7010, 5)]);
        assert_eq!(pieces(&[(16, 3), (4090, 6)]), [(0x7010, 3), (0x7FFA, 6)]);
        let many = [(16, 3), (4090, 6), (100, 1), (0, 1), (200, 1)];
        assert_eq!(pieces(&many[..4]), [(0x7010, 3), (0x7FFA, 6), (0x7064, 1), (0x7000, 1)]);
        assert_eq!(pieces(&many), [(0x7000, 4096)]);
    }

    #[test]
    fn a_block_is_translated_afresh_when_what_was_behind_it_changes() {
        // The compare leaves flags that the code behind the jump overwrites, until a store has made that read them.
        let code = [
            &[0xB9, 4, 0, 0, 0][..],         // mov ecx, 4
            &[0x83, 0xF9, 3],                // again: cmp ecx, 3
            &[0xEB, 0],                      // jmp
            &[0x39, 0xC0, NOP],              // cmp eax, eax; nop: later 0F 92 C3, setb bl
            &[0x88, 0x5C, 0x0D, 0],          // mov [rbp + rcx], bl
            &[0x48, 0x8B, 0x7C, 0xCD, 64],   // mov rdi, [rbp + 8 * rcx + 64]
            &[0x66, 0xC7, 0x07, 0x0F, 0x92], // mov word [rdi], 0F 92
            &[0xC6, 0x47, 0x02, 0xC3],       // mov byte [rdi + 2], C3
            &[0xFF, 0xC9],                   // dec ecx
            &[0x75, 0xE2],                   // jnz again
            &[0xF4],                         // hlt
        ]
        .concat();
        let mut core = testing::core(Bits::B64, 0);
        core.memory.write(CODE, &code).expect("RAM");
        core.gpr[3] = 0x77;
        core.gpr[5] = DATA;
        for (ecx, place) in [(1, DATA + 512), (2, DATA + 512), (3, CODE + 10), (4, DATA + 512)] {
            core.memory.write(DATA + 64 + 8 * ecx, &place.to_le_bytes()).expect("RAM");
        }
        let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
        vcpu.translate_after(0);
        assert!(matches!(vcpu.run(), Ok(Exit::Halted)));
        let mut found = [0; 5];
        vcpu.core.memory.read(DATA, &mut found).expect("RAM");
        assert_eq!(found, [0, 1, 1, 0x77, 0x77]);
    }
}
