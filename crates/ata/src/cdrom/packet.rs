use crate::format::from_msf;

/// A command packet. Numbers in it are big-endian.
#[derive(Clone, Copy)]
pub(super) struct Packet<'a>(pub &'a [u8; 12]);

impl Packet<'_> {
    /// The operation code.
    pub fn operation(self) -> u8 {
        self.0[0]
    }

    /// Whether the command is carried out in spite of a change that the host has not heard of. MMC-3, section 4.1.6.1.
    pub fn ignores_news(self) -> bool {
        matches!(self.operation(), 0x03 | 0x12 | 0x46 | 0x4A)
    }

    /// The byte at `at`; zero behind the end.
    pub fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub fn u16(self, at: usize) -> u16 {
        u16::from(self.u8(at)) << 8 | u16::from(self.u8(at + 1))
    }

    pub fn u24(self, at: usize) -> u32 {
        u32::from(self.u8(at)) << 16 | u32::from(self.u16(at + 1))
    }

    pub fn u32(self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    /// Whether addresses in the answer are minutes, seconds and frames.
    pub fn wants_msf(self) -> bool {
        self.u8(1) & 2 != 0
    }

    /// First and last block of READ CD MSF, the last one left out.
    pub fn times(self) -> Option<(u64, u64)> {
        let at = |at: usize| from_msf([self.u8(at), self.u8(at + 1), self.u8(at + 2)]);
        Some((at(3)?, at(6)?))
    }
}
