//! The UHCI function of the PIIX3: PCI, ports and the passing of time.

mod descriptor;
mod port;
mod registers;
mod schedule;

pub use registers::PORTS;

use crate::bus::UsbDevice;
use board::pci::{Bar, COMMAND_MASTER, Configuration, Identity, Intx, PciBus, PciError, PciFunction, register};
use board::{AccessSizes, Action, StateReader, StateWriter, Timer, Timers};
use hv::{GuestMemory, Interrupts};
use parking_lot::Mutex;
use registers::{Controller, SIZE};
use schedule::Barren;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The PIIX3's slot.
pub const USB_SLOT: u8 = 1;
/// The USB function in it.
pub const USB_FUNCTION: u8 = 2;

const BAR: usize = 4;
/// INTD#.
const PIN: u8 = 4;
/// PCI status: fast back-to-back capable, medium DEVSEL# timing.
const PCI_STATUS: u16 = 0x0280;
/// SBRN: USB 1.0. 82371SB, section 2.4.11.
const SBRN: u8 = 0x60;
const RELEASE_1_0: u8 = 0x10;
/// LEGSUP. UHCI, section 5.2.1.
const LEGSUP: u8 = 0xC0;
/// In LEGSUP: the interrupt goes to PCI; it is asserted.
const USBPIRQDEN: u16 = 1 << 13;
const USBIRQS: u16 = 1 << 12;
/// In LEGSUP: USBPIRQDEN and the enables of traps, which never come.
const LEGSUP_WRITABLE: u16 = USBPIRQDEN | 0x00BF;

/// Frames that are made up for, at most; of a longer delay the first are left out.
const MOST_FRAMES: u64 = 128;

const STATE_VERSION: u32 = 1;

/// The UHCI host controller of the PIIX3 (8086:7020) with two root ports. UHCI; Intel 82371SB data sheet (290550), section
/// 2.4.
///
/// **Time.** A frame's work is done when the frame ends, or later: whoever reads or writes a register first has all frames
/// made up for that have ended, so FRNUM is the clock's, and a driver cannot see in registers that the controller slept. What a
/// guest puts into its schedule in memory goes unnoticed meanwhile: the thread `timers` looks every millisecond while transfers
/// are done, and else ever less often, down to every 64 ms. A write to a register, or a device that has something to say,
/// ends the sleep with the frame that runs.
///
/// Lock order: `state`, then locks of the devices, the queue of [`Timers`], the PCI interrupts.
pub struct Uhci {
    memory: Arc<GuestMemory>,
    timer: Timer,
    state: Mutex<State>,
}

/// Why a device cannot be plugged in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no USB port left for {device}: the machine has {PORTS}")]
pub struct PortsTaken {
    /// Its name.
    pub device: String,
}

struct State {
    controller: Controller,
    /// When the frame ends that runs, while frames follow each other.
    frame_end: Option<Instant>,
    /// What the timer is armed for.
    armed: Option<Instant>,
    paused: bool,
    /// Whether the function may read and write guest memory.
    master: bool,
    intx: Option<Intx>,
    /// LEGSUP lets the interrupt through.
    routed: bool,
}

impl Uhci {
    /// Makes the controller, with nothing plugged in, and puts it on the PCI bus.
    ///
    /// # Errors
    /// When the function's place is taken.
    pub fn insert(memory: &Arc<GuestMemory>, timers: &Timers, pci: &PciBus) -> Result<Arc<Self>, PciError> {
        let uhci = Arc::new_cyclic(|me: &Weak<Uhci>| {
            let me = me.clone();
            let expired = move || {
                if let Some(uhci) = me.upgrade() {
                    let mut state = uhci.state.lock();
                    state.armed = None;
                    uhci.advance(&mut state);
                    uhci.follow(&mut state);
                }
            };
            let state = State {
                controller: Controller::new(),
                frame_end: None,
                armed: None,
                paused: false,
                master: false,
                intx: None,
                routed: true,
            };
            Uhci { memory: memory.clone(), timer: timers.create(expired), state: Mutex::new(state) }
        });
        pci.add(USB_SLOT, USB_FUNCTION, uhci.clone())?;
        Ok(uhci)
    }

    /// Plugs a device into the first port that is free, of [`PORTS`]; a guest that runs notices.
    ///
    /// # Errors
    /// When no port is free.
    pub fn plug(self: &Arc<Self>, device: Arc<dyn UsbDevice>) -> Result<(), PortsTaken> {
        let index = self.with_controller(|controller| controller.plug(&device));
        let index = index.ok_or_else(|| PortsTaken { device: device.name().to_owned() })?;
        let me = Arc::downgrade(self);
        device.connect(Box::new(move || {
            if let Some(uhci) = me.upgrade() {
                uhci.with_controller(|controller| controller.wake(index));
            }
        }));
        Ok(())
    }

    /// Brings the controller to now and uses it.
    fn with_controller<R>(&self, using: impl FnOnce(&mut Controller) -> R) -> R {
        let mut state = self.state.lock();
        self.advance(&mut state);
        let result = using(&mut state.controller);
        self.follow(&mut state);
        result
    }

