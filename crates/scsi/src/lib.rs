//! SCSI logical units: what commands mean, without what carries them.
//!
//! A [`LogicalUnit`] looks at a command descriptor block and says what is to be done for it: nothing more, an answer, or
//! moving blocks between the medium and the initiator. That [`Work`] is done by whoever knows where the initiator's
//! data are: virtio-scsi, or ATAPI for CD-ROM drives.
//!
//! ```text
//!   Cdb ──▶ LogicalUnit::command ──▶ Work::Done | Answer | Parameters | Read | Write …   or the Sense of a failure
//!                  ▲                              │
//!                  └── LogicalUnit::take ◀────────┘ a parameter list, where one is wanted
//! ```

mod cdb;
mod cdrom;
mod direct_access;
mod inquiry;
mod mode;
mod sense;
mod target;
mod unit;

pub use cdb::Cdb;
pub use cdrom::{CD_BLOCK, CdParts, Cdrom};
pub use direct_access::{BLOCK_SIZE, DirectAccess};
pub use inquiry::{Identity, Interface};
pub use sense::Sense;
pub use target::absent;
pub use unit::{DeviceType, LogicalUnit, MAX_PARAMETERS, Span, Work, read_parts};

/// Status codes. SAM-5, section 5.3.1.
pub mod status {
    /// The command is done.
    pub const GOOD: u8 = 0x00;
    /// It has failed; there is sense data.
    pub const CHECK_CONDITION: u8 = 0x02;
}
