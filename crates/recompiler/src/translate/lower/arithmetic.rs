//! Arithmetic with implicit operands: widening, multiplication, division, CMPXCHG and CMPXCHG16B, bits of bit strings.

use super::memo::TABLE;
use super::{HOMES, Home, Lowering, Unfit, home, place};
use crate::interp::integer::operand;
use crate::state::layout;
use crate::translate::SiteKind;
use crate::translate::asm::{condition, host};
use crate::translate::encode::{Raw, Rm};
use crate::translate::flags::Use;
use crate::translate::form::{Memory, Planner, general, operand_bytes};
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind};

impl Lowering<'_> {
    /// CBW and its relatives: the accumulator in RAX, RDX is RDX.
    pub(super) fn widen(&mut self, instruction: &Instruction) {
        self.asm.load(host::RAX, place(0));
        self.asm.raw(match instruction.mnemonic() {
            Mnemonic::Cbw => &[0x66, 0x98],
            Mnemonic::Cwde => &[0x98],
            Mnemonic::Cdqe => &[0x48, 0x98],
            Mnemonic::Cwd => &[0x66, 0x99],
            Mnemonic::Cdq => &[0x99],
            _ => &[0x48, 0x99],
        });
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
            let operand = self.operand(instruction, memory, flags.live_in)?;
            site = operand.site;
            self.without_rax(operand.rm)
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

    /// DIV and IDIV, of bytes DIV alone. What would raise #DE on the host goes to the interpreter.
    pub(super) fn divide(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = operand_bytes(instruction) as u16;
        let zero_extended: &[u8] = match size {
            1 => &[0x0F, 0xB6],
            2 => &[0x0F, 0xB7],
            _ => &[0x8B],
        };
        let wide = size == 8;
        let lookup_site = match instruction.op0_kind() {
            OpKind::Memory => {
                let memory = Memory { size, write: false, aligned: false };
                let operand = self.operand(instruction, memory, flags.live_in)?;
                self.asm.op(wide, zero_extended, host::RCX, operand.rm);
                operand.site
            }
            _ => {
                let gpr = general(instruction.op0_register(), OpAccess::Read).ok_or(Unfit)?;
                self.asm.op(wide, &[0x8B], host::RCX, place(gpr.number));
                if gpr.high {
                    // movzx ecx, ch
                    self.asm.raw(&[0x0F, 0xB6, 0xCD]);
                }
                None
            }
        };
        self.before_clobber(flags.live_in);
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        let mut from = Vec::new();
        let rcx = Rm::Register(host::RCX);
        let unsigned = instruction.mnemonic() == Mnemonic::Div;
        if unsigned {
            // The quotient fits exactly when the high half is below the divisor (which is then not zero).
            if size == 1 {
                // cmp ah, cl
                self.asm.load(host::RAX, place(0));
                self.asm.raw(&[0x38, 0xCC]);
            } else {
                self.asm.sized(size, &[0x3B], host::RDX, rcx);
            }
            from.push(self.asm.jcc_forward(condition::AE));
        } else {
            // Sign-extended dividends and divisors other than 0 and -1 cannot overflow.
            self.asm.op(wide, &[0x8B], host::RAX, place(0));
            self.asm.sized(size, &[0xC1], 7, Rm::Register(host::RAX));
            self.asm.raw(&[size as u8 * 8 - 1]);
            self.asm.sized(size, &[0x3B], host::RAX, Rm::Register(host::RDX));
            from.push(self.asm.jcc_forward(condition::NE));
            self.asm.op(wide, &[0x8D], host::RAX, Rm::Base { base: host::RCX, displacement: 1 });
            if size == 2 {
                self.asm.op(false, &[0x0F, 0xB7], host::RAX, Rm::Register(host::RAX));
            }
            self.asm.group1(wide, 7, Rm::Register(host::RAX), 1);
            from.push(self.asm.jcc_forward(condition::BE));
        }
        self.asm.load(host::RAX, place(0));
        self.asm.sized(size, &[if size == 1 { 0xF6 } else { 0xF7 }], if unsigned { 6 } else { 7 }, rcx);
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
        let operand = self.combine(TABLE, host::RCX);
        self.asm.load(host::RAX, place(0));
        copied.raw.emit(&mut self.asm, register, operand, 0, source.size == 1 && matches!(register, 4..=7));
        self.asm.store(place(0), host::RAX);
        self.after_op(&flags);
        self.finish_site(site);
        Ok(())
    }

    /// CMPXCHG8B and CMPXCHG16B.
    pub(super) fn compare_exchange_pair(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        flags: Use,
    ) -> Result<(), Unfit> {
        let mut raw = Raw::parse(bytes, self.mode.bits()).ok_or(Unfit)?;
        raw.set_operand_size(false);
        self.before_clobber(flags.live_in);
        self.address(instruction)?;
        let size = instruction.memory_size().size() as u16;
        let aligned = size == 16 || instruction.has_lock_prefix();
        let site = self.lookup(instruction, Memory { size, write: true, aligned });
        self.combine(TABLE, host::RAX);
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
        self.asm.op(operand::address_size(instruction) == 8, &[0x8D], host::RAX, moved);
        self.truncate_address(instruction, host::RAX);
        let site = self.lookup(instruction, memory);
        self.combine(TABLE, host::RAX);
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
