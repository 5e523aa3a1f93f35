//! What the processor sees of video memory at 0xA0000..=0xBFFFF. VGA, "Graphics Controller Registers" and "Sequencer
//! Registers".

use crate::state::State;
use crate::vram::Vram;

/// Registers of the graphics controller.
mod register {
    pub const SET_RESET: usize = 0;
    pub const ENABLE_SET_RESET: usize = 1;
    pub const COLOUR_COMPARE: usize = 2;
    pub const DATA_ROTATE: usize = 3;
    pub const READ_MAP_SELECT: usize = 4;
    pub const MODE: usize = 5;
    pub const MISCELLANEOUS: usize = 6;
    pub const COLOUR_DONT_CARE: usize = 7;
    pub const BIT_MASK: usize = 8;
}

/// Mode register: reads compare with a colour.
const READ_COMPARES: u8 = 1 << 3;
/// Mode register: reads of odd addresses are of odd planes.
const READ_ODD_EVEN: u8 = 1 << 4;

/// What an address in the window is.
enum Place {
    /// A byte of memory, planes disregarded.
    Byte(u64),
    /// An address in the planes as the processor counts, and what is added to it behind its modes.
    Planes { address: u32, bank: u32 },
}

/// All bits of the planes whose bit is set in `planes`, of which there are four.
fn expand(planes: u8) -> u32 {
    (0..4).map(|plane| (u32::from(planes >> plane & 1) * 0xFF) << (8 * plane)).sum()
}

impl State {
    /// Reads `data.len()` bytes at `offset` in the window of 128 KiB.
    pub fn read_window(&mut self, vram: &Vram, offset: u64, data: &mut [u8]) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = match self.place(offset) {
                None => 0xFF,
                Some(Place::Byte(at)) => {
                    let mut byte = [0];
                    vram.read(at, &mut byte);
                    byte[0]
                }
                Some(Place::Planes { address, bank }) => self.read_planes(vram, address, bank),
            };
        }
    }

    /// Writes at `offset` in the window of 128 KiB.
    pub fn write_window(&mut self, vram: &Vram, offset: u64, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            match self.place(offset) {
                None => {}
                Some(Place::Byte(at)) => vram.write(at, &[*byte]),
                Some(Place::Planes { address, bank }) => self.write_planes(vram, address, bank, *byte),
            }
        }
    }

    /// What lies at `offset` in the window, if anything.
    fn place(&self, offset: u64) -> Option<Place> {
        let bank = if self.dispi.enabled() { self.dispi.bank() << 16 } else { 0 };
        if self.dispi.enabled() && !self.dispi.planar() {
            return (offset < 0x1_0000).then(|| Place::Byte(u64::from(bank) + offset));
        }
        let (first, size) = match self.registers.graphics(register::MISCELLANEOUS) >> 2 & 3 {
            0 => (0x0_0000, 0x2_0000),
            1 => (0x0_0000, 0x1_0000),
            2 => (0x1_0000, 0x0_8000),
            _ => (0x1_8000, 0x0_8000),
        };
        let address = offset.checked_sub(first).filter(|address| *address < size && self.registers.ram_enabled())?;
        Some(Place::Planes { address: address as u32, bank })
    }

    /// The address in each plane that all four planes share one of in turn: the upper bits come back as the lowest.
    fn chained(address: u32) -> u32 {
        address & 0xFFFC | address >> 14 & 3
    }

    /// The address in each plane where odd and even planes take turns.
    fn halved(address: u32) -> u32 {
        address & 0xFFFE | address >> 16 & 1
    }

    fn read_planes(&mut self, vram: &Vram, address: u32, bank: u32) -> u8 {
        let registers = &self.registers;
        let select = registers.graphics(register::READ_MAP_SELECT);
        let mode = registers.graphics(register::MODE);
        let (plane, at) = if registers.chain4() {
            (address & 3, Self::chained(address))
        } else if mode & READ_ODD_EVEN != 0 {
            (u32::from(select & 2) | address & 1, Self::halved(address))
        } else {
            (u32::from(select & 3), address & 0xFFFF)
        };
        let latch = vram.planes(bank + at);
        let value = if mode & READ_COMPARES != 0 {
            let colour = expand(registers.graphics(register::COLOUR_COMPARE));
            let different = (latch ^ colour) & expand(registers.graphics(register::COLOUR_DONT_CARE));
            !different.to_le_bytes().into_iter().fold(0, |all, plane| all | plane)
        } else {
            (latch >> (8 * plane)) as u8
        };
        self.latch = latch;
        value
    }

    fn write_planes(&mut self, vram: &Vram, address: u32, bank: u32, value: u8) {
        let registers = &self.registers;
        let mut planes = registers.map_mask();
        let at = if registers.chain4() {
            planes &= 1 << (address & 3);
            Self::chained(address)
        } else if registers.odd_even() {
            planes &= 0b0101 << (address & 1);
            Self::halved(address)
        } else {
            address & 0xFFFF
        };
        let written = expand(planes);
        if written != 0 {
            let kept = if written == u32::MAX { 0 } else { vram.planes(bank + at) };
            vram.set_planes(bank + at, kept & !written | self.combined(value) & written);
        }
    }

    /// What a write of `value` puts into the four planes.
    fn combined(&self, value: u8) -> u32 {
        let register = |index| self.registers.graphics(index);
        let rotate = register(register::DATA_ROTATE);
        let rotated = value.rotate_right(u32::from(rotate & 7));
        let everywhere = |byte: u8| u32::from(byte) * 0x0101_0101;
        let set = expand(register(register::SET_RESET));
        let mut mask = everywhere(register(register::BIT_MASK));
        let data = match register(register::MODE) & 3 {
            0 => {
                let enabled = expand(register(register::ENABLE_SET_RESET));
                everywhere(rotated) & !enabled | set & enabled
            }
            1 => return self.latch,
            2 => expand(value & 0x0F),
            _ => {
                mask &= everywhere(rotated);
                set
            }
        };
        let data = match rotate >> 3 & 3 {
            0 => data,
            1 => data & self.latch,
            2 => data | self.latch,
            _ => data ^ self.latch,
        };
        data & mask | self.latch & !mask
    }
}
