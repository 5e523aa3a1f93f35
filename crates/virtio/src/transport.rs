use crate::link::{Link, NO_VECTOR};
use crate::status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
use crate::worker::Worker;
use crate::{Queue, QueueLayout, VirtioDevice, feature};
use board::{StateReader, StateWriter};
use hv::GuestMemory;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of the common configuration structure. virtio 1.2, section 4.1.4.3, up to `queue_device`.
pub(crate) const COMMON_SIZE: usize = 56;

const STATE_VERSION: u32 = 2;

/// The registers of the common configuration structure and what follows from writing them; those of the legacy interface
/// are in `legacy.rs`.
///
/// Lock order: `registers`, then those of the device and of [`Link`]. The I/O thread never takes `registers`, so it may
/// be waited for under it.
pub(crate) struct Transport {
    pub(super) device: Arc<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    pub(super) link: Arc<Link>,
    pub(super) offered: u64,
    pub(super) queue_sizes: Vec<u16>,
    pub(super) registers: Mutex<Registers>,
}

pub(super) struct Registers {
    device_feature_select: u32,
    driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
    pub(super) side: Side,
    paused: bool,
    /// Whether the function may read and write guest memory.
    pub(super) master: bool,
    /// What the command register says of that.
    command_master: bool,
    pub(super) engine: Engine,
}

#[derive(Clone, Copy)]
pub(super) struct QueueRegisters {
    pub(super) layout: QueueLayout,
    pub(super) enabled: bool,
}

/// Which interface the driver uses: known from the first feature or queue it writes to the next reset. Meanwhile the
/// other one's writes to features and queues are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Side {
    Unknown = 0,
    Modern = 1,
    Legacy = 2,
}

/// Who has the queues.
pub(super) enum Engine {
    /// Nobody: the driver is not ready, or has broken the rules.
    Idle,
    /// The I/O thread.
    Running(Worker),
    /// We, during a pause, or while the function may not reach memory.
    Paused(Vec<Queue>),
}

impl Registers {
    fn new(queue_sizes: &[u16]) -> Self {
        let queue = |size: &u16| QueueRegisters {
            layout: QueueLayout { size: *size, ..QueueLayout::default() },
            enabled: false,
        };
        Registers {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(queue).collect(),
            side: Side::Unknown,
            paused: false,
            master: false,
            command_master: false,
            engine: Engine::Idle,
        }
    }

    /// Whether features and queues may be written through this interface.
    pub(super) fn choose(&mut self, side: Side) -> bool {
        if self.side == Side::Unknown {
            self.side = side;
        }
        self.side == side
    }
}

impl Transport {
    pub fn new(device: Arc<dyn VirtioDevice>, memory: Arc<GuestMemory>, link: Arc<Link>) -> Self {
        let queue_sizes = device.queue_sizes();
        let offered = device.features() | feature::VERSION_1 | feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC;
        let registers = Mutex::new(Registers::new(&queue_sizes));
        Transport { device, memory, link, offered, queue_sizes, registers }
    }

