use super::rig::*;
use crate::uhci::schedule::Barren;
use crate::uhci::{LEGSUP, Uhci};
use crate::{Keyboard, Tablet};
use board::pci::{PciBus, PciFunction};
use board::{Buses, Device, IrqLines, Timers};
use hv::{Bus, GuestMemory, Interrupts, Msi, Region};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Default)]
struct NoInterrupts;

impl Interrupts for NoInterrupts {
    fn set_line(&self, _: u32, _: bool) {}
    fn signal_msi(&self, _: Msi) {}
}

/// The function on a bus.
struct Board {
    _timers: Arc<Timers>,
    buses: Arc<Buses>,
    pci: Arc<PciBus>,
    memory: Arc<GuestMemory>,
    uhci: Arc<Uhci>,
    tablet: Arc<Tablet>,
    keyboard: Arc<Keyboard>,
}

impl Board {
    fn new() -> Self {
        let region = Region { address: 0, size: RAM, offset: 0, readonly: false };
        let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
        let (timers, buses) = (Timers::new().unwrap(), Arc::new(Buses::new()));
        let lines = IrqLines::new(Arc::new(NoInterrupts));
        let pci = PciBus::new(&buses, Arc::new(NoInterrupts), &lines).unwrap();
        let (tablet, keyboard) = (Arc::new(Tablet::new()), Arc::new(Keyboard::new()));
        let uhci = Uhci::insert(&memory, &timers, &pci).unwrap();
        uhci.plug(tablet.clone()).unwrap();
        uhci.plug(keyboard.clone()).unwrap();
        pci.assign_resources().unwrap();
        Board { _timers: timers, buses, pci, memory, uhci, tablet, keyboard }
    }

    fn config(&self, register: u8) -> u32 {
        self.buses.pio_write(0xCF8, 4, 0x8000_0A00 | u32::from(register));
        self.buses.pio_read(0xCFC, 4)
    }

    fn set_config(&self, register: u8, value: u32) {
        self.config(register);
        self.buses.pio_write(0xCFC, 4, value);
    }

    fn base(&self) -> u16 {
        self.config(0x20) as u16 & !3
    }
}

#[test]
fn the_function_is_the_piix3s() {
    let board = Board::new();
    let third = board.uhci.plug(Arc::new(Tablet::new())).unwrap_err();
    assert_eq!(third.to_string(), "there is no USB port left for usb-tablet: the machine has 2");
    assert_eq!(board.config(0x00), 0x7020_8086);
    assert_eq!(board.config(0x08), 0x0C03_0001);
    assert_eq!(board.config(0x3C) >> 8 & 0xFF, 4);
    assert_eq!(board.config(0x60) & 0xFF, 0x10);
    assert_eq!(board.config(LEGSUP), 0x2000);
    board.set_config(LEGSUP, u32::MAX);
    assert_eq!(board.config(LEGSUP), 0x20BF);
    // Registers in pieces.
    let base = board.base();
    board.buses.pio_write(base + 9, 1, 0x12);
    board.buses.pio_write(base + 10, 2, 0x3456);
    assert_eq!(board.buses.pio_read(base + 8, 4), 0x3456_1000);
    board.buses.pio_write(base + 4, 4, 0x0123_000F);
    assert_eq!(board.buses.pio_read(base + 4, 4), 0x0123_000F);
    assert_eq!(board.buses.pio_read(base + 0x11, 1), 0);
    assert_eq!(board.buses.pio_read(base + 0x12, 2), 0x01A3);
}

#[test]
fn frames_pass_by_the_clock_and_not_while_paused() {
    let board = Board::new();
    let base = board.base();
    board.buses.pio_write(base, 2, 1);
    let number = || board.buses.pio_read(base + 6, 2);
    while number() < 3 {
        std::thread::yield_now();
    }
    board.uhci.pause();
    let stopped = number();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(number(), stopped);
    board.uhci.resume();
    while number() == stopped {
        std::thread::yield_now();
    }
}

