//! The interpreter: one handler an instruction, over the same state that translated code works on.
//!
//! It runs rare and privileged instructions and code seen only once or twice, and it is the oracle that the translator is
//! tested against.

pub(crate) mod integer;
mod simd;
mod single;
pub(crate) mod system;

pub use simd::{Stubs, x87_pointer};
pub use single::single;
pub use system::Delivered;

use crate::fault::Fault;
use crate::state::{Bits, Core, Executed};
use iced_x86::{Instruction, Mnemonic};
use std::sync::atomic::{Ordering, fence};

/// Executes one decoded instruction. `core.rip` is its address and `core.next_rip` already the one behind it; a handler that
/// branches writes `next_rip`. On `Err` the architectural state is as before the instruction.
pub type Handler = fn(&mut Core, &Instruction) -> Executed;

/// The handler of a decoded instruction; an invalid or unsupported one gets #UD.
pub fn handler(instruction: &Instruction) -> Handler {
    integer::handler(instruction)
        .or_else(|| system::handler(instruction))
        .or_else(|| simd::handler(instruction))
        .unwrap_or(undefined)
}

/// Whether interpreting an instruction looks at vector or x87 registers.
pub fn uses_units(instruction: &Instruction) -> bool {
    integer::handler(instruction).is_none()
        && system::handler(instruction).is_none()
        && simd::handler(instruction).is_some()
}

/// Whether an instruction leaves the mode and the processor's readiness for interrupts as they are. It may change pages, and
/// call devices, which ask for attention themselves.
pub fn steady(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        instruction.mnemonic(),
        In | Out
            | Cpuid
            | Rdmsr
            | Rdtsc
            | Rdtscp
            | Invlpg
            | Xgetbv
            | Sgdt
            | Sidt
            | Sldt
            | Str
            | Smsw
            | Lar
            | Lsl
            | Verr
            | Verw
    )
}

/// What is behind waits for all in front: loads and stores for the fence, RDTSC for an LFENCE behind it.
pub(crate) fn barrier() {
    fence(Ordering::SeqCst);
    // SAFETY: every x86-64 processor has SSE2.
    unsafe { std::arch::x86_64::_mm_lfence() };
}

fn undefined(_: &mut Core, _: &Instruction) -> Executed {
    Err(Fault::UD)
}

/// Executes one instruction through its handler and commits RIP.
#[inline]
pub fn step(core: &mut Core, instruction: &Instruction, handler: Handler) -> Executed {
    let next = core.rip.wrapping_add(instruction.len() as u64);
    core.next_rip = match core.bits() {
        Bits::B64 => next,
        Bits::B32 => next & 0xFFFF_FFFF,
        // A 16-bit segment may be longer than 64 KiB only by the limit, which fetching has checked.
        Bits::B16 => next & 0xFFFF,
    };
    handler(core, instruction)?;
    core.rip = core.next_rip;
    Ok(())
}
