//! A machine without processors: buses, PCI, guest memory, the IDE function, and the driver's side of it.
#![allow(dead_code, missing_docs, reason = "each test program uses its part of it")]

use ata::{Attachment, Ide};
use block::{BlockError, Disk, Medium, RawFile};
use board::pci::PciBus;
use board::{Buses, IrqLines, IsaBridge};
use hv::{Bus, GuestMemory, Interrupts, Msi, Region};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub const RAM: u64 = 16 << 20;
pub const ROM: u64 = 0xF000_0000;
/// Where descriptors lie.
pub const TABLE: u32 = 0x1000;
/// Where buffers of tests lie.
pub const DATA: u32 = 1 << 20;

pub const BSY: u8 = 0x80;
pub const DRQ: u8 = 0x08;
pub const ERR: u8 = 0x01;
/// DRDY and DSC.
pub const READY: u8 = 0x50;

/// Bus master status.
pub const ACTIVE: u8 = 1;
pub const ERROR: u8 = 2;
pub const INTERRUPT: u8 = 4;

/// The levels of the interrupt lines, and how often each went high.
#[derive(Default)]
pub struct Lines {
    pub levels: Mutex<[bool; 24]>,
    pub edges: [AtomicU32; 24],
    /// Messages that came.
    pub messages: Mutex<Vec<Msi>>,
}

impl Interrupts for Lines {
    fn set_line(&self, gsi: u32, high: bool) {
        let mut levels = self.levels.lock().unwrap();
        if high && !levels[gsi as usize] {
            self.edges[gsi as usize].fetch_add(1, Ordering::SeqCst);
        }
        levels[gsi as usize] = high;
    }
    fn signal_msi(&self, message: Msi) {
        self.messages.lock().unwrap().push(message);
    }
}

/// A disk that counts flushes, and whose reads and writes wait while it is held.
pub struct Probe {
    disk: RawFile,
    pub flushes: AtomicU32,
    held: Mutex<bool>,
    released: Condvar,
    waiting: AtomicU32,
}

impl Probe {
    pub fn new(file: &File) -> Arc<Self> {
        Arc::new(Probe {
            disk: RawFile::new(file.try_clone().unwrap(), false).unwrap(),
            flushes: AtomicU32::new(0),
            held: Mutex::new(false),
            released: Condvar::new(),
            waiting: AtomicU32::new(0),
        })
    }

    pub fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }

    /// Waits until somebody waits for the release.
    pub fn wait_held(&self) {
        eventually("somebody who waits for the disk", || self.waiting.load(Ordering::SeqCst) > 0);
    }

    fn pass(&self) {
        let mut held = self.held.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while *held {
            held = self.released.wait(held).unwrap();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Disk for Probe {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn readonly(&self) -> bool {
        false
    }
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.pass();
        self.disk.read(offset, data)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.pass();
        self.disk.write(offset, data)
    }
    unsafe fn read_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        self.pass();
        // SAFETY: the caller's promise is the same.
        unsafe { self.disk.read_vectored(offset, vectors) }
    }
    unsafe fn write_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        self.pass();
        // SAFETY: the caller's promise is the same.
        unsafe { self.disk.write_vectored(offset, vectors) }
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.disk.flush()
    }
    fn discard(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        self.disk.discard(offset, length)
    }
    fn write_zeroes(&self, offset: u64, length: u64, discard: bool) -> Result<(), BlockError> {
        self.disk.write_zeroes(offset, length, discard)
    }
}

/// A file of `units` pieces of `size` bytes; each is full of the low byte of its number, but for the number itself
/// in its first 4 bytes.
pub fn numbered(size: usize, units: u32) -> File {
    let file = tempfile::tempfile().unwrap();
    let mut content = vec![0; size * units as usize];
    for (number, unit) in (0..units).zip(content.chunks_exact_mut(size)) {
        unit.fill(number as u8);
        unit[..4].copy_from_slice(&number.to_le_bytes());
    }
    file.write_all_at(&content, 0).unwrap();
    file
}

pub fn numbered_unit(size: usize, unit: u32) -> Vec<u8> {
    let mut bytes = vec![unit as u8; size];
    bytes[..4].copy_from_slice(&unit.to_le_bytes());
    bytes
}

