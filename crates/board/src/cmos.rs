//! CMOS memory and the real-time clock. Motorola MC146818A data sheet; the PC's use of the memory as SeaBIOS and OVMF
//! expect it of a virtual machine.

mod clock;

use crate::device::{AccessSizes, Action, Device};
use crate::line::IrqLine;
use crate::state::{StateReader, StateWriter};
use crate::timer::{Timer, Timers};
use clock::{Clock, register};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The index port; the data port follows.
pub const CMOS_PORT: u16 = 0x70;
/// The ISA interrupt of the clock.
pub const RTC_IRQ: u32 = 8;
/// The index of the century, for the FADT.
pub const CMOS_CENTURY: u8 = register::CENTURY;

const MIB: u64 = 1 << 20;
const STATE_VERSION: u32 = 1;

/// What the memory says about the machine.
#[derive(Clone, Copy, Debug)]
pub struct CmosConfig {
    /// Bytes of RAM below 4 GiB.
    pub memory_below_4g: u64,
    /// Bytes of RAM from 4 GiB on.
    pub memory_above_4g: u64,
    /// Processors, 1..=256.
    pub cpus: u32,
}

/// The clock and its 128 bytes of battery-backed memory, at ports 0x70 (index) and 0x71 (data). The time is the host's
/// UTC until the guest sets another.
pub struct Cmos {
    line: IrqLine,
    /// The clock drives its line. Changed under `state`.
    connected: AtomicBool,
    timer: Timer,
    /// Lock order: before the interrupt line's and the queue of [`Timers`].
    state: Mutex<State>,
}

struct State {
    index: u8,
    clock: Clock,
}

/// Nanoseconds of host UTC since 1970.
fn utc() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The memory as firmware finds it.
fn memory(config: &CmosConfig) -> [u8; 128] {
    let mut ram = [0; 128];
    let mut word = |index: usize, value: u64| {
        ram[index..index + 2].copy_from_slice(&(value.min(0xFFFF) as u16).to_le_bytes());
    };
    // KiB of base memory; KiB from 1 MiB on, twice; 64 KiB units from 16 MiB on.
    word(0x15, 640);
    let extended = config.memory_below_4g.saturating_sub(MIB) >> 10;
    word(0x17, extended);
    word(0x30, extended);
    word(0x34, config.memory_below_4g.saturating_sub(16 * MIB) >> 16);
    // 64 KiB units from 4 GiB on.
    let above = (config.memory_above_4g >> 16).min(0xFF_FFFF) as u32;
    ram[0x5B..0x5E].copy_from_slice(&above.to_le_bytes()[..3]);
    // Equipment: coprocessor and PS/2 mouse. Processors besides the first.
    ram[0x14] = 0x06;
    ram[0x5F] = config.cpus.saturating_sub(1).min(0xFF) as u8;
    set_checksum(&mut ram);
    ram
}

/// The AT's checksum over 0x10..=0x2D, big-endian.
fn set_checksum(ram: &mut [u8; 128]) {
    let sum: u16 = ram[0x10..0x2E].iter().map(|&byte| u16::from(byte)).sum();
    ram[0x2E..0x30].copy_from_slice(&sum.to_be_bytes());
}

impl Cmos {
    /// The clock and memory as after power-on; `line` is a connection to [`RTC_IRQ`].
    pub fn new(timers: &Timers, line: IrqLine, config: &CmosConfig) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Cmos>| {
            let me = me.clone();
            let expired = move || {
                if let Some(cmos) = me.upgrade() {
                    cmos.with_state(|_, _| ());
                }
            };
            Cmos {
                line,
                connected: AtomicBool::new(true),
                timer: timers.create(expired),
                state: Mutex::new(State { index: 0, clock: Clock::new(memory(config), utc()) }),
            }
        })
    }

    /// Connects the clock to its interrupt, as after power-on, or disconnects it: an HPET has taken its place.
    pub fn connect(&self, connected: bool) {
        self.with_state(|_, _| self.connected.store(connected, Ordering::Relaxed));
    }

    /// Tells of up to two floppy drives, by [`FloppyKind::code`](crate::FloppyKind::code); 0 stands for none. The first comes first.
    pub fn set_floppies(&self, codes: [u8; 2]) {
        let drives = codes.iter().filter(|&&code| code != 0).count() as u8;
        self.with_state(|state, _| {
            let ram = state.clock.ram_mut();
            ram[0x10] = codes[0] << 4 | codes[1] & 0xF;
            // Equipment: whether there are drives, and how many more than one.
            ram[0x14] = ram[0x14] & 0x3E | if drives > 0 { (drives - 1) << 6 | 1 } else { 0 };
            set_checksum(ram);
        });
    }

    /// Brings the clock to now, uses it, and drives the interrupt and the timer by the outcome.
    fn with_state<R>(&self, change: impl FnOnce(&mut State, u64) -> R) -> R {
        let mut state = self.state.lock();
        let now = utc();
        state.clock.advance(now);
        let result = change(&mut state, now);
        self.line.set(state.clock.interrupt() && self.connected.load(Ordering::Relaxed));
        match state
            .clock
            .next_event(now)
            .and_then(|event| Instant::now().checked_add(Duration::from_nanos(event - now)))
        {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.cancel(),
        }
        result
    }
}

