//! Decimal arithmetic; the decoder refuses these in 64-bit mode. Undefined flags follow AL where that is the formula of the
//! neighbouring instruction, and are cleared elsewhere.

use super::flags;
use super::operand::{read_register, write_register};
use crate::fault::Fault;
use crate::state::{Core, Executed, flag};
use iced_x86::{Instruction, Register};

fn al(core: &Core) -> u8 {
    core.gpr[0] as u8
}

fn set_al(core: &mut Core, value: u8) {
    write_register(core, Register::AL, u64::from(value));
}

/// DAA and DAS. Intel SDM volume 2A: the corrections look at AL and CF as they were before.
fn decimal_adjust(core: &mut Core, correct: fn(u8, u8) -> (u8, bool)) {
    let before = al(core);
    let carry = core.rflags & flag::CF != 0;
    let (mut value, mut flags) = (before, 0);
    if before & 0xF > 9 || core.rflags & flag::AF != 0 {
        let (corrected, wrapped) = correct(value, 6);
        value = corrected;
        flags |= flag::AF | flags::when(carry || wrapped, flag::CF);
    }
    if before > 0x99 || carry {
        value = correct(value, 0x60).0;
        flags |= flag::CF;
    }
    set_al(core, value);
    flags::set(core, flag::ARITHMETIC, flags | flags::of_result(u64::from(value), 1));
}

pub(super) fn daa(core: &mut Core, _: &Instruction) -> Executed {
    decimal_adjust(core, u8::overflowing_add);
    Ok(())
}

pub(super) fn das(core: &mut Core, _: &Instruction) -> Executed {
    decimal_adjust(core, u8::overflowing_sub);
    Ok(())
}

/// AAA and AAS: `by` is added to AX when the digit is not decimal.
fn ascii_adjust(core: &mut Core, by: u16) {
    let adjust = al(core) & 0xF > 9 || core.rflags & flag::AF != 0;
    let mut ax = core.gpr[0] as u16;
    if adjust {
        ax = ax.wrapping_add(by);
    }
    write_register(core, Register::AX, u64::from(ax & 0xFF0F));
    flags::set(core, flag::AF | flag::CF, flags::when(adjust, flag::AF | flag::CF));
}

pub(super) fn aaa(core: &mut Core, _: &Instruction) -> Executed {
    ascii_adjust(core, 0x106);
    Ok(())
}

pub(super) fn aas(core: &mut Core, _: &Instruction) -> Executed {
    ascii_adjust(core, 0x106u16.wrapping_neg());
    Ok(())
}

pub(super) fn aam(core: &mut Core, instruction: &Instruction) -> Executed {
    let base = instruction.immediate8();
    let value = al(core);
    let (Some(tens), Some(units)) = (value.checked_div(base), value.checked_rem(base)) else {
        return Err(Fault::DE);
    };
    write_register(core, Register::AX, u64::from(tens) << 8 | u64::from(units));
    flags::set(core, flag::ARITHMETIC, flags::of_result(u64::from(units), 1));
    Ok(())
}

pub(super) fn aad(core: &mut Core, instruction: &Instruction) -> Executed {
    let tens = read_register(core, Register::AH) as u8;
    let value = al(core).wrapping_add(tens.wrapping_mul(instruction.immediate8()));
    write_register(core, Register::AX, u64::from(value));
    flags::set(core, flag::ARITHMETIC, flags::of_result(u64::from(value), 1));
    Ok(())
}
