//! AND, OR, XOR, NOT, TEST.

use super::flags;
use super::operand::{load, modify, size};
use crate::state::{Core, Executed, flag};
use iced_x86::Instruction;

fn binary(core: &mut Core, instruction: &Instruction, operation: fn(u64, u64) -> u64) -> Executed {
    let source = load(core, instruction, 1)?;
    let width = size(instruction, 0);
    let result = modify(core, instruction, |old| {
        let result = operation(old, source);
        (result, result)
    })?;
    flags::set(core, flag::ARITHMETIC, flags::logic(result, width));
    Ok(())
}

pub(super) fn and(core: &mut Core, instruction: &Instruction) -> Executed {
    binary(core, instruction, |a, b| a & b)
}

pub(super) fn or(core: &mut Core, instruction: &Instruction) -> Executed {
    binary(core, instruction, |a, b| a | b)
}

pub(super) fn xor(core: &mut Core, instruction: &Instruction) -> Executed {
    binary(core, instruction, |a, b| a ^ b)
}

pub(super) fn not(core: &mut Core, instruction: &Instruction) -> Executed {
    modify(core, instruction, |old| (!old, ()))
}

pub(super) fn test(core: &mut Core, instruction: &Instruction) -> Executed {
    let result = load(core, instruction, 0)? & load(core, instruction, 1)?;
    flags::set(core, flag::ARITHMETIC, flags::logic(result, size(instruction, 0)));
    Ok(())
}
