use crate::{StateReader, StateWriter};

/// Comparators.
pub(super) const TIMERS: usize = 3;
/// The shortest time between two interrupts of a periodic comparator: 50 us in ticks.
const SHORTEST_GAP: u64 = 5_000;
/// A comparator set to a time that is over by less than this many ticks (1.3 s) matches at once. A chip would wait for the
/// counter to come round, but its processor is not held up between the look at the counter and the write.
const JUST_OVER: u64 = 1 << 27;

/// Offsets of the registers, 8 bytes each. Section 2.3.2.
mod register {
    pub const CAPABILITIES: u64 = 0x000;
    pub const CONFIGURATION: u64 = 0x010;
    pub const STATUS: u64 = 0x020;
    pub const COUNTER: u64 = 0x0F0;
    /// The first comparator's; the others' follow.
    pub const TIMERS: u64 = 0x100;
    pub const TIMER_SIZE: u64 = 0x20;
    pub const TIMER_CONFIGURATION: u64 = 0x00;
    pub const TIMER_COMPARATOR: u64 = 0x08;
    pub const TIMER_FSB: u64 = 0x10;
}

/// GCAP_ID: revision 1, three comparators, a 64-bit counter, legacy replacement, Intel; a period of 10,000,000 fs.
const CAPABILITIES: u64 = 10_000_000 << 32 | 0x8086_A201;

const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;

/// A comparator's configuration. Section 2.3.8.
const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const VALUE_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE_SHIFT: u32 = 9;
const ROUTE: u64 = 0x1F << ROUTE_SHIFT;
const FSB: u64 = 1 << 14;
const WRITABLE: u64 = LEVEL | INTERRUPT | PERIODIC | VALUE_SET | MODE_32 | ROUTE | FSB;
/// Periodic interrupts, 64 bits, messages.
const TIMER_CAPABILITIES: u64 = 1 << 4 | 1 << 5 | 1 << 15;
/// Inputs of the I/O APIC that a comparator may be routed to: 2, 8 and those that no other device of the board uses.
const ROUTES: u64 = 0x00FF_0104;

/// What happens when a comparator matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// An edge on this GSI.
    Edge(u32),
    /// A message: address and data.
    Message(u32, u32),
}

