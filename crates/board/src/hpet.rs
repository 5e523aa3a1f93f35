//! The High Precision Event Timer. IA-PC HPET Specification 1.0a, to which the sections named belong.

mod registers;

use crate::device::{AccessSizes, Action, Device};
use crate::line::{GSI_COUNT, IrqLine, IrqLines};
use crate::state::{StateReader, StateWriter};
use crate::timer::{Timer, Timers};
use hv::{Interrupts, Msi};
use parking_lot::Mutex;
use registers::{Registers, Signal, TIMERS};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Where its registers lie.
pub const HPET_ADDRESS: u64 = 0xFED0_0000;
/// Bytes of its registers.
pub const HPET_SIZE: u64 = 1024;

/// Nanoseconds of a tick of the main counter, which the capabilities tell in femtoseconds.
const TICK: u64 = 10;
const STATE_VERSION: u32 = 1;

/// Three comparators and a 64-bit counter of 100 MHz. They interrupt by edge, level or message; comparators 0 and 1 can take
/// ISA interrupts 0 and 8 from the PIT and the real-time clock (legacy replacement).
pub struct Hpet {
    power_on: Instant,
    interrupts: Arc<dyn Interrupts>,
    /// By comparator and GSI.
    lines: [Vec<IrqLine>; TIMERS],
    replace_legacy: Box<dyn Fn(bool) + Send + Sync>,
    timer: Timer,
    /// Lock order: before the interrupt lines', those of the timers replaced, and the queue of [`Timers`].
    state: Mutex<State>,
}

struct State {
    registers: Registers,
    /// What `replace_legacy` was told.
    replaced: bool,
    /// The GSI that each comparator drives high.
    high: [Option<u32>; TIMERS],
}

