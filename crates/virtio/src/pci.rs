use crate::legacy::register as legacy;
use crate::transport::{COMMON_SIZE, Transport};
use crate::{DeviceType, Link, VirtioDevice};
use board::Action;
use board::pci::{
    Bar, BarRange, COMMAND_MASTER, Configuration, ExpansionRom, Identity, Intx, PciFunction, ROM_BAR, register,
};
use hv::{GuestMemory, Interrupts, IoAddress, Vm};
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, OnceLock, Weak};

/// Where the structures lie in the range of base address register [`BAR`]. virtio 1.2, section 4.1.4.
///
/// [`BAR`]: layout::BAR
pub mod layout {
    /// The base address register of all structures. Below it is room for the legacy interface's, which is always 0.
    pub const BAR: usize = 4;
    /// Bytes of the range.
    pub const SIZE: u64 = 0x8000;
    /// Common configuration.
    pub const COMMON: u64 = 0x0000;
    /// ISR status.
    pub const ISR: u64 = 0x1000;
    /// Device configuration.
    pub const DEVICE: u64 = 0x2000;
    /// Notifications: queue `n` at `4 * n`.
    pub const NOTIFY: u64 = 0x3000;
    /// Bytes between two queues' notifications.
    pub const NOTIFY_MULTIPLIER: u64 = 4;
    /// MSI-X table.
    pub const MSIX_TABLE: u64 = 0x4000;
    /// MSI-X pending bits.
    pub const MSIX_PENDING: u64 = 0x5000;
    /// Where none of the structures reaches any more.
    pub const END: u64 = 0x6000;
}

const VENDOR: u16 = 0x1AF4;
/// The base address register of the legacy interface. virtio 1.2, section 4.1.4.10.
const LEGACY_BAR: usize = 0;
/// Offset of device status in the common configuration.
const DEVICE_STATUS: u64 = layout::COMMON + 0x14;
/// The most queues a device can have: the MSI-X table takes 4 KiB.
const MAX_QUEUES: usize = 255;
/// Capability ID of vendor-specific capabilities.
const VENDOR_CAPABILITY: u8 = 0x09;

/// The interfaces through which drivers can use a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// Both, under the old device ID, as guests find it that were installed on other PCs of this kind. A kind of device
    /// that never had a legacy interface is modern.
    #[default]
    Transitional,
    /// That of virtio 1.0 and later alone.
    Modern,
    /// That from before virtio 1.0 alone.
    Legacy,
}

/// How a device is put behind PCI.
#[derive(Clone, Debug, Default)]
pub struct PciOptions {
    /// Its interfaces.
    pub interfaces: Interfaces,
    /// Its expansion ROM, at most 16 MiB; empty: none.
    pub rom: Vec<u8>,
}

/// A virtio device as a PCI function: with a modern and a legacy interface, MSI-X or INTx. virtio 1.2, section 4.1.
pub struct VirtioPci {
    device: Arc<dyn VirtioDevice>,
    link: Arc<Link>,
    transport: Transport,
    /// Ports of the legacy interface, if there is one.
    legacy_size: Option<u16>,
    modern: bool,
    rom: ExpansionRom,
    /// The virtual machine whose kernel may signal notifications. It owns the buses and these us, so it is not owned.
    vm: Option<Weak<dyn Vm>>,
    notify: Mutex<Notify>,
    /// Offset of the PCI configuration access capability.
    window: OnceLock<u8>,
}

/// Where notifications arrive. Its lock comes before the transport's.
#[derive(Default)]
struct Notify {
    memory: Option<u64>,
    port: Option<u16>,
    /// What is registered with the virtual machine.
    registered: Vec<IoAddress>,
}

