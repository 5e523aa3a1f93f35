//! Bit tests, scans and counts, the BMI instructions, byte swaps and CRC32.

use super::operand::{
    address_size, effective_offset, in_memory, linear_address, load, modify, modify_linear, read_linear, read_register,
    segment_index, size, store, write_register,
};
use super::{flags, require_vex};
use crate::state::{Core, Executed, flag};
use iced_x86::{Instruction, OpKind};

/// BT and its kin: `change` gives the operand with the bit (a mask) changed, or `None` to only test.
fn bit_test(core: &mut Core, instruction: &Instruction, change: Option<fn(u64, u64) -> u64>) -> Executed {
    let width = size(instruction, 0);
    let bits = 8 * width as u64;
    let selector = load(core, instruction, 1)?;
    let bit = 1u64 << (selector & (bits - 1));
    let locked = instruction.has_lock_prefix();
    let found = if in_memory(instruction, 0) && instruction.op1_kind() == OpKind::Register {
        // A register selects a bit anywhere in memory: a signed number of operands away.
        let away = (flags::sign_extend(selector, width) as i64 >> bits.trailing_zeros()) * width as i64;
        let offset = effective_offset(core, instruction).wrapping_add(away as u64);
        let offset = offset & flags::mask(address_size(instruction));
        let segment = segment_index(instruction.memory_segment());
        let linear = linear_address(core, segment, offset, width, change.is_some())?;
        match change {
            Some(change) => modify_linear(core, linear, width, locked, |old| (change(old, bit), old))?,
            None => read_linear(core, linear, width)?,
        }
    } else {
        match change {
            Some(change) => modify(core, instruction, |old| (change(old, bit), old))?,
            None => load(core, instruction, 0)?,
        }
    };
    flags::set(core, flag::CF, flags::when(found & bit != 0, flag::CF));
    Ok(())
}

pub(super) fn bt(core: &mut Core, instruction: &Instruction) -> Executed {
    bit_test(core, instruction, None)
}

pub(super) fn bts(core: &mut Core, instruction: &Instruction) -> Executed {
    bit_test(core, instruction, Some(|old, bit| old | bit))
}

pub(super) fn btr(core: &mut Core, instruction: &Instruction) -> Executed {
    bit_test(core, instruction, Some(|old, bit| old & !bit))
}

pub(super) fn btc(core: &mut Core, instruction: &Instruction) -> Executed {
    bit_test(core, instruction, Some(|old, bit| old ^ bit))
}

/// BSF and BSR: a zero source leaves the destination as it was.
fn scan(core: &mut Core, instruction: &Instruction, position: fn(u64) -> u32) -> Executed {
    let source = load(core, instruction, 1)?;
    if source != 0 {
        write_register(core, instruction.op0_register(), u64::from(position(source)));
    }
    flags::set(core, flag::ZF, flags::when(source == 0, flag::ZF));
    Ok(())
}

pub(super) fn bsf(core: &mut Core, instruction: &Instruction) -> Executed {
    scan(core, instruction, u64::trailing_zeros)
}

pub(super) fn bsr(core: &mut Core, instruction: &Instruction) -> Executed {
    scan(core, instruction, |source| 63 - source.leading_zeros())
}

/// TZCNT and LZCNT.
fn count(core: &mut Core, instruction: &Instruction, counted: fn(u64, u32) -> u32) -> Executed {
    let source = load(core, instruction, 1)?;
    let result = counted(source, 8 * size(instruction, 0) as u32);
    write_register(core, instruction.op0_register(), u64::from(result));
    let flags = flags::when(source == 0, flag::CF) | flags::when(result == 0, flag::ZF);
    flags::set(core, flag::CF | flag::ZF, flags);
    Ok(())
}

pub(super) fn tzcnt(core: &mut Core, instruction: &Instruction) -> Executed {
    count(core, instruction, |source, bits| source.trailing_zeros().min(bits))
}

pub(super) fn lzcnt(core: &mut Core, instruction: &Instruction) -> Executed {
    count(core, instruction, |source, bits| source.leading_zeros() + bits - 64)
}

