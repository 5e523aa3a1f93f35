//! Instructions of the vector units and x87 that are not copied as they are: control words, whose exceptions must stay
//! masked in translated code, and implicit general registers.

use super::memo::TABLE;
use super::{Lowering, Unfit, place};
use crate::state::layout;
use crate::translate::SiteKind;
use crate::translate::asm::{condition, host};
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Memory, Planner};
use iced_x86::{Instruction, Mnemonic};

impl Lowering<'_> {
    /// FNSTSW AX.
    pub(super) fn store_status(&mut self) {
        self.asm.load(host::RAX, place(0));
        self.asm.raw(&[0xDF, 0xE0]);
        self.asm.store(place(0), host::RAX);
    }

    /// LDMXCSR and FLDCW. Unmasking an exception changes the mode, and is left to the interpreter; so are reserved bits.
    pub(super) fn load_control(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let x87 = instruction.mnemonic() == Mnemonic::Fldcw;
        let (size, masks, others) = if x87 { (2, 0x3F, 0xFFC0) } else { (4, 0x1F80, 0xE07F) };
        self.before_clobber(flags.live_in);
        let interpreted = self.site(instruction, SiteKind::Interpret, 0, false);
        self.address(instruction)?;
        let site = self.lookup(instruction, Memory { size, write: false, aligned: false });
        let found = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        let asm = &mut self.asm;
        // Read once: another processor may write it meanwhile.
        asm.op(false, if x87 { &[0x0F, 0xB7] } else { &[0x8B] }, host::RAX, found);
        asm.op(false, &[0x89], host::RAX, Rm::Gs(layout::SCRATCH));
        asm.group1(false, 4, Rm::Register(host::RAX), !others);
        asm.group1(false, 7, Rm::Register(host::RAX), masks);
        let unfit = vec![asm.jcc_forward(condition::NE)];
        // fldcw or ldmxcsr gs:[SCRATCH]
        if x87 {
            asm.op(false, &[0xD9], 5, Rm::Gs(layout::SCRATCH));
        } else {
            asm.op(false, &[0x0F, 0xAE], 2, Rm::Gs(layout::SCRATCH));
        }
        self.unfit(instruction, unfit, interpreted);
        self.finish_site(site);
        self.finish_site(interpreted);
        Ok(())
    }

    /// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM: lengths in RAX and RDX, an index in RCX.
    pub(super) fn compare_texts(
        &mut self,
        instruction: &Instruction,
        planner: &mut Planner,
        bytes: &[u8],
        flags: Use,
    ) -> Result<(), Unfit> {
        let copied = planner.copied(instruction, bytes, self.mode).ok_or(Unfit)?;
        let mut site = None;
        let mut rm = Rm::Register(copied.raw.rm);
        if let Some(memory) = copied.memory {
            self.before_clobber(flags.live_in);
            self.address(instruction)?;
            // The only SSE instructions, but for unaligned moves, that let their operand lie anywhere.
            site = Some(self.lookup(instruction, Memory { aligned: false, ..memory }));
            rm = self.combine(TABLE, host::RCX);
        }
        self.asm.load(host::RAX, place(0));
        copied.raw.emit(&mut self.asm, copied.raw.reg, rm, copied.raw.vvvv(), false);
        if gives_index(instruction) {
            self.asm.mov32(host::RAX, host::RCX);
            self.asm.store(place(1), host::RAX);
        }
        self.after_op(&flags);
        if let Some(site) = site {
            self.finish_site(site);
        }
        Ok(())
    }
}

/// The forms that leave an index in ECX; the others leave a mask in XMM0.
fn gives_index(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(instruction.mnemonic(), Pcmpestri | Pcmpestri64 | Pcmpistri | Vpcmpestri | Vpcmpestri64 | Vpcmpistri)
}
