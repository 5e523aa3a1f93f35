use crate::channel::Channel;
use crate::drive::{Attachment, Drive, Place};
use board::pci::{Bar, COMMAND_MASTER, Configuration, Identity, PciBus, PciFunction, register};
use board::{AccessSizes, Action, Buses, IrqLines, StateReader, StateWriter};
use hv::GuestMemory;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The PIIX3's slot.
pub const IDE_SLOT: u8 = 1;
/// The IDE function in it.
pub const IDE_FUNCTION: u8 = 1;
/// The ISA interrupts of the two channels.
pub const IDE_IRQS: [u32; 2] = [14, 15];

/// First ports of the command and the control blocks of the two channels.
const COMMAND_PORTS: [u16; 2] = [0x1F0, 0x170];
const CONTROL_PORTS: [u16; 2] = [0x3F6, 0x376];
const NAMES: [&str; 2] = ["ide0", "ide1"];

/// The base address register of the bus master, and the ports of one channel in it.
const MASTER_BAR: usize = 4;
const MASTER_PORTS: u64 = 8;

/// IDETIM of the primary channel; the secondary's follows. 82371SB, section 2.3.8.
const IDETIM: u8 = 0x40;
/// SIDETIM. 82371SB, section 2.3.9.
const SIDETIM: u8 = 0x44;
/// In IDETIM: the channel's ports are decoded.
const DECODE_ENABLE: u16 = 1 << 15;
/// PCI status: fast back-to-back capable, medium DEVSEL# timing.
const PCI_STATUS: u16 = 0x0280;

const STATE_VERSION: u32 = 2;

/// Why there can be no such IDE function. The text is one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IdeError(String);

/// The IDE function of the PIIX3 (8086:7010) at 00:01.1: two channels at their legacy ports, of two drives each, and a
/// bus master. Intel 82371SB data sheet (290550), sections 2.3 and 2.7.
///
/// The ports answer whatever IDETIM and the command register say; bus mastering obeys the latter.
pub struct Ide {
    channels: [Arc<Channel>; 2],
    /// The threads of channels with drives.
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Ide {
    /// Makes the function with its drives (primary device 0 and 1, secondary device 0 and 1) and puts it on the buses.
    ///
    /// # Errors
    /// When a disk has no sector, a serial number is not as [`Attachment`] says, a port or the PCI function is taken, or
    /// the system has no thread left.
    pub fn insert(
        drives: [Option<Attachment>; 4],
        memory: &Arc<GuestMemory>,
        buses: &Buses,
        pci: &PciBus,
        lines: &IrqLines,
    ) -> Result<Arc<Self>, IdeError> {
        let [a, b, c, d] = drives;
        let primary = Self::channel(0, [a, b], memory, lines)?;
        let secondary = Self::channel(1, [c, d], memory, lines)?;
        let ide = Arc::new(Ide { channels: [primary, secondary], workers: Mutex::default() });
        for channel in &ide.channels {
            if channel.has_drives() {
                let work = channel.clone();
                let thread = std::thread::Builder::new().name(channel.name().to_owned()).spawn(move || work.work());
                let thread = thread.map_err(|error| {
                    IdeError(format!("cannot start the thread of IDE channel {}: {error}", channel.name()))
                })?;
                ide.workers.lock().push(thread);
            }
        }
        for (index, channel) in ide.channels.iter().enumerate() {
            let (command, control) = (COMMAND_PORTS[index], CONTROL_PORTS[index]);
            buses.insert_port(command..=command + 7, channel.command_block()).map_err(IdeError::new)?;
            buses.insert_port(control..=control, channel.control_block()).map_err(IdeError::new)?;
        }
        pci.add(IDE_SLOT, IDE_FUNCTION, ide.clone()).map_err(IdeError::new)?;
        Ok(ide)
    }

    fn channel(
        index: usize,
        drives: [Option<Attachment>; 2],
        memory: &Arc<GuestMemory>,
        lines: &IrqLines,
    ) -> Result<Arc<Channel>, IdeError> {
        let shared = drives.iter().all(Option::is_some);
        let [first, second] = drives;
        let attach = |attachment: Option<Attachment>, second| {
            let place = Place::Parallel { second, shared };
            attachment.map(|attachment| Drive::new(attachment, place)).transpose().map_err(IdeError)
        };
        let drives = [attach(first, false)?, attach(second, true)?];
        let line = lines.line(IDE_IRQS[index]).map_err(IdeError::new)?;
        Ok(Channel::new(NAMES[index], memory.clone(), line, drives))
    }
}

impl IdeError {
    fn new(error: impl ToString) -> Self {
        IdeError(error.to_string())
    }
}

impl PciFunction for Ide {
    fn name(&self) -> &str {
        "ide"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x7010,
            revision: 0,
            // An IDE controller with a bus master; both channels at their legacy ports and interrupts for ever.
            class: [0x01, 0x01, 0x80],
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        configuration.set(register::STATUS, &PCI_STATUS.to_le_bytes());
        configuration.add_bar(MASTER_BAR, Bar::Io(2 * MASTER_PORTS as u16));
        configuration.set_writable(IDETIM, &[0xFF, 0xF3, 0xFF, 0xF3]);
        configuration.set_writable(SIDETIM, &[0xFF]);
        configuration
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }

    fn bar_read(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = match self.channels.get((offset / MASTER_PORTS) as usize) {
                Some(channel) => channel.read_master(offset % MASTER_PORTS),
                None => 0xFF,
            };
        }
    }

    fn bar_write(&self, _bar: usize, offset: u64, data: &[u8]) -> Action {
        for (offset, byte) in (offset..).zip(data) {
            if let Some(channel) = self.channels.get((offset / MASTER_PORTS) as usize) {
                channel.write_master(offset % MASTER_PORTS, *byte);
            }
        }
        Action::None
    }

    fn config_changed(&self, configuration: &Configuration) {
        let may = configuration.u16(register::COMMAND) & COMMAND_MASTER != 0;
        self.channels.iter().for_each(|channel| channel.set_may_master(may));
    }

    /// Turns the channels' ports on, by which drivers see that they are in use.
    fn assign(&self, configuration: &mut Configuration) {
        for channel in 0..2 {
            configuration.write(IDETIM + 2 * channel, &DECODE_ENABLE.to_le_bytes());
        }
    }

    fn reset(&self) {
        self.channels.iter().for_each(|channel| channel.reset());
    }

    fn pause(&self) {
        self.channels.iter().for_each(|channel| channel.pause());
    }

    fn resume(&self) {
        self.channels.iter().for_each(|channel| channel.resume());
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.channels.iter().for_each(|channel| channel.save(&mut writer));
        writer.finish()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new("the IDE function", state, STATE_VERSION)?;
        let loaded = self.channels.iter().try_for_each(|channel| channel.load(&mut reader));
        let loaded = loaded.and_then(|()| reader.finish());
        if loaded.is_err() {
            self.reset();
        }
        loaded
    }
}

impl Drop for Ide {
    fn drop(&mut self) {
        self.channels.iter().for_each(|channel| channel.quit());
        for worker in self.workers.get_mut().drain(..) {
            let _ = worker.join();
        }
    }
}
