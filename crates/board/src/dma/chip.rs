//! One 8237A: its registers and how its channels count. Intel 8237A data sheet, "Register description" and "Programming".

use crate::{StateReader, StateWriter};

/// Registers behind those of the channels.
mod register {
    /// Status when read, command when written.
    pub const STATUS: u8 = 0x8;
    pub const REQUEST: u8 = 0x9;
    pub const SINGLE_MASK: u8 = 0xA;
    pub const MODE: u8 = 0xB;
    pub const CLEAR_FLIP_FLOP: u8 = 0xC;
    /// The temporary register when read, master clear when written.
    pub const MASTER_CLEAR: u8 = 0xD;
    pub const CLEAR_MASK: u8 = 0xE;
    pub const ALL_MASKS: u8 = 0xF;
}

const COMMAND_DISABLE: u8 = 1 << 2;

const MODE_TRANSFER: u8 = 3 << 2;
const MODE_VERIFY: u8 = 0 << 2;
const MODE_WRITE: u8 = 1 << 2;
const MODE_READ: u8 = 2 << 2;
const MODE_AUTOINIT: u8 = 1 << 4;
const MODE_DOWN: u8 = 1 << 5;
const MODE_SELECT: u8 = 3 << 6;
const MODE_BLOCK: u8 = 2 << 6;
const MODE_CASCADE: u8 = 3 << 6;

/// In the request and mask registers: set the bit of the channel that the lowest two bits name.
const SET: u8 = 1 << 2;

/// What a device wants of a channel, as the data sheet calls it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the device to memory.
    Write,
    /// From memory to the device.
    Read,
}

/// A part of a transfer: `units` bytes or words from `start` on, upwards or `down`.
pub struct Run {
    pub start: u16,
    pub units: usize,
    pub down: bool,
    /// Memory is to be left alone.
    pub verify: bool,
    pub terminal_count: bool,
}

#[derive(Clone, Copy, Default)]
struct Channel {
    base_address: u16,
    base_count: u16,
    address: u16,
    count: u16,
    mode: u8,
}

#[derive(Clone, Copy)]
pub struct Chip {
    channels: [Channel; 4],
    command: u8,
    /// By channel, as all below.
    mask: u8,
    software_requests: u8,
    /// DREQ.
    requests: u8,
    terminal_counts: u8,
    /// The next access to an address or count is its high byte.
    high: bool,
}

impl Default for Chip {
    fn default() -> Self {
        Chip {
            channels: Default::default(),
            command: 0,
            mask: 0xF,
            software_requests: 0,
            requests: 0,
            terminal_counts: 0,
            high: false,
        }
    }
}

impl Chip {
    /// Sets channel 0 up to pass on the requests of another controller.
    pub fn cascade(&mut self) {
        self.channels[0].mode = MODE_CASCADE;
        self.mask &= !1;
    }

    /// Channel 0 passes on requests.
    pub fn cascades(&self) -> bool {
        self.command & COMMAND_DISABLE == 0 && self.mask & 1 == 0 && self.channels[0].mode & MODE_SELECT == MODE_CASCADE
    }

    pub fn set_request(&mut self, channel: usize, wanted: bool) {
        let bit = 1 << channel;
        self.requests = if wanted { self.requests | bit } else { self.requests & !bit };
    }

    /// Counts up to `units` for a device, not beyond the terminal count. `None` when the channel does not serve it.
    pub fn advance(&mut self, channel: usize, units: usize, kind: Kind) -> Option<Run> {
        let mode = self.channels[channel].mode;
        let verify = mode & MODE_TRANSFER == MODE_VERIFY && kind == Kind::Write;
        let fits = match kind {
            Kind::Write => verify || mode & MODE_TRANSFER == MODE_WRITE,
            Kind::Read => mode & MODE_TRANSFER == MODE_READ,
        };
        let serves = self.command & COMMAND_DISABLE == 0 && self.mask & 1 << channel == 0;
        if !fits || !serves || mode & MODE_SELECT == MODE_CASCADE || units == 0 {
            return None;
        }
        Some(Run { verify, ..self.count(channel, units) })
    }

