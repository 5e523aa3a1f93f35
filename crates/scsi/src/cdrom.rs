//! A CD-ROM drive: commands of MMC-3 (T10/1363-D) and SFF-8020i.
//!
//! The disc is a [`Medium`], which the host can exchange. Hosts that do not poll for events notice that from sense data:
//! first a drive without a disc, then a unit attention.

mod answers;
mod block;
mod configuration;
mod disc;
mod mode;

pub use self::block::{CD_BLOCK, CdParts};

use crate::target::{report_luns, request_sense};
use crate::{Cdb, DeviceType, Identity, Interface, LogicalUnit, Sense, Span, Work};
use ::block::{Disk, Medium};
use board::{StateReader, StateWriter};
use disc::Disc;
use std::sync::Arc;

/// Event codes of the media class. MMC-3, section 6.6.4.
const EVENT_EJECT: u8 = 1;
const EVENT_NEW: u8 = 2;
const EVENT_REMOVAL: u8 = 3;

/// The most blocks that a command transfers, 32 MiB of user data, where a buffer is given with the command. ATAPI hands
/// on data as it comes.
const MAX_TRANSFER: u32 = 1 << 14;

/// What an initiator has to be told about the disc.
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

/// A CD-ROM drive. Images larger than a CD pass for DVDs.
pub struct Cdrom {
    identity: Identity,
    medium: Arc<Medium>,
    /// The count of [`Medium::current`] as of the last look.
    seen: u64,
    news: News,
    /// A reset that the initiator has not heard of. ATAPI does not tell.
    was_reset: bool,
}

