use super::*;
use crate::{HostBridge, IrqLines, IsaBridge, PowerManagement};
use hv::{Bus, GuestMemory, Msi, Region};
use proptest::prelude::*;

#[derive(Default)]
struct Lines(Mutex<Vec<(u32, bool)>>);

impl Interrupts for Lines {
    fn set_line(&self, gsi: u32, high: bool) {
        self.0.lock().push((gsi, high));
    }
    fn signal_msi(&self, _: Msi) {}
}

/// The host bridge of a machine without firmware.
fn host_bridge() -> Arc<HostBridge> {
    let region = Region { address: 0, size: 0x10_0000, offset: 0, readonly: false };
    HostBridge::new(Arc::new(GuestMemory::new(&[region]).unwrap()), None)
}

/// Answers in its ranges with its own byte.
struct Probe {
    byte: u8,
    bars: Vec<Bar>,
    intx: Mutex<Option<Intx>>,
    moves: Mutex<Vec<Option<BarRange>>>,
}

impl Probe {
    fn new(byte: u8, bars: &[Bar]) -> Arc<Self> {
        Arc::new(Probe { byte, bars: bars.to_vec(), intx: Mutex::default(), moves: Mutex::default() })
    }
}

impl PciFunction for Probe {
    fn name(&self) -> &str {
        "probe"
    }
    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x1234,
            device: u16::from(self.byte),
            revision: 1,
            class: [0xFF, 0, 0],
            subsystem_vendor: 0,
            subsystem: 0,
        });
        let mut index = 0;
        for bar in &self.bars {
            configuration.add_bar(if matches!(bar, Bar::Rom(_)) { ROM_BAR } else { index }, *bar);
            index += if matches!(bar, Bar::Memory64(_)) { 2 } else { 1 };
        }
        configuration.set_interrupt_pin(1);
        configuration
    }
    fn connect(&self, _: Arc<dyn Interrupts>, intx: Option<Intx>) {
        *self.intx.lock() = intx;
    }
    fn bar_read(&self, bar: usize, _: u64, data: &mut [u8]) {
        data.fill(if bar == ROM_BAR { 0x55 } else { self.byte });
    }
    fn bar_moved(&self, _: usize, range: Option<&BarRange>) {
        self.moves.lock().push(range.cloned());
    }
}

struct Board {
    buses: Arc<Buses>,
    lines: Arc<Lines>,
    pci: Arc<PciBus>,
}

impl Board {
    fn new() -> Self {
        let buses = Arc::new(Buses::new());
        let lines = Arc::new(Lines::default());
        let pci = PciBus::new(&buses, lines.clone(), &IrqLines::new(lines.clone())).unwrap();
        Board { buses, lines, pci }
    }

    fn select(&self, slot: u8, register: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(register & 0xFC);
        self.buses.pio_write(0xCF8, 4, address);
    }

    fn config(&self, slot: u8, register: u8, size: u8) -> u32 {
        self.select(slot, register);
        self.buses.pio_read(0xCFC + u16::from(register & 3), size)
    }

    fn set_config(&self, slot: u8, register: u8, size: u8, value: u32) {
        self.select(slot, register);
        self.buses.pio_write(0xCFC + u16::from(register & 3), size, value);
    }

    fn memory(&self, address: u64) -> u8 {
        let mut data = [0];
        self.buses.mmio_read(address, &mut data);
        data[0]
    }
}

#[test]
fn only_a_doubleword_sets_the_address() {
    let board = Board::new();
    board.pci.add(0, 0, host_bridge()).unwrap();
    board.select(0, 0);
    for (port, size) in [(0xCF8, 1), (0xCF8, 2), (0xCFA, 2), (0xCFB, 1)] {
        board.buses.pio_write(port, size, 0xFFFF_FFFF);
        assert_eq!(board.buses.pio_read(port, size), u32::MAX >> (32 - 8 * size));
    }
    assert_eq!(board.buses.pio_read(0xCF8, 4), 0x8000_0000);
    assert_eq!(board.buses.pio_read(0xCFC, 4), 0x1237_8086);
    assert_eq!(board.buses.pio_read(0xCFE, 2), 0x1237);
    assert_eq!(board.buses.pio_read(0xCFF, 1), 0x12);
}

