//! A disk: the commands of ATA/ATAPI-6 (T13/1410D), chapter 8, TRIM of ACS-3, and on a serial cable the queued commands of
//! Serial ATA 2.6.

use crate::drive::{Access, Failure, Next, Place};
use crate::format::Format;
use crate::geometry::Geometry;
use crate::log::QueueError;
use crate::modes::TransferMode;
use crate::registers::{TaskFile, device, error};
use crate::transfer::{MAX_MULTIPLE, SECTOR, Transfer, Work};
use crate::{identify, log, smart};
use block::{BlockError, Disk};
use board::{StateReader, StateWriter};
use std::sync::Arc;

/// Sectors that 48-bit addresses reach.
const LBA48_LIMIT: u64 = 1 << 48;

const READ_LOG_EXT: u8 = 0x2F;
const READ_LOG_DMA_EXT: u8 = 0x47;
/// Queued commands. Serial ATA 2.6, section 13.6.
const READ_FPDMA_QUEUED: u8 = 0x60;
const WRITE_FPDMA_QUEUED: u8 = 0x61;

/// How a command names a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addressing {
    Chs,
    Lba28,
    Lba48,
}

/// What CHECK POWER MODE tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Active,
    Standby,
    /// Only a reset wakes it.
    Sleep,
}

/// What a host has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    geometry: Geometry,
    /// Sectors in a block of READ and WRITE MULTIPLE; 0: not set.
    multiple: u8,
    mode: TransferMode,
    /// Writes may be completed before they are durable.
    write_cache: bool,
    look_ahead: bool,
    smart: bool,
    power: Power,
    /// How the command that is being carried out names sectors.
    addressing: Addressing,
}

impl Settings {
    fn power_on() -> Self {
        Settings {
            geometry: Geometry::DEFAULT,
            multiple: 0,
            mode: TransferMode::fastest(),
            write_cache: true,
            look_ahead: true,
            smart: true,
            power: Power::Active,
            addressing: Addressing::Lba28,
        }
    }
}

/// One ATA disk.
pub(crate) struct AtaDisk {
    disk: Arc<dyn Disk>,
    sectors: u64,
    serial: String,
    place: Place,
    settings: Settings,
    /// A queued command has failed. Until the host has read why, it can do nothing else.
    queue_error: Option<QueueError>,
}

impl AtaDisk {
    /// A disk that shows `disk`, what is behind its last whole sector left out.
    ///
    /// # Errors
    /// When there is not one whole sector.
    pub fn new(disk: Arc<dyn Disk>, serial: String, place: Place) -> Result<Self, String> {
        match (disk.size() / SECTOR).min(LBA48_LIMIT) {
            0 => Err(format!("a disk needs at least {SECTOR} bytes")),
            sectors => {
                let settings = Settings::power_on();
                Ok(AtaDisk { disk, sectors, serial, place, settings, queue_error: None })
            }
        }
    }

