//! Control flow: branches, calls, returns, links to other blocks, the jump table, and the code out of line.

use super::memo::Parts;
use super::{Lowering, Unfit, place};
use crate::interp::integer::control;
use crate::state::{JUMPS, Jump, layout};
use crate::tlb;
use crate::translate::asm::{Fixup, ShortFixup, condition, host};
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Memory, general};
use crate::translate::{Link, NONE, SiteKind};
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind};

/// Code out of line, emitted behind the block.
#[derive(Default)]
pub(super) enum Cold {
    /// Done.
    #[default]
    Emitted,
    /// Go to a known address by way of the jump table.
    Far { from: Fixup, target: u64, in_host: bool, saved: bool },
    /// A lookup missed: RAX minus the tag of slot RCX was compared.
    Miss { from: Vec<Fixup>, tag: u32, site: u32 },
    /// The check of the leader of a group failed: the address is `low` from what `parts` add up to.
    Leader { from: Vec<Fixup>, parts: Parts, low: i32, site: u32 },
    /// A lookup at a known address missed.
    Fixed { from: Fixup, address: u64, site: u32 },
    /// Interpret the instruction of `site`; its operands were found unfit for the host.
    Unfit { from: Vec<Fixup>, site: u32, stub: u64 },
    /// Leave for another block by `link`.
    Exit { from: Fixup, link: u32, host_flags: bool, poll: bool },
    /// The jump table has no entry for the address in RAX.
    Indirect { from: Vec<Fixup>, site: u32 },
}

