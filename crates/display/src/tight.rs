//! The Tight encoding before its compression, without JPEG and the gradient filter. The community's RFB document
//! (rfbproto), section "Tight Encoding".

use crate::format::PixelFormat;
use crate::image::Image;
use crate::palette::{Palette, pack_indices};

/// Width and height of the largest part. The encoding's limit is a width of 2,048; small ones are of one colour, or of
/// few, more often.
const PART: usize = 128;

/// The compression-control byte of FillCompression.
const FILL: u8 = 0x80;
/// In a compression-control byte: a filter's number follows.
const READ_FILTER: u8 = 0x40;
const PALETTE_FILTER: u8 = 1;

/// A rectangle in Tight encoding: `head`, then `body`. Where there is a `stream`, a body of 12 bytes or more is
/// compressed with that zlib stream, and its length put in front.
pub struct Part {
    /// Left edge in the image.
    pub x: usize,
    /// Top edge in the image.
    pub y: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The compression-control byte and what follows before the pixels.
    pub head: Vec<u8>,
    /// Which of the zlib streams compresses the body, 0 to 2. None: there is no body.
    pub stream: Option<u8>,
    /// Filtered pixels.
    pub body: Vec<u8>,
}

/// The image as rectangles in Tight encoding.
pub fn tight(image: Image<'_>, format: &PixelFormat) -> Vec<Part> {
    let tpixel = format.tpixel();
    // An index is no shorter than a pixel of a byte, but a bit is.
    let mut palette = Palette::new(if tpixel.bytes() == 1 { 2 } else { Palette::MOST });
    let mut colours = Vec::with_capacity(PART * PART);
    let part = |(x, y, tile): (usize, usize, Image<'_>)| {
        tile.copy_to(&mut colours);
        palette.clear();
        let few = colours.chunk_by(|one, next| one == next).all(|run| palette.add(run[0]).is_some());
        let mut part =
            Part { x, y, width: tile.width(), height: tile.height(), head: Vec::new(), stream: None, body: Vec::new() };
        let count = palette.colours().len();
        if few && count == 1 {
            part.head.push(FILL);
            tpixel.pack(palette.colours(), &mut part.head);
        } else if few && count * tpixel.bytes() < colours.len() {
            let (stream, bits) = if count == 2 { (1, 1) } else { (2, 8) };
            part.stream = Some(stream);
            part.head.extend([stream << 4 | READ_FILTER, PALETTE_FILTER, (count - 1) as u8]);
            tpixel.pack(palette.colours(), &mut part.head);
            for row in colours.chunks(part.width) {
                pack_indices(row.iter().map(|colour| palette.index(*colour)), bits, &mut part.body);
            }
        } else {
            part.stream = Some(0);
            part.head.push(0);
            tpixel.pack(&colours, &mut part.body);
        }
        part
    };
    image.tiles(PART, PART).map(part).collect()
}
