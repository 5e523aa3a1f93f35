//! From the ports' interrupts to the machine's: IS, GHC.IE, MSI and INTA#. AHCI 1.3.1, section 10.7.

use super::register::ghc;
use board::pci::{Configuration, Intx};
use board::{Msi, StateReader, StateWriter};
use hv::Interrupts;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// Which ports want an interrupt, and how it gets to the guest.
///
/// Lock order: `state`, then that of [`Msi`] and of the PCI interrupt lines. Ports call this with their locks held.
#[derive(Default)]
pub(crate) struct Causes {
    pub msi: Msi,
    intx: OnceLock<Intx>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// GHC.IE.
    enabled: bool,
    /// IS.
    status: u32,
    /// Ports with an interrupt that is enabled.
    pending: u32,
    /// INTA# as it was driven last.
    pin: bool,
}

impl State {
    fn raised(&self) -> u32 {
        if self.enabled { self.status } else { 0 }
    }
}

impl Causes {
    /// Sets where interrupts go. Once.
    pub fn connect(&self, interrupts: Arc<dyn Interrupts>, intx: Option<Intx>) {
        self.msi.connect(interrupts);
        if let Some(intx) = intx {
            let _ = self.intx.set(intx);
        }
    }

    /// Follows MSI's registers.
    pub fn config_changed(&self, configuration: &Configuration) {
        self.msi.config_changed(configuration);
        self.change(false, |_| 0);
    }

    /// A port has an interrupt that is enabled, or has none any more. Its bit in IS stays until the guest clears it.
    pub fn set(&self, port: usize, pending: bool) {
        let bit = 1 << port;
        self.change(false, |state| {
            state.pending = if pending { state.pending | bit } else { state.pending & !bit };
            0
        });
    }

    /// IS.
    pub fn status(&self) -> u32 {
        self.state.lock().status
    }

    /// The guest clears bits of IS. Of those that stay, and of those that come again, there is a message.
    pub fn acknowledge(&self, bits: u32) {
        self.change(true, |state| {
            state.status &= !bits;
            bits
        });
    }

    /// GHC without the reset bit.
    pub fn control(&self) -> u32 {
        ghc::AE | if self.state.lock().enabled { ghc::IE } else { 0 }
    }

    /// Writes GHC.IE.
    pub fn enable(&self, enabled: bool) {
        self.change(false, |state| {
            state.enabled = enabled;
            0
        });
    }

    /// Nothing is raised, and nothing enabled.
    pub fn reset(&self) {
        self.change(false, |state| {
            (state.enabled, state.status) = (false, 0);
            0
        });
    }

    /// Makes a change, which returns the bits of IS that were acknowledged, and lets the guest know. With `again` also of
    /// what it knows.
    fn change(&self, again: bool, change: impl FnOnce(&mut State) -> u32) {
        let mut state = self.state.lock();
        let before = state.raised();
        let acknowledged = change(&mut state);
        state.status |= state.pending;
        let raised = state.raised();
        let messages = self.msi.enabled();
        let pin = raised != 0 && !messages;
        if pin != state.pin {
            state.pin = pin;
            if let Some(intx) = self.intx.get() {
                intx.set(pin);
            }
        }
        if messages && (raised & !(before & !acknowledged) != 0 || again && raised != 0) {
            self.msi.signal();
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let State { enabled, status, .. } = *self.state.lock();
        writer.u8(enabled.into());
        writer.u32(status);
    }

    /// Loads what [`Causes::save`] gave, for `ports` ports. What they raise comes from them.
    pub fn load(&self, ports: u32, reader: &mut StateReader) -> Result<(), String> {
        let (enabled, status) = (reader.bool()?, reader.u32()? & ports);
        self.change(false, |state| {
            (state.enabled, state.status) = (enabled, status);
            0
        });
        Ok(())
    }
}
