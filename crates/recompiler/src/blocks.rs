//! Decoded code: blocks of guest instructions, found by where they lie in memory and how they were to be decoded.

use crate::cpuid::CpuModel;
use crate::fault::Fault;
use crate::interp::{self, Handler};
use crate::mode::Mode;
use crate::smp::granules_of;
use crate::state::{Core, flag};
use crate::translate::Translated;
use hashbrown::HashTable;
use hv::SegmentRegister;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::hash::BuildHasher;

/// One instruction, decoded.
#[derive(Clone)]
pub struct Decoded {
    /// The instruction, with `ip` set to its RIP.
    pub instruction: Instruction,
    /// Its handler in the interpreter.
    pub handler: Handler,
}

/// Where a block lies and what it was decoded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Byte of the RAM file.
    pub offset: u64,
    /// Instruction pointer of the first instruction.
    pub rip: u64,
    /// Mode.
    pub mode: Mode,
    /// Where the block goes on in the next page, as a byte of the RAM file; `None` when it does not.
    pub second: Option<u64>,
}

/// Number of a block in its [`Blocks`].
pub type BlockId = u32;

/// A run of instructions that is entered at its first one.
pub struct Block {
    /// Where it is.
    pub key: Key,
    /// Bytes of guest code.
    pub size: u32,
    /// Times it was entered in the interpreter.
    pub entered: u32,
    /// What there is of it.
    pub body: Body,
}

/// What is kept of a block.
pub enum Body {
    /// To be interpreted.
    Code {
        /// The instructions.
        code: Box<[Decoded]>,
        /// Their bytes.
        bytes: Box<[u8]>,
    },
    /// To be run.
    Translated(Translated),
    /// Nothing: the guest changed the code, or did not come back. Never to be entered again.
    Gone,
}

impl Block {
    /// The pieces of the RAM file that the block depends on, its own bytes first, as offset and size.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let page = self.key.offset & !0xFFF;
        let peeked = self.translated().map(|translated| translated.peeked).unwrap_or_default();
        pieces(self.key, u64::from(self.size)).chain(peeked.pieces(page))
    }

    /// Whether it may be entered.
    pub fn valid(&self) -> bool {
        !matches!(self.body, Body::Gone)
    }

    /// Its instructions and their bytes; none once it is translated.
    pub fn code(&self) -> (&[Decoded], &[u8]) {
        match &self.body {
            Body::Code { code, bytes } => (code, bytes),
            _ => (&[], &[]),
        }
    }

    /// Its host code.
    pub fn translated(&self) -> Option<&Translated> {
        match &self.body {
            Body::Translated(translated) => Some(translated),
            _ => None,
        }
    }
}

fn pieces(key: Key, size: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
    let first = size.min(4096 - (key.offset & 0xFFF));
    let second = key.second.filter(|_| first < size).map(|second| (second, size - first));
    std::iter::once((key.offset, first)).chain(second)
}

/// Instructions a block holds at most.
pub const MAX_INSTRUCTIONS: usize = 64;

/// Bytes they have at most.
const MAX_SIZE: usize = MAX_INSTRUCTIONS * 15;

fn hash(key: &Key) -> u64 {
    FxBuildHasher.hash_one(key)
}

/// All decoded blocks of one vCPU.
#[derive(Default)]
pub struct Blocks {
    /// The blocks by number.
    pub list: Vec<Block>,
    /// Their numbers, by their keys.
    by_key: HashTable<BlockId>,
    by_page: FxHashMap<u64, Vec<BlockId>>,
    /// Numbers of blocks that were dropped.
    free: Vec<BlockId>,
    /// Blocks that were decoded since the last [`Self::drop_cold`].
    fresh: usize,
    /// Blocks decoded in all.
    pub decoded: u64,
    /// Blocks dropped because the guest wrote to them.
    pub invalidations: u64,
}

