//! What a command moves, and the buffer it passes through.

use crate::format::Format;
use crate::prd::{Table, Usage};
use block::Disk;
use board::{StateReader, StateWriter};
use std::sync::Arc;

/// Bytes of a channel's or port's buffer: what PIO commands read ahead, or gather before it is written.
pub(crate) const BUFFER_SIZE: usize = 64 << 10;
/// The most sectors of a PIO block (READ MULTIPLE). Divides the buffer.
pub(crate) const MAX_MULTIPLE: u8 = 16;
/// Bytes of a command packet.
pub(crate) const PACKET_SIZE: usize = 12;
/// Bytes of an ATA sector.
pub(crate) const SECTOR: u64 = 512;

/// What a command does with the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing: the host gets what is in the buffer.
    Answer,
    /// The host gets blocks.
    Read(Format),
    /// The host gives sectors; with `durable` they are on the disk before the command ends.
    Write { durable: bool },
    /// The host gives ranges of sectors that it does not need.
    Trim { durable: bool },
    /// Sectors are read, and forgotten.
    Verify,
    /// What was written becomes durable.
    Flush,
}

impl Work {
    /// Whether data go to the host, where there are data.
    pub fn to_host(self) -> bool {
        matches!(self, Work::Answer | Work::Read(_))
    }
}

/// The command that is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub work: Work,
    /// Data move by DMA.
    pub dma: bool,
    /// The next block to be read or written, in blocks of the medium.
    pub next: u64,
    /// Blocks from there on that are wanted.
    pub left: u32,
    /// Bytes that the host moves by PIO between two looks at the status.
    pub block: u32,
}

impl Transfer {
    /// The answer in the buffer, in PIO blocks of `block` bytes.
    pub fn answer(block: u32, dma: bool) -> Self {
        Transfer { work: Work::Answer, dma, next: 0, left: 0, block }
    }

    /// Work in which no data go to or from the host.
    pub fn silent(work: Work, next: u64, left: u32) -> Self {
        Transfer { work, dma: false, next, left, block: SECTOR as u32 }
    }

    /// Counts `blocks` as done.
    pub fn advance(&mut self, blocks: u32) {
        self.next = self.next.saturating_add(blocks.into());
        self.left = self.left.saturating_sub(blocks);
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let (kind, detail) = match self.work {
            Work::Answer => (0, 0),
            Work::Read(format) => (1, format.to_bits()),
            Work::Write { durable } => (2, durable.into()),
            Work::Trim { durable } => (3, durable.into()),
            Work::Verify => (4, 0),
            Work::Flush => (5, 0),
        };
        writer.u8(kind);
        writer.u8(detail);
        writer.u8(self.dma.into());
        writer.u64(self.next);
        writer.u32(self.left);
        writer.u32(self.block);
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let work = match (reader.u8()?, reader.u8()?) {
            (0, _) => Some(Work::Answer),
            (1, bits) => Format::from_bits(bits).map(Work::Read),
            (2, durable) => Some(Work::Write { durable: durable != 0 }),
            (3, durable) => Some(Work::Trim { durable: durable != 0 }),
            (4, _) => Some(Work::Verify),
            (5, _) => Some(Work::Flush),
            _ => None,
        };
        let work = work.ok_or_else(|| reader.invalid("a command that this device does not have"))?;
        let (dma, next, left, block) = (reader.bool()?, reader.u64()?, reader.u32()?, reader.u32()?);
        if block as usize > BUFFER_SIZE {
            return Err(reader.invalid("data in pieces of an impossible size"));
        }
        Ok(Transfer { work, dma, next, left, block })
    }
}

/// Data on their way between host and medium. Invariant: `cursor <= block_end <= filled <= bytes.len()`.
#[derive(Default)]
pub(crate) struct Buffer {
    /// [`BUFFER_SIZE`] of them, or none while the worker has them.
    bytes: Box<[u8]>,
    /// Bytes that are in it, or that it will take from the host.
    filled: usize,
    /// The next byte that the host moves by PIO.
    cursor: usize,
    /// Where the current PIO block ends.
    block_end: usize,
}

impl Buffer {
    pub fn new() -> Self {
        Buffer { bytes: vec![0; BUFFER_SIZE].into_boxed_slice(), filled: 0, cursor: 0, block_end: 0 }
    }

    /// Makes room for `size` bytes, at most all of the buffer, and none of them moved yet. Returns the room.
    pub fn prepare(&mut self, size: usize) -> &mut [u8] {
        (self.filled, self.cursor, self.block_end) = (size.min(self.bytes.len()), 0, 0);
        &mut self.bytes[..self.filled]
    }

    /// Leaves `size` bytes of those there is room for, if it is less.
    pub fn shorten(&mut self, size: usize) {
        self.filled = self.filled.min(size);
    }

    /// Puts an answer there.
    pub fn put(&mut self, data: &[u8]) {
        let room = self.prepare(data.len());
        let size = room.len();
        room.copy_from_slice(&data[..size]);
    }

    /// What is in it.
    pub fn data(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Lets the host move the next block by PIO, of at most `limit` bytes. Returns its size, which is odd in the last one
    /// alone.
    pub fn begin_block(&mut self, limit: usize) -> usize {
        let left = self.filled - self.cursor;
        let size = if left <= limit { left } else { (limit & !1).max(1) };
        self.block_end = self.cursor + size;
        size
    }

    /// Whether the current block is through.
    pub fn block_done(&self) -> bool {
        self.cursor == self.block_end
    }

    /// Whether all of it is through.
    pub fn done(&self) -> bool {
        self.cursor == self.filled
    }

    /// The host reads; what the block does not have is left alone.
    pub fn read(&mut self, data: &mut [u8]) {
        let size = data.len().min(self.block_end - self.cursor);
        data[..size].copy_from_slice(&self.bytes[self.cursor..self.cursor + size]);
        self.cursor += size;
    }

    /// The host writes; what the block has no room for is lost.
    pub fn write(&mut self, data: &[u8]) {
        let size = data.len().min(self.block_end - self.cursor);
        self.bytes[self.cursor..self.cursor + size].copy_from_slice(&data[..size]);
        self.cursor += size;
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.blob(self.data());
        writer.u32(self.cursor as u32);
        writer.u32(self.block_end as u32);
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let mut buffer = Buffer::new();
        let data = reader.blob()?;
        let (cursor, block_end) = (reader.u32()? as usize, reader.u32()? as usize);
        if data.len() > BUFFER_SIZE || block_end > data.len() || cursor > block_end {
            return Err(reader.invalid("its buffer is larger than it can be"));
        }
        buffer.put(data);
        (buffer.cursor, buffer.block_end) = (cursor, block_end);
        Ok(buffer)
    }
}

/// What the worker takes with it.
pub(crate) struct Job {
    pub transfer: Transfer,
    pub buffer: Buffer,
    /// The medium; `None` where there is none any more.
    pub disk: Option<Arc<dyn Disk>>,
    /// Where the descriptors of its memory are.
    pub table: Table,
    /// What became of them, when it is done.
    pub usage: Usage,
}

impl Job {
    pub fn new(transfer: Transfer, buffer: Buffer, disk: Option<Arc<dyn Disk>>, table: Table) -> Self {
        Job { transfer, buffer, disk, table, usage: Usage::default() }
    }
}