pub fn numbered_units(size: usize, units: std::ops::Range<u32>) -> Vec<u8> {
    units.flat_map(|unit| numbered_unit(size, unit)).collect()
}

pub fn disk(file: &File) -> Option<Attachment> {
    let disk = Arc::new(RawFile::new(file.try_clone().unwrap(), false).unwrap());
    Some(Attachment::Disk { disk, serial: "WIRT-0001".into() })
}

pub fn image(file: &File) -> Arc<dyn Disk> {
    Arc::new(RawFile::new(file.try_clone().unwrap(), true).unwrap())
}

pub fn cdrom(medium: &Arc<Medium>) -> Option<Attachment> {
    Some(Attachment::Cdrom { medium: medium.clone(), serial: "CD-0001".into() })
}

pub struct Pc {
    pub buses: Arc<Buses>,
    pub pci: Arc<PciBus>,
    pub memory: Arc<GuestMemory>,
    pub lines: Arc<Lines>,
    pub ide: Arc<Ide>,
    /// First port of the bus master.
    master: u16,
}

pub fn memory() -> Arc<GuestMemory> {
    let ram = Region { address: 0, size: RAM, offset: 0, readonly: false };
    let rom = Region { address: ROM, size: 0x1_0000, offset: RAM, readonly: true };
    Arc::new(GuestMemory::new(&[ram, rom]).unwrap())
}

impl Pc {
    /// A machine with these drives, as firmware leaves it.
    pub fn new(drives: [Option<Attachment>; 4]) -> Self {
        Self::with_memory(drives, memory())
    }

    pub fn with_memory(drives: [Option<Attachment>; 4], memory: Arc<GuestMemory>) -> Self {
        let buses = Arc::new(Buses::new());
        let lines = Arc::new(Lines::default());
        let irqs = IrqLines::new(lines.clone());
        let pci = PciBus::new(&buses, lines.clone(), &irqs).unwrap();
        pci.add(1, 0, IsaBridge::new(pci.pirqs().clone())).unwrap();
        let ide = Ide::insert(drives, &memory, &buses, &pci, &irqs).unwrap();
        pci.assign_resources().unwrap();
        let mut pc = Pc { buses, pci, memory, lines, ide, master: 0 };
        pc.master = (pc.config(0x20, 4) & !3) as u16;
        pc.set_master(true);
        pc
    }

    pub fn config(&self, register: u8, size: u8) -> u32 {
        self.buses.pio_write(0xCF8, 4, 0x8000_0900 | u32::from(register & !3));
        self.buses.pio_read(0xCFC + u16::from(register & 3), size)
    }

    pub fn set_config(&self, register: u8, size: u8, value: u32) {
        self.buses.pio_write(0xCF8, 4, 0x8000_0900 | u32::from(register & !3));
        self.buses.pio_write(0xCFC + u16::from(register & 3), size, value);
    }

    /// Lets the function reach memory, or not.
    pub fn set_master(&self, master: bool) {
        let command = self.config(0x04, 2) & !4;
        self.set_config(0x04, 2, command | u32::from(master) << 2);
    }

    pub fn primary(&self) -> Port<'_> {
        Port { pc: self, command: 0x1F0, control: 0x3F6, master: self.master, irq: 14 }
    }

    pub fn secondary(&self) -> Port<'_> {
        Port { pc: self, command: 0x170, control: 0x376, master: self.master + 8, irq: 15 }
    }

    pub fn bytes(&self, address: u32, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        self.memory.read(address.into(), &mut data).unwrap();
        data
    }

    /// Writes descriptors of (address, bytes, last).
    pub fn set_table(&self, at: u32, descriptors: &[(u32, u32, bool)]) {
        for (index, (address, size, last)) in (0..).zip(descriptors) {
            let word = size & 0xFFFF | u32::from(*last) << 31;
            let bytes = [address.to_le_bytes(), word.to_le_bytes()].concat();
            self.memory.write(u64::from(at) + 8 * index, &bytes).unwrap();
        }
    }

    pub fn snapshot(&self) -> Vec<u8> {
        self.pci.pause();
        let state = board::pci::PciFunction::save(&*self.ide);
        self.pci.resume();
        state
    }

    pub fn load(&self, state: &[u8]) -> Result<(), String> {
        self.pci.pause();
        let loaded = board::pci::PciFunction::load(&*self.ide, state);
        self.pci.resume();
        loaded
    }
}