impl Hpet {
    /// The timer as after power-on. `replace_legacy` disconnects PIT and clock from their interrupts when it is told true, and
    /// connects them again for false.
    ///
    /// # Errors
    /// One sentence when `lines` has no such line.
    pub fn new(
        timers: &Timers,
        interrupts: Arc<dyn Interrupts>,
        lines: &IrqLines,
        replace_legacy: impl Fn(bool) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, String> {
        let own_lines = || (0..GSI_COUNT).map(|gsi| lines.line(gsi)).collect::<Result<Vec<_>, _>>();
        let lines = [own_lines()?, own_lines()?, own_lines()?];
        Ok(Arc::new_cyclic(|me: &Weak<Hpet>| {
            let me = me.clone();
            let expired = move || {
                if let Some(hpet) = me.upgrade() {
                    hpet.with_state(|_, _| ());
                }
            };
            Hpet {
                power_on: Instant::now(),
                interrupts,
                lines,
                replace_legacy: Box::new(replace_legacy),
                timer: timers.create(expired),
                state: Mutex::new(State { registers: Registers::new(), replaced: false, high: [None; TIMERS] }),
            }
        }))
    }

    fn now(&self) -> u64 {
        (self.power_on.elapsed().as_nanos() / u128::from(TICK)) as u64
    }

    /// When the clock reaches `tick`.
    fn instant(&self, tick: u64) -> Option<Instant> {
        self.power_on.checked_add(Duration::from_nanos(tick.checked_mul(TICK)?))
    }

    /// Brings the comparators to now, changes them, and arms the timer for the next match.
    fn with_state<R>(&self, change: impl FnOnce(&mut Registers, u64) -> R) -> R {
        let mut state = self.state.lock();
        let now = self.now();
        self.send(state.registers.advance(now));
        let result = change(&mut state.registers, now);
        self.settle(&mut state, now);
        result
    }

    fn send(&self, signals: [Option<Signal>; TIMERS]) {
        for (lines, signal) in self.lines.iter().zip(signals) {
            match signal {
                Some(Signal::Edge(gsi)) => {
                    if let Some(line) = lines.get(gsi as usize) {
                        line.pulse();
                    }
                }
                Some(Signal::Message(address, data)) => {
                    self.interrupts.signal_msi(Msi { address: address.into(), data })
                }
                None => {}
            }
        }
    }

    /// Lets what hangs on the registers follow a change of them.
    fn settle(&self, state: &mut State, now: u64) {
        let legacy = state.registers.legacy();
        if legacy && !state.replaced {
            (self.replace_legacy)(true);
        }
        self.send(state.registers.advance(now));
        for (index, lines) in self.lines.iter().enumerate() {
            let level = state.registers.level(index);
            let before = std::mem::replace(&mut state.high[index], level);
            if before != level {
                for (gsi, high) in [(before, false), (level, true)] {
                    if let Some(line) = gsi.and_then(|gsi| lines.get(gsi as usize)) {
                        line.set(high);
                    }
                }
            }
        }
        if !legacy && state.replaced {
            (self.replace_legacy)(false);
        }
        state.replaced = legacy;
        match state.registers.next_event().and_then(|tick| self.instant(tick)) {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.cancel(),
        }
    }
}

impl Device for Hpet {
    fn name(&self) -> &str {
        "hpet"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 4, max: 8 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state.lock();
        let now = self.now();
        let signals = state.registers.advance(now);
        let value = state.registers.read(offset & !7, now).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(&value[(offset & 7) as usize..]) {
            *byte = *value;
        }
        // Reads of the counter, of which some guests do many, leave the rest alone.
        if signals.iter().any(Option::is_some) {
            self.send(signals);
            self.settle(&mut state, now);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let (mut value, mut mask) = ([0; 8], [0; 8]);
        for ((byte, mask), new) in value.iter_mut().zip(&mut mask).skip((offset & 7) as usize).zip(data) {
            (*byte, *mask) = (*new, 0xFF);
        }
        let (value, mask) = (u64::from_le_bytes(value), u64::from_le_bytes(mask));
        self.with_state(|registers, now| registers.write(offset & !7, value, mask, now));
        Action::None
    }

    fn reset(&self) {
        self.with_state(|registers, _| *registers = Registers::new());
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.with_state(|registers, now| registers.save(&mut writer, now));
        writer.finish()
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(self.name(), bytes, STATE_VERSION)?;
        let now = self.now();
        let loaded = Registers::load(&mut reader, now)?;
        reader.finish()?;
        self.with_state(|registers, _| *registers = loaded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool)>>, Mutex<Vec<Msi>>);

    impl Interrupts for Log {
        fn set_line(&self, gsi: u32, high: bool) {
            self.0.lock().push((gsi, high));
        }

        fn signal_msi(&self, msi: Msi) {
            self.1.lock().push(msi);
        }
    }

    struct Bench {
        _timers: Arc<Timers>,
        hpet: Arc<Hpet>,
        log: Arc<Log>,
        replaced: Arc<AtomicU32>,
    }

    impl Bench {
        fn new() -> Self {
            let timers = Timers::new().unwrap();
            let log = Arc::new(Log::default());
            let replaced = Arc::new(AtomicU32::new(0));
            let told = replaced.clone();
            let replace = move |on| told.store(u32::from(on) + 10 * told.load(Ordering::SeqCst), Ordering::SeqCst);
            let hpet = Hpet::new(&timers, log.clone(), &IrqLines::new(log.clone()), replace).unwrap();
            Bench { _timers: timers, hpet, log, replaced }
        }

        fn read(&self, offset: u64) -> u64 {
            let mut data = [0; 8];
            self.hpet.read(offset, &mut data);
            u64::from_le_bytes(data)
        }

        fn write(&self, offset: u64, value: u64) {
            assert_eq!(self.hpet.write(offset, &value.to_le_bytes()), Action::None);
        }

        fn wait_for(&self, what: impl Fn(&Log) -> bool) {
            let start = Instant::now();
            while !what(&self.log) {
                assert!(start.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn the_counter_counts_at_its_rate_and_reads_by_halves() {
        let bench = Bench::new();
        bench.write(0x10, 1);
        let (start, before) = (Instant::now(), bench.read(0xF0));
        std::thread::sleep(Duration::from_millis(10));
        let ticks = bench.read(0xF0) - before;
        let at_most = start.elapsed().as_nanos() / 10 + 1;
        assert!(ticks >= 1_000_000 && u128::from(ticks) <= at_most, "{ticks}");
        bench.write(0x10, 0);
        assert_eq!(bench.hpet.write(0xF4, &[1, 2, 0, 0]), Action::None);
        assert_eq!(bench.read(0xF0) >> 32, 0x201);
        let mut high = [0; 4];
        bench.hpet.read(0xF4, &mut high);
        assert_eq!(high, [1, 2, 0, 0]);
    }

    #[test]
    fn a_periodic_comparator_takes_the_place_of_the_pit() {
        let bench = Bench::new();
        bench.write(0x100, 0x4C);
        bench.write(0x108, 100_000);
        bench.write(0x10, 3);
        assert_eq!(bench.replaced.load(Ordering::SeqCst), 1);
        bench.wait_for(|log| log.0.lock().len() >= 6);
        bench.hpet.reset();
        assert_eq!(bench.replaced.load(Ordering::SeqCst), 10);
        let log = bench.log.0.lock();
        assert!(log.chunks(2).all(|pair| pair == [(0, true), (0, false)]), "{log:?}");
    }

    #[test]
    fn a_level_goes_with_its_status_and_moves_with_its_route() {
        let bench = Bench::new();
        bench.write(0x140, 0x06 | 16 << 9);
        bench.write(0x148, 1000);
        bench.write(0x10, 1);
        bench.wait_for(|log| !log.0.lock().is_empty());
        bench.write(0x140, 0x06 | 17 << 9);
        bench.write(0x20, 4);
        assert_eq!(*bench.log.0.lock(), [(16, true), (16, false), (17, true), (17, false)]);
    }

    #[test]
    fn a_message_is_sent() {
        let bench = Bench::new();
        bench.write(0x150, 0xFEE0_2000_0000_0055);
        bench.write(0x140, 0x4004);
        bench.write(0x148, 1000);
        bench.write(0x10, 1);
        bench.wait_for(|log| !log.1.lock().is_empty());
        assert_eq!(*bench.log.1.lock(), [Msi { address: 0xFEE0_2000, data: 0x55 }]);
    }

    #[test]
    fn a_state_survives_and_a_damaged_one_is_refused() {
        let bench = Bench::new();
        bench.write(0x100, 0x44);
        bench.write(0x10, 2);
        let state = bench.hpet.save();
        bench.hpet.reset();
        bench.hpet.load(&state).unwrap();
        assert_eq!((bench.read(0x10), bench.replaced.load(Ordering::SeqCst)), (2, 101));
        assert!(bench.hpet.load(&state[1..]).is_err());
        assert!(bench.hpet.load(&[&state[..], &[0]].concat()).is_err());
    }

    #[test]
    fn any_access_is_harmless() {
        let bench = Bench::new();
        for pass in 0..2 {
            for offset in (0..HPET_SIZE).step_by(4) {
                for data in [&[0xFF; 8][..], &[pass; 4]] {
                    let size = if offset % 8 == 0 { data.len() } else { 4 };
                    assert_eq!(bench.hpet.write(offset, &data[..size]), Action::None);
                    bench.hpet.read(offset, &mut vec![0; size]);
                }
            }
        }
    }
}
