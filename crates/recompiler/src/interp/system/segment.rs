//! Segment registers: loading them with every check the architecture makes, and the instructions about selectors.
//! Intel SDM volume 3A, chapters 3 and 5.

use super::descriptor::{Descriptor, is_null, kind, not_present, selector_fault};
use crate::fault::{Fault, vector};
use crate::interp::integer::operand::{self, canonical};
use crate::state::{Bits, Core, Executed, cr4, flag};
use hv::{Segment, SegmentRegister};
use iced_x86::{Instruction, OpKind};

/// Loads a data or stack segment register as MOV, POP and LDS … do. CS is loaded by far transfers only.
///
/// # Errors
/// #GP, #SS or #NP with the selector, #PF on the descriptor table.
pub fn load(core: &mut Core, name: SegmentRegister, selector: u16) -> Executed {
    if !core.protected() || core.vm86() {
        load_real(core, name, selector);
        return Ok(());
    }
    let segment = match name {
        SegmentRegister::Ss => stack_segment(core, selector)?,
        _ => data_segment(core, selector)?,
    };
    core.segments[name as usize] = segment;
    Ok(())
}

/// Loads a segment register in real or virtual-8086 mode.
pub(super) fn load_real(core: &mut Core, name: SegmentRegister, selector: u16) {
    let vm86 = core.vm86();
    let segment = &mut core.segments[name as usize];
    segment.selector = selector;
    segment.base = u64::from(selector) << 4;
    if vm86 {
        segment.limit = 0xFFFF;
        segment.access = 0xF3;
    } else if segment.access & Segment::P == 0 {
        // A null selector of protected mode became usable again; otherwise limit and rights stay ("unreal mode").
        segment.limit = 0xFFFF;
        segment.access = 0x93;
    }
}

/// The hidden part of a null selector: unusable. For SS it still holds the privilege level.
pub(super) fn null_segment(selector: u16, cpl: u8) -> Segment {
    Segment { base: 0, limit: 0, selector, access: u16::from(cpl & 3) << 5 }
}

fn data_segment(core: &mut Core, selector: u16) -> Result<Segment, Fault> {
    if is_null(selector) {
        return Ok(null_segment(selector, 0));
    }
    let descriptor = core.descriptor(selector, vector::GP)?;
    let rpl = (selector & 3) as u8;
    let privileged = descriptor.is_conforming() || descriptor.dpl() >= core.cpl().max(rpl);
    if !descriptor.is_readable() || !privileged {
        return Err(Fault::gp(selector));
    }
    if !descriptor.present() {
        return Err(not_present(selector));
    }
    Ok(core.mark_accessed(selector, descriptor)?.segment(selector))
}

fn stack_segment(core: &mut Core, selector: u16) -> Result<Segment, Fault> {
    let cpl = core.cpl();
    if is_null(selector) {
        // 64-bit code below CPL 3 may run with a null SS whose RPL is the CPL.
        let allowed = core.bits() == Bits::B64 && cpl < 3 && selector == u16::from(cpl);
        return if allowed { Ok(null_segment(selector, cpl)) } else { Err(Fault::GP0) };
    }
    stack_segment_for(core, selector, cpl, vector::GP)
}

/// Checks and reads a stack segment for use at `cpl`; a bad selector raises `vector`(selector), an absent one #SS.
pub(super) fn stack_segment_for(core: &mut Core, selector: u16, cpl: u8, vector: u8) -> Result<Segment, Fault> {
    let descriptor = core.descriptor(selector, vector)?;
    if selector & 3 != u16::from(cpl) || descriptor.dpl() != cpl || !descriptor.is_writable() {
        return Err(selector_fault(vector, selector));
    }
    if !descriptor.present() {
        return Err(selector_fault(vector::SS, selector));
    }
    Ok(core.mark_accessed(selector, descriptor)?.segment(selector))
}

/// MOV to a segment register.
pub(super) fn mov_to_segment(core: &mut Core, instruction: &Instruction) -> Executed {
    let name = operand::segment_index(instruction.op0_register());
    if name == SegmentRegister::Cs {
        return Err(Fault::UD);
    }
    let selector = operand::load(core, instruction, 1)? as u16;
    load(core, name, selector)?;
    if name == SegmentRegister::Ss {
        core.interrupt_shadow = true;
        core.stack_shadow = true;
    }
    Ok(())
}

