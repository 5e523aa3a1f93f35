use hv::Interrupts;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// GSIs of one I/O APIC.
pub const GSI_COUNT: u32 = 24;

/// Hands out [`IrqLine`]s. There is one of these for a machine: devices on the same GSI share its line as a wired OR.
pub struct IrqLines {
    gsis: Vec<Arc<Gsi>>,
}

/// Lock order: a device's own lock, then `drivers`, then the interrupt controllers' locks.
struct Gsi {
    interrupts: Arc<dyn Interrupts>,
    number: u32,
    /// How many devices drive the line high.
    drivers: Mutex<i32>,
}

/// One device's connection to a global system interrupt. Dropping it lets the line go.
pub struct IrqLine {
    gsi: Arc<Gsi>,
    high: AtomicBool,
}

impl IrqLines {
    /// The lines of `interrupts`, all low.
    pub fn new(interrupts: Arc<dyn Interrupts>) -> Self {
        let gsi = |number| Arc::new(Gsi { interrupts: interrupts.clone(), number, drivers: Mutex::new(0) });
        IrqLines { gsis: (0..GSI_COUNT).map(gsi).collect() }
    }

    /// A new connection to GSI `gsi` (ISA interrupts are 0..=15), low.
    ///
    /// # Errors
    /// One sentence when there is no such GSI.
    pub fn line(&self, gsi: u32) -> Result<IrqLine, String> {
        let gsi = self
            .gsis
            .get(gsi as usize)
            .ok_or_else(|| format!("There is no interrupt line {gsi}: use 0 to {}.", GSI_COUNT - 1))?;
        Ok(IrqLine { gsi: gsi.clone(), high: AtomicBool::new(false) })
    }
}

impl IrqLine {
    /// The GSI this is connected to.
    pub fn gsi(&self) -> u32 {
        self.gsi.number
    }

    /// Drives the line high, or lets it go. The line is high while any device drives it.
    pub fn set(&self, high: bool) {
        // Held from the look at the old level to the end of the call: the controllers see the levels in the order in
        // which they came about, and whoever returns from here finds the level there, also where another thread set it.
        let mut drivers = self.gsi.drivers.lock();
        if self.high.swap(high, Ordering::AcqRel) == high {
            return;
        }
        let before = *drivers > 0;
        *drivers += if high { 1 } else { -1 };
        let after = *drivers > 0;
        if before != after {
            self.gsi.interrupts.set_line(self.gsi.number, after);
        }
    }

    /// One edge, for edge-triggered interrupts.
    pub fn pulse(&self) {
        self.set(false);
        self.set(true);
        self.set(false);
    }
}

impl Drop for IrqLine {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv::Msi;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool)>>);

    impl Interrupts for Log {
        fn set_line(&self, gsi: u32, high: bool) {
            self.0.lock().push((gsi, high));
        }
        fn signal_msi(&self, _: Msi) {}
    }

    #[test]
    fn a_shared_line_is_high_while_anyone_drives_it() {
        let log = Arc::new(Log::default());
        let lines = IrqLines::new(log.clone());
        let [a, b] = [lines.line(11).unwrap(), lines.line(11).unwrap()];
        a.set(true);
        b.set(true);
        a.set(true);
        a.set(false);
        assert_eq!(*log.0.lock(), [(11, true)]);
        drop(b);
        assert_eq!(*log.0.lock(), [(11, true), (11, false)]);
    }

    #[test]
    fn a_pulse_is_one_edge() {
        let log = Arc::new(Log::default());
        IrqLines::new(log.clone()).line(4).unwrap().pulse();
        assert_eq!(*log.0.lock(), [(4, true), (4, false)]);
    }

    #[test]
    fn there_is_no_line_beyond_the_last() {
        assert!(IrqLines::new(Arc::new(Log::default())).line(GSI_COUNT).is_err());
    }

    #[test]
    fn many_threads_leave_the_line_as_the_last_one_put_it() {
        let log = Arc::new(Log::default());
        let lines = IrqLines::new(log.clone());
        let shared: Vec<IrqLine> = (0..4).map(|_| lines.line(10).unwrap()).collect();
        std::thread::scope(|scope| {
            for line in &shared {
                scope.spawn(move || (0..2000).for_each(|n| line.set(n % 2 == 0)));
            }
        });
        let log = log.0.lock();
        assert!(log.chunks(2).all(|pair| pair == [(10, true), (10, false)]), "levels alternate and end low");
    }
}
