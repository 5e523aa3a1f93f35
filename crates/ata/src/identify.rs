//! What drives tell about themselves. ATA/ATAPI-6, sections 8.15 and 8.16; ACS-3, section 7.12; Serial ATA 2.6, section
//! 13.2.

use crate::disk::AtaDisk;
use crate::drive::Place;
use crate::modes::TransferMode;
use crate::transfer::{MAX_MULTIPLE, SECTOR};

const MODEL: &str = "Wirt disk";
const CDROM_MODEL: &str = "Wirt CD-ROM";
const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// Bytes of an answer.
pub(crate) const SIZE: usize = 512;

/// The longest serial number, in characters.
pub(crate) const SERIAL_SIZE: usize = 20;

/// Sectors that 28-bit commands reach.
const LBA28_LIMIT: u64 = 0x0FFF_FFFF;

/// Blocks of 512 bytes that DATA SET MANAGEMENT takes at once.
pub(crate) const MAX_TRIM_BLOCKS: u16 = 8;

/// Words 80 and 81: ATA/ATAPI-4 to -7, no minor version.
const VERSIONS: u16 = 0x00F0;

/// Word 76: 1.5 and 3 Gbit/s; and native command queuing, with this many commands (word 75).
const SERIAL_SPEEDS: u16 = 0x0006;
const SERIAL_QUEUED: u16 = 0x0100;
pub(crate) const QUEUE_DEPTH: u16 = 32;
/// Word 222: serial, as of SATA 2.6 and before.
const SERIAL_TRANSPORT: u16 = 0x101F;

struct Words([u16; SIZE / 2]);

impl Words {
    /// What both kinds of drive tell.
    fn new(model: &str, serial: &str, mode: TransferMode, place: Place) -> Self {
        let mut words = Words([0; SIZE / 2]);
        words.text(10, 10, serial);
        words.text(23, 4, FIRMWARE);
        words.text(27, 20, model);
        // Words 64 to 70, and 88, are valid.
        words.set(53, &[0x0006]);
        words.set(63, &[mode.multiword(), 0x0003, 120, 120, 120, 120]);
        words.set(80, &[VERSIONS]);
        words.set(88, &[mode.ultra()]);
        match place {
            Place::Parallel { second, shared } => words.set(93, &[hardware_reset_result(second, shared)]),
            Place::Serial => {
                words.set(76, &[SERIAL_SPEEDS]);
                words.set(222, &[SERIAL_TRANSPORT]);
            }
        }
        words
    }

    fn set(&mut self, at: usize, values: &[u16]) {
        self.0[at..at + values.len()].copy_from_slice(values);
    }

    /// ASCII, padded with spaces, the first character of each word in its upper byte.
    fn text(&mut self, at: usize, words: usize, text: &str) {
        let mut characters = text.bytes().chain(std::iter::repeat(b' '));
        for word in &mut self.0[at..at + words] {
            let mut next = || u16::from(characters.next().unwrap_or(b' '));
            *word = next() << 8 | next();
        }
    }

    /// The bytes, their sum made zero by the last one.
    fn finish(mut self) -> [u8; SIZE] {
        self.0[SIZE / 2 - 1] = 0x00A5;
        let mut bytes = [0; SIZE];
        for (pair, word) in bytes.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&word.to_le_bytes());
        }
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[SIZE - 1] = sum.wrapping_neg();
        bytes
    }
}

/// Word 93: what the drive saw on the cable, which has 80 wires. Firmware learns from it whether it need look for
/// device 1.
fn hardware_reset_result(second: bool, shared: bool) -> u16 {
    let seen = match (second, shared) {
        // Device 0 answers for an absent device 1, or has heard of a present one.
        (false, false) => 0x004B,
        (false, true) => 0x003B,
        (true, _) => 0x0B00,
    };
    0x6000 | seen
}

/// The answer to IDENTIFY DEVICE.
pub(crate) fn disk(disk: &AtaDisk) -> [u8; SIZE] {
    let mut words = Words::new(MODEL, disk.serial(), disk.mode(), disk.place());
    let split = |value: u64| [value as u16, (value >> 16) as u16, (value >> 32) as u16, (value >> 48) as u16];
    let original = disk.default_geometry();
    let current = disk.geometry();
    let sectors = disk.sectors();
    words.set(0, &[0x0040, original.cylinders(sectors), 0, original.heads.into()]);
    words.set(4, &[SECTOR as u16 * u16::from(original.sectors), SECTOR as u16, original.sectors.into()]);
    words.set(20, &[3, 512, 4]);
    words.set(47, &[0x8000 | u16::from(MAX_MULTIPLE), 1, 0x2F00, 0x4000, 0x0200, 0x0200, 0x0007]);
    words.set(54, &[current.cylinders(sectors), current.heads.into(), current.sectors.into()]);
    words.set(57, &split(current.capacity(sectors))[..2]);
    words.set(59, &[if disk.multiple() == 0 { 0 } else { 0x0100 | u16::from(disk.multiple()) }]);
    words.set(60, &split(sectors.min(LBA28_LIMIT))[..2]);
    // NOP, look-ahead, write cache, power management, SMART; 48-bit addresses, FLUSH CACHE (EXT); forced unit access.
    let optional = |on: bool, bit: u16| if on { bit } else { 0 };
    words.set(82, &[0x4069, 0x7400, 0x4040]);
    let enabled = 0x4008
        | optional(disk.look_ahead(), 1 << 6)
        | optional(disk.write_cache(), 1 << 5)
        | optional(disk.smart(), 1 << 0);
    words.set(85, &[enabled, 0x3400, 0x4040]);
    if disk.place() == Place::Serial {
        words.set(75, &[QUEUE_DEPTH - 1, SERIAL_SPEEDS | SERIAL_QUEUED]);
        // Logs can be read.
        words.set(84, &[0x4060]);
        words.set(87, &[0x4060]);
    }
    words.set(100, &split(sectors));
    words.set(105, &[MAX_TRIM_BLOCKS]);
    // TRIM; nothing rotates.
    words.set(169, &[0x0001]);
    words.set(217, &[0x0001]);
    words.finish()
}

/// The answer to IDENTIFY PACKET DEVICE.
pub(crate) fn cdrom(serial: &str, mode: TransferMode, place: Place) -> [u8; SIZE] {
    let mut words = Words::new(CDROM_MODEL, serial, mode, place);
    // A CD-ROM drive with removable media; it asks for packets of 12 bytes at once, without an interrupt.
    words.set(0, &[0x85C0]);
    words.set(49, &[0x0F00]);
    // NOP, DEVICE RESET, PACKET, power management.
    words.set(82, &[0x4218, 0x4000, 0x4000, 0x4218, 0x0000, 0x4000]);
    words.finish()
}
