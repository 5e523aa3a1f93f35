//! A machine without processors with an AHCI adapter in it, and the driver's side of that. Names and figures are those of
//! AHCI 1.3.1 and Serial ATA.

use crate::harness::{Lines, RAM, eventually, memory};
use ata::{Ahci, Attachment};
use board::pci::PciBus;
use board::{Buses, IrqLines, IsaBridge};
use hv::{Bus, GuestMemory};
use std::sync::Arc;

/// Registers of the adapter.
pub const GHC: u64 = 0x04;
pub const IS: u64 = 0x08;
pub const HR: u32 = 1;
pub const IE: u32 = 2;

/// Registers of a port.
pub const CLB: u64 = 0x00;
pub const FB: u64 = 0x08;
pub const PXIS: u64 = 0x10;
pub const PXIE: u64 = 0x14;
pub const CMD: u64 = 0x18;
pub const TFD: u64 = 0x20;
pub const SIG: u64 = 0x24;
pub const SSTS: u64 = 0x28;
pub const SCTL: u64 = 0x2C;
pub const SERR: u64 = 0x30;
pub const SACT: u64 = 0x34;
pub const CI: u64 = 0x38;

/// PxCMD.
pub const ST: u32 = 1;
pub const CLO: u32 = 1 << 3;
pub const FRE: u32 = 1 << 4;
pub const FR: u32 = 1 << 14;
pub const CR: u32 = 1 << 15;

/// PxIS.
pub const DHRS: u32 = 1 << 0;
pub const PSS: u32 = 1 << 1;
pub const SDBS: u32 = 1 << 3;
pub const DPS: u32 = 1 << 5;
pub const PCS: u32 = 1 << 6;
pub const OFS: u32 = 1 << 24;
pub const IFS: u32 = 1 << 27;
pub const HBFS: u32 = 1 << 29;
pub const TFES: u32 = 1 << 30;

/// Where commands and data lie.
pub const LISTS: u64 = 0x1_0000;
pub const RECEIVED: u64 = 0x1_8000;
pub const TABLES: u64 = 0x2_0000;
pub const DATA: u64 = 1 << 20;
/// Above 4 GiB.
pub const HIGH: u64 = 1 << 32;

/// The slot the adapter is in.
const SLOT: u32 = 5;

pub struct Hba {
    pub buses: Arc<Buses>,
    pub pci: Arc<PciBus>,
    pub memory: Arc<GuestMemory>,
    pub lines: Arc<Lines>,
    pub ahci: Arc<Ahci>,
    abar: u64,
}

impl Hba {
    /// A machine as firmware leaves it.
    pub fn new(drives: [Option<Attachment>; 6]) -> Self {
        Self::with_memory(drives, memory())
    }

    pub fn with_memory(drives: [Option<Attachment>; 6], memory: Arc<GuestMemory>) -> Self {
        let buses = Arc::new(Buses::new());
        let lines = Arc::new(Lines::default());
        let irqs = IrqLines::new(lines.clone());
        let pci = PciBus::new(&buses, lines.clone(), &irqs).unwrap();
        pci.add(1, 0, IsaBridge::new(pci.pirqs().clone())).unwrap();
        let ahci = Ahci::new("ahci0", drives, &memory).unwrap();
        pci.add(SLOT as u8, 0, ahci.clone()).unwrap();
        pci.assign_resources().unwrap();
        let mut hba = Hba { buses, pci, memory, lines, ahci, abar: 0 };
        hba.abar = (hba.config(0x24, 4) & !15).into();
        hba.set_master(true);
        hba.write(GHC, IE);
        hba
    }

    pub fn abar(&self) -> u64 {
        self.abar
    }

    pub fn config(&self, register: u8, size: u8) -> u32 {
        self.buses.pio_write(0xCF8, 4, 0x8000_0000 | SLOT << 11 | u32::from(register & !3));
        self.buses.pio_read(0xCFC + u16::from(register & 3), size)
    }

    pub fn set_config(&self, register: u8, size: u8, value: u32) {
        self.buses.pio_write(0xCF8, 4, 0x8000_0000 | SLOT << 11 | u32::from(register & !3));
        self.buses.pio_write(0xCFC + u16::from(register & 3), size, value);
    }

    pub fn set_master(&self, master: bool) {
        let command = self.config(0x04, 2) & !4;
        self.set_config(0x04, 2, command | u32::from(master) << 2);
    }

    /// Turns MSI on.
    pub fn enable_msi(&self) {
        let at = self.config(0x34, 1) as u8;
        assert_eq!(self.config(at, 1), 5);
        self.set_config(at + 4, 4, 0xFEE0_1000);
        self.set_config(at + 12, 2, 0x4051);
        self.set_config(at + 2, 2, 1);
    }