/// Blocks decoded before those that were never translated are dropped: code that ran once, as much of a booting system's
/// does.
const FRESH: usize = 8192;

/// What there is at an instruction pointer.
pub enum Found {
    /// A block.
    Block(BlockId),
    /// One instruction that cannot be kept: it crosses a page, or does not lie in RAM.
    Single(Box<Decoded>),
}

impl Blocks {
    /// The block that a key finds.
    pub fn known(&self, key: &Key) -> Option<BlockId> {
        self.by_key.find(hash(key), |&id| self.list[id as usize].key == *key).copied()
    }

    /// The block at the processor's instruction pointer, decoding it if need be.
    ///
    /// # Errors
    /// The fault of the instruction fetch.
    pub fn find(&mut self, core: &mut Core, mode: Mode) -> Result<Found, Fault> {
        let linear = core.linear_rip();
        let physical = core.fetch_address(linear)?;
        let Some(offset) = core.layout.offset(physical, 1) else {
            return single(core, mode);
        };
        let mut key = Key { offset, rip: core.rip, mode, second: None };
        if let Some(id) = self.known(&key) {
            return Ok(Found::Block(id));
        }
        let mut bytes = [0; MAX_SIZE];
        let room = bytes.len().min(4096 - (physical & 0xFFF) as usize);
        core.physical_read(physical, &mut bytes[..room]);
        let mut code = decode(&core.cpuid, mode, core.rip, &bytes[..room]);
        if code.is_empty() {
            // The first instruction goes on in the next page, and with it the block.
            let Some(second) = second_page(core, mode) else { return single(core, mode) };
            key.second = Some(second);
            if let Some(id) = self.known(&key) {
                return Ok(Found::Block(id));
            }
            let Some(physical) = core.layout.address_of(second) else { return single(core, mode) };
            core.physical_read(physical, &mut bytes[room..]);
            code = decode(&core.cpuid, mode, core.rip, &bytes);
            if code.is_empty() {
                return single(core, mode);
            }
        }
        let size: usize = code.iter().map(|decoded| decoded.instruction.len()).sum();
        self.add(core, key, code, &bytes[..size])
    }

    fn add(&mut self, core: &mut Core, key: Key, code: Vec<Decoded>, bytes: &[u8]) -> Result<Found, Fault> {
        let size = bytes.len() as u64;
        let mut again = vec![0; bytes.len()];
        let mut at = 0;
        for (offset, length) in pieces(key, size) {
            let Some(physical) = core.layout.address_of(offset) else { return single(core, key.mode) };
            let (shared, memory, mut party) = core.smp();
            shared.register_code(&mut party, memory, offset, length);
            core.physical_read(physical, &mut again[at..at + length as usize]);
            at += length as usize;
        }
        // From here on every store is noticed; one that came since the bytes were read shows now.
        if again != bytes {
            return single(core, key.mode);
        }
        let block = Block {
            key,
            size: size as u32,
            entered: 0,
            body: Body::Code { code: code.into_boxed_slice(), bytes: bytes.into() },
        };
        self.fresh += 1;
        self.decoded += 1;
        let id = match self.free.pop() {
            Some(id) => {
                self.list[id as usize] = block;
                id
            }
            None => {
                self.list.push(block);
                self.list.len() as BlockId - 1
            }
        };
        let list = &self.list;
        self.by_key.insert_unique(hash(&key), id, |&id| hash(&list[id as usize].key));
        for (offset, _) in pieces(key, size) {
            self.by_page.entry(offset >> 12).or_default().push(id);
        }
        Ok(Found::Block(id))
    }

