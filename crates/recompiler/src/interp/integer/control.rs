//! Near jumps, calls and returns.

use super::flags::{self, mask};
use super::operand::{canonical, load, size, write_register};
use super::stack;
use crate::fault::Fault;
use crate::state::{Bits, Core, Executed, flag};
use hv::SegmentRegister;
use iced_x86::{Code, Instruction, OpKind, Register};

/// Checks a branch target truncated to `size` bytes: canonical, or inside the code segment.
fn checked(core: &Core, target: u64, size: usize) -> Result<u64, Fault> {
    let target = target & mask(size);
    let inside = match core.bits() {
        Bits::B64 => canonical(target),
        _ => target <= u64::from(core.segments[SegmentRegister::Cs as usize].limit),
    };
    if inside { Ok(target) } else { Err(Fault::GP0) }
}

/// Bytes of a near branch's operand size.
fn branch_size(instruction: &Instruction) -> usize {
    match instruction.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        _ => size(instruction, 0),
    }
}

/// Where a direct or indirect near branch leads, checked.
fn destination(core: &mut Core, instruction: &Instruction) -> Result<u64, Fault> {
    let target = match instruction.op0_kind() {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            // Relative to where the code runs, which need not be where it was decoded.
            instruction.near_branch_target().wrapping_sub(instruction.next_ip()).wrapping_add(core.next_rip)
        }
        _ => load(core, instruction, 0)?,
    };
    checked(core, target, branch_size(instruction))
}

pub(super) fn jmp(core: &mut Core, instruction: &Instruction) -> Executed {
    core.next_rip = destination(core, instruction)?;
    Ok(())
}

pub(super) fn jcc(core: &mut Core, instruction: &Instruction) -> Executed {
    if flags::holds(core.rflags, instruction.condition_code()) { jmp(core, instruction) } else { Ok(()) }
}

pub(super) fn call(core: &mut Core, instruction: &Instruction) -> Executed {
    let target = destination(core, instruction)?;
    stack::push(core, core.next_rip, branch_size(instruction))?;
    core.next_rip = target;
    Ok(())
}

pub(super) fn ret(core: &mut Core, instruction: &Instruction) -> Executed {
    let bytes = match instruction.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let target = stack::peek(core, 0, bytes)?;
    core.next_rip = checked(core, target, bytes)?;
    let released = if instruction.op_count() == 1 { u64::from(instruction.immediate16()) } else { 0 };
    stack::adjust(core, bytes as u64 + released);
    Ok(())
}

/// The count register of LOOP and JCXZ: as wide as the address size.
pub(crate) fn counter(instruction: &Instruction) -> Register {
    match instruction.code() {
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX
        | Code::Jcxz_rel8_16
        | Code::Jcxz_rel8_32 => Register::CX,
        Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX
        | Code::Jrcxz_rel8_16
        | Code::Jrcxz_rel8_64 => Register::RCX,
        _ => Register::ECX,
    }
}

fn count_down(core: &mut Core, instruction: &Instruction, condition: bool) -> Executed {
    let register = counter(instruction);
    let left = super::operand::read_register(core, register).wrapping_sub(1) & mask(register.size());
    if left != 0 && condition {
        core.next_rip = destination(core, instruction)?;
    }
    write_register(core, register, left);
    Ok(())
}

pub(super) fn loop_always(core: &mut Core, instruction: &Instruction) -> Executed {
    count_down(core, instruction, true)
}

pub(super) fn loope(core: &mut Core, instruction: &Instruction) -> Executed {
    count_down(core, instruction, core.rflags & flag::ZF != 0)
}

pub(super) fn loopne(core: &mut Core, instruction: &Instruction) -> Executed {
    count_down(core, instruction, core.rflags & flag::ZF == 0)
}

/// JCXZ, JECXZ, JRCXZ.
pub(super) fn jcxz(core: &mut Core, instruction: &Instruction) -> Executed {
    if super::operand::read_register(core, counter(instruction)) == 0 { jmp(core, instruction) } else { Ok(()) }
}
