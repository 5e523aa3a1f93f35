/// Words in a saved counter.
pub(super) const CHANNEL_STATE_WORDS: usize = 7;

/// One of the 8254's counters. Nothing ticks in here: everything follows from the time of the clock, in ticks, that the
/// caller passes. A newly written count begins with the tick of its writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    /// 0..=5.
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    /// The count in use, 1..=65536; `None` from the control word until a count is written.
    reload: Option<u32>,
    counting: Counting,
    /// A count that has been written and the tick at which it takes effect (`None`: with the next trigger).
    next: Option<(u32, Option<u64>)>,
    /// The low byte of a count whose high byte is missing.
    low: Option<u8>,
    /// The next byte read is the high one.
    high_next: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low = 1,
    High,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counting {
    /// Before the first count or trigger.
    Idle,
    /// The gate holds it, this many ticks after its beginning.
    Held(u64),
    /// Since this tick.
    Since(u64),
}

impl Default for Channel {
    fn default() -> Self {
        Channel {
            mode: 0,
            bcd: false,
            access: Access::Both,
            gate: true,
            reload: None,
            counting: Counting::Idle,
            next: None,
            low: None,
            high_next: false,
            latched: None,
            latched_status: None,
        }
    }
}

impl Channel {
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The period of modes 2 and 3, where a count of 1 is illegal.
    fn period(&self) -> u64 {
        self.reload.unwrap_or(self.modulus()).max(2).into()
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        match self.counting {
            Counting::Idle => None,
            Counting::Held(elapsed) => Some(elapsed),
            Counting::Since(start) => Some(now.saturating_sub(start)),
        }
    }

    /// Lets a count that waited for the end of a cycle take effect.
    pub(super) fn advance(&mut self, now: u64) {
        if let (Some((count, Some(at))), Counting::Since(start)) = (self.next, self.counting)
            && at <= now
        {
            // In mode 3 a half cycle may have ended: the new count then begins with its second half.
            let half = if (at - start) % self.period() == 0 { 0 } else { u64::from(count).max(2).div_ceil(2) };
            self.reload = Some(count);
            self.counting = Counting::Since(at.saturating_sub(half));
            self.next = None;
        }
    }

    /// The level of OUT.
    pub(super) fn output(&self, now: u64) -> bool {
        let (Some(reload), Some(elapsed)) = (self.reload, self.elapsed(now)) else {
            return self.mode != 0;
        };
        let reload = u64::from(reload);
        match self.mode {
            0 | 1 => elapsed >= reload,
            2 => elapsed % self.period() != self.period() - 1,
            3 => elapsed % self.period() < self.period().div_ceil(2),
            _ => elapsed != reload,
        }
    }

    /// The next tick after `after` at which OUT rises by itself.
    pub(super) fn next_rising_edge(&self, after: u64) -> Option<u64> {
        let (Some(reload), Counting::Since(start)) = (self.reload, self.counting) else { return None };
        let edge = match self.mode {
            0 | 1 => start + u64::from(reload),
            2 | 3 => {
                let cycles = after.saturating_sub(start) / self.period() + 1;
                start + cycles * self.period()
            }
            _ => start + u64::from(reload) + 1,
        };
        (edge > after).then_some(edge)
    }

    /// When a count that has been written takes effect by itself.
    pub(super) fn next_reload(&self) -> Option<u64> {
        self.next.and_then(|(_, at)| at)
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    pub(super) fn set_gate(&mut self, high: bool, now: u64) {
        self.advance(now);
        if self.gate == high {
            return;
        }
        self.gate = high;
        self.counting = match (self.mode, self.counting) {
            (0 | 4, Counting::Held(elapsed)) if high => Counting::Since(now.saturating_sub(elapsed)),
            (0 | 4, Counting::Since(start)) if !high => Counting::Held(now.saturating_sub(start)),
            (2 | 3, _) if !high => Counting::Idle,
            (1 | 2 | 3 | 5, _) if high => {
                // A trigger: the count written last takes effect.
                if let Some((count, _)) = self.next.take() {
                    self.reload = Some(count);
                }
                if self.reload.is_some() { Counting::Since(now) } else { Counting::Idle }
            }
            (_, counting) => counting,
        };
    }

    /// A control word for this counter, the latch command included.
    pub(super) fn control(&mut self, value: u8, now: u64) {
        self.advance(now);
        let access = match value >> 4 & 3 {
            0 => return self.latch(now),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        let mode = value >> 1 & 7;
        *self = Channel {
            // 6 and 7 are other names of 2 and 3.
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd: value & 1 != 0,
            access,
            gate: self.gate,
            ..Channel::default()
        };
    }

    /// The read-back command: bit 5 clear latches the count, bit 4 clear the status.
    pub(super) fn read_back(&mut self, value: u8, now: u64) {
        self.advance(now);
        if value & 0x20 == 0 {
            self.latch(now);
        }
        if value & 0x10 == 0 && self.latched_status.is_none() {
            let null_count = self.reload.is_none() || self.next.is_some();
            self.latched_status = Some(
                u8::from(self.output(now)) << 7
                    | u8::from(null_count) << 6
                    | (self.access as u8) << 4
                    | self.mode << 1
                    | u8::from(self.bcd),
            );
        }
    }

    fn latch(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.count(now));
            self.high_next = false;
        }
    }