/// A driver's view of a channel.
#[derive(Clone, Copy)]
pub struct Port<'a> {
    pub pc: &'a Pc,
    command: u16,
    control: u16,
    master: u16,
    irq: usize,
}

impl Port<'_> {
    pub fn write(&self, register: u16, value: u8) {
        self.pc.buses.pio_write(self.command + register, 1, value.into());
    }

    pub fn read(&self, register: u16) -> u8 {
        self.pc.buses.pio_read(self.command + register, 1) as u8
    }

    pub fn status(&self) -> u8 {
        self.read(7)
    }

    pub fn alternate(&self) -> u8 {
        self.pc.buses.pio_read(self.control, 1) as u8
    }

    pub fn control(&self, value: u8) {
        self.pc.buses.pio_write(self.control, 1, value.into());
    }

    pub fn master_read(&self, offset: u16, size: u8) -> u32 {
        self.pc.buses.pio_read(self.master + offset, size)
    }

    pub fn master_write(&self, offset: u16, size: u8, value: u32) {
        self.pc.buses.pio_write(self.master + offset, size, value);
    }

    /// The level of the interrupt line.
    pub fn interrupt(&self) -> bool {
        self.pc.lines.levels.lock().unwrap()[self.irq]
    }

    /// How often it went high.
    pub fn interrupts(&self) -> u32 {
        self.pc.lines.edges[self.irq].load(Ordering::SeqCst)
    }

    /// Waits until the selected drive is not busy; returns its status without acknowledging anything.
    pub fn settled(&self) -> u8 {
        eventually("a drive that is not busy", || self.alternate() & BSY == 0);
        self.alternate()
    }

    /// The same, and the interrupt is there.
    pub fn interrupted(&self) -> u8 {
        let status = self.settled();
        assert!(self.interrupt(), "an interrupt, status {status:#x}");
        status
    }

    /// Selects a drive with LBA addressing.
    pub fn select(&self, drive: u8) {
        self.write(6, 0xE0 | drive << 4);
    }

    /// A 28-bit command for the drive selected last.
    pub fn start(&self, command: u8, features: u8, lba: u32, count: u8) {
        let drive = self.read(6) & 0x10;
        self.write(6, 0xE0 | drive | (lba >> 24) as u8 & 0xF);
        self.registers(features, count, lba);
        self.write(7, command);
    }

    /// A 48-bit command.
    pub fn start48(&self, command: u8, lba: u64, count: u16) {
        self.registers(0, (count >> 8) as u8, (lba >> 24) as u32);
        self.registers(0, count as u8, lba as u32);
        self.write(7, command);
    }

    fn registers(&self, features: u8, count: u8, lba: u32) {
        for (register, value) in [(1, features), (2, count), (3, lba as u8), (4, (lba >> 8) as u8)] {
            self.write(register, value);
        }
        self.write(5, (lba >> 16) as u8);
    }

    /// A command without data; returns its status.
    pub fn run(&self, command: u8, features: u8, lba: u32, count: u8) -> u8 {
        self.start(command, features, lba, count);
        self.settled();
        self.status()
    }

    /// Reads a block by 16-bit accesses.
    pub fn read_block(&self, size: usize) -> Vec<u8> {
        (0..size / 2).flat_map(|_| (self.pc.buses.pio_read(self.command, 2) as u16).to_le_bytes()).collect()
    }

    pub fn write_block(&self, data: &[u8]) {
        for pair in data.chunks_exact(2) {
            self.pc.buses.pio_write(self.command, 2, u16::from_le_bytes([pair[0], pair[1]]).into());
        }
    }

    pub fn read_long(&self) -> u32 {
        self.pc.buses.pio_read(self.command, 4)
    }

    pub fn write_long(&self, value: u32) {
        self.pc.buses.pio_write(self.command, 4, value);
    }

    pub fn read_byte(&self) -> u8 {
        self.pc.buses.pio_read(self.command, 1) as u8
    }

    /// The 512 bytes that answer a command.
    pub fn answer(&self, command: u8) -> Vec<u8> {
        self.start(command, 0, 0, 0);
        assert_eq!(self.interrupted(), READY | DRQ);
        self.status();
        let data = self.read_block(512);
        assert_eq!(self.status(), READY);
        data
    }

    /// Points the bus master at a table and starts it.
    pub fn start_master(&self, table: u32, to_memory: bool) {
        self.master_write(0, 1, u32::from(to_memory) << 3);
        self.master_write(4, 4, table);
        self.master_write(2, 1, u32::from(ERROR | INTERRUPT));
        self.master_write(0, 1, u32::from(to_memory) << 3 | 1);
    }

    pub fn stop_master(&self) {
        self.master_write(0, 1, 0);
    }

    pub fn master_status(&self) -> u8 {
        self.master_read(2, 1) as u8
    }

    /// Waits for the bus master's interrupt bit, stops it, and returns what it showed before, and the drive's status.
    pub fn finish_dma(&self) -> (u8, u8) {
        eventually("the interrupt bit", || self.master_status() & INTERRUPT != 0);
        let seen = self.master_status();
        self.stop_master();
        (seen & (ACTIVE | ERROR | INTERRUPT), self.status())
    }

    /// Soft reset as drivers do it.
    pub fn reset(&self) {
        self.control(0x04);
        self.control(0x00);
        self.settled();
    }

    /// Sends a packet; data go in blocks of `limit` bytes, or by DMA.
    pub fn packet(&self, packet: &[u8], limit: u16, dma: bool) {
        self.write(1, dma.into());
        self.write(4, limit as u8);
        self.write(5, (limit >> 8) as u8);
        self.write(7, 0xA0);
        assert_eq!((self.settled(), self.read(2) & 7, self.interrupt()), (READY | DRQ, 1, false));
        let mut bytes = [0; 12];
        bytes[..packet.len()].copy_from_slice(packet);
        self.write_block(&bytes);
    }

    /// A packet command with PIO data: what came, and the status and error register at the end.
    pub fn packet_in(&self, packet: &[u8], limit: u16) -> (Vec<u8>, u8, u8) {
        self.packet(packet, limit, false);
        let mut data = Vec::new();
        loop {
            let status = self.interrupted();
            assert_eq!(self.status(), status);
            let reason = self.read(2) & 7;
            if status & DRQ == 0 {
                assert_eq!(reason, 3);
                return (data, status, self.read(1));
            }
            assert_eq!(reason, 2);
            let size = usize::from(self.read(4)) | usize::from(self.read(5)) << 8;
            assert!(size > 0 && size <= usize::from(limit), "{size} bytes, {limit} were allowed");
            let mut block = self.read_block(size + size % 2);
            block.truncate(size);
            data.extend(block);
        }
    }

    /// The same where it has to succeed.
    pub fn packet_data(&self, packet: &[u8]) -> Vec<u8> {
        let (data, status, error) = self.packet_in(packet, 0xFFFE);
        assert_eq!((status, error), (READY, 0), "{packet:x?} fails: {:x?}", self.sense());
        data
    }

    /// Sense key, code and qualifier.
    pub fn sense(&self) -> [u8; 3] {
        let (data, status, _) = self.packet_in(&[0x03, 0, 0, 0, 18], 0xFFFE);
        assert_eq!((status, data.len(), data[0] & 0x7F), (READY, 18, 0x70));
        [data[2], data[12], data[13]]
    }

    /// Sends a packet that has to fail; returns its sense.
    pub fn packet_fails(&self, packet: &[u8]) -> [u8; 3] {
        let (data, status, error) = self.packet_in(packet, 0xFFFE);
        let sense = self.sense();
        assert_eq!((data.len(), status, error >> 4), (0, READY | ERR, sense[0]), "{packet:x?}");
        sense
    }
}

/// Waits up to 10 seconds for something to become true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "no sign of {what} after 10 s");
        std::thread::yield_now();
    }
}
