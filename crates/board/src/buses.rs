use crate::{AccessSizes, Action, Device};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Who carries out what a device's write asks for. Called on the writing vCPU's thread: must not block.
pub trait ActionSink: Send + Sync {
    /// Begins to end or reset the machine.
    fn act(&self, action: Action);
}

/// Why a range could not be put on a bus. The text is one sentence.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// Another device answers there.
    #[error("{bus} {first:#x}..={last:#x} of {name} overlap {other_first:#x}..={other_last:#x} of {other}")]
    Overlap {
        /// `ports` or `addresses`.
        bus: &'static str,
        /// First of the range refused.
        first: u64,
        /// Last of the range refused.
        last: u64,
        /// The device refused.
        name: String,
        /// First of the range in the way.
        other_first: u64,
        /// Last of the range in the way.
        other_last: u64,
        /// The device in the way.
        other: String,
    },
    /// The range ends before it begins.
    #[error("{0} declares an empty range")]
    Empty(String),
}

/// The machine's two buses: I/O ports and memory-mapped I/O.
///
/// An access is cut into naturally aligned pieces of at most the device's largest size, each answered by the device it
/// falls on. Pieces below the smallest size, and those nobody claims, read all ones and write nothing.
///
/// Look-ups take no lock: each bus is a sorted table behind an atomic pointer. Insertions and removals copy the table;
/// `changes` makes them one at a time. It is the only lock here, and no device is called under it.
pub struct Buses {
    ports: ArcSwap<Table>,
    mmio: ArcSwap<Table>,
    changes: Mutex<()>,
    /// Of the tables: raised behind each change.
    version: AtomicU64,
    sink: OnceLock<Weak<dyn ActionSink>>,
}

/// What answers where.
struct Table {
    /// Ascending by `first`, disjoint.
    entries: Vec<Entry>,
    /// By parts of addresses: the entry that one was found in last.
    lately: [AtomicU16; 64],
}

impl Table {
    fn new(entries: Vec<Entry>) -> Self {
        Table { entries, lately: [const { AtomicU16::new(0) }; 64] }
    }

    /// The entry that an address lies in.
    #[inline]
    fn find(&self, address: u64) -> Option<&Entry> {
        let answers = |entry: &&Entry| entry.first <= address && address <= entry.last;
        let lately = &self.lately[((address >> 3 ^ address >> 12) & 63) as usize];
        let found = self.entries.get(usize::from(lately.load(Ordering::Relaxed))).filter(answers);
        found.or_else(|| {
            let index = self.entries.partition_point(|entry| entry.last < address);
            lately.store(u16::try_from(index).unwrap_or(u16::MAX), Ordering::Relaxed);
            self.entries.get(index).filter(answers)
        })
    }
}

#[derive(Clone)]
struct Entry {
    first: u64,
    last: u64,
    sizes: AccessSizes,
    device: Arc<dyn Device>,
}

impl Default for Buses {
    fn default() -> Self {
        Self::new()
    }
}

impl Buses {
    /// Two empty buses.
    pub fn new() -> Self {
        Buses {
            ports: ArcSwap::from_pointee(Table::new(Vec::new())),
            mmio: ArcSwap::from_pointee(Table::new(Vec::new())),
            changes: Mutex::new(()),
            version: AtomicU64::new(0),
            sink: OnceLock::new(),
        }
    }

    /// Sets who carries out actions. Once: later calls change nothing. Without one, actions are lost.
    pub fn set_action_sink(&self, sink: Weak<dyn ActionSink>) {
        let _ = self.sink.set(sink);
    }

    /// Lets `device` answer a range of ports; offsets it sees count from the range's first.
    ///
    /// # Errors
    /// [`BusError`] when the range is empty or taken.
    pub fn insert_port(&self, range: RangeInclusive<u16>, device: Arc<dyn Device>) -> Result<(), BusError> {
        self.insert(&self.ports, "ports", u64::from(*range.start()), u64::from(*range.end()), device)
    }

    /// Lets `device` answer a range of guest physical addresses, where RAM does not answer before it.
    ///
    /// # Errors
    /// [`BusError`] when the range is empty or taken.
    pub fn insert_mmio(&self, range: RangeInclusive<u64>, device: Arc<dyn Device>) -> Result<(), BusError> {
        self.insert(&self.mmio, "addresses", *range.start(), *range.end(), device)
    }

    /// Takes the range that begins at `first` off the port bus; false when there is none.
    pub fn remove_port(&self, first: u16) -> bool {
        self.remove(&self.ports, u64::from(first))
    }

