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

/// Where the structures lie in the one base address register's range. virtio 1.2, section 4.1.4.
pub mod layout {
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
/// The most queues a device can have: the MSI-X table takes 4 KiB.
const MAX_QUEUES: usize = 255;
/// Capability ID of vendor-specific capabilities.
const VENDOR_CAPABILITY: u8 = 0x09;

/// virtio 1.2, section 4.1.2.
fn device_id(device: &dyn VirtioDevice) -> u16 {
    0x1040 + device.device_type() as u16
}

/// A virtio device as a PCI function: modern only, one 64-bit base address register, MSI-X or INTx.
/// virtio 1.2, section 4.1.
pub struct VirtioPci {
    device: Arc<dyn VirtioDevice>,
    link: Arc<Link>,
    transport: Transport,
    rom: ExpansionRom,
    /// The virtual machine whose kernel may signal notifications. It owns the buses and these us, so it is not owned.
    vm: Option<Weak<dyn Vm>>,
    /// Where notifications are registered with `vm`. A lock of its own, taken last.
    notify: Mutex<Option<u64>>,
    /// Offset of the PCI configuration access capability.
    window: OnceLock<u8>,
}

impl VirtioPci {
    /// Puts a device behind PCI. Its requests reach `memory`; with `vm`, notifications are signalled by the
    /// accelerator where it can, otherwise they come as writes on the bus.
    ///
    /// # Errors
    /// When the system has no file descriptor left, or the device more than 255 queues.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        vm: Option<Weak<dyn Vm>>,
    ) -> io::Result<Arc<Self>> {
        Self::with_rom(device, memory, vm, Vec::new())
    }

    /// As [`VirtioPci::new`], with an expansion ROM of at most 16 MiB; empty: none.
    ///
    /// # Errors
    /// As there, and when the ROM is larger.
    pub fn with_rom(
        device: Arc<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        vm: Option<Weak<dyn Vm>>,
        rom: Vec<u8>,
    ) -> io::Result<Arc<Self>> {
        let queues = device.queue_sizes().len();
        if queues > MAX_QUEUES {
            return Err(io::Error::other(format!("{} has {queues} queues, {MAX_QUEUES} are possible", device.name())));
        }
        let rom = ExpansionRom::new(rom, VENDOR, device_id(&*device)).map_err(io::Error::other)?;
        let link = Arc::new(Link::new(queues as u16)?);
        device.connect(link.clone());
        let transport = Transport::new(device.clone(), memory, link.clone());
        Ok(Arc::new(VirtioPci { device, link, transport, rom, vm, notify: Mutex::new(None), window: OnceLock::new() }))
    }

    /// Why the device needs a reset by its driver, when it does.
    pub fn failure(&self) -> Option<String> {
        self.link.failure()
    }

    /// Moves the registrations of notifications to where base address register 0 is now.
    fn register_notifications(&self, base: Option<u64>) {
        let Some(vm) = self.vm.as_ref().and_then(Weak::upgrade) else { return };
        let mut registered = self.notify.lock();
        let addresses = |base: u64| {
            let count = self.device.queue_sizes().len() as u64;
            (0..count).map(move |queue| IoAddress::Mmio(base + layout::NOTIFY + queue * layout::NOTIFY_MULTIPLIER))
        };
        // An error leaves the write to the bus, which signals as well: nothing is lost.
        if let Some(old) = registered.take() {
            for address in addresses(old) {
                let _ = vm.unregister_ioeventfd(address, 0, self.link.wake_fd());
            }
        }
        if let Some(base) = base {
            for address in addresses(base) {
                let _ = vm.register_ioeventfd(address, 0, self.link.wake_fd());
            }
            *registered = Some(base);
        }
    }

    /// The access that the PCI configuration access capability describes: offset and size of it in the range.
    /// virtio 1.2, section 4.1.4.9.
    fn window_access(&self, configuration: &Configuration, offset: u8) -> Option<(u64, usize)> {
        let at = *self.window.get()?;
        let (bar, start, length) = (configuration.u8(at + 4), configuration.u32(at + 8), configuration.u32(at + 12));
        let sized = matches!(length, 1 | 2 | 4) && start % length == 0;
        let inside = u64::from(start) + u64::from(length) <= layout::SIZE;
        (offset == at + 16 && bar == 0 && sized && inside).then_some((u64::from(start), length as usize))
    }
}

