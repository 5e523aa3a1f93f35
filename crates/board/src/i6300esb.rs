use crate::pci::{Bar, Configuration, Identity, PciFunction};
use crate::{AccessSizes, Action, StateReader, StateWriter, Timer, Timers};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Configuration registers: how it counts, 2 bytes, and whether, 1 byte.
const CONFIG: u8 = 0x60;
const LOCK: u8 = 0x68;

/// Offsets of the registers behind base address register 0.
mod register {
    pub const PRELOAD_1: u64 = 0x00;
    pub const PRELOAD_2: u64 = 0x04;
    pub const INTERRUPT_STATUS: u64 = 0x08;
    pub const RELOAD: u64 = 0x0C;
}
const REGISTERS_SIZE: u32 = 16;

/// CONFIG: the output does nothing; the clock is the PCI clock by 2^5 instead of 2^15; what the first stage raises (0: an
/// interrupt).
const CONFIG_OUTPUT_DISABLED: u8 = 1 << 5;
const CONFIG_FAST: u8 = 1 << 2;
const CONFIG_INTERRUPT_TYPE: u8 = 3;

/// LOCK: the other bits stay as they are until the next reset; it counts; it counts one stage, again and again.
const LOCK_LOCKED: u8 = 1 << 0;
const LOCK_ENABLED: u8 = 1 << 1;
const LOCK_FREE_RUNNING: u8 = 1 << 2;
const LOCK_BITS: u8 = LOCK_LOCKED | LOCK_ENABLED | LOCK_FREE_RUNNING;

/// RELOAD: begin anew; the second stage has ended at some time.
const RELOAD: u32 = 1 << 8;
const RELOAD_TIMEOUT: u32 = 1 << 9;

/// What to write to RELOAD, in order, before a register can be written.
const UNLOCK: [u32; 2] = [0x80, 0x86];
const PRELOAD_BITS: u32 = 0xF_FFFF;
const PCI_HZ: u64 = 33_000_000;
/// Between two free-running stages, as none may end faster.
const FREE_RUNNING_GAP: Duration = Duration::from_micros(50);
const STATE_VERSION: u32 = 1;

/// What a watchdog does when its guest has not come by in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogAction {
    /// Reset the machine.
    Reset,
    /// Power the machine off.
    PowerOff,
    /// Stop the machine where it is.
    Pause,
    /// Nothing but to tell.
    Nothing,
}

impl WatchdogAction {
    /// What it asks of the machine as a device does; stopping it is not among that.
    pub fn action(self) -> Action {
        match self {
            WatchdogAction::Reset => Action::Reset,
            WatchdogAction::PowerOff => Action::Shutdown,
            WatchdogAction::Pause | WatchdogAction::Nothing => Action::None,
        }
    }
}

/// The watchdog timer of the Intel 6300ESB (8086:25ab). Data sheet (300641), chapter 16.
///
/// A first stage, which ends with a status bit, then a second, which ends with the action, unless the guest reloads it. The
/// interrupt of the first stage goes to an interrupt controller that this board does not have.
pub struct I6300esb {
    action: WatchdogAction,
    expired: Box<dyn Fn(WatchdogAction) + Send + Sync>,
    timer: Timer,
    /// Lock order: before the queue of [`Timers`]. `expired` is called without it.
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    config: u8,
    lock: u8,
    preload: [u32; 2],
    interrupt: bool,
    /// Outlives a reset.
    timed_out: bool,
    /// Steps of UNLOCK that were done.
    unlocked: usize,
    second_stage: bool,
    deadline: Option<Instant>,
}

impl State {
    fn new(timed_out: bool) -> Self {
        State {
            config: 0,
            lock: 0,
            preload: [PRELOAD_BITS; 2],
            interrupt: false,
            timed_out,
            unlocked: 0,
            second_stage: false,
            deadline: None,
        }
    }

    fn enabled(&self) -> bool {
        self.lock & LOCK_ENABLED != 0
    }

    fn free_running(&self) -> bool {
        self.lock & LOCK_FREE_RUNNING != 0
    }

