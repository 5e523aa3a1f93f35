use super::fifo::Fifo;
use super::scan_codes::{self, key};
use super::{ACKNOWLEDGE, RESEND, SECOND, SELF_TEST_PASSED};
use crate::state::{StateReader, StateWriter};

/// Bytes of scan codes the keyboard holds. IBM's holds 16; more lets somebody far away paste some words.
const CODES: usize = 256;
/// Bytes of answers to commands it holds.
const ANSWERS: usize = 16;
/// The identification of a 101-key keyboard. The controller's translation makes 0x41 of the second byte.
const IDENTIFICATION: [u8; 2] = [0xAB, 0x83];
/// The typematic byte after a reset: half a second, then 10.9 characters a second.
const TYPEMATIC: u8 = 0x2B;
/// The light of Num Lock.
const NUM_LOCK: u8 = 1 << 1;

const SET_LEDS: u8 = 0xED;
const SCAN_CODE_SET: u8 = 0xF0;
const SET_TYPEMATIC: u8 = 0xF3;
const KEY_TYPEMATIC: u8 = 0xFB;
const KEY_MAKE_BREAK: u8 = 0xFC;
const KEY_MAKE: u8 = 0xFD;

/// A 101-key keyboard with scan code sets 1 to 3 and the multimedia keys. IBM PS/2 Hardware Interface Technical
/// Reference, "Keyboards (101- and 102-Key)"; Microsoft, "Keyboard Scan Code Specification" 1.3a.
///
/// Times are nanoseconds of the controller's clock.
#[derive(Debug)]
pub(super) struct Keyboard {
    /// They go before the scan codes that wait.
    answers: Fifo<ANSWERS>,
    codes: Fifo<CODES>,
    /// What was sent last, for the command Resend.
    last: u8,
    /// The command that waits for its parameter; zero when none does.
    parameter: u8,
    /// Keys are reported.
    scanning: bool,
    /// Scan code set, 1..=3.
    set: u8,
    /// Bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    leds: u8,
    /// Delay (bits 5 and 6) and rate (bits 0 to 4) of repetition.
    typematic: u8,
    types: KeyTypes,
    down: KeySet,
    /// Keys that were pressed together with a shift that is not.
    shifted: KeySet,
    /// The key that was pressed last, and when it is repeated.
    repeat: Option<(u8, u64)>,
}

/// What set 3 knows of each of its codes.
#[derive(Debug)]
struct KeyTypes {
    typematic: KeySet,
    breaks: KeySet,
}

#[derive(Clone, Copy, Debug, Default)]
struct KeySet([u64; 4]);

impl KeySet {
    const ALL: KeySet = KeySet([u64::MAX; 4]);

    fn of(codes: &[u8]) -> Self {
        let mut set = KeySet::default();
        for &code in codes {
            set.put(code, true);
        }
        set
    }

    fn contains(&self, code: u8) -> bool {
        self.0[usize::from(code >> 6)] & 1 << (code & 63) != 0
    }

    /// Returns whether that changes anything.
    fn put(&mut self, code: u8, member: bool) -> bool {
        let changes = self.contains(code) != member;
        if changes {
            self.0[usize::from(code >> 6)] ^= 1 << (code & 63);
        }
        changes
    }

    fn save(&self, writer: &mut StateWriter) {
        self.0.iter().for_each(|&word| writer.u64(word));
    }

    fn load(reader: &mut StateReader) -> Result<Self, String> {
        Ok(KeySet([reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?]))
    }
}

impl Default for KeyTypes {
    fn default() -> Self {
        KeyTypes {
            typematic: KeySet::of(scan_codes::SET_3_TYPEMATIC),
            breaks: KeySet::of(scan_codes::SET_3_MAKE_BREAK),
        }
    }
}

impl Default for Keyboard {
    fn default() -> Self {
        Keyboard {
            answers: Fifo::default(),
            codes: Fifo::default(),
            last: SELF_TEST_PASSED,
            parameter: 0,
            scanning: true,
            set: 2,
            leds: 0,
            typematic: TYPEMATIC,
            types: KeyTypes::default(),
            down: KeySet::default(),
            shifted: KeySet::default(),
            repeat: None,
        }
    }
}

