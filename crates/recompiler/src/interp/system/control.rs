//! Control registers, descriptor table registers, and what else steers the processor.
//! Intel SDM volume 3A, chapters 2 and 4.

use super::segment::{privileged, user_mode_prevented};
use crate::fault::Fault;
use crate::interp::integer::operand::{self, canonical};
use crate::mmu::PHYSICAL_BITS;
use crate::state::{Bits, Core, Executed, cr0, cr4, efer, flag};
use hv::{DescriptorTable, SegmentRegister};
use iced_x86::{Code, Instruction, Register};

/// The CR4 bits that this processor has.
pub(crate) const CR4_BITS: u64 = cr4::VME
    | cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::OSXSAVE
    | cr4::SMEP
    | cr4::SMAP;

/// The CR0 bits that exist; writes of others are ignored.
pub(crate) const CR0_BITS: u64 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;

const CR3_NOFLUSH: u64 = 1 << 63;
const CR3_PCID: u64 = 0xFFF;

impl Core {
    /// Writes CR0 with all its checks and consequences.
    ///
    /// # Errors
    /// #GP(0) for a combination that no processor can be in.
    pub(crate) fn write_cr0(&mut self, value: u64) -> Executed {
        if value >> 32 != 0 {
            return Err(Fault::GP0);
        }
        let new = value & CR0_BITS | cr0::ET;
        let old = self.cr0;
        let changed = old ^ new;
        let paging = new & cr0::PG != 0;
        if paging && new & cr0::PE == 0 || new & cr0::NW != 0 && new & cr0::CD == 0 {
            return Err(Fault::GP0);
        }
        if changed & cr0::PG != 0 {
            if paging && self.efer & efer::LME != 0 {
                let cs_long = self.segments[SegmentRegister::Cs as usize].access & hv::Segment::L != 0;
                let tss16 = matches!(self.tr.access & 0x1F, 1 | 3);
                if self.cr4 & cr4::PAE == 0 || cs_long || tss16 {
                    return Err(Fault::GP0);
                }
            }
            if !paging && (self.bits() == Bits::B64 || self.cr4 & cr4::PCIDE != 0) {
                return Err(Fault::GP0);
            }
        }
        let pae = paging && self.cr4 & cr4::PAE != 0 && self.efer & efer::LME == 0;
        if pae && changed & (cr0::PG | cr0::CD | cr0::NW) != 0 {
            self.pdpte = self.read_pdptes(self.cr3)?;
        }
        self.cr0 = new;
        if changed & cr0::PG != 0 {
            self.efer &= !efer::LMA;
            if paging && self.efer & efer::LME != 0 {
                self.efer |= efer::LMA;
            }
        }
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.flush_tlb(false);
        }
        Ok(())
    }

    /// The four PDPTEs that CR3 points at. Intel SDM volume 3A, section 4.4.1.
    ///
    /// # Errors
    /// #GP(0) when a present one has reserved bits set.
    pub(crate) fn read_pdptes(&mut self, cr3: u64) -> Result<[u64; 4], Fault> {
        const RESERVED: u64 = !((1 << PHYSICAL_BITS) - 1) | 0x1E6;
        let mut entries = [0; 4];
        for (index, entry) in entries.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            self.physical_read((cr3 & 0xFFFF_FFE0) + index as u64 * 8, &mut bytes);
            *entry = u64::from_le_bytes(bytes);
            if *entry & 1 != 0 && *entry & RESERVED != 0 {
                return Err(Fault::GP0);
            }
        }
        Ok(entries)
    }

    /// Writes CR3. The TLB holds one PCID's translations, so that a write drops the non-global ones whatever bit 63
    /// says, which the architecture allows.
    ///
    /// # Errors
    /// #GP(0) for reserved bits, or bad PDPTEs in PAE mode.
    pub(crate) fn write_cr3(&mut self, value: u64) -> Executed {
        let value = match self.cr4 & cr4::PCIDE {
            0 => value,
            _ => value & !CR3_NOFLUSH,
        };
        if self.long_mode() && value >> PHYSICAL_BITS != 0 {
            return Err(Fault::GP0);
        }
        if self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !self.long_mode() {
            self.pdpte = self.read_pdptes(value)?;
        }
        self.cr3 = value;
        self.flush_tlb(true);
        Ok(())
    }

    /// Writes CR4.
    ///
    /// # Errors
    /// #GP(0) for bits that do not exist and combinations that are not allowed.
    pub(crate) fn write_cr4(&mut self, value: u64) -> Executed {
        if value & !CR4_BITS != 0 {
            return Err(Fault::GP0);
        }
        let changed = self.cr4 ^ value;
        if self.long_mode() && value & cr4::PAE == 0 {
            return Err(Fault::GP0);
        }
        if changed & value & cr4::PCIDE != 0 && (!self.long_mode() || self.cr3 & CR3_PCID != 0) {
            return Err(Fault::GP0);
        }
        const PAGING: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::PCIDE;
        let pae = value & cr4::PAE != 0 && self.cr0 & cr0::PG != 0 && !self.long_mode();
        if pae && changed & PAGING != 0 {
            self.pdpte = self.read_pdptes(self.cr3)?;
        }
        self.cr4 = value;
        self.forget_cpuid();
        if changed & PAGING != 0 {
            self.flush_tlb(false);
        }
        Ok(())
    }

    /// Writes IA32_EFER; `false`: #GP(0).
    pub(crate) fn write_efer(&mut self, value: u64) -> bool {
        const WRITABLE: u64 = efer::SCE | efer::LME | efer::NXE;
        let changed = (self.efer ^ value) & WRITABLE;
        if value & !(WRITABLE | efer::LMA) != 0 || changed & efer::LME != 0 && self.cr0 & cr0::PG != 0 {
            return false;
        }
        self.efer = value & WRITABLE | self.efer & efer::LMA;
        if changed & efer::NXE != 0 {
            self.flush_tlb(false);
        }
        true
    }

    fn read_cr8(&self) -> u64 {
        self.lapic.as_ref().map_or(0, |lapic| u64::from(lapic.tpr()))
    }

    fn write_cr8(&mut self, value: u64) -> Executed {
        if value > 15 {
            return Err(Fault::GP0);
        }
        if let Some(lapic) = &self.lapic {
            lapic.set_tpr(value as u8);
        }
        Ok(())
    }
}