impl PciFunction for VirtioPci {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn configuration(&self) -> Configuration {
        let device_type = self.device.device_type();
        let mut configuration = Configuration::new(Identity {
            vendor: VENDOR,
            device: device_id(&*self.device),
            revision: 1,
            class: match device_type {
                DeviceType::Net => [0x02, 0x00, 0x00],
                DeviceType::Block | DeviceType::Scsi => [0x01, 0x00, 0x00],
                DeviceType::Console => [0x07, 0x80, 0x00],
                DeviceType::Entropy => [0xFF, 0x00, 0x00],
            },
            subsystem_vendor: VENDOR,
            subsystem: 0x1100,
        });
        configuration.add_bar(0, Bar::Memory64(layout::SIZE));
        if let Some(bar) = self.rom.bar() {
            configuration.add_bar(ROM_BAR, bar);
        }
        configuration.set_interrupt_pin(1);
        self.link.msix.add_capability(&mut configuration, 0, layout::MSIX_TABLE as u32, layout::MSIX_PENDING as u32);
        let notify_size = self.device.queue_sizes().len() as u64 * layout::NOTIFY_MULTIPLIER;
        let multiplier = (layout::NOTIFY_MULTIPLIER as u32).to_le_bytes();
        let structures: [(u8, u64, u64, &[u8]); 4] = [
            (1, layout::COMMON, COMMON_SIZE as u64, &[]),
            (2, layout::NOTIFY, notify_size, &multiplier),
            (3, layout::ISR, 1, &[]),
            (4, layout::DEVICE, self.device.config().len() as u64, &[]),
        ];
        for (kind, offset, length, more) in structures.into_iter().filter(|(_, _, length, _)| *length > 0) {
            let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
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
        configuration
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>, intx: Option<Intx>) {
        self.link.msix.connect(interrupts);
        self.link.connect(intx);
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if bar == ROM_BAR {
            return self.rom.read(offset, data);
        }
        match offset {
            layout::COMMON..layout::ISR => self.transport.read((offset - layout::COMMON) as usize, data),
            layout::ISR..layout::DEVICE => {
                data.fill(0);
                if offset == layout::ISR {
                    data[0] = self.link.take_isr();
                }
            }
            layout::DEVICE..layout::NOTIFY => {
                data.fill(0);
                let config = self.device.config();
                for (byte, value) in data.iter_mut().zip(config.iter().skip((offset - layout::DEVICE) as usize)) {
                    *byte = *value;
                }
            }
            layout::MSIX_TABLE..layout::MSIX_PENDING => self.link.msix.read_table(offset - layout::MSIX_TABLE, data),
            layout::MSIX_PENDING..layout::END => self.link.msix.read_pending(offset - layout::MSIX_PENDING, data),
            _ => data.fill(0),
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) -> Action {
        match offset {
            _ if bar == ROM_BAR => {}
            layout::COMMON..layout::ISR => self.transport.write((offset - layout::COMMON) as usize, data),
            layout::DEVICE..layout::NOTIFY => self.device.write_config((offset - layout::DEVICE) as usize, data),
            // One wake-up for all queues: the thread looks at each of them anyway.
            layout::NOTIFY..layout::MSIX_TABLE => self.link.wake(),
            layout::MSIX_TABLE..layout::MSIX_PENDING => self.link.msix.write_table(offset - layout::MSIX_TABLE, data),
            _ => {}
        }
        Action::None
    }

    fn config_read(&self, configuration: &Configuration, offset: u8, data: &mut [u8]) {
        if let Some((start, size)) = self.window_access(configuration, offset) {
            let size = size.min(data.len());
            self.bar_read(0, start, &mut data[..size]);
        }
    }

    fn config_write(&self, configuration: &Configuration, offset: u8, data: &[u8]) {
        if let Some((start, size)) = self.window_access(configuration, offset) {
            // A virtio device asks nothing of the machine, so there is no action to hand on.
            let _ = self.bar_write(0, start, &data[..size.min(data.len())]);
        }
    }

    fn config_changed(&self, configuration: &Configuration) {
        self.link.msix.config_changed(configuration);
        self.link.follow_msix();
        self.transport.set_master(configuration.u16(register::COMMAND) & COMMAND_MASTER != 0);
    }

    fn bar_moved(&self, bar: usize, range: Option<&BarRange>) {
        if bar == ROM_BAR {
            return;
        }
        self.register_notifications(match range {
            Some(BarRange::Memory(range)) => Some(*range.start()),
            _ => None,
        });
    }

    fn reset(&self) {
        self.transport.reset();
        self.link.msix.reset();
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
        self.transport.load(state)
    }
}
