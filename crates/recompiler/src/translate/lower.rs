//! From guest instructions to host code: one block at a time.
//!
//! # Registers
//! Guest registers live in host registers, but for R11, R14 and R15, which live in the core. RAX and RCX are scratch: RAX
//! holds the address of a memory operand and serves LAHF and SAHF, RCX the TLB slot, counts and JRCXZ. RSP is the
//! host's stack. The core is reached through GS.
//!
//! # Flags
//! The guest's arithmetic flags are in the host's flags, or saved in the core (`Core::flags`, as LAHF and SETO give
//! them), or both. A TLB lookup destroys the host's: they are saved before it when anybody may still want them, and
//! restored before an instruction that reads them or passes some of them on.

use super::asm::{Asm, Fixup, condition, host};
use super::encode::Rm;
use super::flags::{self, Use};
use super::form::{self, Copied, Gpr, Memory, Plan, Planner, general, operand_bytes};
use super::stubs::Stubs;
use super::{Link, Site, SiteKind};
use crate::blocks::{Block, Decoded, Mode};
use crate::interp;
use crate::state::{Bits, layout};
use crate::tlb;
use iced_x86::{FlowControl, Instruction, Mnemonic, OpAccess, OpKind, Register};

/// Where a guest register lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In a host register.
    Host(u8),
    /// In the core, at this offset.
    Core(u32),
}

/// The homes of the guest's registers in encoding order; 0xFF: in the core.
pub const HOMES: [u8; 16] = [
    host::R14,
    host::R15,
    host::RDX,
    host::RBX,
    host::R11,
    host::RBP,
    host::RSI,
    host::RDI,
    8,
    9,
    10,
    0xFF,
    host::R12,
    host::R13,
    0xFF,
    0xFF,
];

/// The home of a guest register.
pub fn home(number: u8) -> Home {
    match HOMES[number as usize & 15] {
        0xFF => Home::Core(layout::gpr(number)),
        register => Home::Host(register),
    }
}

/// The home of a guest register as an operand.
fn place(number: u8) -> Rm {
    match home(number) {
        Home::Host(register) => Rm::Register(register),
        Home::Core(offset) => Rm::Gs(offset),
    }
}

/// An instruction that turned out not to fit the rules; the interpreter takes it.
#[derive(Debug)]
struct Unfit;

/// Code out of line, emitted behind the block.
enum Cold {
    /// A lookup missed: RAX minus the tag of slot RCX was compared.
    Miss { from: Vec<Fixup>, tag: u32, site: u32 },
    /// Interpret the instruction of `site`; its operands were found unfit for the host.
    Unfit { from: Vec<Fixup>, site: u32 },
    /// Leave for another block by `link`.
    Exit { from: Fixup, link: u32, host_flags: bool, poll: bool },
    /// The jump table has no entry for the address in RAX.
    Indirect { from: Vec<Fixup> },
}

/// What translating a block gave.
pub struct Lowered {
    /// The host code.
    pub bytes: Vec<u8>,
    /// Offset of the entry that finds the flags saved in the core.
    pub entry_saved: u32,
    /// Offset of the entry that finds the flags in the host's.
    pub entry_host: u32,
}

/// Translates one block.
pub struct Lowering<'a> {
    asm: Asm,
    mode: Mode,
    stubs: &'a Stubs,
    sites: &'a mut Vec<Site>,
    decoded: &'a mut Vec<Decoded>,
    links: &'a mut Vec<Link>,
    block: u32,
    start_rip: u64,
    cold: Vec<Cold>,
    /// The host's flags are the guest's (or the guest's are not wanted).
    in_host: bool,
    /// The core's saved flags are the guest's.
    saved: bool,
    entry_saved: u64,
    entry_host: u64,
    tlb_base: u32,
    /// The instruction behind the present one lets STI's shadow end in the block.
    shadow_fits: bool,
    /// The instruction before was STI.
    shadow: bool,
}

impl<'a> Lowering<'a> {
    /// Prepares to translate a block to code at `base`.
    pub fn new(
        base: u64,
        mode: Mode,
        block: u32,
        start_rip: u64,
        stubs: &'a Stubs,
        sites: &'a mut Vec<Site>,
        decoded: &'a mut Vec<Decoded>,
        links: &'a mut Vec<Link>,
    ) -> Self {
        let tlb_base = layout::tlb(mode.view());
        Lowering {
            asm: Asm::new(base),
            mode,
            stubs,
            sites,
            decoded,
            links,
            block,
            start_rip,
            cold: Vec::new(),
            in_host: false,
            saved: false,
            entry_saved: 0,
            entry_host: 0,
            tlb_base,
            shadow_fits: false,
            shadow: false,
        }
    }

