//! The PCI bus: configuration mechanism 1, functions, their base addresses and interrupt pins.

mod configuration;
mod pirqs;
mod rom;

use configuration::BARS;
pub use configuration::{
    Bar, BarRange, COMMAND_INTX_DISABLE, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY, CONFIGURATION_SIZE, Configuration,
    Identity, ROM_BAR, STATUS_INTERRUPT, register,
};
pub use pirqs::{Intx, Pirqs};
pub use rom::ExpansionRom;

use crate::{AccessSizes, Action, BusError, Buses, Device, IrqLines, StateReader, StateWriter};
use hv::Interrupts;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

/// The ports of configuration mechanism 1, PCI Local Bus 3.0, section 3.2.2.3.2: CONFIG_ADDRESS at 0, CONFIG_DATA at 4.
/// The reset control register of the PIIX lies at 1, between them.
pub const CONFIGURATION_PORTS: RangeInclusive<u16> = 0xCF8..=0xCFF;

/// Guest physical addresses that [`PciBus::assign_resources`] gives out.
pub const MEMORY_WINDOW: RangeInclusive<u64> = 0xC000_0000..=0xFEBF_FFFF;

/// Ports that [`PciBus::assign_resources`] gives out.
pub const IO_WINDOW: RangeInclusive<u64> = 0xC000..=0xFFFF;

/// The GSIs of PIRQA#..PIRQD# after [`PciBus::assign_resources`], the same as SeaBIOS chooses.
pub const PIRQ_GSIS: [u32; 4] = [10, 10, 11, 11];

const STATE_VERSION: u32 = 1;

/// One function of a PCI device.
///
/// `config_*` and `bar_moved` are called under the bus's lock, in order: they must not access configuration space.
/// `bar_read` and `bar_write` are called without it, by several threads.
pub trait PciFunction: Send + Sync {
    /// A short name for error messages.
    fn name(&self) -> &str;

    /// Configuration space as it is after power-on. Asked once.
    fn configuration(&self) -> Configuration;

    /// Gives the function its interrupt controllers and, when it declared one, its INTx pin. Called once, before
    /// anything else.
    fn connect(&self, _interrupts: Arc<dyn Interrupts>, _intx: Option<Intx>) {}

