use super::{Lapic, Lvt};
use crate::timer::Timer;
use hv::Tsc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// The shortest period in nanoseconds. A guest that asks for less gets this: every expiry costs the host work even
/// when the guest is not running.
const SHORTEST_PERIOD: u64 = 50_000;

/// The APIC timer's state. Intel SDM volume 3A, section 11.5.4.
pub(super) struct ApicTimer {
    timer: Timer,
    tsc: Tsc,
    /// IA32_TSC_DEADLINE; zero when disarmed.
    tsc_deadline: u64,
    initial_count: u32,
    divide: u32,
    /// When the count reaches zero.
    zero: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl Mode {
    fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            2 => Mode::TscDeadline,
            _ => Mode::Reserved,
        }
    }
}

impl ApicTimer {
    pub(super) fn new(timer: Timer, tsc: Tsc) -> Self {
        ApicTimer { timer, tsc, tsc_deadline: 0, initial_count: 0, divide: 0, zero: None }
    }

    pub(super) fn reset(&mut self) {
        self.stop();
        self.initial_count = 0;
        self.divide = 0;
    }

    fn stop(&mut self) {
        self.timer.cancel();
        self.tsc_deadline = 0;
        self.zero = None;
    }

    /// Nanoseconds a count, as the clock runs at 1 GHz. Figure 11-10: bits 3, 1 and 0 choose 2, 4, … 128, 1.
    fn divisor(&self) -> u64 {
        let bits = (self.divide & 3) | (self.divide >> 1 & 4);
        1 << ((bits + 1) & 7)
    }

    fn nanoseconds(&self, count: u32) -> u64 {
        u64::from(count) * self.divisor()
    }

    fn period(&self) -> u64 {
        self.nanoseconds(self.initial_count).max(SHORTEST_PERIOD)
    }

    fn start(&mut self, count: u32, now: Instant) {
        if count == 0 {
            self.zero = None;
            self.timer.cancel();
            return;
        }
        let zero = now + Duration::from_nanos(self.nanoseconds(count));
        self.zero = Some(zero);
        self.timer.arm(zero);
    }

    fn current_count(&self, mode: Mode, now: Instant) -> u32 {
        let Some(zero) = self.zero else { return 0 };
        let nanoseconds = match zero.checked_duration_since(now) {
            Some(left) => left.as_nanos() as u64,
            None if mode == Mode::Periodic => {
                let period = self.period();
                period - (now - zero).as_nanos() as u64 % period
            }
            None => 0,
        };
        ((nanoseconds / self.divisor()) as u32).min(self.initial_count)
    }

    /// Arms the timer for the TSC deadline. True when it has passed: it is then disarmed and due.
    fn arm_tsc_deadline(&mut self) -> bool {
        if self.tsc_deadline == 0 {
            return false;
        }
        let left = self.tsc.until(self.tsc_deadline);
        if left.is_zero() {
            self.tsc_deadline = 0;
            self.timer.cancel();
            return true;
        }
        match Instant::now().checked_add(left) {
            Some(deadline) => self.timer.arm(deadline),
            // Centuries away.
            None => self.timer.cancel(),
        }
        false
    }

    /// A count or a deadline is over that [`Self::expire`] was not asked about yet.
    fn over(&self, mode: Mode, now: Instant) -> bool {
        match mode {
            Mode::TscDeadline => self.tsc_deadline != 0 && self.tsc.until(self.tsc_deadline).is_zero(),
            _ => self.zero.is_some_and(|zero| zero <= now),
        }
    }

    /// What became of a timer whose time is over: true when the interrupt is due.
    fn expire(&mut self, mode: Mode, now: Instant) -> bool {
        if mode == Mode::TscDeadline {
            return self.arm_tsc_deadline();
        }
        let Some(zero) = self.zero.take() else { return false };
        if mode == Mode::Periodic {
            // Periods missed altogether are gone, as they are when a processor leaves its interrupt pending.
            let period = self.period();
            let late = (now - zero).as_nanos() as u64 % period;
            let next = now + Duration::from_nanos(period - late);
            self.zero = Some(next);
            self.timer.arm(next);
        }
        true
    }
}

