use crate::device::{AccessSizes, Action, Device};

/// Where the guest looks for it, unless ACPI names another port.
pub const PVPANIC_PORT: u16 = 0x505;

/// What a guest tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicEvent {
    /// It has panicked, and the host is to deal with that.
    Panicked,
    /// It has panicked and deals with that by itself: it loads a kernel that dumps its memory.
    Crashloaded,
    /// It has shut down in order.
    Shutdown,
}

/// The bits of the register, the most important first.
const EVENTS: [(u8, PanicEvent); 3] =
    [(1 << 0, PanicEvent::Panicked), (1 << 1, PanicEvent::Crashloaded), (1 << 2, PanicEvent::Shutdown)];

/// QEMU's `pvpanic`: one port by which a guest tells of its end. docs/specs/pvpanic.rst of QEMU.
pub struct Pvpanic {
    told: Box<dyn Fn(PanicEvent) -> Action + Send + Sync>,
}

impl Pvpanic {
    /// A port that calls `told`, on the thread of the vCPU that tells, and asks the machine for what it returns.
    pub fn new(told: impl Fn(PanicEvent) -> Action + Send + Sync + 'static) -> Self {
        Pvpanic { told: Box::new(told) }
    }
}

impl Device for Pvpanic {
    fn name(&self) -> &str {
        "pvpanic"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    /// The events that there are.
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(EVENTS.iter().map(|(bit, _)| bit).sum());
    }

    /// Of several events at once the first in the list counts.
    fn write(&self, _: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        let event = EVENTS.iter().find(|(bit, _)| value & bit != 0);
        event.map_or(Action::None, |&(_, event)| (self.told)(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn it_shows_its_events_and_tells_of_them() {
        let (sender, receiver) = channel();
        let pvpanic = Pvpanic::new(move |event| {
            sender.send(event).unwrap();
            if event == PanicEvent::Crashloaded { Action::None } else { Action::Shutdown }
        });
        let mut data = [0];
        pvpanic.read(0, &mut data);
        assert_eq!(data, [7]);
        let actions = [1, 2, 4, 7, 0, 0xF8].map(|value| pvpanic.write(0, &[value]));
        let end = Action::Shutdown;
        assert_eq!(actions, [end, Action::None, end, end, Action::None, Action::None]);
        let events: Vec<_> = receiver.try_iter().collect();
        use PanicEvent::{Crashloaded, Panicked, Shutdown};
        assert_eq!(events, [Panicked, Crashloaded, Shutdown, Panicked]);
    }
}
