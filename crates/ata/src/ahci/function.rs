use super::causes::Causes;
use super::port::Port;
use super::register::{PORT_SIZE, PORTS, SIZE, VERSION, cap, ghc, global};
use crate::drive::{Attachment, Drive, Place};
use board::pci::{Bar, COMMAND_MASTER, Configuration, Identity, Intx, PciFunction, register};
use board::{AccessSizes, Action, StateReader, StateWriter};
use hv::{GuestMemory, Interrupts};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Ports of the adapter.
pub const AHCI_PORTS: usize = 6;

/// The base address register of the registers.
const ABAR: usize = 5;
/// Port mapping and port control and status of the ICH9: AHCI mode; all ports are enabled, and some have drives. Intel ICH9
/// data sheet (316972), sections 15.1.31 and 15.1.32.
const MAP: u8 = 0x90;
const MAP_AHCI: u8 = 0x40;
const PCS: u8 = 0x92;

const CAPABILITIES: u32 =
    cap::S64A | cap::SNCQ | cap::SCLO | cap::ISS_GEN2 | cap::SAM | cap::PMD | cap::NCS_32 | (AHCI_PORTS as u32 - 1);
/// PI: a bit for each port.
const IMPLEMENTED: u32 = (1 << AHCI_PORTS) - 1;

const STATE_VERSION: u32 = 1;

/// Why there can be no such adapter. The text is one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AhciError(String);

/// The AHCI host bus adapter of the ICH9 (8086:2922): six ports of one drive each. Serial ATA AHCI 1.3.1.
///
/// A command whose descriptors are too few for what it writes fails, where a real drive would wait for the rest.
pub struct Ahci {
    name: String,
    ports: [Arc<Port>; AHCI_PORTS],
    causes: Arc<Causes>,
    /// The threads of ports with drives.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ahci {
    /// Makes the adapter with the drives of its ports, to be put into any PCI slot ([`board::pci::PciBus::add`]). Command
    /// lists and data lie in `memory`. The thread of port 0 is called `name.0`.
    ///
    /// # Errors
    /// When a disk has no sector, a serial number is not as [`Attachment`] says, or the system has no thread left.
    pub fn new(
        name: &str,
        drives: [Option<Attachment>; AHCI_PORTS],
        memory: &Arc<GuestMemory>,
    ) -> Result<Arc<Self>, AhciError> {
        let causes = Arc::new(Causes::default());
        let mut attached = [const { None }; AHCI_PORTS];
        for (drive, attachment) in attached.iter_mut().zip(drives) {
            if let Some(attachment) = attachment {
                *drive = Some(Drive::new(attachment, Place::Serial).map_err(AhciError)?);
            }
        }
        let mut index = 0;
        let ports = attached.map(|drive| {
            index += 1;
            Port::new(index - 1, memory.clone(), causes.clone(), drive)
        });
        let ahci = Arc::new(Ahci { name: name.to_owned(), ports, causes, threads: Mutex::default() });
        for (index, port) in ahci.ports.iter().enumerate().filter(|(_, port)| port.has_drive()) {
            let (work, thread_name) = (port.clone(), format!("{name}.{index}"));
            let printable = thread_name.chars().filter(char::is_ascii_graphic).collect();
            let thread = std::thread::Builder::new().name(printable).spawn(move || work.work());
            let thread =
                thread.map_err(|error| AhciError(format!("cannot start the thread {thread_name}: {error}")))?;
            ahci.threads.lock().push(thread);
        }
        Ok(ahci)
    }

    /// The port whose registers `offset` lies in, and the offset there.
    fn port(&self, offset: u64) -> Option<(&Port, u64)> {
        let at = offset.checked_sub(PORTS)?;
        let port = self.ports.get((at / PORT_SIZE) as usize)?;
        Some((port, at % PORT_SIZE))
    }

    /// Reads the register at `offset`, a multiple of 4.
    fn read_register(&self, offset: u64) -> u32 {
        if let Some((port, at)) = self.port(offset) {
            return port.read(at);
        }
        match offset {
            global::CAP => CAPABILITIES,
            global::GHC => {
                let resetting = self.ports.iter().any(|port| port.is_resetting());
                self.causes.control() | if resetting { ghc::HR } else { 0 }
            }
            global::IS => self.causes.status(),
            global::PI => IMPLEMENTED,
            global::VS => VERSION,
            _ => 0,
        }
    }

