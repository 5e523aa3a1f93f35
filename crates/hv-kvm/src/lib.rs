//! The `/dev/kvm` accelerator.
mod cpuid;
mod ioctls;
mod kick;
mod msrs;
mod probe;
mod state;
mod validity;
mod vcpu;
mod vm;
mod watchdog;

pub use probe::{Figures, Probe, Reason, Verdict, probe};
pub use vm::KvmVm;
