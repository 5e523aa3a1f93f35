//! The 8254 interval timer and the part of system control port B that belongs to it.
//! Intel 8254 data sheet (231164); port 0x61: Intel 82371AB data sheet (290562), section 4.2.6.

mod channel;

use crate::device::{AccessSizes, Action, Device};
use crate::timer::{Timer, Timers};
use channel::{CHANNEL_STATE_WORDS, Channel};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Frequency of the counters' clock in Hz.
pub const PIT_HZ: u64 = 1_193_182;

/// The clock at power-on. Not zero, so that a count may have begun before the first tick.
const FIRST_TICK: u64 = 1 << 20;
/// The shortest time between two interrupts: 50 us in ticks. Edges in between are lost, as they are for a processor
/// that does not keep up.
const SHORTEST_GAP: u64 = 60;
/// Ticks of one level of the refresh bit: 15 us.
const REFRESH: u64 = 18;
const STATE_SIZE: usize = (3 * CHANNEL_STATE_WORDS + 1) * 8;

/// The three counters at ports 0x40..=0x43. Counter 0 drives ISA interrupt 0; counter 2 belongs to the speaker.
pub(crate) struct Pit {
    power_on: Instant,
    irq0: Box<dyn Fn(bool) + Send + Sync>,
    /// Counter 0 drives the interrupt. Changed under `state`.
    connected: AtomicBool,
    /// Lock order: before the interrupt controllers' and the queue of [`Timers`].
    state: Mutex<State>,
    timer: Timer,
    me: Weak<Pit>,
}

struct State {
    channels: [Channel; 3],
    /// The bits 1..=3 of port 0x61: speaker and the two parity enables.
    port_b: u8,
    /// Up to when edges of counter 0 have been seen.
    seen: u64,
}

impl State {
    fn new(now: u64) -> Self {
        let mut channels: [Channel; 3] = Default::default();
        // The gate of counter 2 is bit 0 of port 0x61; the others are wired high.
        channels[2].set_gate(false, now);
        State { channels, port_b: 0, seen: now }
    }
}

impl Pit {
    /// The timer as after power-on; `irq0` drives ISA interrupt 0.
    pub(crate) fn new(timers: &Timers, irq0: impl Fn(bool) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Pit>| {
            let weak = me.clone();
            let expired = move || {
                if let Some(pit) = weak.upgrade() {
                    pit.with_state(|_, _| ());
                }
            };
            Pit {
                power_on: Instant::now(),
                irq0: Box::new(irq0),
                connected: AtomicBool::new(true),
                state: Mutex::new(State::new(FIRST_TICK)),
                timer: timers.create(expired),
                me: me.clone(),
            }
        })
    }

    /// System control port B at 0x61.
    pub(crate) fn port_b(&self) -> Arc<dyn Device> {
        Arc::new(PortB { pit: self.me.clone() })
    }

    /// Connects counter 0 to its interrupt, or disconnects it.
    pub(crate) fn connect(&self, connected: bool) {
        self.with_state(|_, _| self.connected.store(connected, Ordering::Relaxed));
    }

    fn now(&self) -> u64 {
        FIRST_TICK + (self.power_on.elapsed().as_nanos() * u128::from(PIT_HZ) / 1_000_000_000) as u64
    }

    /// When the clock reaches `tick`.
    fn instant(&self, tick: u64) -> Option<Instant> {
        let ticks = u128::from(tick.saturating_sub(FIRST_TICK));
        let nanoseconds = (ticks * 1_000_000_000).div_ceil(u128::from(PIT_HZ));
        self.power_on.checked_add(Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
    }

    /// Brings the counters to now, changes them, and arms the timer for the next edge of counter 0.
    fn with_state<R>(&self, change: impl FnOnce(&mut State, u64) -> R) -> R {
        let mut state = self.state.lock();
        let now = self.now();
        let edge = state.channels[0].next_rising_edge(state.seen).is_some_and(|edge| edge <= now);
        if edge && self.connected.load(Ordering::Relaxed) {
            // The controllers latch the edge; the level of OUT means nothing to them.
            (self.irq0)(true);
            (self.irq0)(false);
        }
        for channel in &mut state.channels {
            channel.advance(now);
        }
        state.seen = now;
        let result = change(&mut state, now);
        let counter = &state.channels[0];
        let edge = counter.next_rising_edge(now).filter(|_| self.connected.load(Ordering::Relaxed));
        let next = edge.map(|edge| edge.max(now + SHORTEST_GAP));
        let next = [next, counter.next_reload()].into_iter().flatten().min();
        match next.and_then(|tick| self.instant(tick)) {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.cancel(),
        }
        result
    }
}

impl Device for Pit {
    fn name(&self) -> &str {
        "pit"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        // Reads leave the edges alone: no need to look at the timer.
        let mut state = self.state.lock();
        let now = self.now();
        let value = match state.channels.get_mut(offset as usize) {
            Some(channel) => channel.read(now),
            // The control word cannot be read.
            None => 0xFF,
        };
        data.fill(value);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        self.with_state(|state, now| match (offset, value >> 6) {
            (0..=2, _) => state.channels[offset as usize].write(value, now),
            (_, 3) => {
                for (index, channel) in state.channels.iter_mut().enumerate() {
                    if value & 2 << index != 0 {
                        channel.read_back(value, now);
                    }
                }
            }
            (_, index) => state.channels[usize::from(index)].control(value, now),
        });
        Action::None
    }