    /// Translates the block's instructions, whose bytes are given.
    pub fn translate(mut self, planner: &mut Planner, block: &Block) -> Lowered {
        let bytes = &block.bytes[..];
        let mut at = 0;
        let mut plans = Vec::with_capacity(block.code.len());
        for decoded in &block.code {
            let end = at + decoded.instruction.len();
            plans.push((planner.plan(decoded, &bytes[at..end], self.mode), at));
            at = end;
        }
        let mut uses = flags::liveness(&block.code, |index| matches!(plans[index].0, Plan::Interpret));
        self.entries(&uses, &plans);
        let mut ended = false;
        for (index, decoded) in block.code.iter().enumerate() {
            let flags = std::mem::take(&mut uses[index]);
            let (plan, start) = &plans[index];
            let bytes = &bytes[*start..*start + decoded.instruction.len()];
            self.shadow_fits = block.code.get(index + 1).is_some_and(|next| {
                next.instruction.flow_control() == FlowControl::Next
                    && next.instruction.mnemonic() != Mnemonic::Sti
                    && !matches!(plans[index + 1].0, Plan::Interpret)
            });
            let shadow = self.shadow;
            ended = self.instruction(decoded, plan, planner, bytes, flags);
            if shadow {
                self.end_shadow(decoded.instruction.next_ip());
            }
        }
        if !ended {
            self.leave_to(block.key.rip.wrapping_add(u64::from(block.size)), false);
        }
        self.emit_cold();
        let base = self.asm.base;
        Lowered {
            bytes: self.asm.bytes,
            entry_saved: (self.entry_saved - base) as u32,
            entry_host: (self.entry_host - base) as u32,
        }
    }

    /// Chooses in which form the block wants the flags, and emits the entry for the other form in front of it.
    fn entries(&mut self, uses: &[Use], plans: &[(Plan, usize)]) {
        self.entry_saved = self.asm.here();
        self.entry_host = self.entry_saved;
        if uses.first().is_none_or(|first| first.live_in == 0) {
            self.in_host = true;
            return;
        }
        let wants_host = uses.iter().zip(plans).find_map(|(flags, (plan, _))| {
            let partial = flags.reads != 0 || flags.writes != 0;
            match plan {
                Plan::Copy(copied) if copied.memory.is_some() => Some(false),
                Plan::Copy(_) if partial => Some(true),
                Plan::Rule if flags.reads != 0 => Some(true),
                Plan::Copy(_) | Plan::Nothing => None,
                Plan::Rule | Plan::Interpret => Some(false),
            }
        });
        if wants_host == Some(true) {
            self.restore_flags();
            self.entry_host = self.asm.here();
            self.in_host = true;
            self.saved = false;
        } else {
            self.save_flags();
            self.entry_saved = self.asm.here();
            self.in_host = false;
            self.saved = true;
        }
    }

    /// Translates one instruction. True when it ends the block with all exits emitted.
    fn instruction(&mut self, decoded: &Decoded, plan: &Plan, planner: &mut Planner, bytes: &[u8], flags: Use) -> bool {
        let mark = (self.asm.bytes.len(), self.cold.len(), self.sites.len(), self.in_host, self.saved);
        let result = match plan {
            Plan::Nothing => Ok(false),
            Plan::Copy(copied) => self.copy(decoded, copied, flags).map(|()| false),
            Plan::Rule => self.rule(decoded, planner, bytes, flags),
            Plan::Interpret => Err(Unfit),
        };
        match result {
            Ok(ended) => ended,
            Err(Unfit) => {
                self.asm.bytes.truncate(mark.0);
                self.cold.truncate(mark.1);
                self.sites.truncate(mark.2);
                (self.in_host, self.saved) = (mark.3, mark.4);
                self.interpret(&decoded.instruction);
                false
            }
        }
    }

    // ---- flags

    /// Host flags into the core.
    fn save_flags(&mut self) {
        self.asm.raw(&[0x9F, 0x0F, 0x90, 0xC0, 0x65, 0x66, 0x89, 0x04, 0x25]);
        self.asm.dword(layout::FLAGS);
        self.saved = true;
    }

    /// The core's flags into the host's. Destroys RAX.
    fn restore_flags(&mut self) {
        // movzx eax, word gs:[FLAGS]; add al, 0x7F (sets OF when AL was 1); sahf
        self.asm.raw(&[0x65, 0x0F, 0xB7, 0x04, 0x25]);
        self.asm.dword(layout::FLAGS);
        self.asm.raw(&[0x04, 0x7F, 0x9E]);
        self.in_host = true;
    }

