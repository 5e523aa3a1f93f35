use crate::chain::Chain;
use crate::link::Link;
use hv::GuestMemory;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// Descriptor flag: there is a next one.
const NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR_SIZE: u64 = 16;
/// Avail ring flag: no interrupts wanted.
const NO_INTERRUPT: u16 = 1;
/// Used ring flag: no notifications wanted.
const NO_NOTIFY: u16 = 1;

/// How long a used buffer may wait for others before the driver is interrupted.
const COALESCE: Duration = Duration::from_micros(100);

/// How a driver broke the rules of split virtqueues. virtio 1.2, section 2.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A ring is not in writable RAM, or not aligned.
    #[error("a ring of {size} bytes at {address:#x} is not aligned or not in RAM")]
    Ring {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// A size that no queue can have.
    #[error("{0} is no queue size")]
    Size(u16),
    /// The avail index moved by more than the size.
    #[error("the avail index ran ahead by {0}")]
    Index(u16),
    /// A descriptor index beyond its table.
    #[error("descriptor {0} does not exist")]
    Descriptor(u16),
    /// A chain is longer than the queue: it loops.
    #[error("a descriptor chain is longer than its queue")]
    Loop,
    /// A buffer or indirect table is not in RAM.
    #[error("a buffer of {size} bytes at {address:#x} is not in RAM")]
    Outside {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        size: u32,
    },
    /// A readable buffer after a writable one.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// An indirect table of a wrong size, within another, not negotiated, or with a next descriptor.
    #[error("an indirect descriptor table of {0} bytes that makes no sense")]
    Indirect(u32),
    /// A request that cannot even be answered.
    #[error("{0}")]
    Request(&'static str),
}

/// Where a driver has put a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of descriptors: a power of two, 1..=1024.
    pub size: u16,
    /// Guest physical address of the descriptor table; 16-byte aligned.
    pub descriptors: u64,
    /// Of the driver area, the avail ring; 2-byte aligned.
    pub driver: u64,
    /// Of the device area, the used ring; 4-byte aligned.
    pub device: u64,
}

/// The device's side of a split virtqueue. A queue that its driver has not enabled is always empty.
pub struct Queue {
    index: u16,
    memory: Arc<GuestMemory>,
    link: Arc<Link>,
    rings: Option<Rings>,
    event_idx: bool,
    indirect: bool,
    next_avail: u16,
    next_used: u16,
    /// `next_used` when the driver was last interrupted or found not to want it.
    signalled: u16,
    /// When the first buffer was used that the driver has not been told of.
    waiting: Option<Instant>,
    head: u16,
    chain: Chain,
}

/// Host addresses of the three parts. All accesses go through atomics, as the driver races with them.
#[derive(Clone, Copy)]
struct Rings {
    size: u16,
    descriptors: *mut u8,
    avail: *mut u8,
    used: *mut u8,
    /// Of the used ring in the backing file.
    used_offset: u64,
}

// SAFETY: the pointers are into guest memory, which `Queue` keeps alive, and are only used with atomics.
unsafe impl Send for Queue {}

impl Queue {
    /// Queue number `index` of a device. `layout`: `None` while the driver has not enabled it. `features` are those
    /// agreed on; `next_avail` and `next_used` are the ring indices to go on at: 0 at the start.
    ///
    /// # Errors
    /// When the layout makes no sense.
    pub fn new(
        index: u16,
        layout: Option<QueueLayout>,
        features: u64,
        (next_avail, next_used): (u16, u16),
        memory: &Arc<GuestMemory>,
        link: &Arc<Link>,
    ) -> Result<Self, QueueError> {
        Ok(Queue {
            index,
            memory: memory.clone(),
            link: link.clone(),
            rings: layout.map(|layout| Rings::new(&layout, memory)).transpose()?,
            event_idx: features & crate::feature::RING_EVENT_IDX != 0,
            indirect: features & crate::feature::RING_INDIRECT_DESC != 0,
            next_avail,
            next_used,
            signalled: next_used,
            waiting: None,
            head: 0,
            chain: Chain::new(memory.clone()),
        })
    }

    /// The number of descriptors; 0 while the driver has not enabled the queue.
    pub fn size(&self) -> u16 {
        self.rings.map_or(0, |rings| rings.size)
    }

    /// The ring indices (avail, used) at which a queue made from a snapshot goes on.
    pub fn indices(&self) -> (u16, u16) {
        (self.next_avail, self.next_used)
    }

    /// Takes the next chain the driver has made available: then [`Queue::chain`] is it, to be followed by
    /// [`Queue::push`]. `false`: there is none.
    ///
    /// # Errors
    /// When the driver broke the rules.
    pub fn pop(&mut self) -> Result<bool, QueueError> {
        let Some(rings) = self.rings else { return Ok(false) };
        let ahead = rings.avail_index().wrapping_sub(self.next_avail);
        if ahead == 0 {
            return Ok(false);
        }
        if ahead > rings.size {
            return Err(QueueError::Index(ahead));
        }
        self.head = rings.avail_entry(self.next_avail);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.collect(&rings)?;
        Ok(true)
    }

