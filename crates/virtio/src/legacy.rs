//! The legacy interface: registers at I/O ports, for drivers that know nothing of virtio 1.0.
//!
//! Such a driver may let the device work before DRIVER_OK, take features after it has set up its queues, and give up one
//! queue alone. virtio 1.2, section 4.1.4.10 ("Legacy Interfaces: A Note on PCI Device Layout") and those named below.

use crate::QueueLayout;
use crate::status::{DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK};
use crate::transport::{Engine, Registers, Side, Transport};
use crate::{Queue, feature};
use std::sync::atomic::Ordering;

/// Offsets of the registers.
pub(crate) mod register {
    pub const DEVICE_FEATURES: u64 = 0;
    pub const DRIVER_FEATURES: u64 = 4;
    /// In pages.
    pub const QUEUE_ADDRESS: u64 = 8;
    pub const QUEUE_SIZE: u64 = 12;
    pub const QUEUE_SELECT: u64 = 14;
    pub const QUEUE_NOTIFY: u64 = 16;
    pub const DEVICE_STATUS: u64 = 18;
    pub const ISR_STATUS: u64 = 19;
    /// Only while MSI-X is enabled, like the next. Otherwise device configuration begins here.
    pub const CONFIG_VECTOR: u64 = 20;
    pub const QUEUE_VECTOR: u64 = 22;
    /// Device configuration while MSI-X is enabled.
    pub const END: u64 = 24;
}

/// Bytes of a page as queue addresses count them, and to which a used ring is aligned. Section 2.7.2 of virtio 1.2.
const PAGE: u64 = 4096;

impl QueueLayout {
    /// The one area of a queue of `size` descriptors in which legacy drivers have all three parts: from page number
    /// `page` on. virtio 1.2, section 2.7.2 ("Legacy Interfaces: A Note on Virtqueue Layout").
    pub(crate) fn legacy(size: u16, page: u32) -> Self {
        let descriptors = u64::from(page) * PAGE;
        let driver = descriptors + 16 * u64::from(size);
        let device = (driver + 6 + 2 * u64::from(size)).next_multiple_of(PAGE);
        QueueLayout { size, descriptors, driver, device }
    }
}

impl Transport {
    /// The features a legacy driver is offered: those of the first 32 bits, and that buffers may be cut as it likes.
    /// virtio 1.2, section 6.3.
    pub(crate) fn legacy_features(&self) -> u64 {
        self.offered & 0xFFFF_FFFF | feature::ANY_LAYOUT
    }

    /// Whether a legacy driver's queues are served: its notifications need not be seen here.
    pub(crate) fn serves_legacy(&self) -> bool {
        let registers = self.registers.lock();
        registers.side == Side::Legacy && !matches!(registers.engine, Engine::Idle)
    }

    /// Reads registers below the device configuration.
    pub(crate) fn read_legacy(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == register::ISR_STATUS {
            data[0] = self.link.take_isr();
            return;
        }
        let registers = self.registers.lock();
        let mut bytes = [0; register::END as usize];
        let mut put = |at: u64, value: &[u8]| bytes[at as usize..][..value.len()].copy_from_slice(value);
        put(register::DEVICE_FEATURES, &(self.legacy_features() as u32).to_le_bytes());
        put(register::DRIVER_FEATURES, &(registers.driver_features as u32).to_le_bytes());
        put(register::QUEUE_SELECT, &registers.queue_select.to_le_bytes());
        put(register::DEVICE_STATUS, &[self.link.status()]);
        put(register::CONFIG_VECTOR, &self.link.config_vector.load(Ordering::Acquire).to_le_bytes());
        let selected = usize::from(registers.queue_select);
        // A queue that does not exist has size zero.
        if let Some(queue) = registers.queues.get(selected) {
            let page = if queue.enabled { (queue.layout.descriptors / PAGE) as u32 } else { 0 };
            put(register::QUEUE_ADDRESS, &page.to_le_bytes());
            put(register::QUEUE_SIZE, &self.queue_sizes[selected].to_le_bytes());
            put(register::QUEUE_VECTOR, &self.link.queue_vectors[selected].load(Ordering::Acquire).to_le_bytes());
        }
        for (byte, value) in data.iter_mut().zip(&bytes[offset as usize..]) {
            *byte = *value;
        }
    }

    /// Writes a register below the device configuration. Accesses that are not of its own width are ignored.
    pub(crate) fn write_legacy(&self, offset: u64, data: &[u8]) {
        let registers = &mut *self.registers.lock();
        match (offset, data) {
            (register::DRIVER_FEATURES, &[a, b, c, d]) if registers.choose(Side::Legacy) => {
                registers.driver_features = u64::from(u32::from_le_bytes([a, b, c, d])) & self.legacy_features();
                self.renew(registers, None);
            }
            (register::QUEUE_ADDRESS, &[a, b, c, d]) if registers.choose(Side::Legacy) => {
                let index = usize::from(registers.queue_select);
                let page = u32::from_le_bytes([a, b, c, d]);
                if let Some(queue) = registers.queues.get_mut(index) {
                    queue.layout = QueueLayout::legacy(self.queue_sizes[index], page);
                    queue.enabled = page != 0;
                    self.renew(registers, Some(index));
                }
            }
            (register::QUEUE_SELECT, &[a, b]) => registers.queue_select = u16::from_le_bytes([a, b]),
            (register::QUEUE_NOTIFY, _) => self.notify_legacy(registers),
            (register::DEVICE_STATUS, &[value]) => {
                if value & DRIVER_OK != 0 {
                    registers.choose(Side::Legacy);
                }
                // Linux before 2.6.34 never sets the bit in the command register.
                if value & DRIVER != 0 && !registers.master {
                    registers.master = true;
                    self.run(registers);
                }
                self.write_status(registers, value);
            }
            (register::CONFIG_VECTOR, &[a, b]) => {
                let vector = self.vector(u64::from(u16::from_le_bytes([a, b])));
                self.link.config_vector.store(vector, Ordering::Release);
            }
            (register::QUEUE_VECTOR, &[a, b]) => {
                if let Some(register) = self.link.queue_vectors.get(usize::from(registers.queue_select)) {
                    register.store(self.vector(u64::from(u16::from_le_bytes([a, b]))), Ordering::Release);
                }
            }
            _ => {}
        }
    }

    /// A driver that notifies before DRIVER_OK is served from then on. virtio 1.2, section 3.1.2.
    fn notify_legacy(&self, registers: &mut Registers) {
        let ready = registers.side == Side::Legacy && registers.queues.iter().any(|queue| queue.enabled);
        if ready && matches!(registers.engine, Engine::Idle) && self.link.status() & DEVICE_NEEDS_RESET == 0 {
            self.start(registers, |_| (0, 0));
        }
        self.link.wake();
    }

    /// Lets queues that are being served go on with what the driver has changed; the one named `anew` from its start.
    fn renew(&self, registers: &mut Registers, anew: Option<usize>) {
        self.halt(registers);
        let Engine::Paused(queues) = std::mem::replace(&mut registers.engine, Engine::Idle) else { return };
        let indices: Vec<(u16, u16)> = queues.iter().map(Queue::indices).collect();
        drop(queues);
        self.start(registers, |index| match indices.get(index) {
            Some(indices) if anew != Some(index) => *indices,
            _ => (0, 0),
        });
    }
}
