//! Multiplication and division.

use super::operand::{load, read_register, size, store, write_register};
use super::{flags, require_vex};
use crate::fault::Fault;
use crate::state::{Core, Executed, flag};
use iced_x86::{Instruction, Register};

/// The register pair that holds a double-width number: low and high half.
fn pair(size: usize) -> (Register, Register) {
    match size {
        1 => (Register::AL, Register::AH),
        2 => (Register::AX, Register::DX),
        4 => (Register::EAX, Register::EDX),
        _ => (Register::RAX, Register::RDX),
    }
}

/// CF and OF say that the high half matters; the undefined flags follow the low half.
fn set_flags(core: &mut Core, low: u64, size: usize, significant: bool) {
    let low = low & flags::mask(size);
    let flags = flags::of_result(low, size) & !flag::ZF | flags::when(significant, flag::CF | flag::OF);
    flags::set(core, flag::ARITHMETIC, flags);
}

pub(super) fn mul(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = size(instruction, 0);
    let (low, high) = pair(width);
    let product = u128::from(load(core, instruction, 0)?) * u128::from(read_register(core, low));
    let upper = (product >> (8 * width)) as u64;
    write_register(core, low, product as u64);
    write_register(core, high, upper);
    set_flags(core, product as u64, width, upper != 0);
    Ok(())
}

fn signed_product(a: u64, b: u64, size: usize) -> i128 {
    i128::from(flags::sign_extend(a, size) as i64) * i128::from(flags::sign_extend(b, size) as i64)
}

pub(super) fn imul(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = size(instruction, 0);
    let fits = |product: i128| i128::from(flags::sign_extend(product as u64, width) as i64) == product;
    if instruction.op_count() == 1 {
        let (low, high) = pair(width);
        let product = signed_product(load(core, instruction, 0)?, read_register(core, low), width);
        write_register(core, low, product as u64);
        write_register(core, high, (product >> (8 * width)) as u64);
        set_flags(core, product as u64, width, !fits(product));
        return Ok(());
    }
    let (first, second) = if instruction.op_count() == 2 { (0, 1) } else { (1, 2) };
    let product = signed_product(load(core, instruction, first)?, load(core, instruction, second)?, width);
    write_register(core, instruction.op0_register(), product as u64);
    set_flags(core, product as u64, width, !fits(product));
    Ok(())
}

pub(super) fn mulx(core: &mut Core, instruction: &Instruction) -> Executed {
    require_vex(core)?;
    let width = size(instruction, 0);
    let multiplicand = if width == 8 { Register::RDX } else { Register::EDX };
    let product = u128::from(load(core, instruction, 2)?) * u128::from(read_register(core, multiplicand));
    // The low half first: with both destinations the same register the high half stays.
    store(core, instruction, 1, product as u64)?;
    store(core, instruction, 0, (product >> (8 * width)) as u64)
}

pub(super) fn div(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = size(instruction, 0);
    let (low, high) = pair(width);
    let divisor = u128::from(load(core, instruction, 0)?);
    if divisor == 0 {
        return Err(Fault::DE);
    }
    let dividend = u128::from(read_register(core, high)) << (8 * width) | u128::from(read_register(core, low));
    let quotient = dividend / divisor;
    if quotient > u128::from(flags::mask(width)) {
        return Err(Fault::DE);
    }
    write_register(core, low, quotient as u64);
    write_register(core, high, (dividend % divisor) as u64);
    Ok(())
}

pub(super) fn idiv(core: &mut Core, instruction: &Instruction) -> Executed {
    let width = size(instruction, 0);
    let (low, high) = pair(width);
    let divisor = i128::from(flags::sign_extend(load(core, instruction, 0)?, width) as i64);
    let upper = i128::from(flags::sign_extend(read_register(core, high), width) as i64);
    let dividend = upper << (8 * width) | i128::from(read_register(core, low));
    // A quotient of -2^127 / -1 does not exist; `checked` covers it and the zero divisor.
    let (Some(quotient), Some(remainder)) = (dividend.checked_div(divisor), dividend.checked_rem(divisor)) else {
        return Err(Fault::DE);
    };
    if i128::from(flags::sign_extend(quotient as u64, width) as i64) != quotient {
        return Err(Fault::DE);
    }
    write_register(core, low, quotient as u64);
    write_register(core, high, remainder as u64);
    Ok(())
}