    /// The chain taken last.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Lets the last `count` chains that were taken, and neither pushed nor staged, be taken again.
    pub fn put_back(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_sub(count);
    }

    /// Gives the chain taken last back to the driver; the device has written its first `written` writable bytes.
    pub fn push(&mut self, written: u32) {
        self.stage(written);
        self.publish();
    }

    /// As [`Queue::push`], but the driver sees nothing of it before [`Queue::publish`], which shows it all at once.
    pub fn stage(&mut self, written: u32) {
        let Some(rings) = self.rings else { return };
        rings.store_used(self.next_used, self.head, written, &self.memory);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the driver what was staged.
    pub fn publish(&mut self) {
        let Some(rings) = self.rings else { return };
        rings.store_used_index(self.next_used, &self.memory);
        match self.waiting {
            None => self.waiting = Some(Instant::now()),
            Some(since) if since.elapsed() > COALESCE => self.signal(),
            Some(_) => {}
        }
    }

    /// Interrupts the driver when it wants to know of the buffers given back since the last call.
    pub fn signal(&mut self) {
        let Some(rings) = self.rings else { return };
        self.waiting = None;
        let from = std::mem::replace(&mut self.signalled, self.next_used);
        if from == self.next_used {
            return;
        }
        // The used index must be visible before the driver's wish is read (virtio 1.2, section 2.7.13.4.1).
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            passed(rings.used_event(), from, self.next_used)
        } else {
            rings.avail_flags() & NO_INTERRUPT == 0
        };
        if wanted {
            self.link.interrupt(self.index);
        }
    }

    /// Asks the driver to notify when it makes more available. `true`: it has done so meanwhile.
    ///
    /// # Errors
    /// When the driver broke the rules.
    pub fn arm(&mut self) -> Result<bool, QueueError> {
        let Some(rings) = self.rings else { return Ok(false) };
        if self.event_idx {
            rings.store_avail_event(self.next_avail, &self.memory);
        } else {
            rings.store_used_flags(0, &self.memory);
        }
        // The wish must be visible before the avail index is read again.
        fence(Ordering::SeqCst);
        match rings.avail_index().wrapping_sub(self.next_avail) {
            ahead if ahead > rings.size => Err(QueueError::Index(ahead)),
            ahead => Ok(ahead != 0),
        }
    }

    /// Asks the driver not to notify. With event indices, not asking for the next one is enough.
    pub fn disarm(&mut self) {
        if let Some(rings) = self.rings.filter(|_| !self.event_idx) {
            rings.store_used_flags(NO_NOTIFY, &self.memory);
        }
    }

    /// Serves what is available, at most the queue's size of chains: `serve` returns the bytes written to each. `true`:
    /// there is more.
    ///
    /// # Errors
    /// When the driver broke the rules.
    pub fn serve(&mut self, mut serve: impl FnMut(&Chain) -> Result<u32, QueueError>) -> Result<bool, QueueError> {
        self.disarm();
        for _ in 0..self.size() {
            if self.link.stopping() || !self.pop()? {
                break;
            }
            let written = serve(&self.chain)?;
            self.push(written);
        }
        self.signal();
        self.arm()
    }

    /// Follows the chain from `self.head` and checks all of it. virtio 1.2, sections 2.7.5 and 2.7.5.3.
    fn collect(&mut self, rings: &Rings) -> Result<(), QueueError> {
        self.chain.clear();
        let mut index = self.head;
        for length in 0.. {
            if length == rings.size {
                return Err(QueueError::Loop);
            }
            if index >= rings.size {
                return Err(QueueError::Descriptor(index));
            }
            // SAFETY: `index` is below the size and `descriptors` valid for as many, 16-byte aligned.
            let descriptor = unsafe { Descriptor::load(rings.descriptors, index) };
            if descriptor.flags & INDIRECT != 0 {
                if descriptor.flags & NEXT != 0 || !self.indirect {
                    return Err(QueueError::Indirect(descriptor.size));
                }
                return self.collect_indirect(rings.size - length, &descriptor);
            }
            self.chain.add(descriptor.address, descriptor.size, descriptor.flags & WRITE != 0)?;
            if descriptor.flags & NEXT == 0 {
                break;
            }
            index = descriptor.next;
        }
        Ok(())
    }

    /// The same in an indirect table. At most `limit` descriptors of it may be used.
    fn collect_indirect(&mut self, limit: u16, table: &Descriptor) -> Result<(), QueueError> {
        let wrong = QueueError::Indirect(table.size);
        let count = u64::from(table.size) / DESCRIPTOR_SIZE;
        if count == 0 || u64::from(table.size) % DESCRIPTOR_SIZE != 0 {
            return Err(wrong);
        }
        let mut index = 0;
        for length in 0.. {
            if length == limit {
                return Err(QueueError::Loop);
            }
            if u64::from(index) >= count {
                return Err(QueueError::Descriptor(index));
            }
            let outside = QueueError::Outside { address: table.address, size: table.size };
            let mut bytes = [0; DESCRIPTOR_SIZE as usize];
            let at = table.address.checked_add(u64::from(index) * DESCRIPTOR_SIZE).ok_or(outside)?;
            self.memory.read(at, &mut bytes).map_err(|_| outside)?;
            let descriptor = Descriptor::parse(u128::from_le_bytes(bytes));
            if descriptor.flags & INDIRECT != 0 {
                return Err(wrong);
            }
            self.chain.add(descriptor.address, descriptor.size, descriptor.flags & WRITE != 0)?;
            if descriptor.flags & NEXT == 0 {
                break;
            }
            index = descriptor.next;
        }
        Ok(())
    }
}

