//! virtio-net: `net.rs` moves frames, `net/control.rs` is what the driver orders and which frames it wants.

mod control;

use crate::{Chain, DeviceType, Link, Queue, QueueError, VirtioDevice, feature};
use ::net::Backend;
use board::{StateReader, StateWriter};
use control::Filter;
use parking_lot::Mutex;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Device features. virtio 1.2, section 5.1.3. Checksums and segmentation are the guest's: nothing behind the card does
/// them.
///
/// The device configuration holds the largest payload.
const FEATURE_MTU: u64 = 1 << 3;
/// The device configuration holds the hardware address.
const FEATURE_MAC: u64 = 1 << 5;
/// A frame may fill several chains.
const FEATURE_MRG_RXBUF: u64 = 1 << 15;
/// The device configuration holds the link status.
const FEATURE_STATUS: u64 = 1 << 16;
/// There is a control queue, and what it is for.
const FEATURE_CTRL_VQ: u64 = 1 << 17;
const FEATURE_CTRL_RX: u64 = 1 << 18;
const FEATURE_CTRL_VLAN: u64 = 1 << 19;
const FEATURE_CTRL_RX_EXTRA: u64 = 1 << 20;
const FEATURE_CTRL_MAC_ADDR: u64 = 1 << 23;

/// Bytes of `virtio_net_hdr` before each frame. virtio 1.2, section 5.1.6.
const HEADER_SIZE: usize = 12;
/// Bytes of it for legacy drivers that take no merged buffers: `num_buffers` is missing.
const LEGACY_HEADER_SIZE: usize = 10;
/// Ethernet header and one VLAN tag.
const FRAME_OVERHEAD: usize = 18;
/// The payload Ethernet has unless something else is said.
const DEFAULT_MTU: u16 = 1500;
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;
const STATE_VERSION: u32 = 1;

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
/// Lock order: `state`, then `control`, which is a leaf; `state` is held while the backend is called.
pub struct Net {
    name: String,
    options: NetOptions,
    backend: Arc<dyn Backend>,
    control: Mutex<Control>,
    state: Mutex<State>,
}

/// What the driver has ordered.
struct Control {
    features: u64,
    filter: Filter,
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
        let control = Mutex::new(Control { features: 0, filter: Filter::new(options.mac) });
        Net { name: name.to_owned(), options, backend, control, state }
    }

    /// Takes the next frame from the network: true where it waits now for the guest, false for one that the guest does not
    /// want, which is dropped. `None`: none has come.
    fn take(&self, state: &mut State) -> Option<bool> {
        let length @ 1.. = self.backend.receive(&mut state.received)? else { return None };
        // One that was cut off is of no use.
        let frame = state.received.get(..length);
        let wanted = frame.is_some_and(|frame| self.control.lock().filter.passes(frame));
        if wanted {
            state.waiting = length;
        }
        Some(wanted)
    }

    fn receive(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let (header_size, merges) = self.header();
        let state = &mut *self.state.lock();
        queue.disarm();
        let mut more = true;
        for _ in 0..queue.size() {
            if state.waiting == 0 {
                match self.take(state) {
                    Some(true) => {}
                    Some(false) => continue,
                    None => {
                        more = false;
                        break;
                    }
                }
            }
            let frame = &state.received[..state.waiting];
            match deliver(queue, header_size, merges, frame)? {
                Delivery::Done => state.waiting = 0,
                Delivery::Waits(again) => {
                    more = again;
                    break;
                }
            }
        }
        queue.signal();
        state.stuck = state.waiting != 0 || queue.size() == 0;
        Ok(more && queue.size() != 0)
    }

    fn transmit(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let (header_size, _) = self.header();
        let state = &mut *self.state.lock();
        queue.serve(|chain| {
            let length = chain.readable().saturating_sub(header_size as u64);
            // A frame that is longer than the network's largest is dropped.
            if let Some(frame) = state.frame.get_mut(..length as usize) {
                chain.read(header_size as u64, frame);
                if self.backend.is_up() && !frame.is_empty() {
                    self.backend.send(frame);
                }
            }
            Ok(0)
        })
    }

    /// Bytes of the header before each frame, and whether a frame may fill several chains.
    fn header(&self) -> (usize, bool) {
        let features = self.control.lock().features;
        let merges = features & FEATURE_MRG_RXBUF != 0;
        let full = merges || features & feature::VERSION_1 != 0;
        (if full { HEADER_SIZE } else { LEGACY_HEADER_SIZE }, merges)
    }

    fn order(&self, chain: &Chain) -> u32 {
        if chain.writable() == 0 {
            return 0;
        }
        let control = &mut *self.control.lock();
        let done = control.filter.order(chain, control.features);
        // VIRTIO_NET_OK and VIRTIO_NET_ERR.
        chain.write(0, &[u8::from(!done)]) as u32
    }
}