    /// Reads any bytes of the structure; those beyond its end read zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let registers = self.registers.lock();
        let feature_half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let selected = usize::from(registers.queue_select);
        let vector = |register: &std::sync::atomic::AtomicU16| register.load(Ordering::Acquire);
        let mut bytes = [0; COMMON_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0x00, &registers.device_feature_select.to_le_bytes());
        put(0x04, &feature_half(self.offered, registers.device_feature_select).to_le_bytes());
        put(0x08, &registers.driver_feature_select.to_le_bytes());
        put(0x0C, &feature_half(registers.driver_features, registers.driver_feature_select).to_le_bytes());
        put(0x10, &vector(&self.link.config_vector).to_le_bytes());
        put(0x12, &(self.queue_sizes.len() as u16).to_le_bytes());
        put(0x14, &[self.link.status(), self.link.generation()]);
        put(0x16, &registers.queue_select.to_le_bytes());
        // A queue that does not exist shows a size of zero.
        if let Some(queue) = registers.queues.get(selected) {
            put(0x18, &queue.layout.size.to_le_bytes());
            put(0x1A, &vector(&self.link.queue_vectors[selected]).to_le_bytes());
            put(0x1C, &u16::from(queue.enabled).to_le_bytes());
            put(0x1E, &registers.queue_select.to_le_bytes());
            put(0x20, &queue.layout.descriptors.to_le_bytes());
            put(0x28, &queue.layout.driver.to_le_bytes());
            put(0x30, &queue.layout.device.to_le_bytes());
        }
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip(offset)) {
            *byte = *value;
        }
    }

    /// Writes a register. Accesses that are not of a register's own width (or half of one of 64 bits) are ignored, as
    /// are those to read-only registers (virtio 1.2, section 4.1.3.1).
    pub fn write(&self, offset: usize, data: &[u8]) {
        let mut guard = self.registers.lock();
        let registers = &mut *guard;
        let mut bytes = [0; 8];
        bytes[..data.len().min(8)].copy_from_slice(&data[..data.len().min(8)]);
        let value = u64::from_le_bytes(bytes);
        let negotiable = self.link.status() & FEATURES_OK == 0;
        match (offset, data.len()) {
            (0x00, 4) => registers.device_feature_select = value as u32,
            (0x08, 4) => registers.driver_feature_select = value as u32,
            (0x0C, 4) if negotiable && registers.choose(Side::Modern) => {
                let features = registers.driver_features;
                match registers.driver_feature_select {
                    0 => registers.driver_features = features & !0xFFFF_FFFF | value,
                    1 => registers.driver_features = features & 0xFFFF_FFFF | value << 32,
                    _ => {}
                }
            }
            (0x10, 2) => self.link.config_vector.store(self.vector(value), Ordering::Release),
            (0x14, 1) => self.write_status(registers, value as u8),
            (0x16, 2) => registers.queue_select = value as u16,
            (0x1A, 2) => {
                if let Some(vector) = self.link.queue_vectors.get(usize::from(registers.queue_select)) {
                    vector.store(self.vector(value), Ordering::Release);
                }
            }
            _ => self.write_queue(registers, offset, data.len(), value),
        }
    }

    /// Writes a register of the selected queue. From its enabling, or from DRIVER_OK, until the next reset these are
    /// fixed.
    fn write_queue(&self, registers: &mut Registers, offset: usize, size: usize, value: u64) {
        let index = usize::from(registers.queue_select);
        let ready = self.link.status() & DRIVER_OK != 0;
        if !(0x18..0x38).contains(&offset) || !registers.choose(Side::Modern) {
            return;
        }
        let Some(queue) = registers.queues.get_mut(index).filter(|queue| !queue.enabled && !ready) else { return };
        let layout = &mut queue.layout;
        match (offset, size) {
            (0x18, 2) => {
                let wanted = value as u16;
                if wanted.is_power_of_two() && wanted <= self.queue_sizes[index] {
                    layout.size = wanted;
                }
            }
            (0x1C, 2) if value == 1 => queue.enabled = true,
            (0x20 | 0x24, _) => set_address(&mut layout.descriptors, offset, size, value),
            (0x28 | 0x2C, _) => set_address(&mut layout.driver, offset, size, value),
            (0x30 | 0x34, _) => set_address(&mut layout.device, offset, size, value),
            _ => {}
        }
    }

    /// A vector as a register takes it: NO_VECTOR for one that does not exist.
    pub(super) fn vector(&self, value: u64) -> u16 {
        if value < u64::from(self.link.msix.vectors()) { value as u16 } else { NO_VECTOR }
    }

    /// virtio 1.2, sections 2.1 and 3.1.1. Bits are only ever added, by a write of zero all are cleared.
    pub(super) fn write_status(&self, registers: &mut Registers, value: u8) {
        if value == 0 {
            return self.reset_registers(registers);
        }
        let before = self.link.status();
        let mut added = value & (ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED) & !before;
        // Legacy drivers know nothing of FEATURES_OK, and the others cannot go without.
        let legacy = registers.side == Side::Legacy;
        if legacy || !self.agreed(registers) {
            added &= !FEATURES_OK;
        }
        if !legacy && (before | added) & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.link.add_status(added);
        let idle = matches!(registers.engine, Engine::Idle);
        if added & DRIVER_OK != 0 && before & DEVICE_NEEDS_RESET == 0 && idle {
            self.start(registers, |_| (0, 0));
        }
    }

    /// Whether the driver has taken only features that it was offered, as its interface demands.
    fn agreed(&self, registers: &Registers) -> bool {
        let taken = registers.driver_features;
        match registers.side {
            Side::Legacy => taken & !self.legacy_features() == 0,
            _ => taken & !self.offered == 0 && taken & feature::VERSION_1 != 0,
        }
    }

    /// Makes the queues, each going on at the ring indices that `indices` gives, and lets the device run.
    pub(super) fn start(&self, registers: &mut Registers, indices: impl Fn(usize) -> (u16, u16)) {
        let features = registers.driver_features;
        let queues = registers.queues.iter().enumerate().map(|(index, queue)| {
            let layout = queue.enabled.then_some(queue.layout);
            Queue::new(index as u16, layout, features, indices(index), &self.memory, &self.link)
        });
        match queues.collect::<Result<Vec<_>, _>>() {
            Ok(queues) => {
                self.device.start(features);
                registers.engine = Engine::Paused(queues);
                self.run(registers);
            }
            Err(error) => self.link.needs_reset(format!("{}: {error}", self.device.name())),
        }
    }

    /// Gives the queues to an I/O thread, unless there is a reason against it.
    pub(super) fn run(&self, registers: &mut Registers) {
        if registers.paused || !registers.master || self.link.status() & DEVICE_NEEDS_RESET != 0 {
            return;
        }
        registers.engine = match std::mem::replace(&mut registers.engine, Engine::Idle) {
            Engine::Paused(queues) => match Worker::start(self.device.clone(), self.link.clone(), queues) {
                Ok(worker) => Engine::Running(worker),
                Err(error) => {
                    self.link.needs_reset(format!("{}: cannot start its thread: {error}", self.device.name()));
                    Engine::Idle
                }
            },
            other => other,
        };
    }

    /// Takes the queues back, after the request that is being served.
    pub(super) fn halt(&self, registers: &mut Registers) {
        registers.engine = match std::mem::replace(&mut registers.engine, Engine::Idle) {
            Engine::Running(worker) => Engine::Paused(worker.stop()),
            other => other,
        };
    }

    fn reset_registers(&self, registers: &mut Registers) {
        self.halt(registers);
        let Registers { paused, command_master, .. } = *registers;
        let fresh = Registers::new(&self.queue_sizes);
        *registers = Registers { paused, command_master, master: command_master, ..fresh };
        self.link.reset();
        self.device.reset();
    }

    /// The driver's or the machine's reset. Returns when no request is in flight any more.
    pub fn reset(&self) {
        self.reset_registers(&mut self.registers.lock());
    }

    pub fn pause(&self) {
        let registers = &mut *self.registers.lock();
        registers.paused = true;
        self.halt(registers);
    }

    pub fn resume(&self) {
        let registers = &mut *self.registers.lock();
        registers.paused = false;
        self.run(registers);
    }

    /// Whether the function may be a bus master: without, it leaves guest memory alone. PCI Local Bus 3.0, section
    /// 6.2.2, bit 2.
    pub fn set_master(&self, master: bool) {
        let registers = &mut *self.registers.lock();
        if std::mem::replace(&mut registers.command_master, master) != master {
            registers.master = master;
            if master { self.run(registers) } else { self.halt(registers) }
        }
    }

    pub fn save(&self) -> Vec<u8> {
        let registers = &mut *self.registers.lock();
        self.halt(registers);
        let indices = |index: usize| match &registers.engine {
            Engine::Paused(queues) => queues.get(index).map_or((0, 0), Queue::indices),
            _ => (0, 0),
        };
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u16(self.device.device_type() as u16);
        writer.u32(registers.device_feature_select);
        writer.u32(registers.driver_feature_select);
        writer.u64(registers.driver_features);
        writer.u16(registers.queue_select);
        writer.u8(self.link.status());
        writer.u8(self.link.isr());
        writer.u16(self.link.config_vector.load(Ordering::Acquire));
        writer.u8(registers.side as u8);
        writer.u8(u8::from(registers.master));
        writer.u8(u8::from(registers.command_master));
        writer.u8(u8::from(matches!(registers.engine, Engine::Paused(_))));
        writer.u16(registers.queues.len() as u16);
        for (index, queue) in registers.queues.iter().enumerate() {
            writer.u16(queue.layout.size);
            writer.u8(u8::from(queue.enabled));
            writer.u64(queue.layout.descriptors);
            writer.u64(queue.layout.driver);
            writer.u64(queue.layout.device);
            writer.u16(self.link.queue_vectors[index].load(Ordering::Acquire));
            let (avail, used) = indices(index);
            writer.u16(avail);
            writer.u16(used);
        }
        self.link.msix.save(&mut writer);
        writer.blob(&self.device.save());
        self.run(registers);
        writer.finish()
    }

    pub fn load(&self, state: &[u8]) -> Result<(), String> {
        let registers = &mut *self.registers.lock();
        self.reset_registers(registers);
        let loaded = self.load_registers(registers, state);
        if loaded.is_err() {
            self.reset_registers(registers);
        }
        loaded
    }

    fn load_registers(&self, registers: &mut Registers, state: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(self.device.name(), state, STATE_VERSION)?;
        if reader.u16()? != self.device.device_type() as u16 {
            return Err(reader.invalid("it belongs to another kind of device"));
        }
        registers.device_feature_select = reader.u32()?;
        registers.driver_feature_select = reader.u32()?;
        registers.driver_features = reader.u64()?;
        registers.queue_select = reader.u16()?;
        let status = reader.u8()?;
        let isr = reader.u8()?;
        let config_vector = self.vector(u64::from(reader.u16()?));
        registers.side = match reader.u8()? {
            0 => Side::Unknown,
            1 => Side::Modern,
            2 => Side::Legacy,
            _ => return Err(reader.invalid("its driver uses an interface that does not exist")),
        };
        registers.master = reader.bool()?;
        registers.command_master = reader.bool()?;
        let running = reader.bool()?;
        let legacy = registers.side == Side::Legacy;
        let settled = if legacy { running } else { status & FEATURES_OK != 0 };
        if settled && !self.agreed(registers)
            || running && !legacy && status & (FEATURES_OK | DRIVER_OK) != FEATURES_OK | DRIVER_OK
        {
            return Err(reader.invalid("its driver has taken features this device does not offer"));
        }
        if usize::from(reader.u16()?) != registers.queues.len() {
            return Err(reader.invalid("it has another number of queues"));
        }
        let mut indices = Vec::new();
        for (index, queue) in registers.queues.iter_mut().enumerate() {
            let size = reader.u16()?;
            if !size.is_power_of_two() || size > self.queue_sizes[index] {
                return Err(reader.invalid("it has a queue of a size this device does not offer"));
            }
            queue.enabled = reader.bool()?;
            queue.layout =
                QueueLayout { size, descriptors: reader.u64()?, driver: reader.u64()?, device: reader.u64()? };
            let vector = self.vector(u64::from(reader.u16()?));
            self.link.queue_vectors[index].store(vector, Ordering::Release);
            indices.push((reader.u16()?, reader.u16()?));
        }
        self.link.msix.load(&mut reader)?;
        let device_state = reader.blob()?;
        reader.finish()?;
        self.device.load(device_state)?;
        self.link.restore(status, isr, config_vector);
        if running && status & DEVICE_NEEDS_RESET == 0 {
            self.start(registers, |index| indices.get(index).copied().unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Writes one half, or all, of a register of 64 bits. Halves are at multiples of 8 and 4 bytes further.
fn set_address(register: &mut u64, offset: usize, size: usize, value: u64) {
    match (offset % 8, size) {
        (0, 8) => *register = value,
        (0, 4) => *register = *register & !0xFFFF_FFFF | value,
        (4, 4) => *register = *register & 0xFFFF_FFFF | value << 32,
        _ => {}
    }
}
