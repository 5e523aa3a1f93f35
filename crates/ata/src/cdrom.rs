//! A CD-ROM drive: the ATA commands around the packets that [`scsi::Cdrom`] carries out.

use crate::drive::{Access, Failure, Next, Place};
use crate::format::Format;
use crate::identify;
use crate::modes::TransferMode;
use crate::registers::{Signature, error};
use crate::transfer::{Buffer, Transfer};
use block::{BlockError, Disk, Medium};
use board::{StateReader, StateWriter};
use scsi::{CD_BLOCK, CdParts, Cdb, Interface, LogicalUnit, Sense, Span, Work};
use std::sync::Arc;

/// Features register of PACKET: data move by DMA; the command may release the bus.
const FEATURE_DMA: u16 = 1 << 0;
const FEATURE_OVERLAP: u16 = 1 << 1;

/// One ATAPI CD-ROM drive.
pub(crate) struct Cdrom {
    unit: scsi::Cdrom,
    serial: String,
    place: Place,
    /// Why the last command failed.
    sense: Sense,
    mode: TransferMode,
}

impl Cdrom {
    pub fn new(medium: Arc<Medium>, serial: String, place: Place) -> Self {
        let unit = scsi::Cdrom::new(medium, serial.clone(), Interface::Atapi);
        Cdrom { unit, serial, place, sense: Sense::NONE, mode: TransferMode::fastest() }
    }

    /// The disc, unless it was exchanged since the last command: whoever began with the old one is not to go on with
    /// another.
    pub fn medium(&self) -> Option<Arc<dyn Disk>> {
        self.unit.medium()
    }

    pub fn command(&mut self, command: u8, access: &mut Access) -> Next {
        match command {
            // PACKET.
            0xA0 if access.file.features & FEATURE_OVERLAP == 0 => {
                let dma = access.file.features & FEATURE_DMA != 0;
                Next::Packet { dma, block: pio_block(access.file.byte_count(), dma) }
            }
            // IDENTIFY PACKET DEVICE.
            0xA1 => {
                access.buffer.put(&identify::cdrom(&self.serial, self.mode, self.place));
                Next::Start(Transfer::answer(identify::SIZE as u32, false))
            }
            // IDENTIFY DEVICE and READ SECTORS: how hosts find out what kind of device this is.
            0xEC | 0x20 | 0x21 => {
                access.file.sign(Signature::Atapi);
                Next::Fail(error::ABRT)
            }
            // IDLE, STANDBY, SLEEP; FLUSH CACHE: nothing is to be done for it.
            0x94..=0x97 | 0x99 | 0xE0..=0xE3 | 0xE6 | 0xE7 => Next::Done,
            // CHECK POWER MODE.
            0x98 | 0xE5 => {
                access.file.count = 0xFF;
                Next::Done
            }
            // SET FEATURES: transfer mode; defaults after a reset.
            0xEF => match access.file.features as u8 {
                0x03 if self.mode.set(access.file.count as u8) => Next::Done,
                0x66 | 0xCC => Next::Done,
                _ => Next::Fail(error::ABRT),
            },
            _ => Next::Fail(error::ABRT),
        }
    }

    /// Carries out a packet; PIO data go in blocks of at most `block` bytes.
    pub fn packet(&mut self, packet: &[u8; 12], dma: bool, block: u32, buffer: &mut Buffer) -> Next {
        let before = std::mem::replace(&mut self.sense, Sense::NONE);
        let cdb = Cdb::new(packet).ok_or(Sense::INVALID_OPERATION);
        let transfer = match cdb.and_then(|cdb| self.unit.command(&cdb, before)) {
            Ok(Work::Answer(data)) if !data.is_empty() => {
                buffer.put(&data);
                Transfer::answer(block, dma)
            }
            Ok(Work::Read(span)) => read(CdParts::DATA, span, dma, block),
            Ok(Work::ReadParts(parts, span)) => read(parts, span, dma, block),
            // A drive that only reads asks for nothing else.
            Ok(_) => return Next::Done,
            Err(sense) => return self.fail(sense),
        };
        // A host that takes no bytes at a time gets none. ATA/ATAPI-6, section 8.23.
        if block == 0 { self.fail(Sense::INVALID_FIELD) } else { Next::Start(transfer) }
    }

    fn fail(&mut self, sense: Sense) -> Next {
        self.sense = sense;
        Next::Fail(error_register(sense))
    }

    pub fn failed(&mut self, failure: Failure) -> u8 {
        self.sense = match failure {
            Failure::Disk(_, BlockError::BeyondEnd) | Failure::Range => Sense::OUT_OF_RANGE,
            Failure::Disk(lba, error) => Sense::of_read(error).at(lba),
            Failure::NoMedium => Sense::NO_MEDIUM,
            Failure::Bus => Sense::DATA_PHASE,
        };
        error_register(self.sense)
    }

    pub fn reset(&mut self) {
        self.sense = Sense::NONE;
        self.unit.reset();
    }

    pub fn power_on(&mut self) {
        self.sense = Sense::NONE;
        self.unit.power_on();
        self.mode = TransferMode::fastest();
    }

    pub fn save(&self, writer: &mut StateWriter) {
        self.unit.save(writer);
        writer.u8(self.mode.code());
        self.sense.save(writer);
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.unit.load(reader)?;
        self.mode = TransferMode::load(reader)?;
        self.sense = Sense::load(reader)?;
        Ok(())
    }
}

/// Blocks for the host, as many as it wants at a time.
fn read(parts: CdParts, span: Span, dma: bool, block: u32) -> Transfer {
    let size = parts.size() as u32;
    // Whole blocks, where one fits: some hosts count on it.
    let block = if block >= size { block - block % size } else { block };
    Transfer { work: crate::transfer::Work::Read(Format::Cd(parts)), dma, next: span.first, left: span.count, block }
}

/// The error register: the sense key, and whether the command was no good. ATA/ATAPI-6, section 8.23.6.
fn error_register(sense: Sense) -> u8 {
    sense.key() << 4 | if sense.is_refusal() { error::ABRT } else { 0 }
}

/// Bytes that a host takes at once: the byte count limit, which DMA does not care about. ATA/ATAPI-6, section 8.23.
fn pio_block(limit: u16, dma: bool) -> u32 {
    if dma { CD_BLOCK as u32 } else { u32::from(limit.min(0xFFFE)) }
}
