//! The stack: PUSH, POP, their multiples, flags, frames. Its pointer is 64 bits wide in 64-bit mode, else as wide as SS's
//! D/B bit says. No pointer moves before every access has succeeded.

use super::flags::{mask, when};
use super::operand::{linear_address, load, read_linear, segment_index, store, write_linear, write_register};
use crate::fault::Fault;
use crate::interp::system::segment;
use crate::mmu::Kind;
use crate::state::{Bits, Core, Executed, cr4, flag};
use hv::{Gpr, Segment, SegmentRegister};
use iced_x86::{Code, Instruction, Register};

const RSP: usize = Gpr::Rsp as usize;
const RBP: usize = Gpr::Rbp as usize;

/// Bytes of the stack pointer.
#[inline]
pub(crate) fn pointer_size(core: &Core) -> usize {
    if core.bits() == Bits::B64 {
        8
    } else if core.segments[SegmentRegister::Ss as usize].access & Segment::DB != 0 {
        4
    } else {
        2
    }
}

/// Writes as much of a register as the stack pointer's width says.
#[inline]
fn write_pointer(core: &mut Core, index: usize, width: usize, value: u64) {
    core.gpr[index] = match width {
        2 => core.gpr[index] & !0xFFFF | value & 0xFFFF,
        _ => value & mask(width),
    };
}

/// Moves the stack pointer by some bytes.
#[inline]
pub(crate) fn adjust(core: &mut Core, bytes: u64) {
    let width = pointer_size(core);
    write_pointer(core, RSP, width, core.gpr[RSP].wrapping_add(bytes));
}

/// Pushes the low `size` bytes of a value.
#[inline]
pub(crate) fn push(core: &mut Core, value: u64, size: usize) -> Executed {
    let width = pointer_size(core);
    let pointer = core.gpr[RSP].wrapping_sub(size as u64) & mask(width);
    let linear = linear_address(core, SegmentRegister::Ss, pointer, size, true)?;
    write_linear(core, linear, size, value)?;
    write_pointer(core, RSP, width, pointer);
    Ok(())
}

/// Reads `size` bytes `away` bytes above the stack's top without popping them.
#[inline]
pub(crate) fn peek(core: &mut Core, away: u64, size: usize) -> Result<u64, Fault> {
    let pointer = core.gpr[RSP].wrapping_add(away) & mask(pointer_size(core));
    let linear = linear_address(core, SegmentRegister::Ss, pointer, size, false)?;
    read_linear(core, linear, size)
}

/// Bytes that a PUSH, POP or PUSHF moves.
pub(crate) fn moved(instruction: &Instruction) -> usize {
    (instruction.stack_pointer_increment().unsigned_abs() as usize).clamp(2, 8)
}

pub(super) fn push_operand(core: &mut Core, instruction: &Instruction) -> Executed {
    let value = load(core, instruction, 0)?;
    push(core, value, moved(instruction))
}

pub(super) fn pop_operand(core: &mut Core, instruction: &Instruction) -> Executed {
    let bytes = moved(instruction);
    let value = peek(core, 0, bytes)?;
    let before = core.gpr[RSP];
    // An address with RSP in it uses the pointer after the pop; POP RSP overwrites it.
    adjust(core, bytes as u64);
    store(core, instruction, 0, value).inspect_err(|_| core.gpr[RSP] = before)
}

pub(super) fn pop_segment(core: &mut Core, instruction: &Instruction) -> Executed {
    let bytes = moved(instruction);
    let selector = peek(core, 0, bytes)? as u16;
    let before = core.gpr[RSP];
    adjust(core, bytes as u64);
    let register = instruction.op0_register();
    segment::load(core, segment_index(register), selector).inspect_err(|_| core.gpr[RSP] = before)?;
    if register == Register::SS {
        core.interrupt_shadow = true;
        core.stack_shadow = true;
    }
    Ok(())
}

