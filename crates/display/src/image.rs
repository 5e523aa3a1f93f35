/// A rectangle of pixels in somebody's memory: 0x00RRGGBB each, the top byte ignored, rows from top to bottom.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    pixels: &'a [u32],
    width: usize,
    height: usize,
    stride: usize,
}

impl<'a> Image<'a> {
    /// The image whose first pixel is the first of `pixels`, with `stride` pixels from row to row. None where
    /// `pixels` is too short for it or `stride` less than `width`.
    pub fn new(pixels: &'a [u32], width: usize, height: usize, stride: usize) -> Option<Self> {
        if width == 0 || height == 0 {
            return Some(Image { pixels: &[], width: 0, height: 0, stride: 0 });
        }
        let needed = stride.checked_mul(height - 1)?.checked_add(width)?;
        (width <= stride && needed <= pixels.len()).then_some(Image { pixels, width, height, stride })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The rows, from the top.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        let (pixels, width, stride) = (self.pixels, self.width, self.stride);
        (0..self.height).map(move |y| &pixels[y * stride..y * stride + width])
    }

    /// The image cut into tiles of at most `width` by `height`, left to right and top to bottom, each with the
    /// position of its first pixel.
    pub(crate) fn tiles(self, width: usize, height: usize) -> impl Iterator<Item = (usize, usize, Image<'a>)> {
        let columns = move |y| (0..self.width).step_by(width).map(move |x| (x, y));
        (0..self.height).step_by(height).flat_map(columns).map(move |(x, y)| {
            let tile = Image {
                pixels: &self.pixels[y * self.stride + x..],
                width: width.min(self.width - x),
                height: height.min(self.height - y),
                stride: self.stride,
            };
            (x, y, tile)
        })
    }

    /// The colours row by row, without what may stand in the top bytes, in place of what `colours` held.
    pub(crate) fn copy_to(&self, colours: &mut Vec<u32>) {
        colours.clear();
        colours.extend(self.rows().flatten().map(|pixel| pixel & 0x00ff_ffff));
    }
}
