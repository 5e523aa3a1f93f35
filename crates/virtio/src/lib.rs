//! virtio 1.2 devices behind a PCI transport, with the legacy interface of their predecessors beside it.
//!
//! A [`VirtioDevice`] knows its features, its device configuration and what requests mean. [`VirtioPci`] is everything
//! that all of them share: registers, negotiation, interrupts, and the one I/O thread on which the device serves its
//! [`Queue`]s. A vCPU that notifies a queue only signals that thread.
//!
//! ```text
//!   vCPU ── BAR write ──▶ VirtioPci ── Worker::start/stop ──▶ thread `disk0`: loop { device.process(&mut queues); poll }
//!     └──── notify ─────▶ Link::wake (eventfd, or the kernel's ioeventfd) ──▲              │
//!   interrupt controllers ◀──────── Msix or INTx ◀──────── Link::interrupt ◀───────────────┘
//! ```

mod balloon;
mod blk;
mod chain;
mod console;
mod device;
mod legacy;
mod link;
mod net;
mod pci;
mod queue;
mod rng;
mod scsi;
mod transport;
mod worker;

pub use balloon::{Balloon, BalloonOptions};
pub use blk::{Blk, BlkOptions};
pub use chain::Chain;
pub use console::{Console, Port};
pub use device::{DeviceType, VirtioDevice};
pub use link::Link;
pub use net::{Net, NetOptions};
pub use pci::{Interfaces, PciOptions, VirtioPci, layout};
pub use queue::{Queue, QueueError, QueueLayout};
pub use rng::Rng;
pub use scsi::{Scsi, ScsiOptions, Target};

/// Feature bits that concern every device. virtio 1.2, chapter 6.
pub mod feature {
    /// Legacy drivers may cut the parts of a request into buffers as they like.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Chains may be described by a table outside the queue.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are asked for by index.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// The driver follows virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Device status bits. virtio 1.2, section 2.1.
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on: the driver broke the rules.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}
