use crate::{GSI_COUNT, IrqLine, IrqLines};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// The four PCI interrupt requests PIRQA#..PIRQD# and the GSIs they are routed to.
///
/// The pins of slot `s` are swizzled as on the i440FX board: pin `p` (0 = INTA#) drives PIRQ `(s + p - 1) mod 4`.
/// A GSI is high while any function on any of its PIRQs asserts its pin.
///
/// Lock order: `state`, then those of [`IrqLine`], which is called under it so that levels arrive in the order in which
/// they changed. Nothing below calls back into PCI.
pub struct Pirqs {
    /// By GSI.
    lines: Vec<IrqLine>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// GSI of each PIRQ; `None`: routed nowhere.
    routes: [Option<u32>; 4],
    pins: Vec<Pin>,
}

struct Pin {
    pirq: usize,
    asserted: bool,
    disabled: bool,
}

impl State {
    /// A bit for each GSI that is high.
    fn levels(&self) -> u32 {
        let driving = self.pins.iter().filter(|pin| pin.asserted && !pin.disabled);
        driving.filter_map(|pin| self.routes[pin.pirq]).fold(0, |levels, gsi| levels | 1 << gsi)
    }
}

impl Pirqs {
    /// Four requests routed nowhere.
    pub fn new(lines: &IrqLines) -> Arc<Self> {
        let lines = (0..GSI_COUNT).map_while(|gsi| lines.line(gsi).ok()).collect();
        Arc::new(Pirqs { lines, state: Mutex::default() })
    }

    /// The PIRQ (0..=3) that `pin` (1 = INTA# … 4 = INTD#) of `slot` drives.
    pub fn swizzle(slot: u8, pin: u8) -> usize {
        (usize::from(slot) + usize::from(pin) + 2) % 4
    }

    /// Routes a PIRQ (0..=3) to a GSI (0..=23), or nowhere.
    pub fn route(&self, pirq: usize, gsi: Option<u32>) {
        self.change(|state| {
            if let Some(route) = state.routes.get_mut(pirq) {
                *route = gsi.filter(|gsi| *gsi < GSI_COUNT);
            }
        });
    }

    /// The GSI of a PIRQ.
    pub fn gsi(&self, pirq: usize) -> Option<u32> {
        self.lock().routes.get(pirq).copied().flatten()
    }

    /// A pin of a function in `slot`, low and enabled.
    pub(super) fn add_pin(self: &Arc<Self>, slot: u8, pin: u8) -> Intx {
        let mut state = self.lock();
        state.pins.push(Pin { pirq: Self::swizzle(slot, pin), asserted: false, disabled: false });
        Intx { pirqs: self.clone(), index: state.pins.len() - 1 }
    }

    /// Makes a change and tells the interrupt controllers which lines are different after it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let before = state.levels();
        change(&mut state);
        let after = state.levels();
        for (gsi, line) in self.lines.iter().enumerate().filter(|(gsi, _)| (before ^ after) >> gsi & 1 != 0) {
            line.set(after >> gsi & 1 != 0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// A function's INTx pin.
#[derive(Clone)]
pub struct Intx {
    pirqs: Arc<Pirqs>,
    index: usize,
}

impl Intx {
    /// Asserts or releases the pin.
    pub fn set(&self, asserted: bool) {
        self.pirqs.change(|state| state.pins[self.index].asserted = asserted);
    }

    /// Whether the pin is asserted, whatever the command register says.
    pub(super) fn asserted(&self) -> bool {
        self.pirqs.lock().pins[self.index].asserted
    }

    /// Follows the command register's INTx disable bit.
    pub(super) fn set_disabled(&self, disabled: bool) {
        self.pirqs.change(|state| state.pins[self.index].disabled = disabled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv::Interrupts;

    #[derive(Default)]
    struct Lines(Mutex<Vec<(u32, bool)>>);

    impl Interrupts for Lines {
        fn set_line(&self, gsi: u32, high: bool) {
            self.0.lock().push((gsi, high));
        }
        fn signal_msi(&self, _: hv::Msi) {}
    }

    impl Lines {
        fn take(&self) -> Vec<(u32, bool)> {
            std::mem::take(&mut self.0.lock())
        }
    }

    #[test]
    fn shared_lines_are_ored() {
        let lines = Arc::new(Lines::default());
        let pirqs = Pirqs::new(&IrqLines::new(lines.clone()));
        pirqs.route(0, Some(10));
        pirqs.route(1, Some(10));
        let one = pirqs.add_pin(1, 1);
        let two = pirqs.add_pin(2, 1);
        one.set(true);
        two.set(true);
        one.set(false);
        assert_eq!(lines.take(), [(10, true)]);
        two.set(false);
        assert_eq!(lines.take(), [(10, false)]);
    }

    #[test]
    fn disable_and_rerouting_move_the_level() {
        let lines = Arc::new(Lines::default());
        let pirqs = Pirqs::new(&IrqLines::new(lines.clone()));
        let pin = pirqs.add_pin(1, 1);
        pin.set(true);
        assert_eq!(lines.take(), []);
        pirqs.route(0, Some(11));
        pirqs.route(0, Some(5));
        assert_eq!(lines.take(), [(11, true), (5, true), (11, false)]);
        pin.set_disabled(true);
        pin.set_disabled(false);
        pirqs.route(0, None);
        assert_eq!(lines.take(), [(5, false), (5, true), (5, false)]);
        assert!(pin.asserted());
    }

    #[test]
    fn the_swizzle_is_the_boards() {
        assert_eq!(Pirqs::swizzle(1, 1), 0);
        assert_eq!(Pirqs::swizzle(3, 1), 2);
        assert_eq!(Pirqs::swizzle(3, 4), 1);
        assert_eq!(Pirqs::swizzle(0, 1), 3);
    }
}
