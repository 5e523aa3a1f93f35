//! System instructions that are translated: the time-stamp counter, the interrupt flag with STI's shadow, SWAPGS, reads
//! of segment registers; and the way to the interpreter for all others.

use super::flow::Cold;
use super::memo::TABLE;
use super::{HOMES, Lowering, Unfit, place};
use crate::interp;
use crate::state::layout;
use crate::translate::SiteKind;
use crate::translate::asm::{Fixup, condition, host};
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Memory, general};
use hv::Segment;
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

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
        let light = self.mode.light() && !interp::uses_units(instruction);
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

    /// MOV from a segment register.
    pub(super) fn read_segment(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let selector = Rm::Gs(layout::selector(instruction.op1_register().number()));
        if instruction.op0_kind() == OpKind::Memory {
            self.before_clobber(flags.live_in);
            self.address(instruction)?;
            let site = self.lookup(instruction, Memory { size: 2, write: true, aligned: false });
            let slot = self.combine(TABLE, host::RCX);
            self.asm.op(false, &[0x0F, 0xB7], host::RAX, selector);
            self.asm.sized(2, &[0x89], host::RAX, slot);
            self.finish_site(site);
            return Ok(());
        }
        let gpr = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        self.asm.op(false, &[0x0F, 0xB7], host::RAX, selector);
        self.asm.sized(if gpr.size == 2 { 2 } else { 8 }, &[0x89], host::RAX, place(gpr.number));
        Ok(())
    }

    /// MOV to a segment register in real and virtual-8086 mode.
    pub(super) fn load_segment(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        self.before_clobber(flags.live_in);
        let site = match instruction.op1_kind() {
            OpKind::Memory => {
                self.address(instruction)?;
                let site = self.lookup(instruction, Memory { size: 2, write: false, aligned: false });
                let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
                self.asm.op(false, &[0x0F, 0xB7], host::RAX, slot);
                site
            }
            _ => {
                let gpr = general(instruction.op1_register(), OpAccess::Read).ok_or(Unfit)?;
                self.asm.op(false, &[0x0F, 0xB7], host::RAX, place(gpr.number));
                self.site(instruction, SiteKind::Interpret, 0, false)
            }
        };
        self.load_paragraphs(instruction, instruction.op0_register(), site);
        self.finish_site(site);
        Ok(())
    }

    /// LDS, LES, LFS and LGS in real and virtual-8086 mode.
    pub(super) fn load_far_pointer(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let register = match instruction.mnemonic() {
            Mnemonic::Lds => Register::DS,
            Mnemonic::Les => Register::ES,
            Mnemonic::Lfs => Register::FS,
            _ => Register::GS,
        };
        let target = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        let size = u16::from(target.size);
        self.before_clobber(flags.live_in);
        self.address(instruction)?;
        let site = self.lookup(instruction, Memory { size: size + 2, write: false, aligned: false });
        self.combine(TABLE, host::RCX);
        let selector = Rm::Base { base: host::RCX, displacement: i32::from(size) };
        self.asm.op(false, &[0x0F, 0xB7], host::RAX, selector);
        self.load_paragraphs(instruction, register, site);
        self.asm.sized(size, &[0x8B], host::RAX, Rm::Base { base: host::RCX, displacement: 0 });
        self.asm.sized(if size == 4 { 8 } else { size }, &[0x89], host::RAX, place(target.number));
        self.finish_site(site);
        Ok(())
    }

    /// A segment register gets the selector in RAX and its base 16 times that; limit and rights stay. One that is unusable
    /// is the interpreter's. RCX stays; destroys the host's flags.
    pub(super) fn load_paragraphs(&mut self, instruction: &Instruction, register: Register, site: u32) {
        let number = register.number();
        let asm = &mut self.asm;
        // test byte gs:[access], P
        asm.op(false, &[0xF6], 0, Rm::Gs(layout::access(number)));
        asm.raw(&[Segment::P as u8]);
        let from = vec![asm.jcc_forward(condition::E)];
        asm.sized(2, &[0x89], host::RAX, Rm::Gs(layout::selector(number)));
        // shl eax, 4
        asm.raw(&[0xC1, 0xE0, 0x04]);
        asm.store(Rm::Gs(layout::segment_base(number)), host::RAX);
        self.unfit(instruction, from, site);
    }

    /// LAHF.
    pub(super) fn load_flags(&mut self, flags: Use) {
        self.flags_to_core();
        self.before_clobber(flags.live_in);
        self.asm.load(host::RAX, place(0));
        // mov ah, gs:[FLAGS + 1]; and ah, 0xD5; or ah, 2
        self.asm.op(false, &[0x8A], 4, Rm::Gs(layout::FLAGS + 1));
        self.asm.raw(&[0x80, 0xE4, 0xD5, 0x80, 0xCC, 0x02]);
        self.asm.store(place(0), host::RAX);
        self.in_host = false;
    }

    /// SAHF: OF stays.
    pub(super) fn store_flags(&mut self) {
        self.flags_to_core();
        self.asm.load(host::RAX, place(0));
        self.asm.op(false, &[0x88], 4, Rm::Gs(layout::FLAGS + 1));
        self.in_host = false;
    }
}