    pub fn medium(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn place(&self) -> Place {
        self.place
    }

    pub fn mode(&self) -> TransferMode {
        self.settings.mode
    }

    pub fn default_geometry(&self) -> Geometry {
        Geometry::DEFAULT
    }

    pub fn geometry(&self) -> Geometry {
        self.settings.geometry
    }

    pub fn multiple(&self) -> u8 {
        self.settings.multiple
    }

    pub fn write_cache(&self) -> bool {
        self.settings.write_cache
    }

    pub fn look_ahead(&self) -> bool {
        self.settings.look_ahead
    }

    pub fn smart(&self) -> bool {
        self.settings.smart
    }

    pub fn command(&mut self, command: u8, access: &mut Access) -> Next {
        match self.settings.power {
            Power::Sleep => return Next::Fail(error::ABRT),
            _ if self.queue_error.is_some() && !matches!(command, READ_LOG_EXT | READ_LOG_DMA_EXT) => {
                return Next::Fail(error::ABRT);
            }
            // A command that needs the medium wakes the disk.
            Power::Standby if moves_heads(command) => self.settings.power = Power::Active,
            _ => {}
        }
        let read = Work::Read(Format::Sector);
        let write = Work::Write { durable: !self.settings.write_cache };
        let forced = Work::Write { durable: true };
        match command {
            // RECALIBRATE.
            0x10..=0x1F => {
                access.file.lba_mid = 0;
                access.file.lba_high = 0;
                Next::Done
            }
            // READ SECTORS, with and without retries; then the 48-bit commands, READ MULTIPLE and READ DMA.
            0x20 | 0x21 => self.transfer(access, read, false, false, 1),
            0x24 => self.transfer(access, read, false, true, 1),
            0x25 => self.transfer(access, read, true, true, 1),
            0x29 => self.transfer(access, read, false, true, self.settings.multiple),
            0xC4 => self.transfer(access, read, false, false, self.settings.multiple),
            0xC8 | 0xC9 => self.transfer(access, read, true, false, 1),
            // WRITE in the same forms, then WRITE VERIFY, and forced unit access.
            0x30 | 0x31 => self.transfer(access, write, false, false, 1),
            0x34 => self.transfer(access, write, false, true, 1),
            0x35 => self.transfer(access, write, true, true, 1),
            0x39 => self.transfer(access, write, false, true, self.settings.multiple),
            0xC5 => self.transfer(access, write, false, false, self.settings.multiple),
            0xCA | 0xCB => self.transfer(access, write, true, false, 1),
            0x3C => self.transfer(access, forced, false, false, 1),
            0x3D => self.transfer(access, forced, true, true, 1),
            0xCE => self.transfer(access, forced, false, true, self.settings.multiple),
            // READ VERIFY SECTORS.
            0x40 | 0x41 => self.transfer(access, Work::Verify, false, false, 1),
            0x42 => self.transfer(access, Work::Verify, false, true, 1),
            // SEEK.
            0x70..=0x7F => match self.address(access, false) {
                Some(lba) if lba < self.sectors => Next::Done,
                _ => Next::Fail(error::IDNF),
            },
            // DATA SET MANAGEMENT.
            0x06 => self.trim(access),
            // INITIALIZE DEVICE PARAMETERS.
            0x91 => match Geometry::new((*access.device & device::HEAD) + 1, access.file.count as u8) {
                Some(geometry) => {
                    self.settings.geometry = geometry;
                    Next::Done
                }
                None => Next::Fail(error::ABRT),
            },
            // SET MULTIPLE MODE.
            0xC6 => match access.file.count as u8 {
                sectors if sectors == 0 || sectors.is_power_of_two() && sectors <= MAX_MULTIPLE => {
                    self.settings.multiple = sectors;
                    Next::Done
                }
                _ => Next::Fail(error::ABRT),
            },
            // READ NATIVE MAX ADDRESS.
            0x27 | 0xF8 => {
                self.settings.addressing = if command == 0x27 { Addressing::Lba48 } else { Addressing::Lba28 };
                self.show_address(self.sectors - 1, access);
                Next::Done
            }
            // IDLE (IMMEDIATE).
            0x95 | 0xE1 | 0x97 | 0xE3 => {
                self.settings.power = Power::Active;
                Next::Done
            }
            // STANDBY (IMMEDIATE), SLEEP: what was written is not left in the cache.
            0x94 | 0xE0 | 0x96 | 0xE2 => {
                self.settings.power = Power::Standby;
                Next::Start(Transfer::silent(Work::Flush, 0, 0))
            }
            0x99 | 0xE6 => {
                self.settings.power = Power::Sleep;
                Next::Start(Transfer::silent(Work::Flush, 0, 0))
            }
            // CHECK POWER MODE.
            0x98 | 0xE5 => {
                access.file.count = if self.settings.power == Power::Active { 0xFF } else { 0x00 };
                Next::Done
            }
            // FLUSH CACHE (EXT).
            0xE7 | 0xEA => Next::Start(Transfer::silent(Work::Flush, 0, 0)),
            // IDENTIFY DEVICE.
            0xEC => {
                access.buffer.put(&identify::disk(self));
                Next::Start(Transfer::answer(identify::SIZE as u32, false))
            }
            // SET FEATURES.
            0xEF => self.set_features(access.file),
            READ_LOG_EXT | READ_LOG_DMA_EXT if self.place == Place::Serial => {
                self.read_log(command == READ_LOG_DMA_EXT, access)
            }
            // SMART.
            0xB0 => self.smart_command(access),
            // NOP, which always fails, and what there is not.
            _ => Next::Fail(error::ABRT),
        }
    }

    /// Looks at a queued command; `None` where it is another one. On a disk that is not in order, or that does not have the
    /// sectors, it fails with these bits in the error register.
    pub fn queue(&mut self, command: u8, file: &TaskFile, device: u8) -> Option<Result<Transfer, u8>> {
        let read = match command {
            _ if self.place != Place::Serial => return None,
            READ_FPDMA_QUEUED => true,
            WRITE_FPDMA_QUEUED => false,
            _ => return None,
        };
        if self.queue_error.is_some() || self.settings.power == Power::Sleep || !read && self.disk.readonly() {
            return Some(Err(error::ABRT));
        }
        self.settings.power = Power::Active;
        self.settings.addressing = Addressing::Lba48;
        let durable = device & device::FUA != 0 || !self.settings.write_cache;
        let work = if read { Work::Read(Format::Sector) } else { Work::Write { durable } };
        let left = if file.features == 0 { 0x1_0000 } else { file.features.into() };
        let next = file.lba48();
        match next < self.sectors && u64::from(left) <= self.sectors - next {
            true => Some(Ok(Transfer { work, dma: true, next, left, block: SECTOR as u32 })),
            false => Some(Err(error::IDNF)),
        }
    }

    /// Queued commands are given up as one of them has failed. What the host wants to know of the first is to be read in a
    /// log.
    pub fn queue_failed(&mut self, error: QueueError) {
        self.queue_error.get_or_insert(error);
    }

    /// READ LOG (DMA) EXT. ATA8-ACS, section 7.25.
    fn read_log(&mut self, dma: bool, access: &mut Access) -> Next {
        let page = access.file.lba_mid;
        if access.file.count != 1 || page != 0 {
            return Next::Fail(error::ABRT);
        }
        let answer = match access.file.lba_low as u8 {
            log::DIRECTORY if self.queue_error.is_none() => log::directory(),
            log::QUEUE_ERROR => log::queue_error(self.queue_error.take()),
            _ => return Next::Fail(error::ABRT),
        };
        access.buffer.put(&answer);
        Next::Start(Transfer::answer(answer.len() as u32, dma))
    }

    /// A command that names sectors; `wide` with 48 bits. PIO data come in blocks of `multiple` sectors.
    fn transfer(&mut self, access: &mut Access, work: Work, dma: bool, wide: bool, multiple: u8) -> Next {
        if multiple == 0 || matches!(work, Work::Write { .. }) && self.disk.readonly() {
            return Next::Fail(error::ABRT);
        }
        let left = match wide {
            true if access.file.count == 0 => 0x1_0000,
            true => u32::from(access.file.count),
            false if access.file.count as u8 == 0 => 0x100,
            false => u32::from(access.file.count as u8),
        };
        match self.address(access, wide) {
            Some(next) if next < self.sectors && u64::from(left) <= self.sectors - next => {
                Next::Start(Transfer { work, dma, next, left, block: u32::from(multiple) * SECTOR as u32 })
            }
            _ => Next::Fail(error::IDNF),
        }
    }

    /// The sector that the registers name, on the disk or not. `None`: no geometry has it.
    fn address(&mut self, access: &Access, wide: bool) -> Option<u64> {
        let file = &*access.file;
        let head = *access.device & device::HEAD;
        self.settings.addressing = match (wide, *access.device & device::LBA != 0) {
            (true, _) => Addressing::Lba48,
            (false, true) => Addressing::Lba28,
            (false, false) => Addressing::Chs,
        };
        match self.settings.addressing {
            Addressing::Lba48 => Some(file.lba48()),
            Addressing::Lba28 => Some(file.lba24() | u64::from(head) << 24),
            Addressing::Chs => self.settings.geometry.lba(file.byte_count(), head, file.lba_low as u8),
        }
    }

    /// Shows a sector's address in the form the command had.
    fn show_address(&self, lba: u64, access: &mut Access) {
        let head = match self.settings.addressing {
            Addressing::Lba48 => {
                access.file.set_lba48(lba);
                return;
            }
            Addressing::Lba28 => {
                let lba = lba.min(0x0FFF_FFFF);
                access.file.set_lba48(lba & 0xFF_FFFF);
                (lba >> 24) as u8
            }
            Addressing::Chs => {
                let (cylinder, head, sector) = self.settings.geometry.chs(lba);
                access.file.lba_low = sector.into();
                access.file.set_byte_count(cylinder);
                head
            }
        };
        *access.device = *access.device & !device::HEAD | head & device::HEAD;
    }

    /// DATA SET MANAGEMENT with its one function. ACS-3, section 7.5.
    fn trim(&self, access: &Access) -> Next {
        let blocks = access.file.count;
        let trims = access.file.features & 1 != 0 && (1..=identify::MAX_TRIM_BLOCKS).contains(&blocks);
        if !trims || self.disk.readonly() {
            return Next::Fail(error::ABRT);
        }
        let work = Work::Trim { durable: !self.settings.write_cache };
        Next::Start(Transfer { work, dma: true, next: 0, left: blocks.into(), block: SECTOR as u32 })
    }

    fn set_features(&mut self, file: &TaskFile) -> Next {
        match file.features as u8 {
            0x02 => self.settings.write_cache = true,
            // What is in the cache becomes durable first.
            0x82 => {
                self.settings.write_cache = false;
                return Next::Start(Transfer::silent(Work::Flush, 0, 0));
            }
            0x03 if self.settings.mode.set(file.count as u8) => {}
            0x55 => self.settings.look_ahead = false,
            0xAA => self.settings.look_ahead = true,
            // Whether a reset restores the defaults: it never does.
            0x66 | 0xCC => {}
            _ => return Next::Fail(error::ABRT),
        }
        Next::Done
    }

    fn smart_command(&mut self, access: &mut Access) -> Next {
        let function = access.file.features as u8;
        if access.file.byte_count() != smart::KEY || !self.settings.smart && function != smart::ENABLE {
            return Next::Fail(error::ABRT);
        }
        let answer = match function {
            smart::READ_DATA => smart::data(),
            smart::READ_THRESHOLDS => smart::thresholds(),
            smart::ENABLE | smart::DISABLE => {
                self.settings.smart = function == smart::ENABLE;
                return Next::Done;
            }
            // RETURN STATUS: no threshold is exceeded while the key stays there.
            smart::AUTOSAVE | smart::RETURN_STATUS => return Next::Done,
            _ => return Next::Fail(error::ABRT),
        };
        access.buffer.put(&answer);
        Next::Start(Transfer::answer(answer.len() as u32, false))
    }

    /// Shows where the command has ended. ATA-1 has it so, and later versions leave it open.
    pub fn succeeded(&mut self, transfer: &Transfer, access: &mut Access) {
        if matches!(transfer.work, Work::Read(_) | Work::Write { .. } | Work::Verify) {
            access.file.count = 0;
            self.show_address(transfer.next.saturating_sub(1), access);
        }
    }

    pub fn failed(&mut self, failure: Failure, transfer: &Transfer, access: &mut Access) -> u8 {
        let Failure::Disk(lba, cause) = failure else {
            return if failure == Failure::Range { error::IDNF } else { error::ABRT };
        };
        let reads = matches!(transfer.work, Work::Read(_) | Work::Verify);
        if reads || matches!(transfer.work, Work::Write { .. }) {
            self.show_address(lba, access);
        }
        match cause {
            BlockError::BeyondEnd => error::IDNF,
            BlockError::Io(_) if reads => error::UNC,
            _ => error::ABRT,
        }
    }

    pub fn reset(&mut self) {
        self.settings.power = Power::Active;
        self.queue_error = None;
    }

    pub fn power_on(&mut self) {
        self.settings = Settings::power_on();
        self.queue_error = None;
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let settings = &self.settings;
        writer.u64(self.sectors);
        for byte in [
            settings.geometry.heads,
            settings.geometry.sectors,
            settings.multiple,
            settings.mode.code(),
            settings.power as u8,
            settings.addressing as u8,
            settings.write_cache.into(),
            settings.look_ahead.into(),
            settings.smart.into(),
        ] {
            writer.u8(byte);
        }
        QueueError::save(self.queue_error, writer);
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        if reader.u64()? != self.sectors {
            return Err(reader.invalid("a disk was of another size"));
        }
        let geometry = Geometry::new(reader.u8()?, reader.u8()?);
        let multiple = reader.u8()?;
        if multiple != 0 && !(multiple.is_power_of_two() && multiple <= MAX_MULTIPLE) {
            return Err(reader.invalid("a block of an impossible size"));
        }
        self.settings = Settings {
            geometry: geometry.ok_or_else(|| reader.invalid("a geometry that there is not"))?,
            multiple,
            mode: TransferMode::load(reader)?,
            power: match reader.u8()? {
                0 => Power::Active,
                1 => Power::Standby,
                2 => Power::Sleep,
                _ => return Err(reader.invalid("a power mode that there is not")),
            },
            addressing: match reader.u8()? {
                0 => Addressing::Chs,
                1 => Addressing::Lba28,
                2 => Addressing::Lba48,
                _ => return Err(reader.invalid("addresses of an unknown form")),
            },
            write_cache: reader.bool()?,
            look_ahead: reader.bool()?,
            smart: reader.bool()?,
        };
        self.queue_error = QueueError::load(reader)?;
        Ok(())
    }
}

/// Whether a disk in standby has to become active for this command.
fn moves_heads(command: u8) -> bool {
    matches!(command, 0x06 | 0x10..=0x7F | 0xC4 | 0xC5 | 0xC8..=0xCE) && command != 0x27
}
