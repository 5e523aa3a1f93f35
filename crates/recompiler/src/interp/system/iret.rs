//! IRET in every mode. Intel SDM volume 2A, "IRET".

use super::far::OuterReturn;
use super::segment::{load_real, null_segment};
use super::stack::Stack;
use crate::fault::Fault;
use crate::state::{Bits, Core, Executed, cr4, flag};
use hv::{Gpr, SegmentRegister};
use iced_x86::{Code, Instruction};

/// What IRET may change at any privilege level.
const ALWAYS: u64 = flag::ARITHMETIC | flag::TF | flag::DF | flag::NT;
/// What only the wide forms hold.
const WIDE: u64 = flag::RF | flag::AC | flag::ID;

/// IRET, IRETD and IRETQ. NMIs are no longer masked, whatever becomes of it.
pub(super) fn iret(core: &mut Core, instruction: &Instruction) -> Executed {
    let size = match instruction.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        _ => 8,
    };
    if std::mem::take(&mut core.nmi_masked) {
        if let Some(lapic) = &core.lapic {
            lapic.unmask_nmi();
        }
    }
    if !core.protected() {
        return core.iret_real(size);
    }
    if core.vm86() {
        return core.iret_in_vm86(size);
    }
    if core.rflags & flag::NT != 0 {
        if core.long_mode() {
            return Err(Fault::GP0);
        }
        return core.return_from_task();
    }
    core.iret_protected(size)
}

impl Core {
    fn pop_frame(&mut self, stack: &mut Stack, size: u64) -> Result<(u64, u16, u64), Fault> {
        let offset = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let flags = stack.pop(self, size)?;
        Ok((offset, selector, flags))
    }

    /// Replaces the flags in `mask`; a 16-bit image has only the low ones.
    fn load_flags(&mut self, size: u64, image: u64, mask: u64) {
        let mask = if size == 2 { mask & 0xFFFF } else { mask };
        self.rflags = self.rflags & !mask | image & mask | flag::FIXED;
    }

    /// Continues in real or virtual-8086 mode.
    fn return_real(&mut self, selector: u16, offset: u64) -> Executed {
        if offset > u64::from(self.segments[SegmentRegister::Cs as usize].limit) {
            return Err(Fault::GP0);
        }
        load_real(self, SegmentRegister::Cs, selector);
        self.next_rip = offset;
        Ok(())
    }

    fn iret_real(&mut self, size: u64) -> Executed {
        let mut stack = self.stack();
        let (offset, selector, image) = self.pop_frame(&mut stack, size)?;
        self.return_real(selector, offset)?;
        self.commit_stack(&stack);
        self.load_flags(size, image, ALWAYS | WIDE | flag::IF | flag::IOPL);
        Ok(())
    }

    fn iret_in_vm86(&mut self, size: u64) -> Executed {
        let full = self.rflags & flag::IOPL == flag::IOPL;
        if !full && (size != 2 || self.cr4 & cr4::VME == 0) {
            return Err(Fault::GP0);
        }
        let mut stack = self.stack();
        let (offset, selector, image) = self.pop_frame(&mut stack, size)?;
        let virtual_set = !full && image & flag::IF != 0;
        if !full && (image & flag::TF != 0 || virtual_set && self.rflags & flag::VIP != 0) {
            return Err(Fault::GP0);
        }
        self.return_real(selector, offset)?;
        self.commit_stack(&stack);
        if full {
            self.load_flags(size, image, ALWAYS | WIDE | flag::IF);
        } else {
            self.load_flags(size, image, ALWAYS);
            self.rflags = self.rflags & !flag::VIF | if virtual_set { flag::VIF } else { 0 };
        }
        Ok(())
    }

    fn iret_protected(&mut self, size: u64) -> Executed {
        let mut stack = self.stack();
        let (offset, selector, image) = self.pop_frame(&mut stack, size)?;
        let cpl = self.cpl();
        if !self.long_mode() && size == 4 && image & flag::VM != 0 && cpl == 0 {
            return self.enter_vm86_task(stack, offset, selector, image);
        }
        // The flags that may change are decided by the level that executes IRET.
        let mut mask = ALWAYS | WIDE;
        if u64::from(cpl) <= self.rflags >> 12 & 3 {
            mask |= flag::IF;
        }
        if cpl == 0 {
            mask |= flag::IOPL | flag::VIF | flag::VIP;
        }
        let code = self.return_code(selector)?;
        let rpl = (selector & 3) as u8;
        if rpl > cpl || self.bits() == Bits::B64 {
            let pointer = stack.pop(self, size)?;
            let ss = stack.pop(self, size)? as u16;
            self.return_outer(OuterReturn { selector, code, offset, ss, pointer, parameters: 0 })?;
        } else {
            self.continue_at(selector, code, offset, rpl)?;
            self.commit_stack(&stack);
        }
        self.load_flags(size, image, mask);
        Ok(())
    }

    /// Returns from protected mode at CPL 0 to a virtual-8086 program.
    fn enter_vm86_task(&mut self, mut stack: Stack, offset: u64, selector: u16, image: u64) -> Executed {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let esp = stack.pop(self, 4)?;
        let mut selectors = [0; 5];
        for selector in &mut selectors {
            *selector = stack.pop(self, 4)? as u16;
        }
        if offset > 0xFFFF {
            return Err(Fault::GP0);
        }
        self.load_flags(4, image, ALWAYS | WIDE | flag::IF | flag::IOPL | flag::VM | flag::VIF | flag::VIP);
        for (name, selector) in [Ss, Es, Ds, Fs, Gs].into_iter().zip(selectors) {
            self.segments[name as usize] = null_segment(0, 0);
            load_real(self, name, selector);
        }
        load_real(self, Cs, selector);
        self.gpr[Gpr::Rsp as usize] = esp;
        self.next_rip = offset;
        Ok(())
    }
}