    /// How many messages came since the last time.
    pub fn take_messages(&self) -> usize {
        let messages = std::mem::take(&mut *self.lines.messages.lock().unwrap());
        assert!(messages.iter().all(|message| (message.address, message.data) == (0xFEE0_1000, 0x4051)));
        messages.len()
    }

    /// The level of the adapter's interrupt line.
    pub fn interrupt(&self) -> bool {
        self.lines.levels.lock().unwrap()[10]
    }

    pub fn read_bytes(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        self.buses.mmio_read(self.abar + offset, &mut data);
        data
    }

    pub fn write_bytes(&self, offset: u64, data: &[u8]) {
        self.buses.mmio_write(self.abar + offset, data);
    }

    pub fn read(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read_bytes(offset, 4).try_into().unwrap())
    }

    pub fn write(&self, offset: u64, value: u32) {
        self.write_bytes(offset, &value.to_le_bytes());
    }

    pub fn port(&self, index: u64) -> Port<'_> {
        Port { hba: self, index }
    }

    /// A port that was started.
    pub fn started(&self, index: u64) -> Port<'_> {
        let port = self.port(index);
        port.start();
        port
    }

    pub fn bytes(&self, address: u64, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        self.memory.read(address, &mut data).unwrap();
        data
    }

    pub fn put(&self, address: u64, data: &[u8]) {
        self.memory.write(address, data).unwrap();
    }

    pub fn snapshot(&self) -> Vec<u8> {
        self.pci.pause();
        let state = board::pci::PciFunction::save(&*self.ahci);
        self.pci.resume();
        state
    }

    pub fn load(&self, state: &[u8]) -> Result<(), String> {
        self.pci.pause();
        let loaded = board::pci::PciFunction::load(&*self.ahci, state);
        self.pci.resume();
        loaded
    }
}

/// A command as it goes into a slot.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// The command FIS.
    pub fis: Vec<u8>,
    pub packet: Option<Vec<u8>>,
    /// Address, bytes, and whether it asks for an interrupt.
    pub descriptors: Vec<(u64, u32, bool)>,
}

impl Command {
    /// A register FIS with a 48-bit address.
    pub fn new(command: u8, features: u16, lba: u64, count: u16) -> Self {
        let [l0, l1, l2, l3, l4, l5, ..] = lba.to_le_bytes();
        let ([f0, f1], [c0, c1]) = (features.to_le_bytes(), count.to_le_bytes());
        let fis = vec![0x27, 0x80, command, f0, l0, l1, l2, 0x40, l3, l4, l5, f1, c0, c1, 0, 0, 0, 0, 0, 0];
        Command { fis, packet: None, descriptors: Vec::new() }
    }

    /// READ or WRITE FPDMA QUEUED.
    pub fn queued(write: bool, tag: u8, lba: u64, sectors: u16) -> Self {
        Self::new(if write { 0x61 } else { 0x60 }, sectors, lba, u16::from(tag) << 3)
    }

    /// PACKET, with DMA or in PIO blocks of at most 64 KiB.
    pub fn packet(packet: &[u8], dma: bool) -> Self {
        let mut command = Self::new(0xA0, dma.into(), 0xFFFE00, 0);
        let mut bytes = packet.to_vec();
        bytes.resize(16, 0);
        command.packet = Some(bytes);
        command
    }

    /// Device control, with SRST or without.
    pub fn control(reset: bool) -> Self {
        let mut command = Self::new(0, 0, 0, 0);
        command.fis[1] = 0;
        command.fis[15] = u8::from(reset) << 2;
        command
    }

    pub fn with(mut self, address: u64, size: u32) -> Self {
        self.descriptors.push((address, size, false));
        self
    }

    pub fn device(mut self, bits: u8) -> Self {
        self.fis[7] = bits;
        self
    }
}

/// A driver's view of a port.
#[derive(Clone, Copy)]
pub struct Port<'a> {
    pub hba: &'a Hba,
    pub index: u64,
}

