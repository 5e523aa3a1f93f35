use board::{StateReader, StateWriter};

/// The latest version of the interface that the card knows, and what identifies all of them.
const LATEST_ID: u16 = 0xB0C5;
const ID_FAMILY: u16 = 0xB0C0;

/// Largest picture. The largest of them fits into 16 MiB with 32 bits a pixel.
pub(crate) const MAX_WIDTH: u16 = 2560;
pub(crate) const MAX_HEIGHT: u16 = 1600;
const MAX_DEPTH: u16 = 32;
const SMALLEST_WIDTH: u16 = 8;

/// Registers of the interface.
mod register {
    pub const ID: u16 = 0;
    pub const XRES: u16 = 1;
    pub const YRES: u16 = 2;
    pub const BPP: u16 = 3;
    pub const ENABLE: u16 = 4;
    pub const BANK: u16 = 5;
    pub const VIRT_WIDTH: u16 = 6;
    pub const VIRT_HEIGHT: u16 = 7;
    pub const X_OFFSET: u16 = 8;
    pub const Y_OFFSET: u16 = 9;
    pub const VIDEO_MEMORY_64K: u16 = 10;
}

const ENABLED: u16 = 0x01;
const GETCAPS: u16 = 0x02;
const EIGHT_BIT_DAC: u16 = 0x20;
const LFB_ENABLED: u16 = 0x40;
const NOCLEARMEM: u16 = 0x80;

/// The Bochs VBE display interface: modes beyond the VGA's. Values are brought into range whenever a mode is on, so
/// that everything it shows lies in video memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dispi {
    /// Bytes of video memory.
    memory: u32,
    index: u16,
    /// The byte that was written to the lower half of the data port.
    low: u8,
    id: u16,
    width: u16,
    height: u16,
    depth: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    x_offset: u16,
    y_offset: u16,
}

/// How many bits a pixel of this depth takes; depths that do not exist are 8.
fn pixel_bits(depth: u16) -> u32 {
    match depth {
        4 | 16 | 24 | 32 => u32::from(depth),
        15 => 16,
        _ => 8,
    }
}

impl Dispi {
    /// After a reset, for a card with so many bytes of memory.
    pub fn new(memory: u32) -> Self {
        Dispi {
            memory,
            index: 0,
            low: 0,
            id: LATEST_ID,
            width: 0,
            height: 0,
            depth: 8,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x_offset: 0,
            y_offset: 0,
        }
    }

    /// A mode of the interface is on, instead of the VGA's.
    pub fn enabled(&self) -> bool {
        self.enable & ENABLED != 0
    }

    /// Colours of the palette are 8 bits wide.
    pub fn eight_bit_dac(&self) -> bool {
        self.enable & EIGHT_BIT_DAC != 0
    }

    /// Pixels lie in planes.
    pub fn planar(&self) -> bool {
        self.depth == 4
    }

    /// Pixels of a line.
    pub fn width(&self) -> u32 {
        self.width.into()
    }

    /// Lines.
    pub fn height(&self) -> u32 {
        self.height.into()
    }

    /// Bits of a pixel that mean something: 4, 8, 15, 16, 24 or 32.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Bytes from one line to the next, all planes counted.
    pub fn stride(&self) -> u32 {
        self.bytes(self.virtual_width)
    }

    /// Where the first shown pixel's byte is, all planes counted.
    pub fn start(&self) -> u64 {
        u64::from(self.y_offset) * u64::from(self.stride()) + u64::from(self.bytes(self.x_offset))
    }

    /// How many dots of the first byte are left out; planar modes only.
    pub fn shift(&self) -> u32 {
        if self.planar() { u32::from(self.x_offset) % 8 } else { 0 }
    }

    /// Which 64 KiB the window at 0xA0000 shows, of each plane in planar modes.
    pub fn bank(&self) -> u32 {
        self.bank.into()
    }

    fn bytes(&self, pixels: u16) -> u32 {
        if self.planar() { u32::from(pixels) / 8 * 4 } else { u32::from(pixels) * pixel_bits(self.depth) / 8 }
    }

    /// Reads the index port.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Writes the index port.
    pub fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    /// Reads the data port.
    pub fn read_data(&self) -> u16 {
        self.read(self.index)
    }

    /// Writes the data port; returns as [`Dispi::write`] does.
    pub fn write_data(&mut self, value: u16) -> Option<u32> {
        self.write(self.index, value)
    }

    /// Writes the lower byte of the data port. It waits for the other: an access of a word at this odd port comes in two.
    pub fn write_low(&mut self, value: u8) {
        self.low = value;
    }

    /// Writes the upper byte of the data port; returns as [`Dispi::write`] does.
    pub fn write_high(&mut self, value: u8) -> Option<u32> {
        self.write_data(u16::from_le_bytes([self.low, value]))
    }