/// What became of a frame.
enum Delivery {
    /// The guest has it, or it can never have it.
    Done,
    /// There are no buffers. `true`: there are some by now.
    Waits(bool),
}

/// Puts a header and a frame into one chain, or with `merges` into as many as it takes. Without, one that is too small
/// is given back empty. virtio 1.2, section 5.1.6.4.
fn deliver(queue: &mut Queue, header_size: usize, merges: bool, frame: &[u8]) -> Result<Delivery, QueueError> {
    let needed = (header_size + frame.len()) as u64;
    let mut count = 0;
    let mut room = 0;
    while room < needed {
        if !queue.pop()? {
            let more = queue.arm()?;
            queue.put_back(count);
            return Ok(Delivery::Waits(more));
        }
        count += 1;
        room += queue.chain().writable();
        if room < needed && (!merges || count == queue.size()) {
            // The chains go back, and nobody gets the frame.
            queue.put_back(count);
            for _ in 0..count {
                if queue.pop()? {
                    queue.stage(0);
                }
            }
            queue.publish();
            return Ok(Delivery::Done);
        }
    }
    let mut header = [0; HEADER_SIZE];
    header[LEGACY_HEADER_SIZE..].copy_from_slice(&count.to_le_bytes());
    if count > 1 {
        queue.put_back(count);
    }
    let mut done = 0;
    for _ in 0..count {
        // A driver that has changed what it had made available gets what it gets.
        if count > 1 && !queue.pop()? {
            break;
        }
        let head = &header[done.min(header_size)..header_size];
        let body = &frame[done.saturating_sub(header_size).min(frame.len())..];
        let written = queue.chain().write(0, head) + queue.chain().write(head.len() as u64, body);
        queue.stage(written as u32);
        done += written;
    }
    queue.publish();
    Ok(Delivery::Done)
}

impl VirtioDevice for Net {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        let control =
            FEATURE_CTRL_VQ | FEATURE_CTRL_RX | FEATURE_CTRL_RX_EXTRA | FEATURE_CTRL_VLAN | FEATURE_CTRL_MAC_ADDR;
        let mtu = if self.options.mtu.is_some() { FEATURE_MTU } else { 0 };
        FEATURE_MAC | FEATURE_STATUS | FEATURE_MRG_RXBUF | control | mtu
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE, CONTROL_QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.control.lock().filter.mac.to_vec();
        config.extend(u16::from(self.backend.is_up()).to_le_bytes());
        config.extend(1u16.to_le_bytes());
        config.extend(self.options.mtu.unwrap_or(DEFAULT_MTU).to_le_bytes());
        config
    }

    /// Legacy drivers set the hardware address, byte by byte. virtio 1.2, section 5.1.4.3.
    fn write_legacy_config(&self, offset: usize, data: &[u8]) {
        let mac = &mut self.control.lock().filter.mac;
        for (place, byte) in mac.iter_mut().skip(offset).zip(data) {
            *place = *byte;
        }
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

    fn start(&self, features: u64) {
        self.control.lock().features = features;
    }

    /// While the guest takes no frame, arriving ones are of no interest.
    fn event_fd(&self) -> Option<RawFd> {
        let stuck = self.state.lock().stuck;
        self.backend.event_fd(!stuck)
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let [receive, transmit, control] = queues else { return Ok(false) };
        // First what frames are wanted, then the frames.
        let mut more = control.serve(|chain| Ok(self.order(chain)))?;
        more |= self.receive(receive)?;
        more |= self.transmit(transmit)?;
        Ok(more)
    }

    fn reset(&self) {
        self.state.lock().waiting = 0;
        *self.control.lock() = Control { features: 0, filter: Filter::new(self.options.mac) };
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.control.lock().filter.save(&mut writer);
        writer.finish()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, state, STATE_VERSION)?;
        let filter = Filter::load(&mut reader)?;
        reader.finish()?;
        self.control.lock().filter = filter;
        Ok(())
    }
}
