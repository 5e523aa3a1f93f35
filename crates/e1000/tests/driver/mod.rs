//! A machine without processors: PCI, guest memory, the card, its driver's side, and a network.
#![allow(dead_code, missing_docs, reason = "each test program uses its part of it")]

use board::pci::PciBus;
use board::{Buses, EventFd, IrqLines, IsaBridge};
use e1000::register::{self, rah, rctl, tctl};
use e1000::{E1000, E1000Options};
use hv::{Bus, GuestMemory, Interrupts, Msi, Region};
use net::{Backend, Cable};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

pub const RAM: u64 = 16 << 20;
pub const ROM: u64 = 0xF000_0000;
pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// Its expansion ROM.
pub const ROM_IMAGE: [u8; 3] = [0x55, 0xAA, 0x11];
pub const TX_RING: u64 = 0x1_0000;
pub const RX_RING: u64 = 0x2_0000;
/// Descriptors in each ring.
pub const COUNT: u32 = 16;
/// Where what is sent lies.
pub const DATA: u64 = 0x10_0000;
/// Where receive buffers lie, 64 KiB apart.
pub const BUFFERS: u64 = 0x20_0000;

pub const EOP: u8 = 1;
pub const IFCS: u8 = 2;
pub const IC: u8 = 4;
pub const TSE: u8 = 4;
pub const RS: u8 = 8;
pub const DEXT: u8 = 0x20;
pub const VLE: u8 = 0x40;

/// The levels of the interrupt lines, and how often one rose.
#[derive(Default)]
pub struct Controller {
    pub lines: Mutex<[bool; 24]>,
    pub rises: Mutex<u32>,
}

impl Interrupts for Controller {
    fn set_line(&self, gsi: u32, high: bool) {
        self.lines.lock().unwrap()[gsi as usize] = high;
        *self.rises.lock().unwrap() += u32::from(high);
    }
    fn signal_msi(&self, _: Msi) {}
}

/// Keeps what was sent, gives what is to be received.
pub struct Network {
    pub sent: Mutex<Vec<Vec<u8>>>,
    pub arriving: Mutex<VecDeque<Vec<u8>>>,
    /// Whoever holds this holds up what is being sent.
    pub gate: Mutex<()>,
    pub sending: AtomicBool,
    event: EventFd,
}

impl Backend for Network {
    fn send(&self, frame: &[u8]) {
        self.sending.store(true, Ordering::SeqCst);
        let _gate = self.gate.lock().unwrap();
        self.sent.lock().unwrap().push(frame.to_vec());
    }
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut arriving = self.arriving.lock().unwrap();
        let frame = arriving.pop_front();
        if arriving.is_empty() {
            self.event.clear();
        }
        let frame = frame?;
        let length = frame.len().min(buffer.len());
        buffer[..length].copy_from_slice(&frame[..length]);
        Some(length)
    }
    fn event_fd(&self, receiving: bool) -> Option<RawFd> {
        receiving.then(|| self.event.fd())
    }
}

impl Network {
    pub fn deliver(&self, frame: &[u8]) {
        self.arriving.lock().unwrap().push_back(frame.to_vec());
        self.event.signal();
    }

    /// Waits until `count` frames were sent, and takes them.
    pub fn sent(&self, count: usize) -> Vec<Vec<u8>> {
        eventually("frames", || self.sent.lock().unwrap().len() >= count);
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

pub struct Driver {
    pub buses: Arc<Buses>,
    pub pci: Arc<PciBus>,
    pub memory: Arc<GuestMemory>,
    pub card: Arc<E1000>,
    pub controller: Arc<Controller>,
    pub network: Arc<Network>,
    pub cable: Arc<Cable>,
    pub base: u64,
    pub port: u16,
}

/// What stands in a receive descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub length: u16,
    pub checksum: u16,
    pub status: u8,
    pub errors: u8,
    pub special: u16,
}

/// Whether an I/O thread has panicked, which the card itself survives.
pub static PANICKED: AtomicBool = AtomicBool::new(false);

fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some("net0") {
                PANICKED.store(true, Ordering::SeqCst);
            }
            before(info);
        }));
    });
}

pub fn memory() -> Arc<GuestMemory> {
    let ram = Region { address: 0, size: RAM, offset: 0, readonly: false };
    let rom = Region { address: ROM, size: 0x1_0000, offset: RAM, readonly: true };
    Arc::new(GuestMemory::new(&[ram, rom]).unwrap())
}

