//! SYSCALL, SYSRET, SYSENTER and SYSEXIT as Intel's processors do them. Intel SDM volume 2B.

use super::descriptor::is_null;
use super::segment::privileged;
use crate::fault::Fault;
use crate::interp::integer::operand::canonical;
use crate::state::{Bits, Core, Executed, efer, flag};
use hv::{Gpr, Segment, SegmentRegister};
use iced_x86::{Code, Instruction};

/// Access rights of the flat segments that these instructions load without looking at descriptors.
pub(crate) const CODE64: u16 = 0xA09B;
const CODE32: u16 = 0xC09B;
pub(crate) const DATA: u16 = 0xC093;

/// The flags that SYSRET takes from R11.
pub(crate) const RETURNED_FLAGS: u64 = 0x3C_7FD7;

impl Core {
    /// Loads flat CS and SS for a privilege level; both selectors get it as their RPL.
    fn load_flat(&mut self, code: u16, code_access: u16, stack: u16, cpl: u8) {
        let flat = |selector: u16, access: u16| Segment {
            base: 0,
            limit: u32::MAX,
            selector: selector & !3 | u16::from(cpl),
            access: access | u16::from(cpl) << 5,
        };
        self.segments[SegmentRegister::Cs as usize] = flat(code, code_access);
        self.segments[SegmentRegister::Ss as usize] = flat(stack, DATA);
    }
}

/// SYSCALL: 64-bit mode only.
pub(super) fn syscall(core: &mut Core, _: &Instruction) -> Executed {
    if core.bits() != Bits::B64 || core.efer & efer::SCE == 0 {
        return Err(Fault::UD);
    }
    core.gpr[Gpr::Rcx as usize] = core.next_rip;
    core.gpr[Gpr::R11 as usize] = core.rflags & !flag::RF;
    core.rflags = core.rflags & !core.msr.fmask & !flag::RF | flag::FIXED;
    let selector = (core.msr.star >> 32) as u16;
    core.load_flat(selector, CODE64, selector.wrapping_add(8), 0);
    core.next_rip = core.msr.lstar;
    Ok(())
}

/// SYSRET, to 64-bit or compatibility mode.
pub(super) fn sysret(core: &mut Core, instruction: &Instruction) -> Executed {
    if core.bits() != Bits::B64 || core.efer & efer::SCE == 0 {
        return Err(Fault::UD);
    }
    privileged(core)?;
    let target = core.gpr[Gpr::Rcx as usize];
    let selector = (core.msr.star >> 48) as u16;
    if instruction.code() == Code::Sysretq {
        if !canonical(target) {
            return Err(Fault::GP0);
        }
        core.load_flat(selector.wrapping_add(16), CODE64, selector.wrapping_add(8), 3);
        core.next_rip = target;
    } else {
        core.load_flat(selector, CODE32, selector.wrapping_add(8), 3);
        core.next_rip = target & 0xFFFF_FFFF;
    }
    core.rflags = core.gpr[Gpr::R11 as usize] & RETURNED_FLAGS | flag::FIXED;
    if core.rflags & flag::TF != 0 {
        // Unlike IRET's, a TF of SYSRET counts for SYSRET itself.
        core.rip = core.next_rip;
        return Err(core.debug_trap(0, true));
    }
    Ok(())
}

/// SYSENTER.
pub(super) fn sysenter(core: &mut Core, _: &Instruction) -> Executed {
    let selector = core.msr.sysenter_cs as u16;
    if !core.protected() || is_null(selector) {
        return Err(Fault::GP0);
    }
    core.rflags &= !(flag::VM | flag::IF | flag::RF);
    let long = core.long_mode();
    let width = if long { u64::MAX } else { 0xFFFF_FFFF };
    core.load_flat(selector, if long { CODE64 } else { CODE32 }, selector.wrapping_add(8), 0);
    core.gpr[Gpr::Rsp as usize] = core.msr.sysenter_esp & width;
    core.next_rip = core.msr.sysenter_eip & width;
    Ok(())
}

/// SYSEXIT, to 32-bit or (with REX.W) 64-bit code.
pub(super) fn sysexit(core: &mut Core, instruction: &Instruction) -> Executed {
    let selector = core.msr.sysenter_cs as u16;
    if !core.protected() || is_null(selector) {
        return Err(Fault::GP0);
    }
    privileged(core)?;
    let (target, pointer) = (core.gpr[Gpr::Rdx as usize], core.gpr[Gpr::Rcx as usize]);
    if instruction.code() == Code::Sysexitq {
        if !canonical(target) || !canonical(pointer) {
            return Err(Fault::GP0);
        }
        core.load_flat(selector.wrapping_add(32), CODE64, selector.wrapping_add(40), 3);
        core.gpr[Gpr::Rsp as usize] = pointer;
        core.next_rip = target;
    } else {
        core.load_flat(selector.wrapping_add(16), CODE32, selector.wrapping_add(24), 3);
        core.gpr[Gpr::Rsp as usize] = pointer & 0xFFFF_FFFF;
        core.next_rip = target & 0xFFFF_FFFF;
    }
    Ok(())
}
