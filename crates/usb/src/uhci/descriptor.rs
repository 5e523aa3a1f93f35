use super::registers::{Fault, system_error};
use hv::GuestMemory;

/// Bytes that 32-bit addresses reach.
const ADDRESS_SPACE: u64 = 1 << 32;

/// PID codes of tokens. USB 2.0, table 8-1.
pub(super) const PID_OUT: u8 = 0xE1;
pub(super) const PID_IN: u8 = 0x69;
pub(super) const PID_SETUP: u8 = 0x2D;

/// The second doubleword of a transfer descriptor. UHCI, section 3.2.2.
pub(super) mod control {
    /// ActLen: bytes that were moved, less one.
    pub const ACTUAL_LENGTH: u32 = 0x7FF;
    pub const CRC_OR_TIMEOUT: u32 = 1 << 18;
    pub const NAK: u32 = 1 << 19;
    pub const BABBLE: u32 = 1 << 20;
    pub const STALLED: u32 = 1 << 22;
    pub const ACTIVE: u32 = 1 << 23;
    /// Bits 17 to 23.
    pub const STATUS: u32 = 0x00FE_0000;
    /// Interrupt on complete.
    pub const IOC: u32 = 1 << 24;
    /// Isochronous select.
    pub const IOS: u32 = 1 << 25;
    pub const LOW_SPEED: u32 = 1 << 26;
    /// C_ERR: how many errors are left; 0 at first: as many as there are.
    pub const ERRORS: u32 = 3 << 27;
    pub const ONE_ERROR: u32 = 1 << 27;
    /// Short packet detect.
    pub const SPD: u32 = 1 << 29;
}

/// The longest packet. Lengths behind it, but for that of no bytes, are a process error. UHCI, section 3.2.3.
const MAX_LENGTH: u32 = 1280;

/// A pointer of the schedule: to a transfer descriptor or a queue head, or nowhere. UHCI, section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(pub u32);

impl Link {
    /// T: there is nothing behind it.
    pub fn is_end(self) -> bool {
        self.0 & 1 != 0
    }

    /// Q: it leads to a queue head.
    pub fn is_queue(self) -> bool {
        self.0 & 2 != 0
    }

    /// Vf: the next of this queue is due before the next queue.
    pub fn is_depth_first(self) -> bool {
        self.0 & 4 != 0
    }

    pub fn address(self) -> u64 {
        u64::from(self.0 & !0xF)
    }
}

/// A queue head. UHCI, section 3.3.
pub(super) struct QueueHead {
    pub address: u64,
    /// The next queue.
    pub link: Link,
    /// The first of this one.
    pub element: Link,
}

impl QueueHead {
    pub fn load(memory: &GuestMemory, address: u64) -> Result<Self, Fault> {
        let link = Link(memory.load_u32(address).map_err(system_error)?);
        let element = Link(memory.load_u32(address + 4).map_err(system_error)?);
        Ok(QueueHead { address, link, element })
    }

    pub fn set_element(&self, memory: &GuestMemory, element: Link) -> Result<(), Fault> {
        memory.store_u32(self.address + 4, element.0).map_err(system_error)
    }
}

/// A transfer descriptor, as it was when it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransferDescriptor {
    pub address: u64,
    pub link: Link,
    pub control: u32,
    token: u32,
    buffer: u32,
}

impl TransferDescriptor {
    /// Reads one. Drivers fill in all the rest before they set Active, so that is read first.
    pub fn load(memory: &GuestMemory, address: u64) -> Result<Self, Fault> {
        let load = |at| memory.load_u32(address + at).map_err(system_error);
        let control = load(4)?;
        Ok(TransferDescriptor { address, link: Link(load(0)?), control, token: load(8)?, buffer: load(12)? })
    }

    pub fn is_active(&self) -> bool {
        self.control & control::ACTIVE != 0
    }

    pub fn pid(&self) -> u8 {
        self.token as u8
    }

    pub fn device(&self) -> u8 {
        (self.token >> 8) as u8 & 0x7F
    }

    pub fn endpoint(&self) -> u8 {
        (self.token >> 15) as u8 & 0x0F
    }

    /// The sequence bit to send or to expect.
    pub fn toggle(&self) -> bool {
        self.token & 1 << 19 != 0
    }

    /// MaxLen in bytes.
    ///
    /// # Errors
    /// [`Fault::Process`] for a length that there is not.
    pub fn length(&self) -> Result<usize, Fault> {
        match (self.token >> 21) + 1 {
            0x800 => Ok(0),
            length if length <= MAX_LENGTH => Ok(length as usize),
            _ => Err(Fault::Process),
        }
    }

    /// The guest physical address of `length` bytes of the buffer.
    ///
    /// # Errors
    /// [`Fault::System`] when they go beyond what a 32-bit address reaches.
    fn buffer(&self, length: usize) -> Result<u64, Fault> {
        let address = u64::from(self.buffer);
        if address + length as u64 > ADDRESS_SPACE { Err(Fault::System) } else { Ok(address) }
    }

    /// Copies `length` bytes, as [`TransferDescriptor::length`] gave them, out of the buffer.
    pub fn read_buffer(&self, memory: &GuestMemory, length: usize) -> Result<Vec<u8>, Fault> {
        let mut data = vec![0; length];
        memory.read(self.buffer(length)?, &mut data).map_err(system_error)?;
        Ok(data)
    }

    pub fn write_buffer(&self, memory: &GuestMemory, data: &[u8]) -> Result<(), Fault> {
        memory.write(self.buffer(data.len())?, data).map_err(system_error)
    }

    /// Writes the doubleword of status, if it changes.
    pub fn set_control(&self, memory: &GuestMemory, control: u32) -> Result<(), Fault> {
        if control == self.control {
            return Ok(());
        }
        memory.store_u32(self.address + 4, control).map_err(system_error)
    }
}

/// ActLen of `length` bytes.
pub(super) fn actual_length(length: usize) -> u32 {
    (length as u32).wrapping_sub(1) & control::ACTUAL_LENGTH
}