impl Driver {
    pub fn new() -> Self {
        Self::with_memory(memory())
    }

    pub fn with_memory(memory: Arc<GuestMemory>) -> Self {
        watch_for_panics();
        let buses = Arc::new(Buses::new());
        let controller = Arc::new(Controller::default());
        let pci = PciBus::new(&buses, controller.clone(), &IrqLines::new(controller.clone())).unwrap();
        let network = Arc::new(Network {
            sent: Mutex::default(),
            arriving: Mutex::default(),
            gate: Mutex::default(),
            sending: AtomicBool::default(),
            event: EventFd::new().unwrap(),
        });
        let options = E1000Options { mac: MAC, rom: ROM_IMAGE.to_vec() };
        let cable = Arc::new(Cable::new(network.clone()));
        let card = E1000::new("net0", options, memory.clone(), cable.clone()).unwrap();
        pci.add(1, 0, IsaBridge::new(pci.pirqs().clone())).unwrap();
        pci.add(3, 0, card.clone()).unwrap();
        pci.assign_resources().unwrap();
        let mut driver = Driver { buses, pci, memory, card, controller, network, cable, base: 0, port: 0 };
        driver.base = u64::from(driver.config(0x10, 4) & !15);
        driver.port = driver.config(0x14, 4) as u16 & !3;
        driver.set_master(true);
        driver
    }

    /// With both rings, all kinds of frames for this station received, and buffers of 2048 bytes in all but one
    /// receive descriptor.
    pub fn started() -> Self {
        let driver = Self::new();
        driver.start(rctl::BAM | rctl::SECRC);
        driver
    }

    pub fn config(&self, register: u8, size: u8) -> u32 {
        self.buses.pio_write(0xCF8, 4, 0x8000_1800 | u32::from(register & !3));
        self.buses.pio_read(0xCFC + u16::from(register & 3), size)
    }

    pub fn set_config(&self, register: u8, size: u8, value: u32) {
        self.buses.pio_write(0xCF8, 4, 0x8000_1800 | u32::from(register & !3));
        self.buses.pio_write(0xCFC + u16::from(register & 3), size, value);
    }

    pub fn set_master(&self, master: bool) {
        let command = self.config(0x04, 2) & !4;
        self.set_config(0x04, 2, command | u32::from(master) << 2);
    }

