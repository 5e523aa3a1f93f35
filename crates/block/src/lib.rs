//! What stands behind a disk, whatever controller shows it to the guest.
//!
//! A [`Disk`] is an array of bytes that is read, written, flushed and discarded: a [`RawFile`], or an image of another
//! format. A [`PatientDisk`] has requests that the host cannot do wait until it can. A [`Medium`]
//! is a drive's slot, whose disk the host can exchange while the guest runs.

mod disk;
mod error;
mod medium;
mod patient;
mod raw_file;

pub use disk::Disk;
pub use error::BlockError;
pub use medium::{Medium, MediumWatcher};
pub use patient::{Patience, PatientDisk};
pub use raw_file::RawFile;