/// MOV from a control register.
pub(super) fn mov_from_control(core: &mut Core, instruction: &Instruction) -> Executed {
    privileged(core)?;
    let value = match instruction.op1_register() {
        Register::CR0 => core.cr0,
        Register::CR2 => core.cr2,
        Register::CR3 => core.cr3,
        Register::CR4 => core.cr4,
        Register::CR8 => core.read_cr8(),
        _ => return Err(Fault::UD),
    };
    operand::write_register(core, instruction.op0_register(), value);
    Ok(())
}

/// MOV to a control register.
pub(super) fn mov_to_control(core: &mut Core, instruction: &Instruction) -> Executed {
    let target = instruction.op0_register();
    if !matches!(target, Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4 | Register::CR8) {
        return Err(Fault::UD);
    }
    privileged(core)?;
    let value = operand::read_register(core, instruction.op1_register());
    match target {
        Register::CR0 => core.write_cr0(value),
        Register::CR2 => {
            core.cr2 = value;
            Ok(())
        }
        Register::CR3 => core.write_cr3(value),
        Register::CR4 => core.write_cr4(value),
        _ => core.write_cr8(value),
    }
}

/// LMSW: the low four bits of CR0; PE can be set but not cleared.
pub(super) fn lmsw(core: &mut Core, instruction: &Instruction) -> Executed {
    privileged(core)?;
    let value = operand::load(core, instruction, 0)?;
    let keep = core.cr0 & !(cr0::MP | cr0::EM | cr0::TS);
    core.write_cr0(keep | value & (cr0::PE | cr0::MP | cr0::EM | cr0::TS))
}

/// SMSW.
pub(super) fn smsw(core: &mut Core, instruction: &Instruction) -> Executed {
    user_mode_prevented(core)?;
    let value = core.cr0;
    operand::store(core, instruction, 0, value)
}

/// CLTS.
pub(super) fn clts(core: &mut Core, _: &Instruction) -> Executed {
    privileged(core)?;
    core.cr0 &= !cr0::TS;
    Ok(())
}

/// Bytes of the base in a LGDT-like operand, and the bits of it that count.
fn table_width(instruction: &Instruction) -> (usize, u64) {
    match instruction.code() {
        Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => (8, u64::MAX),
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => (4, 0xFF_FFFF),
        _ => (4, 0xFFFF_FFFF),
    }
}

