use super::fifo::Fifo;
use super::{ACKNOWLEDGE, ERROR, RESEND, SECOND, SELF_TEST_PASSED};
use crate::state::{StateReader, StateWriter};
use std::collections::VecDeque;

/// Counts of a direction that are kept while the guest does not take them; a screen is not wider.
const MOST_COUNTS: i32 = 8192;
/// Changes of buttons that are kept, so that a click is not lost on a guest that is late.
const MOST_REPORTS: usize = 8;
/// Sample rates there are, in reports a second.
const RATES: [u8; 7] = [10, 20, 40, 60, 80, 100, 200];
/// Identification of a mouse with two or three buttons, with a wheel, and with a wheel and five buttons.
const STANDARD: u8 = 0;
const INTELLIMOUSE: u8 = 3;
const EXPLORER: u8 = 4;

const SET_RESOLUTION: u8 = 0xE8;
const SET_RATE: u8 = 0xF3;
const RESET_WRAP: u8 = 0xEC;
const RESET: u8 = 0xFF;
/// The lowest command; what is below may be a parameter.
const FIRST_COMMAND: u8 = 0xE6;

/// A mouse: two or three buttons; a wheel, and two buttons more, for who knocks with three sample rates. IBM PS/2
/// Hardware Interface Technical Reference, "Mouse"; A. Chapweske, "The PS/2 Mouse Interface".
///
/// Times are nanoseconds of the controller's clock.
#[derive(Debug)]
pub(super) struct Mouse {
    /// They go before the packet.
    answers: Fifo<16>,
    /// The report on its way.
    packet: Fifo<4>,
    /// The answer or packet sent last, for the command Resend; at most 5 bytes.
    sent: Vec<u8>,
    /// The command that waits for its parameter; zero when none does.
    parameter: u8,
    /// The last command or parameter was refused.
    refused: bool,
    /// 0, 3 or 4.
    id: u8,
    /// Movements are reported in stream mode.
    reporting: bool,
    /// Remote mode: movements are reported on request.
    remote: bool,
    /// Wrap mode: bytes come back as they went.
    wrap: bool,
    /// Scaling 2:1 in stream mode.
    scaling: bool,
    /// Counts a millimetre, as a power of two: 0..=3. The host's counts are what they are at any resolution.
    resolution: u8,
    /// One of [`RATES`].
    rate: u8,
    /// The two sample rates set before that one.
    knocks: [u8; 2],
    /// Bit 0 left, 1 right, 2 middle, 3 and 4 the fourth and the fifth.
    buttons: u8,
    reports: VecDeque<Report>,
    /// The earliest time of the next packet in stream mode.
    next_sample: u64,
}

/// What is to be reported: movements while these buttons were pressed. Right and up are positive, and the wheel
/// towards the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Report {
    dx: i32,
    dy: i32,
    dz: i32,
    buttons: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Mouse {
            answers: Fifo::default(),
            packet: Fifo::default(),
            sent: vec![SELF_TEST_PASSED, STANDARD],
            parameter: 0,
            refused: false,
            id: STANDARD,
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            knocks: [0; 2],
            buttons: 0,
            reports: VecDeque::new(),
            next_sample: 0,
        }
    }
}

