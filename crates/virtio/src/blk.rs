use crate::{Chain, DeviceType, Queue, QueueError, VirtioDevice};
use block::Disk;
use board::{StateReader, StateWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Device features. virtio 1.2, section 5.2.3.
const FEATURE_SIZE_MAX: u64 = 1 << 1;
const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_RO: u64 = 1 << 5;
const FEATURE_BLK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_TOPOLOGY: u64 = 1 << 10;
const FEATURE_CONFIG_WCE: u64 = 1 << 11;
const FEATURE_MQ: u64 = 1 << 12;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

/// Request types. virtio 1.2, section 5.2.6.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Request status.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Bytes of a sector, the unit of the protocol.
const SECTOR: u64 = 512;
/// Bytes of a request's header: type, reserved, sector.
const HEADER_SIZE: u64 = 16;
/// Bytes of a range to discard or zero: sector, number of sectors, flags.
const RANGE_SIZE: u64 = 16;
/// A range's flag: its blocks may be given back to the file system.
const RANGE_UNMAP: u32 = 1;
/// Bytes of a disk's name.
const ID_SIZE: usize = 20;
/// Offset of `writeback` in the device configuration.
const CONFIG_WRITEBACK: usize = 32;

const QUEUE_SIZE: u16 = 256;
/// Buffers for data in a request: the queue's size less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of a buffer for data.
const SIZE_MAX: u32 = 1 << 20;
/// Bytes of data in a request, more than `SEG_MAX` buffers of `SIZE_MAX` hold.
const MAX_DATA: u64 = SIZE_MAX as u64 * QUEUE_SIZE as u64;
/// Sectors of a range to discard or zero: 128 MiB, so that writing zeros by hand ends soon.
const MAX_RANGE: u32 = 1 << 18;
const STATE_VERSION: u32 = 1;

/// How a disk is shown to its guest.
#[derive(Clone, Debug, Default)]
pub struct BlkOptions {
    /// The name GET_ID answers, at most 20 bytes of ASCII (`/dev/disk/by-id/virtio-…` in Linux).
    pub serial: String,
    /// Number of queues, 1..=16; 0 means 1. One thread serves them all.
    pub queues: u16,
}

/// virtio-blk. virtio 1.2, section 5.2.
///
/// Data moves between the disk and guest memory without a copy of our own.
pub struct Blk {
    name: String,
    disk: Arc<dyn Disk>,
    options: BlkOptions,
    sectors: u64,
    /// The driver flushes when it wants durability; otherwise every write is made durable before it is completed.
    writeback: AtomicBool,
    features: AtomicU64,
}

impl Blk {
    /// Shows `disk` to a guest; one that is read-only as such.
    ///
    /// # Errors
    /// One sentence when the disk is empty or not of whole sectors, or an option is out of range.
    pub fn new(name: &str, disk: Arc<dyn Disk>, options: BlkOptions) -> Result<Self, String> {
        let size = disk.size();
        if size == 0 || size % SECTOR != 0 {
            return Err(format!(
                "disk {name} has {size} bytes, not a positive multiple of {SECTOR}: make it larger with \
                 `truncate --size=%{SECTOR}`"
            ));
        }
        if options.serial.len() > ID_SIZE || !options.serial.is_ascii() {
            return Err(format!("the serial of disk {name} is longer than {ID_SIZE} characters or not plain ASCII"));
        }
        let options = BlkOptions { queues: options.queues.max(1), ..options };
        if options.queues > 16 {
            return Err(format!("disk {name} cannot have {} queues: use 1 to 16", options.queues));
        }
        let (writeback, features) = (AtomicBool::new(true), AtomicU64::new(0));
        Ok(Blk { name: name.to_owned(), disk, options, sectors: size / SECTOR, writeback, features })
    }

    /// Serves one request and writes its status; returns the bytes written.
    fn request(&self, chain: &Chain, vectors: &mut Vec<libc::iovec>) -> Result<u32, QueueError> {
        let mut header = [0; HEADER_SIZE as usize];
        if chain.read(0, &mut header) < header.len() || chain.writable() == 0 {
            return Err(QueueError::Request("a block request without header or room for its status"));
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes(sector);
        let room = chain.writable() - 1;
        let (status, written) = match kind {
            IN => match self.span(sector, room) {
                Some(start) => {
                    chain.writable_vectors(0, room, vectors);
                    // SAFETY: the vectors are of guest memory, which the queue they came from keeps mapped; it is no
                    // Rust object that the kernel could disturb.
                    let done = unsafe { self.disk.read_vectored(start, vectors) }.is_ok();
                    chain.written(0, room);
                    (if done { OK } else { IOERR }, if done { room } else { 0 })
                }
                None => (IOERR, 0),
            },
            OUT if self.disk.readonly() => (IOERR, 0),
            OUT => (self.write(chain, sector, vectors), 0),
            FLUSH => (if self.disk.flush().is_ok() { OK } else { IOERR }, 0),
            GET_ID => {
                let mut id = [0; ID_SIZE];
                id[..self.options.serial.len()].copy_from_slice(self.options.serial.as_bytes());
                (OK, chain.write(0, &id[..ID_SIZE.min(room as usize)]) as u64)
            }
            DISCARD | WRITE_ZEROES => (self.range(chain, kind), 0),
            _ => (UNSUPP, 0),
        };
        vectors.clear();
        chain.write(room, &[status]);
        Ok(written as u32 + 1)
    }

    fn write(&self, chain: &Chain, sector: u64, vectors: &mut Vec<libc::iovec>) -> u8 {
        let length = chain.readable() - HEADER_SIZE;
        let Some(start) = self.span(sector, length) else { return IOERR };
        chain.readable_vectors(HEADER_SIZE, length, vectors);
        // SAFETY: as for a read.
        let done = unsafe { self.disk.write_vectored(start, vectors) }.is_ok() && self.settle();
        if done { OK } else { IOERR }
    }

    /// Makes what was written durable when the driver counts on that without asking. virtio 1.2, section 5.2.6.2.
    fn settle(&self) -> bool {
        let flushes = self.features.load(Ordering::Acquire) & FEATURE_FLUSH != 0;
        flushes && self.writeback.load(Ordering::Acquire) || self.disk.flush().is_ok()
    }

    /// The file offset of `length` bytes from `sector` on, when they are whole sectors, on the disk and not too many.
    fn span(&self, sector: u64, length: u64) -> Option<u64> {
        let sectors = length / SECTOR;
        let fits = sector <= self.sectors && sectors <= self.sectors - sector;
        (fits && length % SECTOR == 0 && length <= MAX_DATA).then(|| sector * SECTOR)
    }

    /// Discards or zeroes one range. virtio 1.2, section 5.2.6.2.
    fn range(&self, chain: &Chain, kind: u32) -> u8 {
        if self.disk.readonly() {
            return IOERR;
        }
        let mut range = [0; RANGE_SIZE as usize];
        if chain.readable() != HEADER_SIZE + RANGE_SIZE {
            return UNSUPP;
        }
        chain.read(HEADER_SIZE, &mut range);
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = range;
        let count = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let length = u64::from(count) * SECTOR;
        if flags & !RANGE_UNMAP != 0 || kind == DISCARD && flags != 0 {
            return UNSUPP;
        }
        let start = self.span(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), length);
        let Some(start) = start.filter(|_| count <= MAX_RANGE) else { return IOERR };
        if count == 0 {
            return OK;
        }
        let done = match kind {
            DISCARD => self.disk.discard(start, length),
            _ => self.disk.write_zeroes(start, length, flags & RANGE_UNMAP != 0),
        };
        if done.is_ok() && self.settle() { OK } else { IOERR }
    }
}

impl VirtioDevice for Blk {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        let always = FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_TOPOLOGY | FEATURE_FLUSH;
        let queues = if self.options.queues > 1 { FEATURE_MQ } else { 0 };
        let writing = FEATURE_CONFIG_WCE | FEATURE_DISCARD | FEATURE_WRITE_ZEROES;
        always | queues | if self.disk.readonly() { FEATURE_RO } else { writing }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.options.queues)]
    }

    /// virtio 1.2, section 5.2.4.
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 60];
        let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
        put(0, &self.sectors.to_le_bytes());
        put(8, &SIZE_MAX.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Blocks of 8 sectors (4 KiB) are what the page cache likes, for a single access and a long one.
        put(24, &[3, 0, 8, 0, 0, 0, 0, 0]);
        put(CONFIG_WRITEBACK, &[u8::from(self.writeback.load(Ordering::Acquire))]);
        put(34, &self.options.queues.to_le_bytes());
        put(36, &MAX_RANGE.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &8u32.to_le_bytes());
        put(48, &MAX_RANGE.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        if let (CONFIG_WRITEBACK, &[value], false) = (offset, data, self.disk.readonly()) {
            self.writeback.store(value != 0, Ordering::Release);
        }
    }

    fn start(&self, features: u64) {
        self.features.store(features, Ordering::Release);
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let mut vectors = Vec::new();
        let mut more = false;
        for queue in queues {
            more |= queue.serve(|chain| self.request(chain, &mut vectors))?;
        }
        Ok(more)
    }

    fn reset(&self) {
        self.writeback.store(true, Ordering::Release);
        self.features.store(0, Ordering::Release);
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u64(self.sectors);
        writer.u8(u8::from(self.writeback.load(Ordering::Acquire)));
        writer.finish()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, state, STATE_VERSION)?;
        if reader.u64()? != self.sectors {
            return Err(reader.invalid("the disk was of another size"));
        }
        let writeback = reader.bool()?;
        reader.finish()?;
        self.writeback.store(writeback, Ordering::Release);
        Ok(())
    }
}
