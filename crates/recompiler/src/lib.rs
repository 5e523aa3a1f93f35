//! The recompiler: an accelerator that runs x86 guests as an unprivileged process, without KVM.

mod blocks;
mod convert;
mod counters;
pub mod cpuid;
pub mod fault;
#[cfg(test)]
mod hostile;
pub mod interp;
pub mod mmu;
pub mod mode;
pub mod msr;
pub mod state;
#[cfg(test)]
mod testing;
pub mod tlb;
mod translate;
mod units;
mod vcpu;
mod vm;

pub use vcpu::RecompilerVcpu;
pub use vm::{RecompilerVm, Shared};
