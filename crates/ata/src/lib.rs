//! ATA disks and ATAPI CD-ROM drives, and what they are attached to: the IDE function of the PIIX3 (Intel 82371SB) and an
//! AHCI host bus adapter ([`Ahci`]). Drives carry out commands ([`Attachment`]); both front ends bring them the commands, and
//! have a thread do the work on the files.
//!
//! Of the IDE function, each of the two channels has a thread, `ide0` and `ide1`, on which files are read and written:
//! into the channel's buffer, from which the host gets PIO data, or by DMA straight between the disk and guest memory.
//! Meanwhile the drive is busy and the vCPU goes on.
//!
//! ```text
//!   vCPU ── ports ──▶ Channel ── State: registers, protocols ── Drive: AtaDisk | Cdrom
//!                        │  ▲                   │
//!             take_job   ▼  │ finish_job        └─▶ IrqLine 14 or 15
//!                     thread `ide0`: Job::run ──▶ block::Disk, GuestMemory (through PrdTable)
//! ```

mod ahci;
mod bus_master;
mod cdrom;
mod channel;
mod disk;
mod drive;
mod format;
mod function;
mod geometry;
mod identify;
mod log;
mod modes;
mod prd;
mod protocol;
mod registers;
mod smart;
mod transfer;
mod worker;

pub use ahci::{AHCI_PORTS, Ahci, AhciError};
pub use drive::Attachment;
pub use function::{IDE_FUNCTION, IDE_IRQS, IDE_SLOT, Ide, IdeError};