#[test]
fn nobody_answers_at_absent_functions_other_buses_or_while_disabled() {
    let board = Board::new();
    board.pci.add(0, 0, host_bridge()).unwrap();
    assert_eq!(board.config(1, 0, 4), u32::MAX);
    for address in [0, 0x8001_0000, 0x8000_0100] {
        board.buses.pio_write(0xCF8, 4, address);
        assert_eq!(board.buses.pio_read(0xCFC, 4), u32::MAX, "{address:#x}");
        board.buses.pio_write(0xCFC, 4, 0);
    }
}

#[test]
fn the_board_has_the_chipset_that_firmware_looks_for() {
    let board = Board::new();
    board.pci.add(0, 0, host_bridge()).unwrap();
    board.pci.add(1, 0, IsaBridge::new(board.pci.pirqs().clone())).unwrap();
    board.pci.add(1, 3, Arc::new(PowerManagement)).unwrap();
    assert_eq!(board.config(0, 0x2C, 4), 0x1100_1AF4);
    assert_eq!(board.config(1, 0x00, 4), 0x7000_8086);
    assert_eq!(board.config(1, 0x0E, 1), 0x80);
    board.set_config(0, 0x59, 1, 0x30);
    assert_eq!(board.config(0, 0x59, 1), 0x30);
    board.set_config(0, 0x00, 4, 0);
    assert_eq!(board.config(0, 0x00, 4), 0x1237_8086);
    board.pci.assign_resources().unwrap();
    assert_eq!(board.config(1, 0x60, 4), 0x0B0B_0A0A);
    board.buses.pio_write(0xCF8, 4, 0x8000_0B40);
    assert_eq!(board.buses.pio_read(0xCFC, 4), 0x601);
    board.buses.pio_write(0xCF8, 4, 0x8000_0B3C);
    assert_eq!(board.buses.pio_read(0xCFC, 2), 0x0109);
}

#[test]
fn a_bar_tells_its_size_and_moves() {
    let board = Board::new();
    let probe = Probe::new(7, &[Bar::Memory32(0x1000)]);
    board.pci.add(3, 0, probe.clone()).unwrap();
    board.set_config(3, 0x10, 4, 0xFFFF_FFFF);
    assert_eq!(board.config(3, 0x10, 4), 0xFFFF_F000);
    board.set_config(3, 0x10, 4, 0xD000_0123);
    assert_eq!(board.config(3, 0x10, 4), 0xD000_0000);
    assert_eq!(board.memory(0xD000_0000), 0xFF);
    board.set_config(3, 0x04, 2, 2);
    assert_eq!(board.memory(0xD000_0FFF), 7);
    board.set_config(3, 0x10, 4, 0xE000_0000);
    assert_eq!((board.memory(0xD000_0000), board.memory(0xE000_0000)), (0xFF, 7));
    board.set_config(3, 0x04, 2, 0);
    assert_eq!(board.memory(0xE000_0000), 0xFF);
    let at = |base: u64| Some(BarRange::Memory(base..=base + 0xFFF));
    assert_eq!(*probe.moves.lock(), [at(0xD000_0000), None, at(0xE000_0000), None]);
}

#[test]
fn bytes_of_a_bar_can_be_written_one_by_one() {
    let board = Board::new();
    board.pci.add(3, 0, Probe::new(7, &[Bar::Memory64(0x4000)])).unwrap();
    board.set_config(3, 0x04, 1, 2);
    board.set_config(3, 0x14, 1, 2);
    board.set_config(3, 0x12, 2, 0xABCD);
    assert_eq!(board.config(3, 0x10, 4), 0xABCD_0004);
    assert_eq!(board.memory(0x2_ABCD_3FFF), 7);
    board.set_config(3, 0x10, 4, 0xFFFF_FFFF);
    board.set_config(3, 0x14, 4, 0xFFFF_FFFF);
    assert_eq!((board.config(3, 0x10, 4), board.config(3, 0x14, 4)), (0xFFFF_C004, 0xFFFF_FFFF));
    assert_eq!(board.memory(u64::MAX), 7);
}

