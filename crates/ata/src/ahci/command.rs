//! What a command slot holds: the command header, the command FIS, and where the descriptors are. AHCI 1.3.1, sections
//! 4.2.2 and 4.2.3.

use crate::prd::{Outside, Prdt, read_words};
use crate::registers::TaskFile;
use crate::transfer::PACKET_SIZE;
use hv::GuestMemory;

/// Bytes of a command header, and where in it the count of bytes moved is.
const HEADER_SIZE: u64 = 32;
const BYTE_COUNT_AT: u64 = 4;

/// First word of a command header: words of the command FIS; there is a packet; number of descriptors above.
const FIS_LENGTH: u32 = 0x1F;
const ATAPI: u32 = 1 << 5;
/// A command FIS has 2 to 16 words.
const FIS_LENGTHS: std::ops::RangeInclusive<u32> = 2..=16;
/// The low bits of a command table's address, which are reserved.
const TABLE_ALIGNMENT: u64 = 0x7F;

/// Offsets in a command table: the packet, and the descriptors.
const PACKET_AT: u64 = 0x40;
const DESCRIPTORS_AT: u64 = 0x80;

/// Register FIS, host to device. Serial ATA 2.6, section 10.3.4.
const REGISTER: u8 = 0x27;
/// Second byte: the command register was written, not device control.
const COMMAND: u8 = 1 << 7;

/// What the host wants of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// It has written the command register.
    Command(u8),
    /// It has written the device control register.
    Control(u8),
}

/// A command slot, copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub request: Request,
    pub file: TaskFile,
    pub device: u8,
    pub packet: Option<[u8; PACKET_SIZE]>,
    /// Where the command header is.
    pub header: u64,
    pub prdt: Prdt,
}

/// Why there is nothing to be had of a command slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadSlot {
    /// Some of it is in no memory.
    Outside,
    /// It holds no FIS that a host can send to a device.
    NoFis,
}

impl From<Outside> for BadSlot {
    fn from(_: Outside) -> Self {
        BadSlot::Outside
    }
}

impl Slot {
    /// Fetches slot `index`, 0..32, of the command list at `list`.
    pub fn fetch(memory: &GuestMemory, list: u64, index: u8) -> Result<Self, BadSlot> {
        let header = list.wrapping_add(u64::from(index) * HEADER_SIZE);
        let [flags, _, low, high] = read_words(memory, header)?;
        let table = (u64::from(low) | u64::from(high) << 32) & !TABLE_ALIGNMENT;
        let mut fis = [0; 16];
        memory.read(table, &mut fis).map_err(|_| Outside)?;
        let packet = match flags & ATAPI != 0 {
            true => {
                let mut packet = [0; PACKET_SIZE];
                memory.read(table.wrapping_add(PACKET_AT), &mut packet).map_err(|_| Outside)?;
                Some(packet)
            }
            false => None,
        };
        // What a FIS that ends early does not have is zero.
        let length = flags & FIS_LENGTH;
        fis.iter_mut().skip(length as usize * 4).for_each(|byte| *byte = 0);
        let [
            kind,
            how,
            command,
            features,
            low,
            mid,
            high,
            device,
            low1,
            mid1,
            high1,
            features1,
            count,
            count1,
            _,
            control,
        ] = fis;
        if kind != REGISTER || !FIS_LENGTHS.contains(&length) {
            return Err(BadSlot::NoFis);
        }
        let request = if how & COMMAND != 0 { Request::Command(command) } else { Request::Control(control) };
        let file = TaskFile {
            features: u16::from_le_bytes([features, features1]),
            count: u16::from_le_bytes([count, count1]),
            lba_low: u16::from_le_bytes([low, low1]),
            lba_mid: u16::from_le_bytes([mid, mid1]),
            lba_high: u16::from_le_bytes([high, high1]),
            ..TaskFile::default()
        };
        let prdt = Prdt { address: table.wrapping_add(DESCRIPTORS_AT), entries: (flags >> 16) as u16 };
        Ok(Slot { request, file, device, packet, header, prdt })
    }
}

/// Where the header at `header` tells how many bytes were moved.
pub(crate) fn byte_count_address(header: u64) -> u64 {
    header.wrapping_add(BYTE_COUNT_AT)
}