impl Keyboard {
    /// The lights: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.codes.is_empty()
    }

    /// The next byte for the controller.
    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.answers.pop().or_else(|| self.codes.pop())?;
        if byte != RESEND {
            self.last = byte;
        }
        Some(byte)
    }

    /// Repeats the key that is held, when it is time. While codes wait there is no repetition, so a guest that does not
    /// read finds one press.
    pub(super) fn advance(&mut self, now: u64) {
        if let Some((code, at)) = self.repeat
            && at <= now
            && self.codes.is_empty()
        {
            let mut bytes = Vec::new();
            match self.set {
                3 => bytes.extend(scan_codes::set_3(code)),
                set => scan_codes::stroke(set, code, true, &mut bytes),
            }
            self.send(&bytes);
            let period = self.period();
            let next = at.saturating_add(period);
            self.repeat = Some((code, if next > now { next } else { now.saturating_add(period) }));
        }
    }

    /// When [`Keyboard::advance`] will do something.
    pub(super) fn next_event(&self) -> Option<u64> {
        self.repeat.filter(|_| self.codes.is_empty()).map(|(_, at)| at)
    }

    /// The host presses a key or lets it go. Nothing happens when the key is there already, or is none.
    pub(super) fn key(&mut self, code: u8, down: bool, now: u64) {
        let code = self.as_pressed(code, down);
        if code & 0x7F == 0 || !self.down.put(code, down) {
            return;
        }
        if down || self.repeat.is_some_and(|(repeated, _)| repeated == code) {
            self.repeat = None;
        }
        if !self.scanning {
            return;
        }
        let mut bytes = Vec::new();
        let repeats = if self.set == 3 {
            let Some(code) = scan_codes::set_3(code) else { return };
            if down {
                bytes.push(code);
            } else if self.types.breaks.contains(code) {
                bytes.extend([0xF0, code]);
            }
            self.types.typematic.contains(code)
        } else {
            self.strokes(code, down, &mut bytes);
            !matches!(code, key::PAUSE | key::HANJA | key::HANGUL)
        };
        self.send(&bytes);
        if down && repeats {
            let delay = u64::from(self.typematic >> 5 & 3) + 1;
            self.repeat = Some((code, now.saturating_add(delay * SECOND / 4)));
        }
    }

    /// Print Screen is another key while Alt is held, and is released as the one it was pressed as.
    fn as_pressed(&self, code: u8, down: bool) -> u8 {
        let alt = down && self.held([key::LEFT_ALT, key::RIGHT_ALT]) && !self.down.contains(key::PRINT_SCREEN);
        if code == key::PRINT_SCREEN && (alt || self.down.contains(key::SYS_RQ)) { key::SYS_RQ } else { code }
    }

    fn held(&self, keys: [u8; 2]) -> bool {
        keys.iter().any(|&key| self.down.contains(key))
    }

    /// What a key sends in sets 1 and 2. The keys between letters and keypad seem to those who ignore E0 the ones of
    /// the keypad, so the keyboard presses a shift beside them, or releases those that are held, to give them the meaning
    /// they would have there.
    fn strokes(&mut self, code: u8, down: bool, bytes: &mut Vec<u8>) {
        let set = self.set;
        let shifts = [key::LEFT_SHIFT, key::RIGHT_SHIFT];
        let ctrl = self.held([key::LEFT_CTRL, key::RIGHT_CTRL]);
        let shift = self.held(shifts);
        let num_lock = self.leds & NUM_LOCK != 0;
        let (press, release) = match code {
            key::PAUSE => {
                match (down, ctrl) {
                    (false, _) => {}
                    (true, false) => bytes.extend(scan_codes::pause(set)),
                    (true, true) => [true, false].iter().for_each(|&down| scan_codes::stroke(set, code, down, bytes)),
                }
                return;
            }
            key::PRINT_SCREEN => (!shift && !ctrl, false),
            key::KEYPAD_DIVIDE => (false, shift),
            0xC7..=0xC9 | 0xCB | 0xCD | 0xCF..=0xD3 => (num_lock && !shift, !num_lock && shift),
            _ => (false, false),
        };
        let held_shifts = |down, bytes: &mut Vec<u8>| {
            for shift in shifts.into_iter().filter(|_| release).filter(|&shift| self.down.contains(shift)) {
                scan_codes::stroke(set, key::fake(shift), down, bytes);
            }
        };
        if down {
            if press {
                scan_codes::stroke(set, key::fake(key::LEFT_SHIFT), true, bytes);
            }
            held_shifts(false, bytes);
            scan_codes::stroke(set, code, true, bytes);
            self.shifted.put(code, press);
        } else {
            scan_codes::stroke(set, code, false, bytes);
            held_shifts(true, bytes);
            if self.shifted.put(code, false) && !self.down.contains(key::LEFT_SHIFT) {
                scan_codes::stroke(set, key::fake(key::LEFT_SHIFT), false, bytes);
            }
        }
    }

    /// Queues a scan code, or where it does not fit the one that tells of an overrun.
    fn send(&mut self, bytes: &[u8]) {
        let overrun = if self.set == 1 { 0xFF } else { 0x00 };
        if self.codes.len() + bytes.len() < CODES {
            self.codes.push(bytes);
        } else if self.codes.last() != Some(overrun) {
            self.codes.push(&[overrun]);
        }
    }

    /// Nanoseconds between two repetitions: 33 to 500 ms.
    fn period(&self) -> u64 {
        let (mantissa, exponent) = (self.typematic & 7, self.typematic >> 3 & 3);
        (u64::from(8 + mantissa) << exponent) * SECOND / 240
    }

    /// A byte from the guest.
    pub(super) fn command(&mut self, value: u8) {
        let command = std::mem::take(&mut self.parameter);
        match (command, value) {
            (SET_LEDS, 0..=0x7F) => self.leds = value & 7,
            (SET_TYPEMATIC, 0..=0x7F) => self.typematic = value,
            (SCAN_CODE_SET, 0) => return self.answers.push(&[ACKNOWLEDGE, self.set]),
            (SCAN_CODE_SET, 1..=3) => {
                self.set = value;
                self.drop_codes();
            }
            // Keys follow until there is a command.
            (KEY_TYPEMATIC | KEY_MAKE_BREAK | KEY_MAKE, 0x01..=0xDF) => {
                self.types.typematic.put(value, command == KEY_TYPEMATIC);
                self.types.breaks.put(value, command == KEY_MAKE_BREAK);
                self.parameter = command;
            }
            (_, SET_LEDS | SCAN_CODE_SET | SET_TYPEMATIC) => self.parameter = value,
            (_, KEY_TYPEMATIC | KEY_MAKE_BREAK | KEY_MAKE) => {
                self.parameter = value;
                self.drop_codes();
            }
            (_, 0xEE) => return self.answers.push(&[0xEE]),
            (_, 0xF2) => return self.answers.push(&[ACKNOWLEDGE, IDENTIFICATION[0], IDENTIFICATION[1]]),
            (_, 0xF4) => {
                self.scanning = true;
                self.drop_codes();
            }
            (_, 0xF5) => {
                self.set_defaults();
                self.scanning = false;
            }
            (_, 0xF6) => self.set_defaults(),
            // All keys: typematic, make/break, make, typematic and make/break.
            (_, 0xF7..=0xFA) => {
                let typematic = matches!(value, 0xF7 | 0xFA);
                let breaks = matches!(value, 0xF8 | 0xFA);
                let set = |all| if all { KeySet::ALL } else { KeySet::default() };
                self.types = KeyTypes { typematic: set(typematic), breaks: set(breaks) };
                self.drop_codes();
            }
            (_, RESEND) => return self.answers.push(&[self.last]),
            (_, 0xFF) => {
                // The keys stay where they are.
                *self = Keyboard { down: self.down, ..Keyboard::default() };
                return self.answers.push(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => return self.answers.push(&[RESEND]),
        }
        self.answers.push(&[ACKNOWLEDGE]);
    }

    fn drop_codes(&mut self) {
        self.codes.clear();
        self.repeat = None;
    }

    fn set_defaults(&mut self) {
        self.drop_codes();
        self.set = 2;
        self.leds = 0;
        self.typematic = TYPEMATIC;
        self.types = KeyTypes::default();
    }

    /// Appends the state; when the key that is held repeats is not part of it.
    pub(super) fn save(&self, writer: &mut StateWriter) {
        self.answers.save(writer);
        self.codes.save(writer);
        for byte in [self.last, self.parameter, self.scanning.into(), self.set, self.leds, self.typematic] {
            writer.u8(byte);
        }
        for set in [&self.types.typematic, &self.types.breaks, &self.down, &self.shifted] {
            set.save(writer);
        }
    }

    pub(super) fn load(reader: &mut StateReader) -> Result<Self, String> {
        let answers = Fifo::load(reader)?;
        let codes = Fifo::load(reader)?;
        let [last, parameter] = [reader.u8()?, reader.u8()?];
        let scanning = reader.bool()?;
        let [set, leds, typematic] = [reader.u8()?, reader.u8()?, reader.u8()?];
        let types = KeyTypes { typematic: KeySet::load(reader)?, breaks: KeySet::load(reader)? };
        let [down, shifted] = [KeySet::load(reader)?, KeySet::load(reader)?];
        if !matches!(parameter, 0 | SET_LEDS | SCAN_CODE_SET | SET_TYPEMATIC | KEY_TYPEMATIC..=KEY_MAKE) {
            return Err(reader.invalid(&format!("no command of the keyboard is {parameter:#x}")));
        }
        if !(1..=3).contains(&set) || leds > 7 || typematic > 0x7F {
            return Err(reader.invalid(&format!("scan code set {set}, lights {leds}, typematic byte {typematic:#x}")));
        }
        let repeat = None;
        Ok(Keyboard { answers, codes, last, parameter, scanning, set, leds, typematic, types, down, shifted, repeat })
    }
}

#[cfg(test)]
mod tests;
