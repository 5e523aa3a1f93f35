//! The registers that host and device share, and the bits in them. ATA/ATAPI-6 (T13/1410D), chapter 7.

use board::{StateReader, StateWriter};

/// Offsets in the command block.
pub(crate) mod register {
    /// Data, 16 or 32 bits wide.
    pub const DATA: u64 = 0;
    /// Error when read, features when written.
    pub const ERROR: u64 = 1;
    /// Sector count; interrupt reason of packet commands.
    pub const COUNT: u64 = 2;
    pub const LBA_LOW: u64 = 3;
    /// Low byte of a packet command's byte count.
    pub const LBA_MID: u64 = 4;
    pub const LBA_HIGH: u64 = 5;
    pub const DEVICE: u64 = 6;
    /// Status when read, command when written.
    pub const STATUS: u64 = 7;
}

/// Status register.
pub(crate) mod status {
    pub const BSY: u8 = 1 << 7;
    pub const DRDY: u8 = 1 << 6;
    /// Device seek complete, which old drivers wait for.
    pub const DSC: u8 = 1 << 4;
    pub const DRQ: u8 = 1 << 3;
    pub const ERR: u8 = 1 << 0;
    /// At rest, and nothing went wrong.
    pub const READY: u8 = DRDY | DSC;
}

/// Error register.
pub(crate) mod error {
    /// Uncorrectable data.
    pub const UNC: u8 = 1 << 6;
    /// The address is not on the disk.
    pub const IDNF: u8 = 1 << 4;
    /// The command was aborted.
    pub const ABRT: u8 = 1 << 2;
    /// Diagnostic code: no error.
    pub const PASSED: u8 = 1;
}

/// Device register.
pub(crate) mod device {
    pub const LBA: u8 = 1 << 6;
    pub const DEV: u8 = 1 << 4;
    /// Of queued writes: forced unit access.
    pub const FUA: u8 = 1 << 7;
    /// The head, or bits 27:24 of the address.
    pub const HEAD: u8 = 0x0F;
    /// Bits that were always set once and that nobody uses.
    pub const OBSOLETE: u8 = 1 << 7 | 1 << 5;
}

/// Device control register.
pub(crate) mod control {
    /// Reads of the command block show the bytes written before the last ones.
    pub const HOB: u8 = 1 << 7;
    pub const SRST: u8 = 1 << 2;
    /// The device does not interrupt.
    pub const NIEN: u8 = 1 << 1;
}

/// Interrupt reason of packet commands, in the place of the sector count.
pub(crate) mod reason {
    /// A command or, with [`IO`], the status is transferred, no data.
    pub const COD: u8 = 1 << 0;
    /// To the host.
    pub const IO: u8 = 1 << 1;
}

/// Command codes that concern every kind of device.
pub(crate) mod command {
    pub const DEVICE_RESET: u8 = 0x08;
    pub const EXECUTE_DEVICE_DIAGNOSTIC: u8 = 0x90;
}

/// What a device shows after a reset to be recognised by. ATA/ATAPI-6, section 9.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    /// A device without the PACKET command, or none.
    Ata,
    /// A device with it.
    Atapi,
}

/// One device's command block. Those that a host writes hold two bytes: the last one and, above it, the one before,
/// which 48-bit commands use as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskFile {
    pub features: u16,
    pub count: u16,
    pub lba_low: u16,
    pub lba_mid: u16,
    pub lba_high: u16,
    pub error: u8,
    pub status: u8,
    /// An interrupt that the host has not acknowledged.
    pub interrupt: bool,
}

impl TaskFile {
    /// Writes one of the registers that are bytes and no command.
    pub fn write(&mut self, offset: u64, value: u8) {
        let register = match offset {
            register::ERROR => &mut self.features,
            register::COUNT => &mut self.count,
            register::LBA_LOW => &mut self.lba_low,
            register::LBA_MID => &mut self.lba_mid,
            register::LBA_HIGH => &mut self.lba_high,
            _ => return,
        };
        *register = *register << 8 | u16::from(value);
    }

    /// Reads one of them; with `hob` the byte from before.
    pub fn read(&self, offset: u64, hob: bool) -> u8 {
        let value = match offset {
            register::ERROR if hob => self.features,
            register::ERROR => return self.error,
            register::COUNT => self.count,
            register::LBA_LOW => self.lba_low,
            register::LBA_MID => self.lba_mid,
            register::LBA_HIGH => self.lba_high,
            _ => 0,
        };
        if hob { (value >> 8) as u8 } else { value as u8 }
    }

    /// The 24 bits of an address that these registers hold in all forms of it.
    pub fn lba24(&self) -> u64 {
        let byte = |register: u16| u64::from(register as u8);
        byte(self.lba_low) | byte(self.lba_mid) << 8 | byte(self.lba_high) << 16
    }

    /// A 48-bit address.
    pub fn lba48(&self) -> u64 {
        let before = |register: u16| u64::from(register >> 8);
        self.lba24() | before(self.lba_low) << 24 | before(self.lba_mid) << 32 | before(self.lba_high) << 40
    }

    /// Puts a 48-bit address there; the upper half is what HOB shows.
    pub fn set_lba48(&mut self, lba: u64) {
        let pair = |low: u32| ((lba >> low & 0xFF) | (lba >> (low + 24) & 0xFF) << 8) as u16;
        (self.lba_low, self.lba_mid, self.lba_high) = (pair(0), pair(8), pair(16));
    }

    /// Bytes that a packet command may transfer at once, or transfers now.
    pub fn byte_count(&self) -> u16 {
        u16::from(self.lba_mid as u8) | u16::from(self.lba_high as u8) << 8
    }

    /// Shows how many bytes a packet command transfers now.
    pub fn set_byte_count(&mut self, count: u16) {
        (self.lba_mid, self.lba_high) = (count & 0xFF, count >> 8);
    }

    /// Shows what kind of device this is, and that its diagnostic passed.
    pub fn sign(&mut self, signature: Signature) {
        (self.count, self.lba_low) = (1, 1);
        (self.lba_mid, self.lba_high) = match signature {
            Signature::Ata => (0, 0),
            Signature::Atapi => (0x14, 0xEB),
        };
    }

    pub fn save(&self, writer: &mut StateWriter) {
        for value in [self.features, self.count, self.lba_low, self.lba_mid, self.lba_high] {
            writer.u16(value);
        }
        writer.u8(self.error);
        writer.u8(self.status);
        writer.u8(self.interrupt.into());
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        Ok(TaskFile {
            features: reader.u16()?,
            count: reader.u16()?,
            lba_low: reader.u16()?,
            lba_mid: reader.u16()?,
            lba_high: reader.u16()?,
            error: reader.u8()?,
            status: reader.u8()?,
            interrupt: reader.bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writes_make_a_48_bit_address() {
        let mut file = TaskFile::default();
        for (offset, value) in [(3, 0x44), (3, 0x11), (4, 0x55), (4, 0x22), (5, 0x66), (5, 0x33)] {
            file.write(offset, value);
        }
        assert_eq!((file.lba24(), file.lba48()), (0x33_2211, 0x6655_4433_2211));
        assert_eq!([3, 4, 5].map(|offset| file.read(offset, true)), [0x44, 0x55, 0x66]);
        let mut other = TaskFile::default();
        other.set_lba48(0x6655_4433_2211);
        assert_eq!((other.lba_low, other.lba_mid, other.lba_high), (file.lba_low, file.lba_mid, file.lba_high));
    }
}
