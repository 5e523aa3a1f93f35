//! A machine without processors: PCI, guest memory, a virtio device, and the driver's side of its queues.
#![allow(dead_code, missing_docs, reason = "each test program and the benchmark use their part of it")]

use board::pci::PciBus;
use board::{Buses, Device, IrqLines, IsaBridge};
use hv::{Bus, GuestMemory, Interrupts, Msi, Region};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use virtio::{VirtioDevice, VirtioPci, feature, layout, status};

pub const RAM: u64 = 16 << 20;
pub const ROM: u64 = 0xF000_0000;
/// Where buffers of tests may lie: behind the rings.
pub const DATA: u64 = 1 << 20;
pub const WRITE: bool = true;
pub const READ: bool = false;
pub const NEXT: u16 = 1;
pub const DEVICE_WRITES: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Counts messages by vector (their data) and keeps the level of the lines.
#[derive(Default)]
pub struct Controller {
    pub messages: [AtomicU32; 16],
    pub lines: Mutex<[bool; 24]>,
}

impl Interrupts for Controller {
    fn set_line(&self, gsi: u32, high: bool) {
        self.lines.lock().unwrap()[gsi as usize] = high;
    }
    fn signal_msi(&self, msi: Msi) {
        self.messages[msi.data as usize % 16].fetch_add(1, Ordering::SeqCst);
    }
}

pub struct Driver {
    pub buses: Arc<Buses>,
    pub pci: Arc<PciBus>,
    pub memory: Arc<GuestMemory>,
    pub function: Arc<VirtioPci>,
    pub controller: Arc<Controller>,
    pub base: u64,
    pub queues: Vec<Ring>,
    pub features: u64,
}

/// One queue as the driver keeps it.
#[derive(Clone, Copy)]
pub struct Ring {
    pub size: u16,
    pub descriptors: u64,
    pub avail: u64,
    pub used: u64,
    pub next_descriptor: u16,
    pub avail_index: u16,
    pub used_index: u16,
}

pub fn memory() -> Arc<GuestMemory> {
    let ram = Region { address: 0, size: RAM, offset: 0, readonly: false };
    let rom = Region { address: ROM, size: 0x1_0000, offset: RAM, readonly: true };
    Arc::new(GuestMemory::new(&[ram, rom]).unwrap())
}

impl Driver {
    /// A machine with the device in slot 3, resources assigned as firmware would.
    pub fn new(device: Arc<dyn VirtioDevice>) -> Self {
        Self::with_memory(device, memory())
    }

