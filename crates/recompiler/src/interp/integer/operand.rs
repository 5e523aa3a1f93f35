//! Operands of integer instructions: registers, effective addresses, segments, memory.

use super::atomic;
use super::flags;
use crate::fault::{Fault, vector};
use crate::mmu::Target;
use crate::state::{Bits, Core, Executed, cr0, flag};
use hv::{Segment, SegmentRegister};
use iced_x86::{CodeSize, Instruction, OpKind, Register};

/// Bytes of an operand that is a register or in memory; an immediate's after its sign extension.
pub(crate) fn size(instruction: &Instruction, operand: u32) -> usize {
    match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        OpKind::Immediate8 | OpKind::Immediate8_2nd => 1,
        OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
        _ => instruction.memory_size().size(),
    }
}

/// Whether an operand lies in memory.
pub(crate) fn in_memory(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Memory
}

/// Reads a general register (zero-extended) or a segment register's selector.
#[inline]
pub(crate) fn read_register(core: &Core, register: Register) -> u64 {
    let number = register as usize;
    if register >= Register::RAX && register <= Register::R15 {
        core.gpr[number - Register::RAX as usize]
    } else if register >= Register::EAX && register <= Register::R15D {
        core.gpr[number - Register::EAX as usize] & 0xFFFF_FFFF
    } else if register >= Register::AX && register <= Register::R15W {
        core.gpr[number - Register::AX as usize] & 0xFFFF
    } else if register >= Register::AL && register <= Register::R15L {
        match number - Register::AL as usize {
            low @ 0..4 => core.gpr[low] & 0xFF,
            high @ 4..8 => core.gpr[high - 4] >> 8 & 0xFF,
            extended => core.gpr[(extended - 4) & 15] & 0xFF,
        }
    } else if register >= Register::ES && register <= Register::GS {
        u64::from(core.segments[number - Register::ES as usize].selector)
    } else {
        0
    }
}

/// Writes a general register: 32-bit writes clear the upper half, narrower ones keep the rest.
#[inline]
pub(crate) fn write_register(core: &mut Core, register: Register, value: u64) {
    let number = register as usize;
    if register >= Register::RAX && register <= Register::R15 {
        core.gpr[number - Register::RAX as usize] = value;
    } else if register >= Register::EAX && register <= Register::R15D {
        core.gpr[number - Register::EAX as usize] = value & 0xFFFF_FFFF;
    } else if register >= Register::AX && register <= Register::R15W {
        let gpr = &mut core.gpr[number - Register::AX as usize];
        *gpr = *gpr & !0xFFFF | value & 0xFFFF;
    } else if register >= Register::AL && register <= Register::R15L {
        let (index, shift) = match number - Register::AL as usize {
            low @ 0..4 => (low, 0),
            high @ 4..8 => (high - 4, 8),
            extended => ((extended - 4) & 15, 0),
        };
        let gpr = &mut core.gpr[index];
        *gpr = *gpr & !(0xFF << shift) | (value & 0xFF) << shift;
    }
}

/// The index of a segment register, by its iced name; DS for anything else.
pub(crate) fn segment_index(register: Register) -> SegmentRegister {
    match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => SegmentRegister::Ds,
    }
}

/// Bytes of an instruction's address size (2, 4 or 8), for instructions with a memory operand.
pub(crate) fn address_size(instruction: &Instruction) -> usize {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if base != Register::None {
        return if base == Register::EIP { 4 } else { base.size().clamp(2, 8) };
    }
    if index.is_gpr() {
        return index.size().clamp(2, 8);
    }
    match (instruction.memory_displ_size(), instruction.code_size()) {
        (size @ (2 | 4 | 8), _) => size as usize,
        (_, CodeSize::Code16) => 2,
        (_, CodeSize::Code32) => 4,
        _ => 8,
    }
}

/// Base, index and displacement of the memory operand, before segmentation; truncated to the address size.
/// A vector index (VSIB) counts as zero.
#[inline]
pub(crate) fn effective_offset(core: &Core, instruction: &Instruction) -> u64 {
    let base = instruction.memory_base();
    let mut offset = instruction.memory_displacement64();
    if base == Register::RIP || base == Register::EIP {
        // The decoder made it absolute; code may have been decoded at another linear address than it runs at.
        offset = offset.wrapping_sub(instruction.next_ip()).wrapping_add(core.next_rip);
    } else if base != Register::None {
        offset = offset.wrapping_add(read_register(core, base));
    }
    let index = instruction.memory_index();
    if index != Register::None {
        let scale = u64::from(instruction.memory_index_scale());
        offset = offset.wrapping_add(read_register(core, index).wrapping_mul(scale));
    }
    offset & flags::mask(address_size(instruction))
}

