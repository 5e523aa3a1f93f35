//! The i8042 keyboard controller with a keyboard and a mouse that answer their commands. Keys and movements do not
//! come from the host yet. IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".

mod peripherals;

use crate::device::{AccessSizes, Action, Device};
use crate::line::IrqLine;
use crate::state::{StateReader, StateWriter};
use parking_lot::Mutex;
use peripherals::{Keyboard, Mouse};
use std::collections::VecDeque;
use std::sync::Arc;

/// The data port; the command and status port is four ports above it.
pub const I8042_DATA_PORT: u16 = 0x60;
/// The command and status port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// ISA interrupt of the keyboard.
pub const KEYBOARD_IRQ: u32 = 1;
/// ISA interrupt of the mouse.
pub const MOUSE_IRQ: u32 = 12;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_AUX_FULL: u8 = 1 << 5;

const CONFIG_KEYBOARD_INTERRUPT: u8 = 1 << 0;
const CONFIG_MOUSE_INTERRUPT: u8 = 1 << 1;
const CONFIG_SYSTEM: u8 = 1 << 2;
const CONFIG_KEYBOARD_DISABLED: u8 = 1 << 4;
const CONFIG_MOUSE_DISABLED: u8 = 1 << 5;
const CONFIG_TRANSLATE: u8 = 1 << 6;

const OUTPUT_NOT_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;

/// Bytes a queue holds; what comes after is lost, as in the keyboard itself.
const QUEUE_SIZE: usize = 16;
const STATE_VERSION: u32 = 1;

/// The controller. Its two ports are separate devices: [`I8042::data_port`] and [`I8042::command_port`].
pub struct I8042 {
    keyboard_line: IrqLine,
    mouse_line: IrqLine,
    /// Lock order: before the interrupt lines'.
    state: Mutex<State>,
}

/// Where a byte in the output buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Keyboard,
    Mouse,
}

#[derive(Debug)]
struct State {
    config: u8,
    output_port: u8,
    /// The command that waits for a data byte; zero when none does.
    command: u8,
    /// The last write went to the command port.
    last_was_command: bool,
    /// The output buffer.
    output: Option<(u8, Source)>,
    /// The byte read last, which an empty buffer goes on showing.
    last: u8,
    /// The controller's own answers.
    answers: VecDeque<(u8, Source)>,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl State {
    fn new() -> Self {
        State {
            config: CONFIG_KEYBOARD_INTERRUPT | CONFIG_MOUSE_INTERRUPT | CONFIG_TRANSLATE,
            output_port: OUTPUT_NOT_RESET | OUTPUT_A20,
            command: 0,
            last_was_command: false,
            output: None,
            last: 0,
            answers: VecDeque::new(),
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }

    fn answer(&mut self, value: u8, source: Source) {
        if self.answers.len() < QUEUE_SIZE {
            self.answers.push_back((value, source));
        }
    }

    /// Moves the next byte into the empty output buffer.
    fn fill(&mut self) {
        if self.output.is_none() {
            let from = |queue: &mut VecDeque<u8>, open: bool, source| {
                open.then(|| queue.pop_front()).flatten().map(|value| (value, source))
            };
            let keyboard_open = self.config & CONFIG_KEYBOARD_DISABLED == 0;
            let mouse_open = self.config & CONFIG_MOUSE_DISABLED == 0;
            self.output = self
                .answers
                .pop_front()
                .or_else(|| from(self.keyboard.queue(), keyboard_open, Source::Keyboard))
                .or_else(|| from(self.mouse.queue(), mouse_open, Source::Mouse));
        }
    }

    fn status(&self) -> u8 {
        let full = match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => STATUS_OUTPUT_FULL,
            Some((_, Source::Mouse)) => STATUS_OUTPUT_FULL | STATUS_AUX_FULL,
        };
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        let system = if self.config & CONFIG_SYSTEM != 0 { STATUS_SYSTEM } else { 0 };
        STATUS_UNLOCKED | full | command | system
    }

    fn write_output_port(&mut self, value: u8) -> Action {
        self.output_port = value;
        if value & OUTPUT_NOT_RESET == 0 { Action::Reset } else { Action::None }
    }

    fn write_command(&mut self, value: u8) -> Action {
        self.last_was_command = true;
        self.command = 0;
        match value {
            0x20 => self.answer(self.config, Source::Keyboard),
            0x60 | 0xD1..=0xD4 => self.command = value,
            0xA7 => self.config |= CONFIG_MOUSE_DISABLED,
            0xA8 => self.config &= !CONFIG_MOUSE_DISABLED,
            // Tests of the two interfaces: no fault.
            0xA9 | 0xAB => self.answer(0x00, Source::Keyboard),
            0xAA => {
                self.config |= CONFIG_SYSTEM;
                self.answer(0x55, Source::Keyboard);
            }
            0xAD => self.config |= CONFIG_KEYBOARD_DISABLED,
            0xAE => self.config &= !CONFIG_KEYBOARD_DISABLED,
            // The input port: keyboard not locked.
            0xC0 => self.answer(0x80, Source::Keyboard),
            0xD0 => self.answer(self.output_port, Source::Keyboard),
            0xDD => self.output_port &= !OUTPUT_A20,
            0xDF => self.output_port |= OUTPUT_A20,
            // Pulses output bits that are 0 in the command; bit 0 is the processor's reset.
            0xF0..=0xFF if value & OUTPUT_NOT_RESET == 0 => return Action::Reset,
            _ => {}
        }
        Action::None
    }

    fn write_data(&mut self, value: u8) -> Action {
        self.last_was_command = false;
        match std::mem::take(&mut self.command) {
            0x60 => self.config = value,
            0xD1 => return self.write_output_port(value),
            0xD2 => self.answer(value, Source::Keyboard),
            0xD3 => self.answer(value, Source::Mouse),
            0xD4 => {
                self.config &= !CONFIG_MOUSE_DISABLED;
                self.mouse.command(value);
            }
            _ => {
                self.config &= !CONFIG_KEYBOARD_DISABLED;
                self.keyboard.command(value, self.config & CONFIG_TRANSLATE != 0);
            }
        }
        Action::None
    }
}

impl I8042 {
    /// The controller as after power-on, on connections to [`KEYBOARD_IRQ`] and [`MOUSE_IRQ`].
    pub fn new(keyboard_line: IrqLine, mouse_line: IrqLine) -> Arc<Self> {
        Arc::new(I8042 { keyboard_line, mouse_line, state: Mutex::new(State::new()) })
    }

