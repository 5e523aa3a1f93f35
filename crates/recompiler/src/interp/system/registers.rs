//! RDMSR, WRMSR, CPUID, the time-stamp counter and its relatives. Intel SDM volume 2.

use super::segment::privileged;
use crate::fault::Fault;
use crate::interp::barrier;
use crate::interp::integer::operand;
use crate::state::{Core, Executed, cr4};
use hv::Gpr;
use iced_x86::Instruction;

/// Puts a 64-bit value into EDX:EAX.
fn set_pair(core: &mut Core, value: u64) {
    core.gpr[Gpr::Rax as usize] = value & 0xFFFF_FFFF;
    core.gpr[Gpr::Rdx as usize] = value >> 32;
}

/// RDMSR.
pub(super) fn rdmsr(core: &mut Core, _: &Instruction) -> Executed {
    privileged(core)?;
    let value = core.read_msr(core.gpr[Gpr::Rcx as usize] as u32).ok_or(Fault::GP0)?;
    set_pair(core, value);
    Ok(())
}

/// WRMSR.
pub(super) fn wrmsr(core: &mut Core, _: &Instruction) -> Executed {
    privileged(core)?;
    let value = core.gpr[Gpr::Rdx as usize] << 32 | core.gpr[Gpr::Rax as usize] & 0xFFFF_FFFF;
    let index = core.gpr[Gpr::Rcx as usize] as u32;
    if core.write_msr(index, value) { Ok(()) } else { Err(Fault::GP0) }
}

/// CPUID.
pub(super) fn cpuid(core: &mut Core, _: &Instruction) -> Executed {
    barrier();
    let leaf = core.gpr[Gpr::Rax as usize] as u32;
    let subleaf = core.gpr[Gpr::Rcx as usize] as u32;
    let [eax, ebx, ecx, edx] = core.cpuid(leaf, subleaf);
    core.gpr[Gpr::Rax as usize] = u64::from(eax);
    core.gpr[Gpr::Rbx as usize] = u64::from(ebx);
    core.gpr[Gpr::Rcx as usize] = u64::from(ecx);
    core.gpr[Gpr::Rdx as usize] = u64::from(edx);
    Ok(())
}

/// CR4.TSD keeps the time-stamp counter for CPL 0.
fn check_tsc(core: &Core) -> Executed {
    if core.cr4 & cr4::TSD != 0 && core.cpl() != 0 { Err(Fault::GP0) } else { Ok(()) }
}

/// RDTSC.
pub(super) fn rdtsc(core: &mut Core, _: &Instruction) -> Executed {
    check_tsc(core)?;
    let now = core.tsc.now();
    set_pair(core, now);
    Ok(())
}

/// RDTSCP.
pub(super) fn rdtscp(core: &mut Core, _: &Instruction) -> Executed {
    check_tsc(core)?;
    let now = core.tsc.now();
    set_pair(core, now);
    core.gpr[Gpr::Rcx as usize] = core.msr.tsc_aux;
    Ok(())
}

/// RDPID.
pub(super) fn rdpid(core: &mut Core, instruction: &Instruction) -> Executed {
    let value = core.msr.tsc_aux;
    operand::write_register(core, instruction.op0_register(), value);
    Ok(())
}

/// RDPMC: the processor has no performance counters, so that every index is wrong.
pub(super) fn rdpmc(_: &mut Core, _: &Instruction) -> Executed {
    Err(Fault::GP0)
}

/// XGETBV.
pub(super) fn xgetbv(core: &mut Core, _: &Instruction) -> Executed {
    if core.cr4 & cr4::OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    if core.gpr[Gpr::Rcx as usize] as u32 != 0 {
        return Err(Fault::GP0);
    }
    let value = core.xcr0;
    set_pair(core, value);
    Ok(())
}
