//! The recompiler: an accelerator that runs x86 guests as an unprivileged process, without KVM.

mod blocks;
mod convert;
mod counters;
pub mod cpuid;
pub mod fault;
#[cfg(test)]
mod hostile;
mod instruments;
pub mod interp;
pub mod mmu;
pub mod mode;
pub mod msr;
#[cfg(test)]
mod native;
mod ports;
pub mod smp;
pub mod state;
mod sync;
#[cfg(test)]
mod testing;
pub mod tlb;
mod translate;
mod vcpu;
mod vm;

pub use instruments::Instruments;
pub use vcpu::RecompilerVcpu;
pub use vm::RecompilerVm;