    /// The device at [`I8042_DATA_PORT`]. It carries the state of both.
    pub fn data_port(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(Port { controller: self.clone(), command: false })
    }

    /// The device at [`I8042_COMMAND_PORT`].
    pub fn command_port(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(Port { controller: self.clone(), command: true })
    }

    /// Changes the state and drives the interrupt lines by the outcome. They are edge-triggered, so a byte that takes
    /// the place of another makes an edge of its own.
    fn with_state<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let before = state.output;
        let result = change(&mut state);
        let emptied = before.is_some() && state.output.is_none();
        state.fill();
        let wants = |source, enable| state.config & enable != 0 && state.output.is_some_and(|(_, from)| from == source);
        for (line, high) in [
            (&self.keyboard_line, wants(Source::Keyboard, CONFIG_KEYBOARD_INTERRUPT)),
            (&self.mouse_line, wants(Source::Mouse, CONFIG_MOUSE_INTERRUPT)),
        ] {
            if emptied {
                line.set(false);
            }
            line.set(high);
        }
        result
    }
}

struct Port {
    controller: Arc<I8042>,
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
        let value = if self.command {
            self.controller.state.lock().status()
        } else {
            self.controller.with_state(|state| {
                if let Some((value, _)) = state.output.take() {
                    state.last = value;
                }
                state.last
            })
        };
        data.fill(value);
    }

    fn write(&self, _: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        self.controller
            .with_state(|state| if self.command { state.write_command(value) } else { state.write_data(value) })
    }

    fn reset(&self) {
        self.controller.with_state(|state| *state = State::new());
    }

    fn save(&self) -> Vec<u8> {
        if self.command {
            return Vec::new();
        }
        let state = self.controller.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        for byte in [state.config, state.output_port, state.command, state.last_was_command.into(), state.last] {
            writer.u8(byte);
        }
        let pending: Vec<u8> = state
            .output
            .iter()
            .chain(&state.answers)
            .flat_map(|&(value, source)| [value, u8::from(source == Source::Mouse)])
            .collect();
        writer.blob(&pending);
        state.keyboard.save(&mut writer);
        state.mouse.save(&mut writer);
        writer.finish()
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        if self.command {
            return Ok(());
        }
        let mut reader = StateReader::new("i8042", bytes, STATE_VERSION)?;
        let mut state = State::new();
        state.config = reader.u8()?;
        state.output_port = reader.u8()?;
        state.command = reader.u8()?;
        state.last_was_command = reader.bool()?;
        state.last = reader.u8()?;
        let source = |mouse| if mouse == 0 { Source::Keyboard } else { Source::Mouse };
        for pair in reader.blob()?.chunks_exact(2).take(QUEUE_SIZE + 1) {
            state.answers.push_back((pair[0], source(pair[1])));
        }
        state.keyboard.load(&mut reader)?;
        state.mouse.load(&mut reader)?;
        reader.finish()?;
        self.controller.with_state(|current| *current = state);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