    /// How long the stage takes.
    fn stage(&self) -> Duration {
        let preload = u64::from(self.preload[usize::from(self.second_stage)]);
        let clocks = preload << if self.config & CONFIG_FAST != 0 { 5 } else { 15 };
        Duration::from_nanos((u128::from(clocks) * 1_000_000_000 / u128::from(PCI_HZ)) as u64)
    }

    /// Begins the first stage, or in free-running mode the only one.
    fn reload(&mut self, now: Instant) {
        self.second_stage = self.free_running();
        self.deadline = self.enabled().then(|| now + self.stage());
    }

    fn write_lock(&mut self, value: u8, now: Instant) {
        if self.lock & LOCK_LOCKED != 0 {
            return;
        }
        let was_enabled = self.enabled();
        self.lock = value & LOCK_BITS;
        if !self.enabled() {
            self.deadline = None;
        } else if !was_enabled {
            self.reload(now);
        }
    }

    /// Ends the stages that are over; true when the action is due.
    fn advance(&mut self, now: Instant) -> bool {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return false;
        }
        if !self.second_stage {
            self.interrupt |= self.config & CONFIG_INTERRUPT_TYPE == 0;
            self.second_stage = true;
            self.deadline = Some(now + self.stage());
            return false;
        }
        self.timed_out = true;
        // The output stays until the next reset; in free-running mode it goes on.
        self.deadline = None;
        if self.free_running() {
            self.reload(now + FREE_RUNNING_GAP);
        }
        self.config & CONFIG_OUTPUT_DISABLED == 0
    }

    /// Register bits `mask` of the 4 bytes at `offset`.
    fn write(&mut self, offset: u64, value: u32, mask: u32, now: Instant) {
        if offset == register::INTERRUPT_STATUS {
            self.interrupt &= value & mask & 1 == 0;
            return;
        }
        if offset == register::RELOAD && mask & 0xFF != 0 && UNLOCK.contains(&(value & mask)) {
            let step = UNLOCK.iter().position(|&step| step == value & mask).unwrap_or(0);
            self.unlocked = if step == 0 || self.unlocked == step { step + 1 } else { 0 };
            return;
        }
        if std::mem::take(&mut self.unlocked) != UNLOCK.len() {
            return;
        }
        match offset {
            register::PRELOAD_1 | register::PRELOAD_2 => {
                let preload = &mut self.preload[usize::from(offset == register::PRELOAD_2)];
                *preload = (*preload & !mask | value & mask) & PRELOAD_BITS;
            }
            register::RELOAD => {
                self.timed_out &= value & mask & RELOAD_TIMEOUT == 0;
                if value & mask & RELOAD != 0 {
                    self.reload(now);
                }
            }
            _ => {}
        }
    }

    fn read(&self, offset: u64) -> u32 {
        match offset {
            register::PRELOAD_1 => self.preload[0],
            register::PRELOAD_2 => self.preload[1],
            register::INTERRUPT_STATUS => self.interrupt.into(),
            register::RELOAD if self.timed_out => RELOAD_TIMEOUT,
            _ => 0,
        }
    }
}

impl I6300esb {
    /// A watchdog that does not count yet. `expired` is called with `action` when the second stage ends, on the thread of
    /// `timers`: it must not block. `timed_out` tells the guest that a watchdog's expiry began this run of the machine.
    pub fn new(
        timers: &Timers,
        action: WatchdogAction,
        timed_out: bool,
        expired: impl Fn(WatchdogAction) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<I6300esb>| {
            let me = me.clone();
            let over = move || {
                if let Some(watchdog) = me.upgrade() {
                    watchdog.over();
                }
            };
            I6300esb {
                action,
                expired: Box::new(expired),
                timer: timers.create(over),
                state: Mutex::new(State::new(timed_out)),
            }
        })
    }

    /// Whether the second stage has ended since the guest cleared the note of it: for the next run of the machine.
    pub fn timed_out(&self) -> bool {
        self.state.lock().timed_out
    }

    fn over(&self) {
        if self.with_state(|state, now| state.advance(now)) {
            (self.expired)(self.action);
        }
    }

    fn with_state<R>(&self, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state, Instant::now());
        match state.deadline {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.cancel(),
        }
        result
    }
}

