use crate::status::{DEVICE_NEEDS_RESET, DRIVER_OK};
use board::pci::Intx;
use board::{EventFd, Msix};
use parking_lot::Mutex;
use std::io;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

/// What stands in a vector register when interrupts of that kind are not wanted.
pub(crate) const NO_VECTOR: u16 = 0xFFFF;

/// ISR status: a queue has used buffers.
const ISR_QUEUE: u8 = 1;
/// ISR status: device configuration has changed, or the device needs a reset.
const ISR_CONFIG: u8 = 2;

/// What transport, I/O thread and device say to each other: wake-ups one way, interrupts the other.
///
/// Lock order: `isr`, then the PCI interrupt lines. Nothing here waits for anything but these.
pub struct Link {
    pub(crate) msix: Msix,
    intx: OnceLock<Intx>,
    isr: Mutex<u8>,
    status: AtomicU8,
    generation: AtomicU8,
    pub(crate) config_vector: AtomicU16,
    pub(crate) queue_vectors: Box<[AtomicU16]>,
    wake: EventFd,
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Link {
    /// For a device with this many queues; with an MSI-X vector for each and one for its configuration.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub(crate) fn new(queues: u16) -> io::Result<Self> {
        Ok(Link {
            msix: Msix::new(queues + 1),
            intx: OnceLock::new(),
            isr: Mutex::new(0),
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            wake: EventFd::new()?,
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// Makes the I/O thread call [`crate::VirtioDevice::process`] soon. From any thread.
    pub fn wake(&self) {
        self.wake.signal();
    }

    /// Tells the driver that the device configuration has changed. From any thread.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if self.status() & DRIVER_OK != 0 {
            self.raise(ISR_CONFIG, self.config_vector.load(Ordering::Acquire));
        }
    }

    /// Whether the I/O thread is asked to stop: what takes long gives up between two requests.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Why the device needs a reset, when it does.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Tells the driver that queue `index` has used buffers.
    pub(crate) fn interrupt(&self, index: u16) {
        if let Some(vector) = self.queue_vectors.get(usize::from(index)) {
            self.raise(ISR_QUEUE, vector.load(Ordering::Acquire));
        }
    }

    /// Declares that the device cannot go on until the driver resets it. virtio 1.2, section 2.1.2.
    pub(crate) fn needs_reset(&self, why: String) {
        *self.failure.lock() = Some(why);
        let before = self.status.fetch_or(DEVICE_NEEDS_RESET, Ordering::AcqRel);
        if before & DRIVER_OK != 0 {
            self.raise(ISR_CONFIG, self.config_vector.load(Ordering::Acquire));
        }
    }

    /// Device status.
    pub(crate) fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    /// Sets bits of the device status.
    pub(crate) fn add_status(&self, bits: u8) {
        self.status.fetch_or(bits, Ordering::AcqRel);
    }

    /// Counts changes of the device configuration.
    pub(crate) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads ISR status, which clears it and lets the pin go. virtio 1.2, section 4.1.4.5.
    pub(crate) fn take_isr(&self) -> u8 {
        let mut isr = self.isr.lock();
        if let Some(intx) = self.intx.get() {
            intx.set(false);
        }
        std::mem::take(&mut isr)
    }

    /// Gives the device its INTx pin. Once.
    pub(crate) fn connect(&self, intx: Option<Intx>) {
        if let Some(intx) = intx {
            let _ = self.intx.set(intx);
        }
    }

    /// Back to the state before any driver. Only while the I/O thread is stopped.
    pub(crate) fn reset(&self) {
        self.restore(0, 0, NO_VECTOR);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        *self.failure.lock() = None;
    }

    /// ISR status without clearing it.
    pub(crate) fn isr(&self) -> u8 {
        *self.isr.lock()
    }

    /// Loads saved registers. Only while the I/O thread is stopped.
    pub(crate) fn restore(&self, status: u8, isr: u8, config_vector: u16) {
        self.status.store(status, Ordering::Release);
        self.config_vector.store(config_vector, Ordering::Release);
        *self.isr.lock() = isr & (ISR_QUEUE | ISR_CONFIG);
        self.follow_msix();
    }

    /// Lets the pin show ISR status, or nothing while interrupts go out as messages.
    pub(crate) fn follow_msix(&self) {
        let isr = self.isr.lock();
        if let Some(intx) = self.intx.get() {
            intx.set(*isr != 0 && !self.msix.enabled());
        }
    }

    /// Asks the I/O thread to stop, or not to.
    pub(crate) fn set_stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Release);
        self.wake.signal();
    }

    /// Takes the wake-up away.
    pub(crate) fn clear_wake(&self) {
        self.wake.clear();
    }

    /// The file descriptor behind [`Link::wake`].
    pub(crate) fn wake_fd(&self) -> RawFd {
        self.wake.fd()
    }

    fn raise(&self, cause: u8, vector: u16) {
        if self.msix.enabled() {
            self.msix.signal(vector);
            return;
        }
        // The lock keeps a driver that reads ISR at this moment from releasing the pin after it is asserted anew.
        let mut isr = self.isr.lock();
        *isr |= cause;
        if let Some(intx) = self.intx.get() {
            intx.set(true);
        }
    }
}