    fn reset(&self) {
        self.with_state(|state, now| *state = State::new(now));
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state.lock();
        let now = self.now();
        let words = state.channels.iter().flat_map(|channel| channel.save(now));
        words.chain([state.port_b.into()]).flat_map(u64::to_le_bytes).collect()
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != STATE_SIZE {
            return Err(format!("The interval timer's state has {} bytes instead of {STATE_SIZE}.", bytes.len()));
        }
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
            .collect();
        self.with_state(|state, now| {
            for (channel, words) in state.channels.iter_mut().zip(words.chunks_exact(CHANNEL_STATE_WORDS)) {
                channel.load(words, now);
            }
            state.port_b = bytes[STATE_SIZE - 8] & 0xE;
        });
        Ok(())
    }
}

/// System control port B: gate and output of counter 2, and the refresh bit. Saved with the timer.
struct PortB {
    pit: Weak<Pit>,
}

impl Device for PortB {
    fn name(&self) -> &str {
        "port-b"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        let Some(pit) = self.pit.upgrade() else { return data.fill(0xFF) };
        let mut state = pit.state.lock();
        let now = pit.now();
        state.channels[2].advance(now);
        let counter = &state.channels[2];
        let refresh = u8::from(now / REFRESH % 2 == 1);
        data.fill(u8::from(counter.gate()) | state.port_b | refresh << 4 | u8::from(counter.output(now)) << 5);
    }

    fn write(&self, _: u64, data: &[u8]) -> Action {
        if let (Some(pit), &[value]) = (self.pit.upgrade(), data) {
            let mut state = pit.state.lock();
            let now = pit.now();
            state.channels[2].set_gate(value & 1 != 0, now);
            state.port_b = value & 0xE;
        }
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn pit_counting_edges() -> (Arc<Timers>, Arc<Pit>, Arc<AtomicU32>) {
        let timers = Timers::new().unwrap();
        let edges = Arc::new(AtomicU32::new(0));
        let counter = edges.clone();
        let pit = Pit::new(&timers, move |high| {
            counter.fetch_add(high.into(), Ordering::SeqCst);
        });
        (timers, pit, edges)
    }

    fn program(pit: &Pit, control: u8, count: u16) {
        let port = u64::from(control >> 6);
        for (offset, value) in [(3, control), (port, count as u8), (port, (count >> 8) as u8)] {
            assert_eq!(pit.write(offset, &[value]), Action::None);
        }
    }

    #[test]
    fn the_rate_generator_interrupts_at_its_rate() {
        let (_timers, pit, edges) = pit_counting_edges();
        let start = Instant::now();
        program(&pit, 0x34, 2386);
        std::thread::sleep(Duration::from_millis(300));
        let periods = (start.elapsed().as_secs_f64() * PIT_HZ as f64 / 2386.0) as u32;
        let edges = edges.load(Ordering::SeqCst);
        assert!(edges <= periods && edges > periods / 2, "{edges} interrupts in {periods} periods of 2 ms");
    }

    #[test]
    fn terminal_count_interrupts_once() {
        let (_timers, pit, edges) = pit_counting_edges();
        program(&pit, 0x30, 1193);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(edges.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn an_absurd_rate_costs_no_more_than_its_share() {
        let (_timers, pit, edges) = pit_counting_edges();
        program(&pit, 0x34, 2);
        let start = Instant::now();
        std::thread::sleep(Duration::from_millis(50));
        program(&pit, 0x30, 0);
        let most = start.elapsed().as_micros() / 50 + 2;
        assert!(u128::from(edges.load(Ordering::SeqCst)) <= most);
    }

    #[test]
    fn a_disconnected_timer_is_silent_and_goes_on_counting() {
        let (_timers, pit, edges) = pit_counting_edges();
        pit.connect(false);
        program(&pit, 0x34, 1193);
        std::thread::sleep(Duration::from_millis(10));
        pit.connect(true);
        assert_eq!(edges.load(Ordering::SeqCst), 0);
        let start = Instant::now();
        while edges.load(Ordering::SeqCst) < 3 {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
    }

    #[test]
    fn port_b_gates_counter_2_and_shows_its_output() {
        let (_timers, pit, _) = pit_counting_edges();
        let port_b = pit.port_b();
        let read = || {
            let mut data = [0];
            port_b.read(0, &mut data);
            data[0]
        };
        assert_eq!(port_b.write(0, &[1]), Action::None);
        program(&pit, 0xB0, 12);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(read() & 0x2F, 0x21);
        assert_eq!(port_b.write(0, &[2]), Action::None);
        program(&pit, 0xB0, 12);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(read() & 0x2F, 2, "without the gate it does not count");
    }

    #[test]
    fn a_saved_timer_goes_on() {
        let (_timers, pit, edges) = pit_counting_edges();
        program(&pit, 0x34, 2386);
        let state = pit.save();
        pit.reset();
        let before = edges.load(Ordering::SeqCst);
        pit.load(&state).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(edges.load(Ordering::SeqCst) > before);
        assert!(pit.load(&state[1..]).is_err());
    }
}
