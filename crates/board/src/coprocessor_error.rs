use crate::device::{AccessSizes, Action, Device};
use crate::irqchip::Irqchip;
use hv::Interrupts;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where software acknowledges an x87 exception.
pub(crate) const COPROCESSOR_ERROR_PORT: u16 = 0xF0;
/// The interrupt line of x87 exceptions.
const IRQ: u32 = 13;

/// What the PC makes of the processor's pin FERR#: interrupt 13, until software writes to port 0xF0, which asserts
/// IGNNE# for as long as FERR# is. The PIIX datasheet calls it coprocessor error support.
#[derive(Default)]
pub(crate) struct CoprocessorError {
    ignne: AtomicBool,
}

impl CoprocessorError {
    /// The processor drives FERR#; returns IGNNE#.
    pub(crate) fn drive_ferr(&self, irqchip: &Irqchip, asserted: bool) -> bool {
        if !asserted {
            self.ignne.store(false, Ordering::SeqCst);
            irqchip.set_line(IRQ, false);
            return false;
        }
        let ignne = self.ignne.load(Ordering::SeqCst);
        if !ignne {
            irqchip.set_line(IRQ, true);
        }
        ignne
    }
}

/// Port 0xF0.
pub(crate) struct CoprocessorErrorPort(pub(crate) Arc<Irqchip>);

impl Device for CoprocessorErrorPort {
    fn name(&self) -> &str {
        "coprocessor-error"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn write(&self, _: u64, _: &[u8]) -> Action {
        self.0.coprocessor_error().ignne.store(true, Ordering::SeqCst);
        self.0.set_line(IRQ, false);
        Action::None
    }

    fn reset(&self) {
        self.0.coprocessor_error().drive_ferr(&self.0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::Timers;
    use hv::{IoAddress, Tsc};

    #[test]
    fn ferr_is_interrupt_13_until_port_f0_is_written_and_ignored_until_it_falls() {
        let timers = Timers::new().expect("a thread");
        let irqchip = Irqchip::new(1, &timers, Tsc::starting_at(0)).expect("one processor");
        let port = CoprocessorErrorPort(irqchip.clone());
        let slave = irqchip.devices().into_iter().find(|placed| matches!(placed.address, IoAddress::Port(0xA0)));
        let slave = slave.expect("the second PIC").device;
        let requested = || {
            let mut requests = [0];
            slave.read(0, &mut requests);
            requests[0] & 1 << (IRQ - 8) != 0
        };
        let drive = |asserted| irqchip.coprocessor_error().drive_ferr(&irqchip, asserted);
        assert!(!drive(true) && requested());
        assert_eq!(port.write(0, &[0]), Action::None);
        assert!(drive(true), "IGNNE#");
        assert!(!drive(false) && !drive(true) && requested(), "the next exception");
    }
}
