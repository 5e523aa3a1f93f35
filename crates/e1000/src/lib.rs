//! The Intel 82540EM network card, which systems of the last twenty years have a driver for.
//!
//! Its specification is Intel's *PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual*
//! (317453), "the manual" in what follows.
//!
//! ```text
//!   vCPU ── BAR access ──▶ E1000 ──▶ Registers (under a lock; causes raise and release INTA)
//!     └──── TDT, RDT ────▶ doorbell ─▶ thread `net0`: loop { Transmitter; Receiver; poll } ◀── frames ── net::Backend
//! ```
//!
//! The thread runs while the receiver or the transmitter is enabled and the card is a bus master. It takes the
//! registers' lock for a moment for each descriptor, and never while it copies or sends. Whoever disables, resets or
//! pauses the card waits until the thread is done with the frame it has, so that no memory changes afterwards.

mod checksum;
mod eeprom;
mod filter;
mod held;
mod mac;
mod offload;
mod pci;
mod phy;
mod receive;
pub mod register;
mod ring;
mod statistics;
mod transmit;
mod worker;

pub use pci::{E1000, E1000Options};
