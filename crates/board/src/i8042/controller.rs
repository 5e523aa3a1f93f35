use super::keyboard::Keyboard;
use super::mouse::Mouse;
use super::scan_codes::translate;
use super::{MILLISECOND, Source};
use crate::device::Action;
use crate::state::{StateReader, StateWriter};
use std::collections::VecDeque;

pub(super) const STATUS_OUTPUT_FULL: u8 = 1 << 0;
pub(super) const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
pub(super) const STATUS_MOUSE_FULL: u8 = 1 << 5;

const CONFIG_KEYBOARD_INTERRUPT: u8 = 1 << 0;
const CONFIG_MOUSE_INTERRUPT: u8 = 1 << 1;
const CONFIG_SYSTEM: u8 = 1 << 2;
const CONFIG_KEYBOARD_DISABLED: u8 = 1 << 4;
const CONFIG_MOUSE_DISABLED: u8 = 1 << 5;
const CONFIG_TRANSLATE: u8 = 1 << 6;

const OUTPUT_NOT_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;
const OUTPUT_KEYBOARD_FULL: u8 = 1 << 4;
const OUTPUT_MOUSE_FULL: u8 = 1 << 5;
/// What the output port has besides after power-on: the clock and data lines of both interfaces are idle.
const OUTPUT_IDLE: u8 = 0b1100_1100;
/// The input port: keyboard not locked, no manufacturing jumper, 512 KiB on the board (as on the AT).
const INPUT_PORT: u8 = 0b1011_0000;

const READ_RAM: u8 = 0x20;
const WRITE_RAM: u8 = 0x60;
const LOAD_PASSWORD: u8 = 0xA5;
const WRITE_OUTPUT_PORT: u8 = 0xD1;
const WRITE_KEYBOARD_OUTPUT: u8 = 0xD2;
const WRITE_MOUSE_OUTPUT: u8 = 0xD3;
const WRITE_MOUSE: u8 = 0xD4;

/// What the keyboard sends before the code of a key that is released.
const BREAK: u8 = 0xF0;
/// The controller's answers that wait.
const MOST_ANSWERS: usize = 16;
/// How long a byte of the keyboard can be read again after the first time, since nothing follows it: about what the
/// next one takes on the keyboard's wire. An interrupt handler of DOS looks at the byte and calls the next handler, which
/// reads it as well.
const SETTLING: u64 = MILLISECOND;

/// The controller without its surroundings. Times are nanoseconds of a clock that the caller keeps.
#[derive(Debug)]
pub(super) struct Controller {
    /// The configuration (IBM: controller command byte), and 31 bytes of memory.
    ram: [u8; 32],
    output_port: u8,
    /// The command that waits for a data byte; zero when none does.
    command: u8,
    /// The last write went to the command port.
    last_was_command: bool,
    /// Half of the input port, shown in place of bits 4 to 7 of the status until the next write.
    polled: Option<u8>,
    output: Option<(u8, Source)>,
    /// The byte read last, which an empty output buffer goes on showing.
    last: u8,
    /// The output buffer has been empty since [`Controller::take_emptied`].
    emptied: bool,
    /// The controller's own answers, which go before all else.
    answers: VecDeque<(u8, Source)>,
    /// Translating, it took the keyboard's mark of a break code.
    breaking: bool,
    /// When keyboard and mouse may send again.
    settled: u64,
    /// Both have something to send: it is the mouse's turn.
    mouse_next: bool,
    pub(super) keyboard: Keyboard,
    pub(super) mouse: Mouse,
}