    /// Drops the blocks that overlap `offset..offset + size` of the RAM file; `each` is told of every one.
    pub fn invalidate(&mut self, core: &Core, offset: u64, size: u64, mut each: impl FnMut(Key, Body)) {
        let end = offset + size;
        for page in offset >> 12..=(end.max(offset + 1) - 1) >> 12 {
            let Some(ids) = self.by_page.get_mut(&page) else {
                core.shared.set_granules(core.id, page, 0);
                continue;
            };
            let mut granules = 0;
            ids.retain(|&id| {
                let block = &mut self.list[id as usize];
                let touched = |(start, length)| start < end && offset < start + length;
                if block.valid() && block.pieces().any(touched) {
                    if let Ok(known) = self.by_key.find_entry(hash(&block.key), |&known| known == id) {
                        known.remove();
                    }
                    self.invalidations += 1;
                    each(block.key, std::mem::replace(&mut block.body, Body::Gone));
                }
                if block.valid() {
                    let here = block.pieces().filter(|(start, _)| start >> 12 == page);
                    here.for_each(|(start, length)| granules |= granules_of(start, length));
                }
                block.valid()
            });
            if ids.is_empty() {
                self.by_page.remove(&page);
            }
            core.shared.set_granules(core.id, page, granules);
        }
    }

    /// Whether it is time for [`Self::drop_cold`].
    pub fn crowded(&self) -> bool {
        self.fresh > FRESH
    }

    /// Drops the blocks that were never translated. Numbers of blocks that the caller keeps become stale.
    pub fn drop_cold(&mut self, core: &Core) {
        self.fresh = 0;
        let list = &mut self.list;
        self.by_key.retain(|&mut id| {
            let block = &mut list[id as usize];
            if block.translated().is_none() {
                block.body = Body::Gone;
            }
            block.valid()
        });
        self.by_page.retain(|&page, ids| {
            ids.retain(|&id| list[id as usize].valid());
            let mut granules = 0;
            for &id in &*ids {
                let here = list[id as usize].pieces().filter(|(start, _)| start >> 12 == page);
                here.for_each(|(start, length)| granules |= granules_of(start, length));
            }
            core.shared.set_granules(core.id, page, granules);
            !ids.is_empty()
        });
        self.by_key.shrink_to_fit(|&id| hash(&list[id as usize].key));
        self.free = (0..list.len() as BlockId).filter(|&id| !list[id as usize].valid()).collect();
    }

    /// Drops everything.
    pub fn clear(&mut self, core: &Core) {
        for &page in self.by_page.keys() {
            core.shared.set_granules(core.id, page, 0);
        }
        self.list.clear();
        self.free.clear();
        self.fresh = 0;
        self.by_key.clear();
        self.by_page.clear();
    }
}

/// Where the page behind that of the instruction pointer lies in the RAM file, when it is mapped RAM.
fn second_page(core: &mut Core, mode: Mode) -> Option<u64> {
    let first = mode.linear(core.rip);
    let distance = 4096 - (first & 0xFFF);
    let rip = mode.truncate(core.rip.wrapping_add(distance));
    if !mode.reaches(rip) || mode.linear(rip) != (first | 0xFFF).wrapping_add(1) {
        return None;
    }
    let physical = core.fetch_address(mode.linear(rip)).ok()?;
    core.layout.offset(physical, 4096)
}

/// Decodes instructions from RIP on until one ends the block, or the bytes end or the segment.
fn decode(model: &CpuModel, mode: Mode, rip: u64, bytes: &[u8]) -> Vec<Decoded> {
    let mut decoder = Decoder::with_ip(mode.bits() as u32, bytes, rip, DecoderOptions::NONE);
    let mut code = Vec::with_capacity(8);
    while code.len() < MAX_INSTRUCTIONS && decoder.can_decode() {
        let decoded = decoder.decode();
        let no_more_bytes = decoded.is_invalid() && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes;
        let instruction = model.as_shown(decoded);
        let last = instruction.next_ip().wrapping_sub(1);
        // Code that goes on at offset 0 is another block.
        let beyond_limit = !mode.long() && (!mode.reaches(last) || mode.truncate(last) != last);
        if no_more_bytes || beyond_limit {
            break;
        }
        let ends = instruction.is_invalid() || ends_block(&instruction, mode);
        code.push(Decoded { handler: interp::handler(&instruction), instruction });
        if ends {
            break;
        }
    }
    code
}