impl PciFunction for I6300esb {
    fn name(&self) -> &str {
        "i6300esb"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x25AB,
            revision: 2,
            class: [0x08, 0x80, 0x00],
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        configuration.add_bar(0, Bar::Memory32(REGISTERS_SIZE));
        configuration
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }

    fn bar_read(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        let register = self.state.lock().read(offset & !3).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(&register[(offset & 3) as usize..]) {
            *byte = *value;
        }
    }

    fn bar_write(&self, _bar: usize, offset: u64, data: &[u8]) -> Action {
        let (mut value, mut mask) = ([0; 4], [0; 4]);
        for ((byte, mask), new) in value.iter_mut().zip(&mut mask).skip((offset & 3) as usize).zip(data) {
            (*byte, *mask) = (*new, 0xFF);
        }
        let (value, mask) = (u32::from_le_bytes(value), u32::from_le_bytes(mask));
        self.with_state(|state, now| state.write(offset & !3, value, mask, now));
        Action::None
    }

    fn config_read(&self, _configuration: &Configuration, offset: u8, data: &mut [u8]) {
        let state = self.state.lock();
        for (at, byte) in (offset..).zip(data) {
            match at {
                CONFIG => *byte = state.config,
                LOCK => *byte = state.lock,
                _ => {}
            }
        }
    }

    fn config_write(&self, _configuration: &Configuration, offset: u8, data: &[u8]) {
        for (at, &value) in (offset..).zip(data) {
            match at {
                CONFIG => {
                    let bits = CONFIG_OUTPUT_DISABLED | CONFIG_FAST | CONFIG_INTERRUPT_TYPE;
                    self.state.lock().config = value & bits;
                }
                LOCK => self.with_state(|state, now| state.write_lock(value, now)),
                _ => {}
            }
        }
    }

