use hv::{GuestMemory, Layout};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a descriptor: address, count, flags. SFF-8038i, section 1.2.
const DESCRIPTOR: u64 = 8;
/// A table lies within a part of memory of this size.
const TABLE_BOUNDARY: u64 = 1 << 16;
/// The last descriptor.
const END_OF_TABLE: u32 = 1 << 31;

/// Some of what a descriptor names is no memory, or read-only where data shall go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outside;

/// The physical region descriptors of one transfer: where in guest memory its data lie. Each descriptor is read once,
/// when its turn comes; the memory's layout is that of the beginning.
pub(crate) struct PrdTable<'a> {
    memory: &'a GuestMemory,
    layout: Arc<Layout>,
    /// Data go to memory, so it must be writable.
    to_memory: bool,
    /// The next descriptor.
    next: u64,
    /// There is none.
    ended: bool,
    /// What is left of the current one.
    address: u64,
    left: u64,
}

impl<'a> PrdTable<'a> {
    pub fn new(memory: &'a GuestMemory, table: u32, to_memory: bool) -> Self {
        let layout = memory.layout();
        PrdTable { memory, layout, to_memory, next: table.into(), ended: false, address: 0, left: 0 }
    }

    /// Whether all of it was used up.
    pub fn exhausted(&self) -> bool {
        self.ended && self.left == 0
    }

    /// Appends to `pieces` where the next `wanted` bytes lie in the memory behind guest memory. Returns how many there
    /// are: fewer at the end of the table.
    pub fn gather(&mut self, wanted: u64, pieces: &mut Vec<Range<u64>>) -> Result<u64, Outside> {
        let mut got = 0;
        while got < wanted {
            if self.left == 0 {
                if self.ended {
                    break;
                }
                self.fetch()?;
            }
            let region = self.layout.region(self.address).filter(|region| !(self.to_memory && region.readonly));
            let region = region.ok_or(Outside)?;
            let within = self.address - region.address;
            let size = self.left.min(wanted - got).min(region.size - within);
            let start = region.offset + within;
            match pieces.last_mut() {
                Some(last) if last.end == start => last.end += size,
                _ => pieces.push(start..start + size),
            }
            self.address += size;
            self.left -= size;
            got += size;
        }
        Ok(got)
    }

    /// Goes on to the next descriptor. A table that reaches the boundary it may not cross ends there, so that there are
    /// at most 8,192 of them.
    fn fetch(&mut self) -> Result<(), Outside> {
        let mut descriptor = [0; DESCRIPTOR as usize];
        self.memory.read(self.next, &mut descriptor).map_err(|_| Outside)?;
        let [a0, a1, a2, a3, c0, c1, c2, c3] = descriptor;
        let count = u32::from_le_bytes([c0, c1, c2, c3]);
        self.next += DESCRIPTOR;
        self.ended = count & END_OF_TABLE != 0 || self.next % TABLE_BOUNDARY < DESCRIPTOR;
        self.address = u64::from(u32::from_le_bytes([a0, a1, a2, a3]) & !1);
        self.left = match count & 0xFFFE {
            0 => 0x1_0000,
            bytes => bytes.into(),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv::Region;

    const TABLE: u32 = 0x1000;

    fn memory() -> GuestMemory {
        let region = |address, size, offset, readonly| Region { address, size, offset, readonly };
        GuestMemory::new(&[
            region(0, 0x4_0000, 0, false),
            region(0x10_0000, 0x2000, 0x4_0000, false),
            region(0x20_0000, 0x1000, 0x4_2000, true),
        ])
        .unwrap()
    }

    fn write(memory: &GuestMemory, at: u32, descriptors: &[(u32, u32)]) {
        for (index, (address, count)) in (0..).zip(descriptors) {
            memory.write(u64::from(at) + 8 * index, &address.to_le_bytes()).unwrap();
            memory.write(u64::from(at) + 8 * index + 4, &count.to_le_bytes()).unwrap();
        }
    }

    fn gather(memory: &GuestMemory, wanted: u64, to_memory: bool) -> Result<(u64, Vec<Range<u64>>, bool), Outside> {
        let mut table = PrdTable::new(memory, TABLE, to_memory);
        let mut pieces = Vec::new();
        let got = table.gather(wanted, &mut pieces)?;
        Ok((got, pieces, table.exhausted()))
    }

    #[test]
    fn regions_come_in_order_and_neighbours_become_one() {
        let memory = memory();
        write(&memory, TABLE, &[(0x3000, 0x200), (0x3201, 0x101), (0x10_0000, 0x8000_0000 | 0x400)]);
        let expected = vec![0x3000..0x3300, 0x4_0000..0x4_0100];
        assert_eq!(gather(&memory, 0x400, true), Ok((0x400, expected, false)));
        assert!(gather(&memory, 0x700, true).unwrap().2);
        assert_eq!(gather(&memory, 0x800, true).unwrap().0, 0x700);
    }

    #[test]
    fn a_count_of_zero_is_64_kib() {
        let memory = memory();
        write(&memory, TABLE, &[(0x2_0000, 0), (0x3_0000, 0x8000_0000)]);
        assert_eq!(gather(&memory, 1 << 20, false), Ok((0x2_0000, vec![0x2_0000..0x4_0000], true)));
    }

    #[test]
    fn what_is_no_memory_is_refused_and_rom_is_not_written() {
        let memory = memory();
        for (address, count) in [(0x3_FF00, 0x200), (0xA_0000, 2), (0xFFFF_FFFE, 4), (0x10_1FFE, 0)] {
            write(&memory, TABLE, &[(address, 0x8000_0000 | count)]);
            assert_eq!(gather(&memory, 0x1_0000, true), Err(Outside), "{address:#x}");
        }
        write(&memory, TABLE, &[(0x20_0000, 0x8000_0000 | 0x200)]);
        assert_eq!(gather(&memory, 0x200, true), Err(Outside));
        assert_eq!(gather(&memory, 0x200, false), Ok((0x200, vec![0x4_2000..0x4_2200], true)));
        assert_eq!(PrdTable::new(&memory, 0xFFFF_FFFC, true).gather(1, &mut Vec::new()), Err(Outside));
    }

    #[test]
    fn a_table_without_an_end_ends_at_its_boundary() {
        let memory = memory();
        write(&memory, 0, &[(0x3_0000, 2); 8192]);
        let mut table = PrdTable::new(&memory, 0, true);
        let mut pieces = Vec::new();
        assert_eq!(table.gather(1 << 30, &mut pieces), Ok(2 * 8192));
        assert!(table.exhausted());
        let mut table = PrdTable::new(&memory, 0xFFF8, true);
        assert_eq!(table.gather(1 << 30, &mut pieces), Ok(2));
        // Four bytes off: the last descriptor would cross.
        let mut table = PrdTable::new(&memory, 0xFFF4, true);
        assert!(table.gather(1 << 30, &mut pieces).is_ok() && table.exhausted());
    }
}
