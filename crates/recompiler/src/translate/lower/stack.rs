//! The stack: PUSH, POP, LEAVE and PUSHFQ, and what calls and returns need of it.
//!
//! RSP moves behind the last lookup: an instruction that faults has not moved it.

use super::{HOMES, Home, Lowering, Unfit, home, place};
use crate::state::{Bits, layout};
use crate::translate::asm::host;
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Memory, general};
use iced_x86::{Instruction, OpAccess, OpKind};

impl Lowering<'_> {
    /// Bytes of a push or pop in this mode.
    pub(super) fn stack_size(&self) -> u16 {
        if self.mode.bits() == Bits::B64 { 8 } else { 4 }
    }

    /// RAX = RSP + displacement, looked up.
    pub(super) fn stack_lookup(&mut self, instruction: &Instruction, displacement: i32, write: bool) -> u32 {
        let from = Rm::Base { base: HOMES[4], displacement };
        if displacement == 0 {
            let wide = self.wide();
            self.asm.op(wide, &[0x8B], host::RAX, Rm::Register(HOMES[4]));
        } else {
            let wide = self.wide();
            self.asm.op(wide, &[0x8D], host::RAX, from);
        }
        self.lookup(instruction, Memory { size: self.stack_size(), write, aligned: false })
    }

    /// RSP += displacement, leaving the flags alone.
    pub(super) fn move_stack(&mut self, displacement: i32) {
        let wide = self.wide();
        self.asm.op(wide, &[0x8D], HOMES[4], Rm::Base { base: HOMES[4], displacement });
    }

    pub(super) fn push(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = i32::from(self.stack_size());
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        let site = match instruction.op0_kind() {
            OpKind::Register => {
                let register = general(instruction.op0_register(), OpAccess::Read).ok_or(Unfit)?;
                let site = self.stack_lookup(instruction, -size, true);
                match home(register.number) {
                    Home::Host(source) => self.asm.op(wide, &[0x89], source, slot),
                    Home::Core(_) => {
                        let slot = self.combine(host::RCX);
                        self.asm.load(host::RAX, place(register.number));
                        self.asm.op(wide, &[0x89], host::RAX, slot);
                    }
                }
                site
            }
            OpKind::Memory => {
                let memory = Memory { size: self.stack_size(), write: false, aligned: false };
                self.address(instruction)?;
                let first = self.lookup(instruction, memory);
                self.asm.op(wide, &[0x8B], host::RAX, slot);
                self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
                let second = self.stack_lookup(instruction, -size, true);
                let slot = self.combine(host::RCX);
                self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
                self.asm.op(wide, &[0x89], host::RAX, slot);
                self.move_stack(-size);
                self.finish_site(first);
                self.finish_site(second);
                return Ok(());
            }
            _ => {
                let value = instruction.immediate(0);
                let site = self.stack_lookup(instruction, -size, true);
                // mov [slot], imm32 sign-extended: all pushable immediates fit.
                self.asm.op(wide, &[0xC7], 0, slot);
                self.asm.dword(value as u32);
                site
            }
        };
        self.move_stack(-size);
        self.finish_site(site);
        Ok(())
    }

    pub(super) fn pop(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let register = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        let size = i32::from(self.stack_size());
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        let site = self.stack_lookup(instruction, 0, false);
        let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        if register.number != 4 {
            self.move_stack(size);
        }
        match home(register.number) {
            Home::Host(target) => self.asm.op(wide, &[0x8B], target, slot),
            Home::Core(offset) => {
                self.asm.op(wide, &[0x8B], host::RAX, slot);
                self.asm.store(Rm::Gs(offset), host::RAX);
            }
        }
        self.finish_site(site);
        Ok(())
    }

    pub(super) fn leave(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = self.stack_size();
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        self.asm.op(wide, &[0x8B], host::RAX, place(5));
        let site = self.lookup(instruction, Memory { size, write: false, aligned: false });
        self.asm.op(wide, &[0x8D], HOMES[4], Rm::Base { base: HOMES[5], displacement: i32::from(size) });
        let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        self.asm.op(wide, &[0x8B], HOMES[5], slot);
        self.finish_site(site);
        Ok(())
    }

    /// PUSHFQ: RFLAGS in the core, but for the arithmetic flags.
    pub(super) fn push_flags(&mut self, instruction: &Instruction, flags: Use) {
        self.flags_to_core();
        self.before_clobber(flags.live_in);
        let site = self.stack_lookup(instruction, -8, true);
        self.combine(host::RAX);
        self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
        let asm = &mut self.asm;
        // eax = the low flags; ecx = OF << 11
        asm.op(false, &[0x0F, 0xB6], host::RAX, Rm::Gs(layout::FLAGS + 1));
        asm.group1(false, 4, Rm::Register(host::RAX), 0xD5);
        asm.op(false, &[0x0F, 0xB6], host::RCX, Rm::Gs(layout::FLAGS));
        asm.raw(&[0xC1, 0xE1, 0x0B]);
        asm.op(false, &[0x09], host::RCX, Rm::Register(host::RAX));
        asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::RFLAGS));
        // Neither RF nor VM are pushed.
        asm.group1(false, 4, Rm::Register(host::RCX), !0x3_08D5);
        asm.op(false, &[0x09], host::RCX, Rm::Register(host::RAX));
        asm.load(host::RCX, Rm::Gs(layout::SCRATCH));
        asm.store(Rm::Base { base: host::RCX, displacement: 0 }, host::RAX);
        self.move_stack(-8);
        self.in_host = false;
        self.finish_site(site);
    }
}
