//! Instructions of the vector units and x87 that are not copied as they are: control words, whose exceptions must stay
//! masked in translated code, and implicit general registers.

use super::memo::TABLE;
use super::{Lowering, Unfit, place};
use crate::blocks::Decoded;
use crate::interp;
use crate::state::layout;
use crate::translate::SiteKind;
use crate::translate::asm::{condition, host};
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Memory, Plan, Planner};
use iced_x86::{FlowControl, Instruction, Mnemonic};

/// For each instruction of a block the x87 instruction pointer that it leaves, where somebody may look at it: behind the
/// last x87 instruction, in front of an interpreted one, and in front of a branch.
pub(super) fn x87_pointers(code: &[Decoded], plans: &[(Plan, usize)]) -> Vec<Option<u64>> {
    let mut wanted = true;
    let mut pointers = vec![None; code.len()];
    for (index, decoded) in code.iter().enumerate().rev() {
        let branches = decoded.instruction.flow_control() == FlowControl::ConditionalBranch;
        if matches!(plans[index].0, Plan::Interpret) || branches {
            wanted = true;
        } else if let Some(pointer) = interp::x87_pointer(&decoded.instruction) {
            pointers[index] = wanted.then_some(pointer);
            wanted = false;
        }
    }
    pointers
}

impl Lowering<'_> {
    /// The x87 instruction pointer. Changes no flags.
    pub(super) fn note_x87(&mut self, pointer: u64) {
        self.asm.mov_imm(host::RAX, pointer);
        self.asm.store(Rm::Gs(layout::X87_POINTER), host::RAX);
    }

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

#[cfg(test)]
mod tests {
    use crate::state::Bits;
    use crate::testing::{self, CODE, DATA, NoKick};
    use crate::vcpu::RecompilerVcpu;
    use hv::Vcpu;
    use std::sync::Arc;

    /// Translates and runs code that ends with HLT, with RDI at [`DATA`].
    fn run(code: &[u8]) -> RecompilerVcpu {
        let mut core = testing::core(Bits::B64, 0);
        core.memory.write(CODE, code).expect("RAM");
        core.gpr[7] = DATA;
        let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
        vcpu.translate_after(0);
        vcpu.run().expect("a run");
        vcpu
    }

    fn word(vcpu: &RecompilerVcpu, at: u64) -> u32 {
        let mut bytes = [0; 4];
        vcpu.core.memory.read(at, &mut bytes).expect("RAM");
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn fnstenv_tells_where_the_last_x87_instruction_lies() {
        // fninit; nop; fldz; nop; fnstcw [rdi]; fnstenv [rdi]; hlt: code that asks where it is.
        let vcpu = run(&[0xDB, 0xE3, 0x90, 0xD9, 0xEE, 0x90, 0xD9, 0x3F, 0xD9, 0x37, 0xF4]);
        assert_eq!(word(&vcpu, DATA + 12), CODE as u32 + 3);
        // The same with a branch between.
        let vcpu = run(&[0xDB, 0xE3, 0xD9, 0xEE, 0xEB, 0x00, 0xD9, 0x37, 0xF4]);
        assert_eq!(word(&vcpu, DATA + 12), CODE as u32 + 2);
        // fldz; fninit; fnstenv [rdi]
        let vcpu = run(&[0xD9, 0xEE, 0xDB, 0xE3, 0xD9, 0x37, 0xF4]);
        assert_eq!(word(&vcpu, DATA + 12), 0);
    }

    #[test]
    fn fxsave_behind_translated_code_shows_the_guests_pointer_and_no_operand() {
        // fninit; fld1; fldz; fxsave64 [rdi]
        let vcpu = run(&[0xDB, 0xE3, 0xD9, 0xE8, 0xD9, 0xEE, 0x48, 0x0F, 0xAE, 0x07, 0xF4]);
        let pointers = [8, 12, 16, 20].map(|at| word(&vcpu, DATA + at));
        assert_eq!(pointers, [CODE as u32 + 4, 0, 0, 0]);
    }

    #[test]
    fn unmasking_an_exception_in_translated_code_makes_the_next_one_the_guests() {
        // ldmxcsr [rdi]; divss xmm0, xmm1 (0 / 0); hlt. Without a table for exceptions, that is the end.
        let code = [0x0F, 0xAE, 0x17, 0xF3, 0x0F, 0x5E, 0xC1, 0xF4];
        let mut core = testing::core(Bits::B64, 0);
        core.memory.write(CODE, &code).expect("RAM");
        core.memory.write(DATA, &0x1F00u32.to_le_bytes()).expect("RAM");
        core.gpr[7] = DATA;
        let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
        vcpu.translate_after(0);
        assert!(matches!(vcpu.run(), Ok(hv::Exit::Shutdown)));
        assert_eq!(vcpu.core.rip, CODE + 3);
        assert_eq!(vcpu.core.counters.faults[19], 1);
    }
}
