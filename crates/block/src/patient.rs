use crate::{BlockError, Disk};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// Where requests wait that a [`PatientDisk`] could not do, until somebody has made room or mended what was broken.
///
/// Its lock is a leaf: `stopped` is called without it.
pub struct Patience {
    stopped: Box<dyn Fn(BlockError) + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: usize,
    /// How often those who wait were told to try again.
    turns: u64,
    /// Nobody waits (any more): errors are the guest's.
    ended: bool,
}

impl Patience {
    /// `stopped` is called, on the thread of the request, when one begins to wait: the machine is to be stopped.
    pub fn new(stopped: impl Fn(BlockError) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Patience { stopped: Box::new(stopped), state: Mutex::default(), changed: Condvar::new() })
    }

    /// Whether requests wait.
    pub fn is_waiting(&self) -> bool {
        self.state.lock().waiting != 0
    }

    /// Has all requests that wait try once more.
    pub fn try_again(&self) {
        self.state.lock().turns += 1;
        self.changed.notify_all();
    }

    /// Lets all requests fail that wait or come to it, for the end of the machine.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits with an error. False: it is the guest's.
    fn wait(&self, error: BlockError) -> bool {
        let mut state = self.state.lock();
        if state.ended {
            return false;
        }
        let turns = state.turns;
        state.waiting += 1;
        drop(state);
        (self.stopped)(error);
        let mut state = self.state.lock();
        while state.turns == turns && !state.ended {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
        !state.ended
    }
}

/// A disk whose reads and writes do not fail when the host cannot do them, but wait. What the guest does wrong fails, and so
/// does a flush: what it should have kept may be lost, and cannot be asked for again.
pub struct PatientDisk {
    disk: Arc<dyn Disk>,
    patience: Arc<Patience>,
}

impl PatientDisk {
    /// What `disk` is, with patience.
    pub fn new(disk: Arc<dyn Disk>, patience: Arc<Patience>) -> Self {
        PatientDisk { disk, patience }
    }

    fn insist(&self, mut what: impl FnMut() -> Result<(), BlockError>) -> Result<(), BlockError> {
        loop {
            match what() {
                Err(error @ (BlockError::Io(_) | BlockError::NoSpace(_))) if self.patience.wait(error) => {}
                outcome => return outcome,
            }
        }
    }
}

impl Disk for PatientDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn readonly(&self) -> bool {
        self.disk.readonly()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.insist(|| self.disk.read(offset, data))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.insist(|| self.disk.write(offset, data))
    }

    unsafe fn read_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        let asked = vectors.to_vec();
        self.insist(|| {
            vectors.copy_from_slice(&asked);
            // SAFETY: the caller's promise, for the same vectors each time.
            unsafe { self.disk.read_vectored(offset, vectors) }
        })
    }

    unsafe fn write_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        let asked = vectors.to_vec();
        self.insist(|| {
            vectors.copy_from_slice(&asked);
            // SAFETY: as for reading.
            unsafe { self.disk.write_vectored(offset, vectors) }
        })
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.disk.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        self.insist(|| self.disk.discard(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, discard: bool) -> Result<(), BlockError> {
        self.insist(|| self.disk.write_zeroes(offset, length, discard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    /// A disk of which the first accesses fail.
    struct Weak {
        failures: AtomicU32,
        error: BlockError,
    }

    impl Weak {
        fn access(&self) -> Result<(), BlockError> {
            let left = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_ok() { Err(self.error) } else { Ok(()) }
        }
    }

    impl Disk for Weak {
        fn size(&self) -> u64 {
            512
        }
        fn readonly(&self) -> bool {
            false
        }
        fn read(&self, _: u64, data: &mut [u8]) -> Result<(), BlockError> {
            self.access().inspect(|()| data.fill(7))
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<(), BlockError> {
            self.access()
        }
        unsafe fn read_vectored(&self, _: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
            let asked = vectors[0].iov_len;
            // Used up, as they say.
            vectors[0].iov_len = 0;
            assert_eq!(asked, 512);
            self.access()
        }
        unsafe fn write_vectored(&self, _: u64, _: &mut [libc::iovec]) -> Result<(), BlockError> {
            self.access()
        }
        fn flush(&self) -> Result<(), BlockError> {
            self.access()
        }
        fn discard(&self, _: u64, _: u64) -> Result<(), BlockError> {
            self.access()
        }
        fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<(), BlockError> {
            self.access()
        }
    }

    fn patient(failures: u32, error: BlockError) -> (Arc<PatientDisk>, Arc<Patience>, mpsc::Receiver<BlockError>) {
        let (told, stopped) = mpsc::channel();
        let patience = Patience::new(move |error| told.send(error).unwrap());
        let disk = Arc::new(Weak { failures: AtomicU32::new(failures), error });
        (Arc::new(PatientDisk::new(disk, patience.clone())), patience, stopped)
    }

    const FULL: BlockError = BlockError::NoSpace(libc::ENOSPC);

    #[test]
    fn a_request_waits_until_it_can_be_done() {
        let (disk, patience, stopped) = patient(2, FULL);
        let request = std::thread::spawn(move || {
            let mut data = [0; 512];
            disk.read(0, &mut data).map(|()| data[0])
        });
        for _ in 0..2 {
            assert_eq!(stopped.recv().unwrap(), FULL);
            assert!(patience.is_waiting());
            patience.try_again();
        }
        assert_eq!(request.join().unwrap(), Ok(7));
        assert!(!patience.is_waiting());
    }

    #[test]
    fn vectors_are_whole_at_each_try() {
        let (disk, patience, stopped) = patient(1, FULL);
        let request = std::thread::spawn(move || {
            let mut data = [0u8; 512];
            let mut vectors = [libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() }];
            // SAFETY: the memory is this function's.
            unsafe { disk.read_vectored(0, &mut vectors) }
        });
        stopped.recv().unwrap();
        patience.try_again();
        assert_eq!(request.join().unwrap(), Ok(()));
    }

    #[test]
    fn at_the_end_it_fails() {
        let (disk, patience, stopped) = patient(u32::MAX, FULL);
        let waiting = disk.clone();
        let request = std::thread::spawn(move || waiting.write(0, &[0; 512]));
        stopped.recv().unwrap();
        patience.end();
        assert_eq!(request.join().unwrap(), Err(FULL));
        assert_eq!(disk.discard(0, 512), Err(FULL));
    }

    #[test]
    fn the_guests_mistakes_and_flushes_fail_at_once() {
        let (disk, _, _) = patient(u32::MAX, BlockError::BeyondEnd);
        assert_eq!(disk.write(1 << 40, &[0; 512]), Err(BlockError::BeyondEnd));
        let (disk, _, _) = patient(u32::MAX, FULL);
        assert_eq!(disk.flush(), Err(FULL));
    }
}
