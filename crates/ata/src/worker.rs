//! Work on the media, and between them and guest memory: what a channel's or port's thread does without its lock.

use crate::drive::Failure;
use crate::format::Format;
use crate::identify::MAX_TRIM_BLOCKS;
use crate::prd::{Outside, PrdTable};
use crate::transfer::{BUFFER_SIZE, Job, SECTOR, Work};
use block::{BlockError, Disk};
use hv::GuestMemory;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that DMA moves at once. In between it looks whether it is still wanted.
const PIECE: u64 = 1 << 20;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of the command's work is done.
    Done,
    /// So many blocks, at least one, are in the buffer, or were taken out of it.
    Blocks(u32),
    /// There were fewer descriptors than data.
    Short,
    /// Nobody wanted it any more.
    Canceled,
    Failed(Failure),
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Outcome::Failed(failure)
    }
}

impl From<Outside> for Outcome {
    fn from(_: Outside) -> Self {
        Outcome::Failed(Failure::Bus)
    }
}

/// What jobs need besides the buffer: one after the other uses it, so none allocates.
pub(crate) struct Tools<'a> {
    memory: &'a GuestMemory,
    cancel: &'a AtomicBool,
    pieces: Vec<Range<u64>>,
    vectors: Vec<libc::iovec>,
}

impl<'a> Tools<'a> {
    /// For work with `memory` that ends early when `cancel` is set.
    pub fn new(memory: &'a GuestMemory, cancel: &'a AtomicBool) -> Self {
        Tools { memory, cancel, pieces: Vec::new(), vectors: Vec::new() }
    }

    fn check(&self) -> Result<(), Outcome> {
        if self.cancel.load(Ordering::Acquire) { Err(Outcome::Canceled) } else { Ok(()) }
    }

    /// The host address of a byte of the memory behind guest memory.
    fn host(&self, offset: u64) -> *mut u8 {
        // SAFETY: offsets come from `PrdTable::gather`, which takes them from regions, and those lie inside the mapping.
        unsafe { self.memory.base().add(offset as usize) }
    }

    /// Copies `data` to where the table's next descriptors say.
    fn scatter(&mut self, table: &mut PrdTable, data: &[u8]) -> Result<(), Outcome> {
        self.pieces.clear();
        let got = table.gather(data.len() as u64, &mut self.pieces)?;
        let mut rest = data;
        for piece in &self.pieces {
            let (part, after) = rest.split_at((piece.end - piece.start) as usize);
            // SAFETY: as in `host`; `data` is not guest memory.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), self.host(piece.start), part.len()) };
            self.memory.written(piece.start, part.len() as u64);
            rest = after;
        }
        if got < data.len() as u64 { Err(Outcome::Short) } else { Ok(()) }
    }

    /// Fills `data` from where the table's next descriptors say.
    fn collect(&mut self, table: &mut PrdTable, data: &mut [u8]) -> Result<(), Outcome> {
        self.pieces.clear();
        if table.gather(data.len() as u64, &mut self.pieces)? < data.len() as u64 {
            return Err(Outcome::Short);
        }
        let mut rest = data;
        for piece in &self.pieces {
            let (part, after) = rest.split_at_mut((piece.end - piece.start) as usize);
            // SAFETY: as in `scatter`.
            unsafe { std::ptr::copy_nonoverlapping(self.host(piece.start), part.as_mut_ptr(), part.len()) };
            rest = after;
        }
        Ok(())
    }