impl VirtioPci {
    /// Puts a device behind PCI, with the interfaces that fit it best. Its requests reach `memory`; with `vm`,
    /// notifications are signalled by the accelerator where it can, otherwise they come as writes on the bus.
    ///
    /// # Errors
    /// When the system has no file descriptor left, or the device more than 255 queues.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        vm: Option<Weak<dyn Vm>>,
    ) -> io::Result<Arc<Self>> {
        Self::with_options(device, memory, vm, PciOptions::default())
    }

    /// As [`VirtioPci::new`], with options.
    ///
    /// # Errors
    /// As [`VirtioPci::new`], and when a device that never had a legacy interface shall have no other, or the expansion
    /// ROM is too large.
    pub fn with_options(
        device: Arc<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        vm: Option<Weak<dyn Vm>>,
        options: PciOptions,
    ) -> io::Result<Arc<Self>> {
        let queues = device.queue_sizes().len();
        if queues > MAX_QUEUES {
            return Err(io::Error::other(format!("{} has {queues} queues, {MAX_QUEUES} are possible", device.name())));
        }
        let PciOptions { interfaces, rom } = options;
        let legacy_size = legacy_size(&*device).filter(|_| interfaces != Interfaces::Modern);
        let modern = interfaces != Interfaces::Legacy;
        if legacy_size.is_none() && !modern {
            return Err(io::Error::other(format!("{} has no legacy interface", device.name())));
        }
        let identity = identity(device.device_type(), legacy_size.is_some());
        let rom = ExpansionRom::new(rom, identity.vendor, identity.device).map_err(io::Error::other)?;
        let link = Arc::new(Link::new(queues as u16)?);
        device.connect(link.clone());
        let transport = Transport::new(device.clone(), memory, link.clone());
        let (notify, window) = (Mutex::default(), OnceLock::new());
        Ok(Arc::new(VirtioPci { device, link, transport, legacy_size, modern, rom, vm, notify, window }))
    }

    /// Why the device needs a reset by its driver, when it does.
    pub fn failure(&self) -> Option<String> {
        self.link.failure()
    }

    /// Registers notifications with the virtual machine wherever they can arrive now. Before a legacy driver is served,
    /// its first one has to be seen on the bus.
    fn follow_notifications(&self, change: impl FnOnce(&mut Notify)) {
        let mut notify = self.notify.lock();
        change(&mut notify);
        let Some(vm) = self.vm.as_ref().and_then(Weak::upgrade) else { return };
        let mut wanted = Vec::new();
        if let Some(base) = notify.memory.filter(|_| self.modern) {
            let count = self.device.queue_sizes().len() as u64;
            let address = |queue| IoAddress::Mmio(base + layout::NOTIFY + queue * layout::NOTIFY_MULTIPLIER);
            wanted.extend((0..count).map(address));
        }
        if let Some(port) = notify.port.filter(|_| self.transport.serves_legacy()) {
            wanted.push(IoAddress::Port(port + legacy::QUEUE_NOTIFY as u16));
        }
        // An error leaves the write to the bus, which signals as well: nothing is lost.
        for address in notify.registered.iter().filter(|address| !wanted.contains(address)) {
            let _ = vm.unregister_ioeventfd(*address, 0, self.link.wake_fd());
        }
        for address in wanted.iter().filter(|address| !notify.registered.contains(address)) {
            let _ = vm.register_ioeventfd(*address, 0, self.link.wake_fd());
        }
        notify.registered = wanted;
    }

    /// The access that the PCI configuration access capability describes: offset and size of it in the range.
    /// virtio 1.2, section 4.1.4.9.
    fn window_access(&self, configuration: &Configuration, offset: u8) -> Option<(u64, usize)> {
        let at = *self.window.get()?;
        let (bar, start, length) = (configuration.u8(at + 4), configuration.u32(at + 8), configuration.u32(at + 12));
        let sized = matches!(length, 1 | 2 | 4) && start % length == 0;
        let inside = u64::from(start) + u64::from(length) <= layout::SIZE;
        let ours = usize::from(bar) == layout::BAR;
        (offset == at + 16 && ours && sized && inside).then_some((u64::from(start), length as usize))
    }

    /// Adds the capabilities that say where the structures are. virtio 1.2, section 4.1.4.
    fn add_structures(&self, configuration: &mut Configuration) {
        let bar = layout::BAR as u8;
        let notify_size = self.device.queue_sizes().len() as u64 * layout::NOTIFY_MULTIPLIER;
        let multiplier = (layout::NOTIFY_MULTIPLIER as u32).to_le_bytes();
        let structures: [(u8, u64, u64, &[u8]); 4] = [
            (1, layout::COMMON, COMMON_SIZE as u64, &[]),
            (2, layout::NOTIFY, notify_size, &multiplier),
            (3, layout::ISR, 1, &[]),
            (4, layout::DEVICE, self.device.config().len() as u64, &[]),
        ];
        for (kind, offset, length, more) in structures.into_iter().filter(|(_, _, length, _)| *length > 0) {
            let mut body = vec![16 + more.len() as u8, kind, bar, 0, 0, 0];
            body.extend((offset as u32).to_le_bytes());
            body.extend((length as u32).to_le_bytes());
            body.extend(more);
            configuration.add_capability(VENDOR_CAPABILITY, &body, &[]);
        }
        // PCI configuration access: bar, offset, length and data belong to the driver.
        let mut body = [0; 18];
        body[0..2].copy_from_slice(&[20, 5]);
        let mut writable = [0; 18];
        writable[2] = 0xFF;
        writable[6..18].fill(0xFF);
        let window = configuration.add_capability(VENDOR_CAPABILITY, &body, &writable);
        let _ = self.window.set(window);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(self.device.config().iter().skip(offset as usize)) {
            *byte = *value;
        }
    }

    /// Where device configuration begins in the legacy interface. virtio 1.2, section 4.1.4.10.
    fn legacy_config(&self) -> u64 {
        if self.link.msix.enabled() { legacy::END } else { legacy::CONFIG_VECTOR }
    }

    fn read_modern(&self, offset: u64, data: &mut [u8]) {
        match offset {
            layout::COMMON..layout::ISR => self.transport.read((offset - layout::COMMON) as usize, data),
            layout::ISR..layout::DEVICE => {
                data.fill(0);
                if offset == layout::ISR {
                    data[0] = self.link.take_isr();
                }
            }
            layout::DEVICE..layout::NOTIFY => self.read_config(offset - layout::DEVICE, data),
            _ => data.fill(0),
        }
    }

    fn write_modern(&self, offset: u64, data: &[u8]) {
        match offset {
            layout::COMMON..layout::ISR => {
                self.transport.write((offset - layout::COMMON) as usize, data);
                if offset == DEVICE_STATUS {
                    self.follow_notifications(|_| ());
                }
            }
            layout::DEVICE..layout::NOTIFY => self.device.write_config((offset - layout::DEVICE) as usize, data),
            // One wake-up for all queues: the thread looks at each of them anyway.
            layout::NOTIFY..layout::MSIX_TABLE => self.link.wake(),
            _ => {}
        }
    }

    fn read_legacy(&self, offset: u64, data: &mut [u8]) {
        match offset.checked_sub(self.legacy_config()) {
            Some(offset) => self.read_config(offset, data),
            None => self.transport.read_legacy(offset, data),
        }
    }

    fn write_legacy(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(self.legacy_config()) {
            return self.device.write_legacy_config(offset as usize, data);
        }
        self.transport.write_legacy(offset, data);
        if offset == legacy::DEVICE_STATUS || offset == legacy::QUEUE_NOTIFY {
            self.follow_notifications(|_| ());
        }
    }
}

