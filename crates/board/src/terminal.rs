use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Input that waits for the guest to read it, in bytes.
const INPUT_CAPACITY: usize = 64 << 10;

/// How long the copying thread gathers bytes before it writes: too short for a typist to notice, long enough for a
/// guest's line of text.
const GATHER: Duration = Duration::from_millis(1);

/// The guest's end of a [`Terminal`].
pub trait TerminalDevice: Send + Sync {
    /// Input has arrived.
    fn input_ready(&self);

    /// Output is taken again after [`Terminal::output`] took less than it was given.
    fn output_ready(&self);
}

/// What is at the far end of a serial line: a bounded history of the guest's output, which can be copied to a file
/// descriptor as well, and a bounded queue of input.
///
/// Without a file descriptor the oldest output makes room for new. With one, nothing is lost: a guest that is faster
/// than the descriptor waits. So it does for a reader that [holds it back](Terminal::hold_back).
///
/// `state` and `device` are leaf locks: the device is called without them.
pub struct Terminal {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
    device: Mutex<Option<Weak<dyn TerminalDevice>>>,
}

#[derive(Default)]
struct State {
    history: VecDeque<u8>,
    /// Bytes of output so far. The history ends here.
    written: u64,
    /// Up to where the file descriptor has it, while there is one.
    copied: Option<u64>,
    copy_error: Option<String>,
    /// The device was told to wait.
    refused: bool,
    closed: bool,
    input: VecDeque<u8>,
}

/// A part of the output.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// The bytes. They begin later than asked when the history was too short.
    pub bytes: Vec<u8>,
    /// The position after the last of them, for the next read.
    pub end: u64,
    /// No more will come.
    pub closed: bool,
}

impl State {
    fn since(&self, position: u64) -> Vec<u8> {
        let wanted = self.written.saturating_sub(position).min(self.history.len() as u64) as usize;
        self.history.range(self.history.len() - wanted..).copied().collect()
    }

    fn is_copied(&self) -> bool {
        self.copied.is_none_or(|copied| copied == self.written)
    }
}