    /// Moves what is on the medium between it and guest memory, without a copy of our own. `offset` and `length` are in
    /// bytes. Of data that are written, a last piece without enough descriptors stays where it is.
    fn transfer(
        &mut self,
        table: &mut PrdTable,
        disk: &dyn Disk,
        (offset, length): (u64, u64),
        to_memory: bool,
    ) -> Result<(), (u64, Outcome)> {
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let failed = |outcome: Outcome| (at, outcome);
            self.check().map_err(failed)?;
            self.pieces.clear();
            let wanted = PIECE.min(length - done);
            let got = table.gather(wanted, &mut self.pieces).map_err(|outside| failed(outside.into()))?;
            if got == wanted || to_memory {
                self.move_pieces(disk, at, to_memory).map_err(|error| failed(Failure::Disk(0, error).into()))?;
            }
            if got < wanted {
                return Err(failed(Outcome::Short));
            }
            done += got;
        }
        Ok(())
    }

    fn move_pieces(&mut self, disk: &dyn Disk, at: u64, to_memory: bool) -> Result<(), BlockError> {
        let mut vectors = std::mem::take(&mut self.vectors);
        vectors.clear();
        vectors.extend(self.pieces.iter().map(|piece| libc::iovec {
            iov_base: self.host(piece.start).cast(),
            iov_len: (piece.end - piece.start) as usize,
        }));
        // SAFETY: the vectors are of guest memory, which we have borrowed; it is no Rust object that the kernel could
        // disturb.
        let result = unsafe {
            match to_memory {
                true => disk.read_vectored(at, &mut vectors),
                false => disk.write_vectored(at, &mut vectors),
            }
        };
        if to_memory {
            // Also after an error: some of it may have been written.
            self.pieces.iter().for_each(|piece| self.memory.written(piece.start, piece.end - piece.start));
        }
        self.vectors = vectors;
        result
    }
}

impl Job {
    /// Does what there is to do.
    pub fn run(&mut self, tools: &mut Tools) -> Outcome {
        let mut table = PrdTable::new(tools.memory, self.table, self.transfer.work.to_host());
        let outcome = self.try_run(tools, &mut table).unwrap_or_else(|outcome| outcome);
        self.usage = table.usage();
        outcome
    }

    fn try_run(&mut self, tools: &mut Tools, table: &mut PrdTable) -> Result<Outcome, Outcome> {
        if self.transfer.work == Work::Answer {
            tools.scatter(table, self.buffer.data())?;
            return Ok(Outcome::Done);
        }
        let disk = self.disk.take().ok_or(Failure::NoMedium)?;
        match (self.transfer.work, self.transfer.dma) {
            (Work::Read(format), true) if format.is_plain() => self.dma(tools, table, &*disk, format, true)?,
            (Work::Read(format), true) => self.dma_wrapped(tools, table, &*disk, format)?,
            (Work::Read(format), false) => return self.fill(&*disk, format),
            (Work::Write { durable }, true) => {
                self.dma(tools, table, &*disk, Format::Sector, false)?;
                self.settle(&*disk, durable)?;
            }
            (Work::Write { durable }, false) => {
                let next = self.transfer.next;
                let offset = next.checked_mul(SECTOR).ok_or(Failure::Disk(next, BlockError::BeyondEnd))?;
                disk.write(offset, self.buffer.data()).map_err(|error| Failure::Disk(next, error))?;
                self.settle(&*disk, durable)?;
                return Ok(Outcome::Blocks((self.buffer.data().len() as u64 / SECTOR) as u32));
            }
            (Work::Trim { durable }, _) => {
                self.trim(tools, table, &*disk)?;
                self.settle(&*disk, durable)?;
            }
            (Work::Verify, _) => self.verify(tools, &*disk)?,
            (Work::Flush | Work::Answer, _) => self.settle(&*disk, true)?,
        }
        Ok(Outcome::Done)
    }

    /// Makes what was written durable.
    fn settle(&self, disk: &dyn Disk, durable: bool) -> Result<(), Outcome> {
        match durable {
            true => disk.flush().map_err(|error| Failure::Disk(self.transfer.next, error).into()),
            false => Ok(()),
        }
    }

    /// All of the command's blocks by DMA.
    fn dma(
        &self,
        tools: &mut Tools,
        table: &mut PrdTable,
        disk: &dyn Disk,
        format: Format,
        to_memory: bool,
    ) -> Result<(), Outcome> {
        let size = format.medium_size();
        let beyond = Failure::Disk(self.transfer.next, BlockError::BeyondEnd);
        let offset = self.transfer.next.checked_mul(size).ok_or(beyond)?;
        let length = u64::from(self.transfer.left) * size;
        offset.checked_add(length).ok_or(beyond)?;
        tools.transfer(table, disk, (offset, length), to_memory).map_err(|(at, outcome)| match outcome {
            Outcome::Failed(Failure::Disk(_, error)) => Failure::Disk(at / size, error).into(),
            other => other,
        })
    }

