use crate::bus::{Response, Speed, Token, Transaction, UsbDevice};
use board::{StateReader, StateWriter};
use std::sync::Arc;

/// PORTSC. UHCI, section 2.1.7.
mod bit {
    pub const CONNECTED: u16 = 1 << 0;
    pub const CONNECT_CHANGE: u16 = 1 << 1;
    pub const ENABLED: u16 = 1 << 2;
    pub const ENABLE_CHANGE: u16 = 1 << 3;
    pub const D_PLUS: u16 = 1 << 4;
    pub const D_MINUS: u16 = 1 << 5;
    pub const RESUME: u16 = 1 << 6;
    /// Drivers count ports by it.
    pub const ALWAYS_1: u16 = 1 << 7;
    pub const LOW_SPEED: u16 = 1 << 8;
    pub const RESET: u16 = 1 << 9;
    pub const SUSPEND: u16 = 1 << 12;
}

/// Cleared where a 1 is written.
const CHANGES: u16 = bit::CONNECT_CHANGE | bit::ENABLE_CHANGE;
const WRITABLE: u16 = bit::ENABLED | bit::RESUME | bit::RESET | bit::SUSPEND;

/// A root port and what is plugged into it.
#[derive(Default)]
pub(super) struct Port {
    device: Option<Arc<dyn UsbDevice>>,
    /// The bits of PORTSC that do not follow from the device.
    status: u16,
}

impl Port {
    /// Plugs a device in, unless there is one.
    pub fn plug(&mut self, device: &Arc<dyn UsbDevice>) -> bool {
        if self.device.is_some() {
            return false;
        }
        self.device = Some(device.clone());
        self.status |= bit::CONNECT_CHANGE;
        true
    }

    /// As after power-on: what is plugged in has just been so.
    fn power_on(&mut self) {
        self.status = if self.device.is_some() { bit::CONNECT_CHANGE } else { 0 };
    }

    /// The controller is reset, which to the port looks as if the device was taken out and put in. UHCI, section 2.1.1.
    pub fn controller_reset(&mut self) {
        let was_enabled = self.status & bit::ENABLED != 0;
        self.power_on();
        if was_enabled {
            self.status |= bit::ENABLE_CHANGE;
        }
    }

    /// The device finds its bus reset.
    pub fn bus_reset(&mut self) {
        if let Some(device) = &self.device {
            device.bus_reset();
        }
    }

    pub fn reset(&mut self) {
        self.power_on();
        if let Some(device) = &self.device {
            device.reset();
        }
    }

    pub fn read(&self) -> u16 {
        let speed = self.device.as_ref().map(|device| device.speed());
        let plugged = match speed {
            None => 0,
            Some(Speed::Full) => bit::CONNECTED,
            Some(Speed::Low) => bit::CONNECTED | bit::LOW_SPEED,
        };
        // The bus's idle state; while the port resets or resumes it is driven otherwise.
        let lines = match speed {
            Some(Speed::Full) if self.status & (bit::RESET | bit::RESUME) == 0 => bit::D_PLUS,
            Some(Speed::Low) if self.status & (bit::RESET | bit::RESUME) == 0 => bit::D_MINUS,
            _ => 0,
        };
        self.status | plugged | lines | bit::ALWAYS_1
    }

    /// Writes the bits of `value` that `mask` has.
    pub fn write(&mut self, value: u16, mask: u16) {
        let before = self.status;
        let written = value & mask & WRITABLE | before & !mask & WRITABLE;
        self.status = before & CHANGES & !(value & mask) | written;
        if self.status & bit::RESET != 0 {
            self.status &= !(bit::ENABLED | bit::SUSPEND | bit::RESUME);
            if before & bit::RESET == 0 {
                self.bus_reset();
            }
        }
        if self.device.is_none() {
            self.status &= !bit::ENABLED;
        }
        if self.status & bit::SUSPEND == 0 {
            self.status &= !bit::RESUME;
        }
    }

    fn is_suspended(&self) -> bool {
        self.status & (bit::ENABLED | bit::SUSPEND) == bit::ENABLED | bit::SUSPEND
    }

    /// A device that may wake the host has something to say: whether the port, which may be suspended itself or with the
    /// whole bus (`global`), resumes.
    pub fn wake(&mut self, global: bool) -> bool {
        let asleep = self.is_suspended() || global && self.status & bit::ENABLED != 0;
        if !asleep || !self.device.as_ref().is_some_and(|device| device.may_wake_host()) {
            return false;
        }
        if self.is_suspended() {
            self.status |= bit::RESUME;
        }
        true
    }

    /// Offers a transaction at `speed` to the device.
    pub fn transact(&self, speed: Speed, token: Token, transaction: Transaction, frame: u64) -> Response {
        match &self.device {
            Some(device) if self.is_active() && device.speed() == speed => device.transact(token, transaction, frame),
            _ => Response::Silence,
        }
    }

    /// Whether transactions reach the device.
    fn is_active(&self) -> bool {
        self.status & (bit::ENABLED | bit::SUSPEND) == bit::ENABLED
    }

    /// The device, while transactions reach it.
    pub fn active_device(&self) -> Option<&Arc<dyn UsbDevice>> {
        self.device.as_ref().filter(|_| self.is_active())
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.u16(self.status);
        writer.u8(self.device.is_some().into());
        if let Some(device) = &self.device {
            device.save(writer);
        }
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        let status = reader.u16()?;
        if status & !(CHANGES | WRITABLE) != 0 {
            return Err(reader.invalid(&format!("{status:#x} in PORTSC")));
        }
        if reader.bool()? != self.device.is_some() {
            return Err(reader.invalid("a USB port has a device there or here alone"));
        }
        self.status = status;
        match &self.device {
            Some(device) => device.load(reader),
            None => {
                self.status &= !bit::ENABLED;
                Ok(())
            }
        }
    }
}
