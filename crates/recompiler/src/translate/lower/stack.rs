//! The stack: PUSH, POP, LEAVE and PUSHF, and what calls and returns need of it.
//!
//! RSP moves behind the last lookup: an instruction that faults has not moved it. How much an instruction moves is its
//! operand size, how wide the pointer is the stack segment's.

use super::memo::{Implied, Operand, TABLE};
use super::{HOMES, Home, Lowering, Unfit, home, place};
use crate::interp::integer::stack;
use crate::state::layout;
use crate::translate::asm::host;
use crate::translate::encode::Rm;
use crate::translate::flags::{Flags, Use};
use crate::translate::form::{Memory, general};
use hv::SegmentRegister;
use iced_x86::{Instruction, OpAccess, OpKind, Register};

impl Lowering<'_> {
    /// `size` bytes at RSP + displacement looked up.
    pub(super) fn stack_lookup(&mut self, instruction: &Instruction, displacement: i32, size: u16, write: bool) -> u32 {
        let pointer = self.mode.stack_pointer();
        let from = Rm::Base { base: HOMES[4], displacement };
        match (pointer, displacement) {
            (2, 0) => self.asm.op(false, &[0x0F, 0xB7], host::RAX, Rm::Register(HOMES[4])),
            (2, _) => {
                self.asm.op(false, &[0x8D], host::RAX, from);
                self.asm.op(false, &[0x0F, 0xB7], host::RAX, Rm::Register(host::RAX));
            }
            (_, 0) => self.asm.sized(pointer, &[0x8B], host::RAX, Rm::Register(HOMES[4])),
            (_, _) => self.asm.sized(pointer, &[0x8D], host::RAX, from),
        }
        let memory = Memory { size, write, aligned: false };
        self.lookup_in(instruction, SegmentRegister::Ss as usize, pointer == 2, memory)
    }

    /// The operand of `size` bytes at RSP + displacement.
    pub(super) fn stack_operand(
        &mut self,
        instruction: &Instruction,
        displacement: i32,
        size: u16,
        write: bool,
        live: Flags,
    ) -> Operand {
        let memory = Memory { size, write, aligned: false };
        if let Some(operand) =
            self.grouped_operand(instruction, Implied::Register(Register::RSP, displacement), memory, live)
        {
            return operand;
        }
        self.before_clobber(live);
        Operand { rm: TABLE, site: Some(self.stack_lookup(instruction, displacement, size, write)), memo: None }
    }

    /// RSP += displacement, leaving the flags alone. RCX is destroyed where the pointer has 16 bits.
    pub(super) fn move_stack(&mut self, displacement: i32) {
        self.set_stack(HOMES[4], displacement);
    }

    /// RSP = base + displacement, as much of it as the stack pointer has.
    fn set_stack(&mut self, base: u8, displacement: i32) {
        let from = Rm::Base { base, displacement };
        match self.mode.stack_pointer() {
            2 => {
                self.asm.op(false, &[0x8D], host::RCX, from);
                self.asm.sized(2, &[0x89], host::RCX, Rm::Register(HOMES[4]));
            }
            size => self.asm.sized(size, &[0x8D], HOMES[4], from),
        }
    }

    pub(super) fn push(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = stack::moved(instruction) as u16;
        let displacement = -i32::from(size);
        let mut first = None;
        let operand = match instruction.op0_kind() {
            OpKind::Register if instruction.op0_register().is_segment_register() => {
                let operand = self.stack_operand(instruction, displacement, size, true, flags.live_in);
                let slot = self.without_rax(operand.rm);
                let selector = layout::selector(instruction.op0_register().number());
                self.asm.op(false, &[0x0F, 0xB7], host::RAX, Rm::Gs(selector));
                self.asm.sized(size, &[0x89], host::RAX, slot);
                operand
            }
            OpKind::Register => {
                let register = general(instruction.op0_register(), OpAccess::Read).ok_or(Unfit)?;
                let operand = self.stack_operand(instruction, displacement, size, true, flags.live_in);
                match home(register.number) {
                    Home::Host(source) => self.asm.sized(size, &[0x89], source, operand.rm),
                    Home::Core(_) => {
                        let slot = self.without_rax(operand.rm);
                        self.asm.load(host::RAX, place(register.number));
                        self.asm.sized(size, &[0x89], host::RAX, slot);
                    }
                }
                operand
            }
            OpKind::Memory => {
                let source = self.operand(instruction, Memory { size, write: false, aligned: false }, flags.live_in)?;
                first = source.site;
                self.asm.sized(size, &[0x8B], host::RAX, source.rm);
                self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
                let operand = self.stack_operand(instruction, displacement, size, true, flags.live_in);
                let slot = self.without_rax(operand.rm);
                self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
                self.asm.sized(size, &[0x89], host::RAX, slot);
                operand
            }
            _ => {
                let value = instruction.immediate(0);
                let operand = self.stack_operand(instruction, displacement, size, true, flags.live_in);
                // mov [slot], imm, at most 32 bits sign-extended: all pushable immediates fit.
                self.asm.sized(size, &[0xC7], 0, operand.rm);
                self.asm.raw(&value.to_le_bytes()[..if size == 2 { 2 } else { 4 }]);
                operand
            }
        };
        self.move_stack(displacement);
        match first {
            // Whoever comes from there brings something else in RCX.
            Some(first) => self.finish_early_site(first),
            None => self.keep_addend(operand.memo, None),
        }
        operand.site.into_iter().for_each(|site| self.finish_site(site));
        Ok(())
    }

    pub(super) fn pop(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = stack::moved(instruction) as u16;
        if instruction.op0_register().is_segment_register() {
            self.before_clobber(flags.live_in);
            let site = self.stack_lookup(instruction, 0, size, false);
            self.asm.op(false, &[0x0F, 0xB7], host::RAX, TABLE);
            self.load_paragraphs(instruction, instruction.op0_register(), site);
            self.move_stack(i32::from(size));
            self.finish_site(site);
            return Ok(());
        }
        let register = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        if register.number == 4 && size < self.mode.stack_pointer() {
            // The part of RSP that is not popped moves.
            return Err(Unfit);
        }
        let operand = self.stack_operand(instruction, 0, size, false, flags.live_in);
        match home(register.number) {
            Home::Host(target) => self.asm.sized(size, &[0x8B], target, operand.rm),
            Home::Core(offset) => {
                self.asm.sized(size, &[0x8B], host::RAX, operand.rm);
                self.asm.sized(size, &[0x89], host::RAX, Rm::Gs(offset));
            }
        }
        if register.number != 4 {
            self.move_stack(i32::from(size));
        }
        self.keep_addend(operand.memo, None);
        operand.site.into_iter().for_each(|site| self.finish_site(site));
        Ok(())
    }

    pub(super) fn leave(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = self.operand_size(instruction);
        let pointer = self.mode.stack_pointer();
        let memory = Memory { size, write: false, aligned: false };
        if let Some(operand) =
            self.grouped_operand(instruction, Implied::Register(Register::RBP, 0), memory, flags.live_in)
        {
            self.set_stack(HOMES[5], i32::from(size));
            self.asm.sized(size, &[0x8B], HOMES[5], operand.rm);
            return Ok(());
        }
        self.before_clobber(flags.live_in);
        match pointer {
            2 => self.asm.op(false, &[0x0F, 0xB7], host::RAX, place(5)),
            _ => self.asm.sized(pointer, &[0x8B], host::RAX, place(5)),
        }
        let site = self.lookup_in(instruction, SegmentRegister::Ss as usize, pointer == 2, memory);
        if pointer == 2 {
            self.asm.sized(size, &[0x8B], host::RAX, TABLE);
        }
        self.set_stack(HOMES[5], i32::from(size));
        let value = if pointer == 2 { Rm::Register(host::RAX) } else { TABLE };
        self.asm.sized(size, &[0x8B], HOMES[5], value);
        self.finish_site(site);
        Ok(())
    }

    /// PUSHF: RFLAGS in the core, but for the arithmetic flags.
    pub(super) fn push_flags(&mut self, instruction: &Instruction, flags: Use) {
        let size = stack::moved(instruction) as u16;
        self.flags_to_core();
        let operand = self.stack_operand(instruction, -i32::from(size), size, true, flags.live_in);
        self.combine(operand.rm, host::RAX);
        self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
        self.flags_image();
        let asm = &mut self.asm;
        asm.load(host::RCX, Rm::Gs(layout::SCRATCH));
        asm.sized(size, &[0x89], host::RAX, Rm::Base { base: host::RCX, displacement: 0 });
        self.move_stack(-i32::from(size));
        self.in_host = false;
        operand.site.into_iter().for_each(|site| self.finish_site(site));
    }
}