#[test]
fn a_rom_answers_when_both_enables_are_set() {
    let board = Board::new();
    let probe = Probe::new(7, &[Bar::Prefetchable32(0x1000), Bar::Rom(0x8000)]);
    board.pci.add(3, 0, probe.clone()).unwrap();
    assert_eq!((board.config(3, 0x10, 4), board.config(3, 0x30, 4)), (8, 0));
    // As firmware asks for the size: all address bits, not enabled.
    board.set_config(3, 0x30, 4, 0xFFFF_FFFE);
    assert_eq!(board.config(3, 0x30, 4), 0xFFFF_8000);
    board.set_config(3, 0x30, 4, 0xD000_7FFF);
    assert_eq!(board.config(3, 0x30, 4), 0xD000_0001);
    assert_eq!(board.memory(0xD000_0000), 0xFF);
    board.set_config(3, 0x04, 2, 2);
    assert_eq!([0xD000_0000, 0xD000_7FFF, 0xD000_8000].map(|at| board.memory(at)), [0x55, 0x55, 0xFF]);
    board.set_config(3, 0x30, 4, 0xD000_0000);
    assert_eq!(board.memory(0xD000_0000), 0xFF);
    assert_eq!(*probe.moves.lock(), [Some(BarRange::Memory(0xD000_0000..=0xD000_7FFF)), None]);
    board.pci.assign_resources().unwrap();
    assert_eq!(board.config(3, 0x30, 4), 0xD000_0000, "a ROM is given no place");
    assert!(MEMORY_WINDOW.contains(&u64::from(board.config(3, 0x10, 4) - 8)));
}

#[test]
fn an_overlapping_bar_waits_until_the_place_is_free() {
    let board = Board::new();
    board.pci.add(3, 0, Probe::new(3, &[Bar::Memory32(0x1000)])).unwrap();
    board.pci.add(4, 0, Probe::new(4, &[Bar::Memory32(0x4000)])).unwrap();
    for (slot, address) in [(3, 0xD000_1000), (4, 0xD000_0000)] {
        board.set_config(slot, 0x10, 4, address);
        board.set_config(slot, 0x04, 2, 2);
    }
    assert_eq!((board.memory(0xD000_0000), board.memory(0xD000_1000)), (0xFF, 3));
    board.set_config(3, 0x10, 4, 0xD100_0000);
    assert_eq!((board.memory(0xD000_0000), board.memory(0xD000_1000), board.memory(0xD100_0000)), (4, 4, 3));
}

#[test]
fn an_io_bar_cannot_take_the_configuration_ports_or_leave_the_bus() {
    let board = Board::new();
    board.pci.add(3, 0, Probe::new(3, &[Bar::Io(8)])).unwrap();
    board.set_config(3, 0x04, 2, 1);
    for base in [0xCF8, 0x1_0000, 0xFFFF_FFF8, 0] {
        board.set_config(3, 0x10, 4, base);
        assert_eq!(board.config(3, 0x00, 4), 0x0003_1234);
    }
    board.set_config(3, 0x10, 4, 0xFFF8);
    assert_eq!(board.config(3, 0x10, 4), 0xFFF9);
    assert_eq!(board.buses.pio_read(0xFFFF, 1), 3);
}

#[test]
fn assigned_resources_are_aligned_disjoint_and_decoded() {
    let board = Board::new();
    board.pci.add(1, 0, IsaBridge::new(board.pci.pirqs().clone())).unwrap();
    for slot in 2..=6 {
        let bars = [Bar::Memory32(0x1000), Bar::Memory64(0x8_0000), Bar::Io(0x20)];
        board.pci.add(slot, 0, Probe::new(slot, &bars)).unwrap();
    }
    board.pci.assign_resources().unwrap();
    for slot in 2..=6 {
        let memory = board.config(slot, 0x10, 4);
        let io = board.config(slot, 0x1C, 4);
        assert_eq!((memory % 0x1000, io % 0x20), (0, 1));
        assert!(MEMORY_WINDOW.contains(&memory.into()) && IO_WINDOW.contains(&io.into()));
        assert_eq!(board.memory(memory.into()), slot);
        assert_eq!(board.buses.pio_read(io as u16 - 1, 1), u32::from(slot));
        assert_eq!(board.config(slot, 0x3C, 1), PIRQ_GSIS[usize::from(slot - 1) % 4]);
    }
}

#[test]
fn too_large_bars_are_refused_by_name() {
    let board = Board::new();
    board.pci.add(2, 0, Probe::new(2, &[Bar::Memory32(1 << 31)])).unwrap();
    assert!(board.pci.assign_resources().unwrap_err().to_string().contains("BAR 0 of probe"));
    assert!(board.pci.add(2, 0, Probe::new(2, &[])).unwrap_err().to_string().contains("taken"));
    assert!(board.pci.add(32, 0, Probe::new(2, &[])).is_err());
    assert!(board.pci.add(3, 8, Probe::new(2, &[])).is_err());
}

