//! One instruction at a time, with everything around it looked at: behind STI and MOV SS, and while debugging.

use crate::blocks;
use crate::msr::DEBUGCTL_BTF;
use crate::state::{Core, Executed, flag};
use iced_x86::{FlowControl, Instruction, Mnemonic};

/// Fetches and executes the instruction at RIP with its breakpoints and single step. Intel SDM volume 3B, section 17.3.
///
/// # Errors
/// What the instruction raises; a #DB before it (a fault) or behind it (a trap).
pub fn single(core: &mut Core) -> Executed {
    let stepping = core.rflags & flag::TF != 0;
    core.interrupt_shadow = false;
    let behind_stack_load = std::mem::take(&mut core.stack_shadow);
    if !behind_stack_load {
        core.breakpoints_met = 0;
        core.instruction_breakpoint()?;
    }
    let decoded = blocks::fetch_one(core)?;
    let follows = core.rip.wrapping_add(decoded.instruction.len() as u64);
    core.rflags &= !flag::RF;
    if decoded.instruction.mnemonic() == Mnemonic::Int1 {
        // INT1 is a #DB itself, and what MOV SS met is reported with it.
        let met = std::mem::take(&mut core.breakpoints_met);
        core.report_debug(met.into());
    }
    if let Err(fault) = super::step(core, &decoded.instruction, decoded.handler) {
        core.breakpoints_met = 0;
        return Err(fault);
    }
    if core.stack_shadow {
        if !behind_stack_load {
            return Ok(());
        }
        // Of several in a row only the first holds anything off, or a program could do so for ever.
        core.stack_shadow = false;
        core.interrupt_shadow = false;
    }
    let met = std::mem::take(&mut core.breakpoints_met);
    let step = stepping
        && (core.rflags & flag::TF != 0 || !clears_step(&decoded.instruction))
        && (core.msr.debugctl & DEBUGCTL_BTF == 0 || branched(&decoded.instruction, core.rip != follows));
    if met != 0 || step { Err(core.debug_trap(met, step)) } else { Ok(()) }
}

/// Whether an instruction that clears RFLAGS.TF does so before a single step would be reported: those that enter a
/// handler, and SYSCALL by its mask.
fn clears_step(instruction: &Instruction) -> bool {
    use Mnemonic::{Int, Int1, Int3, Into, Syscall};
    matches!(instruction.mnemonic(), Int | Int1 | Int3 | Into | Syscall)
}

/// Whether an instruction was a branch that was taken, for the single step on branches. Section 17.4.3.
fn branched(instruction: &Instruction, elsewhere: bool) -> bool {
    match instruction.flow_control() {
        FlowControl::Next => false,
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => elsewhere,
        _ => true,
    }
}