    pub fn read(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.buses.mmio_read(self.base + u64::from(offset), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, offset: u32, value: u32) {
        self.buses.mmio_write(self.base + u64::from(offset), &value.to_le_bytes());
    }

    pub fn start(&self, control: u32) {
        self.write(register::RA, u32::from_le_bytes([MAC[0], MAC[1], MAC[2], MAC[3]]));
        self.write(register::RA + 4, u32::from(MAC[4]) | u32::from(MAC[5]) << 8 | rah::AV);
        self.memory.write(TX_RING, &vec![0; 16 * COUNT as usize]).unwrap();
        for (first, ring) in [(register::TDBAL, TX_RING), (register::RDBAL, RX_RING)] {
            for (offset, value) in [(0x00, ring as u32), (0x04, 0), (0x08, 16 * COUNT), (0x10, 0), (0x18, 0)] {
                self.write(first + offset, value);
            }
        }
        for index in 0..COUNT {
            self.offer(index);
        }
        self.write(register::TCTL, tctl::EN);
        self.write(register::RCTL, control | rctl::EN);
        self.write(register::RDT, COUNT - 1);
    }

    /// Puts a fresh buffer into a receive descriptor.
    pub fn offer(&self, index: u32) {
        let address = BUFFERS + u64::from(index) * 0x1_0000;
        self.memory.write(address, &[0xEE; 0x1_0000]).unwrap();
        self.set_receive_descriptor(index, address);
    }

    pub fn set_receive_descriptor(&self, index: u32, address: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        self.memory.write(RX_RING + u64::from(index) * 16, &bytes).unwrap();
    }

    /// What a receive descriptor says, once it is done.
    pub fn received(&self, index: u32) -> Received {
        let at = RX_RING + u64::from(index) * 16;
        eventually("a received frame", || self.memory.load_u16(at + 12).unwrap() & 1 != 0);
        let [status, errors] = self.memory.load_u16(at + 12).unwrap().to_le_bytes();
        let half = |offset| self.memory.load_u16(at + offset).unwrap();
        Received { length: half(8), checksum: half(10), status, errors, special: half(14) }
    }

    /// The bytes in a receive descriptor's own buffer.
    pub fn buffer(&self, index: u32, size: usize) -> Vec<u8> {
        self.bytes(BUFFERS + u64::from(index) * 0x1_0000, size)
    }

    pub fn bytes(&self, address: u64, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        self.memory.read(address, &mut data).unwrap();
        data
    }

    /// Lays raw descriptors from the tail on and moves it behind them; returns the index of the last.
    pub fn submit(&self, descriptors: &[[u8; 16]]) -> u32 {
        let mut tail = self.read(register::TDT);
        let mut last = tail;
        for descriptor in descriptors {
            self.memory.write(TX_RING + 16 * u64::from(tail), descriptor).unwrap();
            last = tail;
            tail = (tail + 1) % COUNT;
        }
        self.write(register::TDT, tail);
        last
    }

    /// Waits until a transmit descriptor is done.
    pub fn wait_sent(&self, index: u32) {
        eventually("a descriptor done", || {
            self.memory.load_u16(TX_RING + 16 * u64::from(index) + 12).unwrap() & 1 != 0
        });
    }

    /// Puts a frame at DATA and sends it with one legacy descriptor.
    pub fn send(&self, frame: &[u8]) {
        self.memory.write(DATA, frame).unwrap();
        let last = self.submit(&[legacy(DATA, frame.len() as u16, EOP | IFCS | RS)]);
        self.wait_sent(last);
    }

    pub fn line(&self) -> bool {
        let gsi = self.config(0x3C, 1) as usize;
        self.controller.lines.lock().unwrap()[gsi]
    }

    pub fn phy_read(&self, index: u32) -> u16 {
        self.write(register::MDIC, 2 << 26 | 1 << 21 | index << 16);
        let value = self.read(register::MDIC);
        assert_eq!(value >> 28 & 5, 1, "ready, no error");
        value as u16
    }

    pub fn phy_write(&self, index: u32, value: u16) {
        self.write(register::MDIC, 1 << 26 | 1 << 21 | index << 16 | u32::from(value));
        assert_eq!(self.read(register::MDIC) >> 28 & 5, 1, "ready, no error");
    }
}

pub fn legacy(address: u64, length: u16, command: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..10].copy_from_slice(&length.to_le_bytes());
    bytes[11] = command;
    bytes
}

pub fn data(address: u64, length: u32, command: u8, options: u8, special: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    let word = length | 1 << 20 | u32::from(command | DEXT) << 24;
    bytes[8..12].copy_from_slice(&word.to_le_bytes());
    bytes[13] = options;
    bytes[14..].copy_from_slice(&special.to_le_bytes());
    bytes
}

/// A context descriptor.
#[derive(Clone, Copy, Default)]
pub struct Context {
    pub ip: (u8, u8, u16),
    pub tcp: (u8, u8, u16),
    pub payload: u32,
    pub command: u8,
    pub header: u8,
    pub segment: u16,
}

impl Context {
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1]) = (self.ip.0, self.ip.1);
        bytes[2..4].copy_from_slice(&self.ip.2.to_le_bytes());
        (bytes[4], bytes[5]) = (self.tcp.0, self.tcp.1);
        bytes[6..8].copy_from_slice(&self.tcp.2.to_le_bytes());
        let word = self.payload | u32::from(self.command | DEXT) << 24;
        bytes[8..12].copy_from_slice(&word.to_le_bytes());
        bytes[13] = self.header;
        bytes[14..].copy_from_slice(&self.segment.to_le_bytes());
        bytes
    }
}

/// A frame for this station: its bytes count up from the source address on.
pub fn frame(length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|n| n as u8).collect();
    frame[..6].copy_from_slice(&MAC);
    frame
}

/// The ones' complement sum, in its plainest form.
pub fn sum(data: &[u8]) -> u32 {
    let mut total: u32 = 0;
    for pair in data.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xFFFF) + (total >> 16);
    }
    total
}

/// Waits up to 10 seconds for something to become true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "no sign of {what} after 10 s");
        std::thread::yield_now();
    }
}