/// Bytes of each of the eight registers of PUSHA and POPA.
fn element(instruction: &Instruction) -> usize {
    (instruction.stack_pointer_increment().unsigned_abs() as usize / 8).clamp(2, 4)
}

/// Where the eight registers of PUSHA and POPA are, AX first, if DI is at `pointer`. Each is an access of its own to the
/// segment: between two, the pointer may wrap; an element beyond the limit faults.
fn elements(core: &Core, pointer: u64, element: usize, write: bool) -> Result<[u64; 8], Fault> {
    let wrapped = mask(pointer_size(core));
    let mut linear = [0; 8];
    for (index, linear) in linear.iter_mut().enumerate() {
        let pointer = pointer.wrapping_add(((7 - index) * element) as u64) & wrapped;
        *linear = linear_address(core, SegmentRegister::Ss, pointer, element, write)?;
    }
    Ok(linear)
}

/// Whether all lie beside each other, AX highest.
fn in_one_piece(linear: &[u64; 8], element: usize) -> bool {
    linear[0].checked_sub(linear[7]) == Some(7 * element as u64)
}

/// PUSHA and PUSHAD: AX first, with the stack pointer as it was before.
pub(super) fn pusha(core: &mut Core, instruction: &Instruction) -> Executed {
    let element = element(instruction);
    let total = 8 * element;
    let width = pointer_size(core);
    let pointer = core.gpr[RSP].wrapping_sub(total as u64) & mask(width);
    let linear = elements(core, pointer, element, true)?;
    if in_one_piece(&linear, element) {
        let mut block = [0; 32];
        for index in 0..8 {
            let value = core.gpr[index].to_le_bytes();
            block[(7 - index) * element..][..element].copy_from_slice(&value[..element]);
        }
        core.write_bytes(linear[7], &block[..total])?;
    } else {
        for linear in linear {
            core.probe(linear, element as u64, Kind::Write)?;
        }
        for (index, linear) in linear.into_iter().enumerate() {
            write_linear(core, linear, element, core.gpr[index])?;
        }
    }
    write_pointer(core, RSP, width, pointer);
    Ok(())
}

/// POPA and POPAD: the saved stack pointer is skipped.
pub(super) fn popa(core: &mut Core, instruction: &Instruction) -> Executed {
    let element = element(instruction);
    let total = 8 * element;
    let pointer = core.gpr[RSP] & mask(pointer_size(core));
    let linear = elements(core, pointer, element, false)?;
    let mut values = [0; 8];
    if in_one_piece(&linear, element) {
        let mut block = [0; 32];
        core.read_bytes(linear[7], &mut block[..total])?;
        for (index, value) in values.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            bytes[..element].copy_from_slice(&block[(7 - index) * element..][..element]);
            *value = u64::from_le_bytes(bytes);
        }
    } else {
        for (value, linear) in values.iter_mut().zip(linear) {
            *value = read_linear(core, linear, element)?;
        }
    }
    for index in (0..8).filter(|&index| index != RSP) {
        write_pointer(core, index, element, values[index]);
    }
    adjust(core, total as u64);
    Ok(())
}

/// How PUSHF and POPF of `bytes` see IF.
enum InterruptFlag {
    /// As it is.
    Real,
    /// By way of VIF: virtual-8086 mode with CR4.VME, below IOPL 3.
    Virtual,
}

/// In virtual-8086 mode PUSHF and POPF belong to the monitor unless IOPL is 3. Intel SDM volume 3B, section 21.3.3.
fn interrupt_flag(core: &Core, bytes: usize) -> Result<InterruptFlag, Fault> {
    if !core.vm86() || core.rflags & flag::IOPL == flag::IOPL {
        Ok(InterruptFlag::Real)
    } else if core.cr4 & cr4::VME != 0 && bytes == 2 {
        Ok(InterruptFlag::Virtual)
    } else {
        Err(Fault::GP0)
    }
}

