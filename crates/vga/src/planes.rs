use crate::crtc::Scanout;
use std::ops::Range;

/// A graphics mode whose pixels lie in planes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Planes {
    pub scanout: Scanout,
    /// The addresses in the planes that can be shown.
    pub memory: Range<u32>,
    /// Characters of 8 dots in a line.
    pub columns: u32,
    /// Dots are two pixels wide.
    pub wide: bool,
    /// Dots, less than 8, that are left out at the left; and in the lower screen.
    pub shift: u32,
    pub lower_shift: u32,
    pub dots: Dots,
}

/// How 8 dots come out of the bytes at an address of the planes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Dots {
    /// A bit of each plane makes a dot.
    Planar([u32; 16]),
    /// Two bits of an even plane make a dot, two of the next even plane with them; then the odd planes. CGA's 4 colours.
    Pairs([u32; 16]),
    /// The byte of a plane makes two dots.
    Bytes(Box<[u32; 256]>),
}

/// A copy of what lies in planes.
#[derive(Clone, Copy)]
pub(crate) struct Copied<'a> {
    bytes: &'a [u8],
    /// Its first address.
    first: u32,
}

impl<'a> Copied<'a> {
    /// `bytes` are those of all planes from address `first` on.
    pub fn new(bytes: &'a [u8], first: u32) -> Self {
        Copied { bytes, first }
    }

    /// The bytes at an address, plane 0 first; zero where nothing was copied.
    #[inline]
    pub fn at(&self, address: u32) -> [u8; 4] {
        let at = (address.wrapping_sub(self.first) as usize).saturating_mul(4);
        let found = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        found.copied().unwrap_or_default()
    }
}

/// The bits of a byte, each in the lowest bit of four; the highest comes first, as it is the leftmost dot.
const SPREAD: [u32; 256] = {
    let mut spread = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut dot = 0;
        while dot < 8 {
            spread[byte] |= (byte as u32 >> (7 - dot) & 1) << (4 * dot);
            dot += 1;
        }
        byte += 1;
    }
    spread
};

impl Planes {
    /// Makes line `y`; `dots` is room to work in.
    pub fn line(&self, memory: Copied<'_>, y: u32, dots: &mut Vec<u32>, pixels: &mut [u32]) {
        let line = self.scanout.line(y);
        dots.clear();
        for column in 0..=self.columns {
            let bytes = memory.at(self.scanout.address(&line, column));
            dots.extend_from_slice(&self.dots.of(bytes));
        }
        finish_line(dots, if line.lower { self.lower_shift } else { self.shift }, self.wide, pixels);
    }
}

impl Dots {
    #[inline]
    fn of(&self, bytes: [u8; 4]) -> [u32; 8] {
        match self {
            Dots::Planar(colours) => {
                let [blue, green, red, bright] = bytes.map(|byte| SPREAD[usize::from(byte)]);
                let values = blue | green << 1 | red << 2 | bright << 3;
                std::array::from_fn(|dot| colours[(values >> (4 * dot) & 0x0F) as usize])
            }
            Dots::Pairs(colours) => std::array::from_fn(|dot| {
                let (plane, shift) = (dot / 4, 6 - 2 * (dot % 4));
                colours[usize::from(bytes[plane] >> shift & 3 | (bytes[plane + 2] >> shift & 3) << 2)]
            }),
            Dots::Bytes(palette) => std::array::from_fn(|dot| palette[usize::from(bytes[dot / 2])]),
        }
    }
}

/// Makes pixels of the dots of a line, the first `shift` of which are left out.
pub(crate) fn finish_line(dots: &[u32], shift: u32, wide: bool, pixels: &mut [u32]) {
    let dots = dots.get(shift as usize..).unwrap_or_default();
    if wide {
        for (pair, dot) in pixels.chunks_mut(2).zip(dots) {
            pair.fill(*dot);
        }
    } else {
        for (pixel, dot) in pixels.iter_mut().zip(dots) {
            *pixel = *dot;
        }
    }
}
