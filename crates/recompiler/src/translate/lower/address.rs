//! Operands in memory: effective addresses, the TLB lookup, and the sites where Rust helps out.
//!
//! [`Lowering::address`] leaves the offset in the segment in RAX, [`Lowering::lookup`] makes of it a linear address, and of
//! that two scratch registers whose sum is the host's address. LEA is here, since it stops half-way.

use super::flow::Cold;
use super::{Home, Lowering, Unfit, home, place};
use crate::blocks::Decoded;
use crate::interp;
use crate::interp::integer::operand;
use crate::mode::Reach;
use crate::state::layout;
use crate::tlb;
use crate::translate::asm::{Fixup, condition, host};
use crate::translate::encode::Rm;
use crate::translate::form::{Memory, general};
use crate::translate::{Site, SiteKind};
use hv::SegmentRegister;
use iced_x86::{Instruction, OpAccess, Register};

impl Lowering<'_> {
    /// RAX = offset of the memory operand in its segment. May destroy RCX.
    pub(super) fn address(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let displacement = instruction.memory_displacement64();
        if instruction.is_ip_rel_memory_operand() {
            self.asm.mov_imm(host::RAX, instruction.ip_rel_memory_address());
        } else {
            let (base, index) = (instruction.memory_base(), instruction.memory_index());
            if index.is_vector_register() {
                return Err(Unfit);
            }
            let narrow = !self.wide() || base.size() == 4 || index.size() == 4;
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
        self.truncate_address(instruction, host::RAX);
        Ok(())
    }

    /// Lets an offset in a host register wrap at 64 KiB when the address size says so; changes no flags.
    pub(super) fn truncate_address(&mut self, instruction: &Instruction, register: u8) {
        if operand::address_size(instruction) == 2 {
            self.asm.op(false, &[0x0F, 0xB7], register, Rm::Register(register));
        }
    }

    /// The guest's base and index as a host address, registers of the core loaded into RAX and RCX.
    pub(super) fn address_operand(&mut self, base: Register, index: Register, scale: u32, displacement: i32) -> Rm {
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

    /// RAX = linear address of the offset in RAX, at which an access to a segment fits the limit; `short`: the offset has
    /// 16 bits. Anything else is the interpreter's. Destroys RCX and the host's flags.
    fn linear(&mut self, instruction: &Instruction, segment: usize, short: bool, memory: Memory, site: u32) {
        if self.wide() {
            if segment >= SegmentRegister::Fs as usize {
                self.asm.load(host::RCX, Rm::Gs(layout::segment_base(segment)));
                self.asm.lea(host::RAX, Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 });
            }
            return;
        }
        let size = i32::from(memory.size);
        let fits = match self.mode.reach(segment) {
            Reach::Flat => return,
            Reach::Small if short && size == 1 => true,
            Reach::Small => {
                self.asm.group1(false, 7, Rm::Register(host::RAX), 0x1_0000 - size);
                false
            }
            Reach::Checked => {
                self.asm.lea(host::RCX, Rm::Base { base: host::RAX, displacement: size });
                let window = if memory.write { layout::writable(segment) } else { layout::readable(segment) };
                self.asm.op(true, &[0x3B], host::RCX, Rm::Gs(window));
                false
            }
        };
        if !fits {
            let from = vec![self.asm.jcc_forward(condition::A)];
            self.unfit(instruction, from, site);
        }
        self.asm.op(false, &[0x03], host::RAX, Rm::Gs(layout::segment_base(segment)));
    }

    /// Looks up the offset in RAX in the memory operand's segment: afterwards [RAX + RCX] is the host's bytes. Destroys the
    /// host's flags.
    pub(super) fn lookup(&mut self, instruction: &Instruction, memory: Memory) -> u32 {
        let short = operand::address_size(instruction) == 2;
        self.lookup_in(instruction, instruction.memory_segment().number(), short, memory)
    }

    /// As [`Self::lookup`] in a given segment; `short`: the offset has 16 bits.
    pub(super) fn lookup_in(&mut self, instruction: &Instruction, segment: usize, short: bool, memory: Memory) -> u32 {
        let tag = self.tlb_base + if memory.write { layout::TLB_WRITE } else { layout::TLB_READ };
        let kind = if memory.write { SiteKind::Write } else { SiteKind::Read };
        let site = self.site(instruction, kind, memory.size, memory.aligned);
        self.linear(instruction, segment, short, memory, site);
        self.slot();
        // sub rax, gs:[rcx + tag]
        self.asm.op(true, &[0x2B], host::RAX, Rm::GsIndexed { base: host::RCX, displacement: tag });
        let size = i32::from(memory.size);
        // SSE faults when it is not aligned, LOCK must not split a cache line.
        let from = self.in_page(host::RAX, size, if memory.aligned { size - 1 } else { 0 });
        self.asm.load(host::RCX, Rm::GsIndexed { base: host::RCX, displacement: self.tlb_base + layout::TLB_HOST });
        self.sites[site as usize].join = self.asm.bytes.len() as u32;
        self.cold.push(Cold::Miss { from, tag, site });
        site
    }

    /// Jumps that are taken unless the offset in a page in a host register leaves room for `span` bytes, and the bits of
    /// `mask` are clear in it.
    pub(super) fn in_page(&mut self, offset: u8, span: i32, mask: i32) -> Vec<Fixup> {
        let register = Rm::Register(offset);
        let mut from = Vec::new();
        if mask != 0 && span == mask + 1 {
            // One test for both: of offsets in a page, all that are aligned to a size leave room for it.
            self.asm.op(true, &[0xF7], 0, register);
            self.asm.dword(!(4096 - span) as u32);
            from.push(self.asm.jcc_forward(condition::NE));
            return from;
        }
        if mask != 0 {
            self.asm.op(false, &[0xF6], 0, register);
            self.asm.raw(&[mask as u8]);
            from.push(self.asm.jcc_forward(condition::NE));
        }
        self.asm.group1(true, 7, register, 4096 - span);
        from.push(self.asm.jcc_forward(condition::A));
        from
    }

    /// The linear address of a memory operand of 64-bit code that no register has a part in, when the access stays in a page
    /// and is aligned where it has to be.
    pub(super) fn fixed_address(&self, instruction: &Instruction, memory: Memory) -> Option<u64> {
        let registers = [instruction.memory_base(), instruction.memory_index()];
        let relative = instruction.is_ip_rel_memory_operand();
        let address = match registers {
            _ if !self.wide() || matches!(instruction.memory_segment(), Register::FS | Register::GS) => return None,
            [Register::RIP, _] if relative => instruction.ip_rel_memory_address(),
            [Register::None, Register::None] if operand::address_size(instruction) == 8 => {
                instruction.memory_displacement64()
            }
            _ => return None,
        };
        let size = u64::from(memory.size);
        let fits = (address & 0xFFF) + size <= 4096 && !(memory.aligned && address & (size - 1) != 0);
        fits.then_some(address)
    }

    /// As [`Self::lookup`] for an address that is known: so is its slot.
    pub(super) fn lookup_fixed(&mut self, instruction: &Instruction, address: u64, memory: Memory) -> u32 {
        let kind = if memory.write { SiteKind::Write } else { SiteKind::Read };
        let site = self.site(instruction, kind, memory.size, memory.aligned);
        let entry = self.tlb_base + (tlb::slot(address) * size_of::<tlb::Entry>()) as u32;
        let tag = Rm::Gs(entry + if memory.write { layout::TLB_WRITE } else { layout::TLB_READ });
        let page = address & !0xFFF;
        match i32::try_from(page as i64) {
            Ok(page) => self.asm.group1(true, 7, tag, page),
            Err(_) => {
                self.asm.mov_imm(host::RCX, page);
                self.asm.op(true, &[0x39], host::RCX, tag);
            }
        }
        let from = self.asm.jcc_forward(condition::NE);
        self.asm.load(host::RCX, Rm::Gs(entry + layout::TLB_HOST));
        self.asm.mov_imm(host::RAX, address & 0xFFF);
        self.sites[site as usize].join = self.asm.bytes.len() as u32;
        self.cold.push(Cold::Fixed { from, address, site });
        site
    }

    /// RCX = offset of the TLB entry for the linear address in RAX.
    pub(super) fn slot(&mut self) {
        self.asm.mov32(host::RCX, host::RAX);
        // shr ecx, 7; and ecx, slots
        self.asm.raw(&[0xC1, 0xE9, 0x07]);
        self.asm.group1(false, 4, Rm::Register(host::RCX), ((tlb::ENTRIES - 1) << 5) as i32);
    }

    /// The address of an operand into a scratch register, leaving the flags alone.
    pub(super) fn combine(&mut self, operand: Rm, into: u8) -> Rm {
        self.asm.lea(into, operand);
        Rm::Base { base: into, displacement: 0 }
    }

    /// A record of one guest instruction that may leave translated code. Offsets are block-relative until the block is
    /// placed.
    pub(super) fn site(&mut self, instruction: &Instruction, kind: SiteKind, size: u16, aligned: bool) -> u32 {
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
            extent: instruction.len() as u16,
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
    pub(super) fn finish_site(&mut self, site: u32) {
        self.sites[site as usize].after = self.asm.bytes.len() as u32;
    }

    pub(super) fn lea(&mut self, instruction: &Instruction) -> Result<(), Unfit> {
        let start = self.asm.bytes.len();
        let destination = general(instruction.op0_register(), OpAccess::Write).ok_or(Unfit)?;
        let target = match home(destination.number) {
            Home::Host(register) if destination.size >= 4 => register,
            _ => host::RAX,
        };
        let wide = destination.size == 8;
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
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
        self.truncate_address(instruction, target);
        if target == host::RAX {
            let size = u16::from(destination.size.max(2));
            self.asm.sized(if size == 4 { 8 } else { size }, &[0x89], target, place(destination.number));
        }
        let in_core = index != Register::None && matches!(home(index.full_register().number() as u8), Home::Core(_));
        if !in_core {
            self.keep_addend(None, Some(start));
        }
        Ok(())
    }
}
