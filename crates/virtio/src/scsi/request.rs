//! Request queues: a command, its data, its status. virtio 1.2, section 5.6.6.1.

use super::address::Address;
use super::{Scsi, response};
use crate::{Chain, QueueError};
use ::scsi::{CdParts, Cdb, Sense, Span, Work, absent, read_parts, status};
use block::Disk;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes in front of the command descriptor block: address, tag, three more.
const HEADER: u64 = 19;
/// Bytes in front of sense data: their length, residual, status qualifier, status, response.
const STATUS: u64 = 12;
/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;

/// What requests need besides their buffers: one after the other uses it.
#[derive(Default)]
pub(super) struct Scratch {
    vectors: Vec<libc::iovec>,
    bytes: Vec<u8>,
}

/// Why a request did not end well.
enum Failure {
    /// It never was a command for a unit.
    Response(u8),
    /// The command has failed.
    Check(Sense),
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Failure::Check(sense)
    }
}

/// The data buffers of a request.
struct Data<'a> {
    chain: &'a Chain,
    scratch: &'a mut Scratch,
    /// Where those begin that the driver gives, and their bytes.
    out_at: u64,
    given: u64,
    /// Where those begin that it gets.
    in_at: u64,
    room: u64,
}

impl Scsi {
    /// Serves a request and writes its status; returns the bytes written.
    pub(super) fn request(&self, chain: &Chain, scratch: &mut Scratch) -> Result<u32, QueueError> {
        self.request_unless(chain, scratch, |_, _| None)
    }

    /// The same, unless `refuse` has a response for its address and tag.
    pub(super) fn request_unless(
        &self,
        chain: &Chain,
        scratch: &mut Scratch,
        refuse: impl FnOnce(Option<Address>, u64) -> Option<u8>,
    ) -> Result<u32, QueueError> {
        let cdb_size = self.cdb_size.load(Ordering::Acquire);
        let sense_size = u64::from(self.sense_size.load(Ordering::Acquire));
        let (out_at, in_at) = (HEADER + u64::from(cdb_size), STATUS + sense_size);
        if chain.readable() < out_at || chain.writable() < in_at {
            return Err(QueueError::Request(
                "a SCSI request too short for its command, or without room for its status",
            ));
        }
        let mut header = [0; HEADER as usize];
        chain.read(0, &mut header);
        let [lun @ .., t0, t1, t2, t3, t4, t5, t6, t7, _, _, _] = header;
        let address = Address::parse(lun);
        let tag = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        let mut cdb = [0; 16];
        let size = cdb.len().min(cdb_size as usize);
        chain.read(HEADER, &mut cdb[..size]);

        let (given, room) = (chain.readable() - out_at, chain.writable() - in_at);
        let result = match refuse(address, tag) {
            Some(answer) => Err(Failure::Response(answer)),
            // Both ways at once: the feature for that is not offered.
            None if given > 0 && room > 0 => Err(Failure::Response(response::FAILURE)),
            None => self.execute(address, &cdb[..size], Data { chain, scratch, out_at, given, in_at, room }),
        };
        let moved = *result.as_ref().unwrap_or(&0);
        let (answer, status, sense) = match result {
            Ok(_) => (response::OK, status::GOOD, None),
            Err(Failure::Response(answer)) => (answer, status::GOOD, None),
            Err(Failure::Check(sense)) => (response::OK, status::CHECK_CONDITION, Some(sense.fixed_format())),
        };
        let sense = sense.as_ref().map_or(&[][..], |sense| &sense[..sense.len().min(sense_size as usize)]);
        let residual = u32::try_from(given + room - moved).unwrap_or(u32::MAX);
        // All up to the data is written, as the driver is told.
        let bytes = &mut scratch.bytes;
        bytes.clear();
        bytes.extend((sense.len() as u32).to_le_bytes());
        bytes.extend(residual.to_le_bytes());
        bytes.extend([0, 0, status, answer]);
        bytes.extend(sense);
        bytes.resize(in_at as usize, 0);
        chain.write(0, bytes);
        Ok(in_at as u32 + if room > 0 { moved as u32 } else { 0 })
    }

    /// Carries out a command; returns the bytes moved.
    fn execute(&self, address: Option<Address>, cdb: &[u8], mut data: Data) -> Result<u64, Failure> {
        let mut state = self.state.lock();
        let bad_target = Failure::Response(response::BAD_TARGET);
        let Some(Address { target, unit: number }) = address else { return Err(bad_target) };
        let unit = &mut state.targets.get_mut(&target).ok_or(bad_target)?.unit;
        let cdb = Cdb::new(cdb).ok_or(Sense::INVALID_OPERATION)?;
        let work = if number == 0 { unit.command(&cdb, Sense::NONE) } else { absent(&cdb) }?;
        if let Work::Parameters(size) = work {
            return data.take(size, |list| unit.take(&cdb, list));
        }
        let medium = unit.medium();
        // Who adds and takes away targets need not wait for a file.
        drop(state);
        data.finish(work, medium)
    }
}

