//! The `/dev/kvm` accelerator: [`KvmVm`] is an [`hv::Vm`] whose guest code runs in the host's kernel.
//!
//! ```text
//!   probe()      is KVM here, and does it run guests on the processor or emulate them?      probe.rs
//!     │
//!   KvmVm        memory slots · PIC, IOAPIC, PIT and interrupt routes · irqfd, ioeventfd     vm.rs
//!     │  create_vcpu: CPUID with the vCPU's own identity                                     cpuid.rs
//!     ▼
//!   KvmVcpu      run: the loop round KVM_RUN                                                 vcpu.rs
//!     ├── VcpuKick   how other threads end it                                                kick.rs
//!     ├── Watchdog   on an emulating KVM: finds instructions that never end                  watchdog.rs
//!     └── state      everything out and in: checks, registers, model-specific registers      validity.rs, state.rs, msrs.rs
//! ```
//!
//! **What stays in the kernel.** Local APICs, IOAPIC, PICs and PIT (ports 0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1,
//! 0x40..=0x43, 0x61) never reach the [`hv::Bus`], nor does HLT return: a halted vCPU sleeps inside `run` until an
//! interrupt or a kick. Everything else that RAM does not answer does, as do writes to read-only regions.
//!
//! **Interrupts.** GSI 0 (the PIT) is pin 0 of the PIC and pin 2 of the IOAPIC; 1 and 3..=15 are the same pin of both;
//! 16..=23 are the IOAPIC's alone; the MADT has to carry the override of interrupt 0. Messages go by
//! [`hv::Interrupts::signal_msi`] or by an eventfd, which gets a GSI from 24 on and a route of its own.
//!
//! **Processors.** vCPU 0 is the boot processor, the others sleep inside `run` until INIT and a start-up IPI. To reset
//! a machine, load into each vCPU the state it had when it was made and call [`hv::Vm::reset_interrupts`].
//!
//! **When KVM gives up**, `run` returns [`hv::Exit::InternalError`] with a sentence, the bytes of the instruction and
//! the registers: instructions an emulating KVM cannot do (it does no x87, SSE or 32-bit paging), states the processor
//! refuses, memory the host has not got. An emulating KVM also begins some instructions again for ever; the watchdog
//! finds these within some tenths of a second of processor time and reports them the same way.
//!
//! **Limits.** No nested virtualization, performance counters, AMX or SGX in guests, no system management mode. A state
//! holds one vCPU: the kernel's PIC, IOAPIC, PIT and paravirtual clock are not part of it.

mod cpuid;
mod ioctls;
mod kick;
mod msrs;
mod probe;
mod slots;
mod state;
mod validity;
mod vcpu;
mod vm;
mod watchdog;

pub use probe::{Figures, Probe, Reason, Verdict, probe};
pub use vm::KvmVm;
