//! A CD-ROM drive: packet commands of SFF-8020i and MMC-3 (T10/1363-D), and the ATA commands around them.
//!
//! The disc is a [`Medium`], which the host can exchange. Hosts that do not poll for events notice that from sense data:
//! first a drive without a disc, then a unit attention.

mod answers;
mod configuration;
mod disc;
mod mode;
mod packet;
mod sense;

use crate::drive::{Access, Failure, Next, Place};
use crate::format::{CD_BLOCK, CdParts, Format};
use crate::identify;
use crate::modes::TransferMode;
use crate::registers::{Signature, error};
use crate::transfer::{Buffer, Transfer, Work};
use block::{BlockError, Disk, Medium};
use board::{StateReader, StateWriter};
use disc::Disc;
use packet::Packet;
use sense::Sense;
use std::sync::Arc;

/// Features register of PACKET: data move by DMA; the command may release the bus.
const FEATURE_DMA: u16 = 1 << 0;
const FEATURE_OVERLAP: u16 = 1 << 1;

/// Event codes of the media class. MMC-3, section 6.6.4.
const EVENT_EJECT: u8 = 1;
const EVENT_NEW: u8 = 2;
const EVENT_REMOVAL: u8 = 3;

/// What a host has to be told about the disc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    /// By sense data: there was none for a moment.
    gone: bool,
    /// By sense data: it may be another one.
    changed: bool,
    /// By an event: it was taken out, another one came.
    removal: bool,
    arrival: bool,
}

/// One ATAPI CD-ROM drive.
pub(crate) struct Cdrom {
    medium: Arc<Medium>,
    serial: String,
    place: Place,
    /// The count of [`Medium::current`] as of the last look.
    seen: u64,
    news: News,
    /// Why the last command failed.
    sense: Sense,
    mode: TransferMode,
}

/// A command's answer, or why it has none.
type Answer = Result<Reply, Sense>;

/// What a packet command leads to when nothing is wrong.
enum Reply {
    /// Nothing more.
    Done,
    /// Data, of which the host takes at most so many bytes.
    Data(Vec<u8>, usize),
    /// Blocks of the disc.
    Blocks { format: Format, first: u64, count: u32 },
}

impl Cdrom {
    pub fn new(medium: Arc<Medium>, serial: String, place: Place) -> Self {
        let seen = medium.current().0;
        Cdrom { medium, serial, place, seen, news: News::default(), sense: Sense::NONE, mode: TransferMode::fastest() }
    }

    /// The disc, unless it was exchanged since the last command: whoever began with the old one is not to go on with
    /// another.
    pub fn medium(&self) -> Option<Arc<dyn Disk>> {
        let (changes, disk) = self.medium.current();
        disk.filter(|_| changes == self.seen)
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
        let packet = Packet(packet);
        let before = std::mem::replace(&mut self.sense, Sense::NONE);
        self.look();
        let told = if packet.ignores_news() { Ok(()) } else { self.tell_news() };
        let transfer = match told.and_then(|()| self.execute(packet, before)) {
            Ok(Reply::Data(data, limit)) if !data.is_empty() && limit > 0 => {
                buffer.put(&data[..limit.min(data.len())]);
                Transfer::answer(block, dma)
            }
            Ok(Reply::Blocks { format, first, count }) => {
                let size = format.size() as u32;
                // Whole blocks, where one fits: some hosts count on it.
                let block = if block >= size { block - block % size } else { block };
                Transfer { work: Work::Read(format), dma, next: first, left: count, block }
            }
            Ok(_) => return Next::Done,
            Err(sense) => return self.fail(sense),
        };
        // A host that takes no bytes at a time gets none. ATA/ATAPI-6, section 8.23.
        if block == 0 { self.fail(Sense::INVALID_FIELD) } else { Next::Start(transfer) }
    }

    fn fail(&mut self, sense: Sense) -> Next {
        self.sense = sense;
        Next::Fail(sense.error())
    }

    /// Notices that the host has exchanged the disc.
    fn look(&mut self) {
        let (changes, disk) = self.medium.current();
        if changes != self.seen {
            self.seen = changes;
            let there = disk.is_some();
            self.news = News { gone: there, changed: there, removal: true, arrival: there };
        }
    }

    /// Fails the command when the host has not heard of a change.
    fn tell_news(&mut self) -> Result<(), Sense> {
        if std::mem::take(&mut self.news.gone) {
            return Err(Sense::TRAY_OPEN);
        }
        if std::mem::take(&mut self.news.changed) {
            return Err(Sense::MEDIUM_CHANGED);
        }
        Ok(())
    }