impl Terminal {
    /// A terminal that remembers the last `capacity` bytes of output (at least 4 KiB).
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Terminal {
            capacity: capacity.max(4096),
            state: Mutex::default(),
            changed: Condvar::new(),
            device: Mutex::default(),
        })
    }

    /// Copies all output from now on to a file, on a thread of its own. Call at most once.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn copy_to(self: &Arc<Self>, fd: OwnedFd) -> std::io::Result<()> {
        let terminal = self.clone();
        let mut state = self.state();
        let position = state.written;
        let copy = move || terminal.copy(File::from(fd), position);
        std::thread::Builder::new().name("serial-out".into()).spawn(copy)?;
        state.copied = Some(position);
        Ok(())
    }

    /// Keeps what is behind `position`, up to which a reader has the output, for that reader: from the capacity on the guest
    /// waits. `None` lets the guest go on. Not together with [`Terminal::copy_to`].
    pub fn hold_back(&self, position: Option<u64>) {
        let mut state = self.state();
        state.copied = position.map(|position| position.min(state.written));
        let resume = std::mem::take(&mut state.refused);
        self.changed.notify_all();
        drop(state);
        if resume {
            self.tell(|device| device.output_ready());
        }
    }

    /// Sets the guest's end. A later one replaces it.
    pub fn connect(&self, device: Weak<dyn TerminalDevice>) {
        *self.device.lock() = Some(device);
    }

    /// Takes output from the device and returns how many bytes were taken. After less than all,
    /// [`TerminalDevice::output_ready`] follows.
    pub fn output(&self, data: &[u8]) -> usize {
        let mut state = self.state();
        let taken = match state.copied {
            Some(copied) => data.len().min(self.capacity.saturating_sub((state.written - copied) as usize)),
            None => data.len(),
        };
        state.history.extend(&data[..taken]);
        let excess = state.history.len().saturating_sub(self.capacity);
        state.history.drain(..excess);
        state.written += taken as u64;
        state.refused |= taken < data.len();
        self.changed.notify_all();
        taken
    }

    /// Gives the device up to `data.len()` bytes of input and returns how many.
    pub fn take_input(&self, data: &mut [u8]) -> usize {
        let mut state = self.state();
        let taken = data.len().min(state.input.len());
        for (place, byte) in data.iter_mut().zip(state.input.drain(..taken)) {
            *place = byte;
        }
        self.changed.notify_all();
        taken
    }

    /// Sends input to the guest. Waits for room (64 KiB wait for the guest at most) and returns how many bytes were
    /// sent when the time is up or the terminal closed.
    pub fn send(&self, data: &[u8], timeout: Option<Duration>) -> usize {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut sent = 0;
        while sent < data.len() {
            let mut state = self.wait(deadline, |state| state.closed || state.input.len() < INPUT_CAPACITY);
            let room = if state.closed { 0 } else { INPUT_CAPACITY - state.input.len() };
            let part = room.min(data.len() - sent);
            if part == 0 {
                break;
            }
            state.input.extend(&data[sent..sent + part]);
            drop(state);
            sent += part;
            self.tell(|device| device.input_ready());
        }
        sent
    }

    /// The output after `position` (bytes since the beginning). Waits until there is some, the time is up, or the
    /// terminal is closed.
    pub fn read(&self, position: u64, timeout: Option<Duration>) -> Output {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let state = self.wait(deadline, |state| state.written > position || state.closed);
        Output { bytes: state.since(position), end: state.written.max(position), closed: state.closed }
    }

    /// Waits until the file descriptor has all output; false when the time is up before.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.wait(Instant::now().checked_add(timeout), State::is_copied).is_copied()
    }

    /// Ends the terminal: readers get what is left, the copying thread writes it and ends.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.changed.notify_all();
    }

    /// True after [`Terminal::close`].
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Why output is no longer copied to the file descriptor, if it is not.
    pub fn copy_error(&self) -> Option<String> {
        self.state().copy_error.clone()
    }

    /// The copying thread.
    fn copy(&self, mut file: File, mut position: u64) {
        loop {
            let state = self.wait(None, |state| state.written > position || state.closed);
            if state.written == position {
                return;
            }
            let gather = !state.closed;
            drop(state);
            if gather {
                std::thread::sleep(GATHER);
            }
            let bytes = self.state().since(position);
            let outcome = write_all(&mut file, &bytes);
            position += bytes.len() as u64;
            let mut state = self.state();
            state.copied = outcome.is_ok().then_some(position);
            state.copy_error = outcome.as_ref().err().map(ToString::to_string);
            let resume = std::mem::take(&mut state.refused);
            self.changed.notify_all();
            drop(state);
            if resume {
                self.tell(|device| device.output_ready());
            }
            if outcome.is_err() {
                return;
            }
        }
    }

    fn tell(&self, what: impl FnOnce(&dyn TerminalDevice)) {
        let device = self.device.lock().as_ref().and_then(Weak::upgrade);
        if let Some(device) = device {
            what(&*device);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits until `ready` or the deadline.
    fn wait(&self, deadline: Option<Instant>, ready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while !ready(&state) {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if Instant::now() >= deadline => break,
                Some(deadline) => {
                    self.changed.wait_until(&mut state, deadline);
                }
            }
        }
        state
    }
}

