/// The longest command descriptor block there is here.
const MAX_SIZE: usize = 16;

/// A command descriptor block. Numbers in it are big-endian. SPC-4, section 4.2.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; MAX_SIZE],
    size: usize,
}

impl Cdb {
    /// Copies the block at the start of `bytes`. `None`: its operation code tells no size, or there are fewer bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        // The group of the operation code. Group 3 has blocks of variable size, groups 6 and 7 are the vendors'.
        let size = match bytes.first()? >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            5 => 12,
            _ => return None,
        };
        let mut copy = [0; MAX_SIZE];
        copy[..size].copy_from_slice(bytes.get(..size)?);
        Some(Cdb { bytes: copy, size })
    }

    /// The operation code.
    pub fn operation(&self) -> u8 {
        self.bytes[0]
    }

    /// The service action, where the command has some.
    pub(crate) fn action(&self) -> u8 {
        self.u8(1) & 0x1F
    }

    /// The control byte, the last one.
    pub(crate) fn control(&self) -> u8 {
        self.u8(self.size - 1)
    }

    /// The byte at `at`; zero behind the end.
    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from(self.u8(at)) << 8 | u16::from(self.u8(at + 1))
    }

    pub(crate) fn u24(&self, at: usize) -> u32 {
        u32::from(self.u8(at)) << 16 | u32::from(self.u16(at + 1))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    /// The first block and the number of blocks, in the place that each size of block has for them. SPC-4, section
    /// 4.2.2.
    pub(crate) fn blocks(&self) -> (u64, u32) {
        match self.size {
            6 => (u64::from(self.u24(1) & 0x1F_FFFF), u32::from(self.u8(4))),
            10 => (self.u32(2).into(), self.u16(7).into()),
            12 => (self.u32(2).into(), self.u32(6)),
            _ => (self.u64(2), self.u32(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_code_tells_the_size() {
        let sized = |code: u8, room: usize| {
            let mut bytes = [0; 32];
            bytes[0] = code;
            Cdb::new(&bytes[..room]).map(|cdb| cdb.size)
        };
        for (code, size) in [(0x12, 6), (0x28, 10), (0x5A, 10), (0x9E, 16), (0xA0, 12)] {
            assert_eq!((sized(code, 32), sized(code, size), sized(code, size - 1)), (Some(size), Some(size), None));
        }
        assert_eq!([0x7F, 0xC0, 0xFF].map(|code| sized(code, 32)), [None; 3]);
        assert_eq!(Cdb::new(&[]), None);
    }

    #[test]
    fn blocks_are_where_their_size_has_them() {
        let blocks = |bytes: &[u8]| Cdb::new(bytes).unwrap().blocks();
        assert_eq!(blocks(&[0x08, 0xFF, 2, 3, 4, 0]), (0x1F_0203, 4));
        assert_eq!(blocks(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]), (0x0102_0304, 0x0506));
        assert_eq!(blocks(&[0xA8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]), (0x0102_0304, 0x0506_0708));
        let wide = [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0];
        assert_eq!(blocks(&wide), (0x0102_0304_0506_0708, 0x090A_0B0C));
    }
}