/// The registers and what follows from the time. Times passed in are ticks of 10 ns since power-on and never go back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    configuration: u64,
    status: u64,
    /// The main counter while it is halted; while it runs, the counter less the time.
    base: u64,
    comparators: [Comparator; TIMERS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Comparator {
    configuration: u64,
    /// Of a periodic comparator: when it matches next.
    value: u64,
    period: u64,
    fsb: u64,
    /// The time at which it matches next, while the counter runs.
    due: Option<u64>,
}

impl Comparator {
    const POWER_ON: Self = Comparator { configuration: 0, value: u64::MAX, period: 0, fsb: 0, due: None };

    fn has(&self, bit: u64) -> bool {
        self.configuration & bit != 0
    }

    /// The bits that are compared.
    fn mask(&self) -> u64 {
        if self.has(MODE_32) { u32::MAX.into() } else { u64::MAX }
    }

    fn narrow(&mut self) {
        self.value &= self.mask();
        self.period &= self.mask();
    }

    /// Finds out when it matches next.
    fn schedule(&mut self, counter: u64, now: u64) {
        let distance = match self.value.wrapping_sub(counter) & self.mask() {
            // It has just matched: once round.
            0 if self.has(MODE_32) => Some(1 << 32),
            0 => None,
            distance => Some(distance),
        };
        self.due = distance.and_then(|distance| now.checked_add(distance));
    }

    /// It has matched.
    fn matched(&mut self, counter: u64, now: u64) {
        if self.has(PERIODIC) && self.period != 0 {
            let behind = counter.wrapping_sub(self.value) & self.mask();
            let periods = (behind / self.period).wrapping_add(1);
            self.value = self.value.wrapping_add(periods.wrapping_mul(self.period)) & self.mask();
        }
        self.schedule(counter, now);
        if self.has(PERIODIC) {
            self.due = self.due.map(|due| due.max(now.saturating_add(SHORTEST_GAP)));
        }
    }
}

/// `old` with the bits of `mask` from `new`.
fn merge(old: u64, new: u64, mask: u64) -> u64 {
    old & !mask | new & mask
}

impl Registers {
    /// After power-on.
    pub(super) fn new() -> Self {
        Registers { configuration: 0, status: 0, base: 0, comparators: [Comparator::POWER_ON; TIMERS] }
    }

    fn running(&self) -> bool {
        self.configuration & ENABLE != 0
    }

    /// Comparators 0 and 1 have taken the interrupts of the PIT and the clock.
    pub(super) fn legacy(&self) -> bool {
        self.configuration & LEGACY != 0
    }

    fn counter(&self, now: u64) -> u64 {
        if self.running() { self.base.wrapping_add(now) } else { self.base }
    }

    fn set_counter(&mut self, value: u64, now: u64) {
        self.base = if self.running() { value.wrapping_sub(now) } else { value };
    }

    fn schedule(&mut self, now: u64) {
        let (running, counter) = (self.running(), self.counter(now));
        for comparator in &mut self.comparators {
            comparator.due = None;
            if running {
                comparator.schedule(counter, now);
            }
        }
    }

    /// The GSI of a comparator, if it has one. Section 2.3.9.2 and table 2. Input 2 of the I/O APIC is GSI 0.
    fn gsi(&self, index: usize) -> Option<u32> {
        if self.legacy() && index < 2 {
            return Some([0, crate::RTC_IRQ][index]);
        }
        let route = (self.comparators[index].configuration & ROUTE) >> ROUTE_SHIFT;
        match route {
            2 => Some(0),
            _ => (ROUTES >> route & 1 != 0).then_some(route as u32),
        }
    }

    /// Notes the matches of the time up to `now`, and gives the signals that follow besides the levels.
    pub(super) fn advance(&mut self, now: u64) -> [Option<Signal>; TIMERS] {
        let counter = self.counter(now);
        let mut signals = [None; TIMERS];
        for (index, signal) in signals.iter_mut().enumerate() {
            let gsi = self.gsi(index);
            let comparator = &mut self.comparators[index];
            if comparator.due.is_none_or(|due| due > now) {
                continue;
            }
            comparator.matched(counter, now);
            let interrupt = comparator.has(INTERRUPT);
            if comparator.has(FSB) {
                let message = Signal::Message((comparator.fsb >> 32) as u32, comparator.fsb as u32);
                *signal = interrupt.then_some(message);
            } else if comparator.has(LEVEL) {
                self.status |= 1 << index;
            } else if interrupt {
                *signal = gsi.map(Signal::Edge);
            }
        }
        signals
    }

    /// The GSI that a comparator drives high.
    pub(super) fn level(&self, index: usize) -> Option<u32> {
        let comparator = &self.comparators[index];
        let high = self.running() && self.status >> index & 1 != 0 && comparator.has(INTERRUPT) && !comparator.has(FSB);
        self.gsi(index).filter(|_| high)
    }

    /// When the next interrupt comes, if nothing is written until then.
    pub(super) fn next_event(&self) -> Option<u64> {
        self.comparators
            .iter()
            .filter(|comparator| comparator.has(INTERRUPT))
            .filter_map(|comparator| comparator.due)
            .min()
    }

    /// The comparator and its register at `offset`.
    fn comparator_at(offset: u64) -> Option<(usize, u64)> {
        let offset = offset.checked_sub(register::TIMERS)?;
        let index = (offset / register::TIMER_SIZE) as usize;
        (index < TIMERS).then_some((index, offset % register::TIMER_SIZE))
    }

    /// Reads the 8 bytes at `offset`, a multiple of 8; [`Self::advance`] was called.
    pub(super) fn read(&self, offset: u64, now: u64) -> u64 {
        match offset {
            register::CAPABILITIES => CAPABILITIES,
            register::CONFIGURATION => self.configuration,
            register::STATUS => self.status,
            register::COUNTER => self.counter(now),
            _ => {
                let Some((index, register)) = Self::comparator_at(offset) else { return 0 };
                let comparator = &self.comparators[index];
                match register {
                    register::TIMER_CONFIGURATION => comparator.configuration | TIMER_CAPABILITIES | ROUTES << 32,
                    register::TIMER_COMPARATOR => comparator.value,
                    register::TIMER_FSB => comparator.fsb,
                    _ => 0,
                }
            }
        }
    }

    /// Writes those of the 8 bytes at `offset`, a multiple of 8, that `mask` names; [`Self::advance`] was called, and is to
    /// be called again.
    pub(super) fn write(&mut self, offset: u64, value: u64, mask: u64, now: u64) {
        match offset {
            register::CONFIGURATION => {
                let counter = self.counter(now);
                self.configuration = merge(self.configuration, value, mask) & (ENABLE | LEGACY);
                self.set_counter(counter, now);
                self.schedule(now);
            }
            register::STATUS => self.status &= !(value & mask),
            register::COUNTER => {
                let counter = merge(self.counter(now), value, mask);
                self.set_counter(counter, now);
                self.schedule(now);
            }
            _ => {
                if let Some((index, register)) = Self::comparator_at(offset) {
                    self.write_comparator(index, register, value, mask, now);
                }
            }
        }
    }

    fn write_comparator(&mut self, index: usize, register: u64, value: u64, mask: u64, now: u64) {
        let (running, counter) = (self.running(), self.counter(now));
        let comparator = &mut self.comparators[index];
        match register {
            register::TIMER_CONFIGURATION => {
                let mut new = merge(comparator.configuration, value, mask) & WRITABLE;
                if ROUTES >> ((new & ROUTE) >> ROUTE_SHIFT) & 1 == 0 {
                    // Reading back tells that this route is not to be had.
                    new = merge(new, comparator.configuration, ROUTE);
                }
                let changed = comparator.configuration ^ new;
                comparator.configuration = new;
                comparator.narrow();
                if new & LEVEL == 0 {
                    self.status &= !(1 << index);
                }
                if running && changed & (PERIODIC | MODE_32) != 0 {
                    comparator.schedule(counter, now);
                }
            }
            // Sections 2.3.9.2.1 and 2.3.9.2.2. A periodic comparator keeps its next match, and what is written is the period,
            // unless VALUE_SET was written before: then it is both.
            register::TIMER_COMPARATOR => {
                let mask = mask & comparator.mask();
                if comparator.has(PERIODIC) {
                    comparator.period = merge(comparator.period, value, mask);
                }
                if !comparator.has(PERIODIC) || comparator.has(VALUE_SET) {
                    comparator.value = merge(comparator.value, value, mask);
                    if running {
                        comparator.schedule(counter, now);
                        let over = counter.wrapping_sub(comparator.value) & comparator.mask();
                        if over < JUST_OVER {
                            comparator.due = Some(now);
                        }
                    }
                }
                comparator.configuration &= !VALUE_SET;
            }
            register::TIMER_FSB => comparator.fsb = merge(comparator.fsb, value, mask),
            _ => {}
        }
    }

    pub(super) fn save(&self, writer: &mut StateWriter, now: u64) {
        writer.u8(self.configuration as u8);
        writer.u8(self.status as u8);
        writer.u64(self.counter(now));
        for comparator in &self.comparators {
            for word in [comparator.configuration, comparator.value, comparator.period, comparator.fsb] {
                writer.u64(word);
            }
        }
    }

    /// What [`Self::save`] gave.
    pub(super) fn load(reader: &mut StateReader<'_>, now: u64) -> Result<Self, String> {
        let mut registers = Registers::new();
        registers.configuration = u64::from(reader.u8()?) & (ENABLE | LEGACY);
        registers.status = u64::from(reader.u8()?) & ((1 << TIMERS) - 1);
        let counter = reader.u64()?;
        registers.set_counter(counter, now);
        for index in 0..TIMERS {
            let mut comparator = Comparator {
                configuration: reader.u64()? & WRITABLE,
                value: reader.u64()?,
                period: reader.u64()?,
                fsb: reader.u64()?,
                due: None,
            };
            comparator.narrow();
            if !comparator.has(LEVEL) {
                registers.status &= !(1 << index);
            }
            registers.comparators[index] = comparator;
        }
        registers.schedule(now);
        Ok(registers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 100_000;
    const ALL: u64 = u64::MAX;
    const LOW: u64 = u32::MAX as u64;
    const HIGH: u64 = !LOW;
    const T0: u64 = 0x100;
    const T2: u64 = 0x140;

    fn write(registers: &mut Registers, now: u64, writes: &[(u64, u64)]) {
        for &(offset, value) in writes {
            registers.write(offset, value, ALL, now);
        }
    }

    fn edge(registers: &mut Registers, index: usize, now: u64) -> bool {
        matches!(registers.advance(now)[index], Some(Signal::Edge(_)))
    }

    #[test]
    fn the_capabilities_are_those_of_the_acpi_table() {
        let registers = Registers::new();
        assert_eq!(registers.read(0, 0), 0x0098_9680_8086_A201);
        assert_eq!(registers.read(T0, 0), 0x00FF_0104_0000_8030);
        assert_eq!(registers.read(T0 + 8, 0), u64::MAX);
        assert_eq!([registers.read(8, 0), registers.read(0x160, 0), registers.read(0x3F8, 0)], [0; 3]);
    }

    #[test]
    fn the_counter_runs_while_enabled_and_can_be_set() {
        let mut registers = Registers::new();
        assert_eq!(registers.read(0xF0, 7 * MS), 0);
        write(&mut registers, 10 * MS, &[(0xF0, 500), (0x10, 1)]);
        assert_eq!(registers.read(0xF0, 11 * MS), 500 + MS);
        write(&mut registers, 12 * MS, &[(0x10, 0)]);
        assert_eq!(registers.read(0xF0, 20 * MS), 500 + 2 * MS);
        registers.write(0xF0, 0xAA << 32, HIGH, 20 * MS);
        assert_eq!(registers.read(0xF0, 20 * MS), (0xAA << 32) + 500 + 2 * MS);
    }

    #[test]
    fn a_one_shot_matches_once() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(T2, INTERRUPT | 16 << 9), (T2 + 8, MS), (0x10, 1)]);
        assert_eq!(registers.next_event(), Some(MS));
        assert!(!edge(&mut registers, 2, MS - 1));
        assert_eq!(registers.advance(MS), [None, None, Some(Signal::Edge(16))]);
        assert_eq!(registers.next_event(), None);
        // In 32-bit mode it comes again when the counter has gone round.
        write(&mut registers, 2 * MS, &[(T2, INTERRUPT | MODE_32 | 16 << 9), (T2 + 8, 3 * MS)]);
        assert!(edge(&mut registers, 2, 3 * MS));
        assert_eq!(registers.next_event(), Some(3 * MS + (1 << 32)));
    }

    #[test]
    fn a_time_just_over_matches_at_once_and_one_long_over_does_not() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(T2, INTERRUPT | MODE_32 | 8 << 9), (0x10, 1)]);
        write(&mut registers, 10 * MS, &[(T2 + 8, 9 * MS)]);
        assert!(edge(&mut registers, 2, 10 * MS));
        assert_eq!(registers.next_event(), Some(9 * MS + (1 << 32)));
        write(&mut registers, 5000 * MS, &[(T2 + 8, 9 * MS)]);
        assert!(!edge(&mut registers, 2, 5000 * MS));
        // Linux's longest.
        write(&mut registers, 5000 * MS, &[(T2 + 8, 5000 * MS + 0x7FFF_FFFF)]);
        assert_eq!(registers.next_event(), Some(5000 * MS + 0x7FFF_FFFF));
    }

    #[test]
    fn linux_sets_a_period_and_its_first_match_apart() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(0x10, ENABLE | LEGACY)]);
        let now = 50 * MS;
        registers.advance(now);
        write(&mut registers, now, &[(0x10, LEGACY)]);
        let flags = INTERRUPT | PERIODIC | VALUE_SET | MODE_32;
        for (offset, value) in [(T0, flags), (T0 + 8, 51 * MS), (T0 + 8, MS), (0x10, ENABLE | LEGACY)] {
            registers.write(offset, value, LOW, now);
        }
        assert_eq!(registers.next_event(), Some(51 * MS));
        for tick in 51..54 {
            assert!(!edge(&mut registers, 0, tick * MS - 1));
            assert_eq!(registers.advance(tick * MS)[0], Some(Signal::Edge(0)));
        }
        // Three matches went by unseen: one interrupt, and the beat is kept.
        assert!(edge(&mut registers, 0, 56 * MS + 7));
        assert_eq!((registers.next_event(), registers.read(T0 + 8, 56 * MS + 7)), (Some(57 * MS), 57 * MS));
    }

    #[test]
    fn a_64_bit_period_is_set_by_halves() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(T0, INTERRUPT | PERIODIC | VALUE_SET | 2 << 9)]);
        registers.write(T0 + 8, 5, LOW, 0);
        write(&mut registers, 0, &[(T0, INTERRUPT | PERIODIC | VALUE_SET | 2 << 9)]);
        registers.write(T0 + 8, 1 << 32, HIGH, 0);
        write(&mut registers, 0, &[(0x10, 1)]);
        assert_eq!(registers.next_event(), Some((1 << 32) + 5));
        assert!(edge(&mut registers, 0, (1 << 32) + 5));
        assert_eq!(registers.next_event(), Some(2 * ((1 << 32) + 5)));
    }

    #[test]
    fn an_absurd_period_is_slowed_down() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(T0, INTERRUPT | PERIODIC | VALUE_SET | 2 << 9), (T0 + 8, 1), (0x10, 1)]);
        let edges = (1..=MS).filter(|&now| edge(&mut registers, 0, now)).count() as u64;
        assert!((2..=MS / SHORTEST_GAP + 1).contains(&edges), "{edges} in a millisecond");
        // None at all is a one-shot.
        write(&mut registers, MS, &[(T0, INTERRUPT | PERIODIC | VALUE_SET | 2 << 9), (T0 + 8, 0)]);
        registers.advance(MS + 1);
        assert_eq!(registers.next_event(), None);
    }

    #[test]
    fn a_level_stays_until_its_status_is_cleared() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(T2, INTERRUPT | LEVEL | 23 << 9), (T2 + 8, MS), (0x10, 1)]);
        assert_eq!(registers.advance(MS), [None; 3]);
        assert_eq!((registers.read(0x20, MS), registers.level(2)), (4, Some(23)));
        write(&mut registers, MS, &[(0x10, 0)]);
        assert_eq!((registers.read(0x20, MS), registers.level(2)), (4, None), "no interrupts while halted");
        write(&mut registers, MS, &[(0x10, 1), (0x20, 3)]);
        assert_eq!(registers.level(2), Some(23));
        write(&mut registers, MS, &[(0x20, 4)]);
        assert_eq!((registers.read(0x20, MS), registers.level(2)), (0, None));
        // Without the interrupt the status follows all the same.
        write(&mut registers, MS, &[(T2, LEVEL), (T2 + 8, 2 * MS)]);
        assert_eq!(registers.next_event(), None);
        registers.advance(3 * MS);
        assert_eq!((registers.read(0x20, 3 * MS), registers.level(2)), (4, None));
    }

    #[test]
    fn routes_and_messages() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(T0, INTERRUPT | 20 << 9)]);
        write(&mut registers, 0, &[(T0, INTERRUPT | 3 << 9)]);
        assert_eq!(registers.read(T0, 0) as u32 >> 9 & 0x1F, 20, "3 is not to be had");
        write(&mut registers, 0, &[(0x10, LEGACY)]);
        assert_eq!([registers.gsi(0), registers.gsi(1), registers.gsi(2)], [Some(0), Some(8), None]);
        write(&mut registers, 0, &[(T2, INTERRUPT | FSB), (T2 + 8, MS), (T2 + 0x10, 0xFEE0_1000_0000_4041), (0x10, 1)]);
        assert_eq!(registers.advance(MS)[2], Some(Signal::Message(0xFEE0_1000, 0x4041)));
    }

    #[test]
    fn a_saved_state_goes_on() {
        let mut registers = Registers::new();
        write(&mut registers, 0, &[(T0, INTERRUPT | PERIODIC | VALUE_SET | 2 << 9), (T0 + 8, MS), (0x10, 1)]);
        registers.advance(3 * MS + 5);
        let mut writer = StateWriter::new(1);
        registers.save(&mut writer, 3 * MS + 10);
        let state = writer.finish();
        let mut reader = StateReader::new("hpet", &state, 1).unwrap();
        let loaded = Registers::load(&mut reader, 900 * MS).unwrap();
        reader.finish().unwrap();
        assert_eq!((loaded.next_event(), loaded.read(0xF0, 900 * MS)), (Some(901 * MS - 10), 3 * MS + 10));
    }

    proptest! {
        #[test]
        fn no_access_panics_and_the_next_interrupt_lies_ahead(
            state in prop::collection::vec(any::<u8>(), 106),
            steps in prop::collection::vec((0u64..0x50, any::<u64>(), any::<u64>(), 0u32..64, 0u64..1 << 40), 0..100),
        ) {
            let state = [&1u32.to_le_bytes(), &state[..]].concat();
            let mut now = 5;
            let mut registers = Registers::load(&mut StateReader::new("hpet", &state, 1).unwrap(), now).unwrap();
            for (offset, value, mask, shift, later) in steps {
                now += later;
                registers.advance(now);
                registers.write(offset * 8, value >> shift, mask, now);
                registers.advance(now);
                for index in 0..TIMERS {
                    prop_assert!(registers.level(index).is_none_or(|gsi| gsi < crate::GSI_COUNT));
                }
                registers.read(offset * 8, now);
                prop_assert!(registers.next_event().is_none_or(|event| event > now), "{:?}", registers);
            }
        }
    }
}
