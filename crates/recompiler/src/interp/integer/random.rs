//! RDRAND and RDSEED: the host's own generator, where it has one.

use super::flags;
use super::operand::write_register;
use crate::fault::Fault;
use crate::state::{Core, Executed, flag};
use iced_x86::Instruction;
use std::arch::{asm, is_x86_feature_detected};

/// A number and whether there was one: CF is set then and the other flags are clear. The number is zero otherwise.
fn deliver(core: &mut Core, instruction: &Instruction, number: u64, found: u8) -> Executed {
    write_register(core, instruction.op0_register(), if found != 0 { number } else { 0 });
    flags::set(core, flag::ARITHMETIC, flags::when(found != 0, flag::CF));
    Ok(())
}

pub(super) fn rdrand(core: &mut Core, instruction: &Instruction) -> Executed {
    if !is_x86_feature_detected!("rdrand") {
        return Err(Fault::UD);
    }
    let (number, found): (u64, u8);
    // SAFETY: the host has RDRAND; it changes its operand and the flags.
    unsafe { asm!("rdrand {0}", "setc {1}", out(reg) number, out(reg_byte) found, options(nomem, nostack)) };
    deliver(core, instruction, number, found)
}

pub(super) fn rdseed(core: &mut Core, instruction: &Instruction) -> Executed {
    if !is_x86_feature_detected!("rdseed") {
        return Err(Fault::UD);
    }
    let (number, found): (u64, u8);
    // SAFETY: the host has RDSEED; it changes its operand and the flags.
    unsafe { asm!("rdseed {0}", "setc {1}", out(reg) number, out(reg_byte) found, options(nomem, nostack)) };
    deliver(core, instruction, number, found)
}