    /// Takes the range that begins at `first` off the memory bus; false when there is none.
    pub fn remove_mmio(&self, first: u64) -> bool {
        self.remove(&self.mmio, first)
    }

    /// Takes everything off both buses.
    pub fn clear(&self) {
        let _one_at_a_time = self.changes.lock();
        self.ports.store(Arc::new(Table::new(Vec::new())));
        self.mmio.store(Arc::new(Table::new(Vec::new())));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// What answers where, for people: (bus, first, last, device name), ascending.
    pub fn map(&self) -> Vec<(&'static str, u64, u64, String)> {
        let list = |bus, table: &ArcSwap<Table>| {
            let row = |entry: &Entry| (bus, entry.first, entry.last, entry.device.name().to_owned());
            table.load().entries.iter().map(row).collect::<Vec<_>>()
        };
        [list("port", &self.ports), list("mmio", &self.mmio)].concat()
    }

    /// All devices, each once however many ranges it answers: ports first, ascending. For snapshots, which keep the
    /// states in this order.
    pub fn devices(&self) -> Vec<Arc<dyn Device>> {
        let mut devices: Vec<Arc<dyn Device>> = Vec::new();
        for table in [self.ports.load(), self.mmio.load()] {
            for Entry { device, .. } in &table.entries {
                if !devices.iter().any(|known| Arc::ptr_eq(known, device)) {
                    devices.push(device.clone());
                }
            }
        }
        devices
    }

    fn insert(
        &self,
        bus: &ArcSwap<Table>,
        kind: &'static str,
        first: u64,
        last: u64,
        device: Arc<dyn Device>,
    ) -> Result<(), BusError> {
        if first > last {
            return Err(BusError::Empty(device.name().to_owned()));
        }
        let _one_at_a_time = self.changes.lock();
        let mut table = bus.load().entries.clone();
        let index = table.partition_point(|entry| entry.last < first);
        if let Some(other) = table.get(index).filter(|other| other.first <= last) {
            return Err(BusError::Overlap {
                bus: kind,
                first,
                last,
                name: device.name().to_owned(),
                other_first: other.first,
                other_last: other.last,
                other: other.device.name().to_owned(),
            });
        }
        table.insert(index, Entry { first, last, sizes: device.sizes(), device });
        bus.store(Arc::new(Table::new(table)));
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn remove(&self, bus: &ArcSwap<Table>, first: u64) -> bool {
        let _one_at_a_time = self.changes.lock();
        let mut table = bus.load().entries.clone();
        let Ok(index) = table.binary_search_by_key(&first, |entry| entry.first) else { return false };
        table.remove(index);
        bus.store(Arc::new(Table::new(table)));
        self.version.fetch_add(1, Ordering::Release);
        true
    }

    /// `data` is all ones, and stays so where nobody answers.
    fn read(bus: &ArcSwap<Table>, address: u64, data: &mut [u8]) {
        let table = bus.load();
        let mut done = 0;
        while done < data.len() {
            let Some(at) = address.checked_add(done as u64) else { return };
            let piece = Piece::at(&table, at, data.len() - done);
            if let Some((device, offset)) = piece.device {
                device.read(offset, &mut data[done..done + piece.size]);
            }
            done += piece.size;
        }
    }

    fn write(&self, bus: &ArcSwap<Table>, address: u64, data: &[u8]) {
        let table = bus.load();
        let mut done = 0;
        while done < data.len() {
            let Some(at) = address.checked_add(done as u64) else { return };
            let piece = Piece::at(&table, at, data.len() - done);
            if let Some((device, offset)) = piece.device {
                act(self.sink.get(), device.write(offset, &data[done..done + piece.size]));
            }
            done += piece.size;
        }
    }
}

/// Accesses of one size at one place of a device.
struct DevicePort {
    device: Arc<dyn Device>,
    offset: u64,
    size: usize,
    sink: Option<Weak<dyn ActionSink>>,
}

impl hv::Port for DevicePort {
    fn read(&self) -> u32 {
        let mut data = [0; 4];
        data[..self.size].fill(0xFF);
        self.device.read(self.offset, &mut data[..self.size]);
        u32::from_le_bytes(data)
    }

    fn write(&self, value: u32) {
        act(self.sink.as_ref(), self.device.write(self.offset, &value.to_le_bytes()[..self.size]));
    }
}

/// Has an action carried out.
fn act(sink: Option<&Weak<dyn ActionSink>>, action: Action) {
    if action != Action::None {
        if let Some(sink) = sink.and_then(Weak::upgrade) {
            sink.act(action);
        }
    }
}

/// The first part of an access: at most what one device takes at once.
struct Piece<'a> {
    size: usize,
    device: Option<(&'a dyn Device, u64)>,
}

impl<'a> Piece<'a> {
    #[inline]
    fn at(table: &'a Table, address: u64, wanted: usize) -> Self {
        let Some(entry) = table.find(address) else {
            return Piece { size: 1, device: None };
        };
        let sizes = entry.sizes;
        let left = (entry.last - address).saturating_add(1).min(wanted as u64);
        let mut size = left.min(u64::from(sizes.max)).max(1);
        // Round down to a power of two that divides the address.
        size = 1 << size.ilog2();
        size = size.min(1 << address.trailing_zeros().min(6));
        let fits = size >= u64::from(sizes.min);
        Piece { size: size as usize, device: fits.then_some((&*entry.device, address - entry.first)) }
    }
}

impl hv::Bus for Buses {
    fn pio_read(&self, port: u16, size: u8) -> u32 {
        let mut data = [0xFF; 4];
        let size = usize::from(size).clamp(1, 4);
        Self::read(&self.ports, u64::from(port), &mut data[..size]);
        u32::from_le_bytes(data) & u32::MAX >> (32 - 8 * size)
    }

    fn pio_write(&self, port: u16, size: u8, value: u32) {
        let size = usize::from(size).min(4);
        self.write(&self.ports, u64::from(port), &value.to_le_bytes()[..size]);
    }

    fn port(&self, port: u16, size: u8) -> Option<Box<dyn hv::Port>> {
        let table = self.ports.load();
        let entry = table.find(u64::from(port))?;
        let piece = Piece::at(&table, u64::from(port), usize::from(size));
        let (_, offset) = piece.device.filter(|_| piece.size == usize::from(size))?;
        let sink = self.sink.get().cloned();
        Some(Box::new(DevicePort { device: entry.device.clone(), offset, size: piece.size.min(4), sink }))
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xFF);
        Self::read(&self.mmio, address, data);
    }

    fn mmio_write(&self, address: u64, data: &[u8]) {
        self.write(&self.mmio, address, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AccessSizes;
    use hv::Bus;

    /// Reads give the offset of each byte; writes are logged.
    struct Ramp {
        name: &'static str,
        sizes: AccessSizes,
        log: Mutex<Vec<(u64, Vec<u8>)>>,
    }

    impl Ramp {
        fn new(name: &'static str, min: u8, max: u8) -> Arc<Self> {
            Arc::new(Ramp { name, sizes: AccessSizes { min, max }, log: Mutex::default() })
        }
    }

    impl Device for Ramp {
        fn name(&self) -> &str {
            self.name
        }
        fn sizes(&self) -> AccessSizes {
            self.sizes
        }
        fn read(&self, offset: u64, data: &mut [u8]) {
            for (index, byte) in data.iter_mut().enumerate() {
                *byte = offset as u8 + index as u8;
            }
        }
        fn write(&self, offset: u64, data: &[u8]) -> Action {
            self.log.lock().push((offset, data.to_vec()));
            if data[0] == 0xEE { Action::Exit(7) } else { Action::None }
        }
    }

    #[test]
    fn overlap_is_refused_and_names_both() {
        let buses = Buses::new();
        buses.insert_port(0x60..=0x64, Ramp::new("i8042", 1, 1)).unwrap();
        for range in [0x64..=0x70, 0x50..=0x60, 0x61..=0x62, 0..=0xFFFF] {
            let text = buses.insert_port(range, Ramp::new("other", 1, 1)).unwrap_err().to_string();
            assert!(text.contains("i8042") && text.contains("other"), "{text}");
        }
        buses.insert_port(0x65..=0x65, Ramp::new("next", 1, 1)).unwrap();
        assert!(buses.remove_port(0x60));
        assert!(!buses.remove_port(0x60));
        buses.insert_port(0x60..=0x64, Ramp::new("again", 1, 1)).unwrap();
    }

    #[test]
    fn a_port_that_was_found_does_what_the_bus_does() {
        let buses = Buses::new();
        let [bytes, words] = [Ramp::new("bytes", 1, 1), Ramp::new("words", 2, 4)];
        buses.insert_port(0x10..=0x17, bytes.clone()).unwrap();
        buses.insert_port(0x20..=0x27, words.clone()).unwrap();
        let found = |port, size| buses.port(port, size).map(|found| found.read());
        assert_eq!([found(0x13, 1), found(0x22, 2), found(0x24, 4)], [Some(3), Some(0x0302), Some(0x0706_0504)]);
        // Several pieces, too small, nobody.
        assert_eq!([found(0x12, 2), found(0x23, 1), found(0x21, 2), found(0x30, 1)], [None; 4]);
        let version = buses.version();
        buses.port(0x24, 4).unwrap().write(0x4433_2211);
        buses.port(0x15, 1).unwrap().write(0xAABB);
        assert_eq!(*words.log.lock(), [(4, vec![0x11, 0x22, 0x33, 0x44])]);
        assert_eq!(*bytes.log.lock(), [(5, vec![0xBB])]);
        assert_eq!(buses.version(), version);
        buses.remove_port(0x10);
        assert_ne!(buses.version(), version);
        assert_eq!(found(0x13, 1), None);
    }

    #[test]
    fn each_address_finds_its_own_device_in_any_order() {
        let buses = Buses::new();
        // Ranges of 1 to 7 ports, some of them side by side.
        let ranges: Vec<(u64, u64)> = (0..200).map(|number| (number * 8, number * 8 + number % 7)).collect();
        for &(first, last) in &ranges {
            buses.insert_port(first as u16..=last as u16, Ramp::new("ramp", 1, 1)).unwrap();
            buses.insert_mmio(first << 12..=last << 12, Ramp::new("ramp", 1, 1)).unwrap();
        }
        for step in (0..10_000u64).map(|step| step * 7919 % 1600) {
            let answers = ranges.iter().find(|range| (range.0..=range.1).contains(&step));
            let expected = answers.map_or(0xFF, |range| (step - range.0) as u8);
            assert_eq!(buses.pio_read(step as u16, 1), u32::from(expected), "port {step:#x}");
            let mut byte = [0];
            buses.mmio_read(step << 12, &mut byte);
            assert_eq!(byte[0], answers.map_or(0xFF, |_| 0), "address {step:#x}000");
        }
    }

    #[test]
    fn unclaimed_reads_are_all_ones() {
        let buses = Buses::new();
        assert_eq!(buses.pio_read(0x123, 1), 0xFF);
        assert_eq!(buses.pio_read(0x123, 4), 0xFFFF_FFFF);
        let mut data = [0; 64];
        buses.mmio_read(u64::MAX - 10, &mut data);
        assert_eq!(data, [0xFF; 64]);
    }

    #[test]
    fn wide_accesses_are_split_and_span_devices() {
        let buses = Buses::new();
        let bytes = Ramp::new("bytes", 1, 1);
        buses.insert_port(0x10..=0x11, bytes.clone()).unwrap();
        buses.insert_port(0x12..=0x12, Ramp::new("one", 1, 4)).unwrap();
        assert_eq!(buses.pio_read(0x10, 4), 0xFF00_0100);
        buses.pio_write(0x10, 4, 0x4433_2211);
        assert_eq!(*bytes.log.lock(), [(0, vec![0x11]), (1, vec![0x22])]);
    }

    #[test]
    fn unaligned_and_too_small_accesses() {
        let buses = Buses::new();
        let words = Ramp::new("words", 4, 4);
        buses.insert_mmio(0x1000..=0x1FFF, words.clone()).unwrap();
        let mut data = [0; 8];
        buses.mmio_read(0x1002, &mut data);
        assert_eq!(data, [0xFF, 0xFF, 4, 5, 6, 7, 0xFF, 0xFF]);
        buses.mmio_write(0x1004, &[1, 2]);
        buses.mmio_write(0x1004, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(*words.log.lock(), [(4, vec![1, 2, 3, 4]), (8, vec![5, 6, 7, 8])]);
    }

    #[test]
    fn actions_reach_the_machine() {
        struct Sink(Mutex<Vec<Action>>);
        impl ActionSink for Sink {
            fn act(&self, action: Action) {
                self.0.lock().push(action);
            }
        }
        let buses = Buses::new();
        let sink = Arc::new(Sink(Mutex::default()));
        let weak: Weak<Sink> = Arc::downgrade(&sink);
        buses.set_action_sink(weak);
        buses.insert_port(0xF4..=0xF4, Ramp::new("exit", 1, 4)).unwrap();
        buses.pio_write(0xF4, 1, 0);
        buses.pio_write(0xF4, 1, 0xEE);
        assert_eq!(*sink.0.lock(), [Action::Exit(7)]);
    }
}
