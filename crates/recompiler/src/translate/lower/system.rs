//! System instructions that are translated: the time-stamp counter, the interrupt flag with STI's shadow, SWAPGS, reads
//! of segment registers; and the way to the interpreter for all others.

use super::flow::Cold;
use super::{HOMES, Home, Lowering, Unfit, home};
use crate::interp;
use crate::state::layout;
use crate::translate::SiteKind;
use crate::translate::asm::{Fixup, host};
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::general;
use iced_x86::{Instruction, Mnemonic, OpAccess};

impl Lowering<'_> {
    /// Leaves an instruction to the interpreter.
    pub(super) fn interpret(&mut self, instruction: &Instruction) {
        self.flags_to_core();
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        self.asm.raw(&[0xB9]);
        self.asm.dword(site);
        self.asm.jmp(self.interpreting_stub(instruction));
        self.finish_site(site);
        // Whoever comes back finds the flags in both places.
        self.in_host = true;
        self.saved = true;
    }

    /// The stub that interprets an instruction: where it can neither see nor raise anything of the vector units and x87,
    /// with their state left in the registers.
    fn interpreting_stub(&self, instruction: &Instruction) -> u64 {
        let light = self.mode.fpu() && !interp::uses_units(instruction);
        if light { self.stubs.interpret_light } else { self.stubs.interpret }
    }

    /// Behind the block: `site`'s instruction is interpreted, as its operands were found unfit for the host.
    pub(super) fn unfit(&mut self, instruction: &Instruction, from: Vec<Fixup>, site: u32) {
        let stub = self.interpreting_stub(instruction);
        self.cold.push(Cold::Unfit { from, site, stub });
    }

    /// RDTSC and RDTSCP: the host's counter plus the guest's offset.
    pub(super) fn time_stamp(&mut self, instruction: &Instruction, flags: Use) {
        self.before_clobber(flags.live_in);
        let with_aux = instruction.mnemonic() == Mnemonic::Rdtscp;
        self.asm.raw(if with_aux { &[0x0F, 0x01, 0xF9] } else { &[0x0F, 0x31] });
        let asm = &mut self.asm;
        // shl rdx, 32; or rax, rdx; add rax, gs:[TSC]
        asm.raw(&[0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0]);
        asm.op(true, &[0x03], host::RAX, Rm::Gs(layout::TSC));
        asm.mov32(HOMES[0], host::RAX);
        // shr rax, 32
        asm.raw(&[0x48, 0xC1, 0xE8, 0x20]);
        asm.mov32(host::RDX, host::RAX);
        if with_aux {
            asm.op(false, &[0x8B], HOMES[1], Rm::Gs(layout::TSC_AUX));
        }
    }

    pub(super) fn clear_interrupt_flag(&mut self, flags: Use) {
        self.before_clobber(flags.live_in);
        self.asm.group1(false, 4, Rm::Gs(layout::RFLAGS), !(1 << 9));
    }

    /// STI, when an instruction follows in the block that is neither a branch nor interpreted: interrupts are looked for
    /// behind it.
    pub(super) fn set_interrupt_flag(&mut self, flags: Use) -> Result<(), Unfit> {
        if !self.shadow_fits {
            return Err(Unfit);
        }
        self.before_clobber(flags.live_in);
        self.asm.group1(false, 1, Rm::Gs(layout::RFLAGS), 1 << 9);
        self.shadow = true;
        Ok(())
    }

    /// Behind the instruction that follows STI: leave when an interrupt waits.
    pub(super) fn end_shadow(&mut self, next: u64) {
        self.shadow = false;
        let host_flags = self.in_host && !self.saved;
        let link = self.link(next, host_flags, false);
        // mov ecx, gs:[WAITING]; jrcxz over; jmp leave; over:
        self.asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::WAITING));
        self.asm.raw(&[0xE3, 0x05]);
        let from = self.asm.jmp_forward();
        self.cold.push(Cold::Exit { from, link, host_flags, poll: true });
    }

    pub(super) fn swap_gs(&mut self) {
        let gs = Rm::Gs(layout::segment_base(5));
        self.asm.load(host::RAX, gs);
        self.asm.load(host::RCX, Rm::Gs(layout::KERNEL_GS_BASE));
        self.asm.store(gs, host::RCX);
        self.asm.store(Rm::Gs(layout::KERNEL_GS_BASE), host::RAX);
    }

    /// MOV from a segment register to a general one.
    pub(super) fn read_segment(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let gpr = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        let Home::Host(target) = home(gpr.number) else { return Err(Unfit) };
        if gpr.size < 4 {
            return Err(Unfit);
        }
        let selector = Rm::Gs(layout::selector(instruction.op1_register().number()));
        self.asm.op(false, &[0x0F, 0xB7], target, selector);
        Ok(())
    }
}
