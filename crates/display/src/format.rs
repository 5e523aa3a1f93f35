//! Pixel formats of RFB clients.

use thiserror::Error;

/// Why a client's pixel format is none.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    /// Bits per pixel other than 8, 16 and 32.
    #[error("pixels of {0} bits: 8, 16 and 32 are possible")]
    BitsPerPixel(u8),
    /// A depth of no bits, or more than there are.
    #[error("a depth of {0} bits in pixels of {1}")]
    Depth(u8, u8),
    /// A largest intensity that is no 2^n - 1, or one that does not fit where it is to stand.
    #[error("an intensity of at most {0}, shifted by {1}, in pixels of {2} bits")]
    Intensity(u16, u8, u8),
}

/// How a client wants its pixels. RFC 6143, section 7.4.
///
/// A client without true colour is given the colour map [`colour_map`], whose indices are made like pixels with
/// 3 bits of red, 3 of green and 2 of blue.
pub struct PixelFormat {
    true_colour: bool,
    pixel: Packer,
    cpixel: Packer,
    tpixel: Packer,
}

/// Where one intensity stands in a pixel.
#[derive(Clone, Copy)]
struct Field {
    max: u16,
    shift: u8,
}

/// Red, green and blue of a client without true colour.
const MAPPED: [Field; 3] = [Field { max: 7, shift: 5 }, Field { max: 7, shift: 2 }, Field { max: 3, shift: 0 }];

impl PixelFormat {
    /// Reads the 16 bytes of a PIXEL_FORMAT, which may hold anything.
    ///
    /// # Errors
    /// The rule of RFC 6143 that they break.
    pub fn parse(data: &[u8; 16]) -> Result<Self, FormatError> {
        let [bits, depth, big_endian, true_colour, ..] = *data;
        if !matches!(bits, 8 | 16 | 32) {
            return Err(FormatError::BitsPerPixel(bits));
        }
        if depth == 0 || depth > bits {
            return Err(FormatError::Depth(depth, bits));
        }
        let mut fields = MAPPED;
        if true_colour != 0 {
            for (index, field) in fields.iter_mut().enumerate() {
                let max = u16::from_be_bytes([data[4 + 2 * index], data[5 + 2 * index]]);
                let shift = data[10 + index];
                let end = u32::from(shift) + (16 - max.leading_zeros());
                if max & max.wrapping_add(1) != 0 || shift >= bits || end > u32::from(bits) {
                    return Err(FormatError::Intensity(max, shift, bits));
                }
                *field = Field { max, shift };
            }
        }
        let bytes = usize::from(bits) / 8;
        let big_endian = big_endian != 0;
        let compact = true_colour != 0 && bits == 32 && depth <= 24;
        // All in the lowest three bytes, or in the highest: RFC 6143, section 7.7.5.
        let low = fields.iter().all(|field| u32::from(field.max) << field.shift >> 24 == 0);
        let high = fields.iter().all(|field| u32::from(field.max) << field.shift & 0xff == 0);
        let cpixel = match (compact, low, high) {
            (true, true, _) => Packer::new(fields, big_endian, 0, 3),
            (true, false, true) => Packer::new(fields, big_endian, 1, 3),
            _ => Packer::new(fields, big_endian, 0, bytes),
        };
        let tpixel = if bits == 32 && depth == 24 && true_colour != 0 && fields.iter().all(|field| field.max == 255) {
            let rgb = [16, 8, 0].map(|shift| Field { max: 255, shift });
            Packer::new(rgb, true, 0, 3)
        } else {
            Packer::new(fields, big_endian, 0, bytes)
        };
        let pixel = Packer::new(fields, big_endian, 0, bytes);
        Ok(PixelFormat { true_colour: true_colour != 0, pixel, cpixel, tpixel })
    }

    /// Whether pixels hold intensities; otherwise they are indices into [`colour_map`].
    pub fn true_colour(&self) -> bool {
        self.true_colour
    }

    /// Writes a PIXEL: Raw encoding, RFC 6143, section 7.7.1.
    pub(crate) fn pixel(&self) -> &Packer {
        &self.pixel
    }

    /// Writes a CPIXEL: ZRLE encoding, RFC 6143, section 7.7.6.
    pub(crate) fn cpixel(&self) -> &Packer {
        &self.cpixel
    }

    /// Writes a TPIXEL: Tight encoding of the community's RFB document.
    pub(crate) fn tpixel(&self) -> &Packer {
        &self.tpixel
    }
}

/// The colours of clients without true colour: 256 times red, green and blue of 16 bits, big-endian, as
/// SetColourMapEntries has them. RFC 6143, section 7.6.2.
pub fn colour_map() -> Vec<u8> {
    let intensity = |index: u32, field: Field| {
        let max = u32::from(field.max);
        ((index >> field.shift & max) * 0xffff / max) as u16
    };
    (0..256).flat_map(|index| MAPPED.map(|field| intensity(index, field).to_be_bytes())).flatten().collect()
}

/// Turns colours into bytes. A word's little-endian bytes are the pixel's: byte order and left-out bytes are in the
/// tables.
pub(crate) struct Packer {
    tables: Box<[[u32; 256]; 3]>,
    bytes: usize,
}

impl Packer {
    /// Pixels of `bytes` bytes, whose lowest is byte `first` of the value that `fields` make.
    fn new(fields: [Field; 3], big_endian: bool, first: usize, bytes: usize) -> Self {
        let mut tables = Box::new([[0; 256]; 3]);
        for (table, field) in tables.iter_mut().zip(fields) {
            for (intensity, word) in (0u32..).zip(table) {
                let value = (intensity * u32::from(field.max) + 127) / 255;
                let value = value << field.shift >> (8 * first);
                *word = if big_endian { value.swap_bytes() >> (8 * (4 - bytes)) } else { value };
            }
        }
        Packer { tables, bytes }
    }

    /// Bytes of a pixel.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the pixels of `colours`.
    pub(crate) fn pack(&self, colours: &[u32], out: &mut Vec<u8>) {
        match self.bytes {
            1 => self.pack_sized::<1>(colours, out),
            2 => self.pack_sized::<2>(colours, out),
            3 => self.pack_sized::<3>(colours, out),
            _ => self.pack_sized::<4>(colours, out),
        }
    }

    fn pack_sized<const BYTES: usize>(&self, colours: &[u32], out: &mut Vec<u8>) {
        let [red, green, blue] = &*self.tables;
        let start = out.len();
        out.resize(start + colours.len() * BYTES, 0);
        for (pixel, colour) in out[start..].chunks_exact_mut(BYTES).zip(colours) {
            let [b, g, r, _] = colour.to_le_bytes().map(usize::from);
            pixel.copy_from_slice(&(red[r] | green[g] | blue[b]).to_le_bytes()[..BYTES]);
        }
    }
}
