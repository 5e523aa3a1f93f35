use crate::linear::Linear;
use crate::planes::Copied;
use crate::screen::{Content, Screen, VGA_PLANES};
use crate::vram::Vram;
use std::ops::Range;

/// A picture of the screen, brought up to date by [`Vga::update`](crate::Vga::update). Each viewer has its own.
#[derive(Default)]
pub struct Frame {
    /// Pixels of a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// As 0x00RRGGBB, line by line from the top left.
    pub pixels: Vec<u32>,
    /// What `pixels` show.
    shown: Option<Screen>,
    /// The memory they were made of.
    copy: Vec<u8>,
    /// Room to work in: memory, the dots of a line, its pixels.
    read: Vec<u8>,
    dots: Vec<u32>,
    line: Vec<u32>,
}

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Of its left edge.
    pub x: u32,
    /// Of its upper edge.
    pub y: u32,
    /// Never 0.
    pub width: u32,
    /// Never 0.
    pub height: u32,
}

/// What changed: a rectangle for each band of lines that follow each other.
#[derive(Default)]
struct Changes(Vec<Rect>);

impl Changes {
    /// Notes pixels `columns` of line `y`, behind all lines noted so far.
    fn add(&mut self, y: u32, columns: Range<usize>) {
        let (left, right) = (columns.start as u32, columns.end as u32);
        match self.0.last_mut() {
            Some(band) if band.y + band.height == y => {
                let end = right.max(band.x + band.width);
                band.x = band.x.min(left);
                band.width = end - band.x;
                band.height += 1;
            }
            _ => self.0.push(Rect { x: left, y, width: right - left, height: 1 }),
        }
    }
}

impl Frame {
    /// A picture of nothing, 0 by 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows what `screen` says, and returns what changed.
    pub(crate) fn show(&mut self, screen: Screen, vram: &Vram) -> Vec<Rect> {
        let (width, height) = (screen.width, screen.height);
        let size = width as usize * height as usize;
        let resized = (width, height) != (self.width, self.height) || size != self.pixels.len();
        if resized {
            (self.width, self.height) = (width, height);
            self.pixels.clear();
            self.pixels.resize(size, 0);
            self.shown = None;
        }
        let same = self.shown.as_ref() == Some(&screen);
        let whole = vec![Rect { x: 0, y: 0, width, height }];
        let changes = match &screen.content {
            Content::Blank if same => Vec::new(),
            Content::Blank => {
                self.pixels.fill(0);
                whole.clone()
            }
            Content::Text(text) => self.draw(vram, VGA_PLANES, same, |copied, y, dots, line| {
                text.line(copied, y, dots, line);
            }),
            Content::Planes(planes) => self.draw(vram, planes.memory.clone(), same, |copied, y, dots, line| {
                planes.line(copied, y, dots, line);
            }),
            Content::Linear(linear) => self.convert(vram, linear),
        };
        self.shown = Some(screen);
        if resized { whole } else { changes }
    }

    /// Draws line by line what lies at some addresses of the planes. `same`: as before, unless memory has changed.
    fn draw(
        &mut self,
        vram: &Vram,
        addresses: Range<u32>,
        same: bool,
        draw_line: impl Fn(Copied<'_>, u32, &mut Vec<u32>, &mut [u32]),
    ) -> Vec<Rect> {
        self.read.resize(addresses.len() * 4, 0);
        vram.read(u64::from(addresses.start) * 4, &mut self.read);
        if same && self.read == self.copy {
            return Vec::new();
        }
        std::mem::swap(&mut self.read, &mut self.copy);
        let copied = Copied::new(&self.copy, addresses.start);
        let width = self.width as usize;
        self.line.resize(width, 0);
        let mut changes = Changes::default();
        for (y, shown) in (0..).zip(self.pixels.chunks_exact_mut(width)) {
            draw_line(copied, y, &mut self.dots, &mut self.line);
            if shown != self.line {
                let differs = |(shown, pixel)| shown != pixel;
                let mut pairs = shown.iter().zip(&self.line);
                let first = pairs.clone().position(differs).unwrap_or(0);
                let last = pairs.rposition(differs).unwrap_or(width - 1);
                shown[first..=last].copy_from_slice(&self.line[first..=last]);
                changes.add(y, first..last + 1);
            }
        }
        changes.0
    }

    /// Makes pixels of the bytes that changed.
    fn convert(&mut self, vram: &Vram, linear: &Linear) -> Vec<Rect> {
        let size = linear.format.size();
        let width = self.width as usize;
        let length = width * size;
        let known = match &self.shown {
            Some(Screen { content: Content::Linear(before), .. }) => linear.looks_like(before),
            _ => false,
        };
        self.copy.resize(length * self.height as usize, 0);
        self.read.resize(length, 0);
        let mut changes = Changes::default();
        let mut at = linear.start;
        let lines = self.copy.chunks_exact_mut(length).zip(self.pixels.chunks_exact_mut(width));
        for (y, (copy, pixels)) in (0..).zip(lines) {
            vram.read(at, &mut self.read);
            at += u64::from(linear.stride);
            let columns = match known {
                true if copy == self.read => continue,
                true => {
                    let changed = difference(copy, &self.read);
                    changed.start / size..changed.end.div_ceil(size)
                }
                false => 0..width,
            };
            copy.copy_from_slice(&self.read);
            let bytes = columns.start * size..columns.end * size;
            linear.convert(&self.read[bytes], &mut pixels[columns.clone()]);
            changes.add(y, columns);
        }
        changes.0
    }
}

/// The bytes in which two lines of the same length, which are not the same, differ: whole words of 8, where there are.
fn difference(before: &[u8], after: &[u8]) -> Range<usize> {
    const WORD: usize = 8;
    let (before, after) = (before.chunks_exact(WORD), after.chunks_exact(WORD));
    let end = before.len() * WORD + before.remainder().len();
    let rest = before.remainder() != after.remainder();
    let mut words = before.zip(after);
    let first = words.clone().position(|(before, after)| before != after);
    let first = first.map_or(end - end % WORD, |word| word * WORD);
    let last = if rest { None } else { words.rposition(|(before, after)| before != after) };
    first..last.map_or(end, |word| (word + 1) * WORD)
}