    /// Blocks with parts around their user data by DMA.
    fn dma_wrapped(
        &mut self,
        tools: &mut Tools,
        table: &mut PrdTable,
        disk: &dyn Disk,
        format: Format,
    ) -> Result<(), Outcome> {
        while self.transfer.left > 0 {
            tools.check()?;
            let Outcome::Blocks(count) = self.fill(disk, format)? else { return Ok(()) };
            tools.scatter(table, self.buffer.data())?;
            self.transfer.advance(count);
        }
        Ok(())
    }

    /// Reads as many blocks as fit into the buffer. Where one cannot be read, those before it are what there is.
    fn fill(&mut self, disk: &dyn Disk, format: Format) -> Result<Outcome, Outcome> {
        let first = self.transfer.next;
        let wanted = self.transfer.left.min((BUFFER_SIZE / format.size()) as u32);
        let room = self.buffer.prepare(wanted as usize * format.size());
        let Err(mut failure) = read_blocks(disk, format, first, room) else { return Ok(Outcome::Blocks(wanted)) };
        let mut good = 0;
        for (lba, block) in (first..).zip(room.chunks_exact_mut(format.size())) {
            match read_blocks(disk, format, lba, block) {
                Ok(()) => good += 1,
                Err(error) => {
                    failure = error;
                    break;
                }
            }
        }
        // The host of a disk counts on whole PIO blocks.
        let together = if format == Format::Sector { self.transfer.block / SECTOR as u32 } else { 1 };
        good -= good % together.max(1);
        match good {
            0 => Err(failure.into()),
            _ => {
                self.buffer.shorten(good as usize * format.size());
                Ok(Outcome::Blocks(good))
            }
        }
    }

    /// Reads all of the command's sectors and forgets them.
    fn verify(&mut self, tools: &Tools, disk: &dyn Disk) -> Result<(), Outcome> {
        while self.transfer.left > 0 {
            tools.check()?;
            match self.fill(disk, Format::Sector)? {
                Outcome::Blocks(count) => self.transfer.advance(count),
                other => return Err(other),
            }
        }
        Ok(())
    }

    /// Gives sectors back: ranges of 48 bits of address and 16 of length. ACS-3, section 7.5.3.
    fn trim(&mut self, tools: &mut Tools, table: &mut PrdTable, disk: &dyn Disk) -> Result<(), Outcome> {
        let blocks = self.transfer.left.min(MAX_TRIM_BLOCKS.into());
        let room = self.buffer.prepare(blocks as usize * SECTOR as usize);
        tools.collect(table, room)?;
        let ranges = || {
            let entries = self.buffer.data().chunks_exact(8).map(|entry| {
                let entry = entry.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                ((entry & 0xFFFF_FFFF_FFFF) * SECTOR, (entry >> 48) * SECTOR)
            });
            entries.filter(|(_, length)| *length > 0)
        };
        // All of them first: a command that fails gives nothing back.
        if ranges().any(|(offset, length)| offset + length > disk.size()) {
            return Err(Failure::Range.into());
        }
        for (offset, length) in ranges() {
            tools.check()?;
            disk.discard(offset, length).map_err(|error| Failure::Disk(offset / SECTOR, error))?;
        }
        Ok(())
    }
}

/// Reads blocks from `first` on as the host gets them, as many as `out` holds.
fn read_blocks(disk: &dyn Disk, format: Format, first: u64, out: &mut [u8]) -> Result<(), Failure> {
    match format {
        Format::Cd(parts) if !format.is_plain() => {
            scsi::read_parts(disk, parts, first, out).map_err(|(lba, error)| Failure::Disk(lba, error))
        }
        _ => {
            let offset = first.checked_mul(format.medium_size());
            let offset = offset.ok_or(Failure::Disk(first, BlockError::BeyondEnd))?;
            disk.read(offset, out).map_err(|error| Failure::Disk(first, error))
        }
    }
}
