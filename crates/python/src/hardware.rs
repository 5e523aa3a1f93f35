use crate::balloon::Balloon;
use crate::device::PyDevice;
use crate::errors::core_error;
use crate::machine::{Machine, tell};
use crate::medium::Medium;
use crate::pci_devices;
use crate::screen::Screen;
use crate::terminal::{Terminal, duplicate};
use ata::{AHCI_PORTS, Ahci, Attachment, Ide};
use board::{
    ActionSink, DEBUG_EXIT_PORT, DEBUG_PORT, DebugExit, DebugPort, FloppyDrive, FloppyKind, I6300esb, PARALLEL_PORTS,
    PVPANIC_PORT, PanicEvent, Parallel, PcTestdev, Pflash, Pvpanic, Uart, WatchdogAction,
};
use hv::Region;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use scsi::{Cdrom, DirectAccess, Interface, LogicalUnit};
use std::fs::File;
use std::sync::Arc;
use vga::Vga;
use virtio::{BalloonOptions, Blk, BlkOptions, Console, Port, Rng, Scsi, ScsiOptions, Target};

/// What is attached to a place of an IDE channel or to an AHCI port, or is a SCSI target: a disk (descriptor, read-only,
/// serial number), or a CD-ROM drive (its slot, serial number).
#[derive(FromPyObject)]
enum Drive<'py> {
    Disk(i32, bool, String),
    Cdrom(PyRef<'py, Medium>, String),
}

/// Devices, one call each. They are put in before the start.
#[pymethods]
impl Machine {
    fn add_uart(&self, name: &str, port: u16, irq: u32, terminal: &Terminal) -> PyResult<()> {
        let last = port.checked_add(7).ok_or_else(|| PyValueError::new_err("the port is too high"))?;
        let line = self.chipset()?.lines().line(irq).map_err(core_error)?;
        let uart = Uart::new(name, line, terminal.terminal.clone());
        self.board().buses().insert_port(port..=last, uart).map_err(core_error)
    }

    fn add_parallel(&self, name: &str, port: u16, irq: u32, terminal: &Terminal) -> PyResult<()> {
        let last = port.checked_add(PARALLEL_PORTS - 1).ok_or_else(|| PyValueError::new_err("the port is too high"))?;
        let line = self.chipset()?.lines().line(irq).map_err(core_error)?;
        let parallel = Parallel::new(name, line, terminal.terminal.clone());
        self.board().buses().insert_port(port..=last, parallel).map_err(core_error)
    }

    fn add_debug_exit(&self) -> PyResult<()> {
        let range = DEBUG_EXIT_PORT..=DEBUG_EXIT_PORT + 3;
        self.board().buses().insert_port(range, Arc::new(DebugExit)).map_err(core_error)
    }

    fn add_pc_testdev(&self) -> PyResult<()> {
        PcTestdev::insert(self.board().buses(), self.chipset()?.lines()).map_err(core_error)
    }

    fn add_debug_port(&self, fd: i32) -> PyResult<()> {
        let port = DebugPort::new(Box::new(File::from(duplicate(fd)?)));
        self.board().buses().insert_port(DEBUG_PORT..=DEBUG_PORT, Arc::new(port)).map_err(core_error)
    }

    fn add_disk(&self, slot: u8, name: &str, fd: i32, readonly: bool, serial: String) -> PyResult<()> {
        let disk = Blk::new(name, self.disk(fd, readonly)?, BlkOptions { serial, queues: 1 }).map_err(core_error)?;
        pci_devices::add(self, slot, Arc::new(disk))
    }

