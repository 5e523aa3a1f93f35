/// Indices of the registers.
pub(super) mod register {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0A;
    pub const B: u8 = 0x0B;
    pub const C: u8 = 0x0C;
    pub const D: u8 = 0x0D;
    pub const CENTURY: u8 = 0x32;
}
use register as r;

const SECOND: u64 = 1_000_000_000;
/// UIP rises 244 us before an update, which takes 1984 us. The new time shows when the update is over.
const UPDATE: u64 = 244_000 + 1_984_000;

const A_UIP: u8 = 1 << 7;
/// The 32768 Hz time base.
const A_DEFAULT: u8 = 0x26;
const B_SET: u8 = 1 << 7;
const B_DECIMAL_OFF: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const B_DEFAULT: u8 = B_24_HOURS;
/// The interrupts' bits in B (enable) and C (flag).
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE_ENDED: u8 = 1 << 4;
const INTERRUPTS: u8 = PERIODIC | ALARM | UPDATE_ENDED;
const SQUARE_WAVE: u8 = 1 << 3;
const C_IRQF: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;
const HOUR_PM: u8 = 1 << 7;

/// The guest may set its clock this far from the host's, in seconds: 400 years.
const FARTHEST: i64 = 400 * 366 * 86400;

/// The registers and what follows from the time. Times passed in are nanoseconds of host UTC since 1970. The divider
/// bits of register A are kept, but the clock always runs.
pub(super) struct Clock {
    ram: [u8; 128],
    /// Seconds the guest's clock is ahead of the host's.
    offset: i64,
    /// Up to when events have been seen.
    seen: u64,
}

impl Clock {
    /// The registers as after power-on, over the given memory.
    pub(super) fn new(mut ram: [u8; 128], now: u64) -> Self {
        ram[usize::from(r::A)] = A_DEFAULT;
        ram[usize::from(r::B)] = B_DEFAULT;
        let mut clock = Clock { ram, offset: 0, seen: now };
        clock.show(now);
        clock
    }

    /// A saved clock. The bytes may be anything.
    pub(super) fn restore(ram: [u8; 128], offset: i64, now: u64) -> Self {
        Clock { ram, offset: offset.clamp(-FARTHEST, FARTHEST), seen: now }
    }

    pub(super) fn ram(&self) -> &[u8; 128] {
        &self.ram
    }

    pub(super) fn ram_mut(&mut self) -> &mut [u8; 128] {
        &mut self.ram
    }

    pub(super) fn offset(&self) -> i64 {
        self.offset
    }

    /// RESET ends interrupts; time and memory stay.
    pub(super) fn reset(&mut self) {
        *self.at(r::B) &= !(INTERRUPTS | SQUARE_WAVE);
        *self.at(r::C) = 0;
    }

    fn at(&mut self, index: u8) -> &mut u8 {
        &mut self.ram[usize::from(index & 0x7F)]
    }

    fn get(&self, index: u8) -> u8 {
        self.ram[usize::from(index & 0x7F)]
    }

    fn set_mode(&self) -> bool {
        self.get(r::B) & B_SET != 0
    }

    /// Seconds of the guest's clock since 1970.
    fn seconds(&self, now: u64) -> i64 {
        (now / SECOND) as i64 + self.offset
    }

    /// Ticks of the periodic interrupt, or `None` when it is off.
    fn period_shift(&self) -> Option<u32> {
        match self.get(r::A) & 0xF {
            0 => None,
            // 3.9 and 7.8 ms, as for 8 and 9.
            rate @ 1..=2 => Some(u32::from(rate) + 6),
            rate => Some(u32::from(rate) - 1),
        }
    }

    fn period(&self, now: u64) -> Option<u64> {
        Some(((u128::from(now) * 32768 / u128::from(SECOND)) as u64) >> self.period_shift()?)
    }

    /// Sets the flags of what has happened since the last call.
    pub(super) fn advance(&mut self, now: u64) {
        let seen = std::mem::replace(&mut self.seen, now);
        if now <= seen {
            // The host's clock was set back.
            return;
        }
        let mut flags = 0;
        if self.period(seen) != self.period(now) {
            flags |= PERIODIC;
        }
        let (before, after) = (self.seconds(seen), self.seconds(now));
        if before != after && !self.set_mode() {
            flags |= UPDATE_ENDED;
            if self.next_alarm(before).is_some_and(|alarm| alarm <= after) {
                flags |= ALARM;
            }
        }
        *self.at(r::C) |= flags;
    }

    /// The level of the interrupt.
    pub(super) fn interrupt(&self) -> bool {
        self.get(r::C) & self.get(r::B) & INTERRUPTS != 0
    }

