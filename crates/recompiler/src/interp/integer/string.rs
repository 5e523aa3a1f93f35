//! MOVS, STOS, LODS, CMPS and SCAS with their repeat prefixes.
//!
//! A repeated instruction does a bounded piece of work per call and leaves RIP on itself while elements are left, so
//! that interrupts get in. Forward MOVS and STOS inside RAM go a page at a time.

use super::atomic;
use super::flags::{self, mask};
use super::operand::{linear_address, read_linear, read_register, segment_index, size, write_linear, write_register};
use crate::fault::Fault;
use crate::mmu::{Kind, Target};
use crate::state::{Core, Executed, flag};
use crate::tlb::slot;
use hv::{Gpr, SegmentRegister};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Elements done one by one in one call.
const CHUNK: u64 = 1024;

/// What an instruction's encoding says about its strings.
struct Strings {
    /// Bytes of an element.
    element: usize,
    /// Bytes of SI, DI and CX.
    address: usize,
    /// Segment of the source.
    segment: SegmentRegister,
}

impl Strings {
    fn of(instruction: &Instruction) -> Self {
        let memory = (0..instruction.op_count())
            .map(|operand| instruction.op_kind(operand))
            .find(|kind| !matches!(kind, OpKind::Register))
            .unwrap_or(OpKind::MemorySegRSI);
        let address = match memory {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 4,
            _ => 8,
        };
        // STOS and SCAS have no source segment; their memory operand's segment is ES and unused here.
        let segment = segment_index(instruction.memory_segment());
        Strings { element: size(instruction, 0), address, segment }
    }

    fn register(&self, gpr: Gpr) -> Register {
        let first = match self.address {
            2 => Register::AX,
            4 => Register::EAX,
            _ => Register::RAX,
        };
        first + gpr as u32
    }

    fn get(&self, core: &Core, gpr: Gpr) -> u64 {
        read_register(core, self.register(gpr))
    }

    fn set(&self, core: &mut Core, gpr: Gpr, value: u64) {
        write_register(core, self.register(gpr), value);
    }

    /// Moves SI or DI over `count` elements in the direction of DF.
    fn advance(&self, core: &mut Core, gpr: Gpr, count: u64) {
        let bytes = count.wrapping_mul(self.element as u64);
        let step = if core.rflags & flag::DF != 0 { bytes.wrapping_neg() } else { bytes };
        let value = self.get(core, gpr).wrapping_add(step);
        self.set(core, gpr, value);
    }

    fn source(&self, core: &Core) -> Result<u64, Fault> {
        linear_address(core, self.segment, self.get(core, Gpr::Rsi), self.element, false)
    }

    fn destination(&self, core: &Core, write: bool) -> Result<u64, Fault> {
        linear_address(core, SegmentRegister::Es, self.get(core, Gpr::Rdi), self.element, write)
    }

    /// How many whole elements, at most `limit`, the page at `linear` and the width of the index register leave.
    fn elements_ahead(&self, linear: u64, index: u64, limit: u64) -> u64 {
        let page = 4096 - (linear & 0xFFF);
        let register = (mask(self.address) - index).saturating_add(1);
        limit.min(page.min(register) / self.element as u64)
    }
}

/// Runs `element` once, or as often as a repeat prefix says; `element` returns how many elements it did (of at most the
/// number it is given) and whether to go on.
fn repeat(
    core: &mut Core,
    instruction: &Instruction,
    strings: &Strings,
    mut element: impl FnMut(&mut Core, u64) -> Result<(u64, bool), Fault>,
) -> Executed {
    if !instruction.has_rep_prefix() && !instruction.has_repne_prefix() {
        element(core, 1)?;
        return Ok(());
    }
    let mut left = strings.get(core, Gpr::Rcx);
    // A single step is one element.
    let mut budget = if core.stops_at_each_element() { 1 } else { CHUNK };
    while left != 0 {
        if budget == 0 {
            core.next_rip = core.rip;
            return Ok(());
        }
        let most = if core.stops_at_each_element() { 1 } else { left };
        let (done, go_on) = element(core, most)?;
        left -= done;
        budget -= 1;
        strings.set(core, Gpr::Rcx, left);
        if !go_on {
            break;
        }
    }
    Ok(())
}

/// The host address of readable RAM behind a linear address, when the TLB knows it after a read there.
fn readable(core: &mut Core, linear: u64) -> Result<Option<*const u8>, Fault> {
    let view = core.view();
    let hit = |core: &Core| {
        let entry = &core.tlb.entries[view as usize][slot(linear)];
        (entry.read == linear & !0xFFF).then_some((entry.host + (linear & 0xFFF)) as *const u8)
    };
    if let Some(host) = hit(core) {
        return Ok(Some(host));
    }
    core.probe(linear, 1, Kind::Read)?;
    Ok(hit(core))
}

/// Forward runs only: the direction flag is clear and segments hold the whole run.
fn run_fits(core: &Core, strings: &Strings, segment: SegmentRegister, index: u64, count: u64, write: bool) -> bool {
    let bytes = count as usize * strings.element;
    count > 1 && core.rflags & flag::DF == 0 && linear_address(core, segment, index, bytes, write).is_ok()
}