    fn add_scsi(&self, slot: u8, name: &str, targets: Vec<(u8, Drive<'_>)>) -> PyResult<()> {
        let targets = targets.into_iter().map(|(id, drive)| Ok(Target { id, unit: self.unit(drive)? }));
        let targets = targets.collect::<PyResult<Vec<_>>>()?;
        let scsi = Scsi::new(name, targets, ScsiOptions::default()).map_err(core_error)?;
        pci_devices::add(self, slot, Arc::new(scsi))
    }

    fn add_rng(&self, slot: u8, name: &str) -> PyResult<()> {
        pci_devices::add(self, slot, Arc::new(Rng::new(name)))
    }

    fn add_console(&self, slot: u8, terminal: &Terminal, ports: Vec<(String, PyRef<'_, Terminal>)>) -> PyResult<()> {
        let port = |(name, terminal): (String, PyRef<'_, Terminal>)| Port { name, terminal: terminal.terminal.clone() };
        let ports = ports.into_iter().map(port).collect();
        let console = Console::with_ports("console0", terminal.terminal.clone(), ports).map_err(core_error)?;
        pci_devices::add(self, slot, console)
    }

    fn add_balloon(
        &self,
        slot: u8,
        balloon: &Balloon,
        ram: u64,
        deflate_on_oom: bool,
        free_page_reporting: bool,
    ) -> PyResult<()> {
        let options = BalloonOptions { deflate_on_oom, free_page_reporting };
        let memory = self.board().memory().clone();
        let device = Arc::new(virtio::Balloon::new("balloon0", memory, ram, options));
        balloon.connect(&device).map_err(core_error)?;
        pci_devices::add(self, slot, device)
    }

    fn add_port_device(
        &self,
        device: Bound<'_, PyAny>,
        name: String,
        first: u16,
        last: u16,
        sizes: (u8, u8),
    ) -> PyResult<()> {
        let device = Arc::new(PyDevice::new(device, name, sizes)?);
        self.board().buses().insert_port(first..=last, device).map_err(core_error)
    }

    fn add_mmio_device(
        &self,
        device: Bound<'_, PyAny>,
        name: String,
        first: u64,
        last: u64,
        sizes: (u8, u8),
    ) -> PyResult<()> {
        let device = Arc::new(PyDevice::new(device, name, sizes)?);
        self.board().buses().insert_mmio(first..=last, device).map_err(core_error)
    }

    fn add_vga(&self, slot: u8, screen: &Screen, offset: u64, size: u64, rom: Vec<u8>) -> PyResult<()> {
        let machine = self.board();
        let card = Vga::new(machine.memory().clone(), offset, size, rom).map_err(core_error)?;
        card.attach(machine.buses(), self.chipset()?.pci(), slot).map_err(core_error)?;
        screen.connect(&card);
        Ok(())
    }

    fn add_ide(&self, drives: [Option<Drive<'_>>; 4]) -> PyResult<()> {
        let [a, b, c, d] = drives;
        let drives = [self.attachment(a)?, self.attachment(b)?, self.attachment(c)?, self.attachment(d)?];
        let (machine, chipset) = (self.board(), self.chipset()?);
        Ide::insert(drives, machine.memory(), machine.buses(), chipset.pci(), chipset.lines()).map_err(core_error)?;
        Ok(())
    }

    fn add_ahci(&self, slot: u8, name: &str, drives: [Option<Drive<'_>>; AHCI_PORTS]) -> PyResult<()> {
        let mut attached = [const { None }; AHCI_PORTS];
        for (place, drive) in attached.iter_mut().zip(drives) {
            *place = self.attachment(drive)?;
        }
        let ahci = Ahci::new(name, attached, self.board().memory()).map_err(core_error)?;
        self.chipset()?.pci().add(slot, 0, ahci).map_err(core_error)
    }

    fn add_floppies(&self, drives: Vec<(PyRef<'_, Medium>, Option<u64>)>) -> PyResult<()> {
        let mut drives = drives
            .into_iter()
            .map(|(medium, size)| FloppyDrive { kind: FloppyKind::for_size(size), medium: medium.medium.clone() });
        let drives = [drives.next(), drives.next()];
        self.chipset()?.add_floppies(self.board().buses(), drives).map_err(core_error)
    }

    fn add_flash(&self, name: &str, address: u64, size: u64, offset: u64, fd: i32, readonly: bool) -> PyResult<()> {
        let region = Region { address, size, offset, readonly: true };
        let machine = self.board();
        let file = File::from(duplicate(fd)?);
        let flash = Pflash::new(name, machine.memory().clone(), region, file, readonly).map_err(core_error)?;
        let last = address.checked_add(size).ok_or_else(|| PyValueError::new_err("the flash is too high"))? - 1;
        machine.buses().insert_mmio(address..=last, flash).map_err(core_error)
    }

    fn add_hpet(&self) -> PyResult<()> {
        self.chipset()?.add_hpet(self.board().buses()).map_err(core_error)
    }

    fn add_pvpanic(&self, told: Py<PyAny>) -> PyResult<()> {
        let told = move |event: PanicEvent| {
            let name = match event {
                PanicEvent::Panicked => "panicked",
                PanicEvent::Crashloaded => "crashloaded",
                PanicEvent::Shutdown => "shutdown",
            };
            tell(&told, name);
            board::Action::None
        };
        self.board().buses().insert_port(PVPANIC_PORT..=PVPANIC_PORT, Arc::new(Pvpanic::new(told))).map_err(core_error)
    }

    fn add_watchdog(&self, slot: u8, action: &str, timed_out: bool, told: Py<PyAny>) -> PyResult<()> {
        let action = match action {
            "reset" => WatchdogAction::Reset,
            "poweroff" => WatchdogAction::PowerOff,
            "pause" => WatchdogAction::Pause,
            "none" => WatchdogAction::Nothing,
            _ => return Err(PyValueError::new_err(format!("a watchdog has no action {action:?}"))),
        };
        let machine = Arc::downgrade(self.board());
        let expired = move |action: WatchdogAction| {
            // Before the action: who is told of a reset's reason hears it before the reset.
            tell(&told, "expired");
            if let Some(machine) = machine.upgrade() {
                machine.act(action.action());
            }
        };
        let chipset = self.chipset()?;
        let watchdog = I6300esb::new(chipset.timers(), action, timed_out, expired);
        chipset.pci().add(slot, 0, watchdog).map_err(core_error)
    }
}

impl Machine {
    fn unit(&self, drive: Drive<'_>) -> PyResult<Box<dyn LogicalUnit>> {
        Ok(match drive {
            Drive::Disk(fd, readonly, serial) => {
                Box::new(DirectAccess::new(self.disk(fd, readonly)?, serial).map_err(core_error)?)
            }
            Drive::Cdrom(medium, serial) => Box::new(Cdrom::new(medium.medium.clone(), serial, Interface::Scsi)),
        })
    }

    fn attachment(&self, drive: Option<Drive<'_>>) -> PyResult<Option<Attachment>> {
        Ok(match drive {
            None => None,
            Some(Drive::Disk(fd, readonly, serial)) => {
                Some(Attachment::Disk { disk: self.disk(fd, readonly)?, serial })
            }
            Some(Drive::Cdrom(medium, serial)) => Some(Attachment::Cdrom { medium: medium.medium.clone(), serial }),
        })
    }
}
