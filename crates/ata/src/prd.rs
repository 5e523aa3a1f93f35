use hv::{GuestMemory, Layout};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a bus master's descriptor: address, count, flags. SFF-8038i, section 1.2.
const BUS_MASTER_DESCRIPTOR: u32 = 8;
/// A bus master's table lies within a part of memory of this size.
const TABLE_BOUNDARY: u32 = 1 << 16;
/// The last descriptor.
const END_OF_TABLE: u32 = 1 << 31;

/// Bytes of AHCI's descriptor: address, reserved, count and flags. AHCI 1.3.1, section 4.2.3.3.
const AHCI_DESCRIPTOR: u64 = 16;
/// Bytes less one.
const AHCI_COUNT: u32 = 0x3F_FFFF;
/// The host wants to know when it is used up.
const AHCI_INTERRUPT: u32 = 1 << 31;

/// Where a transfer's descriptors are, and in what form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// The bus master's of an IDE channel.
    BusMaster(u32),
    /// An AHCI command's.
    Ahci(Prdt),
}

/// Where the descriptors of an AHCI command are, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prdt {
    pub address: u64,
    pub entries: u16,
}

/// Some of what a descriptor names is no memory, or read-only where data shall go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outside;

/// What became of the descriptors of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Some of them were not needed.
    pub descriptors_left: bool,
    /// One was used up of which the host wants to know that.
    pub interrupt: bool,
    /// Bytes that were moved, or were about to be when something went wrong.
    pub moved: u64,
}

/// The physical region descriptors of one transfer: where in guest memory its data lie. Each descriptor is read once,
/// when its turn comes; the memory's layout is that of the beginning.
pub(crate) struct PrdTable<'a> {
    memory: &'a GuestMemory,
    layout: Arc<Layout>,
    /// Data go to memory, so it must be writable.
    to_memory: bool,
    /// The descriptors that come next.
    table: Table,
    /// There is none.
    ended: bool,
    /// What is left of the current one.
    address: u64,
    left: u64,
    /// Its flag.
    interrupt: bool,
    /// Of those before it.
    usage: Usage,
}

impl<'a> PrdTable<'a> {
    pub fn new(memory: &'a GuestMemory, table: Table, to_memory: bool) -> Self {
        let layout = memory.layout();
        let ended = matches!(table, Table::Ahci(Prdt { entries: 0, .. }));
        let usage = Usage::default();
        PrdTable { memory, layout, to_memory, table, ended, address: 0, left: 0, interrupt: false, usage }
    }

    /// What has become of it so far.
    pub fn usage(&self) -> Usage {
        Usage { descriptors_left: !self.ended || self.left > 0, ..self.usage }
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
            self.usage.moved += size;
            self.usage.interrupt |= self.interrupt && self.left == 0;
            got += size;
        }
        Ok(got)
    }

    /// Goes on to the next descriptor. There are at most 8,192 or 65,535 of them.
    fn fetch(&mut self) -> Result<(), Outside> {
        match &mut self.table {
            Table::BusMaster(next) => {
                let [address, count] = read_words(self.memory, (*next).into())?;
                *next = next.wrapping_add(BUS_MASTER_DESCRIPTOR);
                // A table that reaches the boundary it may not cross ends there.
                self.ended = count & END_OF_TABLE != 0 || *next % TABLE_BOUNDARY < BUS_MASTER_DESCRIPTOR;
                self.address = u64::from(address & !1);
                self.left = match count & 0xFFFE {
                    0 => 0x1_0000,
                    bytes => bytes.into(),
                };
            }
            Table::Ahci(Prdt { address, entries }) => {
                let [low, high, _, count] = read_words(self.memory, *address)?;
                *address = address.wrapping_add(AHCI_DESCRIPTOR);
                *entries = entries.saturating_sub(1);
                self.ended = *entries == 0;
                self.address = u64::from(low & !1) | u64::from(high) << 32;
                self.left = u64::from(count & AHCI_COUNT) + 1;
                self.interrupt = count & AHCI_INTERRUPT != 0;
            }
        }
        Ok(())
    }
}

