//! Data movement without arithmetic.

use super::flags;
use super::operand::{effective_offset, load, memory, read_linear, read_register, size, store, write_register};
use crate::interp::barrier;
use crate::mmu::Kind;
use crate::state::{Core, Executed, flag};
use iced_x86::{Instruction, Mnemonic, Register};

pub(super) fn mov(core: &mut Core, instruction: &Instruction) -> Executed {
    let value = load(core, instruction, 1)?;
    store(core, instruction, 0, value)
}

/// MOVSX and MOVSXD.
pub(super) fn movsx(core: &mut Core, instruction: &Instruction) -> Executed {
    let value = load(core, instruction, 1)?;
    store(core, instruction, 0, flags::sign_extend(value, size(instruction, 1)))
}

pub(super) fn cmov(core: &mut Core, instruction: &Instruction) -> Executed {
    // The source is read, and a 32-bit destination's upper half cleared, whatever the condition.
    let source = load(core, instruction, 1)?;
    let kept = read_register(core, instruction.op0_register());
    let taken = flags::holds(core.rflags, instruction.condition_code());
    write_register(core, instruction.op0_register(), if taken { source } else { kept });
    Ok(())
}

pub(super) fn setcc(core: &mut Core, instruction: &Instruction) -> Executed {
    let value = flags::holds(core.rflags, instruction.condition_code());
    store(core, instruction, 0, u64::from(value))
}

pub(super) fn lea(core: &mut Core, instruction: &Instruction) -> Executed {
    let offset = effective_offset(core, instruction);
    write_register(core, instruction.op0_register(), offset);
    Ok(())
}

/// CBW, CWDE, CDQE: the accumulator's lower half into the whole.
pub(super) fn extend_accumulator(core: &mut Core, instruction: &Instruction) -> Executed {
    let (from, to) = match instruction.mnemonic() {
        Mnemonic::Cbw => (1, Register::AX),
        Mnemonic::Cwde => (2, Register::EAX),
        _ => (4, Register::RAX),
    };
    write_register(core, to, flags::sign_extend(core.gpr[0], from));
    Ok(())
}

/// CWD, CDQ, CQO: the accumulator's sign into the D register.
pub(super) fn sign_accumulator(core: &mut Core, instruction: &Instruction) -> Executed {
    let (from, to) = match instruction.mnemonic() {
        Mnemonic::Cwd => (2, Register::DX),
        Mnemonic::Cdq => (4, Register::EDX),
        _ => (8, Register::RDX),
    };
    let sign = if core.gpr[0] & flags::sign(from) != 0 { u64::MAX } else { 0 };
    write_register(core, to, sign);
    Ok(())
}

pub(super) fn xlat(core: &mut Core, instruction: &Instruction) -> Executed {
    let linear = memory(core, instruction, 1, false)?;
    let value = read_linear(core, linear, 1)?;
    write_register(core, Register::AL, value);
    Ok(())
}

const LAHF: u64 = flag::SF | flag::ZF | flag::AF | flag::PF | flag::CF;

pub(super) fn lahf(core: &mut Core, _: &Instruction) -> Executed {
    let value = core.rflags & LAHF | flag::FIXED;
    write_register(core, Register::AH, value);
    Ok(())
}

pub(super) fn sahf(core: &mut Core, _: &Instruction) -> Executed {
    let value = read_register(core, Register::AH);
    flags::set(core, LAHF, value);
    Ok(())
}

/// SALC: AL becomes the carry's copies.
pub(super) fn salc(core: &mut Core, _: &Instruction) -> Executed {
    let value = if core.rflags & flag::CF != 0 { 0xFF } else { 0 };
    write_register(core, Register::AL, value);
    Ok(())
}

pub(super) fn clc(core: &mut Core, _: &Instruction) -> Executed {
    core.rflags &= !flag::CF;
    Ok(())
}

pub(super) fn stc(core: &mut Core, _: &Instruction) -> Executed {
    core.rflags |= flag::CF;
    Ok(())
}

pub(super) fn cmc(core: &mut Core, _: &Instruction) -> Executed {
    core.rflags ^= flag::CF;
    Ok(())
}

pub(super) fn cld(core: &mut Core, _: &Instruction) -> Executed {
    core.rflags &= !flag::DF;
    Ok(())
}

pub(super) fn std(core: &mut Core, _: &Instruction) -> Executed {
    core.rflags |= flag::DF;
    Ok(())
}

/// NOP, prefetches and hints: nothing happens, no memory is touched.
pub(super) fn nop(_: &mut Core, _: &Instruction) -> Executed {
    Ok(())
}

pub(super) fn pause(_: &mut Core, _: &Instruction) -> Executed {
    std::hint::spin_loop();
    Ok(())
}

/// LFENCE, SFENCE, MFENCE, SERIALIZE: the strongest serves all.
pub(super) fn memory_fence(_: &mut Core, _: &Instruction) -> Executed {
    barrier();
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT, CLWB: guest RAM is coherent, but the address is checked as for a byte's load.
pub(super) fn flush_line(core: &mut Core, instruction: &Instruction) -> Executed {
    let linear = memory(core, instruction, 1, false)?;
    core.probe(linear, 1, Kind::Read)
}