impl Data<'_> {
    /// Hands on a parameter list of so many bytes; returns them.
    fn take(&mut self, size: usize, take: impl FnOnce(&[u8]) -> Result<(), Sense>) -> Result<u64, Failure> {
        fits(size as u64, self.given)?;
        let list = &mut self.scratch.bytes;
        list.resize(size, 0);
        self.chain.read(self.out_at, list);
        take(list)?;
        Ok(size as u64)
    }

    /// Does what a command has led to; returns the bytes moved.
    fn finish(&mut self, work: Work, medium: Option<Arc<dyn Disk>>) -> Result<u64, Failure> {
        let medium = || medium.ok_or(Sense::NO_MEDIUM);
        match work {
            Work::Done => Ok(0),
            Work::Answer(answer) => {
                fits(answer.len() as u64, self.room)?;
                Ok(self.chain.write(self.in_at, &answer) as u64)
            }
            Work::Read(span) => self.read(&*medium()?, span),
            Work::ReadParts(parts, span) => self.read_parts(&*medium()?, parts, span),
            Work::Write { span, durable } => self.write(&*medium()?, span, durable),
            Work::Compare(span) => self.compare(&*medium()?, span),
            // That was done before.
            Work::Parameters(_) => Err(Failure::Response(response::FAILURE)),
        }
    }

    fn read(&mut self, disk: &dyn Disk, span: Span) -> Result<u64, Failure> {
        let size = span.size();
        fits(size, self.room)?;
        let vectors = &mut self.scratch.vectors;
        vectors.clear();
        self.chain.writable_vectors(self.in_at, size, vectors);
        // SAFETY: the vectors are of guest memory, which the queue they came from keeps mapped; it is no Rust object
        // that the kernel could disturb.
        let done = unsafe { disk.read_vectored(span.offset(), vectors) };
        self.chain.written(self.in_at, size);
        done.map_err(|error| at_single(Sense::of_read(error), span))?;
        Ok(size)
    }

    fn write(&mut self, disk: &dyn Disk, span: Span, durable: bool) -> Result<u64, Failure> {
        let size = span.size();
        fits(size, self.given)?;
        let vectors = &mut self.scratch.vectors;
        vectors.clear();
        self.chain.readable_vectors(self.out_at, size, vectors);
        // SAFETY: as for a read.
        let done = unsafe { disk.write_vectored(span.offset(), vectors) };
        done.map_err(|error| at_single(Sense::of_write(error), span))?;
        if durable {
            disk.flush().map_err(Sense::of_write)?;
        }
        Ok(size)
    }

    /// Blocks of a CD with what stands around their user data.
    fn read_parts(&mut self, disk: &dyn Disk, parts: CdParts, span: Span) -> Result<u64, Failure> {
        let total = u64::from(span.count) * parts.size() as u64;
        fits(total, self.room)?;
        let at_once = (PIECE / parts.size()) as u32;
        let mut done = 0;
        while done < span.count {
            let count = at_once.min(span.count - done);
            let piece = &mut self.scratch.bytes;
            piece.resize(count as usize * parts.size(), 0);
            read_parts(disk, parts, span.first + u64::from(done), piece)
                .map_err(|(lba, error)| Sense::of_read(error).at(lba))?;
            self.chain.write(self.in_at + u64::from(done) * parts.size() as u64, piece);
            done += count;
        }
        Ok(total)
    }

    fn compare(&mut self, disk: &dyn Disk, span: Span) -> Result<u64, Failure> {
        let size = span.size();
        fits(size, self.given)?;
        let bytes = &mut self.scratch.bytes;
        bytes.resize(2 * PIECE, 0);
        let (ours, theirs) = bytes.split_at_mut(PIECE);
        let mut at = 0;
        while at < size {
            let part = PIECE.min((size - at) as usize);
            disk.read(span.offset() + at, &mut ours[..part]).map_err(Sense::of_read)?;
            self.chain.read(self.out_at + at, &mut theirs[..part]);
            if ours[..part] != theirs[..part] {
                return Err(Sense::MISCOMPARE.into());
            }
            at += part as u64;
        }
        Ok(size)
    }
}

/// The block concerned, where there is but one.
fn at_single(sense: Sense, span: Span) -> Sense {
    if span.count == 1 { sense.at(span.first) } else { sense }
}

/// A command that wants to move more than there are buffers for moves nothing.
fn fits(size: u64, room: u64) -> Result<(), Failure> {
    if size <= room { Ok(()) } else { Err(Failure::Response(response::OVERRUN)) }
}
