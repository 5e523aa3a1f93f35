//! Arithmetic with implicit operands: widening, multiplication, division, CMPXCHG and CMPXCHG16B, bits of bit strings.

use super::{HOMES, Home, Lowering, Unfit, home, place};
use crate::state::layout;
use crate::translate::SiteKind;
use crate::translate::asm::{condition, host};
use crate::translate::encode::{Raw, Rm};
use crate::translate::flags::Use;
use crate::translate::form::{Memory, Planner, general, operand_bytes};
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind};

impl Lowering<'_> {
    /// CBW and its relatives: the accumulator in RAX, RDX is RDX.
    pub(super) fn widen(&mut self, bytes: &[u8]) {
        self.asm.load(host::RAX, place(0));
        self.asm.raw(bytes);
        self.asm.store(place(0), host::RAX);
    }

    /// MUL and IMUL with the implicit accumulator.
    pub(super) fn multiply(
        &mut self,
        instruction: &Instruction,
        planner: &mut Planner,
        bytes: &[u8],
        flags: Use,
    ) -> Result<(), Unfit> {
        let copied = planner.copied(instruction, bytes, self.mode).ok_or(Unfit)?;
        let mut site = None;
        let rm = if let Some(memory) = copied.memory {
            self.before_clobber(flags.live_in);
            self.address(instruction)?;
            site = Some(self.lookup(instruction, memory));
            self.combine(host::RCX)
        } else {
            let gpr = copied.rm.ok_or(Unfit)?;
            if gpr.high {
                return Err(Unfit);
            }
            match home(gpr.number) {
                Home::Host(register) => Rm::Register(register),
                Home::Core(offset) => {
                    self.asm.load(host::RCX, Rm::Gs(offset));
                    Rm::Register(host::RCX)
                }
            }
        };
        self.before_op(&flags);
        self.asm.load(host::RAX, place(0));
        let byte_register = matches!(rm, Rm::Register(4..=7));
        copied.raw.emit(&mut self.asm, copied.raw.reg, rm, 0, byte_register);
        self.asm.store(place(0), host::RAX);
        self.after_op(&flags);
        if let Some(site) = site {
            self.finish_site(site);
        }
        Ok(())
    }

    /// DIV and IDIV of 32 and 64 bits. What would raise #DE on the host goes to the interpreter.
    pub(super) fn divide(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = operand_bytes(instruction) as u16;
        let wide = size == 8;
        self.before_clobber(flags.live_in);
        let lookup_site = match instruction.op0_kind() {
            OpKind::Memory => {
                self.address(instruction)?;
                let site = self.lookup(instruction, Memory { size, write: false, aligned: false });
                let operand = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
                self.asm.op(wide, &[0x8B], host::RCX, operand);
                Some(site)
            }
            _ => {
                let gpr = general(instruction.op0_register(), OpAccess::Read).ok_or(Unfit)?;
                self.asm.op(wide, &[0x8B], host::RCX, place(gpr.number));
                None
            }
        };
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        let mut from = Vec::new();
        let rcx = Rm::Register(host::RCX);
        if instruction.mnemonic() == Mnemonic::Div {
            // The quotient fits exactly when the high half is below the divisor (which is then not zero).
            self.asm.op(wide, &[0x3B], host::RDX, rcx);
            from.push(self.asm.jcc_forward(condition::AE));
        } else {
            // Sign-extended dividends and divisors other than 0 and -1 cannot overflow.
            self.asm.op(wide, &[0x8B], host::RAX, place(0));
            self.asm.op(wide, &[0xC1], 7, Rm::Register(host::RAX));
            self.asm.raw(&[if wide { 63 } else { 31 }]);
            self.asm.op(wide, &[0x3B], host::RAX, Rm::Register(host::RDX));
            from.push(self.asm.jcc_forward(condition::NE));
            self.asm.op(wide, &[0x8D], host::RAX, Rm::Base { base: host::RCX, displacement: 1 });
            self.asm.group1(wide, 7, Rm::Register(host::RAX), 1);
            from.push(self.asm.jcc_forward(condition::BE));
        }
        self.asm.load(host::RAX, place(0));
        let extension = if instruction.mnemonic() == Mnemonic::Div { 6 } else { 7 };
        self.asm.op(wide, &[0xF7], extension, rcx);
        self.asm.store(place(0), host::RAX);
        self.unfit(instruction, from, site);
        // The flags are undefined; the host left some.
        self.in_host = true;
        self.saved = false;
        self.finish_site(site);
        if let Some(site) = lookup_site {
            self.finish_site(site);
        }
        Ok(())
    }

    pub(super) fn compare_exchange(
        &mut self,
        instruction: &Instruction,
        planner: &mut Planner,
        bytes: &[u8],
        flags: Use,
    ) -> Result<(), Unfit> {
        let copied = planner.copied(instruction, bytes, self.mode).ok_or(Unfit)?;
        let source = copied.reg.ok_or(Unfit)?;
        let Home::Host(register) = home(source.number) else { return Err(Unfit) };
        let memory = copied.memory.ok_or(Unfit)?;
        if source.high {
            return Err(Unfit);
        }
        self.before_clobber(flags.live_in);
        self.address(instruction)?;
        let site = self.lookup(instruction, memory);
        let operand = self.combine(host::RCX);
        self.asm.load(host::RAX, place(0));
        copied.raw.emit(&mut self.asm, register, operand, 0, source.size == 1 && matches!(register, 4..=7));
        self.asm.store(place(0), host::RAX);
        self.after_op(&flags);
        self.finish_site(site);
        Ok(())
    }

    pub(super) fn compare_exchange_16(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        flags: Use,
    ) -> Result<(), Unfit> {
        let raw = Raw::parse(bytes, true).ok_or(Unfit)?;
        if !self.wide() {
            return Err(Unfit);
        }
        self.before_clobber(flags.live_in);
        self.address(instruction)?;
        let site = self.lookup(instruction, Memory { size: 16, write: true, aligned: true });
        self.combine(host::RAX);
        // Both scratch registers are operands: the address takes the place of the guest's RSP meanwhile.
        self.asm.store(Rm::Gs(layout::SCRATCH), HOMES[4]);
        self.asm.mov(HOMES[4], host::RAX);
        if Self::needs_host(&flags) && !self.in_host {
            self.restore_flags();
        }
        self.asm.load(host::RAX, place(0));
        self.asm.load(host::RCX, place(1));
        raw.emit(&mut self.asm, raw.reg, Rm::Base { base: HOMES[4], displacement: 0 }, 0, false);
        self.asm.store(place(0), host::RAX);
        self.asm.load(HOMES[4], Rm::Gs(layout::SCRATCH));
        self.after_op(&flags);
        self.finish_site(site);
        Ok(())
    }

    /// BT and its relatives on a bit string in memory: the bit's offset in a register reaches beyond the operand.
    pub(super) fn bit_test(
        &mut self,
        instruction: &Instruction,
        planner: &mut Planner,
        bytes: &[u8],
        flags: Use,
    ) -> Result<(), Unfit> {
        let copied = planner.copied(instruction, bytes, self.mode).ok_or(Unfit)?;
        let (bit, memory) = (copied.reg.ok_or(Unfit)?, copied.memory.ok_or(Unfit)?);
        if bit.size < 4 {
            return Err(Unfit);
        }
        let wide = bit.size == 8;
        self.before_clobber(flags.live_in);
        self.address(instruction)?;
        // rcx = offset in units of the operand's size, sign-extended
        let (shift, scale, mask) = if wide { (6, 3, 63) } else { (5, 2, 31) };
        if wide {
            self.asm.load(host::RCX, place(bit.number));
        } else {
            self.asm.op(true, &[0x63], host::RCX, place(bit.number));
        }
        self.asm.op(true, &[0xC1], 7, Rm::Register(host::RCX));
        self.asm.raw(&[shift]);
        let moved = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale, displacement: 0 };
        self.asm.op(self.wide(), &[0x8D], host::RAX, moved);
        let site = self.lookup(instruction, memory);
        self.combine(host::RAX);
        self.asm.op(false, &[0x8B], host::RCX, place(bit.number));
        self.asm.group1(false, 4, Rm::Register(host::RCX), mask);
        if Self::needs_host(&flags) && !self.in_host {
            self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
            self.restore_flags();
            self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
        }
        copied.raw.emit(&mut self.asm, host::RCX, Rm::Base { base: host::RAX, displacement: 0 }, 0, false);
        self.after_op(&flags);
        self.finish_site(site);
        Ok(())
    }
}
