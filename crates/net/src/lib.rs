//! What stands behind a network device, whichever device that is.
//!
//! ```text
//!   device's I/O thread ──▶ Capture ──▶ Cable ──▶ StreamBackend, DatagramBackend or NullBackend
//! ```
//!
//! A [`Backend`] outlives the device in front of it: a machine that is made anew after a reset finds its network as the
//! last one left it, in the middle of a frame as well.

mod cable;
mod capture;
mod datagram;
mod link;
mod socket;
mod stream;

pub use cable::Cable;
pub use capture::{Capture, MAX_SNAPLEN};
pub use datagram::DatagramBackend;
pub use link::LinkListener;
pub use socket::from_socket;
pub use stream::StreamBackend;

use std::os::fd::RawFd;

/// Bytes of the shortest frame: an Ethernet header alone. Networks of software do not pad.
pub const MIN_FRAME: usize = 14;

/// Bytes of the longest frame: as much as IP can have behind an Ethernet header with a VLAN tag.
pub const MAX_FRAME: usize = 18 + 65535;

/// Where a network device's Ethernet frames go and come from. Frames begin with the destination address and carry no
/// frame check sequence.
///
/// Frames are sent and received on the device's I/O thread, and nothing here makes it wait for a network. While there
/// is no such thread, nobody calls.
pub trait Backend: Send + Sync {
    /// Sends a frame. What cannot be sent now is dropped, as a network does.
    fn send(&self, frame: &[u8]);

    /// Takes the next frame that has arrived; `None`: none has. Returns the frame's length, which is more than `frame`
    /// has room for when only its beginning was stored.
    fn receive(&self, frame: &mut [u8]) -> Option<usize>;

    /// What becomes readable when there is something to do: asked before each sleep, and valid until the next call.
    /// `receiving`: the device waits for frames, of which [`Backend::receive`] has given all there were.
    fn event_fd(&self, _receiving: bool) -> Option<RawFd> {
        None
    }

    /// Whether the link is up. From any thread, and without waiting for one.
    fn is_up(&self) -> bool {
        true
    }

    /// Has `listener` called, on any thread, after each change of [`Backend::is_up`]. It takes the last one's place.
    fn watch(&self, _listener: LinkListener) {}
}

/// A network with nobody else in it.
pub struct NullBackend;

impl Backend for NullBackend {
    fn send(&self, _frame: &[u8]) {}

    fn receive(&self, _frame: &mut [u8]) -> Option<usize> {
        None
    }
}
