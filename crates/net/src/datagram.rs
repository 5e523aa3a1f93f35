use crate::link::{Link, LinkListener};
use crate::{Backend, MIN_FRAME, socket};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Datagrams looked at for one frame: the others were no frames, or errors of what was sent before.
const TRIES: u32 = 64;

/// A network behind a datagram socket, Unix or UDP: each frame is a datagram, as for QEMU's `-netdev dgram`.
///
/// What the socket has no room for is dropped. A UDP peer that is not there is not missed: it may come later. The link
/// goes down when a Unix socket's peer was closed.
pub struct DatagramBackend {
    socket: OwnedFd,
    link: Link,
}

impl DatagramBackend {
    /// A network behind a connected datagram socket.
    ///
    /// # Errors
    /// When it is not connected.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        socket::check_connected(&socket)?;
        Ok(DatagramBackend { socket, link: Link::new() })
    }

    /// Looks at an error; true when the next try may go well.
    fn survives(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            // What ICMP has said of datagrams that UDP sent before.
            Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EINTR) => true,
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EMSGSIZE) => false,
            _ => {
                self.link.set(false);
                false
            }
        }
    }
}

impl Backend for DatagramBackend {
    fn send(&self, frame: &[u8]) {
        if frame.len() >= MIN_FRAME && self.link.is_up() {
            if let Err(error) = socket::send(&self.socket, &[IoSlice::new(frame)]) {
                self.survives(&error);
            }
        }
    }

    fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        if !self.link.is_up() {
            return None;
        }
        for _ in 0..TRIES {
            match socket::receive(&self.socket, frame, libc::MSG_TRUNC) {
                Ok(length) if length >= MIN_FRAME => return Some(length),
                Ok(_) => {}
                Err(error) if self.survives(&error) => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn event_fd(&self, receiving: bool) -> Option<RawFd> {
        (receiving && self.link.is_up()).then(|| self.socket.as_raw_fd())
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn watch(&self, listener: LinkListener) {
        self.link.watch(listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    fn pair() -> (DatagramBackend, UnixDatagram) {
        let (ours, peer) = UnixDatagram::pair().unwrap();
        (DatagramBackend::new(ours.into()).unwrap(), peer)
    }

    #[test]
    fn a_frame_is_a_datagram() {
        let (network, peer) = pair();
        let mut frame = [0; 2000];
        assert_eq!(network.receive(&mut frame), None);
        for length in [1, 13, 14, 1514] {
            peer.send(&vec![length as u8; length]).unwrap();
        }
        assert_eq!((network.receive(&mut frame), frame[0]), (Some(14), 14));
        assert_eq!(network.receive(&mut frame[..100]), Some(1514), "only the beginning was stored");
        assert_eq!(network.receive(&mut frame), None);
        network.send(&[1; 13]);
        network.send(&[2; 60]);
        assert_eq!((peer.recv(&mut frame).unwrap(), frame[0]), (60, 2));
    }

    #[test]
    fn a_peer_that_does_not_read_loses_frames_and_one_that_left_ends_the_link() {
        let (network, peer) = pair();
        for _ in 0..10_000 {
            network.send(&[3; 1514]);
        }
        assert!(network.is_up());
        drop(peer);
        // The first one is told that it was refused, the second that nobody is there.
        network.send(&[3; 60]);
        network.send(&[3; 60]);
        assert_eq!((network.is_up(), network.event_fd(true), network.receive(&mut [0; 64])), (false, None, None));
    }

    #[test]
    fn a_udp_peer_may_come_late() {
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (our_address, peer_address) = (ours.local_addr().unwrap(), peer.local_addr().unwrap());
        ours.connect(peer_address).unwrap();
        drop(peer);
        let network = DatagramBackend::new(ours.into()).unwrap();
        let mut frame = [0; 100];
        for _ in 0..3 {
            network.send(&[1; 60]);
            assert_eq!(network.receive(&mut frame), None);
        }
        assert!(network.is_up());
        let peer = UdpSocket::bind(peer_address).unwrap();
        network.send(&[5; 60]);
        // The answer of the port that was closed may have come late, and be this send's error.
        network.send(&[5; 60]);
        assert_eq!((peer.recv(&mut frame).unwrap(), frame[0]), (60, 5));
        peer.send_to(&[6; 61], our_address).unwrap();
        assert_eq!((network.receive(&mut frame), frame[0]), (Some(61), 6));
    }
}
