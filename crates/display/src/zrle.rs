//! The ZRLE encoding before its compression. RFC 6143, section 7.7.6.

use crate::format::{Packer, PixelFormat};
use crate::image::Image;
use crate::palette::{Palette, pack_indices};

/// Width and height of a tile.
const TILE: usize = 64;
/// Colours of the largest palette with runs.
const RLE_COLOURS: usize = 127;
/// Colours of the largest packed palette.
const PACKED_COLOURS: usize = 16;

/// The tiles of a rectangle in ZRLE encoding, to be compressed as one piece of the connection's zlib stream.
pub fn zrle(image: Image<'_>, format: &PixelFormat) -> Vec<u8> {
    let mut encoder = Encoder {
        cpixel: format.cpixel(),
        palette: Palette::new(RLE_COLOURS),
        colours: Vec::with_capacity(TILE * TILE),
        out: Vec::new(),
    };
    for (_, _, tile) in image.tiles(TILE, TILE) {
        encoder.tile(tile);
    }
    encoder.out
}

struct Encoder<'a> {
    cpixel: &'a Packer,
    /// The colours of the tile; incomplete where there are too many.
    palette: Palette,
    /// The tile, row by row.
    colours: Vec<u32>,
    out: Vec<u8>,
}

impl Encoder<'_> {
    /// Appends a tile in whichever form is shortest.
    fn tile(&mut self, tile: Image<'_>) {
        tile.copy_to(&mut self.colours);
        self.palette.clear();
        let pixel = self.cpixel.bytes();
        let mut few = true;
        // Bytes of all runs: with colours in them, and with indices.
        let (mut plain, mut indexed) = (0, 0);
        for (colour, length) in runs(&self.colours) {
            few = few && self.palette.add(colour).is_some();
            let bytes = length_bytes(length);
            plain += pixel + bytes;
            indexed += if length == 1 { 1 } else { 1 + bytes };
        }
        let raw = pixel * self.colours.len();
        let count = self.palette.colours().len();
        if few && count == 1 {
            self.out.push(1);
            self.palette_colours();
            return;
        }
        let bits = match count {
            0..=2 => 1,
            3 | 4 => 2,
            _ => 4,
        };
        let packed = count * pixel + (tile.width() * bits as usize).div_ceil(8) * tile.height();
        let indexed = count * pixel + indexed;
        let shortest = if few { indexed.min(plain).min(raw) } else { plain.min(raw) };
        if few && count <= PACKED_COLOURS && packed <= shortest {
            self.packed(count as u8, bits, tile.width());
        } else if few && indexed == shortest {
            self.indexed_runs(count as u8);
        } else if plain == shortest {
            self.plain_runs();
        } else {
            self.out.push(0);
            self.cpixel.pack(&self.colours, &mut self.out);
        }
    }

    fn palette_colours(&mut self) {
        self.cpixel.pack(self.palette.colours(), &mut self.out);
    }

    fn packed(&mut self, count: u8, bits: u32, width: usize) {
        self.out.push(count);
        self.palette_colours();
        for row in self.colours.chunks(width) {
            pack_indices(row.iter().map(|colour| self.palette.index(*colour)), bits, &mut self.out);
        }
    }

    fn indexed_runs(&mut self, count: u8) {
        self.out.push(0x80 | count);
        self.palette_colours();
        for (colour, length) in runs(&self.colours) {
            let index = self.palette.index(colour);
            if length == 1 {
                self.out.push(index);
            } else {
                self.out.push(0x80 | index);
                put_length(length, &mut self.out);
            }
        }
    }

    fn plain_runs(&mut self) {
        self.out.push(0x80);
        for (colour, length) in runs(&self.colours) {
            self.cpixel.pack(&[colour], &mut self.out);
            put_length(length, &mut self.out);
        }
    }
}

/// The runs of equal colours: colour and length.
fn runs(colours: &[u32]) -> impl Iterator<Item = (u32, usize)> {
    colours.chunk_by(|one, next| one == next).map(|run| (run[0], run.len()))
}

/// Bytes of a run's length.
fn length_bytes(length: usize) -> usize {
    (length - 1) / 255 + 1
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + (length - 1) / 255, 255);
    out.push(((length - 1) % 255) as u8);
}