impl Lowering<'_> {
    /// Bytes of the operand size of a branch or LEAVE.
    pub(super) fn operand_size(&self, instruction: &Instruction) -> u16 {
        match instruction.code().op_code().operand_size() {
            16 => 2,
            32 => 4,
            _ => 8,
        }
    }

    /// Where a direct branch leads. One that would fault is the interpreter's.
    fn branch_target(&self, instruction: &Instruction) -> Result<u64, Unfit> {
        let distance = instruction.near_branch_target().wrapping_sub(instruction.next_ip());
        let target = self.next_rip(instruction).wrapping_add(distance);
        let target = match instruction.op0_kind() {
            OpKind::NearBranch16 => target & 0xFFFF,
            OpKind::NearBranch32 => target & 0xFFFF_FFFF,
            _ => target,
        };
        if self.mode.reaches(target) { Ok(target) } else { Err(Unfit) }
    }

    /// A loop's branch polls in front of itself: left there, the guest goes on at the branch. False where the translation goes
    /// on behind it.
    pub(super) fn conditional(&mut self, instruction: &Instruction, flags: Use) -> Result<bool, Unfit> {
        let target = self.branch_target(instruction)?;
        self.before_op(&flags);
        let code = instruction.condition_code() as u8;
        if let Some(&(_, wanted)) = self.branches.iter().find(|&&(index, _)| index == self.index) {
            let saved = self.saved;
            self.saved |= wanted == 0;
            let taken = self.asm.jcc_forward(host_condition(code));
            self.lead_to(taken, target);
            self.saved = saved;
            return Ok(false);
        }
        let polled = (target <= instruction.ip()).then(|| self.poll());
        let saved = self.saved;
        self.before_exits();
        let taken = self.asm.jcc_forward(host_condition(code));
        self.lead_to(taken, target);
        let not_taken = self.asm.jmp_forward();
        self.lead_to(not_taken, self.next_rip(instruction));
        // The branch itself wants them.
        self.saved = saved;
        if let Some(polled) = polled {
            self.polled(polled, instruction.ip());
        }
        Ok(true)
    }

    /// LOOP, JCXZ and their like: no flags.
    pub(super) fn counted(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let target = self.branch_target(instruction)?;
        let polled = (target <= instruction.ip()).then(|| self.poll());
        let size = control::counter(instruction).size() as u16;
        let zero_extended: &[u8] = if size == 2 { &[0x0F, 0xB7] } else { &[0x8B] };
        self.asm.op(size == 8, zero_extended, host::RCX, place(1));
        let counts = instruction.mnemonic() == Mnemonic::Loop;
        if counts {
            self.asm.sized(size, &[0x8D], host::RCX, Rm::Base { base: host::RCX, displacement: -1 });
            // A 32-bit count clears the upper half.
            self.asm.sized(if size == 4 { 8 } else { size }, &[0x89], host::RCX, place(1));
        }
        let next = self.next_rip(instruction);
        let (at_zero, otherwise) = if counts { (next, target) } else { (target, next) };
        let zero = self.asm.jrcxz_forward();
        let not_zero = self.asm.jmp_forward();
        self.lead_to(not_zero, otherwise);
        self.asm.bind_short(zero);
        let zero = self.asm.jmp_forward();
        self.lead_to(zero, at_zero);
        if let Some(polled) = polled {
            self.polled(polled, instruction.ip());
        }
        Ok(())
    }

    pub(super) fn call(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = self.operand_size(instruction);
        let displacement = -i32::from(size);
        let direct = instruction.is_call_near();
        let target = if direct { self.branch_target(instruction)? } else { 0 };
        let mut sites = Vec::new();
        if !direct {
            self.indirect_target(instruction, &mut sites, flags)?;
            self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
        }
        let operand = self.stack_operand(instruction, displacement, size, true, flags.live_in);
        sites.extend(operand.site);
        let next = self.next_rip(instruction);
        if next as i64 as i32 as i64 == next as i64 || size < 8 {
            self.asm.sized(size, &[0xC7], 0, operand.rm);
            self.asm.raw(&next.to_le_bytes()[..if size == 2 { 2 } else { 4 }]);
        } else {
            let slot = self.without_rax(operand.rm);
            self.asm.mov_imm(host::RAX, next);
            self.asm.store(slot, host::RAX);
        }
        self.move_stack(displacement);
        if direct {
            self.leave_to(target, target <= instruction.ip());
        } else {
            self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
            self.jump_by_table(None, Some((instruction, i32::from(size))));
        }
        self.finish_branch_sites(&sites);
        Ok(())
    }

    pub(super) fn ret(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = self.operand_size(instruction);
        let operand = self.stack_operand(instruction, 0, size, false, flags.live_in);
        self.load_target(size, operand.rm);
        self.check_target(instruction, size, operand.site);
        let extra = if instruction.op_count() == 1 { instruction.immediate16() } else { 0 };
        let released = i32::from(size) + i32::from(extra);
        self.move_stack(released);
        self.jump_by_table(None, Some((instruction, -released)));
        self.finish_branch_sites(operand.site.as_slice());
        Ok(())
    }

    pub(super) fn jump(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        if instruction.is_jmp_short_or_near() {
            let target = self.branch_target(instruction)?;
            self.leave_to(target, target <= instruction.ip());
            return Ok(());
        }
        let mut sites = Vec::new();
        self.indirect_target(instruction, &mut sites, flags)?;
        self.jump_by_table(None, Some((instruction, 0)));
        self.finish_branch_sites(&sites);
        Ok(())
    }

    /// RAX = the target of an indirect jump or call.
    fn indirect_target(&mut self, instruction: &Instruction, sites: &mut Vec<u32>, flags: Use) -> Result<(), Unfit> {
        let size = self.operand_size(instruction);
        let site = match instruction.op0_kind() {
            OpKind::Memory => {
                let memory = Memory { size, write: false, aligned: false };
                let operand = self.operand(instruction, memory, flags.live_in)?;
                self.load_target(size, operand.rm);
                operand.site
            }
            _ => {
                let gpr = general(instruction.op0_register(), OpAccess::Read).ok_or(Unfit)?;
                self.before_clobber(flags.live_in);
                self.load_target(size, place(gpr.number));
                Some(self.site(instruction, SiteKind::Interpret, 0, false))
            }
        };
        self.check_target(instruction, size, site);
        sites.extend(site);
        Ok(())
    }

    /// RAX = where a branch leads, zero-extended.
    fn load_target(&mut self, size: u16, from: Rm) {
        let opcode: &[u8] = if size == 2 { &[0x0F, 0xB7] } else { &[0x8B] };
        self.asm.op(size == 8, opcode, host::RAX, from);
    }

    /// Leaves a branch to RAX to the interpreter where that is beyond the code segment. Destroys the host's flags.
    fn check_target(&mut self, instruction: &Instruction, size: u16, site: Option<u32>) {
        let most = if size == 2 { 0xFFFF } else { u64::from(u32::MAX) };
        let (false, Some(site)) = (self.mode.reaches(most), site) else { return };
        self.asm.group1(false, 7, Rm::Register(host::RAX), self.mode.code_limit() as i32);
        let from = vec![self.asm.jcc_forward(condition::A)];
        self.unfit(instruction, from, site);
    }

    /// A branch that was interpreted never comes back behind itself: the interpreter leaves RIP elsewhere, and even where
    /// it is the next instruction the dispatcher finds it.
    fn finish_branch_sites(&mut self, sites: &[u32]) {
        for &site in sites {
            self.sites[site as usize].after = 0;
        }
    }

    /// Goes to a known guest address; the flags stay where they are. `backward`: look whether somebody wants the vCPU.
    pub(super) fn leave_to(&mut self, target: u64, backward: bool) {
        self.before_exits();
        let polled = backward.then(|| self.poll());
        let from = self.asm.jmp_forward();
        self.lead_to(from, target);
        if let Some(polled) = polled {
            self.polled(polled, target);
        }
    }

    /// Looks whether somebody wants the vCPU: a jump that is rarely taken and needs no flags. Destroys RCX.
    fn poll(&mut self) -> ShortFixup {
        self.asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::POLL));
        self.asm.jrcxz_forward()
    }

    /// Where [`Self::poll`] leads: out, to go on at `rip` later. It has to be near.
    fn polled(&mut self, polled: ShortFixup, rip: u64) {
        self.asm.bind_short(polled);
        let from = self.asm.jmp_forward();
        let host_flags = self.in_host && !self.saved;
        let link = self.link(rip, host_flags, false);
        self.cold.push(Cold::Exit { from, link, host_flags, poll: true });
    }

    /// Lets a jump lead to a known guest address.
    fn lead_to(&mut self, from: Fixup, target: u64) {
        let same_page = self.start_in_page.wrapping_add(target.wrapping_sub(self.start_rip)) < 4096;
        if !same_page && self.mode.view() == tlb::View::User {
            // A link into another page of a process would outlive its mapping.
            self.cold.push(Cold::Far { from, target, in_host: self.in_host, saved: self.saved });
            return;
        }
        let host_flags = self.in_host && !self.saved;
        if target == self.start_rip {
            let entry = if host_flags { self.entry_host } else { self.entry_saved };
            self.asm.bind_to(from, entry);
            return;
        }
        let link = self.link(target, host_flags, !same_page);
        self.links[link as usize].patch = self.asm.offset(from);
        self.cold.push(Cold::Exit { from, link, host_flags, poll: false });
    }

    pub(super) fn link(&mut self, target: u64, host_flags: bool, crosses: bool) -> u32 {
        let mode = self.mode;
        self.links.push(Link {
            block: self.block,
            target,
            mode,
            patch: 0,
            cold: 0,
            host_flags,
            crosses,
            linked: None,
            among: NONE,
            next: NONE,
        });
        self.links.len() as u32 - 1
    }

    /// Goes to the guest address in RAX, which may be known, by way of the jump table. The flags must be wanted by nobody
    /// or saved. `branch`: the guest's instruction, and what to add to RSP to undo it where the target turns out not to be
    /// an address at all.
    pub(super) fn jump_by_table(&mut self, known: Option<u64>, branch: Option<(&Instruction, i32)>) {
        self.flags_to_core_around_rax();
        let table = layout::jumps(self.mode.view());
        let (long, number) = (self.wide(), self.mode_number);
        let wanted = self.poll();
        let asm = &mut self.asm;
        let entry = |field: u32| match known {
            Some(target) => Rm::Gs(table + field + Jump::slot(target) as u32 * size_of::<Jump>() as u32),
            None => Rm::GsIndexed { base: host::RCX, displacement: table + field },
        };
        if known.is_none() {
            // mov ecx, eax; shr ecx, 12; xor ecx, eax; and ecx, slots; shl ecx, 4
            asm.mov32(host::RCX, host::RAX);
            asm.raw(&[0xC1, 0xE9, 0x0C, 0x31, 0xC1]);
            asm.group1(false, 4, Rm::Register(host::RCX), (JUMPS - 1) as i32);
            asm.raw(&[0xC1, 0xE1, 0x04]);
        }
        asm.op(long, &[0x3B], host::RAX, entry(0));
        let mut from = vec![asm.jcc_forward(condition::NE)];
        if !long {
            asm.group1(false, 7, entry(4), number as i32);
            from.push(asm.jcc_forward(condition::NE));
        }
        asm.op(false, &[0xFF], 4, entry(8));
        asm.bind_short(wanted);
        from.push(asm.jmp_forward());
        let site = branch.map(|(instruction, undo)| {
            let site = self.site(instruction, SiteKind::Branch, 0, false);
            self.sites[site as usize].decoded = undo as u32;
            site
        });
        self.cold.push(Cold::Indirect { from, site: site.unwrap_or(u32::MAX) });
    }

    /// As [`Self::flags_to_core`], with RAX kept.
    fn flags_to_core_around_rax(&mut self) {
        if !self.saved {
            self.asm.mov(host::RCX, host::RAX);
            self.save_flags();
            self.asm.mov(host::RAX, host::RCX);
        }
    }

    pub(super) fn emit_cold(&mut self) {
        let mut next = 0;
        while let Some(cold) = self.cold.get_mut(next).map(std::mem::take) {
            next += 1;
            let asm = &mut self.asm;
            match cold {
                Cold::Emitted => {}
                Cold::Far { from, target, in_host, saved } => {
                    asm.bind(from);
                    (self.in_host, self.saved) = (in_host, saved);
                    self.flags_to_core();
                    self.asm.mov_imm(host::RAX, target);
                    self.jump_by_table(Some(target), None);
                }
                Cold::Miss { from, tag, site } => {
                    from.into_iter().for_each(|fixup| asm.bind(fixup));
                    // add rax, gs:[rcx + tag]; mov ecx, site; jmp
                    asm.op(true, &[0x03], host::RAX, Rm::GsIndexed { base: host::RCX, displacement: tag });
                    asm.raw(&[0xB9]);
                    asm.dword(site);
                    asm.jmp(self.stubs.memory);
                }
                Cold::Leader { from, parts, low, site } => {
                    from.into_iter().for_each(|fixup| asm.bind(fixup));
                    self.memo_missed(parts, low, site);
                }
                Cold::Fixed { from, address, site } => {
                    asm.bind(from);
                    asm.mov_imm(host::RAX, address);
                    asm.raw(&[0xB9]);
                    asm.dword(site);
                    asm.jmp(self.stubs.memory);
                }
                Cold::Unfit { from, site, stub } => {
                    from.into_iter().for_each(|fixup| asm.bind(fixup));
                    asm.raw(&[0xB9]);
                    asm.dword(site);
                    asm.jmp(stub);
                }
                Cold::Exit { from, link, host_flags, poll } => {
                    asm.bind(from);
                    if !poll {
                        self.links[link as usize].cold = asm.bytes.len() as u32;
                    }
                    if host_flags {
                        asm.raw(&[0x9F, 0x0F, 0x90, 0xC0, 0x65, 0x66, 0x89, 0x04, 0x25]);
                        asm.dword(layout::FLAGS);
                    }
                    asm.raw(&[0xB9]);
                    asm.dword(link);
                    asm.jmp(match (poll, self.mode.light()) {
                        (false, _) => self.stubs.link,
                        (true, true) => self.stubs.attend,
                        (true, false) => self.stubs.poll,
                    });
                }
                Cold::Indirect { from, site } => {
                    from.into_iter().for_each(|fixup| asm.bind(fixup));
                    asm.raw(&[0xB9]);
                    asm.dword(site);
                    asm.jmp(self.stubs.indirect);
                }
            }
        }
    }
}

/// Iced's condition codes in the order of the instruction encoding.
fn host_condition(code: u8) -> u8 {
    use iced_x86::ConditionCode as C;
    const ORDER: [C; 16] =
        [C::o, C::no, C::b, C::ae, C::e, C::ne, C::be, C::a, C::s, C::ns, C::p, C::np, C::l, C::ge, C::le, C::g];
    ORDER.iter().position(|&condition| condition as u8 == code).unwrap_or(0) as u8
}
