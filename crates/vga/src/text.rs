use crate::cp437;
use crate::crtc::{Cursor, Scanout};
use crate::planes::{Copied, finish_line};

/// Bytes of a character's picture in plane 2.
const GLYPH_SIZE: u32 = 32;

/// A text mode: characters in plane 0, their attributes in plane 1, their pictures in plane 2.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub scanout: Scanout,
    /// Characters of a line.
    pub columns: u32,
    /// Dots of a character, 8 or 9.
    pub cell: u32,
    /// Dots are two pixels wide.
    pub wide: bool,
    /// Dots, at most 8, that are left out at the left; and in the lower screen.
    pub shift: u32,
    pub lower_shift: u32,
    pub colours: [u32; 16],
    /// Where the pictures of characters begin in plane 2, by bit 3 of their attribute.
    pub fonts: [u32; 2],
    /// The ninth dot of characters 0xC0..=0xDF is their eighth.
    pub line_graphics: bool,
    /// Bit 7 of an attribute makes a character blink; otherwise it belongs to its background.
    pub blink: bool,
    /// Characters that blink do not show now.
    pub blinked_off: bool,
    /// The scan line of underlined characters.
    pub underline: u32,
    /// The cursor, when it shows.
    pub cursor: Option<Cursor>,
}

impl Text {
    /// Makes line `y`; `dots` is room to work in.
    pub fn line(&self, memory: Copied<'_>, y: u32, dots: &mut Vec<u32>, pixels: &mut [u32]) {
        let line = self.scanout.line(y);
        let cursor = self.cursor.filter(|cursor| (cursor.first..=cursor.last).contains(&line.scan));
        dots.clear();
        for column in 0..=self.columns {
            let [character, attribute, ..] = memory.at(self.scanout.address(&line, column));
            let font = self.fonts[usize::from(attribute >> 3 & 1)];
            let [_, _, mut picture, _] = memory.at(font + u32::from(character) * GLYPH_SIZE + line.scan);
            let mut foreground = self.colours[usize::from(attribute & 0x0F)];
            let background = attribute >> 4 & if self.blink { 0x07 } else { 0x0F };
            let background = self.colours[usize::from(background)];
            if self.blinked_off && attribute & 0x80 != 0 {
                foreground = background;
            }
            // What is underlined on a monochrome monitor. Colour modes put the line below the character.
            let under = attribute & 0x77 == 0x01 && line.scan == self.underline;
            let at_cursor = cursor.is_some_and(|cursor| cursor.address == self.scanout.counter(&line, column) & 0xFFFF);
            if under || at_cursor {
                picture = 0xFF;
            }
            if at_cursor {
                foreground = self.colours[usize::from(attribute & 0x0F)];
            }
            let row: [u32; 8] =
                std::array::from_fn(|dot| if picture >> (7 - dot) & 1 != 0 { foreground } else { background });
            dots.extend_from_slice(&row);
            if self.cell == 9 {
                let continued = self.line_graphics && matches!(character, 0xC0..=0xDF) || under || at_cursor;
                dots.push(if continued { row[7] } else { background });
            }
        }
        finish_line(dots, if line.lower { self.lower_shift } else { self.shift }, self.wide, pixels);
    }

    /// What is written on a screen of `height` lines.
    pub fn characters(&self, memory: Copied<'_>, height: u32) -> String {
        let characters = cp437::characters();
        let mut text = String::new();
        let mut last = None;
        for y in 0..height {
            let line = self.scanout.line(y);
            if last.replace((line.lower, line.row)) == Some((line.lower, line.row)) {
                continue;
            }
            let at = |column| usize::from(memory.at(self.scanout.address(&line, column))[0]);
            let row: String = (0..self.columns).map(|column| characters[at(column)]).collect();
            text.push_str(row.trim_end_matches(' '));
            text.push('\n');
        }
        text
    }
}
