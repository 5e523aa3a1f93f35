//! Copied instructions: the guest's own encoding, with the registers renamed and the memory operand looked up.
//!
//! Registers that have no host register, or that the encoding cannot name, are staged in RAX and RCX; RCX also serves
//! as the count of a shift.

use super::memo::TABLE;
use super::{Home, Lowering, Unfit, home, place};
use crate::blocks::Decoded;
use crate::state::layout;
use crate::translate::asm::host;
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Copied, Gpr, Memory};
use iced_x86::{Instruction, Mnemonic, Register};

impl Lowering<'_> {
    /// `held`: the register of the core that RAX holds in front of the instruction.
    pub(super) fn copy(
        &mut self,
        decoded: &Decoded,
        copied: &Copied,
        flags: Use,
        held: Option<u8>,
    ) -> Result<(), Unfit> {
        let instruction = &decoded.instruction;
        let start = self.asm.bytes.len();
        let gprs = [copied.reg, copied.rm, copied.vvvv, copied.opcode];
        let high = gprs.iter().flatten().any(|gpr| gpr.high);
        let mut staging = Staging::new(high, copied.memory.is_some());
        let variable_count = instruction.op_count() > 0
            && instruction.op_register(instruction.op_count() - 1) == Register::CL
            && matches!(
                instruction.mnemonic(),
                Mnemonic::Shl
                    | Mnemonic::Sal
                    | Mnemonic::Shr
                    | Mnemonic::Sar
                    | Mnemonic::Rol
                    | Mnemonic::Ror
                    | Mnemonic::Rcl
                    | Mnemonic::Rcr
                    | Mnemonic::Shld
                    | Mnemonic::Shrd
            );
        if variable_count {
            staging.reserve(host::RCX)?;
        }
        let needs_restore = Self::needs_host(&flags);
        let mut operand = None;
        if let Some(memory) = copied.memory {
            if variable_count && needs_restore {
                // The count and the address would need RCX and the flags RAX, all at once.
                return self.copy_shift_memory(instruction, copied, memory, flags);
            }
            operand = Some(self.operand(instruction, memory, flags.live_in)?);
        }
        let restoring = needs_restore && !self.in_host;
        let held = held.filter(|_| !restoring && copied.memory.is_none());
        for gpr in gprs.into_iter().flatten() {
            staging.add(gpr)?;
        }
        let site = operand.as_ref().and_then(|operand| operand.site);
        let memo = operand.as_ref().and_then(|operand| operand.memo);
        let memory_operand = operand.map(|operand| match operand.rm {
            rm if staging.uses(host::RCX) => self.combine(rm, host::RAX),
            // A high byte cannot be named beside a base that needs REX.
            rm if high => self.combine(rm, host::RCX),
            rm if staging.used() != 0 || restoring => self.without_rax(rm),
            rm => rm,
        });
        self.before_op(&flags);
        if variable_count {
            self.asm.op(false, &[0x8B], host::RCX, place(1));
        }
        for staged in staging.list() {
            let loaded = staged.scratch == host::RAX && held == Some(staged.gpr.number);
            if (staged.gpr.read || staged.gpr.high) && !loaded {
                self.asm.load(staged.scratch, place(staged.gpr.number));
            }
        }
        let register = |gpr: Option<Gpr>, otherwise: u8| match gpr {
            Some(gpr) => staging.operand(gpr),
            None => otherwise,
        };
        let byte_register =
            gprs.iter().flatten().any(|&gpr| gpr.size == 1 && !gpr.high && matches!(staging.operand(gpr), 4..=7));
        if high && byte_register {
            return Err(Unfit);
        }
        if let Some(gpr) = copied.opcode {
            copied.raw.emit_opcode_register(&mut self.asm, staging.operand(gpr), byte_register);
        } else {
            let rm = match memory_operand {
                Some(operand) => operand,
                None => Rm::Register(register(copied.rm, copied.raw.rm)),
            };
            let reg = register(copied.reg, copied.raw.reg);
            let vvvv = register(copied.vvvv, copied.raw.vvvv());
            copied.raw.emit(&mut self.asm, reg, rm, vvvv, byte_register);
        }
        for staged in staging.list() {
            if staged.gpr.written {
                self.asm.store(place(staged.gpr.number), staged.scratch);
            }
        }
        self.after_op(&flags);
        let intact = memory_operand.is_none_or(|rm| matches!(rm, Rm::BaseIndex { index: host::RCX, .. }));
        if intact && site.is_none() && !staging.uses(host::RCX) {
            self.keep_addend(memo, Some(start));
        }
        if copied.memory.is_none() {
            self.held = staging.first().map_or(held, |gpr| matches!(home(gpr), Home::Core(_)).then_some(gpr));
        }
        if let Some(site) = site {
            self.finish_site(site);
        }
        Ok(())
    }

    /// A shift of memory by CL: the flags it may pass on are restored before the address is computed again.
    fn copy_shift_memory(
        &mut self,
        instruction: &Instruction,
        copied: &Copied,
        memory: Memory,
        flags: Use,
    ) -> Result<(), Unfit> {
        if copied.reg.is_some() {
            return Err(Unfit);
        }
        self.before_clobber(flags.live_in);
        self.address(instruction)?;
        let site = self.lookup(instruction, memory);
        self.combine(TABLE, host::RAX);
        self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
        self.restore_flags();
        self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
        self.asm.op(false, &[0x8B], host::RCX, place(1));
        copied.raw.emit(&mut self.asm, copied.raw.reg, Rm::Base { base: host::RAX, displacement: 0 }, 0, false);
        self.after_op(&flags);
        self.finish_site(site);
        Ok(())
    }
}

