use crate::dispi::Dispi;
use crate::registers::Registers;
use crate::vram::Vram;
use board::{StateReader, StateWriter};
use std::time::Duration;

const STATE_VERSION: u32 = 1;

/// All that the card remembers beside its memory.
pub(crate) struct State {
    pub registers: Registers,
    pub dispi: Dispi,
    /// The bytes of the four planes that were read last, plane 0 lowest.
    pub latch: u32,
    /// Pixels of more than a byte have their highest byte first.
    pub big_endian: bool,
}

impl State {
    /// After a reset, for a card with so many bytes of memory.
    pub fn new(memory: u32) -> Self {
        State { registers: Registers::new(), dispi: Dispi::new(memory), latch: 0, big_endian: false }
    }

    /// Reads VGA ports, a byte each.
    pub fn read_ports(&mut self, first: u16, data: &mut [u8], time: Duration) {
        for (port, byte) in (first..).zip(data) {
            *byte = self.registers.read(port, time);
        }
    }

    /// Writes VGA ports, a byte each: an index port before its data port.
    pub fn write_ports(&mut self, first: u16, data: &[u8]) {
        for (port, byte) in (first..).zip(data) {
            self.registers.write(port, *byte);
        }
    }

    /// Reads the ports of the Bochs VBE interface, `offset` counted from 0x1CE. Its data port lies at 0x1CF, where an access
    /// of a word comes in two bytes, and at 0x1D0.
    pub fn read_dispi_ports(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            0 => self.dispi.index(),
            1 => self.dispi.read_data(),
            2 if data.len() == 1 => self.dispi.read_data() >> 8,
            2 => self.dispi.read_data(),
            _ => 0xFFFF,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// Writes the ports of the Bochs VBE interface.
    pub fn write_dispi_ports(&mut self, offset: u64, data: &[u8], vram: &Vram) {
        let clear = match (offset, data) {
            (0, &[low]) => {
                self.dispi.set_index(low.into());
                None
            }
            (0, &[low, high]) => {
                self.dispi.set_index(u16::from_le_bytes([low, high]));
                None
            }
            (1, &[low]) => {
                self.dispi.write_low(low);
                None
            }
            (2, &[high]) => self.dispi.write_high(high),
            (2, &[low, high]) => self.dispi.write_data(u16::from_le_bytes([low, high])),
            _ => None,
        };
        self.follow_dispi(clear, vram);
    }

    /// Writes register `index` of the Bochs VBE interface.
    pub fn write_dispi(&mut self, index: u16, value: u16, vram: &Vram) {
        let clear = self.dispi.write(index, value);
        self.follow_dispi(clear, vram);
    }

    fn follow_dispi(&mut self, clear: Option<u32>, vram: &Vram) {
        self.registers.dac.eight_bit = self.dispi.eight_bit_dac();
        if let Some(size) = clear {
            vram.clear(size.into());
        }
    }

    pub fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.registers.save(&mut writer);
        self.dispi.save(&mut writer);
        writer.u32(self.latch);
        writer.u8(self.big_endian.into());
        writer.finish()
    }

    /// Loads what [`State::save`] gave, for a card with so many bytes of memory.
    pub fn load(state: &[u8], memory: u32) -> Result<Self, String> {
        let mut reader = StateReader::new("vga", state, STATE_VERSION)?;
        let mut registers = Registers::load(&mut reader)?;
        let dispi = Dispi::load(&mut reader, memory)?;
        registers.dac.eight_bit = dispi.eight_bit_dac();
        let state = State { registers, dispi, latch: reader.u32()?, big_endian: reader.bool()? };
        reader.finish()?;
        Ok(state)
    }
}
