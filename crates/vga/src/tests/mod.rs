mod hostile;
mod modes;
mod pci;
mod planes;
mod vbe;

use crate::{Frame, Rect, Vga, WINDOW};
use board::pci::PciBus;
use board::{Buses, IrqLines};
use hv::{Bus, GuestMemory, Interrupts, Msi, Region};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of RAM, and where video memory lies behind it.
const RAM: u64 = 1 << 20;
const VRAM_SIZE: u64 = 16 << 20;
/// Slot of the card.
const SLOT: u8 = 2;

struct NoInterrupts;

impl Interrupts for NoInterrupts {
    fn set_line(&self, _: u32, _: bool) {}
    fn signal_msi(&self, _: Msi) {}
}

/// A card in a machine without processors.
struct Rig {
    memory: Arc<GuestMemory>,
    buses: Arc<Buses>,
    pci: Arc<PciBus>,
    card: Arc<Vga>,
}

/// The registers of a mode, as the VGA's BIOS sets them.
struct Mode {
    misc: u8,
    sequencer: [u8; 5],
    crtc: [u8; 25],
    graphics: [u8; 9],
    attribute: [u8; 21],
}

const EGA_PALETTE: [u8; 16] = [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F];
const FLAT_PALETTE: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A palette and the five registers behind it.
const fn attributes(palette: [u8; 16], rest: [u8; 5]) -> [u8; 21] {
    let mut attribute = [0; 21];
    let mut index = 0;
    while index < 21 {
        attribute[index] = if index < 16 { palette[index] } else { rest[index - 16] };
        index += 1;
    }
    attribute
}

/// 80 by 25 characters of 9 by 16 dots.
const MODE_3: Mode = Mode {
    misc: 0x67,
    sequencer: [0x03, 0x00, 0x03, 0x00, 0x02],
    crtc: [
        0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0x00, 0x00, 0x00, 0x00, 0x9C, 0x8E,
        0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0E, 0x00, 0xFF],
    attribute: attributes(EGA_PALETTE, [0x0C, 0x00, 0x0F, 0x08, 0x00]),
};

/// 640 by 480 dots of 16 colours.
const MODE_12: Mode = Mode {
    misc: 0xE3,
    sequencer: [0x03, 0x01, 0x0F, 0x00, 0x06],
    crtc: [
        0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0x0B, 0x3E, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xEA, 0x8C,
        0xDF, 0x28, 0x00, 0xE7, 0x04, 0xE3, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x0F, 0xFF],
    attribute: attributes(FLAT_PALETTE, [0x01, 0x00, 0x0F, 0x00, 0x00]),
};

/// 320 by 200 dots of 256 colours.
const MODE_13: Mode = Mode {
    misc: 0x63,
    sequencer: [0x03, 0x01, 0x0F, 0x00, 0x0E],
    crtc: [
        0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0xBF, 0x1F, 0x00, 0x41, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9C, 0x8E,
        0x8F, 0x28, 0x40, 0x96, 0xB9, 0xA3, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x05, 0x0F, 0xFF],
    attribute: attributes(FLAT_PALETTE, [0x41, 0x00, 0x0F, 0x00, 0x00]),
};

/// 320 by 200 dots of 4 colours.
const MODE_4: Mode = Mode {
    misc: 0x63,
    sequencer: [0x03, 0x09, 0x03, 0x00, 0x02],
    crtc: [
        0x2D, 0x27, 0x28, 0x90, 0x2B, 0x80, 0xBF, 0x1F, 0x00, 0xC1, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9C, 0x8E,
        0x8F, 0x14, 0x00, 0x96, 0xB9, 0xA2, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x30, 0x0F, 0x00, 0xFF],
    attribute: attributes(FLAT_PALETTE, [0x01, 0x00, 0x03, 0x00, 0x00]),
};

/// 640 by 200 dots of 2 colours.
const MODE_6: Mode = Mode {
    misc: 0x63,
    sequencer: [0x03, 0x01, 0x01, 0x00, 0x06],
    crtc: [
        0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0xBF, 0x1F, 0x00, 0xC1, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9C, 0x8E,
        0x8F, 0x28, 0x00, 0x96, 0xB9, 0xC2, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0D, 0x00, 0xFF],
    attribute: attributes(FLAT_PALETTE, [0x01, 0x00, 0x01, 0x00, 0x00]),
};

/// What the palette of [`Rig::set`] shows for an entry of the DAC: all are different.
fn colour(entry: u32) -> u32 {
    let wide = |value: u32| value << 2 | value >> 4;
    wide(entry & 0x3F) << 16 | wide(entry >> 6) << 8 | 0x04
}

impl Rig {
    fn new() -> Self {
        Self::with_rom(Vec::new())
    }