    /// The disc, for a command that needs one.
    fn disc(&self) -> Result<Disc, Sense> {
        match self.medium() {
            Some(disk) => Disc::new(&*disk),
            None if self.medium.is_open() => Err(Sense::TRAY_OPEN),
            None => Err(Sense::NO_MEDIUM),
        }
    }

    /// Carries out a command; `before` is why the one before failed.
    fn execute(&mut self, packet: Packet, before: Sense) -> Answer {
        let data = |data: Vec<u8>, limit: usize| Ok(Reply::Data(data, limit));
        match packet.operation() {
            // TEST UNIT READY; SEEK(10).
            0x00 => self.disc().map(|_| Reply::Done),
            0x2B => self.disc()?.blocks(packet.u32(2).into(), 1).map(|()| Reply::Done),
            // REQUEST SENSE.
            0x03 => data(before.fixed_format(), packet.u8(4).into()),
            // INQUIRY, without vital product data.
            0x12 if packet.u8(1) & 1 == 0 && packet.u8(2) == 0 => data(answers::inquiry(), packet.u16(3).into()),
            // START STOP UNIT.
            0x1B => self.start_stop(packet.u8(4)),
            // PREVENT ALLOW MEDIUM REMOVAL.
            0x1E => {
                self.medium.set_locked(packet.u8(4) & 1 != 0);
                Ok(Reply::Done)
            }
            // READ CAPACITY.
            0x25 => data(self.disc()?.capacity(), 8),
            // READ(10) and READ(12).
            0x28 => self.read(CdParts::DATA, packet.u32(2).into(), packet.u16(7).into()),
            0xA8 => self.read(CdParts::DATA, packet.u32(2).into(), packet.u32(6)),
            // READ CD, by address and by time.
            0xBE => self.read_cd(packet, Some(packet.u32(2).into()), packet.u24(6)),
            0xB9 => {
                let (start, end) = packet.times().ok_or(Sense::INVALID_FIELD)?;
                let count = end.checked_sub(start).ok_or(Sense::INVALID_FIELD)?;
                self.read_cd(packet, Some(start), count as u32)
            }
            // READ SUB-CHANNEL.
            0x42 => data(self.disc()?.subchannel(packet)?, packet.u16(7).into()),
            // READ TOC/PMA/ATIP.
            0x43 => data(self.disc()?.toc(packet)?, packet.u16(7).into()),
            // GET CONFIGURATION.
            0x46 => data(self.configuration(packet), packet.u16(7).into()),
            // GET EVENT STATUS NOTIFICATION, only when asked for at once.
            0x4A if packet.u8(1) & 1 != 0 => data(self.event(packet.u8(4)), packet.u16(7).into()),
            // READ DISC INFORMATION, READ TRACK INFORMATION.
            0x51 if packet.u8(1) & 7 == 0 => data(self.disc()?.information(), packet.u16(7).into()),
            0x52 => data(self.disc()?.track_information(packet)?, packet.u16(7).into()),
            // MODE SENSE(6) and (10).
            0x1A => data(mode::sense6(packet, self.medium_type(), self.medium.locked())?, packet.u8(4).into()),
            0x5A => data(mode::sense10(packet, self.medium_type(), self.medium.locked())?, packet.u16(7).into()),
            // READ DVD STRUCTURE.
            0xAD => data(self.disc()?.dvd_structure(packet)?, packet.u16(8).into()),
            // SET CD SPEED: there is but one.
            0xBB => Ok(Reply::Done),
            // MECHANISM STATUS.
            0xBD => data(answers::mechanism_status(self.medium.is_open()), packet.u16(8).into()),
            0x12 | 0x4A | 0x51 => Err(Sense::INVALID_FIELD),
            _ => Err(Sense::INVALID_OPERATION),
        }
    }

    fn read(&self, parts: CdParts, first: u64, count: u32) -> Answer {
        self.disc()?.blocks(first, count)?;
        match count {
            0 => Ok(Reply::Done),
            _ => Ok(Reply::Blocks { format: Format::Cd(parts), first, count }),
        }
    }

