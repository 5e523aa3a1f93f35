//! What stands behind a network device, whichever device that is.

use std::os::fd::RawFd;

/// Where a network device's Ethernet frames go and come from. Frames begin with the destination address and carry no
/// frame check sequence. Called on the device's I/O thread.
pub trait Backend: Send + Sync {
    /// Sends a frame. What cannot be sent now is dropped, as a network does.
    fn send(&self, frame: &[u8]);

    /// Takes the next frame that has arrived; `None`: none has. What does not fit into `frame` is cut off.
    fn receive(&self, frame: &mut [u8]) -> Option<usize>;

    /// What becomes readable when a frame has arrived.
    fn event_fd(&self) -> Option<RawFd> {
        None
    }
}

/// A network with nobody else in it.
pub struct NullBackend;

impl Backend for NullBackend {
    fn send(&self, _frame: &[u8]) {}

    fn receive(&self, _frame: &mut [u8]) -> Option<usize> {
        None
    }
}
