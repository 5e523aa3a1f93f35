//! Screens for remote viewers: what the RFB protocol (RFC 6143, VNC) does to pixels, before compression, and its
//! password. Pure functions; sockets, zlib and the order of messages are `wirt.display`'s, in Python.
//!
//! Colours are 0x00RRGGBB throughout, as [`Image`] has them.

mod auth;
mod format;
mod image;
mod palette;
mod tight;
mod zrle;

pub use auth::{CHALLENGE_SIZE, PASSWORD_SIZE, vnc_response};
pub use format::{FormatError, PixelFormat, colour_map};
pub use image::Image;
pub use tight::{Part, tight};
pub use zrle::zrle;

/// A rectangle in Raw encoding: pixels row by row. RFC 6143, section 7.7.1.
pub fn raw(image: Image<'_>, format: &PixelFormat) -> Vec<u8> {
    let mut out = Vec::new();
    for row in image.rows() {
        format.pixel().pack(row, &mut out);
    }
    out
}

#[cfg(test)]
mod tests;
