use crate::crtc::{CRTC_REGISTERS, Crtc};
use crate::dac::Dac;
use board::{StateReader, StateWriter};
use std::time::Duration;

/// Bits that the sequencer's registers have.
const SEQUENCER_MASKS: [u8; 5] = [0x03, 0x3D, 0x0F, 0x3F, 0x0E];
/// Bits that the graphics controller's registers have.
const GRAPHICS_MASKS: [u8; 9] = [0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF];
/// Bits that the attribute controller's registers have, behind the 16 of its palette with 6 bits each.
const ATTRIBUTE_MASKS: [u8; 5] = [0xEF, 0xFF, 0x3F, 0x0F, 0x0F];
const ATTRIBUTE_REGISTERS: usize = 16 + ATTRIBUTE_MASKS.len();

/// Attribute address register: the palette is the display's, not the processor's; without it the screen is dark.
const PALETTE_SOURCE: u8 = 1 << 5;
/// Miscellaneous output register: CRT controller and status lie at 0x3D0, not at 0x3B0.
const MISC_COLOUR: u8 = 1 << 0;
/// Miscellaneous output register: the processor reaches video memory.
const MISC_ENABLE_RAM: u8 = 1 << 1;
/// Clocking mode register: characters are 8 dots wide, not 9.
const EIGHT_DOTS: u8 = 1 << 0;
/// Clocking mode register: dots are twice as wide.
const WIDE_DOTS: u8 = 1 << 3;
/// Clocking mode register: the screen is dark.
const SCREEN_OFF: u8 = 1 << 5;

/// Input status register 1.
const STATUS_BLANK: u8 = 1 << 0;
const STATUS_RETRACE: u8 = 1 << 3;

/// Dots in a second, by the clock select bits of the miscellaneous output register. There is no third clock.
const CLOCKS: [u64; 4] = [25_175_000, 28_322_000, 25_175_000, 25_175_000];

/// The VGA's registers at ports 0x3B0..=0x3DF. VGA, "Registers".
#[derive(Clone)]
pub(crate) struct Registers {
    misc: u8,
    feature: u8,
    /// Video subsystem enable: keeps its value, which nothing obeys.
    enable: u8,
    sequencer_index: u8,
    sequencer: [u8; SEQUENCER_MASKS.len()],
    crtc_index: u8,
    pub crtc: Crtc,
    graphics_index: u8,
    graphics: [u8; GRAPHICS_MASKS.len()],
    /// With [`PALETTE_SOURCE`].
    attribute_index: u8,
    attribute: [u8; ATTRIBUTE_REGISTERS],
    /// The next write to the attribute controller is data, not an index.
    attribute_data: bool,
    pub dac: Dac,
}

impl Registers {
    /// After a reset: all zero, the screen is dark.
    pub fn new() -> Self {
        Registers {
            misc: 0,
            feature: 0,
            enable: 1,
            sequencer_index: 0,
            sequencer: Default::default(),
            crtc_index: 0,
            crtc: Crtc::new(),
            graphics_index: 0,
            graphics: Default::default(),
            attribute_index: 0,
            attribute: [0; ATTRIBUTE_REGISTERS],
            attribute_data: false,
            dac: Dac::new(),
        }
    }

    /// The sequencer's map mask: the planes that writes reach.
    pub fn map_mask(&self) -> u8 {
        self.sequencer[2]
    }

    /// The sequencer's character map select register.
    pub fn character_maps(&self) -> u8 {
        self.sequencer[3]
    }

    /// The sequencer's memory mode: four planes are one byte after another.
    pub fn chain4(&self) -> bool {
        self.sequencer[4] & 0x08 != 0
    }

    /// The sequencer's memory mode: odd addresses are odd planes.
    pub fn odd_even(&self) -> bool {
        self.sequencer[4] & 0x04 == 0
    }

    /// Register `index` of the graphics controller, which has 9.
    pub fn graphics(&self, index: usize) -> u8 {
        self.graphics[index]
    }

    /// Register `index` of the attribute controller, which has 21.
    pub fn attribute(&self, index: usize) -> u8 {
        self.attribute[index]
    }

    /// The processor reaches video memory.
    pub fn ram_enabled(&self) -> bool {
        self.misc & MISC_ENABLE_RAM != 0
    }

    /// The screen is dark, whatever memory holds.
    pub fn dark(&self) -> bool {
        self.attribute_index & PALETTE_SOURCE == 0 || self.sequencer[1] & SCREEN_OFF != 0
    }

    /// Dots of a character: 8 or 9.
    pub fn character_dots(&self) -> u32 {
        if self.sequencer[1] & EIGHT_DOTS != 0 { 8 } else { 9 }
    }

    /// Dots are two pixels wide.
    pub fn wide_dots(&self) -> bool {
        self.sequencer[1] & WIDE_DOTS != 0
    }

    /// What the screen shows for a colour of 4 bits, as 0x00RRGGBB.
    pub fn colour(&self, value: u8) -> u32 {
        let [mode, planes, select] = [0x10, 0x12, 0x14].map(|index| self.attribute[index]);
        let entry = self.attribute[usize::from(value & planes & 0x0F)];
        let low = if mode & 0x80 != 0 { entry & 0x0F | (select & 3) << 4 } else { entry };
        self.dac.colour(low | (select & 0x0C) << 4)
    }