impl Port<'_> {
    pub fn at(&self, register: u64) -> u64 {
        0x100 + self.index * 0x80 + register
    }

    pub fn read(&self, register: u64) -> u32 {
        self.hba.read(self.at(register))
    }

    pub fn write(&self, register: u64, value: u32) {
        self.hba.write(self.at(register), value);
    }

    pub fn list(&self) -> u64 {
        LISTS + self.index * 0x400
    }

    pub fn received(&self) -> u64 {
        RECEIVED + self.index * 0x100
    }

    fn table(&self, slot: u8) -> u64 {
        TABLES + self.index * 0x2_0000 + u64::from(slot) * 0x1000
    }

    /// Tells the adapter where everything is, takes the signature, and starts.
    pub fn start(&self) {
        self.write(CLB, self.list() as u32);
        self.write(FB, self.received() as u32);
        self.write(CMD, FRE);
        eventually("a drive that is not busy", || self.read(TFD) & 0x88 == 0);
        self.write(SERR, u32::MAX);
        self.write(PXIS, u32::MAX);
        self.write(PXIE, 0xFDC0_00FF);
        self.write(CMD, FRE | ST);
    }

    /// As drivers begin again after an error.
    pub fn restart(&self) {
        self.write(CMD, FRE);
        eventually("an end", || self.read(CMD) & CR == 0);
        if self.read(TFD) & 0x88 != 0 {
            self.write(CMD, FRE | CLO);
        }
        self.write(SERR, u32::MAX);
        self.write(PXIS, u32::MAX);
        self.write(CMD, FRE | ST);
    }

    /// A hard reset.
    pub fn comreset(&self) {
        self.write(CMD, FRE);
        eventually("an end", || self.read(CMD) & CR == 0);
        self.write(SCTL, 0x301);
        self.write(SCTL, 0x300);
        eventually("a signature", || self.read(TFD) & 0x88 == 0);
        self.write(SERR, u32::MAX);
        self.write(PXIS, u32::MAX);
        self.write(CMD, FRE | ST);
    }

    /// Puts a command into a slot, and does not issue it.
    pub fn fill(&self, slot: u8, command: &Command) {
        let table = self.table(slot);
        let mut flags = command.fis.len() as u32 / 4;
        self.hba.put(table, &[0; 0x80]);
        self.hba.put(table, &command.fis);
        if let Some(packet) = &command.packet {
            self.hba.put(table + 0x40, packet);
            flags |= 1 << 5;
        }
        for (index, (address, size, interrupt)) in (0..).zip(&command.descriptors) {
            let at = table + 0x80 + 16 * index;
            self.hba.put(at, &address.to_le_bytes());
            let count = size.wrapping_sub(1) & 0x3F_FFFF | u32::from(*interrupt) << 31;
            self.hba.put(at + 12, &count.to_le_bytes());
        }
        self.fill_header(slot, flags, command.descriptors.len() as u32, table);
    }

    pub fn fill_header(&self, slot: u8, flags: u32, descriptors: u32, table: u64) {
        let at = self.list() + 32 * u64::from(slot);
        let words = [flags | descriptors << 16, 0xEEEE_EEEE, table as u32, (table >> 32) as u32];
        self.hba.put(at, &words.map(u32::to_le_bytes).concat());
    }

    /// Bytes that a command's header says were moved.
    pub fn byte_count(&self, slot: u8) -> u32 {
        u32::from_le_bytes(self.hba.bytes(self.list() + 32 * u64::from(slot) + 4, 4).try_into().unwrap())
    }

    pub fn issue(&self, slots: u32) {
        self.write(CI, slots);
    }

    /// Runs a command that ends well or with an error of the drive. Returns PxTFD and what PxIS showed.
    pub fn run(&self, command: &Command) -> (u32, u32) {
        self.fill(3, command);
        self.issue(1 << 3);
        eventually("the end of a command", || self.read(CI) & 8 == 0 || self.read(PXIS) & (TFES | HBFS | IFS) != 0);
        let status = self.read(PXIS);
        self.write(PXIS, status);
        (self.read(TFD), status)
    }

    /// The same where it has to succeed.
    pub fn ok(&self, command: &Command) -> u32 {
        let (file, status) = self.run(command);
        assert_eq!((file, status & (TFES | HBFS | IFS)), (0x50, 0), "{command:x?}");
        status
    }

    /// The same where the drive has to fail it, with these bits in its error register.
    pub fn fails(&self, command: &Command, error: u8) {
        let (file, status) = self.run(command);
        assert_eq!((file, status & (TFES | DHRS)), (u32::from(error) << 8 | 0x51, TFES | DHRS), "{command:x?}");
        self.restart();
    }

    /// Puts queued commands into the slots of their tags and issues them.
    pub fn enqueue(&self, commands: &[(u8, Command)]) {
        let mut tags = 0;
        for (tag, command) in commands {
            self.fill(*tag, command);
            tags |= 1 << tag;
        }
        self.write(SACT, tags);
        self.issue(tags);
    }

    /// 512 bytes that answer a PIO command.
    pub fn answer(&self, command: &Command) -> Vec<u8> {
        self.hba.put(DATA, &[0xEE; 512]);
        self.ok(&command.clone().with(DATA, 512));
        self.hba.bytes(DATA, 512)
    }
}

/// Addresses that are in no memory: at the end of RAM, above, in the adapter's own registers, and at the very end.
pub fn nowhere(hba: &Hba) -> [u64; 6] {
    [RAM, RAM + 0x1000, hba.abar(), 0xFEC0_0000, HIGH + 0x10_0000, u64::MAX & !0xFFF]
}
