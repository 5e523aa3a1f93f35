use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The guest's time-stamp counter: the host's plus an offset, at the host's frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tsc {
    /// Added (wrapping) to the host's counter.
    pub offset: u64,
    /// Frequency in kHz.
    pub khz: u64,
}

impl Tsc {
    /// A guest counter that reads `start` now.
    pub fn starting_at(start: u64) -> Self {
        Tsc { offset: start.wrapping_sub(host_tsc()), khz: host_khz() }
    }

    /// Begin to measure the host counter's frequency. Who calls this early need not wait for it later.
    pub fn begin_measuring() {
        BEGINNING.get_or_init(sample);
    }

    /// The guest counter now.
    pub fn now(&self) -> u64 {
        host_tsc().wrapping_add(self.offset)
    }

    /// How long until the guest counter reaches `deadline`; zero when it has.
    pub fn until(&self, deadline: u64) -> Duration {
        let ticks = deadline.wrapping_sub(self.now());
        if ticks > i64::MAX as u64 {
            return Duration::ZERO;
        }
        Duration::from_nanos((u128::from(ticks) * 1_000_000 / u128::from(self.khz)).min(u128::from(u64::MAX)) as u64)
    }
}

fn host_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The shortest time over which the host counter's frequency is measured.
const MEASURED: Duration = Duration::from_millis(10);
static BEGINNING: OnceLock<(u64, Instant)> = OnceLock::new();

/// The host counter's frequency in kHz, measured once against the monotonic clock, over [`MEASURED`] at least.
///
/// CPUID leaf 0x15 is not used: virtual hosts leave it empty or wrong, and 10 ms against a clock that reads within
/// 50 ns give 5 parts per million, better than NTP needs.
fn host_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let &(tsc0, time0) = BEGINNING.get_or_init(sample);
        std::thread::sleep(MEASURED.saturating_sub(time0.elapsed()));
        let (tsc1, time1) = sample();
        let nanoseconds = (time1 - time0).as_nanos().max(1);
        let khz = u128::from(tsc1.wrapping_sub(tsc0)) * 1_000_000 / nanoseconds;
        (khz as u64).clamp(1_000, 100_000_000)
    })
}

/// The host counter and the time at one moment: of several reads the one with the smallest gap around it, which is
/// the least disturbed.
fn sample() -> (u64, Instant) {
    (0..16)
        .map(|_| {
            let before = host_tsc();
            let instant = Instant::now();
            let gap = host_tsc().wrapping_sub(before);
            (gap, before.wrapping_add(gap / 2), instant)
        })
        .min_by_key(|sample| sample.0)
        .map_or_else(|| (host_tsc(), Instant::now()), |(_, tsc, instant)| (tsc, instant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_ticks_is_a_second_away() {
        let tsc = Tsc::starting_at(0);
        let left = tsc.until(tsc.now() + tsc.khz * 1000);
        assert!(left > Duration::from_millis(900) && left <= Duration::from_millis(1001), "{left:?}");
    }

    #[test]
    fn a_deadline_in_the_past_is_due() {
        let tsc = Tsc::starting_at(1_000_000);
        assert_eq!(tsc.until(10), Duration::ZERO);
    }
}
