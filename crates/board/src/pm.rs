use crate::device::{Action, Device};
use crate::line::IrqLine;
use crate::state::{StateReader, StateWriter};
use crate::timer::{Timer, Timers};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Ports of the block, from [`crate::PM_BASE`].
pub const PM_SIZE: u16 = 64;
/// Offset of the PM1a event block (status, then enable) from the base; 4 bytes.
pub const PM1A_EVENT: u16 = 0;
/// Offset of the PM1a control register; 2 bytes.
pub const PM1A_CONTROL: u16 = 4;
/// Offset of the PM timer; 4 bytes.
pub const PM_TIMER: u16 = 8;
/// The ISA interrupt of the system control interrupt (SCI): level-triggered, active high.
pub const SCI_IRQ: u32 = 9;
/// SLP_TYP of the state S5 (soft off), for the DSDT's `\_S5`.
pub const SLP_TYP_S5: u8 = 0;
/// Frequency of the PM timer in Hz.
pub const PM_TIMER_HZ: u64 = 3_579_545;

const TMR_STS: u16 = 1 << 0;
const PWRBTN_STS: u16 = 1 << 8;
const RTC_STS: u16 = 1 << 10;
/// The events there are: timer carry, global lock, power button, and the clock's alarm, which does not happen but whose
/// enable bit Linux wants to read back.
const EVENTS: u16 = TMR_STS | 1 << 5 | PWRBTN_STS | RTC_STS;
const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
/// SLP_TYP and bus master reload, which can be read back.
const CONTROL_READABLE: u16 = 7 << 10 | 1 << 1;
const STATE_VERSION: u32 = 1;

/// How wide the PM timer is: the FADT's flag TMR_VAL_EXT says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmTimerWidth {
    /// As in the PIIX4.
    Bits24,
    /// With TMR_VAL_EXT.
    Bits32,
}

impl PmTimerWidth {
    /// Ticks between two changes of the highest bit, each of which sets TMR_STS.
    fn half(self) -> u64 {
        match self {
            PmTimerWidth::Bits24 => 1 << 23,
            PmTimerWidth::Bits32 => 1 << 31,
        }
    }
}

/// The ACPI registers of the PIIX4: events, sleep control and the PM timer. ACPI 6.5, section 4.8; Intel 82371AB data
/// sheet (290562), section 7.2.
///
/// The machine is always in ACPI mode: SCI_EN reads 1. Of the sleep states there is S5 alone.
pub struct Pm {
    power_on: Instant,
    width: PmTimerWidth,
    sci: IrqLine,
    timer: Timer,
    /// Lock order: before the interrupt line's and the queue of [`Timers`].
    state: Mutex<State>,
}

struct State {
    status: u16,
    enable: u16,
    control: u16,
    /// Ticks to add to those since `power_on`.
    base: u64,
    /// The half period of the timer up to which carries have been seen.
    half_seen: u64,
}

