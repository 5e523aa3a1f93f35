//! System instructions that are translated: the time-stamp counter, the flags of interrupts, strings and SMAP, SYSCALL,
//! SYSRET, SWAPGS, reads of segment registers; and the way to the interpreter for all others.

use super::flow::Cold;
use super::memo::TABLE;
use super::{HOMES, Lowering, Unfit, place};
use crate::cpuid::{CpuidMemo, CpuidMemos};
use crate::interp;
use crate::interp::system::fast_call;
use crate::mode::Mode;
use crate::state::{efer, flag, layout};
use crate::translate::SiteKind;
use crate::translate::asm::{Fixup, condition, host};
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Memory, control_field, general};
use hv::{Segment, SegmentRegister};
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};
use std::mem::offset_of;

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
        if !self.mode.light() || interp::uses_units(instruction) {
            self.stubs.interpret
        } else if interp::steady(instruction) {
            self.stubs.interpret_steady
        } else {
            self.stubs.interpret_light
        }
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

    /// CPUID, where it gave the same lately.
    pub(super) fn cpuid(&mut self, instruction: &Instruction, flags: Use) {
        self.before_clobber(flags.live_in);
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        let memo = |field: usize| Rm::GsIndexed { base: host::RAX, displacement: layout::CPUID_MEMOS + field as u32 };
        let registers = offset_of!(CpuidMemo, registers);
        let (rax, rcx) = (HOMES[0], HOMES[1]);
        let asm = &mut self.asm;
        // What is behind waits for all in front: lock or dword gs:[..], 0, and an LFENCE below.
        asm.raw(&[0xF0]);
        asm.group1(false, 1, Rm::Gs(layout::SCRATCH), 0);
        asm.mov32(host::RAX, rax);
        asm.op(false, &[0x03], host::RAX, Rm::Register(rcx));
        // shl eax, log2 of a memo's size
        asm.raw(&[0xC1, 0xE0, size_of::<CpuidMemo>().ilog2() as u8]);
        asm.group1(false, 4, Rm::Register(host::RAX), (size_of::<CpuidMemos>() - size_of::<CpuidMemo>()) as i32);
        asm.op(false, &[0x3B], rax, memo(offset_of!(CpuidMemo, leaf)));
        let other_leaf = asm.jcc_forward(condition::NE);
        asm.op(false, &[0x3B], rcx, memo(offset_of!(CpuidMemo, subleaf)));
        let other_subleaf = asm.jcc_forward(condition::NE);
        asm.raw(&[0x0F, 0xAE, 0xE8]);
        for (place, register) in [(4, HOMES[3]), (8, rcx), (12, host::RDX), (0, rax)] {
            asm.op(false, &[0x8B], register, memo(registers + place));
        }
        self.unfit(instruction, vec![other_leaf, other_subleaf], site);
        self.finish_site(site);
    }

    pub(super) fn clear_interrupt_flag(&mut self, flags: Use) {
        self.before_clobber(flags.live_in);
        self.change_flag(flag::IF, false);
    }

    /// STI. Where an interrupt waits for it, the interpreter takes over, which knows of the shadow: the next instruction
    /// is executed before the interrupt is delivered.
    pub(super) fn set_interrupt_flag(&mut self, instruction: &Instruction, flags: Use) {
        self.before_clobber(flags.live_in);
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        self.asm.group1(false, 7, Rm::Gs(layout::WAITING), 0);
        let waits = self.asm.jcc_forward(condition::NE);
        self.unfit(instruction, vec![waits], site);
        self.asm.group1(false, 1, Rm::Gs(layout::RFLAGS), flag::IF as i32);
        self.finish_site(site);
    }

    /// CLD and STD.
    pub(super) fn set_direction(&mut self, instruction: &Instruction, flags: Use) {
        self.before_clobber(flags.live_in);
        self.change_flag(flag::DF, instruction.mnemonic() == Mnemonic::Std);
    }

    fn change_flag(&mut self, flag: u64, set: bool) {
        let (extension, value) = if set { (1, flag as i32) } else { (4, !(flag as i32)) };
        self.asm.group1(false, extension, Rm::Gs(layout::RFLAGS), value);
    }

    /// STAC and CLAC with SMAP on: on to a block that uses the other view. The interpreter takes over where that view's
    /// jump table is not of the mode that follows.
    pub(super) fn set_access_flag(&mut self, instruction: &Instruction, flags: Use) {
        self.before_clobber(flags.live_in);
        let set = instruction.mnemonic() == Mnemonic::Stac;
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        let mode = self.mode.with_ac(set);
        let other = self.unless_table_holds(mode);
        self.unfit(instruction, vec![other], site);
        self.change_flag(flag::AC, set);
        self.mode = mode;
        self.leave_to(instruction.next_ip(), false);
    }

    /// A jump that is taken when the jump table of a 64-bit mode's view holds blocks of another mode. Destroys the host's
    /// flags.
    fn unless_table_holds(&mut self, mode: Mode) -> Fixup {
        self.asm.group1(false, 7, Rm::Gs(layout::jump_mode(mode.view())), mode.flags() as i32);
        self.asm.jcc_forward(condition::NE)
    }

    /// Goes to the guest address in RAX, in another mode. The flags are in the core.
    fn enter_mode(&mut self, mode: Mode) {
        let other = self.unless_table_holds(mode);
        self.cold.push(Cold::Indirect { from: vec![other], site: u32::MAX });
        self.mode = mode;
        self.saved = true;
        self.jump_by_table(None, None);
    }

    /// A jump that is taken when SYSCALL and SYSRET are not enabled.
    fn unless_syscall_enabled(&mut self) -> Fixup {
        self.asm.op(false, &[0xF7], 0, Rm::Gs(layout::EFER));
        self.asm.dword(efer::SCE as u32);
        self.asm.jcc_forward(condition::E)
    }

    /// EAX = RFLAGS with the arithmetic flags in it and RF and VM clear, which are saved in the core. Destroys RCX.
    pub(super) fn flags_image(&mut self) {
        let asm = &mut self.asm;
        // eax = the low flags; ecx = OF << 11
        asm.op(false, &[0x0F, 0xB6], host::RAX, Rm::Gs(layout::FLAGS + 1));
        asm.group1(false, 4, Rm::Register(host::RAX), 0xD5);
        asm.op(false, &[0x0F, 0xB6], host::RCX, Rm::Gs(layout::FLAGS));
        asm.raw(&[0xC1, 0xE1, 0x0B]);
        asm.op(false, &[0x09], host::RCX, Rm::Register(host::RAX));
        asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::RFLAGS));
        let kept = !(flag::ARITHMETIC | flag::RF | flag::VM) as i32;
        asm.group1(false, 4, Rm::Register(host::RCX), kept);
        asm.op(false, &[0x09], host::RCX, Rm::Register(host::RAX));
    }

    /// RFLAGS = ECX, the arithmetic flags in the form of translated code. Destroys RAX and RCX.
    fn load_flags_image(&mut self) {
        let asm = &mut self.asm;
        asm.group1(false, 1, Rm::Register(host::RCX), flag::FIXED as i32);
        asm.op(false, &[0x89], host::RCX, Rm::Gs(layout::RFLAGS));
        asm.mov32(host::RAX, host::RCX);
        // shr eax, 11; and eax, 1; and ecx, the low flags; shl ecx, 8; or eax, ecx
        asm.raw(&[0xC1, 0xE8, 0x0B]);
        asm.group1(false, 4, Rm::Register(host::RAX), 1);
        asm.group1(false, 4, Rm::Register(host::RCX), 0xD5);
        asm.raw(&[0xC1, 0xE1, 0x08]);
        asm.op(false, &[0x09], host::RCX, Rm::Register(host::RAX));
        asm.op(false, &[0x89], host::RAX, Rm::Gs(layout::FLAGS));
    }

    /// A flat segment as SYSCALL and SYSRET load them: its selector is `delta` above the one at bit `shift` of IA32_STAR.
    /// Destroys RCX.
    fn load_flat(&mut self, segment: SegmentRegister, shift: u32, delta: i32, access: u16, level: u8) {
        let asm = &mut self.asm;
        asm.op(false, &[0x0F, 0xB7], host::RCX, Rm::Gs(layout::STAR + shift / 8));
        asm.group1(false, 0, Rm::Register(host::RCX), delta);
        // movzx ecx, cx
        asm.raw(&[0x0F, 0xB7, 0xC9]);
        asm.group1(false, 4, Rm::Register(host::RCX), !3);
        let access = access | u16::from(level) << 5;
        asm.group1(false, 1, Rm::Register(host::RCX), (u32::from(access) << 16 | u32::from(level)) as i32);
        // Selector and access rights, base, limit.
        asm.op(false, &[0x89], host::RCX, Rm::Gs(layout::selector(segment as usize)));
        asm.op(true, &[0xC7], 0, Rm::Gs(layout::segment_base(segment as usize)));
        asm.dword(0);
        asm.op(false, &[0xC7], 0, Rm::Gs(layout::segment_limit(segment as usize)));
        asm.dword(u32::MAX);
    }

    /// SYSCALL, where it is enabled and neither single-steps nor keeps AC.
    pub(super) fn syscall(&mut self, instruction: &Instruction) {
        self.flags_to_core();
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        let disabled = self.unless_syscall_enabled();
        self.flags_image();
        let asm = &mut self.asm;
        // ecx = image & !FMASK
        asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::FMASK));
        asm.raw(&[0xF7, 0xD1]);
        asm.op(false, &[0x21], host::RAX, Rm::Register(host::RCX));
        // test ecx, TF | AC
        asm.raw(&[0xF7, 0xC1]);
        asm.dword((flag::TF | flag::AC) as u32);
        let odd = asm.jcc_forward(condition::NE);
        self.unfit(instruction, vec![disabled, odd], site);
        self.asm.store(place(11), host::RAX);
        self.load_flags_image();
        self.asm.mov_imm(HOMES[1], instruction.next_ip());
        self.load_flat(SegmentRegister::Cs, 32, 0, fast_call::CODE64, 0);
        self.load_flat(SegmentRegister::Ss, 32, 8, fast_call::DATA, 0);
        self.asm.load(host::RAX, Rm::Gs(layout::LSTAR));
        self.enter_mode(self.mode.at_level(false));
    }

    /// SYSRET to 64-bit code, where it is enabled, the target is an address, and neither TF nor AC is set there.
    pub(super) fn sysret(&mut self, instruction: &Instruction) {
        self.flags_to_core();
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        let disabled = self.unless_syscall_enabled();
        let asm = &mut self.asm;
        asm.mov(host::RAX, HOMES[1]);
        // shl rax, 16; sar rax, 16
        asm.raw(&[0x48, 0xC1, 0xE0, 0x10, 0x48, 0xC1, 0xF8, 0x10]);
        asm.op(true, &[0x3B], host::RAX, Rm::Register(HOMES[1]));
        let not_canonical = asm.jcc_forward(condition::NE);
        asm.op(false, &[0x8B], host::RCX, place(11));
        // test ecx, TF | AC: a step, or another mode
        asm.raw(&[0xF7, 0xC1]);
        asm.dword((flag::TF | flag::AC) as u32);
        let steps = asm.jcc_forward(condition::NE);
        // Interrupts that wait for IF.
        asm.group1(false, 7, Rm::Gs(layout::WAITING), 0);
        let waits = asm.jcc_forward(condition::NE);
        self.unfit(instruction, vec![disabled, not_canonical, steps, waits], site);
        self.asm.group1(false, 4, Rm::Register(host::RCX), fast_call::RETURNED_FLAGS as i32);
        self.load_flags_image();
        self.load_flat(SegmentRegister::Cs, 48, 16, fast_call::CODE64, 3);
        self.load_flat(SegmentRegister::Ss, 48, 8, fast_call::DATA, 3);
        self.asm.mov(host::RAX, HOMES[1]);
        self.enter_mode(self.mode.at_level(true));
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

    /// MOV from a control register.
    pub(super) fn read_control(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let field = control_field(instruction.op1_register()).ok_or(Unfit)?;
        let gpr = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        self.asm.load(host::RAX, Rm::Gs(field));
        self.asm.store(place(gpr.number), host::RAX);
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
