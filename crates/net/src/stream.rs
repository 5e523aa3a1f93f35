use crate::link::{Link, LinkListener};
use crate::{Backend, MAX_FRAME, MIN_FRAME, socket};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Bytes of the length in front of each frame.
const PREFIX: usize = 4;
/// Bytes read at once; the largest frame fits with its length.
const INCOMING: usize = 1 << 17;
/// Bytes that wait for a slow peer before frames are dropped.
const OUTGOING: usize = 1 << 20;

/// A network behind a stream socket, Unix or TCP: each frame with its length before it, in 4 bytes big-endian. That is
/// what passt and QEMU's `-netdev stream` speak.
///
/// For a peer that reads slowly up to 1 MiB is kept, and frames beyond it are dropped. The link goes down, for good, when
/// the peer closes its end or announces a frame that is longer than any.
///
/// Lock order: `incoming` and `outgoing` are leaves, but for the link's listener.
pub struct StreamBackend {
    socket: OwnedFd,
    /// Readable when the socket is as `outgoing.interest` says.
    epoll: OwnedFd,
    link: Link,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
}

/// What was read, and not yet taken: from `start` to `end` of `data`.
struct Incoming {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

struct Outgoing {
    /// Whole frames with their lengths, but for a first one of which the beginning was sent.
    queue: VecDeque<u8>,
    /// The events that `epoll` waits for.
    interest: u32,
}

/// What the next bytes are.
enum Next {
    /// A frame, with where it lies.
    Frame(std::ops::Range<usize>),
    /// Less than a frame.
    Incomplete,
    /// No frame.
    Nonsense,
}

impl Incoming {
    fn next(&mut self) -> Next {
        let Some((prefix, _)) = self.data[self.start..self.end].split_first_chunk::<PREFIX>() else {
            return Next::Incomplete;
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Next::Nonsense;
        }
        let first = self.start + PREFIX;
        if length > self.end - first {
            return Next::Incomplete;
        }
        self.start = first + length;
        Next::Frame(first..self.start)
    }

    /// Where to read more.
    fn room(&mut self) -> &mut [u8] {
        self.data.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.data[self.end..]
    }
}

impl StreamBackend {
    /// A network behind a connected stream socket.
    ///
    /// # Errors
    /// When it is not connected, or the system has no file descriptor left.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        socket::check_connected(&socket)?;
        // SAFETY: the call takes no pointers.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        socket::check(epoll as isize)?;
        // SAFETY: `epoll` was just returned to us and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let backend = StreamBackend {
            socket,
            epoll,
            link: Link::new(),
            incoming: Mutex::new(Incoming { data: vec![0; INCOMING].into(), start: 0, end: 0 }),
            outgoing: Mutex::new(Outgoing { queue: VecDeque::new(), interest: 0 }),
        };
        backend.register(libc::EPOLL_CTL_ADD, 0)?;
        Ok(backend)
    }

    fn register(&self, operation: libc::c_int, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: 0 };
        let (epoll, socket) = (self.epoll.as_raw_fd(), self.socket.as_raw_fd());
        // SAFETY: the pointer is to an event of our own.
        let outcome = unsafe { libc::epoll_ctl(epoll, operation, socket, &raw mut event) };
        socket::check(outcome as isize).map(|_| ())
    }

    /// Ends the connection, so that the peer sees it as well.
    fn disconnect(&self) {
        // SAFETY: the call takes no pointers.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
        self.link.set(false);
    }

    /// Reads once; false when nothing came.
    fn read(&self, incoming: &mut Incoming) -> bool {
        match socket::receive(&self.socket, incoming.room(), 0) {
            Ok(0) => self.disconnect(),
            Ok(count) => {
                incoming.end += count;
                return true;
            }
            Err(error) if socket::is_temporary(&error) => {}
            Err(_) => self.disconnect(),
        }
        false
    }

    /// Writes once what goes without waiting; returns how many bytes.
    fn write(&self, parts: &[IoSlice<'_>]) -> usize {
        socket::send(&self.socket, parts).unwrap_or_else(|error| {
            if !socket::is_temporary(&error) {
                self.disconnect();
            }
            0
        })
    }

    fn flush(&self, outgoing: &mut Outgoing) {
        if !outgoing.queue.is_empty() {
            let (first, second) = outgoing.queue.as_slices();
            let sent = self.write(&[IoSlice::new(first), IoSlice::new(second)]);
            outgoing.queue.drain(..sent);
        }
    }
}

