use super::register::{
    CLB_MASK, FB_MASK, SCTL_BITS, SCTL_DET, SCTL_DET_OFFLINE, SCTL_DET_RESET, SERR_DIAG_N, SERR_DIAG_X, SIG_NONE,
    SSTS_ACTIVE, SSTS_OFFLINE, STATUS_NO_DEVICE, cmd, interrupt, port,
};
use crate::registers::status;
use board::{StateReader, StateWriter};

/// What a write to a port's register leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// PxCMD.ST was set or cleared.
    Start,
    Stop,
    /// PxCMD.FRE was set.
    Receive,
    /// The interface is reset or off, or comes back from that.
    LinkDown,
    LinkUp,
}

/// A port's registers. AHCI 1.3.1, section 3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// Where the command list and the received FIS structure are.
    pub list: u64,
    pub received: u64,
    /// IS without what shows SERR.
    pub status: u32,
    pub enable: u32,
    pub command: u32,
    /// The slot that was fetched last, PxCMD.CCS, and the one that has its turn next.
    pub slot: u8,
    pub next: u8,
    /// The device's status and error as it told them last, PxTFD.
    pub device_status: u8,
    pub device_error: u8,
    pub signature: u32,
    /// SCTL.
    pub control: u32,
    /// SERR.
    pub error: u32,
    /// SACT: tags of queued commands that are not done.
    pub active: u32,
    /// CI: slots with commands that are not done, or that the device has not taken into its queue.
    pub issue: u32,
}

/// Puts what is written into the bits of `mask` into a register.
fn merge(register: &mut u32, value: u32, mask: u32) {
    *register = *register & !mask | value & mask;
}

/// The same for a half of a register of 64 bits.
fn merge_half(register: &mut u64, shift: u32, value: u32, mask: u32) {
    *register = *register & !(u64::from(mask) << shift) | u64::from(value & mask) << shift;
}

impl Registers {
    /// After power-on.
    pub const RESET: Registers = Registers {
        list: 0,
        received: 0,
        status: 0,
        enable: 0,
        command: 0,
        slot: 0,
        next: 0,
        device_status: STATUS_NO_DEVICE,
        device_error: 0,
        signature: SIG_NONE,
        control: 0,
        error: 0,
        active: 0,
        issue: 0,
    };

    /// Commands are taken, PxCMD.ST.
    pub fn started(&self) -> bool {
        self.command & cmd::ST != 0
    }

    /// FISes are received, PxCMD.FRE.
    pub fn receives(&self) -> bool {
        self.command & cmd::FRE != 0
    }

    /// Neither reset nor off is asked for.
    pub fn link_wanted(&self) -> bool {
        !matches!(self.control & SCTL_DET, SCTL_DET_RESET | SCTL_DET_OFFLINE)
    }

    /// IS.
    fn interrupt_status(&self) -> u32 {
        let shown = |error: u32, bit: u32| if self.error & error != 0 { bit } else { 0 };
        self.status | shown(SERR_DIAG_X, interrupt::PCS) | shown(SERR_DIAG_N, interrupt::PRCS)
    }

    /// Whether there is an interrupt that is enabled.
    pub fn interrupts(&self) -> bool {
        self.interrupt_status() & self.enable != 0
    }

    /// Reads the register at `offset`, a multiple of 4. `device`: there is one; `running`: commands are carried out, though
    /// ST may be clear.
    pub fn read(&self, offset: u64, device: bool, running: bool) -> u32 {
        match offset {
            port::CLB => self.list as u32,
            port::CLBU => (self.list >> 32) as u32,
            port::FB => self.received as u32,
            port::FBU => (self.received >> 32) as u32,
            port::IS => self.interrupt_status(),
            port::IE => self.enable,
            port::CMD => {
                let shows = |on: bool, bit: u32| if on { bit } else { 0 };
                let busy = self.started() || running;
                self.command
                    | cmd::SUD
                    | cmd::POD
                    | shows(busy, cmd::CR)
                    | shows(self.receives() || busy, cmd::FR)
                    | u32::from(self.slot) << cmd::CCS_SHIFT
            }
            port::TFD => u32::from(self.device_status) | u32::from(self.device_error) << 8,
            port::SIG => self.signature,
            port::SSTS => match self.control & SCTL_DET {
                SCTL_DET_OFFLINE => SSTS_OFFLINE,
                SCTL_DET_RESET => 0,
                _ if device => SSTS_ACTIVE,
                _ => 0,
            },
            port::SCTL => self.control,
            port::SERR => self.error,
            port::SACT => self.active,
            port::CI => self.issue,
            _ => 0,
        }
    }

    /// Writes those bits of the register at `offset`, a multiple of 4, that are set in `mask`.
    #[must_use]
    pub fn write(&mut self, offset: u64, value: u32, mask: u32) -> Effect {
        let set = value & mask;
        match offset {
            port::CLB => merge_half(&mut self.list, 0, value, mask & CLB_MASK as u32),
            port::CLBU => merge_half(&mut self.list, 32, value, mask),
            port::FB => merge_half(&mut self.received, 0, value, mask & FB_MASK as u32),
            port::FBU => merge_half(&mut self.received, 32, value, mask),
            port::IS => self.status &= !set,
            port::IE => merge(&mut self.enable, value, mask & interrupt::ALL),
            port::CMD => return self.write_command(value, mask),
            port::SCTL => {
                let before = self.link_wanted();
                merge(&mut self.control, value, mask & SCTL_BITS);
                match (before, self.link_wanted()) {
                    (true, false) => return Effect::LinkDown,
                    (false, true) => return Effect::LinkUp,
                    _ => {}
                }
            }
            port::SERR => self.error &= !set,
            // Bits are set here, and cleared by the device, while commands are taken.
            port::SACT if self.started() => self.active |= set,
            port::CI if self.started() => self.issue |= set,
            _ => {}
        }
        Effect::None
    }

    fn write_command(&mut self, value: u32, mask: u32) -> Effect {
        let (started, received) = (self.started(), self.receives());
        if value & mask & cmd::CLO != 0 && !started {
            self.device_status &= !(status::BSY | status::DRQ);
        }
        merge(&mut self.command, value, mask & cmd::HELD);
        match (started, self.started(), received, self.receives()) {
            (false, true, ..) => Effect::Start,
            (true, false, ..) => Effect::Stop,
            (.., false, true) => Effect::Receive,
            _ => Effect::None,
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.u64(self.list);
        writer.u64(self.received);
        for word in [self.status, self.enable, self.command, self.signature, self.control, self.error] {
            writer.u32(word);
        }
        writer.u32(self.active);
        writer.u32(self.issue);
        for byte in [self.slot, self.next, self.device_status, self.device_error] {
            writer.u8(byte);
        }
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        Ok(Registers {
            list: reader.u64()? & CLB_MASK,
            received: reader.u64()? & FB_MASK,
            status: reader.u32()? & interrupt::LATCHED,
            enable: reader.u32()? & interrupt::ALL,
            command: reader.u32()? & cmd::HELD,
            signature: reader.u32()?,
            control: reader.u32()? & SCTL_BITS,
            error: reader.u32()?,
            active: reader.u32()?,
            issue: reader.u32()?,
            slot: reader.u8()? & 31,
            next: reader.u8()? & 31,
            device_status: reader.u8()?,
            device_error: reader.u8()?,
        })
    }
}
