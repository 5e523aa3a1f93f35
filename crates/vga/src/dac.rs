use board::{StateReader, StateWriter};

/// The video DAC with its palette of 256 colours. VGA, "Video Digital-to-Analog Converter".
#[derive(Clone)]
pub(crate) struct Dac {
    /// Red, green and blue as they were written, at the width of that time.
    colours: [[u8; 3]; 256],
    /// The pixel mask, ANDed with every index.
    pub mask: u8,
    /// Components are 8 bits wide instead of 6.
    pub eight_bit: bool,
    read_index: u8,
    write_index: u8,
    /// Which component is next, 0..=2, and those written so far.
    component: u8,
    pending: [u8; 3],
    /// The last index set was one to read from.
    reading: bool,
}

impl Dac {
    /// Black.
    pub fn new() -> Self {
        Dac {
            colours: [[0; 3]; 256],
            mask: 0xFF,
            eight_bit: false,
            read_index: 0,
            write_index: 0,
            component: 0,
            pending: [0; 3],
            reading: false,
        }
    }

    /// The state register: what the last index is for.
    pub fn state(&self) -> u8 {
        if self.reading { 3 } else { 0 }
    }

    /// The index that is written next.
    pub fn write_index(&self) -> u8 {
        self.write_index
    }

    /// Begins to read at a colour.
    pub fn set_read_index(&mut self, index: u8) {
        (self.read_index, self.component, self.reading) = (index, 0, true);
    }

    /// Begins to write at a colour.
    pub fn set_write_index(&mut self, index: u8) {
        (self.write_index, self.component, self.reading) = (index, 0, false);
    }

    /// Reads the next component.
    pub fn read(&mut self) -> u8 {
        let value = self.colours[usize::from(self.read_index)][usize::from(self.component)];
        if self.next_component() {
            self.read_index = self.read_index.wrapping_add(1);
        }
        if self.eight_bit { value } else { value & 0x3F }
    }

    /// Writes the next component; the colour changes with the third.
    pub fn write(&mut self, value: u8) {
        self.pending[usize::from(self.component)] = if self.eight_bit { value } else { value & 0x3F };
        if self.next_component() {
            self.colours[usize::from(self.write_index)] = self.pending;
            self.write_index = self.write_index.wrapping_add(1);
        }
    }

    /// Goes on to the next component; true when it was the last of its colour.
    fn next_component(&mut self) -> bool {
        self.component = (self.component + 1) % 3;
        self.component == 0
    }

    /// What a pixel value becomes on the screen, as 0x00RRGGBB.
    pub fn colour(&self, index: u8) -> u32 {
        let widen = |value: u8| if self.eight_bit { value } else { value << 2 | value >> 4 & 3 };
        let [red, green, blue] = self.colours[usize::from(index & self.mask)].map(widen);
        u32::from_be_bytes([0, red, green, blue])
    }

    /// What every pixel value becomes on the screen.
    pub fn palette(&self) -> [u32; 256] {
        std::array::from_fn(|index| self.colour(index as u8))
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.blob(self.colours.as_flattened());
        writer.u8(self.mask);
        for byte in [self.read_index, self.write_index, self.component, self.reading.into()] {
            writer.u8(byte);
        }
        self.pending.iter().for_each(|byte| writer.u8(*byte));
    }

    /// Loads what [`Dac::save`] wrote; the width of components is not part of it.
    pub fn load(reader: &mut StateReader<'_>) -> Result<Self, String> {
        let mut dac = Dac::new();
        let colours = reader.blob()?;
        if colours.len() != 3 * 256 {
            return Err(reader.invalid("its palette has not 256 colours"));
        }
        dac.colours.as_flattened_mut().copy_from_slice(colours);
        dac.mask = reader.u8()?;
        dac.read_index = reader.u8()?;
        dac.write_index = reader.u8()?;
        dac.component = reader.u8()? % 3;
        dac.reading = reader.bool()?;
        for byte in &mut dac.pending {
            *byte = reader.u8()?;
        }
        Ok(dac)
    }
}
