use crate::bus::Speed;
use crate::control::Refused;
use crate::descriptors::{Description, item};
use crate::hid::{Hid, Source};
use crate::usages::{LEFT_CTRL, RIGHT_GUI, usage};
use board::{StateReader, StateWriter};
use std::collections::VecDeque;

/// Bytes of a report: the modifiers, one that is reserved, keys that are held.
const REPORT: usize = 8;
/// Keys that fit a report.
const ROLLOVER: usize = REPORT - 2;
/// In a report: more keys are held than fit. HID Usage Tables 1.12, section 10.
const ERROR_ROLLOVER: u8 = 1;
/// Reports that wait for a guest that does not ask: some words of text.
const MOST_REPORTS: usize = 256;
/// The idle rate after a reset: half a second. HID, section 7.2.4.
const IDLE: u8 = 125;
/// HID, section 4.2 and 4.3: the boot interface of a keyboard.
const SUBCLASS_BOOT: u8 = 1;
const PROTOCOL_KEYBOARD: u8 = 1;
/// Lights: Num Lock, Caps Lock, Scroll Lock, Compose, Kana.
const LEDS: u8 = 5;
const LED_MASK: u8 = (1 << LEDS) - 1;

#[rustfmt::skip]
const REPORT_DESCRIPTOR: &[u8] = &[
    item::USAGE_PAGE, item::GENERIC_DESKTOP,
    item::USAGE, item::KEYBOARD,
    item::COLLECTION, item::APPLICATION,
        // Byte 0: the modifiers.
        item::USAGE_PAGE, item::KEYBOARD_PAGE,
        item::USAGE_MINIMUM, LEFT_CTRL,
        item::USAGE_MAXIMUM, RIGHT_GUI,
        item::LOGICAL_MINIMUM, 0,
        item::LOGICAL_MAXIMUM, 1,
        item::REPORT_SIZE, 1,
        item::REPORT_COUNT, 8,
        item::INPUT, item::VARIABLE,
        // Byte 1: a BIOS may expect anything there.
        item::REPORT_SIZE, 8,
        item::REPORT_COUNT, 1,
        item::INPUT, item::CONSTANT,
        // The output report: lights, and bits of no meaning.
        item::USAGE_PAGE, item::LED_PAGE,
        item::USAGE_MINIMUM, 1,
        item::USAGE_MAXIMUM, LEDS,
        item::REPORT_SIZE, 1,
        item::REPORT_COUNT, LEDS,
        item::OUTPUT, item::VARIABLE,
        item::REPORT_SIZE, 8 - LEDS,
        item::REPORT_COUNT, 1,
        item::OUTPUT, item::CONSTANT,
        // Bytes 2 to 7: the keys that are held.
        item::USAGE_PAGE, item::KEYBOARD_PAGE,
        item::USAGE_MINIMUM, 0,
        item::USAGE_MAXIMUM, 0xFF,
        item::LOGICAL_MAXIMUM_2, 0xFF, 0,
        item::REPORT_SIZE, 8,
        item::REPORT_COUNT, ROLLOVER as u8,
        item::INPUT, item::ARRAY,
    item::END_COLLECTION,
];

/// A keyboard of low speed that a BIOS can use, too, with six keys at a time besides the modifiers.
pub type Keyboard = Hid<Keys>;

/// The state of a [`Keyboard`].
#[derive(Debug, Default)]
pub struct Keys {
    /// A bit for each modifier, as in the report.
    modifiers: u8,
    /// Usages of the other keys that are held, in the order in which they were pressed.
    held: Vec<u8>,
    /// What the guest has not asked for yet, oldest first.
    reports: VecDeque<[u8; REPORT]>,
    /// The output report.
    leds: u8,
}

impl Keyboard {
    /// A keyboard that is not plugged in.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Hid::unplugged()
    }

    /// Presses a key or lets it go. Does not wait, and keeps no more than some hundred reports for a guest that does not
    /// ask; of what is beyond it sees the end.
    ///
    /// `code` is as for [`board::I8042::key`]. Codes that are no key's are ignored, and so is what does not change: it is
    /// the guest that repeats keys that are held.
    pub fn key(&self, code: u8, down: bool) {
        self.change(|keys| keys.key(code, down));
    }

    /// The lights: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock, as [`board::I8042::keyboard_leds`] has them.
    pub fn leds(&self) -> u8 {
        let leds = self.look(|keys| keys.leds);
        leds >> 2 & 1 | leds << 1 & 6
    }
}