pub(super) fn pushf(core: &mut Core, instruction: &Instruction) -> Executed {
    let bytes = moved(instruction);
    let value = match interrupt_flag(core, bytes)? {
        InterruptFlag::Real => core.rflags & !(flag::VM | flag::RF),
        InterruptFlag::Virtual => core.rflags & !flag::IF | flag::IOPL | when(core.rflags & flag::VIF != 0, flag::IF),
    };
    push(core, value, bytes)
}

pub(super) fn popf(core: &mut Core, instruction: &Instruction) -> Executed {
    let bytes = moved(instruction);
    let seen = interrupt_flag(core, bytes)?;
    let mut value = peek(core, 0, bytes)?;
    let mut writable = flag::ARITHMETIC | flag::TF | flag::DF | flag::NT | flag::AC | flag::ID;
    match seen {
        InterruptFlag::Virtual => {
            if value & flag::TF != 0 || (value & flag::IF != 0 && core.rflags & flag::VIP != 0) {
                return Err(Fault::GP0);
            }
            value |= when(value & flag::IF != 0, flag::VIF);
            writable = writable & 0xFFFF | flag::VIF;
        }
        InterruptFlag::Real => {
            if core.cpl() == 0 {
                writable |= flag::IOPL;
            }
            if u64::from(core.cpl()) <= (core.rflags & flag::IOPL) >> 12 {
                writable |= flag::IF;
            }
            writable &= mask(bytes);
        }
    }
    let cleared = if bytes > 2 { flag::RF } else { 0 };
    core.rflags = core.rflags & !(writable | cleared) | value & writable;
    adjust(core, bytes as u64);
    Ok(())
}

pub(super) fn enter(core: &mut Core, instruction: &Instruction) -> Executed {
    let before = core.gpr[RSP];
    build_frame(core, instruction).inspect_err(|_| core.gpr[RSP] = before)
}

fn build_frame(core: &mut Core, instruction: &Instruction) -> Executed {
    let locals = u64::from(instruction.immediate16());
    let level = instruction.immediate8_2nd() & 31;
    let (bytes, frame) = match instruction.code() {
        Code::Enterw_imm16_imm8 => (2, Register::BP),
        Code::Enterd_imm16_imm8 => (4, Register::EBP),
        _ => (8, Register::RBP),
    };
    let width = pointer_size(core);
    push(core, core.gpr[RBP], bytes)?;
    let top = core.gpr[RSP];
    if level > 0 {
        for outer in 1..u64::from(level) {
            let pointer = core.gpr[RBP].wrapping_sub(outer * bytes as u64) & mask(width);
            let linear = linear_address(core, SegmentRegister::Ss, pointer, bytes, false)?;
            let link = read_linear(core, linear, bytes)?;
            push(core, link, bytes)?;
        }
        push(core, top, bytes)?;
    }
    adjust(core, locals.wrapping_neg());
    // The processor makes sure that the new top can be written.
    let pointer = core.gpr[RSP] & mask(width);
    let linear = linear_address(core, SegmentRegister::Ss, pointer, bytes, true)?;
    core.probe(linear, bytes as u64, Kind::Write)?;
    write_register(core, frame, top);
    Ok(())
}

pub(super) fn leave(core: &mut Core, instruction: &Instruction) -> Executed {
    let (bytes, frame) = match instruction.code() {
        Code::Leavew => (2, Register::BP),
        Code::Leaved => (4, Register::EBP),
        _ => (8, Register::RBP),
    };
    let width = pointer_size(core);
    let pointer = core.gpr[RBP] & mask(width);
    let linear = linear_address(core, SegmentRegister::Ss, pointer, bytes, false)?;
    let value = read_linear(core, linear, bytes)?;
    write_pointer(core, RSP, width, pointer.wrapping_add(bytes as u64));
    write_register(core, frame, value);
    Ok(())
}
