/// A mode whose pixels lie in memory one after another.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Linear {
    /// Byte of the first pixel.
    pub start: u64,
    /// Bytes from line to line.
    pub stride: u32,
    pub format: Format,
    /// The highest byte of a pixel comes first.
    pub big_endian: bool,
}

/// What a pixel is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// A byte, for which there is a colour.
    Palette(Box<[u32; 256]>),
    Rgb555,
    Rgb565,
    Rgb888,
    Xrgb8888,
}

impl Format {
    /// Bytes of a pixel.
    pub fn size(&self) -> usize {
        match self {
            Format::Palette(_) => 1,
            Format::Rgb555 | Format::Rgb565 => 2,
            Format::Rgb888 => 3,
            Format::Xrgb8888 => 4,
        }
    }
}

/// A component of `bits` bits at `shift`, as 8 bits.
#[inline]
fn component(value: u32, shift: u32, bits: u32) -> u32 {
    let value = value >> shift & ((1 << bits) - 1);
    value << (8 - bits) | value >> (2 * bits - 8)
}

impl Linear {
    /// The same bytes are the same picture in both.
    pub fn looks_like(&self, other: &Linear) -> bool {
        self.format == other.format && self.big_endian == other.big_endian
    }

    /// Makes pixels of as many bytes.
    pub fn convert(&self, bytes: &[u8], pixels: &mut [u32]) {
        match (&self.format, self.big_endian) {
            (Format::Palette(palette), _) => each(bytes, pixels, |[value]| palette[usize::from(value)]),
            (Format::Rgb555, false) => each(bytes, pixels, |value| rgb555(u16::from_le_bytes(value))),
            (Format::Rgb555, true) => each(bytes, pixels, |value| rgb555(u16::from_be_bytes(value))),
            (Format::Rgb565, false) => each(bytes, pixels, |value| rgb565(u16::from_le_bytes(value))),
            (Format::Rgb565, true) => each(bytes, pixels, |value| rgb565(u16::from_be_bytes(value))),
            (Format::Rgb888, false) => each(bytes, pixels, |[b, g, r]| u32::from_be_bytes([0, r, g, b])),
            (Format::Rgb888, true) => each(bytes, pixels, |[r, g, b]| u32::from_be_bytes([0, r, g, b])),
            (Format::Xrgb8888, false) => each(bytes, pixels, |value| u32::from_le_bytes(value) & 0xFF_FFFF),
            (Format::Xrgb8888, true) => each(bytes, pixels, |value| u32::from_be_bytes(value) & 0xFF_FFFF),
        }
    }
}

fn rgb555(value: u16) -> u32 {
    let value = u32::from(value);
    component(value, 10, 5) << 16 | component(value, 5, 5) << 8 | component(value, 0, 5)
}

fn rgb565(value: u16) -> u32 {
    let value = u32::from(value);
    component(value, 11, 5) << 16 | component(value, 5, 6) << 8 | component(value, 0, 5)
}

/// Makes a pixel of every `N` bytes.
#[inline]
fn each<const N: usize>(bytes: &[u8], pixels: &mut [u32], pixel: impl Fn([u8; N]) -> u32) {
    for (bytes, to) in bytes.chunks_exact(N).zip(pixels) {
        // Chunks have `N` bytes.
        let mut value = [0; N];
        value.copy_from_slice(bytes);
        *to = pixel(value);
    }
}