impl Pm {
    /// The block as after power-on; `sci` is a connection to [`SCI_IRQ`].
    pub fn new(timers: &Timers, sci: IrqLine, width: PmTimerWidth) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Pm>| {
            let me = me.clone();
            let expired = move || {
                if let Some(pm) = me.upgrade() {
                    pm.with_state(|_| ());
                }
            };
            Pm {
                power_on: Instant::now(),
                width,
                sci,
                timer: timers.create(expired),
                state: Mutex::new(State { status: 0, enable: 0, control: 0, base: 0, half_seen: 0 }),
            }
        })
    }

    /// Presses the power button: an SCI, if the guest listens.
    pub fn press_power_button(&self) {
        self.with_state(|state| state.status |= PWRBTN_STS);
    }

    fn ticks(&self, state: &State) -> u64 {
        let since = (self.power_on.elapsed().as_nanos() * u128::from(PM_TIMER_HZ) / 1_000_000_000) as u64;
        state.base.wrapping_add(since)
    }

    /// Brings the timer's carry to now, changes the state, and drives the SCI by the outcome.
    fn with_state<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let half = self.width.half();
        let ticks = self.ticks(&state);
        if ticks / half != state.half_seen {
            state.half_seen = ticks / half;
            state.status |= TMR_STS;
        }
        let result = change(&mut state);
        self.sci.set(state.status & state.enable & EVENTS != 0);
        if state.enable & TMR_STS != 0 && state.status & TMR_STS == 0 {
            let left = u128::from(half - self.ticks(&state) % half);
            let nanoseconds = (left * 1_000_000_000).div_ceil(u128::from(PM_TIMER_HZ));
            self.timer.arm(Instant::now() + Duration::from_nanos(nanoseconds as u64));
        } else {
            self.timer.cancel();
        }
        result
    }

    /// The 16 bytes of registers.
    fn registers(&self) -> [u8; 16] {
        let (words, timer) = self.with_state(|state| {
            let timer = self.ticks(state) % (2 * self.width.half());
            ([state.status, state.enable, state.control | SCI_EN], timer as u32)
        });
        let mut bytes = [0; 16];
        for (index, word) in words.into_iter().enumerate() {
            bytes[2 * index..2 * index + 2].copy_from_slice(&word.to_le_bytes());
        }
        bytes[8..12].copy_from_slice(&timer.to_le_bytes());
        bytes
    }

    fn write_byte(&self, offset: u64, value: u8) -> Action {
        let shift = 8 * (offset & 1);
        let mask = 0xFF << shift;
        let bits = u16::from(value) << shift;
        self.with_state(|state| {
            match offset {
                0 | 1 => state.status &= !bits,
                2 | 3 => state.enable = (state.enable & !mask | bits) & EVENTS,
                4 | 5 => {
                    state.control = (state.control & !mask | bits) & CONTROL_READABLE;
                    let sleep_type = (state.control >> 10 & 7) as u8;
                    if bits & SLP_EN != 0 && sleep_type == SLP_TYP_S5 {
                        return Action::Shutdown;
                    }
                }
                _ => {}
            }
            Action::None
        })
    }
}