    /// Reads a register; zero where there is none.
    pub fn read(&self, index: u16) -> u16 {
        let capabilities = self.enable & GETCAPS != 0;
        match index {
            register::ID => self.id,
            register::XRES if capabilities => MAX_WIDTH,
            register::YRES if capabilities => MAX_HEIGHT,
            register::BPP if capabilities => MAX_DEPTH,
            register::XRES => self.width,
            register::YRES => self.height,
            register::BPP => self.depth,
            register::ENABLE => self.enable,
            register::BANK => self.bank,
            register::VIRT_WIDTH => self.virtual_width,
            register::VIRT_HEIGHT => self.lines_of_memory(),
            register::X_OFFSET => self.x_offset,
            register::Y_OFFSET => self.y_offset,
            register::VIDEO_MEMORY_64K => (self.memory >> 16) as u16,
            _ => 0,
        }
    }

    /// Writes a register. Returns how many bytes from the beginning of memory are to be cleared.
    pub fn write(&mut self, index: u16, value: u16) -> Option<u32> {
        match index {
            register::ID if (ID_FAMILY..=LATEST_ID).contains(&value) => self.id = value,
            register::XRES => self.width = value,
            register::YRES => self.height = value,
            register::BPP => self.depth = value,
            register::VIRT_WIDTH => self.virtual_width = value,
            register::X_OFFSET => self.x_offset = value,
            register::Y_OFFSET => self.y_offset = value,
            register::BANK => self.bank = value,
            register::ENABLE => {
                let begins = value & ENABLED != 0 && !self.enabled();
                self.enable = value & (ENABLED | GETCAPS | EIGHT_BIT_DAC | LFB_ENABLED | NOCLEARMEM);
                if !self.enabled() {
                    self.bank = 0;
                }
                if begins {
                    (self.virtual_width, self.x_offset, self.y_offset) = (0, 0, 0);
                    self.fit();
                    return (value & NOCLEARMEM == 0).then(|| self.stride() * self.height());
                }
            }
            _ => {}
        }
        self.fit();
        None
    }

    /// Lines of the virtual width that memory holds.
    fn lines_of_memory(&self) -> u16 {
        u16::try_from(self.memory.checked_div(self.stride()).unwrap_or(0)).unwrap_or(u16::MAX)
    }

    /// Brings everything into range while a mode is on: what is shown then lies in memory. Before, drivers set one after
    /// the other what fits together only in the end.
    fn fit(&mut self) {
        let plane_banks = if self.planar() { 2 } else { 0 };
        self.bank &= ((self.memory >> 16 >> plane_banks) - 1) as u16;
        if !self.enabled() {
            return;
        }
        if !matches!(self.depth, 4 | 8 | 15 | 16 | 24 | 32) {
            self.depth = 8;
        }
        self.width = self.width.clamp(SMALLEST_WIDTH, MAX_WIDTH);
        if self.planar() {
            self.width &= !7;
            self.virtual_width &= !7;
        }
        self.virtual_width = self.virtual_width.max(self.width);
        // A line takes at most 256 KiB, a quarter of the smallest memory.
        self.height = self.height.clamp(1, MAX_HEIGHT).min(self.lines_of_memory());
        if !self.shown_lies_in_memory() {
            self.y_offset = 0;
        }
        if !self.shown_lies_in_memory() {
            self.x_offset = 0;
        }
    }

    fn shown_lies_in_memory(&self) -> bool {
        // Planar lines that begin within a byte end within one.
        let more = if self.shift() != 0 { 4 } else { 0 };
        let last_line = u64::from(self.height() - 1) * u64::from(self.stride());
        self.start() + last_line + u64::from(self.bytes(self.width) + more) <= u64::from(self.memory)
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.u8(self.low);
        for value in [
            self.index,
            self.id,
            self.width,
            self.height,
            self.depth,
            self.enable,
            self.bank,
            self.virtual_width,
            self.x_offset,
            self.y_offset,
        ] {
            writer.u16(value);
        }
    }

    pub fn load(reader: &mut StateReader<'_>, memory: u32) -> Result<Self, String> {
        let mut dispi = Dispi::new(memory);
        dispi.low = reader.u8()?;
        dispi.index = reader.u16()?;
        dispi.id = reader.u16()?;
        if !(ID_FAMILY..=LATEST_ID).contains(&dispi.id) {
            return Err(reader.invalid("there is no such version of the VBE interface"));
        }
        dispi.width = reader.u16()?;
        dispi.height = reader.u16()?;
        dispi.depth = reader.u16()?;
        dispi.enable = reader.u16()? & (ENABLED | GETCAPS | EIGHT_BIT_DAC | LFB_ENABLED | NOCLEARMEM);
        dispi.bank = reader.u16()?;
        dispi.virtual_width = reader.u16()?;
        dispi.x_offset = reader.u16()?;
        dispi.y_offset = reader.u16()?;
        dispi.fit();
        Ok(dispi)
    }
}

