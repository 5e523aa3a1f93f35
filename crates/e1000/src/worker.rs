use crate::mac::Registers;
use crate::receive::Receiver;
use crate::transmit::Transmitter;
use board::{EventFd, StateReader, StateWriter};
use hv::GuestMemory;
use net::Backend;
use parking_lot::Mutex;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Descriptors and frames that one half serves before the other has its turn and interrupts are raised.
const BUDGET: u32 = 64;

/// What the I/O thread and the vCPUs share.
///
/// Lock order: `registers`, then the PCI interrupt lines. The backend, but for `is_up`, and guest memory are never called
/// under it.
pub(crate) struct Shared {
    pub name: String,
    pub memory: Arc<GuestMemory>,
    pub backend: Arc<dyn Backend>,
    pub registers: Mutex<Registers>,
    wake: EventFd,
    stop: AtomicBool,
}

impl Shared {
    /// # Errors
    /// When the system has no file descriptor left.
    pub fn new(
        name: &str,
        memory: Arc<GuestMemory>,
        backend: Arc<dyn Backend>,
        registers: Registers,
    ) -> io::Result<Self> {
        let (wake, stop) = (EventFd::new()?, AtomicBool::new(false));
        Ok(Shared { name: name.to_owned(), memory, backend, registers: Mutex::new(registers), wake, stop })
    }

    /// Tells the thread that there may be something to do, with the registers' lock held. A thread that is awake is told
    /// without a system call.
    pub fn ring(&self, registers: &mut Registers) {
        registers.rung = true;
        if std::mem::take(&mut registers.asleep) {
            self.wake.signal();
        }
    }

    /// Lets the cable follow the backend's link. Asked under the lock: the last one to come sees the last change.
    pub fn follow_link(&self) {
        let registers = &mut *self.registers.lock();
        registers.set_cable(self.backend.is_up());
        self.ring(registers);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits for a doorbell, or, where frames are wanted, for one to arrive.
    fn sleep(&self, engine: &Engine) {
        let wants_frames = {
            let mut registers = self.registers.lock();
            if std::mem::take(&mut registers.rung) {
                return;
            }
            registers.asleep = true;
            registers.can_receive() && !engine.receiver.is_waiting()
        };
        let event = self.backend.event_fd(wants_frames);
        let waiting = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // A negative descriptor is passed over by poll.
        let mut fds = [waiting(self.wake.fd()), waiting(event.unwrap_or(-1))];
        // SAFETY: the pointer is to as many entries of our own as are given. An interrupted wait is a spurious wake-up.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
        self.registers.lock().asleep = false;
        if fds[0].revents != 0 {
            self.wake.clear();
        }
    }
}

/// Both halves of the card: of the I/O thread while it runs, else of who stopped it.
pub(crate) struct Engine {
    pub transmitter: Transmitter,
    pub receiver: Receiver,
}

impl Engine {
    pub fn new() -> Self {
        Engine { transmitter: Transmitter::new(), receiver: Receiver::new() }
    }

    /// Serves both halves for a while; true when there may be more to do.
    fn process(&mut self, shared: &Shared) -> bool {
        let transmit = self.transmitter.run(shared, &mut self.receiver.loopback, BUDGET);
        let receive = self.receiver.run(shared, BUDGET);
        transmit || receive
    }

    pub fn save(&self, writer: &mut StateWriter) {
        self.transmitter.save(writer);
        self.receiver.save(writer);
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        Ok(Engine { transmitter: Transmitter::load(reader)?, receiver: Receiver::load(reader)? })
    }
}

/// The I/O thread. It owns the engine while it runs.
pub(crate) struct Worker {
    thread: JoinHandle<Engine>,
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left. The engine is lost then, with the packet and the frame it had begun.
    pub fn start(shared: &Arc<Shared>, engine: Engine) -> io::Result<Self> {
        shared.stop.store(false, Ordering::Release);
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name(shared.name.chars().filter(char::is_ascii_graphic).take(15).collect())
            .spawn(move || run(&for_thread, engine))?;
        Ok(Worker { thread, shared: shared.clone() })
    }

    /// Stops the thread after the turn it is taking and gives the engine back.
    pub fn stop(self) -> Engine {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.signal();
        self.thread.join().unwrap_or_else(|_| Engine::new())
    }
}

fn run(shared: &Shared, mut engine: Engine) -> Engine {
    while !shared.stopping() {
        if !engine.process(shared) {
            shared.sleep(&engine);
        }
    }
    engine
}