    fn count(&mut self, channel: usize, units: usize) -> Run {
        let state = &mut self.channels[channel];
        let left = usize::from(state.count) + 1;
        let units = units.min(left);
        let down = state.mode & MODE_DOWN != 0;
        let run = Run { start: state.address, units, down, verify: false, terminal_count: units == left };
        // 65,536 come around to 0, and leave the address where it was.
        let step = units as u16;
        state.address = if down { run.start.wrapping_sub(step) } else { run.start.wrapping_add(step) };
        state.count = state.count.wrapping_sub(step);
        if run.terminal_count {
            let bit = 1 << channel;
            self.terminal_counts |= bit;
            self.software_requests &= !bit;
            if state.mode & MODE_AUTOINIT != 0 {
                (state.address, state.count) = (state.base_address, state.base_count);
            } else {
                self.mask |= bit;
            }
        }
        run
    }

    /// Carries out software requests, which no mask holds off. They need block mode, and no device answers them: the channel
    /// counts, and nothing moves.
    fn serve_software_requests(&mut self) {
        for channel in 0..4 {
            let block = self.channels[channel].mode & MODE_SELECT == MODE_BLOCK;
            if self.command & COMMAND_DISABLE == 0 && block && self.software_requests & 1 << channel != 0 {
                self.count(channel, usize::from(u16::MAX) + 1);
            }
        }
    }

    pub fn read(&mut self, register: u8) -> u8 {
        match register {
            0..8 => {
                let channel = &self.channels[usize::from(register / 2)];
                let value = if register % 2 == 0 { channel.address } else { channel.count };
                value.to_le_bytes()[usize::from(self.flip())]
            }
            register::STATUS => {
                std::mem::take(&mut self.terminal_counts) | (self.requests | self.software_requests) << 4
            }
            register::ALL_MASKS => self.mask,
            // Among them the temporary register, which is memory-to-memory's.
            _ => 0,
        }
    }

    /// `open`: this controller's requests reach the bus.
    pub fn write(&mut self, register: u8, value: u8, open: bool) {
        let channel = usize::from(value & 3);
        let bit = 1 << channel;
        match register {
            0..8 => {
                let high = self.flip();
                let state = &mut self.channels[usize::from(register / 2)];
                let both = match register % 2 {
                    0 => [&mut state.base_address, &mut state.address],
                    _ => [&mut state.base_count, &mut state.count],
                };
                for word in both {
                    let mut bytes = word.to_le_bytes();
                    bytes[usize::from(high)] = value;
                    *word = u16::from_le_bytes(bytes);
                }
            }
            register::STATUS => self.command = value,
            register::REQUEST if value & SET != 0 => self.software_requests |= bit,
            register::REQUEST => self.software_requests &= !bit,
            register::SINGLE_MASK if value & SET != 0 => self.mask |= bit,
            register::SINGLE_MASK => self.mask &= !bit,
            register::MODE => self.channels[channel].mode = value & !3,
            register::CLEAR_FLIP_FLOP => self.high = false,
            register::MASTER_CLEAR => {
                let (channels, requests) = (self.channels, self.requests);
                *self = Chip { channels, requests, ..Chip::default() };
            }
            register::CLEAR_MASK => self.mask = 0,
            register::ALL_MASKS => self.mask = value & 0xF,
            _ => {}
        }
        if open {
            self.serve_software_requests();
        }
    }

    fn flip(&mut self) -> bool {
        let high = self.high;
        self.high = !high;
        high
    }

    pub fn save(&self, writer: &mut StateWriter) {
        for Channel { base_address, base_count, address, count, mode } in self.channels {
            [base_address, base_count, address, count].into_iter().for_each(|value| writer.u16(value));
            writer.u8(mode);
        }
        let bytes = [self.command, self.mask, self.software_requests, self.requests, self.terminal_counts];
        bytes.into_iter().chain([self.high.into()]).for_each(|byte| writer.u8(byte));
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let mut chip = Chip::default();
        for channel in &mut chip.channels {
            *channel = Channel {
                base_address: reader.u16()?,
                base_count: reader.u16()?,
                address: reader.u16()?,
                count: reader.u16()?,
                mode: reader.u8()? & !3,
            };
        }
        chip.command = reader.u8()?;
        for bits in [&mut chip.mask, &mut chip.software_requests, &mut chip.requests, &mut chip.terminal_counts] {
            *bits = reader.u8()? & 0xF;
        }
        chip.high = reader.bool()?;
        Ok(chip)
    }
}