/// Copies up to a page of elements at once. `None`: this run needs the element-wise way.
fn move_run(core: &mut Core, strings: &Strings, most: u64) -> Result<Option<u64>, Fault> {
    let (from, to) = (strings.source(core)?, strings.destination(core, true)?);
    let (si, di) = (strings.get(core, Gpr::Rsi), strings.get(core, Gpr::Rdi));
    let count = strings.elements_ahead(to, di, strings.elements_ahead(from, si, most));
    if !run_fits(core, strings, strings.segment, si, count, false)
        || !run_fits(core, strings, SegmentRegister::Es, di, count, true)
    {
        return Ok(None);
    }
    let bytes = count as usize * strings.element;
    let Some(source) = readable(core, from)? else { return Ok(None) };
    let Target::Ram(target) = core.target(to, bytes as u64)? else { return Ok(None) };
    // A destination a little ahead of its source repeats a pattern.
    let ahead = (target as usize).wrapping_sub(source as usize);
    if ahead != 0 && ahead < bytes {
        return Ok(None);
    }
    // SAFETY: both are RAM that stays mapped, each run within its page; `copy` allows the overlap that remains.
    unsafe { std::ptr::copy(source, target, bytes) };
    core.stored(target, bytes as u64);
    Ok(Some(count))
}

fn movs(core: &mut Core, instruction: &Instruction) -> Executed {
    let strings = Strings::of(instruction);
    repeat(core, instruction, &strings, |core, most| {
        let run = if most > 1 { move_run(core, &strings, most)? } else { None };
        let done = match run {
            Some(done) => done,
            None => {
                let from = strings.source(core)?;
                let value = read_linear(core, from, strings.element)?;
                let to = strings.destination(core, true)?;
                write_linear(core, to, strings.element, value)?;
                1
            }
        };
        strings.advance(core, Gpr::Rsi, done);
        strings.advance(core, Gpr::Rdi, done);
        Ok((done, true))
    })
}

/// Fills up to a page at once, as [`move_run`].
fn fill_run(core: &mut Core, strings: &Strings, value: u64, most: u64) -> Result<Option<u64>, Fault> {
    let to = strings.destination(core, true)?;
    let di = strings.get(core, Gpr::Rdi);
    let count = strings.elements_ahead(to, di, most);
    if !run_fits(core, strings, SegmentRegister::Es, di, count, true) {
        return Ok(None);
    }
    let bytes = count as usize * strings.element;
    let Target::Ram(target) = core.target(to, bytes as u64)? else { return Ok(None) };
    let pattern = value.to_le_bytes();
    if pattern[..strings.element].iter().all(|&byte| byte == pattern[0]) {
        // SAFETY: `target` gives `bytes` of writable RAM within one page.
        unsafe { std::ptr::write_bytes(target, pattern[0], bytes) };
    } else {
        for index in 0..count as usize {
            // SAFETY: as above; the last element ends at `bytes`.
            unsafe { atomic::store(target.add(index * strings.element), strings.element, value) };
        }
    }
    core.stored(target, bytes as u64);
    Ok(Some(count))
}

fn stos(core: &mut Core, instruction: &Instruction) -> Executed {
    let strings = Strings::of(instruction);
    let value = core.gpr[Gpr::Rax as usize];
    repeat(core, instruction, &strings, |core, most| {
        let run = if most > 1 { fill_run(core, &strings, value, most)? } else { None };
        let done = match run {
            Some(done) => done,
            None => {
                let to = strings.destination(core, true)?;
                write_linear(core, to, strings.element, value)?;
                1
            }
        };
        strings.advance(core, Gpr::Rdi, done);
        Ok((done, true))
    })
}

fn lods(core: &mut Core, instruction: &Instruction) -> Executed {
    let strings = Strings::of(instruction);
    repeat(core, instruction, &strings, |core, _| {
        let from = strings.source(core)?;
        let value = read_linear(core, from, strings.element)?;
        write_register(core, instruction.op0_register(), value);
        strings.advance(core, Gpr::Rsi, 1);
        Ok((1, true))
    })
}

/// Sets the flags of a comparison and says whether REPE or REPNE goes on.
fn compare(core: &mut Core, instruction: &Instruction, left: u64, right: u64, element: usize) -> bool {
    let flags = flags::subtract(left, right, false, element).1;
    flags::set(core, flag::ARITHMETIC, flags);
    (flags & flag::ZF != 0) == instruction.has_rep_prefix()
}

fn cmps(core: &mut Core, instruction: &Instruction) -> Executed {
    let strings = Strings::of(instruction);
    repeat(core, instruction, &strings, |core, _| {
        let from = strings.source(core)?;
        let left = read_linear(core, from, strings.element)?;
        let with = strings.destination(core, false)?;
        let right = read_linear(core, with, strings.element)?;
        strings.advance(core, Gpr::Rsi, 1);
        strings.advance(core, Gpr::Rdi, 1);
        Ok((1, compare(core, instruction, left, right, strings.element)))
    })
}

fn scas(core: &mut Core, instruction: &Instruction) -> Executed {
    let strings = Strings::of(instruction);
    let left = read_register(core, instruction.op0_register());
    repeat(core, instruction, &strings, |core, _| {
        let with = strings.destination(core, false)?;
        let right = read_linear(core, with, strings.element)?;
        strings.advance(core, Gpr::Rdi, 1);
        Ok((1, compare(core, instruction, left, right, strings.element)))
    })
}

/// The handler of a string instruction other than port I/O. The SSE instructions MOVSD and CMPSD share names with two of
/// these and are told apart by [`Instruction::is_string_instruction`].
pub(super) fn handler(instruction: &Instruction) -> Option<crate::interp::Handler> {
    if !instruction.is_string_instruction() {
        return None;
    }
    Some(match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => movs,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => stos,
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => lods,
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => cmps,
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => scas,
        _ => return None,
    })
}
