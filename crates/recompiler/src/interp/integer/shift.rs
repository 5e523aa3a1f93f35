//! Shifts and rotates.

use super::operand::{load, modify, size, store};
use super::{flags, require_vex};
use crate::state::{Core, Executed, flag};
use iced_x86::Instruction;

/// A shift's new value and flags: `(value, affected flags, flags)`.
type Shifted = (u64, u64, u64);

/// The count as the processor uses it: modulo 32, or 64 for quadwords.
fn masked(count: u64, size: usize) -> u32 {
    count as u32 & if size == 8 { 63 } else { 31 }
}

fn overflow(a: bool, b: bool) -> u64 {
    flags::when(a != b, flag::OF)
}

fn shl_value(value: u64, count: u32, size: usize, _carry: bool) -> Shifted {
    let wide = u128::from(value) << count;
    let result = wide as u64 & flags::mask(size);
    let carry = wide >> (8 * size) & 1 != 0;
    let of = overflow(result & flags::sign(size) != 0, carry);
    (result, flag::ARITHMETIC, flags::of_result(result, size) | flags::when(carry, flag::CF) | of)
}

fn shr_value(value: u64, count: u32, size: usize, _carry: bool) -> Shifted {
    let result = value >> count;
    let carry = value >> (count - 1) & 1 != 0;
    // For a count of one this is the sign bit shifted out of its place.
    let of = overflow(result & flags::sign(size) != 0, result & flags::sign(size) >> 1 != 0);
    (result, flag::ARITHMETIC, flags::of_result(result, size) | flags::when(carry, flag::CF) | of)
}

fn sar_value(value: u64, count: u32, size: usize, _carry: bool) -> Shifted {
    let extended = flags::sign_extend(value, size) as i64;
    let result = (extended >> count) as u64 & flags::mask(size);
    let carry = extended >> (count - 1) & 1 != 0;
    (result, flag::ARITHMETIC, flags::of_result(result, size) | flags::when(carry, flag::CF))
}

fn rol_value(value: u64, count: u32, size: usize, _carry: bool) -> Shifted {
    let bits = 8 * size as u32;
    let count = count % bits;
    let result = if count == 0 { value } else { (value << count | value >> (bits - count)) & flags::mask(size) };
    let carry = result & 1 != 0;
    let of = overflow(result & flags::sign(size) != 0, carry);
    (result, flag::CF | flag::OF, flags::when(carry, flag::CF) | of)
}

fn ror_value(value: u64, count: u32, size: usize, _carry: bool) -> Shifted {
    let bits = 8 * size as u32;
    let count = count % bits;
    let result = if count == 0 { value } else { (value >> count | value << (bits - count)) & flags::mask(size) };
    let carry = result & flags::sign(size) != 0;
    let of = overflow(carry, result & flags::sign(size) >> 1 != 0);
    (result, flag::CF | flag::OF, flags::when(carry, flag::CF) | of)
}

/// Operand and carry as one number of 9, 17, 33 or 65 bits, rotated left.
fn rotate_through_carry(value: u64, count: u32, size: usize, carry: bool) -> (u64, bool) {
    let bits = 8 * size as u32 + 1;
    let wide = u128::from(carry) << (bits - 1) | u128::from(value);
    let rotated = if count == 0 { wide } else { wide << count | wide >> (bits - count) };
    (rotated as u64 & flags::mask(size), rotated >> (bits - 1) & 1 != 0)
}

fn rcl_value(value: u64, count: u32, size: usize, carry: bool) -> Shifted {
    let (result, carry) = rotate_through_carry(value, count % (8 * size as u32 + 1), size, carry);
    let of = overflow(result & flags::sign(size) != 0, carry);
    (result, flag::CF | flag::OF, flags::when(carry, flag::CF) | of)
}

fn rcr_value(value: u64, count: u32, size: usize, carry: bool) -> Shifted {
    let bits = 8 * size as u32 + 1;
    let (result, carry) = rotate_through_carry(value, (bits - count % bits) % bits, size, carry);
    let of = overflow(result & flags::sign(size) != 0, result & flags::sign(size) >> 1 != 0);
    (result, flag::CF | flag::OF, flags::when(carry, flag::CF) | of)
}

