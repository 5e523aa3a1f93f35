//! A local APIC that does nothing but interrupt.

use hv::{Kick, LocalApic, Pending, Tsc};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The vector that interrupts have.
pub(super) const VECTOR: u8 = 0x40;

/// Interrupts one processor.
pub(super) struct Ringer {
    pending: AtomicBool,
    kick: Arc<dyn Kick>,
}

impl Ringer {
    pub(super) fn new(kick: Arc<dyn Kick>) -> Arc<Self> {
        Arc::new(Ringer { pending: AtomicBool::new(false), kick })
    }

    pub(super) fn ring(&self) {
        self.pending.store(true, Ordering::SeqCst);
        self.kick.interrupt();
    }
}

impl LocalApic for Ringer {
    fn attach(&self, _: Arc<dyn Kick>) {}
    fn pending(&self) -> Pending {
        if self.pending.load(Ordering::SeqCst) { Pending::INTR } else { Pending::empty() }
    }
    fn acknowledge(&self) -> Option<u8> {
        self.pending.swap(false, Ordering::SeqCst).then_some(VECTOR)
    }
    fn take_nmi(&self) -> bool {
        false
    }
    fn unmask_nmi(&self) {}
    fn drive_ferr(&self, _: bool) -> bool {
        false
    }
    fn take_init(&self) -> bool {
        false
    }
    fn take_sipi(&self) -> Option<u8> {
        None
    }
    fn reset(&self) {}
    fn mmio_read(&self, _: u16, _: &mut [u8]) {}
    fn mmio_write(&self, _: u16, _: &[u8]) {}
    fn read_msr(&self, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&self, _: u32, _: u64) -> bool {
        false
    }
    fn base(&self) -> Option<u64> {
        None
    }
    fn tpr(&self) -> u8 {
        0
    }
    fn set_tpr(&self, _: u8) {}
    fn save(&self) -> Box<[u8; 1024]> {
        Box::new([0; 1024])
    }
    fn load(&self, _: &[u8; 1024], _: u64, _: u64) {}
    fn set_tsc(&self, _: Tsc) {}
}