/// LGDT and LIDT.
fn load_table(core: &mut Core, instruction: &Instruction) -> Result<DescriptorTable, Fault> {
    privileged(core)?;
    let (width, mask) = table_width(instruction);
    let address = operand::memory(core, instruction, 2 + width, false)?;
    let mut bytes = [0; 10];
    core.read_bytes(address, &mut bytes[..2 + width])?;
    let mut base = [0; 8];
    base[..width].copy_from_slice(&bytes[2..2 + width]);
    let base = u64::from_le_bytes(base) & mask;
    if width == 8 && !canonical(base) {
        return Err(Fault::GP0);
    }
    Ok(DescriptorTable { base, limit: u16::from_le_bytes([bytes[0], bytes[1]]) })
}

/// LGDT.
pub(super) fn lgdt(core: &mut Core, instruction: &Instruction) -> Executed {
    core.gdtr = load_table(core, instruction)?;
    Ok(())
}

/// LIDT.
pub(super) fn lidt(core: &mut Core, instruction: &Instruction) -> Executed {
    core.idtr = load_table(core, instruction)?;
    Ok(())
}

fn store_table(core: &mut Core, instruction: &Instruction, table: DescriptorTable) -> Executed {
    user_mode_prevented(core)?;
    let (width, mask) = table_width(instruction);
    let address = operand::memory(core, instruction, 2 + width, true)?;
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&(table.base & mask).to_le_bytes());
    core.write_bytes(address, &bytes[..2 + width])
}

/// SGDT.
pub(super) fn sgdt(core: &mut Core, instruction: &Instruction) -> Executed {
    let table = core.gdtr;
    store_table(core, instruction, table)
}

/// SIDT.
pub(super) fn sidt(core: &mut Core, instruction: &Instruction) -> Executed {
    let table = core.idtr;
    store_table(core, instruction, table)
}

/// The linear address of an operand whose segment is not checked, as INVLPG's.
fn unchecked_linear(core: &Core, instruction: &Instruction) -> u64 {
    let name = operand::segment_index(instruction.memory_segment());
    let offset = operand::effective_offset(core, instruction);
    let base = core.segments[name as usize].base;
    match (core.bits(), name) {
        (Bits::B64, SegmentRegister::Fs | SegmentRegister::Gs) => base.wrapping_add(offset),
        (Bits::B64, _) => offset,
        _ => base.wrapping_add(offset) & 0xFFFF_FFFF,
    }
}

/// INVLPG.
pub(super) fn invlpg(core: &mut Core, instruction: &Instruction) -> Executed {
    privileged(core)?;
    let linear = unchecked_linear(core, instruction);
    if canonical(linear) {
        core.flush_page(linear);
    }
    Ok(())
}

/// INVPCID. Only the current PCID has translations here, so that the others need nothing.
pub(super) fn invpcid(core: &mut Core, instruction: &Instruction) -> Executed {
    if core.vm86() {
        return Err(Fault::GP0);
    }
    privileged(core)?;
    let kind = operand::read_register(core, instruction.op0_register());
    let address = operand::memory(core, instruction, 16, false)?;
    let descriptor: u128 = core.read(address)?;
    let (low, linear) = (descriptor as u64, (descriptor >> 64) as u64);
    let pcid = low & CR3_PCID;
    let without_pcids = core.cr4 & cr4::PCIDE == 0;
    if kind > 3 || low & !CR3_PCID != 0 || kind < 2 && without_pcids && pcid != 0 || kind == 0 && !canonical(linear) {
        return Err(Fault::GP0);
    }
    let current = without_pcids || core.cr3 & CR3_PCID == pcid;
    match kind {
        0 if current => core.flush_page(linear),
        1 if current => core.flush_tlb(true),
        2 => core.flush_tlb(false),
        3 => core.flush_tlb(true),
        _ => {}
    }
    Ok(())
}

/// INVD, WBINVD, WBNOINVD: the guest's caches are the host's, which are coherent.
pub(super) fn cache(core: &mut Core, _: &Instruction) -> Executed {
    privileged(core)
}

/// HLT. It is itself the one instruction that STI keeps interrupts off for, so that they wake it.
pub(super) fn hlt(core: &mut Core, _: &Instruction) -> Executed {
    privileged(core)?;
    core.halted = true;
    core.interrupt_shadow = false;
    Ok(())
}