pub(super) fn popcnt(core: &mut Core, instruction: &Instruction) -> Executed {
    let source = load(core, instruction, 1)?;
    write_register(core, instruction.op0_register(), u64::from(source.count_ones()));
    flags::set(core, flag::ARITHMETIC, flags::when(source == 0, flag::ZF));
    Ok(())
}

/// Stores a BMI result; SF and ZF follow it, OF is clear, CF as given, AF and PF stay.
fn bmi_result(core: &mut Core, instruction: &Instruction, result: u64, carry: bool) -> Executed {
    let width = size(instruction, 0);
    let result = result & flags::mask(width);
    store(core, instruction, 0, result)?;
    let flags = flags::of_result(result, width) & (flag::SF | flag::ZF) | flags::when(carry, flag::CF);
    flags::set(core, flag::SF | flag::ZF | flag::CF | flag::OF, flags);
    Ok(())
}

pub(super) fn andn(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let result = !load(core, instruction, 1)? & load(core, instruction, 2)?;
    bmi_result(core, instruction, result, false)
}

pub(super) fn bextr(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let source = load(core, instruction, 1)?;
    let control = load(core, instruction, 2)?;
    let (start, length) = (control as u8, (control >> 8) as u8);
    let shifted = source.checked_shr(u32::from(start)).unwrap_or(0);
    let kept = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    bmi_result(core, instruction, shifted & kept, false)
}

pub(super) fn blsi(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let source = load(core, instruction, 1)?;
    bmi_result(core, instruction, source & source.wrapping_neg(), source != 0)
}

pub(super) fn blsr(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let source = load(core, instruction, 1)?;
    bmi_result(core, instruction, source & source.wrapping_sub(1), source == 0)
}

pub(super) fn blsmsk(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let source = load(core, instruction, 1)?;
    bmi_result(core, instruction, source ^ source.wrapping_sub(1), source == 0)
}

pub(super) fn bzhi(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let bits = 8 * size(instruction, 0) as u64;
    let source = load(core, instruction, 1)?;
    let index = load(core, instruction, 2)? & 0xFF;
    let kept = if index < bits { (1 << index) - 1 } else { u64::MAX };
    bmi_result(core, instruction, source & kept, index >= bits)
}

pub(super) fn pdep(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let source = load(core, instruction, 1)?;
    let mut mask = load(core, instruction, 2)?;
    let (mut result, mut next) = (0, 0);
    while mask != 0 {
        if source >> next & 1 != 0 {
            result |= mask & mask.wrapping_neg();
        }
        mask &= mask - 1;
        next += 1;
    }
    store(core, instruction, 0, result)
}

pub(super) fn pext(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let source = load(core, instruction, 1)?;
    let mut mask = load(core, instruction, 2)?;
    let (mut result, mut next) = (0, 0);
    while mask != 0 {
        if source & mask & mask.wrapping_neg() != 0 {
            result |= 1 << next;
        }
        mask &= mask - 1;
        next += 1;
    }
    store(core, instruction, 0, result)
}

fn swapped(value: u64, size: usize) -> u64 {
    value.swap_bytes() >> (64 - 8 * size)
}

/// BSWAP of a 16-bit register gives zero, as processors do.
pub(super) fn bswap(core: &mut Core, instruction: &Instruction) -> Executed {
    let register = instruction.op0_register();
    let result = match register.size() {
        2 => 0,
        width => swapped(read_register(core, register), width),
    };
    write_register(core, register, result);
    Ok(())
}

pub(super) fn movbe(core: &mut Core, instruction: &Instruction) -> Executed {
    let value = load(core, instruction, 1)?;
    store(core, instruction, 0, swapped(value, size(instruction, 0)))
}

/// The Castagnoli polynomial, bit-reflected.
pub(super) fn crc32(core: &mut Core, instruction: &Instruction) -> Executed {
    let source = load(core, instruction, 1)?;
    let mut crc = load(core, instruction, 0)? as u32;
    for byte in &source.to_le_bytes()[..size(instruction, 1)] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82F6_3B78 } else { 0 };
        }
    }
    store(core, instruction, 0, u64::from(crc))
}
