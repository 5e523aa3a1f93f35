//! The IDE function of the PIIX3 (Intel 82371SB) with ATA disks and ATAPI CD-ROM drives.
//!
//! Each of the two channels has a thread, `ide0` and `ide1`, on which files are read and written: into the channel's
//! buffer, from which the host gets PIO data, or by DMA straight between the disk and guest memory. Meanwhile the drive
//! is busy and the vCPU goes on.
//!
//! ```text
//!   vCPU ── ports ──▶ Channel ── State: registers, protocols ── Drive: AtaDisk | Cdrom
//!                        │  ▲                   │
//!             take_job   ▼  │ finish_job        └─▶ IrqLine 14 or 15
//!                     thread `ide0`: Job::run ──▶ block::Disk, GuestMemory (through PrdTable)
//! ```

mod bus_master;
mod cdrom;
mod channel;
mod disk;
mod drive;
mod format;
mod function;
mod geometry;
mod identify;
mod modes;
mod prd;
mod protocol;
mod registers;
mod smart;
mod transfer;
mod worker;

pub use function::{Attachment, IDE_FUNCTION, IDE_IRQS, IDE_SLOT, Ide, IdeError};
