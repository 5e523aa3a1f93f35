//! A drive on a channel or port, whatever its kind.

use crate::cdrom::Cdrom;
use crate::disk::AtaDisk;
use crate::format::Format;
use crate::identify::SERIAL_SIZE;
use crate::registers::{Signature, TaskFile, error, status};
use crate::transfer::{Buffer, Transfer, Work};
use block::{BlockError, Disk, Medium};
use board::{StateReader, StateWriter};
use std::sync::Arc;

/// What is attached to a channel or a port. A serial number has at most 20 characters of printable ASCII.
pub enum Attachment {
    /// A hard disk. What is behind its last whole sector of 512 bytes cannot be seen.
    Disk {
        /// What is on it.
        disk: Arc<dyn Disk>,
        /// Its serial number.
        serial: String,
    },
    /// A CD-ROM drive.
    Cdrom {
        /// Its slot.
        medium: Arc<Medium>,
        /// Its serial number.
        serial: String,
    },
}

/// How a command goes on after the drive has looked at it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is done.
    Done,
    /// It has failed, with these bits in the error register.
    Fail(u8),
    /// It moves data, or works on the medium.
    Start(Transfer),
    /// A packet is to follow; its data go in PIO blocks of at most `block` bytes.
    Packet { dma: bool, block: u32 },
}

/// Why work on the medium ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The disk could not do it, at this block or shortly behind it.
    Disk(u64, BlockError),
    /// There is no medium any more.
    NoMedium,
    /// A range to be trimmed is not on the disk.
    Range,
    /// The descriptors name no memory.
    Bus,
}

/// What of the channel or port a command sees.
pub(crate) struct Access<'a> {
    pub file: &'a mut TaskFile,
    /// The device register, which the two drives of a channel share.
    pub device: &'a mut u8,
    pub buffer: &'a mut Buffer,
}

/// Where a drive hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a parallel cable.
    Parallel {
        /// Device 1, not device 0.
        second: bool,
        /// There is another one.
        shared: bool,
    },
    /// On a serial cable of its own.
    Serial,
}

pub(crate) enum Drive {
    Disk(AtaDisk),
    Cdrom(Cdrom),
}

impl Drive {
    /// The drive that was asked for.
    ///
    /// # Errors
    /// One sentence when a disk has no sector or the serial number is not as [`Attachment`] says.
    pub fn new(attachment: Attachment, place: Place) -> Result<Self, String> {
        let (Attachment::Disk { serial, .. } | Attachment::Cdrom { serial, .. }) = &attachment;
        if serial.len() > SERIAL_SIZE || !serial.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(format!(
                "the serial number {serial:?} of a drive is longer than {SERIAL_SIZE} characters or not printable ASCII"
            ));
        }
        match attachment {
            Attachment::Disk { disk, serial } => AtaDisk::new(disk, serial, place).map(Drive::Disk),
            Attachment::Cdrom { medium, serial } => Ok(Drive::Cdrom(Cdrom::new(medium, serial, place))),
        }
    }

    pub fn signature(&self) -> Signature {
        match self {
            Drive::Disk(_) => Signature::Ata,
            Drive::Cdrom(_) => Signature::Atapi,
        }
    }

    /// Whether data move as packet commands have it.
    pub fn takes_packets(&self) -> bool {
        matches!(self, Drive::Cdrom(_))
    }

    /// Whether this kind of drive does such work.
    pub fn does(&self, work: Work) -> bool {
        match work {
            Work::Answer => true,
            Work::Read(Format::Cd(_)) => self.takes_packets(),
            _ => !self.takes_packets(),
        }
    }

    /// Looks at a command.
    pub fn command(&mut self, command: u8, access: &mut Access) -> Next {
        match self {
            Drive::Disk(disk) => disk.command(command, access),
            Drive::Cdrom(cdrom) => cdrom.command(command, access),
        }
    }

    /// Looks at a packet.
    pub fn packet(&mut self, packet: &[u8; 12], dma: bool, block: u32, buffer: &mut Buffer) -> Next {
        match self {
            Drive::Disk(_) => Next::Fail(error::ABRT),
            Drive::Cdrom(cdrom) => cdrom.packet(packet, dma, block, buffer),
        }
    }

    /// What is in the drive.
    pub fn medium(&self) -> Option<Arc<dyn Disk>> {
        match self {
            Drive::Disk(disk) => Some(disk.medium()),
            Drive::Cdrom(cdrom) => cdrom.medium(),
        }
    }

    /// The work is done.
    pub fn succeeded(&mut self, transfer: &Transfer, access: &mut Access) {
        match self {
            Drive::Disk(disk) => disk.succeeded(transfer, access),
            Drive::Cdrom(_) => {}
        }
    }

    /// The work has failed; returns the error register.
    pub fn failed(&mut self, failure: Failure, transfer: &Transfer, access: &mut Access) -> u8 {
        match self {
            Drive::Disk(disk) => disk.failed(failure, transfer, access),
            Drive::Cdrom(cdrom) => cdrom.failed(failure),
        }
    }

    /// Resets the drive, as its host wants it, and lets it show what it is. Settings stay.
    pub fn reset(&mut self, file: &mut TaskFile) {
        match self {
            Drive::Disk(disk) => disk.reset(),
            Drive::Cdrom(cdrom) => cdrom.reset(),
        }
        file.status = if self.takes_packets() { 0 } else { status::READY };
        file.error = error::PASSED;
        file.sign(self.signature());
    }

    /// The state after power-on.
    pub fn power_on(&mut self) {
        match self {
            Drive::Disk(disk) => disk.power_on(),
            Drive::Cdrom(cdrom) => cdrom.power_on(),
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        match self {
            Drive::Disk(disk) => {
                writer.u8(1);
                disk.save(writer);
            }
            Drive::Cdrom(cdrom) => {
                writer.u8(2);
                cdrom.save(writer);
            }
        }
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        match (reader.u8()?, self) {
            (1, Drive::Disk(disk)) => disk.load(reader),
            (2, Drive::Cdrom(cdrom)) => cdrom.load(reader),
            _ => Err(reader.invalid("its drives are of other kinds")),
        }
    }
}
