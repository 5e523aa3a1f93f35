//! The AHCI host bus adapter of the ICH9 (Intel 82801IR) with ATA disks and ATAPI CD-ROM drives. Serial ATA AHCI 1.3.1.
//!
//! Each port with a drive has a thread, which takes commands out of guest memory, reads and writes files, and tells the
//! guest that they are done. Disks take up to 32 queued commands, which it carries out one after the other.
//!
//! ```text
//!   vCPU ── BAR 5 ──▶ Ahci ── Port ── State: registers, command list ── Drive: AtaDisk | Cdrom
//!                      │        │  ▲                    │
//!                      ▼        │  │                    └─▶ Causes ─▶ MSI or INTA#
//!                   Causes      │  │ finish_job
//!                     take_job  ▼  │
//!                    thread `ahci0.0`: Job::run ──▶ block::Disk, GuestMemory (through PrdTable)
//! ```

mod causes;
mod command;
mod fis;
mod function;
mod port;
mod register;
mod registers;
mod state;

pub use function::{AHCI_PORTS, Ahci, AhciError};