#[test]
fn intx_shows_in_the_status_and_obeys_the_command_register() {
    let board = Board::new();
    board.pci.add(1, 0, IsaBridge::new(board.pci.pirqs().clone())).unwrap();
    let probe = Probe::new(9, &[]);
    board.pci.add(2, 0, probe.clone()).unwrap();
    board.pci.assign_resources().unwrap();
    let intx = probe.intx.lock().clone().unwrap();
    intx.set(true);
    assert_eq!(board.config(2, 0x06, 2) & 8, 8);
    assert_eq!(board.config(2, 0xFC, 4), 0, "the last register");
    board.set_config(2, 0x04, 2, 0x400);
    board.set_config(2, 0x04, 2, 0);
    board.set_config(1, 0x61, 1, 0x0B);
    board.set_config(1, 0x61, 1, 0x80);
    let expected = [(10, true), (10, false), (10, true), (10, false), (11, true), (11, false)];
    assert_eq!(*board.lines.0.lock(), expected);
}

#[test]
fn the_reset_control_register_resets_and_keeps_the_kind() {
    let board = Board::new();
    assert_eq!(board.pci.write(1, &[2]), Action::None);
    assert_eq!(board.buses.pio_read(0xCF9, 1), 2);
    assert_eq!(board.pci.write(1, &[6]), Action::Reset);
    assert_eq!(board.pci.write(1, &[6, 0]), Action::None);
}

#[test]
fn a_reset_unmaps_and_a_snapshot_maps_again() {
    let board = Board::new();
    board.pci.add(1, 0, IsaBridge::new(board.pci.pirqs().clone())).unwrap();
    board.pci.add(3, 0, Probe::new(7, &[Bar::Memory32(0x1000)])).unwrap();
    board.pci.assign_resources().unwrap();
    let address = u64::from(board.config(3, 0x10, 4));
    let saved = board.pci.save();
    board.pci.reset();
    assert_eq!((board.memory(address), board.config(3, 0x10, 4)), (0xFF, 0));
    assert_eq!(board.pci.pirqs().gsi(0), None);
    board.pci.load(&saved).unwrap();
    assert_eq!(board.memory(address), 7);
    assert_eq!(board.pci.pirqs().gsi(0), Some(10));
    let other = Board::new();
    assert!(other.pci.load(&saved).unwrap_err().contains("functions"));
    for damaged in [&saved[..saved.len() - 1], &saved[..9], &[]] {
        assert!(board.pci.load(damaged).is_err());
    }
    let mut renamed = saved.clone();
    let at = saved.windows(4).position(|bytes| bytes == [0x34, 0x12, 7, 0]).unwrap();
    renamed[at] = 0x35;
    assert!(board.pci.load(&renamed).unwrap_err().contains("probe"));
}

proptest! {
    /// Whatever a guest does to configuration space, nothing breaks and every window mapped is one that was asked for.
    #[test]
    fn random_configuration_accesses_break_nothing(
        accesses in prop::collection::vec((0u16..8, any::<u32>(), 0usize..3, any::<bool>()), 0..200)
    ) {
        let board = Board::new();
        board.pci.add(0, 0, host_bridge()).unwrap();
        board.pci.add(1, 0, IsaBridge::new(board.pci.pirqs().clone())).unwrap();
        board.pci.add(2, 0, Probe::new(2, &[Bar::Memory32(0x1000), Bar::Io(16)])).unwrap();
        board.pci.add(3, 0, Probe::new(3, &[Bar::Memory64(0x1000), Bar::Io(64), Bar::Rom(0x800)])).unwrap();
        for (port, value, size, likely) in accesses {
            // Half of the addresses select a register of a function that exists.
            let value = if likely && port == 0 { 0x8000_0000 | value & 0x18FC } else { value };
            let size = [1, 2, 4][size];
            board.buses.pio_write(0xCF8 + port, size, value);
            board.buses.pio_read(0xCF8 + port, size);
        }
        let state = board.pci.lock();
        for slot in state.functions.values() {
            for window in slot.windows.iter().filter(|window| window.mapped.is_some()) {
                prop_assert_eq!(&window.mapped, &slot.configuration.bar_range(window.bar));
            }
        }
    }
}
