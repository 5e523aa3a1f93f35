use crate::{Link, Queue, QueueError};
use std::os::fd::RawFd;
use std::sync::Arc;

/// The kinds of device. virtio 1.2, chapter 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum DeviceType {
    Net = 1,
    Block = 2,
    Console = 3,
    Entropy = 4,
    Balloon = 5,
    Scsi = 8,
}

impl DeviceType {
    /// The PCI device ID of the kind where it has a legacy interface; `None` for one that never had any. virtio 1.2,
    /// section 4.1.2.
    pub(crate) fn transitional_id(self) -> Option<u16> {
        match self {
            DeviceType::Net => Some(0x1000),
            DeviceType::Block => Some(0x1001),
            DeviceType::Balloon => Some(0x1002),
            DeviceType::Console => Some(0x1003),
            DeviceType::Scsi => Some(0x1004),
            DeviceType::Entropy => Some(0x1005),
        }
    }
}

/// One kind of virtio device: what its registers show and what its requests mean.
///
/// Configuration is read and written by vCPU threads; [`VirtioDevice::process`] runs on the device's one I/O thread,
/// which exists between DRIVER_OK and the next reset or pause.
pub trait VirtioDevice: Send + Sync {
    /// The name of the device and of its I/O thread (at most 15 bytes show), for instance `disk0`.
    fn name(&self) -> &str;

    /// Its kind.
    fn device_type(&self) -> DeviceType;

    /// The device-specific feature bits it offers: 0..=23 and 50..=63.
    fn features(&self) -> u64;

    /// The largest size of each queue: powers of two up to 1024. The number of queues is fixed.
    fn queue_sizes(&self) -> Vec<u16>;

    /// The device configuration as it is now. virtio 1.2, the "Device configuration layout" section of each kind.
    fn config(&self) -> Vec<u8>;

    /// The driver writes the device configuration. Most of it is read-only.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}

    /// A legacy driver writes the device configuration, of which it may change more.
    fn write_legacy_config(&self, offset: usize, data: &[u8]) {
        self.write_config(offset, data);
    }

    /// Gives the device the way to wake its thread and to announce changes. Called once, before anything else.
    fn connect(&self, _link: Arc<Link>) {}

    /// The driver is ready and has taken these features, those offered by the transport included. A legacy driver may
    /// change them while the device is used: then this is called again.
    fn start(&self, _features: u64) {}

    /// Something besides a notification that [`VirtioDevice::process`] shall be called for: a file descriptor that
    /// becomes readable. Asked before each sleep.
    fn event_fd(&self) -> Option<RawFd> {
        None
    }

    /// Does what there is to do, in bounded pieces: at most a queue's size of chains for each queue. `true`: there
    /// is more and it can be done without waiting.
    ///
    /// # Errors
    /// When the driver broke the rules in a way that no request can report: the device then needs a reset.
    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError>;

    /// Back to the state before any driver. The I/O thread is stopped.
    fn reset(&self) {}

    /// The state for a snapshot beyond what the transport keeps. The I/O thread is stopped.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Loads what [`VirtioDevice::save`] gave. The bytes may be hostile.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the state.
    fn load(&self, state: &[u8]) -> Result<(), String> {
        match state {
            [] => Ok(()),
            _ => Err(format!("the saved state of {} is damaged: {} bytes too many", self.name(), state.len())),
        }
    }
}