/// Whether going from index `from` to `to` passes `event`. virtio 1.2, section 2.7.10 (`vring_need_event`).
fn passed(event: u16, from: u16, to: u16) -> bool {
    to.wrapping_sub(event).wrapping_sub(1) < to.wrapping_sub(from)
}

#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    size: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Copies a descriptor out of a table, once.
    ///
    /// # Safety
    /// `table` must be valid for `index + 1` descriptors and 8-byte aligned.
    unsafe fn load(table: *mut u8, index: u16) -> Self {
        // SAFETY: the caller vouches for it.
        let [low, high] = unsafe {
            let at = table.add(usize::from(index) * DESCRIPTOR_SIZE as usize).cast::<u64>();
            [AtomicU64::from_ptr(at), AtomicU64::from_ptr(at.add(1))].map(|half| half.load(Ordering::Relaxed))
        };
        Self::parse(u128::from(u64::from_le(low)) | u128::from(u64::from_le(high)) << 64)
    }

    fn parse(bits: u128) -> Self {
        Descriptor {
            address: bits as u64,
            size: (bits >> 64) as u32,
            flags: (bits >> 96) as u16,
            next: (bits >> 112) as u16,
        }
    }
}

impl Rings {
    fn new(layout: &QueueLayout, memory: &GuestMemory) -> Result<Self, QueueError> {
        let size = u64::from(layout.size);
        if !size.is_power_of_two() || size > 1024 {
            return Err(QueueError::Size(layout.size));
        }
        let place = |address: u64, size: u64, alignment: u64| {
            let writable = memory.region(address).is_some_and(|region| !region.readonly);
            match memory.offset(address, size) {
                Some(offset) if writable && address % alignment == 0 => Ok(offset),
                _ => Err(QueueError::Ring { address, size }),
            }
        };
        let descriptors = place(layout.descriptors, DESCRIPTOR_SIZE * size, 16)?;
        let avail = place(layout.driver, 6 + 2 * size, 2)?;
        let used_offset = place(layout.device, 6 + 8 * size, 4)?;
        // SAFETY: `offset` gave places inside the mapping for the whole of each part.
        let host = |offset: u64| unsafe { memory.base().add(offset as usize) };
        Ok(Rings {
            size: layout.size,
            descriptors: host(descriptors),
            avail: host(avail),
            used: host(used_offset),
            used_offset,
        })
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    fn load_avail(&self, at: usize, order: Ordering) -> u16 {
        // SAFETY: `at` is even and within the 6 + 2 * size bytes that `new` found, which are 2-byte aligned.
        u16::from_le(unsafe { AtomicU16::from_ptr(self.avail.add(at).cast()) }.load(order))
    }

    fn avail_flags(&self) -> u16 {
        self.load_avail(0, Ordering::Relaxed)
    }

    fn avail_index(&self) -> u16 {
        self.load_avail(2, Ordering::Acquire)
    }

    fn avail_entry(&self, index: u16) -> u16 {
        self.load_avail(4 + 2 * self.slot(index), Ordering::Relaxed)
    }

    fn used_event(&self) -> u16 {
        self.load_avail(4 + 2 * usize::from(self.size), Ordering::Relaxed)
    }

    fn store_used_u16(&self, at: usize, value: u16, memory: &GuestMemory) {
        // SAFETY: `at` is even and within the 6 + 8 * size bytes that `new` found, which are 4-byte aligned.
        unsafe { AtomicU16::from_ptr(self.used.add(at).cast()) }.store(value.to_le(), Ordering::Release);
        memory.written(self.used_offset + at as u64, 2);
    }

    fn store_used_flags(&self, flags: u16, memory: &GuestMemory) {
        self.store_used_u16(0, flags, memory);
    }

    fn store_used_index(&self, index: u16, memory: &GuestMemory) {
        self.store_used_u16(2, index, memory);
    }

    fn store_avail_event(&self, index: u16, memory: &GuestMemory) {
        self.store_used_u16(4 + 8 * usize::from(self.size), index, memory);
    }

    fn store_used(&self, index: u16, head: u16, written: u32, memory: &GuestMemory) {
        let at = 4 + 8 * self.slot(index);
        let offset = self.used_offset + at as u64;
        for (at, value) in [(at, u32::from(head)), (at + 4, written)] {
            // SAFETY: as above; `at` is a multiple of 4.
            unsafe { AtomicU32::from_ptr(self.used.add(at).cast()) }.store(value.to_le(), Ordering::Relaxed);
        }
        memory.written(offset, 8);
    }
}

#[cfg(test)]
mod tests;