/// Whether a linear address is canonical (48 bits).
#[inline]
pub(crate) fn canonical(linear: u64) -> bool {
    (linear as i64) << 16 >> 16 == linear as i64
}

/// The linear address of `size` bytes at `offset` in a segment, after the checks of the Intel SDM volume 3A, section 5.3
/// and 5.4: limit, type, null selector; canonical form; alignment when it is checked.
///
/// # Errors
/// #GP(0), #SS(0) for the stack segment, #AC(0).
#[inline]
pub(crate) fn linear_address(
    core: &Core,
    segment: SegmentRegister,
    offset: u64,
    size: usize,
    write: bool,
) -> Result<u64, Fault> {
    let linear = if core.bits() == Bits::B64 {
        let linear = match segment {
            SegmentRegister::Fs | SegmentRegister::Gs => offset.wrapping_add(core.segments[segment as usize].base),
            _ => offset,
        };
        if !canonical(linear) {
            return Err(if segment == SegmentRegister::Ss { Fault::SS0 } else { Fault::GP0 });
        }
        linear
    } else {
        let found = &core.segments[segment as usize];
        if !in_segment(core, found, offset, size as u64, write) {
            return Err(if segment == SegmentRegister::Ss { Fault::SS0 } else { Fault::GP0 });
        }
        found.base.wrapping_add(offset) & 0xFFFF_FFFF
    };
    if core.rflags & flag::AC != 0 && matches!(size, 2 | 4 | 8 | 10) {
        check_alignment(core, linear, if size == 10 { 8 } else { size as u64 })?;
    }
    Ok(linear)
}

/// #AC(0) for a misaligned access at CPL 3 when both CR0.AM and RFLAGS.AC ask for it.
fn check_alignment(core: &Core, linear: u64, size: u64) -> Executed {
    if core.cr0 & cr0::AM != 0 && core.cpl() == 3 && linear % size != 0 {
        return Err(Fault::with_error(vector::AC, 0));
    }
    Ok(())
}

/// Bits of a segment's type.
const CODE: u16 = 1 << 3;
const EXPAND_DOWN: u16 = 1 << 2;

/// Limit and type checks outside 64-bit mode.
fn in_segment(core: &Core, segment: &Segment, offset: u64, size: u64, write: bool) -> bool {
    allowed(core, segment, write) && within_limit(segment, offset, size)
}

/// Type checks.
fn allowed(core: &Core, segment: &Segment, write: bool) -> bool {
    const WRITABLE_OR_READABLE: u16 = 1 << 1;
    if !core.protected() || core.vm86() {
        return true;
    }
    let code = segment.access & CODE != 0;
    let allowed = segment.access & WRITABLE_OR_READABLE != 0;
    let forbidden = if write { code || !allowed } else { code && !allowed };
    segment.access & Segment::P != 0 && !forbidden
}

/// Whether a segment may be accessed from offset 0 to its limit.
pub(crate) fn reachable_from_0(core: &Core, segment: &Segment, write: bool) -> bool {
    allowed(core, segment, write) && segment.access & (CODE | EXPAND_DOWN) != EXPAND_DOWN
}