/// Like [`Write::write_all`], also on a descriptor that somebody made non-blocking (terminals are shared).
fn write_all(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut wait = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: one valid pollfd that lives through the call.
                unsafe { libc::poll(&mut wait, 1, -1) };
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Count {
        inputs: AtomicU32,
        outputs: AtomicU32,
    }
    impl TerminalDevice for Count {
        fn input_ready(&self) {
            self.inputs.fetch_add(1, Ordering::SeqCst);
        }
        fn output_ready(&self) {
            self.outputs.fetch_add(1, Ordering::SeqCst);
        }
    }

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn pipe() -> (File, OwnedFd) {
        let (read, write) = std::io::pipe().unwrap();
        (OwnedFd::from(read).into(), write.into())
    }

    #[test]
    fn history_keeps_the_newest() {
        let terminal = Terminal::new(4096);
        assert_eq!(terminal.output(b"hello "), 6);
        assert_eq!(terminal.output(b"world"), 5);
        assert_eq!(terminal.read(6, NOW), Output { bytes: b"world".to_vec(), end: 11, closed: false });
        assert_eq!(terminal.read(11, NOW), Output { bytes: vec![], end: 11, closed: false });
        terminal.output(&[b'x'; 5000]);
        assert_eq!(terminal.read(0, NOW), Output { bytes: vec![b'x'; 4096], end: 5011, closed: false });
    }

    #[test]
    fn input_is_bounded_and_announced() {
        let terminal = Terminal::new(4096);
        let device = Arc::new(Count::default());
        let weak: Weak<Count> = Arc::downgrade(&device);
        terminal.connect(weak);
        assert_eq!(terminal.send(&vec![7; INPUT_CAPACITY + 10], NOW), INPUT_CAPACITY);
        assert_eq!(device.inputs.load(Ordering::SeqCst), 1);
        let mut data = [0; 20];
        assert_eq!(terminal.take_input(&mut data), 20);
        assert_eq!(data, [7; 20]);
        assert_eq!(terminal.send(&[1; 100], NOW), 20);
    }

    #[test]
    fn a_slow_descriptor_holds_the_guest_back_and_loses_nothing() {
        let terminal = Terminal::new(4096);
        let device = Arc::new(Count::default());
        let weak: Weak<Count> = Arc::downgrade(&device);
        terminal.connect(weak);
        let (mut read, write) = pipe();
        terminal.copy_to(write).unwrap();
        let data: Vec<u8> = (0..300_000u32).map(|index| (index % 251) as u8).collect();
        let mut sent = 0;
        // The pipe holds 64 KiB, the history 4 KiB.
        let deadline = Instant::now() + Duration::from_secs(5);
        while sent < 60_000 && Instant::now() < deadline {
            sent += terminal.output(&data[sent..(sent + 1000).min(60_000)]);
        }
        assert_eq!(sent, 60_000);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            read.read_to_end(&mut all).unwrap();
            all
        });
        while sent < data.len() && Instant::now() < deadline {
            sent += terminal.output(&data[sent..(sent + 1000).min(data.len())]);
        }
        assert!(terminal.flush(Duration::from_secs(5)));
        terminal.close();
        assert!(reader.join().unwrap() == data);
        assert!(device.outputs.load(Ordering::SeqCst) > 0);
    }

    #[test]
    fn a_reader_holds_the_guest_back_until_it_lets_go() {
        let terminal = Terminal::new(4096);
        let device = Arc::new(Count::default());
        let weak: Weak<Count> = Arc::downgrade(&device);
        terminal.connect(weak);
        terminal.output(&[1; 5000]);
        terminal.hold_back(Some(5000));
        assert_eq!(terminal.output(&[2; 5000]), 4096);
        assert!(!terminal.flush(Duration::ZERO));
        terminal.hold_back(Some(5100));
        assert_eq!((terminal.output(&[3; 5000]), device.outputs.load(Ordering::SeqCst)), (100, 1));
        assert_eq!(terminal.read(5100, NOW).bytes.len(), 4096, "nothing of it is lost");
        terminal.hold_back(Some(u64::MAX));
        assert!(terminal.flush(Duration::ZERO));
        terminal.hold_back(None);
        assert_eq!((terminal.output(&[4; 9000]), device.outputs.load(Ordering::SeqCst)), (9000, 2));
    }

    #[test]
    fn a_closed_descriptor_is_reported_and_does_not_hold_the_guest() {
        let terminal = Terminal::new(4096);
        let (read, write) = pipe();
        drop(read);
        terminal.copy_to(write).unwrap();
        terminal.output(b"lost");
        assert!(terminal.flush(Duration::from_secs(5)));
        assert!(terminal.copy_error().is_some());
        assert_eq!(terminal.output(&[0; 10_000]), 10_000);
    }

    #[test]
    fn close_wakes_readers() {
        let terminal = Terminal::new(4096);
        let other = terminal.clone();
        let reader = std::thread::spawn(move || other.read(0, Some(Duration::from_secs(10))));
        std::thread::sleep(Duration::from_millis(20));
        terminal.close();
        assert!(reader.join().unwrap().closed);
        assert_eq!(terminal.send(b"x", None), 0);
    }
}