    fn reset(&self) {
        self.with_state(|state, _| *state = State::new(state.timed_out));
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        for byte in
            [state.config, state.lock, state.interrupt.into(), state.timed_out.into(), state.second_stage.into()]
        {
            writer.u8(byte);
        }
        writer.u8(state.unlocked as u8);
        state.preload.iter().for_each(|&preload| writer.u32(preload));
        let left = state.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        writer.u64(left.map_or(u64::MAX, |left| left.as_nanos() as u64));
        writer.finish()
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(self.name(), bytes, STATE_VERSION)?;
        let mut loaded = State::new(false);
        loaded.config = reader.u8()? & (CONFIG_OUTPUT_DISABLED | CONFIG_FAST | CONFIG_INTERRUPT_TYPE);
        loaded.lock = reader.u8()? & LOCK_BITS;
        loaded.interrupt = reader.bool()?;
        loaded.timed_out = reader.bool()?;
        loaded.second_stage = reader.bool()?;
        loaded.unlocked = usize::from(reader.u8()?).min(UNLOCK.len());
        for preload in &mut loaded.preload {
            *preload = reader.u32()? & PRELOAD_BITS;
        }
        let left = reader.u64()?;
        reader.finish()?;
        if loaded.enabled() && left != u64::MAX {
            let longest = Duration::from_secs(u64::from(PRELOAD_BITS) * (1 << 15) / PCI_HZ + 1);
            loaded.deadline = Some(Instant::now() + Duration::from_nanos(left).min(longest));
        }
        self.with_state(|state, _| *state = loaded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc::{Receiver, channel};

    struct Bench {
        _timers: Arc<Timers>,
        watchdog: Arc<I6300esb>,
        expired: Receiver<WatchdogAction>,
    }

    impl Bench {
        fn new() -> Self {
            let timers = Timers::new().unwrap();
            let (sender, expired) = channel();
            let tell = move |action| _ = sender.send(action);
            let watchdog = I6300esb::new(&timers, WatchdogAction::Reset, false, tell);
            Bench { _timers: timers, watchdog, expired }
        }

        fn write(&self, offset: u64, data: &[u8]) {
            assert_eq!(self.watchdog.bar_write(0, offset, data), Action::None);
        }

        fn unlock(&self) {
            self.write(register::RELOAD, &[0x80]);
            self.write(register::RELOAD, &[0x86]);
        }

        fn read(&self, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.watchdog.bar_read(0, offset, &mut data);
            u32::from_le_bytes(data)
        }

        fn config(&self, offset: u8, value: u8) {
            self.watchdog.config_write(&self.watchdog.configuration(), offset, &[value]);
        }

        fn config_read(&self, offset: u8) -> u8 {
            let mut data = [0];
            self.watchdog.config_read(&self.watchdog.configuration(), offset, &mut data);
            data[0]
        }
    }

    /// A clock of our own over the state alone.
    fn ms(state: &State, start: Instant) -> Option<u128> {
        state.deadline.map(|deadline| (deadline - start).as_millis())
    }

    #[test]
    fn linux_sets_it_up_and_keeps_it_from_expiring() {
        let bench = Bench::new();
        // esb_initdevice: no interrupt, slow clock; off; the note of a timeout cleared.
        bench.config(CONFIG, 0x03);
        bench.config(LOCK, 0);
        bench.unlock();
        assert_eq!(bench.read(register::RELOAD) & RELOAD_TIMEOUT, 0);
        bench.unlock();
        bench.write(register::RELOAD, &(RELOAD_TIMEOUT | RELOAD).to_le_bytes()[..2]);
        // esb_timer_set_heartbeat: 30 s.
        for offset in [register::PRELOAD_1, register::PRELOAD_2] {
            bench.unlock();
            bench.write(offset, &(30u32 << 9).to_le_bytes());
        }
        assert_eq!(bench.watchdog.state.lock().deadline, None);
        let start = Instant::now();
        bench.config(LOCK, LOCK_ENABLED);
        assert_eq!(bench.config_read(LOCK), LOCK_ENABLED);
        let state = bench.watchdog.state.lock().clone();
        let first = ms(&state, start).unwrap();
        assert!((15_000..20_000).contains(&first), "{first} ms");
        bench.unlock();
        bench.write(register::RELOAD, &[0, 1]);
        assert!(bench.watchdog.state.lock().deadline > state.deadline);
        bench.config(LOCK, 0);
        assert_eq!((bench.config_read(LOCK), bench.watchdog.state.lock().deadline), (0, None));
    }

    #[test]
    fn two_stages_then_the_action() {
        let now = Instant::now();
        let mut state = State::new(false);
        (state.preload, state.config) = ([1000, 2000], 0);
        state.write_lock(LOCK_ENABLED, now);
        assert_eq!(ms(&state, now), Some(992));
        assert!(!state.advance(now + Duration::from_millis(991)) && !state.second_stage);
        let then = now + Duration::from_millis(993);
        assert!(!state.advance(then) && state.second_stage && state.interrupt && !state.timed_out);
        assert_eq!(ms(&state, then), Some(1985));
        assert!(state.advance(then + Duration::from_millis(1986)) && state.timed_out);
        assert_eq!(state.deadline, None);
        // A faster clock; an output that does nothing.
        state.config = CONFIG_FAST | CONFIG_OUTPUT_DISABLED;
        state.reload(now);
        assert_eq!(state.deadline, Some(now + Duration::from_nanos(969_696)));
        assert!(!state.advance(then) && !state.advance(then + Duration::from_secs(1)));
        // One stage, again and again.
        state = State { preload: [1000, 2000], ..State::new(false) };
        state.write_lock(LOCK_ENABLED | LOCK_FREE_RUNNING, now);
        assert_eq!(ms(&state, now), Some(1985));
        assert!(state.advance(now + Duration::from_secs(2)));
        assert_eq!(ms(&state, now), Some(3985));
    }

    #[test]
    fn it_expires_and_remembers_it_over_a_reset() {
        let bench = Bench::new();
        for offset in [register::PRELOAD_1, register::PRELOAD_2] {
            bench.unlock();
            bench.write(offset, &[3, 0, 0, 0]);
        }
        bench.config(LOCK, LOCK_ENABLED);
        assert_eq!(bench.expired.recv_timeout(Duration::from_secs(20)), Ok(WatchdogAction::Reset));
        bench.watchdog.reset();
        assert!(bench.watchdog.timed_out());
        assert_eq!([bench.read(register::RELOAD), bench.read(register::PRELOAD_1)], [RELOAD_TIMEOUT, PRELOAD_BITS]);
        assert_eq!(bench.read(register::INTERRUPT_STATUS), 0);
        bench.write(register::RELOAD, &RELOAD_TIMEOUT.to_le_bytes());
        assert!(bench.watchdog.timed_out(), "locked");
        bench.unlock();
        bench.write(register::RELOAD, &RELOAD_TIMEOUT.to_le_bytes());
        assert!(!bench.watchdog.timed_out());
    }

    #[test]
    fn registers_want_the_whole_sequence_each_time() {
        let bench = Bench::new();
        let preload = |value: u8| {
            bench.write(register::PRELOAD_1, &[value, 0, 0, 0]);
            bench.read(register::PRELOAD_1)
        };
        for sequence in [&[][..], &[0x80], &[0x86], &[0x86, 0x80], &[0x80, 0x85, 0x86]] {
            sequence.iter().for_each(|&byte| bench.write(register::RELOAD, &[byte]));
            assert_eq!(preload(1), PRELOAD_BITS, "{sequence:x?}");
        }
        bench.unlock();
        assert_eq!([preload(7), preload(8)], [7, 7]);
        bench.unlock();
        bench.write(register::PRELOAD_1 + 1, &[0xFF, 0xFF]);
        assert_eq!(bench.read(register::PRELOAD_1), 0xF_FF07);
        // The sequence by wider accesses.
        bench.write(register::RELOAD, &[0x80, 0, 0, 0]);
        bench.write(register::RELOAD, &[0x86, 0]);
        assert_eq!(preload(9), 9);
    }

    #[test]
    fn what_is_locked_stays_until_a_reset() {
        let bench = Bench::new();
        bench.config(LOCK, LOCK_ENABLED | LOCK_LOCKED);
        bench.config(LOCK, 0);
        assert_eq!(bench.config_read(LOCK), LOCK_ENABLED | LOCK_LOCKED);
        assert!(bench.watchdog.state.lock().deadline.is_some());
        bench.watchdog.reset();
        assert_eq!((bench.config_read(LOCK), bench.watchdog.state.lock().deadline), (0, None));
    }

    #[test]
    fn a_saved_watchdog_goes_on_counting() {
        let bench = Bench::new();
        bench.config(LOCK, LOCK_ENABLED);
        let saved = bench.watchdog.save();
        let other = Bench::new();
        other.watchdog.load(&saved).unwrap();
        let left = other.watchdog.state.lock().deadline.unwrap() - Instant::now();
        assert!((900..1042).contains(&left.as_secs()), "{left:?}");
        assert!(other.watchdog.load(&saved[1..]).is_err());
        assert!(other.watchdog.load(&[&saved[..4], &[0xFF; 22]].concat()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_access_panics(
            state in prop::collection::vec(0u8..4, 22),
            steps in prop::collection::vec((0u8..4, 0u64..16, any::<[u8; 4]>(), 0u32..3), 0..60),
        ) {
            let bench = Bench::new();
            let _ = bench.watchdog.load(&[&1u32.to_le_bytes(), &state[..]].concat());
            for (kind, offset, data, shift) in steps {
                let (offset, size) = (offset & !((1 << shift) - 1), 1 << shift);
                match kind {
                    0 => bench.unlock(),
                    1 => bench.write(offset, &data[..size]),
                    2 => bench.watchdog.config_write(&bench.watchdog.configuration(), 0x60 + offset as u8, &data[..size]),
                    _ => bench.watchdog.bar_read(0, offset, &mut vec![0; size]),
                }
            }
            prop_assert!(bench.watchdog.load(&bench.watchdog.save()).is_ok());
        }
    }
}