impl Controller {
    /// As after power-on, but with interrupts and translation on, as a BIOS leaves them.
    pub(super) fn new() -> Self {
        let mut ram = [0; 32];
        ram[0] = CONFIG_KEYBOARD_INTERRUPT | CONFIG_MOUSE_INTERRUPT | CONFIG_TRANSLATE;
        Controller {
            ram,
            output_port: OUTPUT_NOT_RESET | OUTPUT_A20 | OUTPUT_IDLE,
            command: 0,
            last_was_command: false,
            polled: None,
            output: None,
            last: 0,
            emptied: true,
            answers: VecDeque::new(),
            breaking: false,
            settled: 0,
            mouse_next: false,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }

    fn config(&self, bit: u8) -> bool {
        self.ram[0] & bit != 0
    }

    /// Does what is due at `now`. Afterwards [`Controller::next_event`] is in the future.
    pub(super) fn advance(&mut self, now: u64) {
        // First what waits: repetition and packets depend on who has been heard.
        self.fill(now);
        self.keyboard.advance(now);
        self.mouse.advance(now);
        self.fill(now);
    }

    /// When there will be something to do although nobody calls.
    pub(super) fn next_event(&self) -> Option<u64> {
        let waits = !self.config(CONFIG_KEYBOARD_DISABLED) && !self.keyboard.is_empty()
            || !self.config(CONFIG_MOUSE_DISABLED) && !self.mouse.is_empty();
        let next_byte = (self.output.is_none() && waits).then_some(self.settled);
        [next_byte, self.keyboard.next_event(), self.mouse.next_event()].into_iter().flatten().min()
    }

    /// Moves the next byte into the empty output buffer.
    fn fill(&mut self, now: u64) {
        if self.output.is_some() {
            return;
        }
        self.output = self.answers.pop_front();
        if self.output.is_some() || now < self.settled {
            return;
        }
        let turns = if self.mouse_next { [Source::Mouse, Source::Keyboard] } else { [Source::Keyboard, Source::Mouse] };
        self.output = turns.into_iter().find_map(|source| Some((self.receive(source)?, source)));
        if let Some((_, source)) = self.output {
            self.mouse_next = source == Source::Keyboard;
        }
    }

    /// The next byte of a device whose interface is not disabled.
    fn receive(&mut self, source: Source) -> Option<u8> {
        if source == Source::Mouse {
            return if self.config(CONFIG_MOUSE_DISABLED) { None } else { self.mouse.pop() };
        }
        if self.config(CONFIG_KEYBOARD_DISABLED) {
            return None;
        }
        loop {
            let byte = self.keyboard.pop()?;
            if !self.config(CONFIG_TRANSLATE) {
                self.breaking = false;
                return Some(byte);
            }
            if byte != BREAK {
                let mark = if std::mem::take(&mut self.breaking) { 0x80 } else { 0 };
                return Some(translate(byte) | mark);
            }
            self.breaking = true;
        }
    }

    /// The level of a device's interrupt.
    pub(super) fn interrupt(&self, source: Source) -> bool {
        let enabled = match source {
            Source::Keyboard => CONFIG_KEYBOARD_INTERRUPT,
            Source::Mouse => CONFIG_MOUSE_INTERRUPT,
        };
        self.config(enabled) && self.output.is_some_and(|(_, from)| from == source)
    }

    /// Whether the output buffer has been empty since the last call, so that interrupts have been low.
    pub(super) fn take_emptied(&mut self) -> bool {
        std::mem::take(&mut self.emptied)
    }

    /// The status register. Keyboard and mouse are always there and their wires are good, so bits 6 (timeout) and 7
    /// (parity) are never set but by the commands C1 and C2.
    pub(super) fn status(&self) -> u8 {
        let full = match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => STATUS_OUTPUT_FULL,
            Some((_, Source::Mouse)) => STATUS_OUTPUT_FULL | STATUS_MOUSE_FULL,
        };
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        let system = if self.config(CONFIG_SYSTEM) { STATUS_SYSTEM } else { 0 };
        let status = STATUS_UNLOCKED | full | command | system;
        self.polled.map_or(status, |bits| status & 0xF | bits)
    }

    pub(super) fn read_data(&mut self, now: u64) -> u8 {
        if let Some((value, source)) = self.output.take() {
            self.last = value;
            self.emptied = true;
            if source == Source::Keyboard {
                self.settled = now.saturating_add(SETTLING);
            }
        }
        self.last
    }

    fn answer(&mut self, value: u8, source: Source) {
        if self.answers.len() < MOST_ANSWERS {
            self.answers.push_back((value, source));
        }
    }

    fn set_config(&mut self, bit: u8, on: bool) {
        self.ram[0] = self.ram[0] & !bit | if on { bit } else { 0 };
    }

