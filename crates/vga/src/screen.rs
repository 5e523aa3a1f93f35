use crate::crtc::Scanout;
use crate::linear::{Format, Linear};
use crate::planes::{Dots, Planes};
use crate::state::State;
use crate::text::Text;
use std::ops::Range;
use std::time::Duration;

/// The largest picture of a VGA mode, in either direction.
const MAX_VGA: u32 = 2048;

/// Addresses in the planes that VGA modes show.
pub(crate) const VGA_PLANES: Range<u32> = 0..0x1_0000;

/// Less than this is no picture of a mode but what is left of none.
const SMALLEST_VGA: (u32, u32) = (64, 16);
/// The dark picture then.
const NO_PICTURE: (u32, u32) = (640, 480);

/// Frames from one change of the cursor to the next, and of blinking characters, at 70 frames in a second. Twice as many as
/// on the IBM VGA: each is a change that viewers have to be told.
const CURSOR_FRAMES: u128 = 16;
const CHARACTER_FRAMES: u128 = 32;

/// How registers say video memory is to be shown. Two that are the same show the same memory in the same way.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Pixels.
    pub width: u32,
    pub height: u32,
    pub content: Content,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Black.
    Blank,
    Text(Box<Text>),
    Planes(Box<Planes>),
    Linear(Box<Linear>),
}

impl State {
    /// What the screen shows, `time` after the card was switched on.
    pub fn screen(&self, time: Duration) -> Screen {
        let mut screen = if self.dispi.enabled() { self.vbe_screen() } else { self.vga_screen(time) };
        if self.registers.dark() {
            screen.content = Content::Blank;
        }
        screen
    }

    /// The text mode that is on, the screen dark or not, and the screen's lines.
    pub fn text(&self) -> Option<(Box<Text>, u32)> {
        if self.dispi.enabled() {
            return None;
        }
        let screen = self.vga_screen(Duration::ZERO);
        match screen.content {
            Content::Text(text) => Some((text, screen.height)),
            _ => None,
        }
    }

    fn vbe_screen(&self) -> Screen {
        let dispi = &self.dispi;
        let (width, height) = (dispi.width(), dispi.height());
        let content = if dispi.planar() {
            // Four bytes are one address.
            let (start, pitch) = ((dispi.start() / 4) as u32, dispi.stride() / 4);
            let columns = width / 8;
            Content::Planes(Box::new(Planes {
                scanout: Scanout::rows(start, pitch, u32::MAX >> 2),
                memory: start..start + (height - 1) * pitch + columns + 1,
                columns,
                wide: false,
                shift: dispi.shift(),
                lower_shift: 0,
                dots: Dots::Planar(self.colours()),
            }))
        } else {
            let format = match dispi.depth() {
                15 => Format::Rgb555,
                16 => Format::Rgb565,
                24 => Format::Rgb888,
                32 => Format::Xrgb8888,
                _ => Format::Palette(Box::new(self.registers.dac.palette())),
            };
            Content::Linear(Box::new(Linear {
                start: dispi.start(),
                stride: dispi.stride(),
                format,
                big_endian: self.big_endian,
            }))
        };
        Screen { width, height, content }
    }

    fn vga_screen(&self, time: Duration) -> Screen {
        let registers = &self.registers;
        let graphics = registers.graphics(6) & 1 != 0;
        let wide = registers.wide_dots();
        let cell = if graphics { 8 } else { registers.character_dots() };
        let pixels = cell << u32::from(wide);
        let columns = registers.crtc.columns().min(MAX_VGA / pixels);
        let (width, height) = (columns * pixels, registers.crtc.lines().min(MAX_VGA));
        if width < SMALLEST_VGA.0 || height < SMALLEST_VGA.1 {
            return Screen { width: NO_PICTURE.0, height: NO_PICTURE.1, content: Content::Blank };
        }
        let shift = self.shift(cell);
        // With the mode control's bit 5 the lower screen does not move.
        let lower_shift = if registers.attribute(0x10) & 0x20 != 0 { 0 } else { shift };
        let scanout = registers.crtc.scanout();
        let content = if graphics {
            let mode = registers.graphics(5);
            let dots = match (mode & 0x40 != 0, mode & 0x20 != 0) {
                (true, _) => Dots::Bytes(Box::new(registers.dac.palette())),
                (false, true) => Dots::Pairs(self.colours()),
                (false, false) => Dots::Planar(self.colours()),
            };
            Content::Planes(Box::new(Planes { scanout, memory: VGA_PLANES, columns, wide, shift, lower_shift, dots }))
        } else {
            let frames = time.as_millis() * 70 / 1000;
            let mode = registers.attribute(0x10);
            let maps = registers.character_maps();
            // 8 KiB each: the lower two bits count 16 KiB, the third one is for what lies between.
            let font = |low: u8, high: u8| u32::from(low & 3) << 14 | u32::from(high & 1) << 13;
            Content::Text(Box::new(Text {
                scanout,
                columns,
                cell,
                wide,
                shift,
                lower_shift,
                colours: self.colours(),
                fonts: [font(maps, maps >> 4), font(maps >> 2, maps >> 5)],
                line_graphics: mode & 0x04 != 0,
                blink: mode & 0x08 != 0,
                blinked_off: mode & 0x08 != 0 && frames / CHARACTER_FRAMES % 2 != 0,
                underline: registers.crtc.underline(),
                cursor: registers.crtc.cursor().filter(|_| frames / CURSOR_FRAMES % 2 == 0),
            }))
        };
        Screen { width, height, content }
    }

    fn colours(&self) -> [u32; 16] {
        std::array::from_fn(|value| self.registers.colour(value as u8))
    }

    /// Dots by which the picture is moved to the left, less than a character. VGA, "Horizontal PEL Panning Register".
    fn shift(&self, cell: u32) -> u32 {
        let panning = u32::from(self.registers.attribute(0x13));
        match (cell, panning) {
            (9, 8..) => 0,
            (9, _) => panning + 1,
            _ => panning % 8,
        }
    }
}
