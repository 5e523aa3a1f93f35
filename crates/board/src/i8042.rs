//! The i8042 keyboard controller with a keyboard and a mouse. IBM PS/2 Hardware Interface Technical Reference,
//! "Keyboard and Auxiliary Device Controller"; IBM AT Technical Reference (6280070), "Keyboard Controller".

mod controller;
mod fifo;
mod keyboard;
mod mouse;
mod scan_codes;

use crate::device::{AccessSizes, Action, Device};
use crate::line::IrqLine;
use crate::state::{StateReader, StateWriter};
use crate::timer::{Timer, Timers};
use controller::Controller;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The data port; the command and status port is four ports above it.
pub const I8042_DATA_PORT: u16 = 0x60;
/// The command and status port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// ISA interrupt of the keyboard.
pub const KEYBOARD_IRQ: u32 = 1;
/// ISA interrupt of the mouse.
pub const MOUSE_IRQ: u32 = 12;

/// What keyboard and mouse answer: the command is done, the self-test found no fault, send that again, give it up.
const ACKNOWLEDGE: u8 = 0xFA;
const SELF_TEST_PASSED: u8 = 0xAA;
const RESEND: u8 = 0xFE;
const ERROR: u8 = 0xFC;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = SECOND / 1000;
const STATE_VERSION: u32 = 2;

/// The controller. Its two ports are separate devices: [`I8042::data_port`] and [`I8042::command_port`].
pub struct I8042 {
    power_on: Instant,
    keyboard_line: IrqLine,
    mouse_line: IrqLine,
    timer: Timer,
    /// Lock order: before the interrupt lines' and the queue of [`Timers`].
    state: Mutex<State>,
}

struct State {
    controller: Controller,
    /// What the timer is armed for.
    armed: Option<u64>,
}

/// Where a byte in the output buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Keyboard,
    Mouse,
}

impl I8042 {
    /// The controller as a BIOS leaves it, on connections to [`KEYBOARD_IRQ`] and [`MOUSE_IRQ`].
    pub fn new(timers: &Timers, keyboard_line: IrqLine, mouse_line: IrqLine) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<I8042>| {
            let me = me.clone();
            let expired = move || {
                if let Some(i8042) = me.upgrade() {
                    i8042.with_controller(|_, _| ());
                }
            };
            I8042 {
                power_on: Instant::now(),
                keyboard_line,
                mouse_line,
                timer: timers.create(expired),
                state: Mutex::new(State { controller: Controller::new(), armed: None }),
            }
        })
    }

    /// The device at [`I8042_DATA_PORT`]. It carries the state of both.
    pub fn data_port(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(Port { i8042: self.clone(), command: false })
    }

    /// The device at [`I8042_COMMAND_PORT`].
    pub fn command_port(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(Port { i8042: self.clone(), command: true })
    }

    /// Presses a key or lets it go. Does not wait, and keeps no more than some hundred bytes for a guest that does not
    /// read; what is beyond is lost.
    ///
    /// `code` is the key's code in scan code set 1, plus 0x80 for keys that have E0 before it, as in RFB's extended key
    /// event: Print Screen is 0xB7, Pause 0xC6. Codes that are no key's are ignored, and so is what does not change:
    /// the keyboard itself repeats keys that are held.
    pub fn key(&self, code: u8, down: bool) {
        self.with_controller(|controller, now| controller.keyboard.key(code, down, now));
    }

    /// Moves the mouse by `dx` counts to the right and `dy` downwards, turns its wheel by `dz` notches towards the user, and
    /// sets its buttons: bit 0 left, 1 right, 2 middle, 3 and 4 the fourth and fifth. Does not wait. Movements add up
    /// while the guest does not take them, to at most 8192 counts.
    ///
    /// The guest sees the wheel and the last two buttons when its driver has asked for them.
    pub fn mouse_move(&self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        self.with_controller(|controller, _| controller.mouse.move_by(dx, dy, dz, buttons));
    }

    /// The keyboard's lights: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub fn keyboard_leds(&self) -> u8 {
        self.state.lock().controller.keyboard.leds()
    }

    /// Brings the controller to now, uses it, and drives interrupt lines and timer by the outcome. The lines are
    /// edge-triggered, so a byte that takes the place of another makes an edge of its own.
    fn with_controller<R>(&self, using: impl FnOnce(&mut Controller, u64) -> R) -> R {
        let mut state = self.state.lock();
        let now = self.power_on.elapsed().as_nanos() as u64;
        state.controller.advance(now);
        let result = using(&mut state.controller, now);
        state.controller.advance(now);
        let emptied = state.controller.take_emptied();
        for (line, source) in [(&self.keyboard_line, Source::Keyboard), (&self.mouse_line, Source::Mouse)] {
            if emptied {
                line.set(false);
            }
            line.set(state.controller.interrupt(source));
        }
        let next = state.controller.next_event();
        if next != state.armed {
            state.armed = next;
            match next.and_then(|at| self.power_on.checked_add(Duration::from_nanos(at))) {
                Some(deadline) => self.timer.arm(deadline),
                None => self.timer.cancel(),
            }
        }
        result
    }
}

struct Port {
    i8042: Arc<I8042>,
    command: bool,
}

impl Device for Port {
    fn name(&self) -> &str {
        if self.command { "i8042-command" } else { "i8042-data" }
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.i8042.with_controller(|controller, now| {
            if self.command { controller.status() } else { controller.read_data(now) }
        }));
    }

    fn write(&self, _: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        self.i8042.with_controller(|controller, _| {
            if self.command { controller.write_command(value) } else { controller.write_data(value) }
        })
    }

    fn reset(&self) {
        self.i8042.with_controller(|controller, _| *controller = Controller::new());
    }

    fn save(&self) -> Vec<u8> {
        if self.command {
            return Vec::new();
        }
        self.i8042.with_controller(|controller, _| {
            let mut writer = StateWriter::new(STATE_VERSION);
            controller.save(&mut writer);
            writer.finish()
        })
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        if self.command {
            return Ok(());
        }
        let mut reader = StateReader::new("i8042", bytes, STATE_VERSION)?;
        let loaded = Controller::load(&mut reader)?;
        reader.finish()?;
        self.i8042.with_controller(|controller, _| *controller = loaded);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