    /// When the next interrupt may come, if nothing is written until then.
    pub(super) fn next_event(&self, now: u64) -> Option<u64> {
        let wanted = self.get(r::B) & !self.get(r::C);
        let periodic = (wanted & PERIODIC != 0).then(|| {
            let ticks = u128::from(self.period(now)? + 1) << self.period_shift()?;
            Some((ticks * u128::from(SECOND)).div_ceil(32768) as u64)
        });
        let second = (now / SECOND + 1) * SECOND;
        let update = (wanted & UPDATE_ENDED != 0 && !self.set_mode()).then_some(second);
        let alarm = (wanted & ALARM != 0 && !self.set_mode()).then(|| {
            let current = self.seconds(now);
            let ahead = u64::try_from(self.next_alarm(current)? - current).ok()?;
            Some((now / SECOND + ahead) * SECOND)
        });
        [periodic.flatten(), update, alarm.flatten()].into_iter().flatten().min()
    }

    /// The first second after `after` at which the alarm strikes, or `None` when it never does.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let field = |index, limit: u8| {
            let raw = self.get(index);
            let wanted = if index == r::HOURS_ALARM { self.decode_hour(raw) } else { self.decode(raw) };
            // The two highest bits set: any value will do.
            (0..i64::from(limit)).filter(move |&value| raw >= 0xC0 || value == i64::from(wanted))
        };
        let midnight = after - after.rem_euclid(86400);
        for day in [midnight, midnight + 86400] {
            for hour in field(r::HOURS_ALARM, 24) {
                // Hours and minutes that are over are passed by at once.
                if day + hour * 3600 + 3599 <= after {
                    continue;
                }
                for minute in field(r::MINUTES_ALARM, 60) {
                    let start = day + hour * 3600 + minute * 60;
                    if start + 59 <= after {
                        continue;
                    }
                    let found = field(r::SECONDS_ALARM, 60).map(|second| start + second).find(|&time| time > after);
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    }

    fn encode(&self, value: u8) -> u8 {
        if self.get(r::B) & B_DECIMAL_OFF != 0 { value } else { value / 10 * 16 + value % 10 }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.get(r::B) & B_DECIMAL_OFF != 0 { value } else { (value >> 4) * 10 + (value & 0xF) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.get(r::B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { HOUR_PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.get(r::B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let afternoon = if value & HOUR_PM != 0 { 12 } else { 0 };
        self.decode(value & !HOUR_PM) % 12 + afternoon
    }

    /// Puts the running time into the registers.
    fn show(&mut self, now: u64) {
        let seconds = self.seconds(now);
        let (days, within) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
        let (year, month, day) = civil(days);
        let fields = [
            (r::SECONDS, (within % 60) as u8),
            (r::MINUTES, (within / 60 % 60) as u8),
            // 1 January 1970 was a Thursday; Sunday is 1.
            (r::WEEKDAY, ((days + 4).rem_euclid(7) + 1) as u8),
            (r::DAY, day),
            (r::MONTH, month),
            (r::YEAR, year.rem_euclid(100) as u8),
            (r::CENTURY, year.div_euclid(100).clamp(0, 99) as u8),
        ];
        for (index, value) in fields {
            *self.at(index) = self.encode(value);
        }
        *self.at(r::HOURS) = self.encode_hour((within / 3600) as u8);
    }

    /// Takes the time from the registers.
    fn take(&mut self, now: u64) {
        let field = |index, most: u8| i64::from(self.decode(self.get(index)).min(most));
        let year = field(r::CENTURY, 99) * 100 + field(r::YEAR, 99);
        let days = days(year, field(r::MONTH, 12).max(1), field(r::DAY, 31).max(1));
        let hour = i64::from(self.decode_hour(self.get(r::HOURS)).min(23));
        let seconds = days * 86400 + hour * 3600 + field(r::MINUTES, 59) * 60 + field(r::SECONDS, 59);
        self.offset = (seconds - (now / SECOND) as i64).clamp(-FARTHEST, FARTHEST);
    }

    fn is_time(index: u8) -> bool {
        matches!(index, r::SECONDS | r::MINUTES | r::HOURS | r::WEEKDAY | r::DAY | r::MONTH | r::YEAR | r::CENTURY)
    }

    /// Reads a register or a byte of memory; `now` was passed to [`Self::advance`].
    pub(super) fn read(&mut self, index: u8, now: u64) -> u8 {
        match index {
            r::A => {
                let updating = !self.set_mode() && now % SECOND >= SECOND - UPDATE;
                self.get(r::A) & !A_UIP | if updating { A_UIP } else { 0 }
            }
            r::C => {
                let irqf = if self.interrupt() { C_IRQF } else { 0 };
                std::mem::take(self.at(r::C)) & INTERRUPTS | irqf
            }
            r::D => D_VALID,
            _ => {
                if Self::is_time(index) && !self.set_mode() {
                    self.show(now);
                }
                self.get(index)
            }
        }
    }

    /// Writes a register or a byte of memory.
    pub(super) fn write(&mut self, index: u8, value: u8, now: u64) {
        match index {
            r::A => *self.at(r::A) = value & !A_UIP,
            r::B => {
                let before = self.set_mode();
                if !before {
                    self.show(now);
                }
                // SET ends the update-ended interrupt.
                *self.at(r::B) = if value & B_SET != 0 { value & !UPDATE_ENDED } else { value };
                if before && !self.set_mode() {
                    self.take(now);
                }
            }
            r::C | r::D => {}
            index if Self::is_time(index) && !self.set_mode() => {
                self.show(now);
                *self.at(index) = value;
                self.take(now);
            }
            index => *self.at(index) = value,
        }
    }
}

/// Days from 1 March 0000 to 1 January 1970 in the Gregorian calendar.
const DAYS_TO_1970: i64 = 719_468;
const DAYS_IN_400_YEARS: i64 = 146_097;

/// Days since 1970 of a date. Years begin in March, so that the leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // From March on the months' lengths repeat every 153 days.
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - DAYS_TO_1970
}

/// Year, month and day of a day since 1970.
fn civil(day: i64) -> (i64, u8, u8) {
    let day = day + DAYS_TO_1970;
    let (era, day) = (day.div_euclid(DAYS_IN_400_YEARS), day.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (carry, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (era * 400 + year + carry, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2024-02-29 13:14:15.
    const LEAP_DAY: u64 = 1_709_212_455 * SECOND;

    fn clock() -> Clock {
        Clock::new([0; 128], LEAP_DAY)
    }

    fn read(clock: &mut Clock, indices: &[u8], now: u64) -> Vec<u8> {
        clock.advance(now);
        indices.iter().map(|&index| clock.read(index, now)).collect()
    }

    fn write(clock: &mut Clock, now: u64, values: &[(u8, u8)]) {
        clock.advance(now);
        values.iter().for_each(|&(index, value)| clock.write(index, value, now));
    }

    const DATE: [u8; 8] = [r::CENTURY, r::YEAR, r::MONTH, r::DAY, r::WEEKDAY, r::HOURS, r::MINUTES, r::SECONDS];

    #[test]
    fn the_time_is_the_hosts_in_each_form() {
        let mut clock = clock();
        assert_eq!(read(&mut clock, &DATE, LEAP_DAY), [0x20, 0x24, 0x02, 0x29, 5, 0x13, 0x14, 0x15]);
        write(&mut clock, LEAP_DAY, &[(r::B, B_DECIMAL_OFF)]);
        assert_eq!(read(&mut clock, &DATE, LEAP_DAY), [20, 24, 2, 29, 5, 0x81, 14, 15]);
        let midnight = LEAP_DAY - (13 * 3600 + 14 * 60 + 15) * SECOND;
        assert_eq!(read(&mut clock, &[r::HOURS], midnight), [12]);
    }

    #[test]
    fn a_time_set_by_the_guest_goes_on_from_there() {
        let mut clock = clock();
        write(&mut clock, LEAP_DAY, &[(r::B, B_SET | B_24_HOURS), (r::YEAR, 0x99), (r::CENTURY, 0x19)]);
        write(&mut clock, LEAP_DAY, &[(r::MONTH, 0x12), (r::DAY, 0x31), (r::HOURS, 0x23), (r::MINUTES, 0x59)]);
        let later = LEAP_DAY + 10 * SECOND;
        assert_eq!(read(&mut clock, &[r::SECONDS], later), [0x15], "it stands still while SET");
        write(&mut clock, later, &[(r::SECONDS, 0x59), (r::B, B_24_HOURS)]);
        assert_eq!(read(&mut clock, &DATE, later + SECOND), [0x20, 0, 1, 1, 7, 0, 0, 0]);
    }

    #[test]
    fn a_single_field_may_be_written_while_it_runs() {
        let mut clock = clock();
        write(&mut clock, LEAP_DAY, &[(r::MINUTES, 0x30)]);
        assert_eq!(read(&mut clock, &[r::HOURS, r::MINUTES, r::SECONDS], LEAP_DAY + SECOND), [0x13, 0x30, 0x16]);
    }

    #[test]
    fn an_update_is_announced_and_ends_with_the_second() {
        let mut clock = clock();
        let mut uip = |now| read(&mut clock, &[r::A], now)[0] & A_UIP != 0;
        assert!(!uip(LEAP_DAY + SECOND - UPDATE - 1));
        assert!(uip(LEAP_DAY + SECOND - UPDATE));
        assert!(uip(LEAP_DAY + SECOND - 1));
        assert!(!uip(LEAP_DAY + SECOND));
    }

    #[test]
    fn flags_come_with_their_events_and_go_when_read() {
        let mut clock = clock();
        assert_eq!(read(&mut clock, &[r::C, r::C], LEAP_DAY + SECOND), [PERIODIC | UPDATE_ENDED, 0]);
        write(&mut clock, LEAP_DAY + SECOND, &[(r::B, B_24_HOURS | UPDATE_ENDED)]);
        assert_eq!(clock.next_event(LEAP_DAY + SECOND), Some(LEAP_DAY + 2 * SECOND));
        assert!(!clock.interrupt());
        clock.advance(LEAP_DAY + 2 * SECOND);
        assert!(clock.interrupt());
        assert_eq!(clock.next_event(LEAP_DAY + 2 * SECOND), None, "one interrupt until C is read");
        assert_eq!(clock.read(r::C, LEAP_DAY + 2 * SECOND), C_IRQF | PERIODIC | UPDATE_ENDED);
        assert!(!clock.interrupt());
    }

    #[test]
    fn the_periodic_rates() {
        let mut clock = clock();
        for (rate, hertz) in [(3, 8192), (6, 1024), (15, 2), (1, 256), (2, 128)] {
            write(&mut clock, LEAP_DAY, &[(r::A, 0x20 | rate), (r::B, B_24_HOURS | PERIODIC)]);
            clock.read(r::C, LEAP_DAY);
            let next = clock.next_event(LEAP_DAY).unwrap();
            assert_eq!(next - LEAP_DAY, SECOND.div_ceil(hertz), "{hertz} Hz");
        }
        write(&mut clock, LEAP_DAY, &[(r::A, 0x20)]);
        assert_eq!(clock.next_event(LEAP_DAY), None);
    }

    #[test]
    fn the_alarm_strikes_at_its_time() {
        let mut clock = clock();
        let alarm =
            [(r::HOURS_ALARM, 0x13), (r::MINUTES_ALARM, 0x14), (r::SECONDS_ALARM, 0x20), (r::B, B_24_HOURS | ALARM)];
        write(&mut clock, LEAP_DAY, &alarm);
        assert_eq!(clock.next_event(LEAP_DAY), Some(LEAP_DAY + 5 * SECOND));
        clock.advance(LEAP_DAY + 4 * SECOND);
        assert!(!clock.interrupt());
        clock.advance(LEAP_DAY + 5 * SECOND);
        assert!(clock.interrupt());
        // Any hour and minute; the seconds have just been.
        write(&mut clock, LEAP_DAY + 6 * SECOND, &[(r::HOURS_ALARM, 0xFF), (r::MINUTES_ALARM, 0xC0)]);
        clock.read(r::C, LEAP_DAY + 6 * SECOND);
        assert_eq!(clock.next_event(LEAP_DAY + 6 * SECOND), Some(LEAP_DAY + 65 * SECOND));
        // Tomorrow, and never.
        write(&mut clock, LEAP_DAY + 6 * SECOND, &[(r::HOURS_ALARM, 0x13), (r::MINUTES_ALARM, 0x14)]);
        assert_eq!(clock.next_event(LEAP_DAY + 6 * SECOND), Some(LEAP_DAY + (86400 + 5) * SECOND));
        write(&mut clock, LEAP_DAY + 6 * SECOND, &[(r::MINUTES_ALARM, 0x60)]);
        assert_eq!(clock.next_event(LEAP_DAY + 6 * SECOND), None);
    }

    #[test]
    fn reset_ends_interrupts_and_keeps_time() {
        let mut clock = clock();
        write(&mut clock, LEAP_DAY, &[(r::B, B_24_HOURS | PERIODIC), (0x0F, 5)]);
        clock.advance(LEAP_DAY + SECOND);
        clock.reset();
        assert!(!clock.interrupt());
        assert_eq!(read(&mut clock, &[0x0F, r::SECONDS], LEAP_DAY + SECOND), [5, 0x16]);
    }

    proptest! {
        #[test]
        fn the_calendar_goes_both_ways(day in -1_000_000i64..4_000_000) {
            let (year, month, of_month) = civil(day);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
            prop_assert_eq!(days(year, month.into(), of_month.into()), day);
        }

        #[test]
        fn no_access_panics(
            ram in prop::collection::vec(any::<u8>(), 128),
            offset in any::<i64>(),
            steps in prop::collection::vec((any::<bool>(), 0u8..0x40, any::<u8>(), 0u64..1 << 50), 0..100),
        ) {
            let mut now = LEAP_DAY;
            let mut clock = Clock::restore(ram.try_into().unwrap(), offset, now);
            for (store, index, value, later) in steps {
                now += later;
                clock.advance(now);
                if store { clock.write(index, value, now) } else { _ = clock.read(index, now) }
                prop_assert!(clock.next_event(now).is_none_or(|event| event > now));
            }
        }
    }
}