    /// READ CD: which sectors, which parts of them. MMC-3, section 6.15.
    fn read_cd(&self, packet: Packet, first: Option<u64>, count: u32) -> Answer {
        let disc = self.disc()?;
        let first = first.ok_or(Sense::INVALID_FIELD)?;
        // Any kind of sector, or mode 1: there are no others.
        if !matches!(packet.u8(1) >> 2 & 7, 0 | 2) {
            return Err(Sense::ILLEGAL_MODE);
        }
        // Neither error flags nor subchannels.
        if packet.u8(9) & 0x06 != 0 || packet.u8(10) & 7 != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        disc.blocks(first, count)?;
        match CdParts::asked(packet.u8(9)) {
            Some(parts) => self.read(parts, first, count),
            None => Ok(Reply::Done),
        }
    }

    /// Starts, stops, loads or ejects. MMC-3, section 6.42.
    fn start_stop(&mut self, how: u8) -> Answer {
        let power_condition = how >> 4 != 0;
        match (power_condition, how & 3) {
            (false, 2) if self.medium.locked() => return Err(Sense::REMOVAL_PREVENTED),
            (false, 2) if !self.medium.is_open() => {
                self.medium.set_open(true);
                self.news = News { removal: true, ..News::default() };
            }
            (false, 3) if self.medium.is_open() => {
                self.medium.set_open(false);
                let there = self.medium().is_some();
                self.news = News { gone: false, changed: there, arrival: there, ..self.news };
            }
            _ => {}
        }
        Ok(Reply::Done)
    }

    /// One event of the media class, when that was asked for. MMC-3, section 6.6.
    fn event(&mut self, classes: u8) -> Vec<u8> {
        const MEDIA: u8 = 4;
        if classes & 1 << MEDIA == 0 {
            return answers::no_event(1 << MEDIA);
        }
        let code = if self.medium.take_eject_request() {
            EVENT_EJECT
        } else if std::mem::take(&mut self.news.removal) {
            EVENT_REMOVAL
        } else if std::mem::take(&mut self.news.arrival) {
            EVENT_NEW
        } else {
            0
        };
        let state = u8::from(self.medium.is_open()) | u8::from(self.medium().is_some()) << 1;
        vec![0, 6, MEDIA, 1 << MEDIA, code, state, 0, 0]
    }

    /// The medium type code of mode parameter headers.
    fn medium_type(&self) -> u8 {
        match self.medium() {
            Some(_) => 0x01,
            None if self.medium.is_open() => 0x71,
            None => 0x70,
        }
    }

    fn configuration(&self, packet: Packet) -> Vec<u8> {
        let profile = self.disc().ok().map(|disc| disc.profile());
        configuration::answer(packet.u8(1) & 3, packet.u16(2), profile)
    }

    pub fn failed(&mut self, failure: Failure) -> u8 {
        self.sense = match failure {
            Failure::Disk(_, BlockError::BeyondEnd) | Failure::Range => Sense::OUT_OF_RANGE,
            Failure::Disk(lba, _) => Sense::unrecovered(lba),
            Failure::NoMedium => Sense::NO_MEDIUM,
            Failure::Bus => Sense::DATA_PHASE,
        };
        self.sense.error()
    }

    pub fn reset(&mut self) {
        self.sense = Sense::NONE;
        self.medium.set_locked(false);
    }

    pub fn power_on(&mut self) {
        self.reset();
        self.seen = self.medium.current().0;
        self.news = News::default();
        self.mode = TransferMode::fastest();
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let News { gone, changed, removal, arrival } = self.news;
        let present = self.medium.current().1.is_some();
        for flag in [present, self.medium.is_open(), gone, changed, removal, arrival, self.medium.locked()] {
            writer.u8(flag.into());
        }
        writer.u8(self.mode.code());
        self.sense.save(writer);
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        let (present, open) = (reader.bool()?, reader.bool()?);
        self.news =
            News { gone: reader.bool()?, changed: reader.bool()?, removal: reader.bool()?, arrival: reader.bool()? };
        let locked = reader.bool()?;
        self.mode = TransferMode::load(reader)?;
        self.sense = Sense::load(reader)?;
        self.medium.set_open(open);
        self.medium.set_locked(locked);
        let (changes, disk) = self.medium.current();
        // A disc that came or went since is news. Whether it is the same one cannot be told.
        self.seen = if disk.is_some() == present { changes } else { changes.wrapping_sub(1) };
        Ok(())
    }
}

/// Bytes that a host takes at once: the byte count limit, which DMA does not care about. ATA/ATAPI-6, section 8.23.
fn pio_block(limit: u16, dma: bool) -> u32 {
    if dma { CD_BLOCK as u32 } else { u32::from(limit.min(0xFFFE)) }
}
