use crate::bus::Speed;
use crate::descriptors::{Description, item};
use crate::hid::{Hid, Source};
use board::{StateReader, StateWriter};
use std::collections::VecDeque;

/// The largest coordinate: the right or lower edge of the screen.
pub const TABLET_MAX: u16 = 0x7FFF;

/// Buttons there are.
const BUTTONS: u8 = 3;
const BUTTON_MASK: u8 = (1 << BUTTONS) - 1;
/// Events that wait for a guest that does not ask. Movements between two events of buttons are one.
const MOST_EVENTS: usize = 16;
/// The largest turn of the wheel in one report, and the largest that is remembered.
const WHEEL_REPORT: i32 = 127;
const MOST_WHEEL: i32 = 8192;

#[rustfmt::skip]
const REPORT_DESCRIPTOR: &[u8] = &[
    item::USAGE_PAGE, item::GENERIC_DESKTOP,
    item::USAGE, item::MOUSE,
    item::COLLECTION, item::APPLICATION,
        item::USAGE, item::POINTER,
        item::COLLECTION, item::PHYSICAL,
            // Byte 0: the buttons, and bits of no meaning.
            item::USAGE_PAGE, item::BUTTON_PAGE,
            item::USAGE_MINIMUM, 1,
            item::USAGE_MAXIMUM, BUTTONS,
            item::LOGICAL_MINIMUM, 0,
            item::LOGICAL_MAXIMUM, 1,
            item::REPORT_SIZE, 1,
            item::REPORT_COUNT, BUTTONS,
            item::INPUT, item::VARIABLE,
            item::REPORT_SIZE, 8 - BUTTONS,
            item::REPORT_COUNT, 1,
            item::INPUT, item::CONSTANT,
            // Bytes 1 to 4: where it points.
            item::USAGE_PAGE, item::GENERIC_DESKTOP,
            item::USAGE, item::X,
            item::USAGE, item::Y,
            item::LOGICAL_MAXIMUM_2, TABLET_MAX as u8, (TABLET_MAX >> 8) as u8,
            item::PHYSICAL_MINIMUM, 0,
            item::PHYSICAL_MAXIMUM_2, TABLET_MAX as u8, (TABLET_MAX >> 8) as u8,
            item::REPORT_SIZE, 16,
            item::REPORT_COUNT, 2,
            item::INPUT, item::VARIABLE,
            // Byte 5: turns of the wheel, away from the user.
            item::USAGE, item::WHEEL,
            item::LOGICAL_MINIMUM, -WHEEL_REPORT as u8,
            item::LOGICAL_MAXIMUM, WHEEL_REPORT as u8,
            item::PHYSICAL_MAXIMUM, 0,
            item::REPORT_SIZE, 8,
            item::REPORT_COUNT, 1,
            item::INPUT, item::VARIABLE | item::RELATIVE,
        item::END_COLLECTION,
    item::END_COLLECTION,
];

/// A pointer with absolute coordinates, three buttons and a wheel, of full speed: what a guest's pointer follows exactly.
pub type Tablet = Hid<Pointer>;

/// The state of a [`Tablet`].
#[derive(Debug, Default)]
pub struct Pointer {
    /// How it is now, without the wheel.
    now: Event,
    /// What the guest has not asked for yet, oldest first.
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Event {
    x: u16,
    y: u16,
    buttons: u8,
    /// Notches towards the user.
    wheel: i32,
    /// The buttons have changed: where that was must not be lost.
    pressed: bool,
}

impl Event {
    /// Takes its report, with as much of the wheel as fits.
    fn report(&mut self) -> Vec<u8> {
        let wheel = self.wheel.clamp(-WHEEL_REPORT, WHEEL_REPORT);
        self.wheel -= wheel;
        let ([x0, x1], [y0, y1]) = (self.x.to_le_bytes(), self.y.to_le_bytes());
        vec![self.buttons, x0, x1, y0, y1, -wheel as u8]
    }
}

impl Tablet {
    /// A tablet that is not plugged in.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Hid::unplugged()
    }

    /// Puts the pointer at `x` and `y`, 0 to [`TABLET_MAX`] from the left and the upper edge of the screen (more counts as
    /// that), sets its buttons (bit 0 left, 1 right, 2 middle) and turns its wheel by `wheel` notches towards the user. Does not
    /// wait. A guest that is slow sees each press where it was, and of the movements between two the end; one that never
    /// asks finds at most 16 events.
    pub fn set(&self, x: u16, y: u16, buttons: u8, wheel: i32) {
        self.change(|pointer| pointer.set(x.min(TABLET_MAX), y.min(TABLET_MAX), buttons & BUTTON_MASK, wheel));
    }
}

impl Pointer {
    fn set(&mut self, x: u16, y: u16, buttons: u8, wheel: i32) -> bool {
        let wheel = wheel.clamp(-MOST_WHEEL, MOST_WHEEL);
        let before = self.now;
        self.now = Event { x, y, buttons, wheel: 0, pressed: false };
        if self.now == before && wheel == 0 {
            return false;
        }
        let event = Event { wheel, pressed: buttons != before.buttons, ..self.now };
        let full = self.events.len() == MOST_EVENTS;
        match self.events.back_mut() {
            Some(last) if full || !last.pressed && !event.pressed => {
                let wheel = (last.wheel + event.wheel).clamp(-MOST_WHEEL, MOST_WHEEL);
                *last = Event { wheel, ..event };
            }
            _ => self.events.push_back(event),
        }
        true
    }
}