/// MOV from a segment register.
pub(super) fn mov_from_segment(core: &mut Core, instruction: &Instruction) -> Executed {
    let name = operand::segment_index(instruction.op1_register());
    let selector = core.segments[name as usize].selector;
    operand::store(core, instruction, 0, u64::from(selector))
}

/// LDS, LES, LFS, LGS, LSS: a far pointer from memory.
pub(super) fn load_far_pointer(core: &mut Core, instruction: &Instruction, name: SegmentRegister) -> Executed {
    let target = instruction.op0_register();
    let size = target.size() as u64;
    let address = operand::memory(core, instruction, size as usize + 2, false)?;
    let mut bytes = [0; 10];
    core.read_bytes(address, &mut bytes[..size as usize + 2])?;
    let mut offset = [0; 8];
    offset[..size as usize].copy_from_slice(&bytes[..size as usize]);
    let selector = u16::from_le_bytes([bytes[size as usize], bytes[size as usize + 1]]);
    load(core, name, selector)?;
    operand::write_register(core, target, u64::from_le_bytes(offset));
    Ok(())
}

/// Instructions about descriptors do not exist in real and virtual-8086 mode.
fn protected_only(core: &Core) -> Executed {
    if core.protected() && !core.vm86() { Ok(()) } else { Err(Fault::UD) }
}

/// CPL 0 is needed; anything else raises #GP(0).
pub(super) fn privileged(core: &Core) -> Executed {
    if core.cpl() == 0 { Ok(()) } else { Err(Fault::GP0) }
}

/// SGDT, SIDT, SLDT, SMSW and STR above CPL 0 with CR4.UMIP raise #GP(0).
pub(super) fn user_mode_prevented(core: &Core) -> Executed {
    if core.cr4 & cr4::UMIP != 0 && core.cpl() > 0 { Err(Fault::GP0) } else { Ok(()) }
}

/// LLDT.
pub(super) fn lldt(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    privileged(core)?;
    let selector = operand::load(core, instruction, 0)? as u16;
    core.ldtr = ldt(core, selector, vector::GP)?;
    Ok(())
}

/// Checks and reads an LDT descriptor; a bad one raises `vector`(selector).
pub(super) fn ldt(core: &mut Core, selector: u16, vector: u8) -> Result<Segment, Fault> {
    if is_null(selector) {
        return Ok(null_segment(selector, 0));
    }
    if selector & 4 != 0 {
        return Err(selector_fault(vector, selector));
    }
    let descriptor = core.descriptor(selector, vector)?;
    if descriptor.is_segment() || descriptor.kind() != kind::LDT {
        return Err(selector_fault(vector, selector));
    }
    if !descriptor.present() {
        let absent = if vector == vector::TS { vector::TS } else { vector::NP };
        return Err(selector_fault(absent, selector));
    }
    system_segment(core, selector, descriptor, vector)
}

/// The hidden part of an LDT or TSS descriptor, which is 16 bytes long in IA-32e mode.
fn system_segment(core: &mut Core, selector: u16, descriptor: Descriptor, vector: u8) -> Result<Segment, Fault> {
    let mut segment = descriptor.segment(selector);
    if core.long_mode() {
        segment.base |= core.descriptor_high(selector, vector)?;
        if !canonical(segment.base) {
            return Err(selector_fault(vector, selector));
        }
    }
    Ok(segment)
}

/// LTR.
pub(super) fn ltr(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    privileged(core)?;
    let selector = operand::load(core, instruction, 0)? as u16;
    if is_null(selector) {
        return Err(Fault::GP0);
    }
    if selector & 4 != 0 {
        return Err(Fault::gp(selector));
    }
    let descriptor = core.descriptor(selector, vector::GP)?;
    let wrong_width = core.long_mode() && descriptor.kind() == kind::TSS16;
    if !descriptor.is_available_tss() || wrong_width {
        return Err(Fault::gp(selector));
    }
    if !descriptor.present() {
        return Err(not_present(selector));
    }
    let mut segment = system_segment(core, selector, descriptor, vector::GP)?;
    let busy = core.change_type(selector, descriptor, descriptor.kind() | 2)?;
    segment.access = busy.access();
    core.tr = segment;
    Ok(())
}

/// SLDT.
pub(super) fn sldt(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    user_mode_prevented(core)?;
    let selector = core.ldtr.selector;
    operand::store(core, instruction, 0, u64::from(selector))
}