impl Device for Cmos {
    fn name(&self) -> &str {
        "cmos"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        // The index cannot be read back.
        let value = if offset == 1 { self.with_state(|state, now| state.clock.read(state.index, now)) } else { 0xFF };
        data.fill(value);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match (offset, data) {
            // Bit 7 masks the NMI pin on some boards; nothing hangs on it here.
            (0, &[index]) => self.state.lock().index = index & 0x7F,
            (1, &[value]) => self.with_state(|state, now| state.clock.write(state.index, value, now)),
            _ => {}
        }
        Action::None
    }

    fn reset(&self) {
        self.with_state(|state, _| state.clock.reset());
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u8(state.index);
        writer.u64(state.clock.offset() as u64);
        writer.blob(state.clock.ram());
        writer.finish()
    }

    fn load(&self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(self.name(), bytes, STATE_VERSION)?;
        let index = reader.u8()? & 0x7F;
        let offset = reader.u64()? as i64;
        let ram = reader.blob()?.try_into().map_err(|_| reader.invalid("its memory is not 128 bytes"))?;
        reader.finish()?;
        self.with_state(|state, now| {
            state.index = index;
            state.clock = Clock::restore(ram, offset, now);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::IrqLines;
    use hv::{Interrupts, Msi};
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Edges(AtomicU32);

    impl Interrupts for Edges {
        fn set_line(&self, _: u32, high: bool) {
            self.0.fetch_add(high.into(), Ordering::SeqCst);
        }
        fn signal_msi(&self, _: Msi) {}
    }

    fn cmos() -> (Arc<Timers>, Arc<Edges>, Arc<Cmos>) {
        let timers = Timers::new().unwrap();
        let edges = Arc::new(Edges::default());
        let line = IrqLines::new(edges.clone()).line(RTC_IRQ).unwrap();
        let config = CmosConfig { memory_below_4g: 3 << 30, memory_above_4g: 5 << 30, cpus: 4 };
        let cmos = Cmos::new(&timers, line, &config);
        (timers, edges, cmos)
    }

    fn read(cmos: &Cmos, index: u8) -> u8 {
        let _ = cmos.write(0, &[index | 0x80]);
        let mut data = [0];
        cmos.read(1, &mut data);
        data[0]
    }

    fn write(cmos: &Cmos, index: u8, value: u8) {
        let _ = cmos.write(0, &[index]);
        let _ = cmos.write(1, &[value]);
    }

    #[test]
    fn firmware_finds_memory_and_processors() {
        let (_timers, _, cmos) = cmos();
        let word = |index| u16::from_le_bytes([read(&cmos, index), read(&cmos, index + 1)]);
        assert_eq!([word(0x15), word(0x17), word(0x30)], [640, 0xFFFF, 0xFFFF]);
        assert_eq!(u64::from(word(0x34)) << 16, (3 << 30) - 16 * MIB);
        assert_eq!((u64::from(word(0x5B)) | u64::from(read(&cmos, 0x5D)) << 16) << 16, 5 << 30);
        assert_eq!(read(&cmos, 0x5F), 3);
        assert_eq!(read(&cmos, 0x0D), 0x80, "the battery is good");
    }

    #[test]
    fn firmware_finds_floppy_drives_and_a_checksum_that_is_right() {
        let (_timers, _, cmos) = cmos();
        for (codes, drives, equipment) in [([4, 5], 0x45, 0x47), ([1, 0], 0x10, 0x07), ([0, 0], 0, 0x06)] {
            cmos.set_floppies(codes);
            assert_eq!((read(&cmos, 0x10), read(&cmos, 0x14)), (drives, equipment));
            let sum: u16 = (0x10..0x2E).map(|index| u16::from(read(&cmos, index))).sum();
            assert_eq!([read(&cmos, 0x2E), read(&cmos, 0x2F)], sum.to_be_bytes());
        }
    }

    #[test]
    fn the_periodic_interrupt_comes_again_after_each_read_of_c() {
        let (_timers, edges, cmos) = cmos();
        write(&cmos, register::A, 0x26);
        write(&cmos, register::B, 0x42);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(edges.0.load(Ordering::SeqCst), 1, "it waits to be read");
        let start = Instant::now();
        while edges.0.load(Ordering::SeqCst) < 20 {
            assert!(start.elapsed() < Duration::from_secs(5));
            read(&cmos, register::C);
            std::thread::yield_now();
        }
        assert!(start.elapsed() >= Duration::from_millis(16), "1024 Hz");
    }

    #[test]
    fn a_disconnected_clock_drives_its_line_when_it_is_connected_again() {
        let (_timers, edges, cmos) = cmos();
        cmos.connect(false);
        write(&cmos, register::A, 0x26);
        write(&cmos, register::B, 0x42);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(edges.0.load(Ordering::SeqCst), 0);
        cmos.connect(true);
        assert_eq!(edges.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_state_survives_and_a_damaged_one_is_refused() {
        let (_timers, _, cmos) = cmos();
        write(&cmos, 0x40, 0x5A);
        let state = cmos.save();
        write(&cmos, 0x40, 0);
        cmos.load(&state).unwrap();
        assert_eq!(read(&cmos, 0x40), 0x5A);
        assert!(cmos.load(&state[..state.len() - 1]).is_err());
    }
}
