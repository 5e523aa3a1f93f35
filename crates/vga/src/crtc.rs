use std::time::Duration;

/// Registers of the CRT controller.
pub(crate) const CRTC_REGISTERS: usize = 0x19;

/// The smallest horizontal total in characters and vertical total in lines that are believed. What is less was left
/// behind half set, and guests would wait for a beam that moves too fast.
const SMALLEST_TOTAL: (u64, u64) = (20, 100);

/// The CRT controller: in which order video memory comes to the screen. VGA, "CRT Controller Registers".
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Crtc {
    registers: [u8; CRTC_REGISTERS],
}

/// Where the beam is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beam {
    /// Outside of the picture.
    pub blank: bool,
    /// On its way back to the top.
    pub retrace: bool,
}

/// The cursor of text modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The address counter's value of its character.
    pub address: u32,
    /// First and last of its scan lines in the character; nothing shows when the last comes before the first.
    pub first: u32,
    pub last: u32,
}

/// How the address counter becomes an address in the planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Byte,
    /// Shifted by one; the counter's bit of this number comes in.
    Word(u32),
    Doubleword,
}

/// The order in which planes are read: rows of characters, which are a few scan lines high, in graphics modes as well.
/// All values are bounded, so that nothing here overflows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scanout {
    /// The address counter at the top of the screen.
    start: u32,
    /// Added to the counter from one row to the next.
    pitch: u32,
    /// Scan lines of a row, 1..=32.
    row_height: u32,
    /// How often each of them is shown, 1 or 2.
    scans: u32,
    /// The scan line of its row that the screen begins with.
    preset: u32,
    /// The line with which the lower screen begins: it starts at address 0.
    split: u32,
    unit: Unit,
    /// The counter moves every 1 << this characters.
    every: u32,
    /// Bits of the address that come from the number of the scan line, of 0x6000.
    from_scan: u32,
    /// Of addresses.
    mask: u32,
}

/// What one line of the screen shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The address counter at its left end.
    pub address: u32,
    /// Which row of its screen it belongs to.
    pub row: u32,
    /// Scan line of the row.
    pub scan: u32,
    /// It belongs to the lower screen.
    pub lower: bool,
}

impl Crtc {
    /// All registers zero.
    pub fn new() -> Self {
        Crtc { registers: [0; CRTC_REGISTERS] }
    }