impl Keys {
    fn key(&mut self, code: u8, down: bool) -> bool {
        let Some(usage) = usage(code) else { return false };
        if (LEFT_CTRL..=RIGHT_GUI).contains(&usage) {
            let bit = 1 << (usage - LEFT_CTRL);
            if (self.modifiers & bit != 0) == down {
                return false;
            }
            self.modifiers ^= bit;
        } else {
            match (self.held.iter().position(|held| *held == usage), down) {
                (None, true) => self.held.push(usage),
                (Some(at), false) => {
                    self.held.remove(at);
                }
                _ => return false,
            }
        }
        if self.reports.len() == MOST_REPORTS {
            self.reports.pop_back();
        }
        self.reports.push_back(self.report());
        true
    }

    fn report(&self) -> [u8; REPORT] {
        let mut report = [0; REPORT];
        report[0] = self.modifiers;
        let keys = &mut report[2..];
        if self.held.len() > ROLLOVER {
            keys.fill(ERROR_ROLLOVER);
        } else {
            keys[..self.held.len()].copy_from_slice(&self.held);
        }
        report
    }
}

impl Source for Keys {
    const NAME: &'static str = "usb-keyboard";
    const SPEED: Speed = Speed::Low;
    const IDLE: u8 = IDLE;
    const DESCRIPTION: Description = Description {
        product: "USB Keyboard",
        subclass: SUBCLASS_BOOT,
        protocol: PROTOCOL_KEYBOARD,
        report_descriptor: REPORT_DESCRIPTOR,
    };

    fn next(&mut self) -> Option<Vec<u8>> {
        self.reports.pop_front().map(|report| report.to_vec())
    }

    fn has_next(&self) -> bool {
        !self.reports.is_empty()
    }

    fn current(&self) -> Vec<u8> {
        self.report().to_vec()
    }

    fn clear(&mut self) {
        self.reports.clear();
    }

    fn output(&mut self, report: &[u8]) -> Result<(), Refused> {
        let &[leds] = report else { return Err(Refused) };
        self.leds = leds & LED_MASK;
        Ok(())
    }

    fn save(&self, writer: &mut StateWriter) {
        writer.u8(self.modifiers);
        writer.u8(self.leds);
        writer.blob(&self.held);
        let reports: Vec<u8> = self.reports.iter().flatten().copied().collect();
        writer.blob(&reports);
    }

    fn load(reader: &mut StateReader) -> Result<Self, String> {
        let [modifiers, leds] = [reader.u8()?, reader.u8()?];
        let held = reader.blob()?.to_vec();
        let reports = reader.blob()?;
        let is_key = |at: usize| held[at] < LEFT_CTRL && !held[..at].contains(&held[at]);
        if leds > LED_MASK || held.len() > usize::from(LEFT_CTRL) || !(0..held.len()).all(is_key) {
            return Err(reader.invalid("lights or keys of the keyboard"));
        }
        if reports.len() % REPORT != 0 || reports.len() > REPORT * MOST_REPORTS {
            return Err(reader.invalid(&format!("{} bytes of reports of the keyboard", reports.len())));
        }
        let reports = reports.chunks_exact(REPORT).filter_map(|report| report.try_into().ok()).collect();
        Ok(Keys { modifiers, held, reports, leds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u8 = 0x1E;
    const LEFT_SHIFT: u8 = 0x2A;
    const RIGHT_ALT: u8 = 0xB8;

    #[test]
    fn each_change_is_a_report_of_all_that_is_held() {
        let mut keys = Keys::default();
        for (code, down) in [(LEFT_SHIFT, true), (A, true), (RIGHT_ALT, true), (LEFT_SHIFT, false), (A, false)] {
            assert!(keys.key(code, down));
            assert!(!keys.key(code, down), "nothing has changed");
        }
        let expected = [[0x02, 0], [0x02, 0x04], [0x42, 0x04], [0x40, 0x04], [0x40, 0]];
        for [modifiers, key] in expected {
            assert_eq!(keys.next(), Some(vec![modifiers, 0, key, 0, 0, 0, 0, 0]));
        }
        assert_eq!(keys.next(), None);
    }

    #[test]
    fn a_seventh_key_is_an_error_until_one_is_let_go() {
        let mut keys = Keys::default();
        let codes = [0x1E, 0x30, 0x2E, 0x20, 0x12, 0x21, 0x22];
        assert!(codes.iter().all(|code| keys.key(*code, true)));
        assert_eq!(keys.current(), [0, 0, 1, 1, 1, 1, 1, 1]);
        keys.key(codes[0], false);
        assert_eq!(keys.current(), [0, 0, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn who_never_asks_finds_few_reports_and_the_end() {
        let mut keys = Keys::default();
        for n in 0..1001 {
            keys.key(A, n % 2 == 0);
        }
        assert_eq!(keys.reports.len(), MOST_REPORTS);
        assert_eq!(keys.reports.back(), Some(&[0, 0, 4, 0, 0, 0, 0, 0]));
    }
}
