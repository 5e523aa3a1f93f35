//! The VGA card: IBM's VGA with the Bochs VBE extensions (DISPI) as the PCI device 1234:1111 that QEMU calls standard
//! VGA. [`Vga`] is the card; [`Vga::update`] makes pictures of its screen, [`Vga::text`] reads what is written there.
//!
//! Sources: IBM Video Subsystem Technical Reference (VGA function), cited as *VGA*; the FreeVGA project's register
//! descriptions; the Bochs VBE display interface (`vbe_display_api.txt`); QEMU's `docs/specs/standard-vga.rst`.

mod card;
mod cp437;
mod crtc;
mod dac;
mod dispi;
mod edid;
mod frame;
mod linear;
mod planes;
mod registers;
mod screen;
mod state;
mod text;
mod vram;
mod window;

pub use card::{Vga, WINDOW};
pub use frame::{Frame, Rect};

#[cfg(test)]
mod tests;
