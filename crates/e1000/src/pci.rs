use crate::eeprom::Eeprom;
use crate::mac::{Effect, Registers};
use crate::register;
use crate::worker::{Engine, Shared, Worker};
use board::pci::{
    Bar, COMMAND_MASTER, Configuration, ExpansionRom, Identity, Intx, PciFunction, ROM_BAR, register as pci,
};
use board::{AccessSizes, Action, StateReader, StateWriter};
use hv::{GuestMemory, Interrupts};
use net::Backend;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

const VENDOR: u16 = 0x8086;
const DEVICE: u16 = 0x100E;
const SUBSYSTEM_VENDOR: u16 = 0x1AF4;
const SUBSYSTEM: u16 = 0x1100;
const REVISION: u8 = 3;

/// Base address registers: the registers in memory, and the two ports to them.
const BAR_MEMORY: usize = 0;
const BAR_IO: usize = 1;
/// Ports decoded. Manual, section 13.2.2.
const IO_SIZE: u16 = 64;
const IOADDR: u64 = 0;
const IODATA: u64 = 4;

const STATE_VERSION: u32 = 1;

/// What a card shows its guest.
#[derive(Clone, Debug, Default)]
pub struct E1000Options {
    /// Hardware address, in the EEPROM.
    pub mac: [u8; 6],
    /// Expansion ROM, for booting from the network, at most 16 MiB; empty: none.
    pub rom: Vec<u8>,
}

/// An Intel 82540EM, a gigabit network card, as a PCI function.
///
/// Interrupts are not delayed: ITR, RDTR, RADV, TIDV and TADV hold their values. Frames never wake the machine. A frame
/// that comes while there is no receive descriptor waits in the network, so nothing overruns here.
///
/// Lock order: `control`, then `registers` of [`Shared`]. The I/O thread never takes `control`, so it may be waited for
/// under it.
pub struct E1000 {
    shared: Arc<Shared>,
    control: Mutex<Control>,
    rom: ExpansionRom,
}

struct Control {
    /// The I/O thread while it runs: it has the engine then.
    worker: Option<Worker>,
    engine: Engine,
    paused: bool,
    /// Whether the function may read and write guest memory.
    master: bool,
}

impl Control {
    /// Takes the engine back: from then on no memory changes.
    fn halt(&mut self) -> &mut Engine {
        if let Some(worker) = self.worker.take() {
            self.engine = worker.stop();
        }
        &mut self.engine
    }
}

impl E1000 {
    /// A card in front of `backend`, whose link it shows. Its descriptors and buffers lie in `memory`. `name` is that of
    /// its I/O thread as well.
    ///
    /// # Errors
    /// When the system has no file descriptor left, or the ROM has more than 16 MiB.
    pub fn new(
        name: &str,
        options: E1000Options,
        memory: Arc<GuestMemory>,
        backend: Arc<dyn Backend>,
    ) -> io::Result<Arc<Self>> {
        let eeprom = Eeprom::new(options.mac, SUBSYSTEM, SUBSYSTEM_VENDOR, DEVICE, VENDOR);
        let rom = ExpansionRom::new(options.rom, VENDOR, DEVICE).map_err(io::Error::other)?;
        let shared = Arc::new(Shared::new(name, memory, backend, Registers::new(eeprom))?);
        let weak = Arc::downgrade(&shared);
        shared.backend.watch(Arc::new(move || _ = weak.upgrade().map(|shared| shared.follow_link())));
        shared.follow_link();
        let control = Control { worker: None, engine: Engine::new(), paused: false, master: false };
        Ok(Arc::new(E1000 { shared, control: Mutex::new(control), rom }))
    }

    /// Gives the engine to an I/O thread, unless there is a reason against it.
    fn run(&self, control: &mut Control) {
        if control.paused || !control.master || !self.shared.registers.lock().enabled() {
            return;
        }
        if control.worker.is_none() {
            // Where the system has no thread left, the card stands still until it is enabled once more.
            let engine = std::mem::replace(&mut control.engine, Engine::new());
            control.worker = Worker::start(&self.shared, engine).ok();
        }
    }