impl Backend for StreamBackend {
    fn send(&self, frame: &[u8]) {
        if !(MIN_FRAME..=MAX_FRAME).contains(&frame.len()) || !self.link.is_up() {
            return;
        }
        let outgoing = &mut *self.outgoing.lock();
        self.flush(outgoing);
        let prefix = (frame.len() as u32).to_be_bytes();
        let sent =
            if outgoing.queue.is_empty() { self.write(&[IoSlice::new(&prefix), IoSlice::new(frame)]) } else { 0 };
        // Of a frame that was begun the rest must follow.
        if sent > 0 || outgoing.queue.len() + PREFIX + frame.len() <= OUTGOING {
            outgoing.queue.extend(prefix.iter().chain(frame).skip(sent));
        }
    }

    fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        let incoming = &mut *self.incoming.lock();
        let mut has_read = false;
        while self.link.is_up() {
            match incoming.next() {
                Next::Frame(place) if place.len() >= MIN_FRAME => {
                    let data = &incoming.data[place];
                    let stored = data.len().min(frame.len());
                    frame[..stored].copy_from_slice(&data[..stored]);
                    return Some(data.len());
                }
                // Too short for one: passed over.
                Next::Frame(_) => {}
                Next::Nonsense => self.disconnect(),
                // What comes after one reading has to wait, as a peer might never end.
                Next::Incomplete if has_read || !self.read(incoming) => break,
                Next::Incomplete => has_read = true,
            }
        }
        None
    }

    fn event_fd(&self, receiving: bool) -> Option<RawFd> {
        let outgoing = &mut *self.outgoing.lock();
        self.flush(outgoing);
        let mut interest = if receiving { libc::EPOLLIN } else { 0 };
        if !outgoing.queue.is_empty() {
            interest |= libc::EPOLLOUT;
        }
        // A peer that has gone would show whatever the interest is.
        if interest == 0 || !self.link.is_up() {
            return None;
        }
        if outgoing.interest != interest as u32 && self.register(libc::EPOLL_CTL_MOD, interest as u32).is_ok() {
            outgoing.interest = interest as u32;
        }
        Some(self.epoll.as_raw_fd())
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
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn pair() -> (StreamBackend, UnixStream) {
        let (ours, peer) = UnixStream::pair().unwrap();
        (StreamBackend::new(ours.into()).unwrap(), peer)
    }

    fn packed(frame: &[u8]) -> Vec<u8> {
        [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
    }

    /// Whether there is something to do within a moment.
    fn is_ready(network: &StreamBackend, receiving: bool) -> bool {
        let Some(fd) = network.event_fd(receiving) else { return false };
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one entry of our own.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    fn unpack(mut data: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some((prefix, rest)) = data.split_first_chunk::<4>() {
            let (frame, rest) = rest.split_at(u32::from_be_bytes(*prefix) as usize);
            frames.push(frame.to_vec());
            data = rest;
        }
        frames
    }

    #[test]
    fn frames_come_in_whatever_pieces() {
        let (network, mut peer) = pair();
        let mut frame = vec![0; MAX_FRAME];
        for byte in packed(&[9; 20]) {
            assert_eq!(network.receive(&mut frame), None);
            assert!(!is_ready(&network, true));
            peer.write_all(&[byte]).unwrap();
            assert!(is_ready(&network, true) && !is_ready(&network, false));
        }
        assert_eq!((network.receive(&mut frame), &frame[..20]), (Some(20), &[9; 20][..]));
        let runts = [packed(&[]), packed(&[1; 13])].concat();
        let several = [&runts[..], &packed(&[2; 14]), &runts, &packed(&[3; 1514]), &packed(&[4; 60])[..20]].concat();
        peer.write_all(&several).unwrap();
        assert_eq!((network.receive(&mut frame[..10]), frame[0]), (Some(14), 2));
        assert_eq!((network.receive(&mut frame), frame[0]), (Some(1514), 3));
        assert_eq!(network.receive(&mut frame), None);
        peer.write_all(&[4; 44]).unwrap();
        assert_eq!((network.receive(&mut frame), frame[59]), (Some(60), 4));
        let writer = std::thread::spawn(move || peer.write_all(&packed(&[5; MAX_FRAME])).map(|()| peer));
        let length = std::iter::repeat_with(|| network.receive(&mut frame)).find_map(|length| length);
        assert_eq!((length, frame[MAX_FRAME - 1]), (Some(MAX_FRAME), 5));
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn a_length_beyond_all_frames_and_an_end_take_the_link_down() {
        let (network, mut peer) = pair();
        peer.write_all(&(MAX_FRAME as u32 + 1).to_be_bytes()).unwrap();
        assert_eq!((network.receive(&mut [0; 64]), network.is_up(), network.event_fd(true)), (None, false, None));
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the peer is told");
        let (network, mut peer) = pair();
        peer.write_all(&packed(&[1; 60])).unwrap();
        peer.write_all(&packed(&[1; 60])[..30]).unwrap();
        drop(peer);
        assert_eq!((network.receive(&mut [0; 64]), network.is_up()), (Some(60), true));
        assert!(is_ready(&network, true));
        assert_eq!((network.receive(&mut [0; 64]), network.is_up(), network.event_fd(true)), (None, false, None));
        let (network, peer) = pair();
        drop(peer);
        network.send(&[1; 60]);
        network.send(&[1; 60]);
        assert!(!network.is_up());
    }

    #[test]
    fn a_slow_peer_loses_whole_frames_and_delays_nobody() {
        let (network, mut peer) = pair();
        let sent: Vec<Vec<u8>> = (0..4000u32).map(|n| n.to_be_bytes().repeat(100)).collect();
        sent.iter().for_each(|frame| network.send(frame));
        assert!(network.outgoing.lock().queue.len() <= OUTGOING);
        assert!(!is_ready(&network, false), "nothing can be written yet");
        // The peer reads: the rest follows as there is room, and the network goes on.
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut data = Vec::new();
        let mut piece = vec![0; 1 << 16];
        while !network.outgoing.lock().queue.is_empty() {
            let count = peer.read(&mut piece).unwrap();
            data.extend(&piece[..count]);
            network.event_fd(false);
        }
        assert_eq!(network.event_fd(false), None);
        let last = vec![0xEE; 60];
        network.send(&last);
        drop(network);
        peer.read_to_end(&mut data).unwrap();
        let received = unpack(&data);
        assert_eq!(received.last(), Some(&last));
        let kept = received.len() - 1;
        assert!(kept > 1000 && kept < sent.len() && received[..kept] == sent[..kept], "{kept}");
    }

    #[test]
    fn writable_is_waited_for_only_while_something_waits() {
        let (network, mut peer) = pair();
        while network.outgoing.lock().queue.is_empty() {
            network.send(&[1; 1514]);
        }
        assert!(network.event_fd(false).is_some() && !is_ready(&network, false));
        let mut piece = vec![0; 1 << 20];
        while !is_ready(&network, false) && network.event_fd(false).is_some() {
            assert_ne!(peer.read(&mut piece).unwrap(), 0);
        }
        network.event_fd(false);
        assert_eq!(network.event_fd(false), None);
        drop(peer);
        assert!(is_ready(&network, true));
    }

    #[test]
    fn tcp_is_a_stream_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let network = StreamBackend::new(listener.accept().unwrap().0.into()).unwrap();
        network.send(&[7; 60]);
        let mut data = [0; 64];
        peer.read_exact(&mut data).unwrap();
        assert_eq!(data[..8], [0, 0, 0, 60, 7, 7, 7, 7]);
        drop(peer);
        while network.is_up() {
            network.receive(&mut data);
        }
    }

    proptest! {
        /// Any bytes, in any pieces: what is a frame comes out, nothing else does, and nothing breaks.
        #[test]
        fn any_bytes_are_harmless(
            lengths in prop::collection::vec(prop_oneof![0usize..40, Just(1514usize), Just(70_000)], 0..20),
            noise in prop::collection::vec(any::<u8>(), 0..40),
            piece in 1usize..3000,
        ) {
            let (network, mut peer) = pair();
            let mut frame = vec![0; 2048];
            let mut data: Vec<u8> = lengths.iter().flat_map(|length| packed(&vec![1; *length])).collect();
            data.extend(&noise);
            let expected: Vec<usize> = lengths.iter().copied()
                .take_while(|length| *length <= MAX_FRAME).filter(|length| *length >= MIN_FRAME).collect();
            let mut received = Vec::new();
            for bytes in data.chunks(piece) {
                let _ = peer.write_all(bytes);
                while let Some(length) = network.receive(&mut frame) {
                    received.push(length);
                }
                network.send(&[1; 14]);
                network.event_fd(true);
            }
            // The noise may end with frames of its own.
            prop_assert_eq!(&received[..expected.len()], &expected[..]);
            let whole = lengths.iter().all(|length| *length <= MAX_FRAME);
            prop_assert!(whole || !network.is_up());
        }
    }
}