/// What CLI and STI work on.
enum InterruptFlag {
    Real,
    Virtual,
}

/// Intel SDM volume 2A, "CLI", table 3-7.
fn interrupt_flag(core: &Core) -> Result<InterruptFlag, Fault> {
    let iopl = (core.rflags >> 12 & 3) as u8;
    if !core.protected() || iopl >= core.cpl() {
        return Ok(InterruptFlag::Real);
    }
    let virtualised = match core.vm86() {
        true => core.cr4 & cr4::VME != 0,
        false => core.cpl() == 3 && core.cr4 & cr4::PVI != 0,
    };
    if virtualised { Ok(InterruptFlag::Virtual) } else { Err(Fault::GP0) }
}

/// CLI.
pub(super) fn cli(core: &mut Core, _: &Instruction) -> Executed {
    core.rflags &= match interrupt_flag(core)? {
        InterruptFlag::Real => !flag::IF,
        InterruptFlag::Virtual => !flag::VIF,
    };
    Ok(())
}

/// STI. Interrupts stay off for one more instruction when they were off.
pub(super) fn sti(core: &mut Core, _: &Instruction) -> Executed {
    match interrupt_flag(core)? {
        InterruptFlag::Real => {
            if core.rflags & flag::IF == 0 {
                core.interrupt_shadow = true;
            }
            core.rflags |= flag::IF;
        }
        InterruptFlag::Virtual if core.rflags & flag::VIP != 0 => return Err(Fault::GP0),
        InterruptFlag::Virtual => core.rflags |= flag::VIF,
    }
    Ok(())
}

/// STAC and CLAC.
fn set_alignment_check(core: &mut Core, set: bool) -> Executed {
    if core.cpl() != 0 {
        return Err(Fault::UD);
    }
    core.rflags = if set { core.rflags | flag::AC } else { core.rflags & !flag::AC };
    Ok(())
}

/// STAC.
pub(super) fn stac(core: &mut Core, _: &Instruction) -> Executed {
    set_alignment_check(core, true)
}

/// CLAC.
pub(super) fn clac(core: &mut Core, _: &Instruction) -> Executed {
    set_alignment_check(core, false)
}

/// SWAPGS.
pub(super) fn swapgs(core: &mut Core, _: &Instruction) -> Executed {
    if core.bits() != Bits::B64 {
        return Err(Fault::UD);
    }
    privileged(core)?;
    let gs = &mut core.segments[SegmentRegister::Gs as usize].base;
    std::mem::swap(gs, &mut core.msr.kernel_gs_base);
    Ok(())
}

fn base_instruction(core: &Core) -> Executed {
    let exists = core.bits() == Bits::B64 && core.cr4 & cr4::FSGSBASE != 0;
    if exists { Ok(()) } else { Err(Fault::UD) }
}

fn base_segment(instruction: &Instruction) -> SegmentRegister {
    match instruction.code() {
        Code::Rdfsbase_r32 | Code::Rdfsbase_r64 | Code::Wrfsbase_r32 | Code::Wrfsbase_r64 => SegmentRegister::Fs,
        _ => SegmentRegister::Gs,
    }
}

/// RDFSBASE and RDGSBASE.
pub(super) fn read_base(core: &mut Core, instruction: &Instruction) -> Executed {
    base_instruction(core)?;
    let base = core.segments[base_segment(instruction) as usize].base;
    operand::write_register(core, instruction.op0_register(), base);
    Ok(())
}

/// WRFSBASE and WRGSBASE.
pub(super) fn write_base(core: &mut Core, instruction: &Instruction) -> Executed {
    base_instruction(core)?;
    let base = operand::read_register(core, instruction.op0_register());
    if !canonical(base) {
        return Err(Fault::GP0);
    }
    core.segments[base_segment(instruction) as usize].base = base;
    Ok(())
}

/// XSETBV.
pub(super) fn xsetbv(core: &mut Core, _: &Instruction) -> Executed {
    if core.cr4 & cr4::OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    privileged(core)?;
    let value = core.gpr[2] << 32 | core.gpr[0] & 0xFFFF_FFFF;
    if core.gpr[1] as u32 != 0 || !core.cpuid.xcr0_allowed(value) {
        return Err(Fault::GP0);
    }
    core.xcr0 = value;
    core.forget_cpuid();
    Ok(())
}