/// Whether `size` bytes at an offset of at most 32 bits lie within a segment's limit.
pub(crate) fn within_limit(segment: &Segment, offset: u64, size: u64) -> bool {
    let limit = u64::from(segment.limit);
    let last = offset + size.max(1) - 1;
    if segment.access & (CODE | EXPAND_DOWN) == EXPAND_DOWN {
        let top = if segment.access & Segment::DB != 0 { 0xFFFF_FFFF } else { 0xFFFF };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

/// The linear address of the memory operand, checked for an access of `size` bytes.
///
/// # Errors
/// As [`linear_address`].
#[inline]
pub(crate) fn memory(core: &Core, instruction: &Instruction, size: usize, write: bool) -> Result<u64, Fault> {
    let segment = segment_index(instruction.memory_segment());
    linear_address(core, segment, effective_offset(core, instruction), size, write)
}

/// Reads 1, 2, 4 or 8 bytes, zero-extended.
#[inline]
pub(crate) fn read_linear(core: &mut Core, linear: u64, size: usize) -> Result<u64, Fault> {
    Ok(match size {
        1 => u64::from(core.read::<u8>(linear)?),
        2 => u64::from(core.read::<u16>(linear)?),
        4 => u64::from(core.read::<u32>(linear)?),
        _ => core.read::<u64>(linear)?,
    })
}

/// Writes the low 1, 2, 4 or 8 bytes of a value.
#[inline]
pub(crate) fn write_linear(core: &mut Core, linear: u64, size: usize, value: u64) -> Executed {
    match size {
        1 => core.write(linear, value as u8),
        2 => core.write(linear, value as u16),
        4 => core.write(linear, value as u32),
        _ => core.write(linear, value),
    }
}

/// The value of any integer operand. Register and memory operands are zero-extended; immediates are sign-extended as
/// their encoding says, then truncated by whoever uses them.
#[inline]
pub(crate) fn load(core: &mut Core, instruction: &Instruction, operand: u32) -> Result<u64, Fault> {
    match instruction.op_kind(operand) {
        OpKind::Register => Ok(read_register(core, instruction.op_register(operand))),
        OpKind::Memory => {
            let size = instruction.memory_size().size();
            let linear = memory(core, instruction, size, false)?;
            read_linear(core, linear, size)
        }
        _ => Ok(instruction.immediate(operand)),
    }
}

/// Writes a register or memory operand.
#[inline]
pub(crate) fn store(core: &mut Core, instruction: &Instruction, operand: u32, value: u64) -> Executed {
    if in_memory(instruction, operand) {
        let size = instruction.memory_size().size();
        let linear = memory(core, instruction, size, true)?;
        write_linear(core, linear, size, value)
    } else {
        write_register(core, instruction.op_register(operand), value);
        Ok(())
    }
}

/// Reads operand 0, changes it and writes it back; `change` gives the new value and anything else worth returning. It may
/// run several times under LOCK. Nothing is changed when the operand cannot be written.
#[inline]
pub(crate) fn modify<R>(
    core: &mut Core,
    instruction: &Instruction,
    change: impl Fn(u64) -> (u64, R),
) -> Result<R, Fault> {
    if in_memory(instruction, 0) {
        let size = instruction.memory_size().size();
        let linear = memory(core, instruction, size, true)?;
        return modify_linear(core, linear, size, instruction.has_lock_prefix(), change);
    }
    let register = instruction.op0_register();
    let (value, result) = change(read_register(core, register));
    write_register(core, register, value);
    Ok(result)
}

/// [`modify`] at a linear address that was checked for writing.
#[inline]
pub(crate) fn modify_linear<R>(
    core: &mut Core,
    linear: u64,
    size: usize,
    locked: bool,
    change: impl Fn(u64) -> (u64, R),
) -> Result<R, Fault> {
    match core.target(linear, size as u64)? {
        Target::Ram(host) if !locked => {
            // SAFETY: `target` gives RAM that stays mapped, with `size` bytes inside one page.
            let (value, result) = change(unsafe { atomic::load(host, size) });
            // SAFETY: as above; `target` has checked for writing.
            unsafe { atomic::store(host, size, value) };
            core.stored(host, size as u64);
            Ok(result)
        }
        Target::Ram(host) if !atomic::crosses_line(host, size) => {
            // SAFETY: as above.
            let mut old = unsafe { atomic::load(host, size) };
            loop {
                let (value, result) = change(old);
                // SAFETY: as above; the access stays within a cache line.
                match unsafe { atomic::compare_exchange(host, size, old, value) } {
                    Ok(()) => {
                        core.stored(host, size as u64);
                        return Ok(result);
                    }
                    Err(found) => old = found,
                }
            }
        }
        _ if locked => atomic::modify_split(core, linear, size, change),
        _ => modify_slowly(core, linear, size, change),
    }
}

/// [`modify`] in two accesses.
pub(super) fn modify_slowly<R>(
    core: &mut Core,
    linear: u64,
    size: usize,
    change: impl Fn(u64) -> (u64, R),
) -> Result<R, Fault> {
    let (value, result) = change(read_linear(core, linear, size)?);
    write_linear(core, linear, size, value)?;
    Ok(result)
}