    /// The counting element as software reads it.
    fn count(&self, now: u64) -> u16 {
        let reload = u64::from(self.reload.unwrap_or(0));
        let elapsed = self.elapsed(now).unwrap_or(0);
        let modulus = u64::from(self.modulus());
        let count = match self.mode {
            2 if self.reload.is_some() => reload - elapsed % self.period() % reload,
            3 if self.reload.is_some() => {
                // By twos, once for each half of the cycle.
                let half = self.period().div_ceil(2);
                let elapsed = elapsed % self.period();
                let within = if elapsed < half { elapsed } else { elapsed - half };
                (self.period() & !1).saturating_sub(2 * within)
            }
            _ => (reload + modulus - elapsed % modulus) % modulus,
        } % modulus;
        if self.bcd {
            (0..4).rev().fold(0, |bcd, digit| bcd << 4 | (count / 10u64.pow(digit) % 10) as u16)
        } else {
            count as u16
        }
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        self.advance(now);
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.count(now)).to_le_bytes();
        let read_high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::Both => {
                self.high_next = !self.high_next;
                !self.high_next
            }
        };
        if read_high || self.access == Access::Low {
            self.latched = None;
        }
        if read_high { high } else { low }
    }

    /// One byte of a count.
    pub(super) fn write(&mut self, value: u8, now: u64) {
        self.advance(now);
        match (self.access, self.low.take()) {
            (Access::Low, _) => self.write_count(value.into(), now),
            (Access::High, _) => self.write_count(u16::from(value) << 8, now),
            (Access::Both, Some(low)) => self.write_count(u16::from_le_bytes([low, value]), now),
            (Access::Both, None) => {
                self.low = Some(value);
                if self.mode == 0 {
                    // The first byte stops the count and takes OUT low.
                    self.counting = Counting::Idle;
                }
            }
        }
    }

    fn write_count(&mut self, value: u16, now: u64) {
        let decimal = || (0..4).rev().fold(0, |count, digit| count * 10 + u32::from(value >> (4 * digit) & 0xF));
        let count = if self.bcd { decimal() % self.modulus() } else { value.into() };
        let count = if count == 0 { self.modulus() } else { count };
        match (self.mode, self.counting) {
            (0 | 4, _) => {
                self.reload = Some(count);
                self.counting = if self.gate { Counting::Since(now) } else { Counting::Held(0) };
            }
            (2 | 3, Counting::Since(start)) => {
                let elapsed = now.saturating_sub(start) % self.period();
                let half = self.period().div_ceil(2);
                let end = if self.mode == 3 && elapsed < half { half } else { self.period() };
                self.next = Some((count, Some(now + end - elapsed)));
            }
            (2 | 3, _) if self.gate => {
                self.reload = Some(count);
                self.counting = Counting::Since(now);
            }
            _ => self.next = Some((count, None)),
        }
    }

    /// The state, with times relative to `now`.
    pub(super) fn save(&self, now: u64) -> [u64; CHANNEL_STATE_WORDS] {
        let optional = |byte: Option<u8>| byte.map_or(0, |byte| 0x100 | u64::from(byte));
        let (kind, elapsed) = match self.counting {
            Counting::Idle => (0, 0),
            Counting::Held(elapsed) => (1, elapsed),
            Counting::Since(start) => (2, now.saturating_sub(start)),
        };
        let (next, delay) = match self.next {
            None => (0, 0),
            Some((count, at)) => (count.into(), at.map_or(u64::MAX, |at| at.saturating_sub(now))),
        };
        let flags = [self.bcd, self.gate, self.high_next];
        let flags = flags.into_iter().rev().fold(0, |bits, flag| bits << 1 | u64::from(flag));
        [
            u64::from(self.mode) | (self.access as u64) << 8 | flags << 16 | kind << 24,
            self.reload.unwrap_or(0).into(),
            elapsed,
            next,
            delay,
            self.latched.map_or(0, |count| 0x1_0000 | u64::from(count)),
            optional(self.low) | optional(self.latched_status) << 16,
        ]
    }

    /// Loads what [`Self::save`] gave; nonsense is clamped to what the counter can hold.
    pub(super) fn load(&mut self, words: &[u64], now: u64) {
        let &[control, reload, elapsed, next, delay, latched, bytes] = words else { return };
        let optional = |word: u64| (word & 0x100 != 0).then_some(word as u8);
        let count = |word: u64| (1..=0x1_0000).contains(&word).then_some(word as u32);
        let mode = (control & 7) as u8;
        // A count that has run for longer than this since its writing looks the same.
        let elapsed = elapsed.min(now);
        *self = Channel {
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd: control >> 16 & 1 != 0,
            access: match control >> 8 & 3 {
                1 => Access::Low,
                2 => Access::High,
                _ => Access::Both,
            },
            gate: control >> 17 & 1 != 0,
            reload: count(reload),
            counting: match control >> 24 & 3 {
                1 => Counting::Held(elapsed),
                2 => Counting::Since(now - elapsed),
                _ => Counting::Idle,
            },
            next: count(next).map(|count| (count, (delay <= 0x1_0000).then(|| now + delay))),
            low: optional(bytes),
            high_next: control >> 18 & 1 != 0,
            latched: (latched & 0x1_0000 != 0).then_some(latched as u16),
            latched_status: optional(bytes >> 16),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 1 << 20;

    fn channel(control: u8, count: u16) -> Channel {
        let mut channel = Channel::default();
        channel.control(control, START);
        for byte in count.to_le_bytes() {
            channel.write(byte, START);
        }
        channel
    }

    fn levels(channel: &mut Channel, ticks: std::ops::Range<u64>) -> String {
        ticks
            .map(|tick| {
                channel.advance(START + tick);
                if channel.output(START + tick) { '1' } else { '0' }
            })
            .collect()
    }

    fn read_count(channel: &mut Channel, tick: u64) -> u16 {
        channel.control(0, START + tick);
        u16::from_le_bytes([channel.read(START + tick), channel.read(START + tick)])
    }

    #[test]
    fn mode_0_rises_at_terminal_count_and_counts_on() {
        let mut channel = channel(0x30, 4);
        assert_eq!(levels(&mut channel, 0..8), "00001111");
        assert_eq!(channel.next_rising_edge(START), Some(START + 4));
        assert_eq!(channel.next_rising_edge(START + 4), None);
        assert_eq!(read_count(&mut channel, 3), 1);
        assert_eq!(read_count(&mut channel, 5), 0xFFFF);
    }

    #[test]
    fn mode_0_waits_while_the_gate_is_low_and_stops_at_the_first_byte() {
        let mut channel = channel(0x30, 4);
        channel.set_gate(false, START + 2);
        assert_eq!(read_count(&mut channel, 100), 2);
        channel.set_gate(true, START + 100);
        assert_eq!(channel.next_rising_edge(START + 100), Some(START + 102));
        channel.write(9, START + 200);
        assert!(!channel.output(START + 200));
        channel.write(0, START + 200);
        assert_eq!(channel.next_rising_edge(START + 200), Some(START + 209));
    }

    #[test]
    fn mode_1_is_a_one_shot_that_a_trigger_restarts() {
        let mut channel = channel(0x32, 3);
        channel.set_gate(false, START);
        assert_eq!(levels(&mut channel, 0..4), "1111");
        channel.set_gate(true, START + 4);
        assert_eq!(levels(&mut channel, 4..9), "00011");
        channel.set_gate(false, START + 9);
        channel.set_gate(true, START + 10);
        channel.set_gate(false, START + 11);
        channel.set_gate(true, START + 12);
        assert_eq!(levels(&mut channel, 12..16), "0001");
    }

    #[test]
    fn mode_2_is_low_for_the_last_tick_of_each_period() {
        let mut channel = channel(0x34, 3);
        assert_eq!(levels(&mut channel, 0..9), "110110110");
        assert_eq!(channel.next_rising_edge(START), Some(START + 3));
        assert_eq!([0, 1, 2, 3].map(|tick| read_count(&mut channel, tick)), [3, 2, 1, 3]);
    }

    #[test]
    fn mode_2_takes_a_new_count_at_the_end_of_the_period() {
        let mut channel = channel(0x34, 3);
        for byte in [5, 0] {
            channel.write(byte, START + 1);
        }
        channel.read_back(0xE2, START + 1);
        assert_ne!(channel.read(START + 1) & 0x40, 0, "null count");
        assert_eq!(levels(&mut channel, 1..13), "101111011110");
        channel.read_back(0xE2, START + 12);
        assert_eq!(channel.read(START + 12) & 0x40, 0);
    }

    #[test]
    fn mode_2_stops_high_without_its_gate_and_begins_anew() {
        let mut channel = channel(0x34, 3);
        channel.set_gate(false, START + 2);
        assert_eq!(levels(&mut channel, 2..6), "1111");
        channel.set_gate(true, START + 6);
        assert_eq!(levels(&mut channel, 6..9), "110");
    }

    #[test]
    fn mode_3_is_a_square_wave_with_the_odd_tick_high() {
        assert_eq!(levels(&mut channel(0x36, 4), 0..8), "11001100");
        let mut odd = channel(0x3E, 5);
        assert_eq!(levels(&mut odd, 0..10), "1110011100");
        assert_eq!([0, 1, 2, 3, 4].map(|tick| read_count(&mut odd, tick)), [4, 2, 0, 4, 2]);
    }

    #[test]
    fn mode_3_takes_a_new_count_at_the_end_of_the_half_cycle() {
        let mut channel = channel(0x36, 4);
        for byte in [6, 0] {
            channel.write(byte, START);
        }
        assert_eq!(levels(&mut channel, 0..11), "11000111000");
    }

    #[test]
    fn modes_4_and_5_strobe_for_one_tick() {
        assert_eq!(levels(&mut channel(0x38, 3), 0..7), "1110111");
        let mut triggered = channel(0x3A, 3);
        triggered.set_gate(false, START);
        triggered.set_gate(true, START + 1);
        assert_eq!(levels(&mut triggered, 0..7), "1111011");
        assert_eq!(triggered.next_rising_edge(START), Some(START + 5));
    }

    #[test]
    fn counts_are_decimal_on_request() {
        let mut channel = channel(0x31, 0x1000);
        assert_eq!(read_count(&mut channel, 1), 0x0999);
        assert_eq!(channel.next_rising_edge(START), Some(START + 1000));
    }

    #[test]
    fn a_latch_holds_until_it_is_read_and_status_comes_first() {
        let mut channel = channel(0x34, 1000);
        channel.control(0, START + 10);
        channel.read_back(0xC2, START + 500);
        assert_eq!(channel.read(START + 500), 0xB4);
        let count = u16::from_le_bytes([channel.read(START + 600), channel.read(START + 700)]);
        assert_eq!(count, 990, "the second latch command came too late");
        assert_eq!(channel.read(START + 990), 10);
    }

    #[test]
    fn single_byte_access_sets_the_other_byte_to_zero() {
        let mut channel = Channel::default();
        channel.control(0x24, START);
        channel.write(2, START);
        assert_eq!(channel.next_rising_edge(START), Some(START + 0x200));
        assert_eq!(channel.read(START + 0x100), 1);
    }

    proptest! {
        #[test]
        fn no_access_panics_and_time_goes_on(steps in prop::collection::vec((0u8..6, any::<u8>(), 0u64..100_000), 0..100)) {
            let mut channel = Channel::default();
            let mut now = START;
            for (what, value, ticks) in steps {
                now += ticks;
                match what {
                    0 => channel.control(value, now),
                    1 => channel.write(value, now),
                    2 => _ = channel.read(now),
                    3 => channel.read_back(value, now),
                    4 => channel.set_gate(value & 1 != 0, now),
                    _ => channel.advance(now),
                }
                channel.output(now);
                prop_assert!(channel.next_rising_edge(now).is_none_or(|edge| edge > now));
                let mut copy = Channel::default();
                copy.load(&channel.save(now), now);
                prop_assert_eq!(copy.output(now), channel.output(now));
                prop_assert_eq!(copy.next_rising_edge(now), channel.next_rising_edge(now));
            }
        }

        #[test]
        fn a_hostile_state_is_clamped(words in prop::array::uniform7(any::<u64>()), later in 0u64..1 << 40) {
            let mut channel = Channel::default();
            channel.load(&words, START);
            channel.advance(START + later);
            channel.output(START + later);
            channel.read(START + later);
            channel.next_rising_edge(START + later);
        }
    }
}