    /// Reads a port, `time` after the card was switched on.
    pub fn read(&mut self, port: u16, time: Duration) -> u8 {
        match port {
            0x3C0 => self.attribute_index,
            0x3C1 => self.attribute.get(usize::from(self.attribute_index & 0x1F)).copied().unwrap_or(0),
            // Input status 0: no interrupt, and switches as cards have them that no one looks at.
            0x3C2 => 0,
            0x3C3 => self.enable,
            0x3C4 => self.sequencer_index,
            0x3C5 => self.sequencer.get(usize::from(self.sequencer_index)).copied().unwrap_or(0),
            0x3C6 => self.dac.mask,
            0x3C7 => self.dac.state(),
            0x3C8 => self.dac.write_index(),
            0x3C9 => self.dac.read(),
            0x3CA => self.feature,
            0x3CC => self.misc,
            0x3CE => self.graphics_index,
            0x3CF => self.graphics.get(usize::from(self.graphics_index)).copied().unwrap_or(0),
            _ => match self.movable(port) {
                Some(4) => self.crtc_index,
                Some(5) => self.crtc.read(self.crtc_index),
                Some(0xA) => {
                    self.attribute_data = false;
                    self.status(time)
                }
                _ => 0xFF,
            },
        }
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x3C0 => self.write_attribute(value),
            0x3C2 => self.misc = value,
            0x3C3 => self.enable = value & 1,
            0x3C4 => self.sequencer_index = value & 7,
            0x3C5 => set(&mut self.sequencer, &SEQUENCER_MASKS, self.sequencer_index, value),
            0x3C6 => self.dac.mask = value,
            0x3C7 => self.dac.set_read_index(value),
            0x3C8 => self.dac.set_write_index(value),
            0x3C9 => self.dac.write(value),
            0x3CE => self.graphics_index = value & 0x0F,
            0x3CF => set(&mut self.graphics, &GRAPHICS_MASKS, self.graphics_index, value),
            _ => match self.movable(port) {
                Some(4) => self.crtc_index = value & 0x3F,
                Some(5) => self.crtc.write(self.crtc_index, value),
                Some(0xA) => self.feature = value & 3,
                _ => {}
            },
        }
    }

    /// The last digit of a port that lies where CRT controller and status are now.
    fn movable(&self, port: u16) -> Option<u16> {
        let base = if self.misc & MISC_COLOUR != 0 { 0x3D0 } else { 0x3B0 };
        (port & 0xFF0 == base).then_some(port & 0xF)
    }

    fn write_attribute(&mut self, value: u8) {
        let index = self.attribute_index & 0x1F;
        if !self.attribute_data {
            self.attribute_index = value & (PALETTE_SOURCE | 0x1F);
        } else if index < 16 {
            self.attribute[usize::from(index)] = value & 0x3F;
        } else {
            set(&mut self.attribute[16..], &ATTRIBUTE_MASKS, index - 16, value);
        }
        self.attribute_data = !self.attribute_data;
    }

    fn status(&self, time: Duration) -> u8 {
        let dots = u64::from(self.character_dots()) << u32::from(self.wide_dots());
        let beam = self.crtc.beam(time, CLOCKS[usize::from(self.misc >> 2 & 3)], dots);
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(beam.blank, STATUS_BLANK) | bit(beam.retrace, STATUS_RETRACE)
    }

    pub fn save(&self, writer: &mut StateWriter) {
        for byte in [
            self.misc,
            self.feature,
            self.enable,
            self.sequencer_index,
            self.crtc_index,
            self.graphics_index,
            self.attribute_index,
            self.attribute_data.into(),
        ] {
            writer.u8(byte);
        }
        let files: [&[u8]; 4] = [&self.sequencer, self.crtc.registers(), &self.graphics, &self.attribute];
        files.into_iter().flatten().for_each(|byte| writer.u8(*byte));
        self.dac.save(writer);
    }

    pub fn load(reader: &mut StateReader<'_>) -> Result<Self, String> {
        let mut registers = Registers::new();
        registers.misc = reader.u8()?;
        registers.feature = reader.u8()? & 3;
        registers.enable = reader.u8()? & 1;
        registers.sequencer_index = reader.u8()? & 7;
        registers.crtc_index = reader.u8()? & 0x3F;
        registers.graphics_index = reader.u8()? & 0x0F;
        registers.attribute_index = reader.u8()? & (PALETTE_SOURCE | 0x1F);
        registers.attribute_data = reader.bool()?;
        for (register, mask) in registers.sequencer.iter_mut().zip(SEQUENCER_MASKS) {
            *register = reader.u8()? & mask;
        }
        for index in 0..CRTC_REGISTERS {
            registers.crtc.set(index as u8, reader.u8()?);
        }
        for (register, mask) in registers.graphics.iter_mut().zip(GRAPHICS_MASKS) {
            *register = reader.u8()? & mask;
        }
        for (register, mask) in registers.attribute.iter_mut().zip([0x3F; 16].into_iter().chain(ATTRIBUTE_MASKS)) {
            *register = reader.u8()? & mask;
        }
        registers.dac = Dac::load(reader)?;
        Ok(registers)
    }
}

/// Sets a register to what it has bits for; where there is none nothing happens.
fn set(registers: &mut [u8], masks: &[u8], index: u8, value: u8) {
    let index = usize::from(index);
    if let (Some(register), Some(mask)) = (registers.get_mut(index), masks.get(index)) {
        *register = value & mask;
    }
}