/// General registers that an instruction needs in scratch registers: those that live in the core, and those that its
/// encoding cannot name.
struct Staging {
    high: bool,
    memory: bool,
    count: usize,
    list: [Option<Staged>; 2],
    reserved: Option<u8>,
}

#[derive(Clone, Copy)]
struct Staged {
    gpr: Gpr,
    scratch: u8,
}

impl Staging {
    fn new(high: bool, memory: bool) -> Self {
        Staging { high, memory, count: 0, list: [None; 2], reserved: None }
    }

    /// Keeps a scratch register for something else.
    fn reserve(&mut self, scratch: u8) -> Result<(), Unfit> {
        self.reserved = Some(scratch);
        Ok(())
    }

    /// Takes note of a general register operand.
    fn add(&mut self, gpr: Gpr) -> Result<(), Unfit> {
        let direct = match home(gpr.number) {
            // Without REX, only the first eight registers (and four of their high bytes) can be named.
            Home::Host(register) if self.high => {
                register < 4 && register != 0 && register != 1 || !gpr.high && register < 8 && gpr.size > 1
            }
            Home::Host(_) => true,
            Home::Core(_) => false,
        };
        if direct {
            return Ok(());
        }
        for staged in self.list.iter_mut().flatten() {
            if staged.gpr.number == gpr.number {
                staged.gpr.read |= gpr.read;
                staged.gpr.written |= gpr.written;
                return Ok(());
            }
        }
        let room = if self.memory || self.reserved.is_some() { 1 } else { 2 };
        if self.count == room || self.memory && self.reserved.is_some() {
            return Err(Unfit);
        }
        let scratch = if self.count == 0 { host::RAX } else { host::RCX };
        self.list[self.count] = Some(Staged { gpr, scratch });
        self.count += 1;
        Ok(())
    }

    /// The register staged in RAX.
    fn first(&self) -> Option<u8> {
        self.list[0].map(|staged| staged.gpr.number)
    }

    fn used(&self) -> usize {
        self.count + usize::from(self.reserved.is_some())
    }

    fn uses(&self, scratch: u8) -> bool {
        self.reserved == Some(scratch) || self.list().any(|staged| staged.scratch == scratch)
    }

    fn list(&self) -> impl Iterator<Item = Staged> + use<> {
        self.list.into_iter().flatten()
    }

    /// The number to encode for an operand.
    fn operand(&self, gpr: Gpr) -> u8 {
        let staged = self.list.iter().flatten().find(|staged| staged.gpr.number == gpr.number);
        let register = match (staged, home(gpr.number)) {
            (Some(staged), _) => staged.scratch,
            (None, Home::Host(register)) => register,
            (None, Home::Core(_)) => host::RAX,
        };
        if gpr.high { register + 4 } else { register }
    }
}