/// Copies little-endian words out of guest memory.
pub(crate) fn read_words<const N: usize>(memory: &GuestMemory, address: u64) -> Result<[u32; N], Outside> {
    let mut words = [[0u8; 4]; N];
    memory.read(address, words.as_flattened_mut()).map_err(|_| Outside)?;
    Ok(words.map(u32::from_le_bytes))
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
        let mut table = PrdTable::new(memory, Table::BusMaster(TABLE), to_memory);
        let mut pieces = Vec::new();
        let got = table.gather(wanted, &mut pieces)?;
        Ok((got, pieces, !table.usage().descriptors_left))
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
    #[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
    fn a_count_of_zero_is_64_kib() {
        let memory = memory();
        write(&memory, TABLE, &[(0x2_0000, 0), (0x3_0000, 0x8000_0000)]);
        assert_eq!(gather(&memory, 1 << 20, false), Ok((0x2_0000, vec![0x2_0000..0x4_0000], true)));
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
    fn what_is_no_memory_is_refused_and_rom_is_not_written() {
        let memory = memory();
        for (address, count) in [(0x3_FF00, 0x200), (0xA_0000, 2), (0xFFFF_FFFE, 4), (0x10_1FFE, 0)] {
            write(&memory, TABLE, &[(address, 0x8000_0000 | count)]);
            assert_eq!(gather(&memory, 0x1_0000, true), Err(Outside), "{address:#x}");
        }
        write(&memory, TABLE, &[(0x20_0000, 0x8000_0000 | 0x200)]);
        assert_eq!(gather(&memory, 0x200, true), Err(Outside));
        assert_eq!(gather(&memory, 0x200, false), Ok((0x200, vec![0x4_2000..0x4_2200], true)));
        assert_eq!(
            PrdTable::new(&memory, Table::BusMaster(0xFFFF_FFFC), true).gather(1, &mut Vec::new()),
            Err(Outside)
        );
    }

    #[test]
    fn a_table_without_an_end_ends_at_its_boundary() {
        let memory = memory();
        write(&memory, 0, &[(0x3_0000, 2); 8192]);
        let mut table = PrdTable::new(&memory, Table::BusMaster(0), true);
        let mut pieces = Vec::new();
        assert_eq!(table.gather(1 << 30, &mut pieces), Ok(2 * 8192));
        assert!(!table.usage().descriptors_left);
        let mut table = PrdTable::new(&memory, Table::BusMaster(0xFFF8), true);
        assert_eq!(table.gather(1 << 30, &mut pieces), Ok(2));
        // Four bytes off: the last descriptor would cross.
        let mut table = PrdTable::new(&memory, Table::BusMaster(0xFFF4), true);
        assert!(table.gather(1 << 30, &mut pieces).is_ok() && !table.usage().descriptors_left);
    }
    fn write_ahci(memory: &GuestMemory, descriptors: &[(u64, u32)]) {
        for (index, (address, flags)) in (0..).zip(descriptors) {
            let at = u64::from(TABLE) + 16 * index;
            memory.write(at, &address.to_le_bytes()).unwrap();
            memory.write(at + 8, &[0xFF, 0xFF, 0xFF, 0xFF]).unwrap();
            memory.write(at + 12, &flags.to_le_bytes()).unwrap();
        }
    }

    #[test]
    fn ahcis_descriptors_have_64_bits_of_address_and_22_of_length() {
        let memory = memory();
        write_ahci(&memory, &[(0x3001, 0x1FF), (0x3200, 0x8000_01FF), (0x10_0000, 0x3FF), (0x1_0000_3000, 0x1FF)]);
        let mut table = PrdTable::new(&memory, Table::Ahci(Prdt { address: TABLE.into(), entries: 3 }), true);
        let mut pieces = Vec::new();
        assert_eq!((table.gather(0x3FF, &mut pieces), table.usage().interrupt), (Ok(0x3FF), false));
        assert_eq!(table.gather(0x201, &mut pieces), Ok(0x201));
        assert_eq!(pieces, [0x3000..0x3400, 0x4_0000..0x4_0200]);
        assert_eq!(table.usage(), Usage { descriptors_left: true, interrupt: true, moved: 0x600 });
        assert_eq!(table.gather(0x1000, &mut pieces), Ok(0x200));
        assert!(!table.usage().descriptors_left);
        // The fourth leads above 4 GiB, where there is nothing.
        let mut table = PrdTable::new(&memory, Table::Ahci(Prdt { address: TABLE.into(), entries: 4 }), true);
        assert_eq!(table.gather(0x1000, &mut pieces), Err(Outside));
        let mut none = PrdTable::new(&memory, Table::Ahci(Prdt { address: u64::MAX, entries: 0 }), true);
        assert_eq!((none.gather(2, &mut pieces), none.usage()), (Ok(0), Usage::default()));
        let mut nowhere = PrdTable::new(&memory, Table::Ahci(Prdt { address: u64::MAX - 7, entries: 2 }), true);
        assert_eq!(nowhere.gather(2, &mut pieces), Err(Outside));
        write_ahci(&memory, &[(u64::MAX, u32::MAX)]);
        let mut end = PrdTable::new(&memory, Table::Ahci(Prdt { address: TABLE.into(), entries: 1 }), false);
        assert_eq!(end.gather(1 << 20, &mut pieces), Err(Outside));
    }
}