    /// The access sizes its base address registers' ranges take.
    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 8 }
    }

    /// Reads at `offset` within base address register `bar`'s range.
    fn bar_read(&self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    /// Writes at `offset` within base address register `bar`'s range.
    fn bar_write(&self, _bar: usize, _offset: u64, _data: &[u8]) -> Action {
        Action::None
    }

    /// The guest reads configuration space; `data` holds what is stored there and may be changed.
    fn config_read(&self, _configuration: &Configuration, _offset: u8, _data: &mut [u8]) {}

    /// The guest has written configuration space; `configuration` is what it holds now.
    fn config_write(&self, _configuration: &Configuration, _offset: u8, _data: &[u8]) {}

    /// Configuration space has changed: by a write of the guest, by a reset or from a snapshot.
    fn config_changed(&self, _configuration: &Configuration) {}

    /// Does what firmware would do with the function's own registers ([`PciBus::assign_resources`]).
    fn assign(&self, _configuration: &mut Configuration) {}

    /// Base address register `bar` ([`ROM_BAR`] for the expansion ROM) answers there from now on, or (`None`) nowhere.
    fn bar_moved(&self, _bar: usize, _range: Option<&BarRange>) {}

    /// Puts the function into its state after a machine reset.
    fn reset(&self) {}

    /// Stops the function's threads and DMA: its state and the guest's memory stay as they are until
    /// [`PciFunction::resume`].
    fn pause(&self) {}

    /// Ends a pause.
    fn resume(&self) {}

    /// The state for a snapshot, without configuration space. Only while paused.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Loads what [`PciFunction::save`] gave. The bytes may be hostile. Only while paused.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the state.
    fn load(&self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Why PCI could not do what the machine asked of it. The text is one sentence.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PciError {
    /// The slot or function number is out of range or taken.
    #[error("PCI slot {slot:#04x} function {function} cannot take {name}: {why}")]
    Slot {
        /// The slot.
        slot: u8,
        /// The function.
        function: u8,
        /// What was to be put there.
        name: String,
        /// `taken` or what is out of range.
        why: &'static str,
    },
    /// The base address registers want more than there is.
    #[error("no room for the {size:#x} bytes of BAR {bar} of {name}: the machine has too many PCI devices")]
    Room {
        /// The function.
        name: String,
        /// The register.
        bar: usize,
        /// What it wants.
        size: u64,
    },
}

/// PCI bus 0: 32 slots of 8 functions.
///
/// Lock order: `state`, then locks of the functions, then [`Pirqs`]; [`Buses`] is changed under `state`. A function's
/// own thread never waits for `state`.
pub struct PciBus {
    /// The buses own this device, so it does not own them.
    buses: Weak<Buses>,
    interrupts: Arc<dyn Interrupts>,
    pirqs: Arc<Pirqs>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// CONFIG_ADDRESS.
    address: u32,
    reset_control: u8,
    /// By slot * 8 + function.
    functions: BTreeMap<u8, Slot>,
}

struct Slot {
    function: Arc<dyn PciFunction>,
    intx: Option<Intx>,
    power_on: Configuration,
    configuration: Configuration,
    windows: Vec<Window>,
}

/// A base address register and where the buses have it.
struct Window {
    bar: usize,
    device: Arc<BarDevice>,
    mapped: Option<BarRange>,
}

impl PciBus {
    /// An empty bus that answers at [`CONFIGURATION_PORTS`]; messages go to `interrupts`, INTx to `lines`.
    ///
    /// # Errors
    /// When another device has these ports.
    pub fn new(buses: &Arc<Buses>, interrupts: Arc<dyn Interrupts>, lines: &IrqLines) -> Result<Arc<Self>, BusError> {
        let bus = Arc::new(PciBus {
            buses: Arc::downgrade(buses),
            pirqs: Pirqs::new(lines),
            interrupts,
            state: Mutex::default(),
        });
        buses.insert_port(CONFIGURATION_PORTS, bus.clone())?;
        Ok(bus)
    }

    /// The interrupt routing, for the bridge that holds its registers and for ACPI tables.
    pub fn pirqs(&self) -> &Arc<Pirqs> {
        &self.pirqs
    }

    /// Puts a function into `slot` 0..=31 as number `function` 0..=7.
    ///
    /// # Errors
    /// [`PciError::Slot`] when there is no such place or it is taken.
    pub fn add(&self, slot: u8, function: u8, device: Arc<dyn PciFunction>) -> Result<(), PciError> {
        let mut state = self.lock();
        let refused = |why| PciError::Slot { slot, function, name: device.name().to_owned(), why };
        if slot > 31 || function > 7 {
            return Err(refused("there are 32 slots of 8 functions"));
        }
        let devfn = slot << 3 | function;
        if state.functions.contains_key(&devfn) {
            return Err(refused("taken"));
        }
        let mut configuration = device.configuration();
        let pin = configuration.u8(register::INTERRUPT_PIN);
        let intx = (1..=4).contains(&pin).then(|| self.pirqs.add_pin(slot, pin));
        device.connect(self.interrupts.clone(), intx.clone());
        let windows = (0..BARS)
            .filter(|bar| configuration.bar(*bar).is_some())
            .map(|bar| Window { bar, device: Arc::new(BarDevice { bar, function: device.clone() }), mapped: None })
            .collect();
        let several = state.functions.keys().any(|other| other >> 3 == slot);
        configuration.set(register::HEADER_TYPE, &[u8::from(several) << 7]);
        device.config_changed(&configuration);
        let power_on = configuration.clone();
        state.functions.insert(devfn, Slot { function: device, intx, power_on, configuration, windows });
        if several {
            for other in state.functions.range_mut(slot << 3..=slot << 3 | 7).map(|(_, other)| other) {
                other.configuration.set(register::HEADER_TYPE, &[0x80]);
                other.power_on.set(register::HEADER_TYPE, &[0x80]);
            }
        }
        Ok(())
    }

    /// Does what firmware would: gives every base address register a place in [`MEMORY_WINDOW`] or [`IO_WINDOW`],
    /// routes interrupts to [`PIRQ_GSIS`] (by the bridge's [`PciFunction::assign`]), notes them in the interrupt line
    /// registers and enables decoding. Expansion ROMs get no place. For a machine without firmware, after every reset.
    ///
    /// # Errors
    /// [`PciError::Room`] when the windows are too small.
    pub fn assign_resources(&self) -> Result<(), PciError> {
        let mut state = self.lock();
        let mut wanted: Vec<(u64, u8, usize)> = Vec::new();
        for (devfn, slot) in &state.functions {
            let windows = slot.windows.iter().filter(|window| window.bar != ROM_BAR);
            wanted.extend(windows.map(|window| (slot.size(window.bar), *devfn, window.bar)));
        }
        // The largest first: everything is then aligned to its size without gaps.
        wanted.sort_by_key(|(size, devfn, bar)| (std::cmp::Reverse(*size), *devfn, *bar));
        let mut next_memory = *MEMORY_WINDOW.start();
        let mut next_io = *IO_WINDOW.start();
        for (size, devfn, bar) in wanted {
            let Some(slot) = state.functions.get_mut(&devfn) else { continue };
            let is_io = matches!(slot.configuration.bar(bar), Some(Bar::Io(_)));
            let (next, window) = if is_io { (&mut next_io, IO_WINDOW) } else { (&mut next_memory, MEMORY_WINDOW) };
            let at = next.next_multiple_of(size);
            if at + (size - 1) > *window.end() {
                return Err(PciError::Room { name: slot.function.name().to_owned(), bar, size });
            }
            *next = at + size;
            slot.configuration.set_bar_address(bar, at);
        }
        for (devfn, slot) in &mut state.functions {
            let pin = slot.configuration.u8(register::INTERRUPT_PIN);
            if pin != 0 && slot.configuration.u8(register::INTERRUPT_LINE) == 0 {
                let gsi = PIRQ_GSIS[Pirqs::swizzle(devfn >> 3, pin)];
                slot.configuration.set(register::INTERRUPT_LINE, &[gsi as u8]);
            }
            if !slot.windows.is_empty() {
                let command = slot.configuration.u16(register::COMMAND) | COMMAND_IO | COMMAND_MEMORY;
                slot.configuration.write(register::COMMAND, &command.to_le_bytes());
            }
            slot.function.assign(&mut slot.configuration);
            slot.function.config_changed(&slot.configuration);
        }
        self.map(&mut state);
        Ok(())
    }

    /// Stops all functions' threads and DMA.
    pub fn pause(&self) {
        self.functions().iter().for_each(|function| function.pause());
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.functions().iter().for_each(|function| function.resume());
    }

    fn functions(&self) -> Vec<Arc<dyn PciFunction>> {
        self.lock().functions.values().map(|slot| slot.function.clone()).collect()
    }

    /// Brings the buses in line with all base address registers. What would overlap another device stays unmapped
    /// until that one goes away.
    fn map(&self, state: &mut State) {
        let Some(buses) = self.buses.upgrade() else { return };
        for slot in state.functions.values_mut() {
            for window in &mut slot.windows {
                let wanted = slot.configuration.bar_range(window.bar);
                if window.mapped.is_some() && window.mapped != wanted {
                    slot.function.bar_moved(window.bar, None);
                    match window.mapped.take() {
                        Some(BarRange::Io(range)) => buses.remove_port(*range.start()),
                        Some(BarRange::Memory(range)) => buses.remove_mmio(*range.start()),
                        None => false,
                    };
                }
            }
        }
        for slot in state.functions.values_mut() {
            for window in slot.windows.iter_mut().filter(|window| window.mapped.is_none()) {
                let Some(wanted) = slot.configuration.bar_range(window.bar) else { continue };
                let device = window.device.clone();
                let inserted = match &wanted {
                    BarRange::Io(range) => buses.insert_port(range.clone(), device),
                    BarRange::Memory(range) => buses.insert_mmio(range.clone(), device),
                };
                if inserted.is_ok() {
                    slot.function.bar_moved(window.bar, Some(&wanted));
                    window.mapped = Some(wanted);
                }
            }
        }
    }

    /// What has to follow a change of a function's configuration space.
    fn changed(&self, state: &mut State, devfn: u8) {
        let Some(slot) = state.functions.get_mut(&devfn) else { return };
        if let Some(intx) = &slot.intx {
            intx.set_disabled(slot.configuration.u16(register::COMMAND) & COMMAND_INTX_DISABLE != 0);
        }
        slot.function.config_changed(&slot.configuration);
        if slot.windows.iter().any(|window| window.mapped != slot.configuration.bar_range(window.bar)) {
            self.map(state);
        }
    }

    /// Reads CONFIG_DATA at byte `lane` 0..=3.
    fn read_data(&self, lane: u8, data: &mut [u8]) {
        let state = self.lock();
        let Some((devfn, register)) = decode(state.address) else { return };
        let Some(slot) = state.functions.get(&devfn) else { return };
        let offset = register + lane;
        slot.configuration.read(offset, data);
        if slot.intx.as_ref().is_some_and(Intx::asserted) {
            let from = u16::from(offset);
            for (_, byte) in (from..).zip(data.iter_mut()).filter(|(at, _)| *at == register::STATUS.into()) {
                *byte |= STATUS_INTERRUPT as u8;
            }
        }
        slot.function.config_read(&slot.configuration, offset, data);
    }

    /// Writes CONFIG_DATA at byte `lane` 0..=3.
    fn write_data(&self, lane: u8, data: &[u8]) {
        let mut state = self.lock();
        let Some((devfn, register)) = decode(state.address) else { return };
        let Some(slot) = state.functions.get_mut(&devfn) else { return };
        slot.configuration.write(register + lane, data);
        slot.function.config_write(&slot.configuration, register + lane, data);
        self.changed(&mut state, devfn);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Slot {
    fn size(&self, bar: usize) -> u64 {
        self.configuration.bar(bar).map_or(0, |bar| bar.size())
    }
}

/// The function and register of a CONFIG_ADDRESS that is enabled and on bus 0.
fn decode(address: u32) -> Option<(u8, u8)> {
    let enabled = address >> 31 != 0 && (address >> 16) & 0xFF == 0;
    enabled.then_some(((address >> 8) as u8, address as u8 & 0xFC))
}

impl Device for PciBus {
    fn name(&self) -> &str {
        "pci"
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.lock().address.to_le_bytes()),
            (1, 1) => data[0] = self.lock().reset_control,
            (4..=7, _) => self.read_data(offset as u8 - 4, data),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.lock().address = u32::from_le_bytes([a, b, c, d]) & 0x80FF_FFFC,
            // 82371SB (PIIX3), section 2.5.5.4, RC: bit 2 going high resets, bit 1 says how hard.
            (1, &[value]) => {
                self.lock().reset_control = value & 2;
                if value & 4 != 0 {
                    return Action::Reset;
                }
            }
            (4..=7, _) => self.write_data(offset as u8 - 4, data),
            _ => {}
        }
        Action::None
    }

    fn reset(&self) {
        for function in self.functions() {
            function.reset();
        }
        let mut state = self.lock();
        state.address = 0;
        state.reset_control = 0;
        let all: Vec<u8> = state.functions.keys().copied().collect();
        for devfn in all {
            if let Some(slot) = state.functions.get_mut(&devfn) {
                slot.configuration = slot.power_on.clone();
            }
            self.changed(&mut state, devfn);
        }
    }

    fn save(&self) -> Vec<u8> {
        let state = self.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u32(state.address);
        writer.u8(state.reset_control);
        writer.u16(state.functions.len() as u16);
        for (devfn, slot) in &state.functions {
            writer.u8(*devfn);
            writer.blob(slot.configuration.bytes());
            writer.blob(&slot.function.save());
        }
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let mut state = self.lock();
        let mut reader = StateReader::new("the PCI bus", saved, STATE_VERSION)?;
        state.address = reader.u32()? & 0x80FF_FFFC;
        state.reset_control = reader.u8()? & 2;
        let count = usize::from(reader.u16()?);
        let all: Vec<u8> = state.functions.keys().copied().collect();
        if count != all.len() {
            return Err(reader.invalid(&format!("it has {count} functions, this machine {}", all.len())));
        }
        for devfn in all {
            let found = reader.u8()?;
            let bytes = reader.blob()?;
            let function_state = reader.blob()?;
            let Some(slot) = state.functions.get_mut(&devfn).filter(|_| found == devfn) else {
                return Err(reader.invalid("its functions are not this machine's"));
            };
            let loaded = bytes.try_into().is_ok_and(|bytes| slot.configuration.load(bytes));
            if !loaded {
                return Err(reader.invalid(&format!("the configuration space of {} is another", slot.function.name())));
            }
            slot.function.load(function_state)?;
            self.changed(&mut state, devfn);
        }
        reader.finish()
    }
}

/// What the buses see of one base address register.
struct BarDevice {
    bar: usize,
    function: Arc<dyn PciFunction>,
}

impl Device for BarDevice {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn sizes(&self) -> AccessSizes {
        self.function.sizes()
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.function.bar_read(self.bar, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        self.function.bar_write(self.bar, offset, data)
    }
}

#[cfg(test)]
mod tests;
