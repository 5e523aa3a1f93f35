//! Atomic read-modify-writes: what LOCK means on guest RAM, and the instructions made for it.

use super::flags;
use super::operand::{self, in_memory, load as load_operand, modify, modify_linear, read_register, write_register};
use crate::fault::Fault;
use crate::mmu::Target;
use crate::state::{Core, Executed, flag};
use iced_x86::{Instruction, Register};
use std::arch::asm;

/// Reads 1, 2, 4 or 8 bytes in one access.
///
/// # Safety
/// `host` is valid for `size` bytes.
#[inline]
pub(crate) unsafe fn load(host: *const u8, size: usize) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe {
        match size {
            1 => u64::from(host.read()),
            2 => u64::from(host.cast::<u16>().read_unaligned()),
            4 => u64::from(host.cast::<u32>().read_unaligned()),
            _ => host.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes 1, 2, 4 or 8 bytes in one access.
///
/// # Safety
/// `host` is valid for writes of `size` bytes.
#[inline]
pub(crate) unsafe fn store(host: *mut u8, size: usize, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        match size {
            1 => host.write(value as u8),
            2 => host.cast::<u16>().write_unaligned(value as u16),
            4 => host.cast::<u32>().write_unaligned(value as u32),
            _ => host.cast::<u64>().write_unaligned(value),
        }
    }
}

/// A locked access across cache lines would lock the host's bus, or trap there.
pub(crate) fn crosses_line(host: *const u8, size: usize) -> bool {
    host as usize % 64 + size > 64
}

/// Replaces `old` by `new` atomically; `Err` is what was found instead. Unaligned addresses are allowed, which Rust's
/// atomics would refuse.
///
/// # Safety
/// `host` is valid for writes of `size` (1, 2, 4 or 8) bytes.
pub(crate) unsafe fn compare_exchange(host: *mut u8, size: usize, old: u64, new: u64) -> Result<(), u64> {
    let mut found = old;
    // SAFETY: by the caller's promise; the instructions touch `size` bytes at `host`, RAX and the flags.
    unsafe {
        match size {
            1 => asm!("lock cmpxchg byte ptr [{0}], {1}", in(reg) host, in(reg_byte) new as u8, inout("rax") found),
            2 => asm!("lock cmpxchg word ptr [{0}], {1:x}", in(reg) host, in(reg) new, inout("rax") found),
            4 => asm!("lock cmpxchg dword ptr [{0}], {1:e}", in(reg) host, in(reg) new, inout("rax") found),
            _ => asm!("lock cmpxchg qword ptr [{0}], {1}", in(reg) host, in(reg) new, inout("rax") found),
        }
    }
    let mask = flags::mask(size);
    if found & mask == old & mask { Ok(()) } else { Err(found & mask) }
}

/// The 16-byte form of [`compare_exchange`].
///
/// # Safety
/// `host` is 16-byte aligned and valid for writes of 16 bytes.
unsafe fn compare_exchange_16(host: *mut u8, old: u128, new: u128) -> Result<(), u128> {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: by the caller's promise. RBX is the compiler's, so it is swapped in and out.
    unsafe {
        asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b xmmword ptr [{host}]",
            "mov rbx, {new_low}",
            host = in(reg) host,
            new_low = inout(reg) new as u64 => _,
            inout("rax") low,
            inout("rdx") high,
            in("rcx") (new >> 64) as u64,
        );
    }
    let found = u128::from(high) << 64 | u128::from(low);
    if found == old { Ok(()) } else { Err(found) }
}

/// A locked read-modify-write across cache lines: no other vCPU runs meanwhile. On what is no RAM, a read and a write.
pub(super) fn modify_split<R>(
    core: &mut Core,
    linear: u64,
    size: usize,
    change: impl Fn(u64) -> (u64, R),
) -> Result<R, Fault> {
    let Some(pieces) = core.pieces(linear, size as u64)? else {
        return operand::modify_slowly(core, linear, size, change);
    };
    let (shared, _, mut party) = core.smp();
    let result = shared.exclusive(&mut party, || {
        let addresses =
            || pieces.into_iter().flat_map(|(host, length)| (0..length).map(move |at| host.wrapping_add(at)));
        let mut bytes = [0; 8];
        // SAFETY: `pieces` gives writable RAM that stays mapped.
        bytes.iter_mut().zip(addresses()).for_each(|(byte, at)| *byte = unsafe { at.read_volatile() });
        let (value, result) = change(u64::from_le_bytes(bytes));
        // SAFETY: as above.
        addresses().zip(value.to_le_bytes()).for_each(|(at, byte)| unsafe { at.write_volatile(byte) });
        result
    });
    for (host, length) in pieces.into_iter().filter(|&(_, length)| length != 0) {
        core.stored(host, length as u64);
    }
    Ok(result)
}