    /// Writes those bits of the register at `offset`, a multiple of 4, that are set in `mask`.
    fn write_register(&self, offset: u64, value: u32, mask: u32) {
        if let Some((port, at)) = self.port(offset) {
            return port.write(at, value, mask);
        }
        match offset {
            global::GHC if value & mask & ghc::HR != 0 => {
                self.ports.iter().for_each(|port| port.adapter_reset());
                self.causes.reset();
            }
            global::GHC if mask & ghc::IE != 0 => self.causes.enable(value & ghc::IE != 0),
            global::IS => self.causes.acknowledge(value & mask),
            _ => {}
        }
    }
}

/// The words that `size` bytes at `offset` touch: the offset of each, and which of its bytes, as a range of those.
fn words(offset: u64, size: usize) -> impl Iterator<Item = (u64, u32, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (place, first) = (offset + at as u64, at);
        at = size.min(first + 4 - (place % 4) as usize);
        (first < size).then_some((place & !3, (place % 4) as u32 * 8, first..at))
    })
}

impl PciFunction for Ahci {
    fn name(&self) -> &str {
        &self.name
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x2922,
            revision: 2,
            class: [0x01, 0x06, 0x01],
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        configuration.add_bar(ABAR, Bar::Memory32(SIZE));
        configuration.set_interrupt_pin(1);
        self.causes.msi.add_capability(&mut configuration);
        let present = self.ports.iter().rev().fold(0, |bits, port| bits << 1 | u8::from(port.has_drive()));
        configuration.set(MAP, &[MAP_AHCI]);
        configuration.set(PCS, &[IMPLEMENTED as u8, present]);
        configuration.set_writable(PCS, &[IMPLEMENTED as u8]);
        configuration
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>, intx: Option<Intx>) {
        self.causes.connect(interrupts, intx);
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 8 }
    }

    fn bar_read(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        for (at, shift, range) in words(offset, data.len()) {
            let value = self.read_register(at) >> shift;
            for (byte, value) in data[range].iter_mut().zip(value.to_le_bytes()) {
                *byte = value;
            }
        }
    }

    fn bar_write(&self, _bar: usize, offset: u64, data: &[u8]) -> Action {
        for (at, shift, range) in words(offset, data.len()) {
            let (mut value, mut mask) = ([0; 4], [0; 4]);
            for ((value, mask), byte) in value.iter_mut().zip(&mut mask).zip(&data[range]) {
                (*value, *mask) = (*byte, 0xFF);
            }
            self.write_register(at, u32::from_le_bytes(value) << shift, u32::from_le_bytes(mask) << shift);
        }
        Action::None
    }

    fn config_changed(&self, configuration: &Configuration) {
        self.causes.config_changed(configuration);
        let may = configuration.u16(register::COMMAND) & COMMAND_MASTER != 0;
        self.ports.iter().for_each(|port| port.set_may_master(may));
    }

    fn reset(&self) {
        self.ports.iter().for_each(|port| port.reset());
        self.causes.reset();
    }

    fn pause(&self) {
        self.ports.iter().for_each(|port| port.pause());
    }

    fn resume(&self) {
        self.ports.iter().for_each(|port| port.resume());
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.ports.iter().for_each(|port| port.save(&mut writer));
        self.causes.save(&mut writer);
        writer.finish()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, state, STATE_VERSION)?;
        let loaded = self.ports.iter().try_for_each(|port| port.load(&mut reader));
        let loaded = loaded.and_then(|()| self.causes.load(IMPLEMENTED, &mut reader));
        let loaded = loaded.and_then(|()| reader.finish());
        if loaded.is_err() {
            self.reset();
        }
        loaded
    }
}

impl Drop for Ahci {
    fn drop(&mut self) {
        self.ports.iter().for_each(|port| port.quit());
        for thread in self.threads.get_mut().drain(..) {
            let _ = thread.join();
        }
    }
}