    /// Called before code that destroys the host's flags, in front of an instruction.
    fn before_clobber(&mut self, wanted: u32) {
        if wanted != 0 && !self.saved {
            self.save_flags();
        }
        self.in_host = wanted == 0 && !self.saved;
    }

    /// Whether an instruction needs the host's flags to be the guest's when it runs.
    fn needs_host(flags: &Use) -> bool {
        flags.reads != 0 || flags.writes != 0 && flags.live_out & !flags.writes != 0
    }

    /// Called right before the host instruction. Destroys RAX when it restores.
    fn before_op(&mut self, flags: &Use) {
        if Self::needs_host(flags) && !self.in_host {
            self.restore_flags();
        }
    }

    /// Called after the host instruction.
    fn after_op(&mut self, flags: &Use) {
        if flags.writes != 0 {
            self.in_host = true;
            self.saved = false;
        }
    }

    /// The flags are wanted by whatever comes next and must be in the core.
    fn flags_to_core(&mut self) {
        if !self.saved {
            self.save_flags();
        }
    }

    // ---- addresses

    /// RAX = linear address of the memory operand. May destroy RCX.
    fn address(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let displacement = instruction.memory_displacement64();
        let long = self.mode.bits() == Bits::B64;
        if instruction.is_ip_rel_memory_operand() {
            self.asm.mov_imm(host::RAX, instruction.ip_rel_memory_address());
        } else {
            let (base, index) = (instruction.memory_base(), instruction.memory_index());
            if index.is_vector_register() || base.size() == 2 || index.size() == 2 {
                return Err(Unfit);
            }
            let narrow = !long || base.size() == 4 || index.size() == 4;
            if base == Register::None && index == Register::None {
                let value = if narrow { displacement & 0xFFFF_FFFF } else { displacement };
                self.asm.mov_imm(host::RAX, value);
            } else {
                let from = self.address_operand(base, index, instruction.memory_index_scale(), displacement as i32);
                if narrow {
                    self.asm.op(false, &[0x8D], host::RAX, from);
                } else if let Rm::Base { base, displacement: 0 } = from {
                    self.asm.mov(host::RAX, base);
                } else {
                    self.asm.lea(host::RAX, from);
                }
            }
        }
        let segment = instruction.memory_segment();
        if matches!(segment, Register::FS | Register::GS) {
            if !long {
                return Err(Unfit);
            }
            self.asm.load(host::RCX, Rm::Gs(layout::segment_base(segment.number())));
            self.asm.lea(host::RAX, Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 });
        }
        Ok(())
    }

    /// The guest's base and index as a host address, registers of the core loaded into RAX and RCX.
    fn address_operand(&mut self, base: Register, index: Register, scale: u32, displacement: i32) -> Rm {
        let scale = scale.trailing_zeros() as u8;
        let load = |lowering: &mut Self, register: Register, scratch: u8| match home(
            register.full_register().number() as u8
        ) {
            Home::Host(register) => register,
            Home::Core(offset) => {
                lowering.asm.load(scratch, Rm::Gs(offset));
                scratch
            }
        };
        let base = (base != Register::None).then(|| load(self, base, host::RAX));
        let index = (index != Register::None).then(|| load(self, index, host::RCX));
        match (base, index) {
            (Some(base), Some(index)) => Rm::BaseIndex { base, index, scale, displacement },
            (Some(base), None) => Rm::Base { base, displacement },
            (None, Some(index)) => Rm::Index { index, scale, displacement },
            (None, None) => Rm::Index { index: host::RSP, scale: 0, displacement },
        }
    }

    /// Looks up the linear address in RAX: afterwards [RAX + RCX] is the host's bytes. Destroys the host's flags.
    fn lookup(&mut self, instruction: &Instruction, memory: Memory) -> u32 {
        let tag = self.tlb_base + if memory.write { layout::TLB_WRITE } else { layout::TLB_READ };
        let kind = if memory.write { SiteKind::Write } else { SiteKind::Read };
        let site = self.site(instruction, kind, memory.size, memory.aligned);
        let asm = &mut self.asm;
        asm.mov32(host::RCX, host::RAX);
        // shr ecx, 7; and ecx, slots
        asm.raw(&[0xC1, 0xE9, 0x07]);
        asm.group1(false, 4, Rm::Register(host::RCX), ((tlb::ENTRIES - 1) << 5) as i32);
        // sub rax, gs:[rcx + tag]
        asm.op(true, &[0x2B], host::RAX, Rm::GsIndexed { base: host::RCX, displacement: tag });
        let mut from = Vec::new();
        if memory.aligned && memory.size > 1 {
            // test al, size - 1: SSE faults when it is not aligned, LOCK must not split a cache line.
            asm.raw(&[0xA8, (memory.size - 1) as u8]);
            from.push(asm.jcc_forward(condition::NE));
        }
        asm.group1(true, 7, Rm::Register(host::RAX), 4096 - i32::from(memory.size));
        from.push(asm.jcc_forward(condition::A));
        asm.load(host::RCX, Rm::GsIndexed { base: host::RCX, displacement: self.tlb_base + layout::TLB_HOST });
        self.sites[site as usize].join = self.asm.bytes.len() as u32;
        self.cold.push(Cold::Miss { from, tag, site });
        site
    }

    /// RAX + RCX into one of them, leaving the flags alone.
    fn combine(&mut self, into: u8) -> Rm {
        self.asm.lea(into, Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 });
        Rm::Base { base: into, displacement: 0 }
    }

    /// A record of one guest instruction that may leave translated code. Offsets are block-relative until the block is
    /// placed.
    fn site(&mut self, instruction: &Instruction, kind: SiteKind, size: u16, aligned: bool) -> u32 {
        let decoded = match kind {
            SiteKind::Interpret => {
                self.decoded.push(Decoded { handler: interp::handler(instruction), instruction: *instruction });
                self.decoded.len() as u32 - 1
            }
            _ => u32::MAX,
        };
        self.sites.push(Site {
            decoded,
            rip: instruction.ip(),
            length: instruction.len() as u8,
            join: 0,
            after: 0,
            size,
            kind,
            aligned,
            mode: self.mode,
        });
        self.sites.len() as u32 - 1
    }

    /// Lets the interpreter's way back for `site` lead here: behind the instruction.
    fn finish_site(&mut self, site: u32) {
        self.sites[site as usize].after = self.asm.bytes.len() as u32;
    }

    /// Leaves an instruction to the interpreter.
    fn interpret(&mut self, instruction: &Instruction) {
        self.flags_to_core();
        let site = self.site(instruction, SiteKind::Interpret, 0, false);
        self.asm.raw(&[0xB9]);
        self.asm.dword(site);
        let light = self.mode.fpu() && form::leaves_vectors_alone(instruction);
        self.asm.jmp(if light { self.stubs.interpret_light } else { self.stubs.interpret });
        self.finish_site(site);
        // Whoever comes back finds the flags in both places.
        self.in_host = true;
        self.saved = true;
    }

    // ---- copied instructions

    fn copy(&mut self, decoded: &Decoded, copied: &Copied, flags: Use) -> Result<(), Unfit> {
        let instruction = &decoded.instruction;
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
        let mut site = None;
        if let Some(memory) = copied.memory {
            if variable_count && needs_restore {
                // The count and the address would need RCX and the flags RAX, all at once.
                return self.copy_shift_memory(instruction, copied, memory, flags);
            }
            self.before_clobber(flags.live_in);
            self.address(instruction)?;
            site = Some(self.lookup(instruction, memory));
        }
        let restoring = needs_restore && !self.in_host;
        for gpr in gprs.into_iter().flatten() {
            staging.add(gpr)?;
        }
        let memory_operand = match copied.memory {
            None => None,
            Some(_) if staging.used() == 0 && !restoring => {
                Some(Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 })
            }
            Some(_) => Some(self.combine(if staging.uses(host::RCX) { host::RAX } else { host::RCX })),
        };
        self.before_op(&flags);
        if variable_count {
            self.asm.op(false, &[0x8B], host::RCX, place(1));
        }
        for staged in staging.list() {
            if staged.gpr.read || staged.gpr.high {
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
        self.combine(host::RAX);
        self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
        self.restore_flags();
        self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
        self.asm.op(false, &[0x8B], host::RCX, place(1));
        copied.raw.emit(&mut self.asm, copied.raw.reg, Rm::Base { base: host::RAX, displacement: 0 }, 0, false);
        self.after_op(&flags);
        self.finish_site(site);
        Ok(())
    }

    // ---- rules

    fn rule(&mut self, decoded: &Decoded, planner: &mut Planner, bytes: &[u8], flags: Use) -> Result<bool, Unfit> {
        let instruction = &decoded.instruction;
        use Mnemonic::*;
        match instruction.mnemonic() {
            // Spelled out: with REX.B some processors take F3 90 for XCHG.
            Pause => self.asm.raw(&[0xF3, 0x90]),
            Lea => self.lea(instruction)?,
            Push => self.push(instruction, flags)?,
            Pop => self.pop(instruction, flags)?,
            Leave => self.leave(instruction, flags)?,
            Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo => self.widen(bytes),
            Mul | Imul => self.multiply(instruction, planner, bytes, flags)?,
            Div | Idiv => self.divide(instruction, flags)?,
            Cmpxchg => self.compare_exchange(instruction, planner, bytes, flags)?,
            Cmpxchg16b => self.compare_exchange_16(instruction, bytes, flags)?,
            Rdtsc | Rdtscp => self.time_stamp(instruction, flags),
            Cli => self.clear_interrupt_flag(flags),
            Sti => self.set_interrupt_flag(flags)?,
            Swapgs => self.swap_gs(),
            Pushfq => self.push_flags(instruction, flags),
            Mov => self.from_segment(instruction)?,
            Bt | Btc | Btr | Bts => self.bit_test(instruction, planner, bytes, flags)?,
            Fnstsw => {
                self.asm.load(host::RAX, place(0));
                self.asm.raw(&[0xDF, 0xE0]);
                self.asm.store(place(0), host::RAX);
            }
            Call => return self.call(instruction, flags).map(|()| true),
            Ret => return self.ret(instruction, flags).map(|()| true),
            Jmp => return self.jump(instruction, flags).map(|()| true),
            _ => {
                self.conditional(instruction, flags);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lea(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let destination = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        if destination.size < 4 {
            return Err(Unfit);
        }
        let target = match home(destination.number) {
            Home::Host(register) => register,
            Home::Core(_) => host::RAX,
        };
        let wide = destination.size == 8;
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        if base.size() == 2 || index.size() == 2 {
            return Err(Unfit);
        }
        let displacement = instruction.memory_displacement64();
        if instruction.is_ip_rel_memory_operand() {
            let value = instruction.ip_rel_memory_address();
            self.asm.mov_imm(target, if wide { value } else { value & 0xFFFF_FFFF });
        } else if base == Register::None && index == Register::None {
            self.asm.mov_imm(target, if wide { displacement } else { displacement & 0xFFFF_FFFF });
        } else {
            let from = self.address_operand(base, index, instruction.memory_index_scale(), displacement as i32);
            let narrow_address = base.size() == 4 || index.size() == 4;
            self.asm.op(wide && !narrow_address, &[0x8D], target, from);
        }
        if let Home::Core(offset) = home(destination.number) {
            self.asm.store(Rm::Gs(offset), target);
        }
        Ok(())
    }

    /// Bytes of a push or pop in this mode.
    fn stack_size(&self) -> u16 {
        if self.mode.bits() == Bits::B64 { 8 } else { 4 }
    }

    fn wide(&self) -> bool {
        self.mode.bits() == Bits::B64
    }

    /// RAX = RSP + displacement, looked up.
    fn stack_lookup(&mut self, instruction: &Instruction, displacement: i32, write: bool) -> u32 {
        let from = Rm::Base { base: HOMES[4], displacement };
        if displacement == 0 {
            let wide = self.wide();
            self.asm.op(wide, &[0x8B], host::RAX, Rm::Register(HOMES[4]));
        } else {
            let wide = self.wide();
            self.asm.op(wide, &[0x8D], host::RAX, from);
        }
        self.lookup(instruction, Memory { size: self.stack_size(), write, aligned: false })
    }

    /// RSP += displacement, leaving the flags alone.
    fn move_stack(&mut self, displacement: i32) {
        let wide = self.wide();
        self.asm.op(wide, &[0x8D], HOMES[4], Rm::Base { base: HOMES[4], displacement });
    }

    fn push(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = i32::from(self.stack_size());
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        let site = match instruction.op0_kind() {
            OpKind::Register => {
                let register = general(instruction.op0_register(), OpAccess::Read).ok_or(Unfit)?;
                let site = self.stack_lookup(instruction, -size, true);
                match home(register.number) {
                    Home::Host(source) => self.asm.op(wide, &[0x89], source, slot),
                    Home::Core(_) => {
                        let slot = self.combine(host::RCX);
                        self.asm.load(host::RAX, place(register.number));
                        self.asm.op(wide, &[0x89], host::RAX, slot);
                    }
                }
                site
            }
            OpKind::Memory => {
                let memory = Memory { size: self.stack_size(), write: false, aligned: false };
                self.address(instruction)?;
                let first = self.lookup(instruction, memory);
                self.asm.op(wide, &[0x8B], host::RAX, slot);
                self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
                let second = self.stack_lookup(instruction, -size, true);
                let slot = self.combine(host::RCX);
                self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
                self.asm.op(wide, &[0x89], host::RAX, slot);
                self.move_stack(-size);
                self.finish_site(first);
                self.finish_site(second);
                return Ok(());
            }
            _ => {
                let value = instruction.immediate(0);
                let site = self.stack_lookup(instruction, -size, true);
                // mov [slot], imm32 sign-extended: all pushable immediates fit.
                self.asm.op(wide, &[0xC7], 0, slot);
                self.asm.dword(value as u32);
                site
            }
        };
        self.move_stack(-size);
        self.finish_site(site);
        Ok(())
    }

    fn pop(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let register = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        let size = i32::from(self.stack_size());
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        let site = self.stack_lookup(instruction, 0, false);
        let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        if register.number != 4 {
            self.move_stack(size);
        }
        match home(register.number) {
            Home::Host(target) => self.asm.op(wide, &[0x8B], target, slot),
            Home::Core(offset) => {
                self.asm.op(wide, &[0x8B], host::RAX, slot);
                self.asm.store(Rm::Gs(offset), host::RAX);
            }
        }
        self.finish_site(site);
        Ok(())
    }

    fn leave(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = self.stack_size();
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        self.asm.op(wide, &[0x8B], host::RAX, place(5));
        let site = self.lookup(instruction, Memory { size, write: false, aligned: false });
        self.asm.op(wide, &[0x8D], HOMES[4], Rm::Base { base: HOMES[5], displacement: i32::from(size) });
        let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        self.asm.op(wide, &[0x8B], HOMES[5], slot);
        self.finish_site(site);
        Ok(())
    }

    /// CBW and its relatives: the accumulator in RAX, RDX is RDX.
    fn widen(&mut self, bytes: &[u8]) {
        self.asm.load(host::RAX, place(0));
        self.asm.raw(bytes);
        self.asm.store(place(0), host::RAX);
    }

    /// MUL and IMUL with the implicit accumulator.
    fn multiply(
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
    fn divide(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
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
        self.cold.push(Cold::Unfit { from, site });
        // The flags are undefined; the host left some.
        self.in_host = true;
        self.saved = false;
        self.finish_site(site);
        if let Some(site) = lookup_site {
            self.finish_site(site);
        }
        Ok(())
    }

    fn compare_exchange(
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

    fn compare_exchange_16(&mut self, instruction: &Instruction, bytes: &[u8], flags: Use) -> Result<(), Unfit> {
        let raw = super::encode::Raw::parse(bytes, true).ok_or(Unfit)?;
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

    /// RDTSC and RDTSCP: the host's counter plus the guest's offset.
    fn time_stamp(&mut self, instruction: &Instruction, flags: Use) {
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

    fn clear_interrupt_flag(&mut self, flags: Use) {
        self.before_clobber(flags.live_in);
        self.asm.group1(false, 4, Rm::Gs(layout::RFLAGS), !(1 << 9));
    }

    /// STI, when an instruction follows in the block that is neither a branch nor interpreted: interrupts are looked for
    /// behind it.
    fn set_interrupt_flag(&mut self, flags: Use) -> Result<(), Unfit> {
        if !self.shadow_fits {
            return Err(Unfit);
        }
        self.before_clobber(flags.live_in);
        self.asm.group1(false, 1, Rm::Gs(layout::RFLAGS), 1 << 9);
        self.shadow = true;
        Ok(())
    }

    /// Behind the instruction that follows STI: leave when an interrupt waits.
    fn end_shadow(&mut self, next: u64) {
        self.shadow = false;
        let host_flags = self.in_host && !self.saved;
        let link = self.link(next, host_flags, false);
        // mov ecx, gs:[WAITING]; jrcxz over; jmp leave; over:
        self.asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::WAITING));
        self.asm.raw(&[0xE3, 0x05]);
        let from = self.asm.jmp_forward();
        self.cold.push(Cold::Exit { from, link, host_flags, poll: true });
    }

    fn swap_gs(&mut self) {
        let gs = Rm::Gs(layout::segment_base(5));
        self.asm.load(host::RAX, gs);
        self.asm.load(host::RCX, Rm::Gs(layout::KERNEL_GS_BASE));
        self.asm.store(gs, host::RCX);
        self.asm.store(Rm::Gs(layout::KERNEL_GS_BASE), host::RAX);
    }

    /// PUSHFQ: RFLAGS in the core, but for the arithmetic flags.
    fn push_flags(&mut self, instruction: &Instruction, flags: Use) {
        self.flags_to_core();
        self.before_clobber(flags.live_in);
        let site = self.stack_lookup(instruction, -8, true);
        self.combine(host::RAX);
        self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
        let asm = &mut self.asm;
        // eax = the low flags; ecx = OF << 11
        asm.op(false, &[0x0F, 0xB6], host::RAX, Rm::Gs(layout::FLAGS + 1));
        asm.group1(false, 4, Rm::Register(host::RAX), 0xD5);
        asm.op(false, &[0x0F, 0xB6], host::RCX, Rm::Gs(layout::FLAGS));
        asm.raw(&[0xC1, 0xE1, 0x0B]);
        asm.op(false, &[0x09], host::RCX, Rm::Register(host::RAX));
        asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::RFLAGS));
        // Neither RF nor VM are pushed.
        asm.group1(false, 4, Rm::Register(host::RCX), !0x3_08D5);
        asm.op(false, &[0x09], host::RCX, Rm::Register(host::RAX));
        asm.load(host::RCX, Rm::Gs(layout::SCRATCH));
        asm.store(Rm::Base { base: host::RCX, displacement: 0 }, host::RAX);
        self.move_stack(-8);
        self.in_host = false;
        self.finish_site(site);
    }

    /// MOV from a segment register to a general one.
    fn from_segment(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let gpr = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        let Home::Host(target) = home(gpr.number) else { return Err(Unfit) };
        if gpr.size < 4 {
            return Err(Unfit);
        }
        let selector = Rm::Gs(layout::selector(instruction.op1_register().number()));
        self.asm.op(false, &[0x0F, 0xB7], target, selector);
        Ok(())
    }

    /// BT and its relatives on a bit string in memory: the bit's offset in a register reaches beyond the operand.
    fn bit_test(
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

    // ---- control flow

    fn branch_target(&self, instruction: &Instruction) -> u64 {
        instruction.near_branch_target()
    }

    fn conditional(&mut self, instruction: &Instruction, flags: Use) {
        self.before_op(&flags);
        let code = instruction.condition_code() as u8;
        let taken = self.asm.jcc_forward(host_condition(code));
        let state = (self.in_host, self.saved);
        self.leave_to(instruction.next_ip(), false);
        (self.in_host, self.saved) = state;
        self.asm.bind(taken);
        let target = self.branch_target(instruction);
        self.leave_to(target, target <= instruction.ip());
    }

    fn call(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = i32::from(self.stack_size());
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        let direct = instruction.is_call_near();
        let mut sites = Vec::new();
        if !direct {
            self.indirect_target(instruction, &mut sites)?;
            self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
        }
        let site = self.stack_lookup(instruction, -size, true);
        let next = instruction.next_ip();
        if next as i64 as i32 as i64 == next as i64 || !wide {
            let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
            self.asm.op(wide, &[0xC7], 0, slot);
            self.asm.dword(next as u32);
        } else {
            let slot = self.combine(host::RCX);
            self.asm.mov_imm(host::RAX, next);
            self.asm.store(slot, host::RAX);
        }
        self.move_stack(-size);
        if direct {
            let target = self.branch_target(instruction);
            self.leave_to(target, target <= instruction.ip());
        } else {
            self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
            self.jump_to_rax();
        }
        sites.push(site);
        self.finish_branch_sites(&sites);
        Ok(())
    }

    fn ret(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let size = i32::from(self.stack_size());
        let wide = self.wide();
        self.before_clobber(flags.live_in);
        let site = self.stack_lookup(instruction, 0, false);
        let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
        self.asm.op(wide, &[0x8B], host::RAX, slot);
        let extra = if instruction.op_count() == 1 { instruction.immediate16() } else { 0 };
        self.move_stack(size + i32::from(extra));
        self.jump_to_rax();
        self.finish_branch_sites(&[site]);
        Ok(())
    }

    fn jump(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        if instruction.is_jmp_short_or_near() {
            let target = self.branch_target(instruction);
            self.leave_to(target, target <= instruction.ip());
            return Ok(());
        }
        self.before_clobber(flags.live_in);
        let mut sites = Vec::new();
        self.indirect_target(instruction, &mut sites)?;
        self.jump_to_rax();
        self.finish_branch_sites(&sites);
        Ok(())
    }

    /// RAX = the target of an indirect jump or call.
    fn indirect_target(&mut self, instruction: &Instruction, sites: &mut Vec<u32>) -> Result<(), Unfit> {
        let wide = self.wide();
        match instruction.op0_kind() {
            OpKind::Memory => {
                self.address(instruction)?;
                let memory = Memory { size: self.stack_size(), write: false, aligned: false };
                sites.push(self.lookup(instruction, memory));
                let slot = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };
                self.asm.op(wide, &[0x8B], host::RAX, slot);
            }
            _ => {
                let gpr = general(instruction.op0_register(), OpAccess::Read).ok_or(Unfit)?;
                self.asm.op(wide, &[0x8B], host::RAX, place(gpr.number));
            }
        }
        Ok(())
    }

    /// A branch that was interpreted never comes back behind itself: the interpreter leaves RIP elsewhere, and even where
    /// it is the next instruction the dispatcher finds it.
    fn finish_branch_sites(&mut self, sites: &[u32]) {
        for &site in sites {
            self.sites[site as usize].after = 0;
        }
    }

    /// Goes to a known guest address; the flags stay where they are. `backward`: look whether somebody wants the vCPU.
    fn leave_to(&mut self, target: u64, backward: bool) {
        let target = if self.wide() { target } else { target & 0xFFFF_FFFF };
        let same_page = target & !0xFFF == self.start_rip & !0xFFF;
        if !same_page && self.mode.view() == tlb::View::User {
            // A link into another page of a process would outlive its mapping.
            self.flags_to_core();
            self.asm.mov_imm(host::RAX, target);
            self.jump_to_rax();
            return;
        }
        let host_flags = self.in_host && !self.saved;
        let link = self.link(target, host_flags, !same_page);
        if backward {
            // mov ecx, gs:[POLL]; jrcxz over; jmp leave; over:
            self.asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::POLL));
            self.asm.raw(&[0xE3, 0x05]);
            let from = self.asm.jmp_forward();
            self.cold.push(Cold::Exit { from, link, host_flags, poll: true });
        }
        if target == self.start_rip {
            let entry = if host_flags { self.entry_host } else { self.entry_saved };
            self.asm.jmp(entry);
            return;
        }
        let from = self.asm.jmp_forward();
        self.links[link as usize].patch = self.asm.offset(from);
        self.cold.push(Cold::Exit { from, link, host_flags, poll: false });
    }

    fn link(&mut self, target: u64, host_flags: bool, crosses: bool) -> u32 {
        self.links.push(Link { block: self.block, target, patch: 0, cold: 0, host_flags, crosses, linked: None });
        self.links.len() as u32 - 1
    }

    /// Goes to the guest address in RAX by way of the jump table. The flags must be wanted by nobody or saved.
    fn jump_to_rax(&mut self) {
        self.flags_to_core_around_rax();
        let table = layout::jumps(self.mode.view());
        let asm = &mut self.asm;
        // mov ecx, gs:[POLL]; jrcxz over; jmp leave; over:
        asm.op(false, &[0x8B], host::RCX, Rm::Gs(layout::POLL));
        asm.raw(&[0xE3, 0x05]);
        let polled = asm.jmp_forward();
        asm.mov32(host::RCX, host::RAX);
        asm.group1(false, 4, Rm::Register(host::RCX), (crate::state::JUMPS - 1) as i32);
        asm.raw(&[0xC1, 0xE1, 0x04]);
        asm.op(true, &[0x3B], host::RAX, Rm::GsIndexed { base: host::RCX, displacement: table });
        let miss = asm.jcc_forward(condition::NE);
        asm.op(false, &[0xFF], 4, Rm::GsIndexed { base: host::RCX, displacement: table + 8 });
        self.cold.push(Cold::Indirect { from: vec![polled, miss] });
    }

    /// As [`Self::flags_to_core`], with RAX kept.
    fn flags_to_core_around_rax(&mut self) {
        if !self.saved {
            self.asm.mov(host::RCX, host::RAX);
            self.save_flags();
            self.asm.mov(host::RAX, host::RCX);
        }
    }

    fn emit_cold(&mut self) {
        for cold in std::mem::take(&mut self.cold) {
            let asm = &mut self.asm;
            match cold {
                Cold::Miss { from, tag, site } => {
                    from.into_iter().for_each(|fixup| asm.bind(fixup));
                    // add rax, gs:[rcx + tag]; mov ecx, site; jmp
                    asm.op(true, &[0x03], host::RAX, Rm::GsIndexed { base: host::RCX, displacement: tag });
                    asm.raw(&[0xB9]);
                    asm.dword(site);
                    asm.jmp(self.stubs.memory);
                }
                Cold::Unfit { from, site } => {
                    from.into_iter().for_each(|fixup| asm.bind(fixup));
                    asm.raw(&[0xB9]);
                    asm.dword(site);
                    asm.jmp(self.stubs.interpret);
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
                    asm.jmp(if poll { self.stubs.poll } else { self.stubs.link });
                }
                Cold::Indirect { from } => {
                    from.into_iter().for_each(|fixup| asm.bind(fixup));
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