impl Source for Pointer {
    const NAME: &'static str = "usb-tablet";
    const SPEED: Speed = Speed::Full;
    const IDLE: u8 = 0;
    const DESCRIPTION: Description =
        Description { product: "USB Tablet", subclass: 0, protocol: 0, report_descriptor: REPORT_DESCRIPTOR };

    fn next(&mut self) -> Option<Vec<u8>> {
        let event = self.events.front_mut()?;
        let report = event.report();
        if event.wheel == 0 {
            self.events.pop_front();
        }
        Some(report)
    }

    fn has_next(&self) -> bool {
        !self.events.is_empty()
    }

    fn current(&self) -> Vec<u8> {
        self.now.clone().report()
    }

    fn clear(&mut self) {
        self.events.clear();
    }

    fn save(&self, writer: &mut StateWriter) {
        writer.u8(self.events.len() as u8);
        for event in [&self.now].into_iter().chain(&self.events) {
            writer.u16(event.x);
            writer.u16(event.y);
            writer.u8(event.buttons);
            writer.u32(event.wheel as u32);
            writer.u8(event.pressed.into());
        }
    }

    fn load(reader: &mut StateReader) -> Result<Self, String> {
        let count = usize::from(reader.u8()?);
        if count > MOST_EVENTS {
            return Err(reader.invalid(&format!("{count} events of the tablet")));
        }
        let now = load_event(reader)?;
        let events = (0..count).map(|_| load_event(reader)).collect::<Result<_, _>>()?;
        Ok(Pointer { now, events })
    }
}

fn load_event(reader: &mut StateReader) -> Result<Event, String> {
    let [x, y] = [reader.u16()?, reader.u16()?];
    let buttons = reader.u8()?;
    let wheel = reader.u32()? as i32;
    let pressed = reader.bool()?;
    if x > TABLET_MAX || y > TABLET_MAX || buttons > BUTTON_MASK || !(-MOST_WHEEL..=MOST_WHEEL).contains(&wheel) {
        return Err(reader.invalid("an event of the tablet"));
    }
    Ok(Event { x, y, buttons, wheel, pressed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(pointer: &mut Pointer) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| pointer.next()).collect()
    }

    #[test]
    fn movements_are_one_and_presses_stay_where_they_were() {
        let mut pointer = Pointer::default();
        for (x, buttons) in [(1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (4, 0), (5, 0)] {
            assert!(pointer.set(x, 0x1234, buttons, 0));
        }
        assert!(!pointer.set(5, 0x1234, 0, 0), "nothing has changed");
        let expected = [(2, 0), (2, 1), (4, 1), (4, 0), (5, 0)];
        assert_eq!(reports(&mut pointer), expected.map(|(x, buttons)| vec![buttons, x, 0, 0x34, 0x12, 0]));
    }

    #[test]
    fn the_wheel_turns_the_other_way_and_none_of_it_is_lost() {
        let mut pointer = Pointer::default();
        pointer.set(0, 0, 0, 100);
        pointer.set(0, 0, 0, 100);
        let turns: Vec<i8> = reports(&mut pointer).iter().map(|report| report[5] as i8).collect();
        assert_eq!(turns, [-127, -73]);
        pointer.set(0, 0, 0, i32::MIN);
        pointer.set(0, 0, 0, i32::MIN);
        assert_eq!(reports(&mut pointer).iter().map(|report| i32::from(report[5] as i8)).sum::<i32>(), MOST_WHEEL);
    }

    #[test]
    fn who_never_asks_finds_few_events_and_the_end() {
        let mut pointer = Pointer::default();
        for n in 0..1001 {
            pointer.set(n, 0, n as u8 & 1, 0);
        }
        let reports = reports(&mut pointer);
        assert_eq!(reports.len(), MOST_EVENTS);
        assert_eq!(reports[MOST_EVENTS - 1], [0, 0xE8, 3, 0, 0, 0]);
    }

    #[test]
    fn the_report_descriptor_adds_up_to_the_report() {
        let mut bits = 0;
        let (mut size, mut count) = (0, 0);
        let mut at = 0;
        while at < REPORT_DESCRIPTOR.len() {
            let prefix = REPORT_DESCRIPTOR[at];
            let length = [0, 1, 2, 4][usize::from(prefix & 3)];
            match prefix {
                item::REPORT_SIZE => size = u32::from(REPORT_DESCRIPTOR[at + 1]),
                item::REPORT_COUNT => count = u32::from(REPORT_DESCRIPTOR[at + 1]),
                item::INPUT => bits += size * count,
                _ => {}
            }
            at += 1 + length;
        }
        assert_eq!(bits, 8 * Pointer::default().current().len() as u32);
    }
}
