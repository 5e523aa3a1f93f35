use crate::{Backend, DatagramBackend, StreamBackend};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// A network behind a connected socket: a [`StreamBackend`] or a [`DatagramBackend`], as its type is.
///
/// # Errors
/// When it is no such socket, is not connected, or the system has no file descriptor left.
pub fn from_socket(socket: OwnedFd) -> io::Result<Arc<dyn Backend>> {
    let mut kind: libc::c_int = 0;
    let mut size = size_of_val(&kind) as libc::socklen_t;
    // SAFETY: both pointers are to values of our own, and `size` is that of the first.
    let outcome = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut size)
    };
    check(outcome as isize)?;
    match kind {
        libc::SOCK_STREAM => Ok(Arc::new(StreamBackend::new(socket)?)),
        libc::SOCK_DGRAM => Ok(Arc::new(DatagramBackend::new(socket)?)),
        _ => Err(io::Error::other("a network needs a stream or a datagram socket")),
    }
}

/// Fails unless the socket has somebody at its other end.
pub(crate) fn check_connected(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: `sockaddr_storage` is plain numbers, for which zeros are a value.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: both pointers are to values of our own, and `size` is that of the first.
    let outcome = unsafe { libc::getpeername(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut size) };
    check(outcome as isize).map(|_| ())
}

/// Sends as much of `parts` in a row as goes without waiting.
pub(crate) fn send(socket: &OwnedFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: `msghdr` is plain numbers and pointers, for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` is guaranteed to be laid out as `iovec`; sending only reads.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len();
    // SAFETY: `message` points to as many slices as it says, which live during the call.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// Receives what there is, without waiting, up to the length of `data`. With MSG_TRUNC in `flags`, the length of a
/// datagram is returned even if it is more.
pub(crate) fn receive(socket: &OwnedFd, data: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: the pointer is to as many bytes of ours as are given.
    check(unsafe { libc::recv(socket.as_raw_fd(), data.as_mut_ptr().cast(), data.len(), flags | libc::MSG_DONTWAIT) })
}

/// Whether an error only says that it would take waiting, or another try.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

pub(crate) fn check(outcome: isize) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn only_connected_stream_and_datagram_sockets_are_taken() {
        assert!(from_socket(UnixStream::pair().unwrap().0.into()).is_ok());
        assert!(from_socket(UnixDatagram::pair().unwrap().0.into()).is_ok());
        assert!(from_socket(UnixDatagram::unbound().unwrap().into()).is_err());
        assert!(from_socket(UdpSocket::bind("127.0.0.1:0").unwrap().into()).is_err());
        assert!(from_socket(TcpListener::bind("127.0.0.1:0").unwrap().into()).is_err());
        assert!(from_socket(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }
}