    fn output_port(&self) -> u8 {
        let full = match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => OUTPUT_KEYBOARD_FULL,
            Some((_, Source::Mouse)) => OUTPUT_MOUSE_FULL,
        };
        self.output_port & !(OUTPUT_KEYBOARD_FULL | OUTPUT_MOUSE_FULL) | full
    }

    /// The test inputs: the clocks of keyboard (bit 0) and mouse (bit 1), which a disabled interface holds low.
    fn test_inputs(&self) -> u8 {
        u8::from(!self.config(CONFIG_KEYBOARD_DISABLED)) | u8::from(!self.config(CONFIG_MOUSE_DISABLED)) << 1
    }

    pub(super) fn write_command(&mut self, value: u8) -> Action {
        self.last_was_command = true;
        self.polled = None;
        self.command = 0;
        let answer = match value {
            READ_RAM..=0x3F => self.ram[usize::from(value & 0x1F)],
            WRITE_RAM..=0x7F | LOAD_PASSWORD | WRITE_OUTPUT_PORT..=WRITE_MOUSE => {
                self.command = value;
                return Action::None;
            }
            // No password is there, so the command A6 has none to wait for.
            0xA4 => 0xF1,
            0xA7 | 0xA8 => {
                self.set_config(CONFIG_MOUSE_DISABLED, value == 0xA7);
                return Action::None;
            }
            // Tests of the two interfaces: no fault.
            0xA9 | 0xAB => 0x00,
            // The self-test forgets what waited to be read.
            0xAA => {
                self.set_config(CONFIG_SYSTEM, true);
                self.answers.clear();
                self.emptied |= self.output.take().is_some();
                0x55
            }
            0xAD | 0xAE => {
                self.set_config(CONFIG_KEYBOARD_DISABLED, value == 0xAD);
                return Action::None;
            }
            0xC0 => INPUT_PORT,
            0xC1 | 0xC2 => {
                self.polled = Some(if value == 0xC1 { INPUT_PORT << 4 } else { INPUT_PORT & 0xF0 });
                return Action::None;
            }
            0xD0 => self.output_port(),
            0xDD | 0xDF => {
                self.output_port = self.output_port & !OUTPUT_A20 | value & OUTPUT_A20;
                return Action::None;
            }
            0xE0 => self.test_inputs(),
            // Pulses the output bits that are 0 in the command; bit 0 is the processor's reset.
            0xF0..=0xFF if value & OUTPUT_NOT_RESET == 0 => return Action::Reset,
            _ => return Action::None,
        };
        self.answer(answer, Source::Keyboard);
        Action::None
    }

    pub(super) fn write_data(&mut self, value: u8) -> Action {
        self.last_was_command = false;
        self.polled = None;
        match std::mem::take(&mut self.command) {
            command @ WRITE_RAM..=0x7F => self.ram[usize::from(command & 0x1F)] = value,
            // The password ends with a zero.
            LOAD_PASSWORD if value != 0 => self.command = LOAD_PASSWORD,
            LOAD_PASSWORD => {}
            WRITE_OUTPUT_PORT => {
                self.output_port = value;
                if value & OUTPUT_NOT_RESET == 0 {
                    return Action::Reset;
                }
            }
            WRITE_KEYBOARD_OUTPUT => self.answer(value, Source::Keyboard),
            WRITE_MOUSE_OUTPUT => self.answer(value, Source::Mouse),
            // To send, an interface is enabled.
            WRITE_MOUSE => {
                self.set_config(CONFIG_MOUSE_DISABLED, false);
                self.mouse.command(value);
            }
            _ => {
                self.set_config(CONFIG_KEYBOARD_DISABLED, false);
                self.keyboard.command(value);
            }
        }
        Action::None
    }

    pub(super) fn save(&self, writer: &mut StateWriter) {
        writer.blob(&self.ram);
        for byte in [self.output_port, self.command, self.last] {
            writer.u8(byte);
        }
        for flag in [self.last_was_command, self.polled.is_some(), self.breaking, self.mouse_next] {
            writer.u8(flag.into());
        }
        writer.u8(self.polled.unwrap_or(0));
        // What is in the output buffer comes back as the first of the answers.
        let pending = self.output.iter().chain(&self.answers);
        let pending: Vec<u8> =
            pending.flat_map(|&(value, source)| [value, u8::from(source == Source::Mouse)]).collect();
        writer.blob(&pending);
        self.keyboard.save(writer);
        self.mouse.save(writer);
    }

    pub(super) fn load(reader: &mut StateReader) -> Result<Self, String> {
        let mut controller = Controller::new();
        controller.ram = reader.blob()?.try_into().map_err(|_| reader.invalid("the memory has 32 bytes"))?;
        controller.output_port = reader.u8()?;
        controller.command = reader.u8()?;
        controller.last = reader.u8()?;
        controller.last_was_command = reader.bool()?;
        let polls = reader.bool()?;
        controller.breaking = reader.bool()?;
        controller.mouse_next = reader.bool()?;
        controller.polled = Some(reader.u8()? & 0xF0).filter(|_| polls);
        if !matches!(controller.command, 0 | WRITE_RAM..=0x7F | LOAD_PASSWORD | WRITE_OUTPUT_PORT..=WRITE_MOUSE) {
            return Err(reader.invalid(&format!("command {:#x} waits for no data", controller.command)));
        }
        let pending = reader.blob()?;
        if pending.len() % 2 != 0 || pending.len() / 2 > MOST_ANSWERS + 1 {
            return Err(reader.invalid("so much cannot wait to be read"));
        }
        for pair in pending.chunks_exact(2) {
            let source = match pair[1] {
                0 => Source::Keyboard,
                1 => Source::Mouse,
                other => return Err(reader.invalid(&format!("device {other}"))),
            };
            controller.answers.push_back((pair[0], source));
        }
        controller.keyboard = Keyboard::load(reader)?;
        controller.mouse = Mouse::load(reader)?;
        Ok(controller)
    }
}
