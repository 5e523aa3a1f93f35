use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An eventfd: something to be woken by, from any thread and from inside the kernel.
pub struct EventFd(OwnedFd);

impl EventFd {
    /// An event that is not signalled.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just returned to us and nobody else owns it.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Signals. A counter that is full already is signalled as well, so there is no error to handle.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the pointer is to 8 bytes of our own.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), 8) };
    }

    /// Takes the signal away.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the pointer is to 8 bytes of our own.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }

    /// The file descriptor, valid while `self` lives.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