    /// Follows RCTL.EN and TCTL.EN. A half that is disabled forgets what it had begun.
    fn follow_enables(&self) {
        let control = &mut *self.control.lock();
        let engine = control.halt();
        {
            let registers = self.shared.registers.lock();
            if !registers.receiving() {
                engine.receiver.abandon();
            }
            if !registers.transmitting() {
                engine.transmitter.abandon();
            }
        }
        self.run(control);
    }

    fn reset_by(&self, control: &mut Control, reset: impl FnOnce(&mut Registers)) {
        *control.halt() = Engine::new();
        reset(&mut self.shared.registers.lock());
    }

    fn write_register(&self, offset: u32, value: u32) {
        let effect = {
            let registers = &mut *self.shared.registers.lock();
            let effect = registers.write(offset & !3, value);
            if effect == Effect::Doorbell {
                self.shared.ring(registers);
            }
            effect
        };
        match effect {
            Effect::None | Effect::Doorbell => {}
            Effect::Enable => self.follow_enables(),
            Effect::Reset => self.reset_by(&mut self.control.lock(), Registers::reset),
        }
    }

    fn load_state(&self, control: &mut Control, state: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.shared.name, state, STATE_VERSION)?;
        self.shared.registers.lock().load(&mut reader)?;
        let engine = Engine::load(&mut reader)?;
        reader.finish()?;
        *control.halt() = engine;
        Ok(())
    }
}

impl PciFunction for E1000 {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: VENDOR,
            device: DEVICE,
            revision: REVISION,
            class: [0x02, 0x00, 0x00],
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: SUBSYSTEM,
        });
        configuration.add_bar(BAR_MEMORY, Bar::Memory32(register::SIZE));
        configuration.add_bar(BAR_IO, Bar::Io(IO_SIZE));
        if let Some(bar) = self.rom.bar() {
            configuration.add_bar(ROM_BAR, bar);
        }
        configuration.set_interrupt_pin(1);
        configuration
    }

    fn connect(&self, _interrupts: Arc<dyn Interrupts>, intx: Option<Intx>) {
        self.shared.registers.lock().connect(intx);
    }

    /// Registers are of 4 bytes. Reads may be narrower; narrower writes are ignored.
    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if bar == ROM_BAR {
            return self.rom.read(offset, data);
        }
        let registers = &mut *self.shared.registers.lock();
        let value = match (bar, offset & !3) {
            (BAR_MEMORY, at) => registers.read(at as u32),
            (BAR_IO, IOADDR) => registers.ioaddr(),
            (BAR_IO, IODATA) if registers.ioaddr() < register::SIZE => registers.read(registers.ioaddr()),
            _ => 0,
        };
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes().into_iter().skip(offset as usize & 3)) {
            *byte = value;
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) -> Action {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return Action::None };
        match (bar, offset) {
            (BAR_MEMORY, _) => self.write_register(offset as u32, value),
            (BAR_IO, IOADDR) => self.shared.registers.lock().set_ioaddr(value),
            (BAR_IO, IODATA) => {
                let at = self.shared.registers.lock().ioaddr();
                if at < register::SIZE {
                    self.write_register(at, value);
                }
            }
            _ => {}
        }
        Action::None
    }

    fn config_changed(&self, configuration: &Configuration) {
        let master = configuration.u16(pci::COMMAND) & COMMAND_MASTER != 0;
        let control = &mut *self.control.lock();
        if control.master != master {
            control.master = master;
            if master {
                self.run(control);
            } else {
                control.halt();
            }
        }
    }

    fn reset(&self) {
        self.reset_by(&mut self.control.lock(), Registers::reset_all);
    }

    fn pause(&self) {
        let control = &mut *self.control.lock();
        control.paused = true;
        control.halt();
    }

    fn resume(&self) {
        let control = &mut *self.control.lock();
        control.paused = false;
        self.run(control);
    }

    fn save(&self) -> Vec<u8> {
        let control = &mut *self.control.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        let engine = control.halt();
        self.shared.registers.lock().save(&mut writer);
        engine.save(&mut writer);
        self.run(control);
        writer.finish()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let control = &mut *self.control.lock();
        self.reset_by(control, Registers::reset_all);
        let loaded = self.load_state(control, state);
        if loaded.is_err() {
            self.reset_by(control, Registers::reset_all);
        } else {
            self.run(control);
        }
        self.shared.follow_link();
        loaded
    }
}

impl Drop for E1000 {
    fn drop(&mut self) {
        self.control.get_mut().halt();
    }
}
