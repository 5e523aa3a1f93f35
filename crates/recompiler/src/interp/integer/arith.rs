//! Addition, subtraction and comparison.

use super::flags;
use super::operand::{load, modify, size};
use crate::state::{Core, Executed, flag};
use iced_x86::Instruction;

fn carry(core: &Core) -> bool {
    core.rflags & flag::CF != 0
}

fn binary(
    core: &mut Core,
    instruction: &Instruction,
    carry: bool,
    operation: fn(u64, u64, bool, usize) -> (u64, u64),
) -> Executed {
    let source = load(core, instruction, 1)?;
    let width = size(instruction, 0);
    let flags = modify(core, instruction, |old| operation(old, source, carry, width))?;
    flags::set(core, flag::ARITHMETIC, flags);
    Ok(())
}

pub(super) fn add(core: &mut Core, instruction: &Instruction) -> Executed {
    binary(core, instruction, false, flags::add)
}

pub(super) fn adc(core: &mut Core, instruction: &Instruction) -> Executed {
    binary(core, instruction, carry(core), flags::add)
}

pub(super) fn sub(core: &mut Core, instruction: &Instruction) -> Executed {
    binary(core, instruction, false, flags::subtract)
}

pub(super) fn sbb(core: &mut Core, instruction: &Instruction) -> Executed {
    binary(core, instruction, carry(core), flags::subtract)
}

pub(super) fn cmp(core: &mut Core, instruction: &Instruction) -> Executed {
    let left = load(core, instruction, 0)?;
    let right = load(core, instruction, 1)?;
    flags::set(core, flag::ARITHMETIC, flags::subtract(left, right, false, size(instruction, 0)).1);
    Ok(())
}

pub(super) fn inc(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = size(instruction, 0);
    let flags = modify(core, instruction, |old| flags::add(old, 1, false, width))?;
    flags::set(core, flag::ARITHMETIC & !flag::CF, flags);
    Ok(())
}

pub(super) fn dec(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = size(instruction, 0);
    let flags = modify(core, instruction, |old| flags::subtract(old, 1, false, width))?;
    flags::set(core, flag::ARITHMETIC & !flag::CF, flags);
    Ok(())
}

pub(super) fn neg(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = size(instruction, 0);
    let flags = modify(core, instruction, |old| flags::subtract(0, old, false, width))?;
    flags::set(core, flag::ARITHMETIC, flags);
    Ok(())
}

/// ADCX and ADOX: the carry in and out is one flag, the others stay.
fn add_with_flag(core: &mut Core, instruction: &Instruction, which: u64) -> Executed {
    let source = load(core, instruction, 1)?;
    let width = size(instruction, 0);
    let carry = core.rflags & which != 0;
    let flags = modify(core, instruction, |old| flags::add(old, source, carry, width))?;
    flags::set(core, which, flags::when(flags & flag::CF != 0, which));
    Ok(())
}

pub(super) fn adcx(core: &mut Core, instruction: &Instruction) -> Executed {
    add_with_flag(core, instruction, flag::CF)
}

pub(super) fn adox(core: &mut Core, instruction: &Instruction) -> Executed {
    add_with_flag(core, instruction, flag::OF)
}