#[test]
fn a_schedule_that_nobody_tells_of_is_found() {
    let board = Board::new();
    let base = board.base();
    board.set_config(4, 5);
    board.memory.write(0x1000, &[1, 0, 0, 0].repeat(1024)).unwrap();
    board.buses.pio_write(base + 8, 4, 0x1000);
    board.buses.pio_write(base, 2, 1);
    // It sleeps longest by now; then there is a descriptor of an absent device.
    while board.buses.pio_read(base + 6, 2) < 300 {
        std::thread::yield_now();
    }
    let words = [END, ACTIVE | errors(1), token(IN, 9, 1, 0, 8), 0];
    board.memory.write(0x4000, &words.map(u32::to_le_bytes).concat()).unwrap();
    board.memory.write(0x1000, &0x4000_u32.to_le_bytes().repeat(1024)).unwrap();
    while board.memory.load_u32(0x4004).unwrap() & ACTIVE != 0 {
        std::thread::yield_now();
    }
    assert_eq!(board.memory.load_u32(0x4004), Ok(TIMEOUT | STALLED | 0x7FF));
}

/// A word of a schedule: random, or with addresses that lead somewhere.
fn schedule_word() -> impl Strategy<Value = u32> {
    let pointer = (0u32..64, 0u32..8).prop_map(|(index, flags)| (0x2000 + 16 * index) | flags);
    let pids = prop_oneof![Just(IN), Just(OUT), Just(SETUP)];
    let tokens = (pids, 0u32..3, 0u32..3, 0u32..2, 0u32..20).prop_map(|(p, d, e, t, l)| token(p, d, e, t, l));
    let controls = (any::<u32>()).prop_map(|word| word | ACTIVE);
    prop_oneof![4 => pointer, 2 => tokens, 2 => controls, 1 => any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a guest puts into memory and registers, and whatever happens to the devices, nothing panics, all ends, and
    /// what is saved loads.
    #[test]
    fn random_schedules_accesses_and_states_break_nothing(
        words in prop::collection::vec(schedule_word(), 256),
        accesses in prop::collection::vec((0u16..33, any::<u32>(), 0usize..3, 0u8..6), 0..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let board = Board::new();
        board.set_config(4, 5);
        let base = board.base();
        board.memory.write(0x2000, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        board.memory.write(0x1000, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        for port in [0x10, 0x12] {
            board.buses.pio_write(base + port, 2, 4);
        }
        board.buses.pio_write(base + 8, 4, 0x1000);
        board.buses.pio_write(base, 2, 1);
        for (offset, value, size, event) in accesses {
            let size = [1, 2, 4][size];
            board.buses.pio_write(base + offset, size, value);
            board.buses.pio_read(base + offset, size);
            match event {
                0 => board.tablet.set(value as u16, (value >> 8) as u16, value as u8, value as i32),
                1 => board.keyboard.key(value as u8, value & 0x100 != 0),
                2 => board.set_config(value as u8 & 0xFC, value),
                _ => {
                    let mut state = board.uhci.state.lock();
                    let mut barren = Barren::default();
                    for _ in 0..5 {
                        state.controller.run_frame(&board.memory, &mut barren);
                    }
                }
            }
        }
        board.pci.pause();
        let mut saved = board.uhci.save();
        prop_assert_eq!(board.uhci.load(&saved), Ok(()));
        prop_assert_eq!(board.uhci.save(), saved.clone());
        for (at, byte) in &damage {
            *at.get_mut(&mut saved) = *byte;
        }
        let _ = board.uhci.load(&saved);
        board.pci.resume();
        board.uhci.state.lock().controller.run_frame(&board.memory, &mut Barren::default());
        board.pci.reset();
        prop_assert_eq!(board.uhci.state.lock().controller.registers()[0x10], 0x93);
    }
}