impl Mouse {
    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.packet.is_empty()
    }

    /// The next byte for the controller.
    pub(super) fn pop(&mut self) -> Option<u8> {
        self.answers.pop().or_else(|| self.packet.pop())
    }

    fn streaming(&self) -> bool {
        self.reporting && !self.remote && !self.wrap
    }

    /// Makes the next packet of stream mode, when it is time and the last one is gone.
    pub(super) fn advance(&mut self, now: u64) {
        if self.next_event().is_some_and(|at| at <= now) {
            let packet = self.take_packet(self.scaling);
            self.packet.push(&packet);
            self.sent = packet;
            self.next_sample = now.saturating_add(SECOND / u64::from(self.rate));
        }
    }

    /// When [`Mouse::advance`] will do something.
    pub(super) fn next_event(&self) -> Option<u64> {
        (self.streaming() && self.is_empty() && !self.reports.is_empty()).then_some(self.next_sample)
    }

    /// The host moves the mouse, with `dy` downwards on the screen, or changes its buttons.
    pub(super) fn move_by(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        let buttons = buttons & if self.id == EXPLORER { 0x1F } else { 0x07 };
        let dz = if self.id == STANDARD { 0 } else { dz };
        if (dx, dy, dz, buttons) == (0, 0, 0, self.buttons) {
            return;
        }
        self.buttons = buttons;
        let most = if self.streaming() { MOST_REPORTS } else { 1 };
        let full = self.reports.len() >= most;
        // Counts go to the report that waits last, unless it is of other buttons and there is room for one more.
        let last = self.reports.back().copied().filter(|report| report.buttons == buttons || full);
        if last.is_some() {
            self.reports.pop_back();
        }
        let Report { dx: x, dy: y, dz: z, .. } = last.unwrap_or(Report { dx: 0, dy: 0, dz: 0, buttons });
        let sum = |count: i32, more: i32| count.saturating_add(more).clamp(-MOST_COUNTS, MOST_COUNTS);
        self.reports.push_back(Report { dx: sum(x, dx), dy: sum(y, dy.saturating_neg()), dz: sum(z, dz), buttons });
    }

    /// Takes a packet's worth of what is to be reported. What a packet cannot hold stays for the next one, so its
    /// overflow bits are never set.
    fn take_packet(&mut self, scaling: bool) -> Vec<u8> {
        let still = Report { dx: 0, dy: 0, dz: 0, buttons: self.buttons };
        let report = self.reports.pop_front().unwrap_or(still);
        let most = if scaling { 127 } else { 255 };
        let (dx, dy, dz) = (report.dx.clamp(-most, most), report.dy.clamp(-most, most), report.dz.clamp(-8, 7));
        let rest = Report { dx: report.dx - dx, dy: report.dy - dy, dz: report.dz - dz, ..report };
        if (rest.dx, rest.dy, rest.dz) != (0, 0, 0) {
            self.reports.push_front(rest);
        }
        let [x, y] = [dx, dy].map(|count| if scaling { double(count) } else { count });
        let signs = u8::from(x < 0) << 4 | u8::from(y < 0) << 5;
        let mut packet = vec![report.buttons & 7 | 1 << 3 | signs, x as u8, y as u8];
        match self.id {
            INTELLIMOUSE => packet.push(dz as u8),
            EXPLORER => packet.push(dz as u8 & 0xF | (report.buttons & 0x18) << 1),
            _ => {}
        }
        packet
    }

    /// A byte from the guest. It ends a packet on its way.
    pub(super) fn command(&mut self, value: u8) {
        self.packet.clear();
        if self.wrap && value != RESET_WRAP && value != RESET {
            return self.answer(&[value]);
        }
        if self.parameter != 0 && value < FIRST_COMMAND {
            return self.set_parameter(value);
        }
        self.parameter = 0;
        if !matches!(value, FIRST_COMMAND..=0xEC | 0xEE | 0xF0 | 0xF2..=0xF6 | 0xFE..) {
            return self.refuse();
        }
        self.refused = false;
        match value {
            0xE6 => self.scaling = false,
            0xE7 => self.scaling = true,
            SET_RESOLUTION | SET_RATE => self.parameter = value,
            0xE9 => return self.answer(&[ACKNOWLEDGE, self.status(), self.resolution, self.rate]),
            0xEA => self.enter(|mouse| mouse.remote = false),
            0xEB => {
                let mut answer = vec![ACKNOWLEDGE];
                answer.extend(self.take_packet(false));
                return self.answer(&answer);
            }
            RESET_WRAP => self.enter(|mouse| mouse.wrap = false),
            0xEE => self.enter(|mouse| mouse.wrap = true),
            0xF0 => self.enter(|mouse| mouse.remote = true),
            0xF2 => return self.answer(&[ACKNOWLEDGE, self.id]),
            0xF4 => self.enter(|mouse| mouse.reporting = true),
            0xF5 => self.enter(|mouse| mouse.reporting = false),
            0xF6 => *self = Mouse { answers: std::mem::take(&mut self.answers), id: self.id, ..self.as_new() },
            RESET => {
                *self = self.as_new();
                return self.answer(&[ACKNOWLEDGE, SELF_TEST_PASSED, STANDARD]);
            }
            _ => {
                let sent = std::mem::take(&mut self.sent);
                return self.answer(&sent);
            }
        }
        self.answer(&[ACKNOWLEDGE]);
    }

    /// The state after a reset; the buttons stay where they are.
    fn as_new(&self) -> Self {
        Mouse { buttons: self.buttons & 7, ..Mouse::default() }
    }

    /// Another mode begins, from where the mouse is now.
    fn enter(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        self.reports.clear();
    }

    fn set_parameter(&mut self, value: u8) {
        match self.parameter {
            SET_RESOLUTION if value <= 3 => self.resolution = value,
            SET_RATE if RATES.contains(&value) => {
                match [self.knocks[0], self.knocks[1], value] {
                    [200, 100, 80] if self.id == STANDARD => self.id = INTELLIMOUSE,
                    [200, 200, 80] => self.id = EXPLORER,
                    _ => {}
                }
                self.knocks = [self.knocks[1], value];
                self.rate = value;
            }
            _ => return self.refuse(),
        }
        self.parameter = 0;
        self.refused = false;
        self.answer(&[ACKNOWLEDGE]);
    }

    /// Asks once for the byte again, and gives up the second time.
    fn refuse(&mut self) {
        self.refused = !self.refused;
        if !self.refused {
            self.parameter = 0;
        }
        self.answer(&[if self.refused { RESEND } else { ERROR }]);
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.push(bytes);
        self.sent = bytes.to_vec();
    }

    fn status(&self) -> u8 {
        let buttons = self.buttons << 2 & 4 | self.buttons >> 1 & 2 | self.buttons >> 1 & 1;
        buttons | u8::from(self.scaling) << 4 | u8::from(self.reporting) << 5 | u8::from(self.remote) << 6
    }

    pub(super) fn save(&self, writer: &mut StateWriter) {
        self.answers.save(writer);
        self.packet.save(writer);
        writer.blob(&self.sent);
        for byte in [self.parameter, self.id, self.resolution, self.rate, self.knocks[0], self.knocks[1], self.buttons]
        {
            writer.u8(byte);
        }
        for flag in [self.refused, self.reporting, self.remote, self.wrap, self.scaling] {
            writer.u8(flag.into());
        }
        writer.u8(self.reports.len() as u8);
        for report in &self.reports {
            for count in [report.dx, report.dy, report.dz] {
                writer.u32(count as u32);
            }
            writer.u8(report.buttons);
        }
    }

    pub(super) fn load(reader: &mut StateReader) -> Result<Self, String> {
        let answers = Fifo::load(reader)?;
        let packet = Fifo::load(reader)?;
        let sent = reader.blob()?.to_vec();
        let [parameter, id, resolution, rate] = [reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?];
        let knocks = [reader.u8()?, reader.u8()?];
        let buttons = reader.u8()?;
        let refused = reader.bool()?;
        let [reporting, remote, wrap, scaling] = [reader.bool()?, reader.bool()?, reader.bool()?, reader.bool()?];
        let mut reports = VecDeque::new();
        for _ in 0..reader.u8()? {
            let [dx, dy, dz] = [reader.u32()?, reader.u32()?, reader.u32()?].map(|count| count as i32);
            reports.push_back(Report { dx, dy, dz, buttons: reader.u8()? });
        }
        if sent.len() > 5 || !matches!(parameter, 0 | SET_RESOLUTION | SET_RATE) {
            return Err(reader.invalid("no mouse sends or awaits that"));
        }
        if !matches!(id, STANDARD | INTELLIMOUSE | EXPLORER) || resolution > 3 || !RATES.contains(&rate) {
            return Err(reader.invalid(&format!("mouse {id}, resolution {resolution}, sample rate {rate}")));
        }
        let possible = |count: i32| (-MOST_COUNTS..=MOST_COUNTS).contains(&count);
        let sane =
            |report: &Report| [report.dx, report.dy, report.dz].into_iter().all(possible) && report.buttons <= 0x1F;
        if buttons > 0x1F || reports.len() > MOST_REPORTS || !reports.iter().all(sane) {
            return Err(reader.invalid("the mouse's movements or buttons"));
        }
        let next_sample = 0;
        Ok(Mouse {
            answers,
            packet,
            sent,
            parameter,
            refused,
            id,
            reporting,
            remote,
            wrap,
            scaling,
            resolution,
            rate,
            knocks,
            buttons,
            reports,
            next_sample,
        })
    }
}

/// Scaling 2:1. The result for 127 counts fits a packet.
fn double(count: i32) -> i32 {
    let scaled = match count.abs() {
        small @ 0..=1 => small,
        2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        more => 2 * more,
    };
    scaled * count.signum()
}

#[cfg(test)]
mod tests;
