//! Debug registers, breakpoints and single stepping. Intel SDM volume 3B, chapter 17.

use super::segment::privileged;
use crate::fault::{Fault, vector};
use crate::interp::integer::operand;
use crate::state::{Core, Executed, cr4, flag};
use iced_x86::{Instruction, Register};

/// DR6 bits that always read as one.
pub(crate) const DR6_ONES: u64 = 0xFFFF_0FF0;
/// DR6 bits that can be written.
pub(crate) const DR6_BITS: u64 = 0xE00F;
/// DR7 bit that always reads as one.
pub(crate) const DR7_ONES: u64 = 0x400;
/// DR7 bits that can be written.
pub(crate) const DR7_BITS: u64 = 0xFFFF_23FF;
const DR6_BD: u64 = 1 << 13;
const DR6_BS: u64 = 1 << 14;
pub(super) const DR6_BT: u64 = 1 << 15;
const DR7_GD: u64 = 1 << 13;
/// Local and global enable bits of the four breakpoints.
const DR7_ENABLED: u64 = 0xFF;

impl Core {
    /// The trap after an instruction that began with RFLAGS.TF set; `rip` is the next instruction.
    pub fn single_step_trap(&mut self) -> Fault {
        self.dr6 |= DR6_BS;
        self.dr7 &= !DR7_GD;
        Fault { trap: true, ..Fault::plain(vector::DB) }
    }

    /// Whether the instruction at RIP has a breakpoint on it, unless RFLAGS.RF holds that off.
    ///
    /// # Errors
    /// #DB as a fault, with DR6 telling which.
    pub fn instruction_breakpoint(&mut self) -> Executed {
        if self.dr7 & DR7_ENABLED == 0 || self.rflags & flag::RF != 0 {
            return Ok(());
        }
        let address = self.linear_rip();
        let mut hits = 0;
        for index in 0..4 {
            let enabled = self.dr7 >> (index * 2) & 3 != 0;
            let execute = self.dr7 >> (16 + index * 4) & 3 == 0;
            if enabled && execute && self.dr[index] == address {
                hits |= 1 << index;
            }
        }
        if hits == 0 {
            return Ok(());
        }
        self.dr6 = self.dr6 & !0xF | hits;
        self.dr7 &= !DR7_GD;
        Err(Fault::plain(vector::DB))
    }

    /// DR7.GD makes any touch of a debug register a #DB.
    fn check_general_detect(&mut self) -> Executed {
        if self.dr7 & DR7_GD == 0 {
            return Ok(());
        }
        self.dr7 &= !DR7_GD;
        self.dr6 |= DR6_BD;
        Err(Fault::plain(vector::DB))
    }

    /// The number of a debug register: 4 and 5 are names of 6 and 7 unless CR4.DE is set.
    fn debug_register(&self, name: Register) -> Result<usize, Fault> {
        match name.number() {
            4 | 5 if self.cr4 & cr4::DE != 0 => Err(Fault::UD),
            number @ 0..4 => Ok(number),
            4 | 6 => Ok(6),
            5 | 7 => Ok(7),
            _ => Err(Fault::UD),
        }
    }
}

/// MOV from a debug register.
pub(super) fn mov_from_debug(core: &mut Core, instruction: &Instruction) -> Executed {
    let number = core.debug_register(instruction.op1_register())?;
    privileged(core)?;
    core.check_general_detect()?;
    let value = match number {
        6 => core.dr6,
        7 => core.dr7,
        number => core.dr[number],
    };
    operand::write_register(core, instruction.op0_register(), value);
    Ok(())
}

/// MOV to a debug register.
pub(super) fn mov_to_debug(core: &mut Core, instruction: &Instruction) -> Executed {
    let number = core.debug_register(instruction.op0_register())?;
    privileged(core)?;
    core.check_general_detect()?;
    let value = operand::read_register(core, instruction.op1_register());
    match number {
        6 | 7 if value >> 32 != 0 => return Err(Fault::GP0),
        6 => core.dr6 = value & DR6_BITS | DR6_ONES,
        7 => core.dr7 = value & DR7_BITS | DR7_ONES,
        number => core.dr[number] = value,
    }
    Ok(())
}
