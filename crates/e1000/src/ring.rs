use board::{StateReader, StateWriter};

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_SIZE: u64 = 16;
/// What of RDLEN and TDLEN is there: multiples of 128 bytes below 1 MiB.
const LENGTH_MASK: u32 = 0x000F_FF80;

/// A descriptor ring: hardware owns the descriptors from the head up to the one before the tail. Manual, sections
/// 3.2.6 and 3.4.
///
/// All of it is as the driver wrote it, so nothing here may be relied on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ring {
    base: u64,
    length: u32,
    head: u16,
    tail: u16,
}

impl Ring {
    /// Descriptors in the ring.
    pub fn count(&self) -> u32 {
        self.length / DESCRIPTOR_SIZE as u32
    }

    /// Descriptors that hardware owns. A tail outside of the ring is one that the head never meets: all.
    pub fn available(&self) -> u32 {
        let (count, head, tail) = (self.count(), u32::from(self.head), u32::from(self.tail));
        match () {
            () if head >= count => 0,
            () if tail >= count => count,
            () if tail >= head => tail - head,
            () => tail + count - head,
        }
    }

    /// Whether the head meets the tail.
    pub fn ends(&self) -> bool {
        u32::from(self.tail) < self.count()
    }

    /// Guest physical address of the descriptor at the head; `None` when hardware owns none.
    pub fn next(&self) -> Option<u64> {
        if self.available() == 0 { None } else { self.base.checked_add(u64::from(self.head) * DESCRIPTOR_SIZE) }
    }

    /// Gives the descriptor at the head back.
    pub fn advance(&mut self) {
        self.head = if u32::from(self.head) + 1 < self.count() { self.head + 1 } else { 0 };
    }

    /// Reads one of the five registers: `offset` counts from the first, RDBAL or TDBAL.
    pub fn read(&self, offset: u32) -> u32 {
        match offset {
            0x00 => self.base as u32,
            0x04 => (self.base >> 32) as u32,
            0x08 => self.length,
            0x10 => u32::from(self.head),
            0x18 => u32::from(self.tail),
            _ => 0,
        }
    }

    /// Writes one.
    pub fn write(&mut self, offset: u32, value: u32) {
        match offset {
            0x00 => self.base = self.base & !0xFFFF_FFFF | u64::from(value & !0xF),
            0x04 => self.base = self.base & 0xFFFF_FFFF | u64::from(value) << 32,
            0x08 => self.length = value & LENGTH_MASK,
            0x10 => self.head = value as u16,
            0x18 => self.tail = value as u16,
            _ => {}
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        [0x00, 0x04, 0x08, 0x10, 0x18].into_iter().for_each(|offset| writer.u32(self.read(offset)));
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        for offset in [0x00, 0x04, 0x08, 0x10, 0x18] {
            self.write(offset, reader.u32()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(length: u32, head: u32, tail: u32) -> Ring {
        let mut ring = Ring::default();
        for (offset, value) in [(0x00, 0x1008), (0x04, 1), (0x08, length), (0x10, head), (0x18, tail)] {
            ring.write(offset, value);
        }
        ring
    }

    #[test]
    fn hardware_owns_from_head_to_tail() {
        assert_eq!(ring(128, 0, 0).next(), None);
        assert_eq!((ring(128, 2, 5).available(), ring(128, 5, 2).available()), (3, 5));
        let mut ring = ring(128, 7, 1);
        assert_eq!(ring.next(), Some(0x1_0000_1070));
        ring.advance();
        assert_eq!((ring.next(), ring.available()), (Some(0x1_0000_1000), 1));
        ring.advance();
        assert_eq!(ring.next(), None);
    }

    #[test]
    fn heads_and_tails_outside_of_the_ring_are_harmless() {
        assert_eq!(ring(0, 0, 1).available(), 0);
        assert_eq!(ring(128, 8, 0).available(), 0);
        assert_eq!((ring(128, 3, 8).available(), ring(128, 3, 8).ends()), (8, false));
        let mut large = ring(u32::MAX, 0xFFFF, 0x1_0000);
        assert_eq!((large.count(), large.available()), (0xFFF8, 0));
        large.advance();
        assert_eq!(large.read(0x10), 0);
        let mut high = ring(128, 1, 2);
        high.write(0x00, u32::MAX);
        high.write(0x04, u32::MAX);
        assert_eq!(high.next(), None, "beyond the end of addresses");
    }
}