impl Device for Pm {
    fn name(&self) -> &str {
        "pm"
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let registers = self.registers();
        for (byte, register) in data.iter_mut().zip(registers.iter().skip(offset.min(PM_SIZE.into()) as usize)) {
            *byte = *register;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let mut action = Action::None;
        for (offset, &value) in (offset..).zip(data) {
            if let Action::Shutdown = self.write_byte(offset, value) {
                action = Action::Shutdown;
            }
        }
        action
    }

    fn reset(&self) {
        self.with_state(|state| (state.status, state.enable, state.control) = (0, 0, 0));
    }

    fn save(&self) -> Vec<u8> {
        self.with_state(|state| {
            let mut writer = StateWriter::new(STATE_VERSION);
            for word in [state.status, state.enable, state.control] {
                writer.u16(word);
            }
            writer.u64(self.ticks(state));
            writer.finish()
        })
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(self.name(), bytes, STATE_VERSION)?;
        let [status, enable, control] = [reader.u16()?, reader.u16()?, reader.u16()?];
        let ticks = reader.u64()?;
        reader.finish()?;
        self.with_state(|state| {
            (state.status, state.enable) = (status & EVENTS, enable & EVENTS);
            state.control = control & CONTROL_READABLE;
            let now = self.ticks(state);
            // What lies above the timer's width is of no account.
            state.base = state.base.wrapping_add((ticks & 0xFFFF_FFFF).wrapping_sub(now));
            state.half_seen = self.ticks(state) / self.width.half();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::IrqLines;
    use hv::{Interrupts, Msi};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Sci(AtomicBool);

    impl Interrupts for Sci {
        fn set_line(&self, gsi: u32, high: bool) {
            assert_eq!(gsi, SCI_IRQ);
            self.0.store(high, Ordering::SeqCst);
        }
        fn signal_msi(&self, _: Msi) {}
    }

    fn pm(width: PmTimerWidth) -> (Arc<Timers>, Arc<Sci>, Arc<Pm>) {
        let timers = Timers::new().unwrap();
        let sci = Arc::new(Sci::default());
        let line = IrqLines::new(sci.clone()).line(SCI_IRQ).unwrap();
        let pm = Pm::new(&timers, line, width);
        (timers, sci, pm)
    }

    fn read(pm: &Pm, offset: u64) -> u32 {
        let mut data = [0; 4];
        pm.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_power_button_interrupts_when_enabled_until_it_is_cleared() {
        let (_timers, sci, pm) = pm(PmTimerWidth::Bits24);
        pm.press_power_button();
        assert!(!sci.0.load(Ordering::SeqCst));
        assert_eq!(pm.write(2, &PWRBTN_STS.to_le_bytes()), Action::None);
        assert!(sci.0.load(Ordering::SeqCst));
        assert_eq!(read(&pm, 0), 0x0100_0100);
        assert_eq!(pm.write(0, &PWRBTN_STS.to_le_bytes()), Action::None);
        assert!(!sci.0.load(Ordering::SeqCst));
    }

    #[test]
    fn the_enable_bits_of_all_events_read_back() {
        let (_timers, sci, pm) = pm(PmTimerWidth::Bits24);
        assert_eq!(pm.write(2, &0xFFFF_u16.to_le_bytes()), Action::None);
        assert_eq!(read(&pm, 0) >> 16, 0x0521);
        assert!(!sci.0.load(Ordering::SeqCst));
    }

    #[test]
    fn s5_powers_off_and_other_states_do_nothing() {
        let (_timers, _, pm) = pm(PmTimerWidth::Bits24);
        assert_eq!(read(&pm, 4) & 1, 1, "always in ACPI mode");
        assert_eq!(pm.write(4, &(SLP_EN | 1 << 10).to_le_bytes()), Action::None);
        assert_eq!(pm.write(4, &(u16::from(SLP_TYP_S5) << 10).to_le_bytes()), Action::None);
        assert_eq!(pm.write(4, &(u16::from(SLP_TYP_S5) << 10 | SLP_EN).to_le_bytes()), Action::Shutdown);
    }

    #[test]
    fn the_timer_counts_at_its_rate() {
        let (_timers, _, pm) = pm(PmTimerWidth::Bits32);
        let (start, before) = (Instant::now(), read(&pm, 8));
        std::thread::sleep(Duration::from_millis(20));
        let ticks = read(&pm, 8) - before;
        let at_most = start.elapsed().as_secs_f64() * PM_TIMER_HZ as f64 + 1.0;
        assert!(ticks >= 71_590 && f64::from(ticks) <= at_most, "{ticks}");
    }

    #[test]
    fn the_timer_wraps_at_its_width_and_its_carry_interrupts() {
        let (_timers, sci, pm) = pm(PmTimerWidth::Bits24);
        // 1 ms before the wrap.
        let mut writer = StateWriter::new(STATE_VERSION);
        for word in [0, TMR_STS, 0] {
            writer.u16(word);
        }
        writer.u64((1 << 24) - PM_TIMER_HZ / 1000);
        pm.load(&writer.finish()).unwrap();
        let start = Instant::now();
        while !sci.0.load(Ordering::SeqCst) {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        assert!(read(&pm, 8) < 1 << 23);
        assert_eq!(read(&pm, 0) as u16 & TMR_STS, TMR_STS);
    }

    #[test]
    fn any_access_and_state_is_harmless() {
        let (_timers, _, pm) = pm(PmTimerWidth::Bits24);
        for offset in 0..u64::from(PM_SIZE) {
            let _ = pm.write(offset, &[0xFF; 4]);
            read(&pm, offset);
        }
        let state = pm.save();
        assert!(pm.load(&state[1..]).is_err());
        assert!(pm.load(&[&state[..4], &[0xFF; 14]].concat()).is_ok());
    }
}