impl Cdrom {
    /// The drive around a slot.
    pub fn new(medium: Arc<Medium>, serial: String, interface: Interface) -> Self {
        let seen = medium.current().0;
        let was_reset = interface == Interface::Scsi;
        Cdrom { identity: Identity { serial, interface }, medium, seen, news: News::default(), was_reset }
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

    /// What the initiator has not heard of, the first of it.
    fn attention(&mut self) -> Sense {
        if std::mem::take(&mut self.was_reset) {
            return Sense::RESET;
        }
        if std::mem::take(&mut self.news.gone) {
            return Sense::TRAY_OPEN;
        }
        if std::mem::take(&mut self.news.changed) { Sense::MEDIUM_CHANGED } else { Sense::NONE }
    }

    /// The disc, for a command that needs one.
    fn disc(&self) -> Result<Disc, Sense> {
        match self.medium() {
            Some(disk) => Disc::new(&*disk),
            None if self.medium.is_open() => Err(Sense::TRAY_OPEN),
            None => Err(Sense::NO_MEDIUM),
        }
    }

    /// Carries out a command that no news stands against.
    fn execute(&mut self, cdb: &Cdb) -> Result<Work, Sense> {
        match cdb.operation() {
            // TEST UNIT READY; SEEK(10).
            0x00 => self.disc().map(|_| Work::Done),
            0x2B => self.disc()?.blocks(cdb.u32(2).into(), 1).map(|()| Work::Done),
            0x12 => self.identity.inquiry(cdb, DeviceType::MultiMedia, b"Wirt CD-ROM     ", &[]),
            // START STOP UNIT.
            0x1B => self.start_stop(cdb.u8(4)),
            // PREVENT ALLOW MEDIUM REMOVAL.
            0x1E => {
                self.medium.set_locked(cdb.u8(4) & 1 != 0);
                Ok(Work::Done)
            }
            // READ CAPACITY.
            0x25 => Work::answer(self.disc()?.capacity(), 8),
            // READ(10) and READ(12).
            0x28 | 0xA8 => {
                let (first, count) = cdb.blocks();
                self.read(CdParts::DATA, first, count)
            }
            // READ CD, by address and by time.
            0xBE => self.read_cd(cdb, Some(cdb.u32(2).into()), cdb.u24(6)),
            0xB9 => {
                let at = |at: usize| block::from_msf([cdb.u8(at), cdb.u8(at + 1), cdb.u8(at + 2)]);
                let (start, end) = (at(3).ok_or(Sense::INVALID_FIELD)?, at(6).ok_or(Sense::INVALID_FIELD)?);
                let count = end.checked_sub(start).ok_or(Sense::INVALID_FIELD)?;
                self.read_cd(cdb, Some(start), count as u32)
            }
            // READ SUB-CHANNEL.
            0x42 => Work::answer(self.disc()?.subchannel(cdb)?, cdb.u16(7).into()),
            // READ TOC/PMA/ATIP.
            0x43 => Work::answer(self.disc()?.toc(cdb)?, cdb.u16(7).into()),
            // GET CONFIGURATION.
            0x46 => Work::answer(self.configuration(cdb), cdb.u16(7).into()),
            // GET EVENT STATUS NOTIFICATION, only when asked for at once.
            0x4A if cdb.u8(1) & 1 != 0 => Work::answer(self.event(cdb.u8(4)), cdb.u16(7).into()),
            // READ DISC INFORMATION, READ TRACK INFORMATION.
            0x51 if cdb.u8(1) & 7 == 0 => Work::answer(self.disc()?.information(), cdb.u16(7).into()),
            0x52 => Work::answer(self.disc()?.track_information(cdb)?, cdb.u16(7).into()),
            // MODE SENSE(6) and (10).
            0x1A | 0x5A => mode::sense(cdb, self.medium_type(), self.medium.locked()),
            0xA0 => report_luns(cdb),
            // READ DVD STRUCTURE.
            0xAD => Work::answer(self.disc()?.dvd_structure(cdb)?, cdb.u16(8).into()),
            // SET CD SPEED: there is but one.
            0xBB => Ok(Work::Done),
            // MECHANISM STATUS.
            0xBD => Work::answer(answers::mechanism_status(self.medium.is_open()), cdb.u16(8).into()),
            0x4A | 0x51 => Err(Sense::INVALID_FIELD),
            _ => Err(Sense::INVALID_OPERATION),
        }
    }

    fn read(&self, parts: CdParts, first: u64, count: u32) -> Result<Work, Sense> {
        self.disc()?.blocks(first, count)?;
        if self.identity.interface == Interface::Scsi && count > MAX_TRANSFER {
            return Err(Sense::INVALID_FIELD);
        }
        let span = Span { first, count, block: CD_BLOCK as u32 };
        Ok(match parts {
            _ if count == 0 => Work::Done,
            CdParts::DATA => Work::Read(span),
            parts => Work::ReadParts(parts, span),
        })
    }

    /// READ CD: which sectors, which parts of them. MMC-3, section 6.15.
    fn read_cd(&self, cdb: &Cdb, first: Option<u64>, count: u32) -> Result<Work, Sense> {
        let disc = self.disc()?;
        let first = first.ok_or(Sense::INVALID_FIELD)?;
        // Any kind of sector, or mode 1: there are no others.
        if !matches!(cdb.u8(1) >> 2 & 7, 0 | 2) {
            return Err(Sense::ILLEGAL_MODE);
        }
        // Neither error flags nor subchannels.
        if cdb.u8(9) & 0x06 != 0 || cdb.u8(10) & 7 != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        disc.blocks(first, count)?;
        match CdParts::asked(cdb.u8(9)) {
            Some(parts) => self.read(parts, first, count),
            None => Ok(Work::Done),
        }
    }

    /// Starts, stops, loads or ejects. MMC-3, section 6.42.
    fn start_stop(&mut self, how: u8) -> Result<Work, Sense> {
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
        Ok(Work::Done)
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

    fn configuration(&self, cdb: &Cdb) -> Vec<u8> {
        let profile = self.disc().ok().map(|disc| disc.profile());
        configuration::answer(cdb.u8(1) & 3, cdb.u16(2), profile, self.identity.interface)
    }
}

impl LogicalUnit for Cdrom {
    fn device_type(&self) -> DeviceType {
        DeviceType::MultiMedia
    }

    fn identity(&mut self) -> &mut Identity {
        &mut self.identity
    }

    fn command(&mut self, cdb: &Cdb, before: Sense) -> Result<Work, Sense> {
        self.look();
        match cdb.operation() {
            0x03 => {
                let pending = before == Sense::NONE && self.identity.interface == Interface::Scsi;
                request_sense(cdb, if pending { self.attention() } else { before })
            }
            // What tells about the drive is carried out in spite of news. MMC-3, section 4.1.6.1.
            0x12 | 0x46 | 0x4A | 0xA0 => self.execute(cdb),
            _ => match self.attention() {
                Sense::NONE => self.execute(cdb),
                attention => Err(attention),
            },
        }
    }

    /// The disc, unless it was exchanged since the last command: whoever began with the old one is not to go on with
    /// another.
    fn medium(&self) -> Option<Arc<dyn Disk>> {
        let (changes, disk) = self.medium.current();
        disk.filter(|_| changes == self.seen)
    }

    fn slot(&self) -> Option<&Arc<Medium>> {
        Some(&self.medium)
    }

    fn resize(&mut self, _disk: Arc<dyn Disk>) -> Result<(), String> {
        Err("a disc in a CD-ROM drive is exchanged, not resized".into())
    }

    fn power_on(&mut self) {
        self.reset();
        self.seen = self.medium.current().0;
        self.news = News::default();
    }

    fn reset(&mut self) {
        self.medium.set_locked(false);
        self.was_reset = self.identity.interface == Interface::Scsi;
    }

    fn save(&self, writer: &mut StateWriter) {
        let News { gone, changed, removal, arrival } = self.news;
        let present = self.medium.current().1.is_some();
        let (open, locked) = (self.medium.is_open(), self.medium.locked());
        for flag in [present, open, gone, changed, removal, arrival, locked, self.was_reset] {
            writer.u8(flag.into());
        }
    }

    fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        let (present, open) = (reader.bool()?, reader.bool()?);
        self.news =
            News { gone: reader.bool()?, changed: reader.bool()?, removal: reader.bool()?, arrival: reader.bool()? };
        let locked = reader.bool()?;
        self.was_reset = reader.bool()?;
        self.medium.set_open(open);
        self.medium.set_locked(locked);
        let (changes, disk) = self.medium.current();
        // A disc that came or went since is news. Whether it is the same one cannot be told.
        self.seen = if disk.is_some() == present { changes } else { changes.wrapping_sub(1) };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