pub(super) fn xchg(core: &mut Core, instruction: &Instruction) -> Executed {
    let (first, second) = (instruction.op0_register(), instruction.op1_register());
    if in_memory(instruction, 0) {
        let value = read_register(core, second);
        let width = instruction.memory_size().size();
        let linear = operand::memory(core, instruction, width, true)?;
        let old = modify_linear(core, linear, width, true, |old| (value, old))?;
        write_register(core, second, old);
    } else {
        let (a, b) = (read_register(core, first), read_register(core, second));
        write_register(core, first, b);
        write_register(core, second, a);
    }
    Ok(())
}

pub(super) fn xadd(core: &mut Core, instruction: &Instruction) -> Executed {
    let source = load_operand(core, instruction, 1)?;
    let width = operand::size(instruction, 0);
    if in_memory(instruction, 0) {
        let (old, flags) = modify(core, instruction, |old| {
            let (sum, flags) = flags::add(old, source, false, width);
            (sum, (old, flags))
        })?;
        write_register(core, instruction.op1_register(), old);
        flags::set(core, flag::ARITHMETIC, flags);
    } else {
        let old = load_operand(core, instruction, 0)?;
        let (sum, flags) = flags::add(old, source, false, width);
        // The source first: with both the same register the sum stays.
        write_register(core, instruction.op1_register(), old);
        write_register(core, instruction.op0_register(), sum);
        flags::set(core, flag::ARITHMETIC, flags);
    }
    Ok(())
}

pub(super) fn cmpxchg(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = operand::size(instruction, 0);
    let accumulator = match width {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    let expected = read_register(core, accumulator);
    let source = load_operand(core, instruction, 1)?;
    let old = if in_memory(instruction, 0) {
        // A failed exchange writes the old value back.
        modify(core, instruction, |old| (if old == expected { source } else { old }, old))?
    } else {
        let old = load_operand(core, instruction, 0)?;
        if old == expected {
            write_register(core, instruction.op0_register(), source);
        }
        old
    };
    if old != expected {
        write_register(core, accumulator, old);
    }
    flags::set(core, flag::ARITHMETIC, flags::subtract(expected, old, false, width).1);
    Ok(())
}

pub(super) fn cmpxchg8b(core: &mut Core, instruction: &Instruction) -> Executed {
    let pair = |high: u64, low: u64| high << 32 | low & 0xFFFF_FFFF;
    let [rax, rcx, rdx, rbx, ..] = core.gpr;
    let (expected, new) = (pair(rdx, rax), pair(rcx, rbx));
    let linear = operand::memory(core, instruction, 8, true)?;
    let locked = instruction.has_lock_prefix();
    let old = modify_linear(core, linear, 8, locked, |old| (if old == expected { new } else { old }, old))?;
    if old != expected {
        write_register(core, Register::EAX, old);
        write_register(core, Register::EDX, old >> 32);
    }
    flags::set(core, flag::ZF, flags::when(old == expected, flag::ZF));
    Ok(())
}

pub(super) fn cmpxchg16b(core: &mut Core, instruction: &Instruction) -> Executed {
    let pair = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
    let [rax, rcx, rdx, rbx, ..] = core.gpr;
    let (expected, new) = (pair(rdx, rax), pair(rcx, rbx));
    let linear = operand::memory(core, instruction, 16, true)?;
    if linear % 16 != 0 {
        return Err(Fault::GP0);
    }
    let exchanged = match core.target(linear, 16)? {
        Target::Ram(host) => {
            // SAFETY: `target` gives 16 writable bytes of RAM; pages keep the alignment.
            let exchanged = unsafe { compare_exchange_16(host, expected, new) };
            core.stored(host, 16);
            exchanged
        }
        // Being aligned, it is no RAM.
        Target::Slow => {
            let old = core.read::<u128>(linear)?;
            core.write(linear, if old == expected { new } else { old })?;
            if old == expected { Ok(()) } else { Err(old) }
        }
    };
    if let Err(found) = exchanged {
        core.gpr[0] = found as u64;
        core.gpr[2] = (found >> 64) as u64;
    }
    flags::set(core, flag::ZF, flags::when(exchanged.is_ok(), flag::ZF));
    Ok(())
}
