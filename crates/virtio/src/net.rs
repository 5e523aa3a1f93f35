use crate::{Chain, DeviceType, Link, Queue, QueueError, VirtioDevice};
use ::net::Backend;
use parking_lot::Mutex;
use std::os::fd::RawFd;
use std::sync::Arc;

/// The device configuration holds the largest payload.
const FEATURE_MTU: u64 = 1 << 3;
/// The device configuration holds the hardware address.
const FEATURE_MAC: u64 = 1 << 5;
/// The device configuration holds the link status.
const FEATURE_STATUS: u64 = 1 << 16;

/// Bytes of `virtio_net_hdr` before each frame. virtio 1.2, section 5.1.6.
const HEADER_SIZE: usize = 12;
/// Ethernet header and one VLAN tag.
const FRAME_OVERHEAD: usize = 18;
/// The payload Ethernet has unless something else is said.
const DEFAULT_MTU: u16 = 1500;
const QUEUE_SIZE: u16 = 256;

/// What a network device shows its guest.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest payload in bytes when the guest shall be told, 68..=65535.
    pub mtu: Option<u16>,
}

/// virtio-net with one pair of queues and no offloads. virtio 1.2, section 5.1.
///
/// Lock order: each lock is a leaf; `state` is held while the backend is called.
pub struct Net {
    name: String,
    options: NetOptions,
    backend: Arc<dyn Backend>,
    state: Mutex<State>,
}

struct State {
    /// A frame on its way out.
    frame: Vec<u8>,
    /// Bytes of `received` that wait for a buffer of the guest; 0: none.
    waiting: usize,
    /// The guest takes no frame at the moment.
    stuck: bool,
    received: Vec<u8>,
}

impl Net {
    /// A network device in front of `backend`, whose link it shows.
    pub fn new(name: &str, options: NetOptions, backend: Arc<dyn Backend>) -> Self {
        let size = usize::from(options.mtu.unwrap_or(DEFAULT_MTU)) + FRAME_OVERHEAD;
        let state = Mutex::new(State { frame: vec![0; size], waiting: 0, stuck: false, received: vec![0; size] });
        Net { name: name.to_owned(), options, backend, state }
    }

    fn receive(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let state = &mut *self.state.lock();
        queue.disarm();
        let mut more = true;
        for _ in 0..queue.size() {
            if state.waiting == 0 {
                let Some(length) = self.backend.receive(&mut state.received) else {
                    more = false;
                    break;
                };
                if length > state.received.len() {
                    continue;
                }
                state.waiting = length;
            }
            if !queue.pop()? {
                more = queue.arm()?;
                break;
            }
            let length = std::mem::take(&mut state.waiting);
            let written = deliver(queue.chain(), &state.received[..length]);
            queue.push(written);
        }
        queue.signal();
        state.stuck = state.waiting != 0 || queue.size() == 0;
        Ok(more && queue.size() != 0)
    }

    fn transmit(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let state = &mut *self.state.lock();
        queue.serve(|chain| {
            let length = chain.readable().saturating_sub(HEADER_SIZE as u64);
            // A frame that is longer than the network's largest is dropped.
            if let Some(frame) = state.frame.get_mut(..length as usize) {
                chain.read(HEADER_SIZE as u64, frame);
                if self.backend.is_up() && !frame.is_empty() {
                    self.backend.send(frame);
                }
            }
            Ok(0)
        })
    }
}

/// Puts a header and a frame into a chain; returns the bytes written: none when it does not fit.
fn deliver(chain: &Chain, frame: &[u8]) -> u32 {
    if chain.writable() < (HEADER_SIZE + frame.len()) as u64 {
        return 0;
    }
    let mut header = [0; HEADER_SIZE];
    // num_buffers, which is 1 without VIRTIO_NET_F_MRG_RXBUF.
    header[10] = 1;
    (chain.write(0, &header) + chain.write(HEADER_SIZE as u64, frame)) as u32
}

impl VirtioDevice for Net {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        FEATURE_MAC | FEATURE_STATUS | if self.options.mtu.is_some() { FEATURE_MTU } else { 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.options.mac.to_vec();
        config.extend(u16::from(self.backend.is_up()).to_le_bytes());
        config.extend(1u16.to_le_bytes());
        config.extend(self.options.mtu.unwrap_or(DEFAULT_MTU).to_le_bytes());
        config
    }

    fn connect(&self, link: Arc<Link>) {
        let link = Arc::downgrade(&link);
        self.backend.watch(Arc::new(move || {
            if let Some(link) = link.upgrade() {
                link.config_changed();
                // The thread asks the backend anew what to wait for.
                link.wake();
            }
        }));
    }

    /// While the guest takes no frame, arriving ones are of no interest.
    fn event_fd(&self) -> Option<RawFd> {
        let stuck = self.state.lock().stuck;
        self.backend.event_fd(!stuck)
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let [receive, transmit] = queues else { return Ok(false) };
        Ok(self.receive(receive)? | self.transmit(transmit)?)
    }

    fn reset(&self) {
        self.state.lock().waiting = 0;
    }
}
