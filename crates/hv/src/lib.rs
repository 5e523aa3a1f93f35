//! The contract between Wirt's machine and what executes guest code.
//!
//! An accelerator ([`Vm`], [`Vcpu`]) runs x86 guest code out of one [`GuestMemory`]. Every access that RAM does not
//! answer goes to the machine's [`Bus`]; interrupts arrive through a [`LocalApic`] (user-space controllers) or are
//! kept by the accelerator itself ([`Vm::interrupts`], KVM's in-kernel controllers). [`CpuState`] is the one
//! neutral form of a processor's state: each accelerator reads and writes it, so that what one saved another resumes.
//!
//! ```text
//!   machine thread `vcpuN`:   loop { match vcpu.run()? { Exit::Kicked => …, Exit::Shutdown => …, … } }
//!                                        │ pio/mmio                 ▲ kick()
//!                                        ▼                          │
//!                                   dyn Bus (board)            dyn Kick (any thread)
//! ```

mod bus;
mod cpu_model;
mod error;
mod floats;
mod interrupts;
mod layout;
mod memory;
mod state;
mod tsc;
mod vm;

pub use bus::{Bus, Port};
pub use cpu_model::{CpuModel, Features};
pub use error::Error;
pub use floats::with_own_floats;
pub use interrupts::{Interrupts, LocalApic, Msi, Pending};
pub use layout::{Layout, Region};
pub use memory::{GuestMemory, MemoryError, MemoryWatcher, PAGE_SIZE, PageFlags};
pub use state::{CpuEvents, CpuState, DescriptorTable, Fpu, Gpr, MpState, Segment, SegmentRegister, XSAVE_AREA_SIZE};
pub use tsc::Tsc;
pub use vm::{Exit, InternalError, IoAddress, Kick, Vcpu, Vm};

/// Bits of a guest physical address: what page tables and the APIC's base may use, and what CPUID leaf 0x8000_0008
/// says. 40 is what QEMU's PC has, and OVMF takes more at its word: it maps all of it, in pages of 2 MiB.
pub const PHYSICAL_BITS: u32 = 40;
