use crate::Backend;
use crate::link::{Link, LinkListener};
use std::os::fd::RawFd;
use std::sync::Arc;

/// Frames that are looked for, to be lost, when a cable is plugged in: more than a socket keeps.
const STALE: u32 = 4096;

/// The cable between a device and its network, which can be pulled out.
pub struct Cable {
    backend: Arc<dyn Backend>,
    plugged: Link,
}

impl Cable {
    /// A cable to `backend`, plugged in.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Cable { backend, plugged: Link::new() }
    }

    /// Plugs the cable in or out. Frames that arrived in between are lost.
    pub fn set_plugged(&self, plugged: bool) {
        if plugged && !self.plugged.is_up() {
            let lost = || self.backend.receive(&mut []).is_some();
            let _ = (0..STALE).all(|_| lost());
        }
        self.plugged.set(plugged);
    }

    /// Whether it is plugged in, whatever the network at its other end does.
    pub fn is_plugged(&self) -> bool {
        self.plugged.is_up()
    }
}

impl Backend for Cable {
    fn send(&self, frame: &[u8]) {
        if self.plugged.is_up() {
            self.backend.send(frame);
        }
    }

    fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        if self.plugged.is_up() { self.backend.receive(frame) } else { None }
    }

    fn event_fd(&self, receiving: bool) -> Option<RawFd> {
        self.backend.event_fd(receiving && self.plugged.is_up())
    }

    fn is_up(&self) -> bool {
        self.plugged.is_up() && self.backend.is_up()
    }

    fn watch(&self, listener: LinkListener) {
        self.backend.watch(listener.clone());
        self.plugged.watch(listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StreamBackend;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn nothing_passes_while_it_is_unplugged_and_what_came_is_lost() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let cable = Cable::new(Arc::new(StreamBackend::new(ours.into()).unwrap()));
        let told = Arc::new(AtomicU32::new(0));
        let count = told.clone();
        cable.watch(Arc::new(move || _ = count.fetch_add(1, Ordering::Relaxed)));
        cable.set_plugged(false);
        cable.set_plugged(false);
        assert_eq!((cable.is_up(), told.load(Ordering::Relaxed)), (false, 1));
        let mut frame = [0; 64];
        for byte in 0..3 {
            peer.write_all(&[0, 0, 0, 14]).unwrap();
            peer.write_all(&[byte; 14]).unwrap();
        }
        cable.send(&[1; 14]);
        assert_eq!((cable.receive(&mut frame), cable.event_fd(true)), (None, None));
        cable.set_plugged(true);
        assert_eq!((cable.is_up(), told.load(Ordering::Relaxed), cable.receive(&mut frame)), (true, 2, None));
        cable.send(&[2; 14]);
        peer.write_all(&[0, 0, 0, 14]).unwrap();
        peer.write_all(&[7; 14]).unwrap();
        assert_eq!((cable.receive(&mut frame), frame[0]), (Some(14), 7));
        let mut sent = [0; 18];
        peer.read_exact(&mut sent).unwrap();
        assert_eq!(sent[4], 2);
        drop(peer);
        assert_eq!(cable.receive(&mut frame), None);
        assert_eq!((cable.is_up(), cable.is_plugged(), told.load(Ordering::Relaxed)), (false, true, 3));
    }
}