fn shift(core: &mut Core, instruction: &Instruction, operation: fn(u64, u32, usize, bool) -> Shifted) -> Executed {
    let width = size(instruction, 0);
    let count = masked(load(core, instruction, 1)?, width);
    let carry = core.rflags & flag::CF != 0;
    let (affected, flags) = modify(core, instruction, |old| match count {
        // No flag changes, but the operand is still written.
        0 => (old, (0, 0)),
        _ => {
            let (value, affected, flags) = operation(old, count, width, carry);
            (value, (affected, flags))
        }
    })?;
    flags::set(core, affected, flags);
    Ok(())
}

pub(super) fn shl(core: &mut Core, instruction: &Instruction) -> Executed {
    shift(core, instruction, shl_value)
}

pub(super) fn shr(core: &mut Core, instruction: &Instruction) -> Executed {
    shift(core, instruction, shr_value)
}

pub(super) fn sar(core: &mut Core, instruction: &Instruction) -> Executed {
    shift(core, instruction, sar_value)
}

pub(super) fn rol(core: &mut Core, instruction: &Instruction) -> Executed {
    shift(core, instruction, rol_value)
}

pub(super) fn ror(core: &mut Core, instruction: &Instruction) -> Executed {
    shift(core, instruction, ror_value)
}

pub(super) fn rcl(core: &mut Core, instruction: &Instruction) -> Executed {
    shift(core, instruction, rcl_value)
}

pub(super) fn rcr(core: &mut Core, instruction: &Instruction) -> Executed {
    shift(core, instruction, rcr_value)
}

/// SHLD and SHRD. A 16-bit operand with a count above 16 goes on with the destination's own bits.
fn double(core: &mut Core, instruction: &Instruction, left: bool) -> Executed {
    let width = size(instruction, 0);
    let bits = 8 * width as u32;
    let source = load(core, instruction, 1)?;
    let count = masked(load(core, instruction, 2)?, width);
    let flags = modify(core, instruction, |old| {
        if count == 0 {
            return (old, None);
        }
        let pair = if left {
            u128::from(old) << bits | u128::from(source)
        } else {
            u128::from(source) << bits | u128::from(old)
        };
        let (result, carry) = if left {
            // Three pieces: what leaves on the left of `old` is behind `source` again.
            let shifted = if count <= bits {
                pair >> (bits - count)
            } else {
                pair << (count - bits) | u128::from(old) >> (2 * bits - count)
            };
            let carry = if count <= bits { old >> (bits - count) } else { source >> (2 * bits - count) };
            (shifted as u64 & flags::mask(width), carry & 1 != 0)
        } else {
            let triple = if bits == 16 { u128::from(old) << 32 | pair } else { pair };
            ((triple >> count) as u64 & flags::mask(width), triple >> (count - 1) & 1 != 0)
        };
        let of = flags::when((old ^ result) & flags::sign(width) != 0, flag::OF);
        (result, Some(flags::of_result(result, width) | flags::when(carry, flag::CF) | of))
    })?;
    if let Some(flags) = flags {
        flags::set(core, flag::ARITHMETIC, flags);
    }
    Ok(())
}

pub(super) fn shld(core: &mut Core, instruction: &Instruction) -> Executed {
    double(core, instruction, true)
}

pub(super) fn shrd(core: &mut Core, instruction: &Instruction) -> Executed {
    double(core, instruction, false)
}

/// The BMI2 shifts, which leave the flags alone.
fn flagless(core: &mut Core, instruction: &Instruction, operation: fn(u64, u32, usize, bool) -> Shifted) -> Executed {
    require_vex(core)?;
    let width = size(instruction, 0);
    let value = load(core, instruction, 1)?;
    let count = masked(load(core, instruction, 2)?, width);
    let result = if count == 0 { value } else { operation(value, count, width, false).0 };
    store(core, instruction, 0, result)
}

pub(super) fn shlx(core: &mut Core, instruction: &Instruction) -> Executed {
    flagless(core, instruction, shl_value)
}

pub(super) fn shrx(core: &mut Core, instruction: &Instruction) -> Executed {
    flagless(core, instruction, shr_value)
}

pub(super) fn sarx(core: &mut Core, instruction: &Instruction) -> Executed {
    flagless(core, instruction, sar_value)
}

pub(super) fn rorx(core: &mut Core, instruction: &Instruction) -> Executed {
    flagless(core, instruction, ror_value)
}