#[cfg(test)]
mod tests {
    use super::register::*;
    use super::*;

    const MEMORY: u32 = 16 << 20;

    fn mode(width: u16, height: u16, depth: u16, flags: u16) -> (Dispi, Option<u32>) {
        let mut dispi = Dispi::new(MEMORY);
        for (index, value) in [(ENABLE, 0), (BPP, depth), (XRES, width), (YRES, height), (BANK, 0)] {
            assert_eq!(dispi.write(index, value), None);
        }
        let cleared = dispi.write(ENABLE, ENABLED | flags);
        (dispi, cleared)
    }

    #[test]
    fn a_mode_begins_with_its_memory_cleared_unless_asked_not_to() {
        let (dispi, cleared) = mode(1024, 768, 32, LFB_ENABLED);
        assert_eq!(cleared, Some(1024 * 768 * 4));
        assert_eq!((dispi.stride(), dispi.start(), dispi.read(VIRT_HEIGHT)), (4096, 0, 4096));
        assert_eq!(mode(1024, 768, 32, NOCLEARMEM).1, None);
        let (mut dispi, _) = mode(800, 600, 4, 0);
        assert_eq!((dispi.stride(), dispi.planar()), (400, true));
        assert_eq!(dispi.write(ENABLE, ENABLED | EIGHT_BIT_DAC), None, "it is on already");
    }

    #[test]
    fn capabilities_are_told_while_asked_for() {
        let mut dispi = Dispi::new(MEMORY);
        let read = |dispi: &Dispi| [XRES, YRES, BPP, VIDEO_MEMORY_64K].map(|index| dispi.read(index));
        let _ = dispi.write(ENABLE, GETCAPS);
        assert_eq!(read(&dispi), [2560, 1600, 32, 256]);
        let _ = dispi.write(ENABLE, 0);
        assert_eq!(read(&dispi), [0, 0, 8, 256]);
    }

    #[test]
    fn only_versions_that_are_known_can_be_chosen() {
        let mut dispi = Dispi::new(MEMORY);
        let chosen = [0xB0C0, 0xB0C6, 0x1234, 0xB0C4].map(|id| {
            let _ = dispi.write(ID, id);
            dispi.read(ID)
        });
        assert_eq!(chosen, [0xB0C0, 0xB0C0, 0xB0C0, 0xB0C4]);
    }

    #[test]
    fn what_is_shown_can_move_within_memory_only() {
        let (mut dispi, _) = mode(640, 480, 8, 0);
        let _ = dispi.write(VIRT_WIDTH, 1024);
        let _ = dispi.write(Y_OFFSET, 16384 - 480);
        let _ = dispi.write(X_OFFSET, 384);
        assert_eq!(dispi.start(), (16384 - 480) * 1024 + 384);
        let _ = dispi.write(X_OFFSET, 385);
        assert_eq!((dispi.read(X_OFFSET), dispi.read(Y_OFFSET)), (385, 0));
        let _ = dispi.write(VIRT_WIDTH, 100);
        assert_eq!(dispi.read(VIRT_WIDTH), 640);
        let _ = dispi.write(BANK, 0x1FF);
        assert_eq!(dispi.bank(), 0xFF);
    }

    #[test]
    fn a_word_at_the_odd_data_port_arrives_in_two_bytes() {
        let mut dispi = Dispi::new(MEMORY);
        dispi.set_index(XRES);
        dispi.write_low(0x20);
        assert_eq!(dispi.read_data(), 0);
        let _ = dispi.write_high(0x03);
        assert_eq!(dispi.read_data(), 800);
    }

    proptest::proptest! {
        /// Whatever is written in whatever order, a mode that is on shows nothing outside of memory.
        #[test]
        fn nothing_outside_of_memory_is_shown(
            writes in proptest::collection::vec((0u16..12, proptest::prelude::any::<u16>(), 0usize..6), 1..60),
            small: bool,
        ) {
            let memory = if small { 1 << 20 } else { MEMORY };
            let mut dispi = Dispi::new(memory);
            for (index, value, depth) in writes {
                let value = if index == BPP { [4, 8, 15, 16, 24, 32][depth] } else { value };
                if let Some(cleared) = dispi.write(index, value) {
                    assert!(cleared <= memory);
                }
                assert!(u64::from(dispi.bank() + 1) << (16 + if dispi.planar() { 2 } else { 0 }) <= u64::from(memory));
                if dispi.enabled() {
                    assert!((8..=2560).contains(&dispi.width()) && (1..=1600).contains(&dispi.height()));
                    assert!(dispi.shown_lies_in_memory());
                }
                let mut writer = StateWriter::new(1);
                dispi.save(&mut writer);
                let state = writer.finish();
                let loaded = Dispi::load(&mut StateReader::new("vga", &state, 1).unwrap(), memory);
                assert_eq!(loaded.unwrap(), dispi);
            }
        }
    }
}