impl Lapic {
    fn timer_mode(&self) -> Mode {
        Mode::of(self.lvt(Lvt::Timer))
    }

    /// The timer's thread called.
    pub(super) fn timer_expired(&self) {
        let due = self.settled(|timer, mode, _| {
            // The host's clock and the TSC differ a little: it may be early.
            mode == Mode::TscDeadline && timer.arm_tsc_deadline()
        });
        if due {
            self.local_interrupt(Lvt::Timer);
        }
    }

    /// Does something with the timer, once a count or deadline that is over by now has posted its interrupt. The timer's
    /// thread may come late; the guest sees the clock, and to it a count has ended that reads as zero, or that it replaces.
    fn settled<R>(&self, then: impl FnOnce(&mut ApicTimer, Mode, Instant) -> R) -> R {
        let mut timer = self.timer.lock();
        let (entry, now) = (self.lvt(Lvt::Timer), Instant::now());
        let mode = Mode::of(entry);
        let due = timer.over(mode, now) && timer.expire(mode, now);
        let result = then(&mut timer, mode, now);
        drop(timer);
        if due {
            self.local_interrupt_by(Lvt::Timer, entry);
        }
        result
    }

    /// Writes the timer's entry of the local vector table.
    pub(super) fn write_timer_entry(&self, value: u32) {
        self.settled(|timer, before, _| {
            self.lvt[Lvt::Timer as usize].store(value, SeqCst);
            let after = Mode::of(value);
            // Between one-shot and periodic the count goes on; to and from the deadline the timer is disarmed.
            if before != after && [before, after].iter().any(|mode| matches!(mode, Mode::TscDeadline | Mode::Reserved))
            {
                timer.stop();
            }
        });
    }

    pub(super) fn initial_count(&self) -> u32 {
        self.timer.lock().initial_count
    }

    pub(super) fn write_initial_count(&self, count: u32) {
        self.settled(|timer, mode, now| {
            if matches!(mode, Mode::OneShot | Mode::Periodic) {
                timer.initial_count = count;
                timer.start(count, now);
            }
        });
    }

    pub(super) fn current_count(&self) -> u32 {
        self.settled(|timer, mode, now| timer.current_count(mode, now))
    }

    pub(super) fn divide(&self) -> u32 {
        self.timer.lock().divide
    }

    /// Changes the divider; a running count goes on from where it is.
    pub(super) fn write_divide(&self, value: u32) {
        self.settled(|timer, mode, now| {
            let left = timer.current_count(mode, now);
            timer.divide = value & 0xB;
            if timer.zero.is_some() {
                timer.start(left.max(1), now);
            }
        });
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.settled(|timer, _, _| timer.tsc_deadline)
    }

    pub(super) fn write_tsc_deadline(&self, deadline: u64) {
        let due = self.settled(|timer, mode, _| {
            if mode != Mode::TscDeadline {
                return false;
            }
            timer.tsc_deadline = deadline;
            if deadline == 0 {
                timer.timer.cancel();
            }
            timer.arm_tsc_deadline()
        });
        if due {
            self.local_interrupt(Lvt::Timer);
        }
    }

    pub(super) fn set_tsc(&self, tsc: Tsc) {
        let mut timer = self.timer.lock();
        timer.tsc = tsc;
        let due = timer.arm_tsc_deadline();
        drop(timer);
        if due {
            self.local_interrupt(Lvt::Timer);
        }
    }

    /// Loads a saved timer; the entry of the local vector table is loaded already. `current` counts go on from there.
    pub(super) fn load_timer(&self, divide: u32, initial: u32, current: u32, tsc_deadline: u64) {
        let mut timer = self.timer.lock();
        timer.stop();
        timer.divide = divide & 0xB;
        timer.initial_count = initial;
        match self.timer_mode() {
            Mode::TscDeadline => timer.tsc_deadline = tsc_deadline,
            Mode::OneShot | Mode::Periodic => timer.start(current.min(initial), Instant::now()),
            Mode::Reserved => {}
        }
        let due = timer.arm_tsc_deadline();
        drop(timer);
        if due {
            self.local_interrupt(Lvt::Timer);
        }
    }
}