    /// Makes up for the frames that have ended.
    fn advance(&self, state: &mut State) {
        let Some(mut end) = state.frame_end.filter(|_| !state.paused) else { return };
        let now = Instant::now();
        if end > now {
            return;
        }
        let length = Duration::from_nanos(state.controller.frame_length());
        let behind = ((now - end).as_nanos() / length.as_nanos()) as u64 + 1;
        if let Some(left_out) = behind.checked_sub(MOST_FRAMES).filter(|count| *count > 0) {
            state.controller.skip_frames(left_out);
            end += Duration::from_nanos(state.controller.frame_length() * left_out);
        }
        let mut barren = Barren::default();
        while end <= now && state.controller.is_running() {
            if state.master {
                state.controller.run_frame(&self.memory, &mut barren);
            } else {
                state.controller.skip_frames(1);
            }
            end += length;
        }
        state.frame_end = Some(end);
    }

    /// Lets clock, interrupt and timer follow the controller.
    fn follow(&self, state: &mut State) {
        let controller = &state.controller;
        let length = Duration::from_nanos(controller.frame_length());
        if !controller.is_running() || state.paused {
            state.frame_end = None;
        } else if state.frame_end.is_none() {
            state.frame_end = Some(Instant::now() + length);
        }
        if let Some(intx) = &state.intx {
            intx.set(controller.interrupt() && state.routed);
        }
        match state.frame_end.filter(|_| state.master) {
            None if state.armed.take().is_some() => self.timer.cancel(),
            None => {}
            Some(end) => {
                let deadline = end + length * (state.controller.next_look() - 1);
                if state.armed.is_none_or(|armed| armed > deadline) {
                    state.armed = Some(deadline);
                    self.timer.arm(deadline);
                }
            }
        }
    }

    fn load_state(&self, controller: &mut Controller, bytes: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(self.name(), bytes, STATE_VERSION)?;
        controller.load(&mut reader)?;
        reader.finish()
    }
}

impl PciFunction for Uhci {
    fn name(&self) -> &str {
        "uhci"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x7020,
            revision: 1,
            class: [0x0C, 0x03, 0x00],
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        configuration.set(register::STATUS, &PCI_STATUS.to_le_bytes());
        configuration.set_interrupt_pin(PIN);
        configuration.add_bar(BAR, Bar::Io(SIZE as u16));
        configuration.set(SBRN, &[RELEASE_1_0]);
        configuration.set(LEGSUP, &USBPIRQDEN.to_le_bytes());
        configuration.set_writable(LEGSUP, &LEGSUP_WRITABLE.to_le_bytes());
        configuration
    }

    fn connect(&self, _interrupts: Arc<dyn Interrupts>, intx: Option<Intx>) {
        self.state.lock().intx = intx;
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }

    fn bar_read(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        let registers = self.with_controller(|controller| controller.registers());
        data.fill(0);
        for (byte, register) in data.iter_mut().zip(registers.iter().skip(offset.min(SIZE as u64) as usize)) {
            *byte = *register;
        }
    }

    fn bar_write(&self, _bar: usize, offset: u64, data: &[u8]) -> Action {
        self.with_controller(|controller| {
            let first = offset.min(SIZE as u64) as usize;
            let mut at = first & !1;
            while at < (first + data.len()).min(SIZE) {
                let byte = |index: usize| index.checked_sub(first).and_then(|index| data.get(index));
                let [low, high] = [byte(at), byte(at + 1)];
                let word = |low: u8, high: u8| u16::from_le_bytes([low, high]);
                let mask = |byte: Option<&u8>| if byte.is_some() { 0xFF } else { 0 };
                let value = word(low.copied().unwrap_or(0), high.copied().unwrap_or(0));
                controller.write(at, value, word(mask(low), mask(high)));
                at += 2;
            }
        });
        Action::None
    }

    fn config_read(&self, _configuration: &Configuration, offset: u8, data: &mut [u8]) {
        let asserted = self.state.lock().controller.interrupt();
        let at = (LEGSUP + 1).wrapping_sub(offset);
        if let Some(byte) = data.get_mut(usize::from(at)).filter(|_| asserted) {
            *byte |= (USBIRQS >> 8) as u8;
        }
    }

    fn config_changed(&self, configuration: &Configuration) {
        let mut state = self.state.lock();
        self.advance(&mut state);
        state.master = configuration.u16(register::COMMAND) & COMMAND_MASTER != 0;
        state.routed = configuration.u16(LEGSUP) & USBPIRQDEN != 0;
        self.follow(&mut state);
    }

    fn reset(&self) {
        self.with_controller(Controller::reset);
    }

    fn pause(&self) {
        let mut state = self.state.lock();
        self.advance(&mut state);
        state.paused = true;
        self.follow(&mut state);
    }

    fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = false;
        self.follow(&mut state);
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.with_controller(|controller| controller.save(&mut writer));
        writer.finish()
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        self.with_controller(|controller| {
            let loaded = self.load_state(controller, bytes);
            if loaded.is_err() {
                controller.reset();
            }
            loaded
        })
    }
}

#[cfg(test)]
mod tests;