/// Whether a block cannot go on behind an instruction: it branches, or changes the mode that code is decoded or
/// interrupted in.
fn ends_block(instruction: &Instruction, mode: Mode) -> bool {
    use iced_x86::{Mnemonic::*, Register};
    if instruction.flow_control() != FlowControl::Next {
        return true;
    }
    match instruction.mnemonic() {
        Popf | Popfd | Popfq | Hlt | Lmsw | Clts | Invlpg | Invpcid | Wrmsr | Xsetbv | Stac | Clac | Lss | Lgdt
        | Lidt | Lldt | Ltr | Wbinvd | Invd | Mwait | Rsm | Xrstor | Xrstor64 => true,
        // Only a base changes, which is not part of the mode.
        Lds => !mode.loads_base(Register::DS),
        Les => !mode.loads_base(Register::ES),
        Lfs => !mode.loads_base(Register::FS),
        Lgs => !mode.loads_base(Register::GS),
        Mov | Pop => {
            let register = instruction.op0_register();
            let segment = register.is_segment_register() && (!mode.loads_base(register) || register == Register::SS);
            segment || register.is_cr() || register.is_dr()
        }
        Insb | Insd | Insw | Outsb | Outsd | Outsw | Out | In => true,
        _ => instruction.has_rep_prefix() || instruction.has_repne_prefix(),
    }
}

/// Decodes the one instruction at the instruction pointer, wherever its bytes come from.
fn single(core: &mut Core, mode: Mode) -> Result<Found, Fault> {
    decode_single(core, mode).map(|decoded| Found::Single(Box::new(decoded)))
}

fn decode_single(core: &mut Core, mode: Mode) -> Result<Decoded, Fault> {
    let linear = core.linear_rip();
    let mut bytes = [0; 15];
    let mut have = 0;
    while have < bytes.len() {
        let mut at = linear.wrapping_add(have as u64);
        if !mode.long() {
            at &= 0xFFFF_FFFF;
            let offset = core.rip + have as u64;
            if offset > u64::from(core.segments[SegmentRegister::Cs as usize].limit) {
                break;
            }
        }
        let length = (bytes.len() - have).min(4096 - (at & 0xFFF) as usize);
        // A fault on the second page counts only if the instruction reaches it.
        let physical = match core.fetch_address(at) {
            Ok(physical) => physical,
            Err(fault) if have == 0 => return Err(fault),
            Err(fault) => {
                let mut decoder = Decoder::with_ip(mode.bits() as u32, &bytes[..have], core.rip, DecoderOptions::NONE);
                let instruction = core.cpuid.as_shown(decoder.decode());
                if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
                    return Err(fault);
                }
                return Ok(Decoded { handler: interp::handler(&instruction), instruction });
            }
        };
        core.physical_read(physical, &mut bytes[have..have + length]);
        have += length;
    }
    let mut decoder = Decoder::with_ip(mode.bits() as u32, &bytes[..have], core.rip, DecoderOptions::NONE);
    let instruction = core.cpuid.as_shown(decoder.decode());
    if have < bytes.len() && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
        // The segment ends inside the instruction.
        return Err(Fault::GP0);
    }
    // Fifteen bytes that are still no instruction: too long.
    if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
        return Err(Fault::GP0);
    }
    Ok(Decoded { handler: interp::handler(&instruction), instruction })
}

/// The one instruction at the instruction pointer.
///
/// # Errors
/// The fault of the instruction fetch.
pub fn fetch_one(core: &mut Core) -> Result<Decoded, Fault> {
    let mode = Mode::of(core);
    decode_single(core, mode)
}

/// Whether single steps or breakpoints force one instruction at a time.
pub fn debugged(core: &Core) -> bool {
    core.rflags & flag::TF != 0 || core.dr7 & 0xFF != 0
}