    fn with_rom(rom: Vec<u8>) -> Self {
        let ram = |address, size| Region { address, size, offset: address, readonly: false };
        let regions = [ram(0, *WINDOW.start()), ram(0xC_0000, 0x4_0000)];
        let memory = Arc::new(GuestMemory::with_size(&regions, RAM + VRAM_SIZE).unwrap());
        let buses = Arc::new(Buses::new());
        let interrupts: Arc<dyn Interrupts> = Arc::new(NoInterrupts);
        let pci = PciBus::new(&buses, interrupts.clone(), &IrqLines::new(interrupts)).unwrap();
        let card = Vga::new(memory.clone(), RAM, VRAM_SIZE, rom).unwrap();
        card.attach(&buses, &pci, SLOT).unwrap();
        Rig { memory, buses, pci, card }
    }

    fn out(&self, port: u16, value: u8) {
        self.buses.pio_write(port, 1, value.into());
    }

    fn input(&self, port: u16) -> u8 {
        self.buses.pio_read(port, 1) as u8
    }

    /// Writes an index and its data in one access of a word.
    fn indexed(&self, port: u16, index: u8, value: u8) {
        self.buses.pio_write(port, 2, u32::from(value) << 8 | u32::from(index));
    }

    fn attribute(&self, index: u8, value: u8) {
        self.input(0x3DA);
        self.out(0x3C0, index);
        self.out(0x3C0, value);
        self.out(0x3C0, 0x20);
    }

    fn set(&self, mode: &Mode) {
        self.out(0x3C2, mode.misc);
        self.indexed(0x3D4, 0x11, 0);
        for (port, values) in [(0x3C4, &mode.sequencer[..]), (0x3D4, &mode.crtc[..]), (0x3CE, &mode.graphics[..])] {
            for (index, value) in values.iter().enumerate() {
                self.indexed(port, index as u8, *value);
            }
        }
        for (index, value) in mode.attribute.iter().enumerate() {
            self.attribute(index as u8, *value);
        }
        self.out(0x3C6, 0xFF);
        self.out(0x3C8, 0);
        for entry in 0..=255u8 {
            [entry & 0x3F, entry >> 6, 1].iter().for_each(|component| self.out(0x3C9, *component));
        }
    }

    fn poke(&self, address: u64, data: &[u8]) {
        for (at, bytes) in (address..).step_by(8).zip(data.chunks(8)) {
            self.buses.mmio_write(at, bytes);
        }
    }

    fn peek(&self, address: u64) -> u8 {
        let mut data = [0];
        self.buses.mmio_read(address, &mut data);
        data[0]
    }

    /// A word of video memory: a byte of each plane.
    fn planes(&self, address: u64) -> [u8; 4] {
        let mut data = [0; 4];
        self.memory.read_backing(RAM + 4 * address, &mut data).unwrap();
        data
    }

    /// Puts characters into plane 2, from `first` on in a font's 8 KiB from `base` on.
    fn load_font(&self, base: u64, first: u8, glyphs: &[[u8; 16]]) {
        for (index, value) in [(2, 0x04), (4, 0x06)] {
            self.indexed(0x3C4, index, value);
        }
        self.indexed(0x3CE, 5, 0x00);
        self.indexed(0x3CE, 6, 0x04);
        for (code, glyph) in (u64::from(first)..).zip(glyphs) {
            self.poke(0xA_0000 + base + code * 32, glyph);
        }
        for (index, value) in [(2, 0x03), (4, 0x02)] {
            self.indexed(0x3C4, index, value);
        }
        self.indexed(0x3CE, 5, 0x10);
        self.indexed(0x3CE, 6, 0x0E);
    }

    fn dispi(&self, index: u16, value: u16) {
        self.buses.pio_write(0x1CE, 2, index.into());
        self.buses.pio_write(0x1CF, 2, value.into());
    }

    /// Switches a mode of the Bochs VBE interface on, with its memory cleared.
    fn set_vbe(&self, width: u16, height: u16, depth: u16) {
        for (index, value) in [(4, 0), (1, width), (2, height), (3, depth), (5, 0), (4, 0x41)] {
            self.dispi(index, value);
        }
        for status in [0x3BA, 0x3DA] {
            self.input(status);
        }
        self.out(0x3C0, 0x20);
    }

    fn config(&self, register: u8, value: Option<u32>) -> u32 {
        let address = 1 << 31 | u32::from(SLOT) << 11 | u32::from(register);
        self.buses.pio_write(0xCF8, 4, address);
        if let Some(value) = value {
            self.buses.pio_write(0xCFC, 4, value);
        }
        self.buses.pio_read(0xCFC, 4)
    }

    /// The screen at a time when everything that blinks shows.
    fn update(&self, frame: &mut Frame) -> Vec<Rect> {
        self.card.update_at(frame, Duration::ZERO)
    }

    fn frame(&self) -> Frame {
        let mut frame = Frame::new();
        self.update(&mut frame);
        frame
    }
}

impl Frame {
    fn at(&self, x: u32, y: u32) -> u32 {
        self.pixels[(y * self.width + x) as usize]
    }

    fn row(&self, y: u32, columns: std::ops::Range<u32>) -> Vec<u32> {
        columns.map(|x| self.at(x, y)).collect()
    }
}
