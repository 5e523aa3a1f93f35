//! Debug registers, breakpoints and single stepping. Intel SDM volume 3B, chapter 17.

use super::segment::privileged;
use crate::fault::{Fault, vector};
use crate::interp::integer::operand;
use crate::msr::{DEBUGCTL_BTF, DEBUGCTL_LBR};
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
/// The bits of the four breakpoints in DR6.
const DR6_BREAKPOINTS: u64 = 0xF;
const DR6_BD: u64 = 1 << 13;
const DR6_BS: u64 = 1 << 14;
pub(super) const DR6_BT: u64 = 1 << 15;
const DR7_GD: u64 = 1 << 13;
/// Local and global enable bits of the four breakpoints.
const DR7_ENABLED: u64 = 0xFF;

/// What a breakpoint is for: the R/W fields of DR7.
mod condition {
    pub const EXECUTE: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const IO: u64 = 2;
}

impl Core {
    /// The trap behind an instruction: breakpoints on data and ports that it met, and a single step. `rip` is the next
    /// instruction.
    pub fn debug_trap(&mut self, breakpoints: u8, step: bool) -> Fault {
        self.report_debug(u64::from(breakpoints) | if step { DR6_BS } else { 0 });
        Fault { trap: true, ..Fault::plain(vector::DB) }
    }

    /// Says in DR6 why a #DB comes: the bits of the breakpoints are set anew, the others added. The guard of the debug
    /// registers, the single step on branches and the record of branches are over.
    pub(crate) fn report_debug(&mut self, why: u64) {
        self.dr6 = self.dr6 & !DR6_BREAKPOINTS | why;
        self.dr7 &= !DR7_GD;
        self.msr.debugctl &= !(DEBUGCTL_LBR | DEBUGCTL_BTF);
    }

    /// Any breakpoint is enabled.
    #[inline]
    pub fn breakpoints_enabled(&self) -> bool {
        self.dr7 & DR7_ENABLED != 0
    }

    /// Repeated instructions have to stop behind each element, where a debug trap may be due.
    #[inline]
    pub fn stops_at_each_element(&self) -> bool {
        self.rflags & flag::TF != 0 || self.breakpoints_enabled()
    }

    /// The enabled breakpoints, with what they are for and where they lie, as first and last address.
    fn breakpoints(&self) -> impl Iterator<Item = (u8, u64, u64, u64)> + use<> {
        let (dr, dr7) = (self.dr, self.dr7);
        (0..4).filter(move |index| dr7 >> (index * 2) & 3 != 0).map(move |index| {
            let field = dr7 >> (16 + index * 4);
            let length = [1, 2, 8, 4][(field >> 2 & 3) as usize];
            let first = dr[index] & !(length - 1);
            (1 << index, field & 3, first, first.wrapping_add(length - 1))
        })
    }

    /// Whether a data breakpoint lies in the page of a linear address: such a page stays out of the TLB.
    pub(crate) fn page_watched(&self, linear: u64) -> bool {
        self.breakpoints_enabled()
            && self.breakpoints().any(|(_, condition, first, _)| {
                !matches!(condition, condition::EXECUTE | condition::IO) && (first ^ linear) >> 12 == 0
            })
    }

    /// Notes the data breakpoints that an access of `size` bytes meets; the trap comes behind the instruction.
    #[inline]
    pub(crate) fn note_access(&mut self, linear: u64, size: u64, write: bool) {
        if self.breakpoints_enabled() {
            let last = linear.wrapping_add(size - 1);
            for (bit, condition, from, to) in self.breakpoints() {
                let wanted = match condition {
                    condition::EXECUTE | condition::IO => false,
                    condition::WRITE => write,
                    _ => true,
                };
                if wanted && from <= last && linear <= to {
                    self.breakpoints_met |= bit;
                }
            }
        }
    }

    /// Notes the I/O breakpoints that an access of `size` ports meets.
    pub(super) fn note_port_access(&mut self, port: u16, size: u8) {
        if self.breakpoints_enabled() && self.cr4 & cr4::DE != 0 {
            let (first, last) = (u64::from(port), u64::from(port) + u64::from(size) - 1);
            for (bit, condition, from, to) in self.breakpoints() {
                if condition == condition::IO && from <= last && first <= to {
                    self.breakpoints_met |= bit;
                }
            }
        }
    }

    /// Whether the instruction at RIP has a breakpoint on it, unless RFLAGS.RF holds that off.
    ///
    /// # Errors
    /// #DB as a fault, with DR6 telling which.
    pub fn instruction_breakpoint(&mut self) -> Executed {
        if !self.breakpoints_enabled() || self.rflags & flag::RF != 0 {
            return Ok(());
        }
        let address = self.linear_rip();
        let met =
            self.breakpoints().filter(|&(_, condition, first, _)| (condition, first) == (condition::EXECUTE, address));
        let met: u64 = met.map(|(bit, ..)| u64::from(bit)).sum();
        if met == 0 {
            return Ok(());
        }
        self.report_debug(met);
        Err(Fault::plain(vector::DB))
    }

    /// DR7.GD makes any touch of a debug register a #DB.
    fn check_general_detect(&mut self) -> Executed {
        if self.dr7 & DR7_GD == 0 {
            return Ok(());
        }
        self.report_debug(DR6_BD);
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
    // Pages with data breakpoints have to leave the TLB.
    core.flush_tlb(false);
    // RF is over with this instruction. Nothing else tells so while no breakpoint is enabled.
    core.rflags &= !flag::RF;
    Ok(())
}
