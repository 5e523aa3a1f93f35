//! Logs that READ LOG EXT gives. ATA8-ACS, annex A; Serial ATA 2.6, section 13.7.

use crate::registers::{TaskFile, status};
use crate::transfer::SECTOR;
use board::{StateReader, StateWriter};

/// Log addresses: which logs there are, and why queued commands were given up.
pub(crate) const DIRECTORY: u8 = 0x00;
pub(crate) const QUEUE_ERROR: u8 = 0x10;

const SIZE: usize = SECTOR as usize;
/// The directory's version.
const VERSION: u16 = 1;
/// In the first byte of the queue's error log: no queued command has failed.
const NOT_QUEUED: u8 = 1 << 7;

/// Which queued command failed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueError {
    /// 0..=31.
    pub tag: u8,
    /// The error register.
    pub error: u8,
    /// The registers, with the address where it failed.
    pub file: TaskFile,
    /// The device register.
    pub device: u8,
}

impl QueueError {
    pub fn save(error: Option<Self>, writer: &mut StateWriter) {
        writer.u8(error.is_some().into());
        if let Some(QueueError { tag, error, file, device }) = error {
            writer.u8(tag);
            writer.u8(error);
            file.save(writer);
            writer.u8(device);
        }
    }

    pub fn load(reader: &mut StateReader) -> Result<Option<Self>, String> {
        if !reader.bool()? {
            return Ok(None);
        }
        let (tag, error) = (reader.u8()?, reader.u8()?);
        let (file, device) = (TaskFile::load(reader)?, reader.u8()?);
        match tag {
            0..32 => Ok(Some(QueueError { tag, error, file, device })),
            _ => Err(reader.invalid("a tag that there is not")),
        }
    }
}

/// The pages of each log.
pub(crate) fn directory() -> [u8; SIZE] {
    let mut page = [0; SIZE];
    page[..2].copy_from_slice(&VERSION.to_le_bytes());
    page[2 * usize::from(QUEUE_ERROR)] = 1;
    page
}

/// The one page of the queue's error log.
pub(crate) fn queue_error(error: Option<QueueError>) -> [u8; SIZE] {
    let mut page = [0; SIZE];
    match error {
        Some(QueueError { tag, error, file, device }) => {
            let [lba0, lba1, lba2, lba3, lba4, lba5, ..] = file.lba48().to_le_bytes();
            let [count0, count1] = file.count.to_le_bytes();
            page[..6].copy_from_slice(&[tag, 0, status::READY | status::ERR, error, lba0, lba1]);
            page[6..14].copy_from_slice(&[lba2, device, lba3, lba4, lba5, 0, count0, count1]);
        }
        None => page[0] = NOT_QUEUED,
    }
    page[SIZE - 1] = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    page
}