    /// The register of this index; zero where there is none.
    pub fn read(&self, index: u8) -> u8 {
        self.registers.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Sets a register unless it is protected; where there is none nothing happens.
    pub fn write(&mut self, index: u8, value: u8) {
        let protected = self.registers[0x11] & 0x80 != 0;
        match index {
            // Bit 8 of the line compare is not protected.
            0x07 if protected => self.registers[7] = self.registers[7] & !0x10 | value & 0x10,
            0x00..=0x07 if protected => {}
            _ => self.set(index, value),
        }
    }

    /// Sets a register, protected or not.
    pub fn set(&mut self, index: u8, value: u8) {
        if let Some(register) = self.registers.get_mut(usize::from(index)) {
            *register = value;
        }
    }

    /// All registers.
    pub fn registers(&self) -> &[u8; CRTC_REGISTERS] {
        &self.registers
    }

    fn get(&self, index: usize) -> u32 {
        u32::from(self.registers[index])
    }

    /// Register `index` with bits 8 and 9 from these bits of the overflow register.
    fn vertical(&self, index: usize, bit8: u32, bit9: u32) -> u32 {
        let overflow = self.get(0x07);
        self.get(index) | (overflow >> bit8 & 1) << 8 | (overflow >> bit9 & 1) << 9
    }

    /// The vertical counter moves every second line.
    fn vertical_doubling(&self) -> u32 {
        1 << (self.get(0x17) >> 2 & 1)
    }

    /// Characters of a line, 1..=256.
    pub fn columns(&self) -> u32 {
        self.get(0x01) + 1
    }

    /// Lines of the screen, 1..=2048.
    pub fn lines(&self) -> u32 {
        (self.vertical(0x12, 1, 6) + 1) * self.vertical_doubling()
    }

    /// The scan line of a character where it is underlined.
    pub fn underline(&self) -> u32 {
        self.get(0x14) & 0x1F
    }

    /// The cursor, unless it is off.
    pub fn cursor(&self) -> Option<Cursor> {
        let (start, end) = (self.get(0x0A), self.get(0x0B));
        let address = (self.get(0x0E) << 8 | self.get(0x0F)) + (end >> 5 & 3);
        (start & 0x20 == 0).then_some(Cursor { address: address & 0xFFFF, first: start & 0x1F, last: end & 0x1F })
    }

    /// The order of what is shown.
    pub fn scanout(&self) -> Scanout {
        let mode = self.get(0x17);
        let unit = match (self.get(0x14) & 0x40 != 0, mode & 0x40 != 0) {
            (true, _) => Unit::Doubleword,
            (false, true) => Unit::Byte,
            (false, false) => Unit::Word(if mode & 0x20 != 0 { 15 } else { 13 }),
        };
        let compare = self.get(0x18) | (self.get(0x07) >> 4 & 1) << 8 | (self.get(0x09) >> 6 & 1) << 9;
        Scanout {
            start: (self.get(0x0C) << 8 | self.get(0x0D)) + (self.get(0x08) >> 5 & 3),
            pitch: 2 * self.get(0x13),
            row_height: (self.get(0x09) & 0x1F) + 1,
            scans: 1 << (self.get(0x09) >> 7),
            preset: self.get(0x08) & 0x1F,
            split: (compare + 1) * self.vertical_doubling(),
            unit,
            every: match (self.get(0x14) & 0x20 != 0, mode & 0x08 != 0) {
                (true, _) => 2,
                (false, true) => 1,
                (false, false) => 0,
            },
            // Bits 0 and 1 say that the address has its own bits 13 and 14.
            from_scan: (!mode & 3) << 13,
            mask: 0xFFFF,
        }
    }

    /// Where the beam is after some time, with `character` dots of 1/`clock` seconds to a character. It always comes and
    /// goes: guests wait for both.
    pub fn beam(&self, time: Duration, clock: u64, character: u64) -> Beam {
        let total = (self.get(0x00) + 5, self.vertical(0x06, 0, 5) + 2);
        let mut total = (u64::from(total.0), u64::from(total.1));
        let mut shown = (u64::from(self.columns()), u64::from(self.vertical(0x12, 1, 6)) + 1);
        let mut start = u64::from(self.vertical(0x10, 2, 7));
        let mut length = u64::from(self.get(0x11).wrapping_sub(self.get(0x10)) & 0x0F);
        if total.0 < SMALLEST_TOTAL.0 || total.1 < SMALLEST_TOTAL.1 {
            // 640x480 at 60 Hz.
            (total, shown, start, length) = ((100, 525), (80, 480), 490, 2);
        }
        let line_time = total.0 * character * 1_000_000_000 / clock;
        let time = (time.as_nanos() % u128::from(line_time * total.1)) as u64;
        let (line, character) = (time / line_time, time % line_time * total.0 / line_time);
        let start = start.clamp(1, total.1 - 2);
        let end = start + if length == 0 { 16 } else { length };
        Beam { blank: line >= shown.1.min(start) || character >= shown.0, retrace: (start..end).contains(&line) }
    }
}

impl Scanout {
    /// Rows one line high, `pitch` apart and beginning at `start` in memory of `mask + 1` bytes a plane.
    pub fn rows(start: u32, pitch: u32, mask: u32) -> Self {
        Scanout {
            start,
            pitch,
            row_height: 1,
            scans: 1,
            preset: 0,
            split: u32::MAX,
            unit: Unit::Byte,
            every: 0,
            from_scan: 0,
            mask,
        }
    }

    /// What line `y`, counted from the top, shows.
    pub fn line(&self, y: u32) -> Line {
        let lower = y >= self.split;
        let (first, start, preset) = if lower { (self.split, 0, 0) } else { (0, self.start, self.preset) };
        let scan = (y - first) / self.scans + preset;
        let row = scan / self.row_height;
        Line { address: start.wrapping_add(row * self.pitch), row, scan: scan % self.row_height, lower }
    }

    /// The address counter at character `column` of a line.
    pub fn counter(&self, line: &Line, column: u32) -> u32 {
        line.address.wrapping_add(column >> self.every)
    }

    /// The address in the planes of character `column` of a line.
    pub fn address(&self, line: &Line, column: u32) -> u32 {
        let counter = self.counter(line, column);
        let address = match self.unit {
            Unit::Byte => counter,
            Unit::Word(bit) => counter << 1 | counter >> bit & 1,
            Unit::Doubleword => counter << 2 | counter >> 12 & 3,
        };
        (address & !self.from_scan | line.scan << 13 & self.from_scan) & self.mask
    }
}