    pub fn with_memory(device: Arc<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Self {
        let function = VirtioPci::new(device, memory.clone(), None).unwrap();
        Self::with_function(function, memory)
    }

    pub fn with_function(function: Arc<VirtioPci>, memory: Arc<GuestMemory>) -> Self {
        let buses = Arc::new(Buses::new());
        let controller = Arc::new(Controller::default());
        let pci = PciBus::new(&buses, controller.clone(), &IrqLines::new(controller.clone())).unwrap();
        pci.add(1, 0, IsaBridge::new(pci.pirqs().clone())).unwrap();
        pci.add(3, 0, function.clone()).unwrap();
        pci.assign_resources().unwrap();
        let features = feature::VERSION_1;
        let mut driver = Driver { buses, pci, memory, function, controller, base: 0, queues: Vec::new(), features };
        driver.base = u64::from(driver.config(0x20, 4) & !15);
        driver.set_master(true);
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

    /// Lets the device reach memory, or not, as Linux's `pci_set_master` does.
    pub fn set_master(&self, master: bool) {
        let command = self.config(0x04, 2) & !4;
        self.set_config(0x04, 2, command | u32::from(master) << 2);
    }

    /// The configuration space offset of the capability with this ID and virtio `cfg_type`.
    pub fn capability(&self, id: u8, kind: Option<u8>) -> u8 {
        let mut at = self.config(0x34, 1) as u8;
        while at != 0 {
            if self.config(at, 1) as u8 == id && kind.is_none_or(|kind| self.config(at + 3, 1) as u8 == kind) {
                return at;
            }
            at = self.config(at + 1, 1) as u8;
        }
        panic!("no capability {id:#x} of kind {kind:?}");
    }

    pub fn read(&self, offset: u64, size: usize) -> u64 {
        let mut data = [0; 8];
        self.buses.mmio_read(self.base + offset, &mut data[..size]);
        u64::from_le_bytes(data)
    }

    pub fn write(&self, offset: u64, size: usize, value: u64) {
        self.buses.mmio_write(self.base + offset, &value.to_le_bytes()[..size]);
    }

    pub fn status(&self) -> u8 {
        self.read(0x14, 1) as u8
    }

    pub fn enable_msix(&self) {
        let at = self.capability(0x11, None);
        self.set_config(at + 2, 2, 0x8000);
        for vector in 0..=self.read(0x12, 2) {
            self.write(layout::MSIX_TABLE + vector * 16, 8, 0xFEE0_0000);
            self.write(layout::MSIX_TABLE + vector * 16 + 8, 8, vector);
        }
        self.write(0x10, 2, 0);
    }

    /// Reset, negotiation of `features` (VERSION_1 is added) and queues, up to FEATURES_OK and enabled queues.
    /// Queue `n` has MSI-X vector `n + 1`, configuration 0.
    pub fn prepare(&mut self, features: u64) {
        self.write(0x14, 1, 0);
        assert_eq!(self.status(), 0);
        self.write(0x14, 1, 1);
        self.write(0x14, 1, 3);
        self.features = features | feature::VERSION_1;
        for half in 0..2 {
            self.write(0x08, 4, half);
            self.write(0x0C, 4, self.features >> (32 * half) & 0xFFFF_FFFF);
        }
        self.write(0x14, 1, 0x0B);
        assert_eq!(self.status(), 0x0B);
        self.write(0x10, 2, 0);
        self.queues.clear();
        for index in 0..self.read(0x12, 2) {
            self.write(0x16, 2, index);
            let base = 0x1_0000 + index * 0x1_0000;
            let ring = Ring {
                size: self.read(0x18, 2) as u16,
                descriptors: base,
                avail: base + 0x4000,
                used: base + 0x8000,
                next_descriptor: 0,
                avail_index: 0,
                used_index: 0,
            };
            self.memory.write(base, &[0; 0xC000]).unwrap();
            for (register, address) in [(0x20, ring.descriptors), (0x28, ring.avail), (0x30, ring.used)] {
                self.write(register, 4, address & 0xFFFF_FFFF);
                self.write(register + 4, 4, address >> 32);
            }
            self.write(0x1A, 2, index + 1);
            self.write(0x1C, 2, 1);
            self.queues.push(ring);
        }
    }

    pub fn start(&mut self, features: u64) {
        self.enable_msix();
        self.prepare(features);
        self.write(0x14, 1, 0x0F);
        assert_eq!(self.status(), 0x0F);
    }

    pub fn set_descriptor(&self, at: u64, address: u64, size: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&size.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&next.to_le_bytes());
        self.memory.write(at, &bytes).unwrap();
    }

    /// Lays a chain of (address, size, device writes) into the next descriptors and returns its head.
    pub fn lay(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let ring = self.queues[queue];
        let at = |index: u16| ring.next_descriptor.wrapping_add(index) % ring.size;
        for (index, (address, size, writes)) in (0..).zip(buffers) {
            let last = usize::from(index) + 1 == buffers.len();
            let flags = if *writes { DEVICE_WRITES } else { 0 } | if last { 0 } else { NEXT };
            self.set_descriptor(ring.descriptors + 16 * u64::from(at(index)), *address, *size, flags, at(index + 1));
        }
        self.queues[queue].next_descriptor = at(buffers.len() as u16);
        at(0)
    }

    /// Makes a head available without notifying.
    pub fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let slot = u64::from(ring.avail_index % ring.size);
        self.memory.store_u16(ring.avail + 4 + 2 * slot, head).unwrap();
        ring.avail_index = ring.avail_index.wrapping_add(1);
        self.memory.store_u16(ring.avail + 2, ring.avail_index).unwrap();
    }

    pub fn notify(&self, queue: usize) {
        self.write(layout::NOTIFY + queue as u64 * layout::NOTIFY_MULTIPLIER, 2, queue as u64);
    }

    pub fn submit(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.lay(queue, buffers);
        self.publish(queue, head);
        self.notify(queue);
        head
    }

    /// The next used element (head, bytes written), when there is one.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.queues[queue];
        if self.memory.load_u16(ring.used + 2).unwrap() == ring.used_index {
            return None;
        }
        let slot = ring.used + 4 + 8 * u64::from(ring.used_index % ring.size);
        ring.used_index = ring.used_index.wrapping_add(1);
        Some((self.memory.load_u32(slot).unwrap() as u16, self.memory.load_u32(slot + 4).unwrap()))
    }

    pub fn wait(&mut self, queue: usize) -> (u16, u32) {
        let mut found = None;
        eventually("a used buffer", || {
            found = self.used(queue);
            found.is_some()
        });
        found.unwrap()
    }

    pub fn messages(&self, vector: usize) -> u32 {
        self.controller.messages[vector].load(Ordering::SeqCst)
    }

    pub fn expect_needs_reset(&self, what: &str) {
        eventually(what, || self.status() & status::DEVICE_NEEDS_RESET != 0);
    }

    pub fn bytes(&self, address: u64, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        self.memory.read(address, &mut data).unwrap();
        data
    }

    pub fn snapshot(&self) -> Vec<u8> {
        self.pci.pause();
        self.pci.save()
    }

    /// Loads snapshots that were cut off, which must be refused, and such with one byte changed. Some bytes may have any
    /// value; the machine must stay usable with all of them.
    pub fn survives_damaged_snapshots(&self) {
        let state = self.snapshot();
        let load = |state: &[u8]| board::Device::load(&*self.pci, state);
        for length in 0..state.len() {
            assert!(load(&state[..length]).is_err(), "{length} bytes");
        }
        for at in 0..state.len() {
            let mut damaged = state.clone();
            damaged[at] ^= 0xFF;
            let _ = load(&damaged);
            self.pci.resume();
            self.pci.pause();
        }
        load(&state).unwrap();
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