/// Who a function with a device of this kind is, with a legacy interface or without. virtio 1.2, section 4.1.2: with one, the
/// kind is in the subsystem ID.
fn identity(device_type: DeviceType, legacy: bool) -> Identity {
    let (device, revision, subsystem) = match device_type.transitional_id().filter(|_| legacy) {
        Some(id) => (id, 0, device_type as u16),
        None => (0x1040 + device_type as u16, 1, 0x1100),
    };
    let class = match device_type {
        DeviceType::Net => [0x02, 0x00, 0x00],
        DeviceType::Block | DeviceType::Scsi => [0x01, 0x00, 0x00],
        DeviceType::Console => [0x07, 0x80, 0x00],
        DeviceType::Entropy | DeviceType::Balloon => [0xFF, 0x00, 0x00],
    };
    Identity { vendor: VENDOR, device, revision, class, subsystem_vendor: VENDOR, subsystem }
}

/// How many ports the legacy interface of a device takes, if it can have one.
fn legacy_size(device: &dyn VirtioDevice) -> Option<u16> {
    device.device_type().transitional_id()?;
    let size = (legacy::END as usize + device.config().len()).next_power_of_two();
    u16::try_from(size).ok().filter(|size| *size <= 256)
}

impl PciFunction for VirtioPci {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(identity(self.device.device_type(), self.legacy_size.is_some()));
        if let Some(size) = self.legacy_size {
            configuration.add_bar(LEGACY_BAR, Bar::Io(size));
        }
        configuration.add_bar(layout::BAR, Bar::Memory64(layout::SIZE));
        if let Some(bar) = self.rom.bar() {
            configuration.add_bar(ROM_BAR, bar);
        }
        configuration.set_interrupt_pin(1);
        let (table, pending) = (layout::MSIX_TABLE as u32, layout::MSIX_PENDING as u32);
        self.link.msix.add_capability(&mut configuration, layout::BAR as u8, table, pending);
        if self.modern {
            self.add_structures(&mut configuration);
        }
        configuration
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>, intx: Option<Intx>) {
        self.link.msix.connect(interrupts);
        self.link.connect(intx);
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        match (bar, offset) {
            (LEGACY_BAR, _) => self.read_legacy(offset, data),
            (ROM_BAR, _) => self.rom.read(offset, data),
            (_, layout::MSIX_TABLE..layout::MSIX_PENDING) => {
                self.link.msix.read_table(offset - layout::MSIX_TABLE, data);
            }
            (_, layout::MSIX_PENDING..layout::END) => self.link.msix.read_pending(offset - layout::MSIX_PENDING, data),
            _ if self.modern => self.read_modern(offset, data),
            _ => data.fill(0),
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) -> Action {
        match (bar, offset) {
            (LEGACY_BAR, _) => self.write_legacy(offset, data),
            (ROM_BAR, _) => {}
            (_, layout::MSIX_TABLE..layout::MSIX_PENDING) => {
                self.link.msix.write_table(offset - layout::MSIX_TABLE, data);
            }
            _ if self.modern => self.write_modern(offset, data),
            _ => {}
        }
        Action::None
    }

    fn config_read(&self, configuration: &Configuration, offset: u8, data: &mut [u8]) {
        if let Some((start, size)) = self.window_access(configuration, offset) {
            let size = size.min(data.len());
            self.bar_read(layout::BAR, start, &mut data[..size]);
        }
    }

    fn config_write(&self, configuration: &Configuration, offset: u8, data: &[u8]) {
        if let Some((start, size)) = self.window_access(configuration, offset) {
            // A virtio device asks nothing of the machine, so there is no action to hand on.
            let _ = self.bar_write(layout::BAR, start, &data[..size.min(data.len())]);
        }
    }

    fn config_changed(&self, configuration: &Configuration) {
        self.link.msix.config_changed(configuration);
        self.link.follow_msix();
        self.transport.set_master(configuration.u16(register::COMMAND) & COMMAND_MASTER != 0);
    }

    fn bar_moved(&self, bar: usize, range: Option<&BarRange>) {
        self.follow_notifications(|notify| match (bar, range) {
            (LEGACY_BAR, Some(BarRange::Io(range))) => notify.port = Some(*range.start()),
            (LEGACY_BAR, _) => notify.port = None,
            (layout::BAR, Some(BarRange::Memory(range))) => notify.memory = Some(*range.start()),
            (layout::BAR, _) => notify.memory = None,
            _ => {}
        });
    }

    fn reset(&self) {
        self.transport.reset();
        self.link.msix.reset();
        self.follow_notifications(|_| ());
    }

    fn pause(&self) {
        self.transport.pause();
    }

    fn resume(&self) {
        self.transport.resume();
    }

    fn save(&self) -> Vec<u8> {
        self.transport.save()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let loaded = self.transport.load(state);
        self.follow_notifications(|_| ());
        loaded
    }
}