/// STR.
pub(super) fn store_task_register(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    user_mode_prevented(core)?;
    let selector = core.tr.selector;
    operand::store(core, instruction, 0, u64::from(selector))
}

/// The descriptor that LAR, LSL, VERR or VERW ask about, when it exists and may be seen.
fn visible(core: &mut Core, selector: u16) -> Result<Option<Descriptor>, Fault> {
    if is_null(selector) {
        return Ok(None);
    }
    let rpl = (selector & 3) as u8;
    let cpl = core.cpl();
    let found = core.find_descriptor(selector)?;
    Ok(found.filter(|descriptor| descriptor.is_conforming() || descriptor.dpl() >= cpl.max(rpl)))
}

fn set_zero_flag(core: &mut Core, set: bool) {
    core.rflags = if set { core.rflags | flag::ZF } else { core.rflags & !flag::ZF };
}

/// LAR.
pub(super) fn lar(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    let selector = operand::load(core, instruction, 1)? as u16;
    let long = core.long_mode();
    let found = visible(core, selector)?.filter(|descriptor| {
        descriptor.is_segment()
            || match descriptor.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL_GATE => true,
                kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !long,
                _ => false,
            }
    });
    set_zero_flag(core, found.is_some());
    if let Some(descriptor) = found {
        operand::write_register(core, instruction.op0_register(), descriptor.0 >> 32 & 0x00FF_FF00);
    }
    Ok(())
}

/// LSL.
pub(super) fn lsl(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    let selector = operand::load(core, instruction, 1)? as u16;
    let long = core.long_mode();
    let found = visible(core, selector)?.filter(|descriptor| {
        descriptor.is_segment()
            || match descriptor.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY => true,
                kind::TSS16 | kind::TSS16_BUSY => !long,
                _ => false,
            }
    });
    set_zero_flag(core, found.is_some());
    if let Some(descriptor) = found {
        operand::write_register(core, instruction.op0_register(), u64::from(descriptor.limit()));
    }
    Ok(())
}

/// VERR.
pub(super) fn verr(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    let selector = operand::load(core, instruction, 0)? as u16;
    let readable = visible(core, selector)?.is_some_and(Descriptor::is_readable);
    set_zero_flag(core, readable);
    Ok(())
}

/// VERW.
pub(super) fn verw(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    let selector = operand::load(core, instruction, 0)? as u16;
    let writable = visible(core, selector)?.is_some_and(Descriptor::is_writable);
    set_zero_flag(core, writable);
    Ok(())
}

/// ARPL.
pub(super) fn arpl(core: &mut Core, instruction: &Instruction) -> Executed {
    protected_only(core)?;
    let source = operand::read_register(core, instruction.op1_register()) as u16;
    let wanted = source & 3;
    if instruction.op0_kind() == OpKind::Register {
        let old = operand::read_register(core, instruction.op0_register());
        let adjust = (old as u16 & 3) < wanted;
        if adjust {
            operand::write_register(core, instruction.op0_register(), old & !3 | u64::from(wanted));
        }
        set_zero_flag(core, adjust);
        return Ok(());
    }
    let address = operand::memory(core, instruction, 2, false)?;
    let old: u16 = core.read(address)?;
    let adjust = old & 3 < wanted;
    if adjust {
        // What need not change may lie where it cannot be written.
        let address = operand::memory(core, instruction, 2, true)?;
        core.write(address, old & !3 | wanted)?;
    }
    set_zero_flag(core, adjust);
    Ok(())
}

impl Core {
    /// Makes data segment registers unusable that the new, less privileged CPL may not see, and takes the RPL from null
    /// selectors. Intel SDM volume 3A, section 5.8.6; volume 2, IRET.
    pub(super) fn drop_privileged_segments(&mut self, cpl: u8) {
        use SegmentRegister::{Ds, Es, Fs, Gs};
        for name in [Es, Ds, Fs, Gs] {
            let segment = &mut self.segments[name as usize];
            let conforming = segment.access & 0xC == 0xC;
            let hidden = segment.access & Segment::P != 0 && segment.dpl() < cpl && !conforming;
            if hidden || segment.selector & !3 == 0 {
                // The base stays: it is where 64-bit code has its thread pointer.
                segment.selector = 0;
                segment.access &= !Segment::P;
            }
        }
    }
}
