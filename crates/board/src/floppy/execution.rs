//! The execution phase of commands that read or write tracks. 82078 data sheet, section 6 ("Command descriptions").
//!
//! One sector at a time: it is located, its data go from disk to host or from host to disk, and the next one is worked out.

use super::drive::{Drive, Id, NotFound, Place};
use super::format::SECTOR;
use super::status;
use crate::{DmaChannel, Moved, StateReader, StateWriter};
use block::{BlockError, Disk};
use std::sync::Arc;

/// How often a channel that is not ready is looked at again: as real disks turn on until the sector passes, hosts may set up
/// their DMA a little late.
const PATIENCE: u16 = 200;
/// Bytes that the host gives for each sector that is formatted.
const FORMAT_ID: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    ReadDeleted,
    ReadTrack,
    Verify,
    Write,
    Format,
    ReadId,
}

const OPERATIONS: [Operation; 7] = [
    Operation::Read,
    Operation::ReadDeleted,
    Operation::ReadTrack,
    Operation::Verify,
    Operation::Write,
    Operation::Format,
    Operation::ReadId,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The next sector is to be found.
    Locate,
    /// The buffer goes to the host.
    ToHost,
    /// The host fills the buffer.
    FromHost,
    /// The buffer is to be written.
    Store,
    /// What was written is to be made durable.
    Settle,
}

const STAGES: [Stage; 5] = [Stage::Locate, Stage::ToHost, Stage::FromHost, Stage::Store, Stage::Settle];

/// What a command asks for.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub operation: Operation,
    /// The drive's number.
    pub unit: u8,
    pub place: Place,
    pub multi_track: bool,
    pub skip: bool,
    pub dma: bool,
    /// The first sector.
    pub id: Id,
    /// EOT; when formatting, the byte that fills sectors; for [`Operation::ReadId`], which sector passes.
    pub last: u8,
    /// How many sectors are formatted, or verified; `None`: up to EOT.
    pub count: Option<u8>,
    /// The head was moved first.
    pub sought: bool,
}

/// A command that is being executed.
pub(super) struct Execution {
    request: Request,
    stage: Stage,
    /// What the host has had of the buffer, and what it is to have.
    position: usize,
    length: usize,
    buffer: Box<[u8; SECTOR]>,
    terminal_count: bool,
    /// Sectors of [`Operation::ReadTrack`].
    done: u8,
    /// The side that ST0 tells.
    shown_head: u8,
    st0: u8,
    st1: u8,
    st2: u8,
    patience: u16,
    /// Where something was written.
    unsettled: Option<Arc<dyn Disk>>,
}

/// How it goes on.
pub(super) enum Next {
    /// A file is to be worked on; then [`Execution::complete`].
    Io(Io),
    /// The DMA channel was not ready.
    Later,
    /// The host moves bytes itself.
    Host,
    /// The result: ST0 to ST2, C, H, R, N.
    Done([u8; 7]),
}

/// Work on an image, which needs no lock.
pub(super) struct Io {
    kind: IoKind,
    disk: Arc<dyn Disk>,
    offset: u64,
    data: Box<[u8; SECTOR]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IoKind {
    Read,
    Write,
    Flush,
}

impl Io {
    /// Does it.
    pub fn perform(&mut self) -> Result<(), BlockError> {
        match self.kind {
            IoKind::Read => {
                // An image may be shorter than the disk that it is of.
                let there = self.disk.size().saturating_sub(self.offset).min(SECTOR as u64) as usize;
                self.data[there..].fill(0);
                self.disk.read(self.offset, &mut self.data[..there])
            }
            IoKind::Write => self.disk.write(self.offset, &self.data[..]),
            IoKind::Flush => self.disk.flush(),
        }
    }
}

impl Execution {
    pub fn new(request: Request) -> Self {
        Execution {
            request,
            stage: Stage::Locate,
            position: 0,
            length: 0,
            buffer: Box::new([0; SECTOR]),
            terminal_count: false,
            done: 0,
            shown_head: request.place.head,
            st0: if request.sought { status::ST0_SEEK_END } else { 0 },
            st1: 0,
            st2: 0,
            patience: PATIENCE,
            unsettled: None,
        }
    }

    /// The drive's number.
    pub fn unit(&self) -> u8 {
        self.request.unit
    }

    /// The side that is worked on.
    pub fn head(&self) -> u8 {
        self.request.place.head
    }

    /// The host moves data byte by byte.
    pub fn is_programmed(&self) -> bool {
        !self.request.dma
    }

    /// The host is to read the next byte (true), or to write it.
    pub fn host_reads(&self) -> Option<bool> {
        match self.stage {
            Stage::ToHost if !self.request.dma => Some(true),
            Stage::FromHost if !self.request.dma => Some(false),
            _ => None,
        }
    }

    /// The host reads a byte; only when [`Execution::host_reads`] says so.
    pub fn read_byte(&mut self) -> u8 {
        let byte = self.buffer.get(self.position).copied().unwrap_or(0);
        self.host_moved(Moved { bytes: 1, terminal_count: false });
        byte
    }

    /// The host writes a byte; only when [`Execution::host_reads`] says so.
    pub fn write_byte(&mut self, value: u8) {
        if let Some(byte) = self.buffer.get_mut(self.position) {
            *byte = value;
        }
        self.host_moved(Moved { bytes: 1, terminal_count: false });
    }

    /// Goes on until somebody else has to do something. `channel` is `None` while DRQ is switched off.
    pub fn proceed(&mut self, mut drive: Option<&mut Drive>, channel: Option<&DmaChannel>) -> Next {
        loop {
            match self.stage {
                Stage::Locate => {
                    let located = self.locate(drive.as_deref_mut());
                    if let Some(io) = located.unwrap_or_else(|missing| self.fail(missing.st1, missing.st2)) {
                        return Next::Io(io);
                    }
                }
                Stage::ToHost | Stage::FromHost if !self.request.dma => return Next::Host,
                Stage::ToHost | Stage::FromHost => {
                    let data = &mut self.buffer[self.position..self.length];
                    let moved = channel.map_or(Moved::default(), |channel| match self.stage {
                        Stage::ToHost => channel.to_memory(data),
                        _ => channel.from_memory(data),
                    });
                    if moved.bytes > 0 {
                        self.patience = PATIENCE;
                        self.host_moved(moved);
                    } else if self.patience > 0 {
                        self.patience -= 1;
                        return Next::Later;
                    } else {
                        self.fail(status::ST1_OVERRUN, 0);
                    }
                }
                Stage::Store => match self.store(drive.as_deref_mut()) {
                    Some(io) => return Next::Io(io),
                    None => self.stage = Stage::Settle,
                },
                Stage::Settle => match self.unsettled.take() {
                    Some(disk) => return Next::Io(self.io(IoKind::Flush, disk, 0)),
                    None => return Next::Done(self.result()),
                },
            }
        }
    }

    /// Takes back what [`Next::Io`] handed out.
    pub fn complete(&mut self, io: Io, outcome: Result<(), BlockError>) {
        self.buffer = io.data;
        match (io.kind, outcome) {
            (_, Err(_)) => _ = self.fail(status::ST1_DATA_ERROR, status::ST2_DATA_ERROR),
            (IoKind::Read, Ok(())) if self.request.operation == Operation::Verify => self.advance(),
            (IoKind::Read, Ok(())) => {
                if self.request.operation == Operation::ReadDeleted {
                    self.st2 |= status::ST2_CONTROL_MARK;
                }
                (self.stage, self.position, self.length) = (Stage::ToHost, 0, SECTOR);
            }
            (IoKind::Write, Ok(())) => {
                self.unsettled = Some(io.disk);
                self.advance();
            }
            (IoKind::Flush, Ok(())) => {}
        }
    }

    /// Ends with an error. The answer of whoever looks for work: there is none.
    fn fail(&mut self, st1: u8, st2: u8) -> Option<Io> {
        self.st0 |= status::ST0_ABNORMAL;
        self.st1 |= st1;
        self.st2 |= st2;
        self.stage = Stage::Settle;
        None
    }

    fn io(&mut self, kind: IoKind, disk: Arc<dyn Disk>, offset: u64) -> Io {
        Io { kind, disk, offset, data: std::mem::replace(&mut self.buffer, Box::new([0; SECTOR])) }
    }

    fn locate(&mut self, drive: Option<&mut Drive>) -> Result<Option<Io>, NotFound> {
        let drive = drive.ok_or(NotFound { st1: status::ST1_MISSING_ADDRESS_MARK, st2: 0 })?;
        let Request { operation, place, id, .. } = self.request;
        self.shown_head = place.head;
        match operation {
            Operation::ReadId => {
                self.request.id = drive.passing(place, self.request.last)?;
                self.stage = Stage::Settle;
            }
            Operation::Format => {
                drive.passing(place, 0)?;
                if drive.is_protected() {
                    return Ok(self.fail(status::ST1_NOT_WRITABLE, 0));
                }
                if self.request.count == Some(0) {
                    self.stage = Stage::Settle;
                } else {
                    self.want(FORMAT_ID);
                }
            }
            Operation::Write => {
                drive.passing(place, 0)?;
                if drive.is_protected() {
                    return Ok(self.fail(status::ST1_NOT_WRITABLE, 0));
                }
                drive.find(place, id)?;
                self.want(SECTOR);
            }
            Operation::ReadDeleted if self.request.skip => {
                // No sector of an image has the mark.
                drive.find(place, id)?;
                self.advance();
            }
            Operation::ReadTrack => {
                let passing = drive.passing(place, self.done)?;
                if passing != id {
                    self.st1 |= status::ST1_NO_DATA;
                }
                let (disk, offset) = drive.find(place, passing)?;
                return Ok(Some(self.io(IoKind::Read, disk, offset)));
            }
            Operation::Read | Operation::ReadDeleted | Operation::Verify => {
                let (disk, offset) = drive.find(place, id)?;
                return Ok(Some(self.io(IoKind::Read, disk, offset)));
            }
        }
        Ok(None)
    }

    /// Has the host fill the buffer.
    fn want(&mut self, length: usize) {
        self.buffer.fill(0);
        (self.stage, self.position, self.length) = (Stage::FromHost, 0, length);
    }

    /// Bytes went to the host, or came from it.
    fn host_moved(&mut self, moved: Moved) {
        self.position = (self.position + moved.bytes).min(self.length);
        self.terminal_count |= moved.terminal_count;
        if self.position == self.length || moved.terminal_count {
            match self.stage {
                Stage::ToHost => self.advance(),
                _ => self.stage = Stage::Store,
            }
        }
    }

    /// The work to write the buffer; `None` after a failure.
    fn store(&mut self, drive: Option<&mut Drive>) -> Option<Io> {
        let drive = drive?;
        let Request { operation, place, mut id, last, .. } = self.request;
        if operation == Operation::Format {
            let [cylinder, head, sector, size] = [0, 1, 2, 3].map(|index| self.buffer[index]);
            id = Id { cylinder, head, sector, size };
        }
        match drive.find(place, id) {
            Ok((disk, offset)) => {
                if operation == Operation::Format {
                    self.buffer.fill(last);
                }
                Some(self.io(IoKind::Write, disk, offset))
            }
            // An image keeps the tracks it has: no other can be put on it.
            Err(_) if operation == Operation::Format => {
                self.st0 |= status::ST0_EQUIPMENT_CHECK;
                self.fail(0, 0)
            }
            Err(missing) => self.fail(missing.st1, missing.st2),
        }
    }

    /// A sector is done: works out the next, and whether there is one.
    fn advance(&mut self) {
        let request = &mut self.request;
        let counted = request.count.as_mut().map(|count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
        self.stage = Stage::Settle;
        match request.operation {
            // Without the mark it looks for, the command does not go on to the next sector.
            Operation::ReadDeleted if !request.skip => return,
            Operation::Format => {
                if counted != Some(true) && !self.terminal_count {
                    self.stage = Stage::Locate;
                }
                return;
            }
            _ => {}
        }
        self.done = self.done.wrapping_add(1);
        let at_end = match request.operation {
            Operation::ReadTrack => self.done == request.last,
            _ => request.id.sector == request.last,
        };
        let mut beyond = at_end;
        request.id.sector = if at_end { 1 } else { request.id.sector.wrapping_add(1) };
        if at_end && request.multi_track {
            // Side 0 goes on on side 1; behind that comes the next cylinder.
            beyond = request.place.head == 1;
            request.place.head ^= 1;
            request.id.head ^= 1;
        }
        if beyond {
            request.id.cylinder = request.id.cylinder.wrapping_add(1);
        }
        match (self.terminal_count || counted == Some(true), beyond, request.operation) {
            (true, ..) | (_, true, Operation::Verify) => {}
            (_, true, _) => _ = self.fail(status::ST1_END_OF_CYLINDER, 0),
            (_, false, _) => self.stage = Stage::Locate,
        }
    }

    fn result(&self) -> [u8; 7] {
        let Id { cylinder, head, sector, size } = self.request.id;
        let st0 = self.st0 | self.shown_head << 2 | self.request.unit;
        [st0, self.st1, self.st2, cylinder, head, sector, size]
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let Request { operation, unit, place, multi_track, skip, dma, id, last, count, sought } = self.request;
        for byte in [operation as u8, unit, place.head, place.rate] {
            writer.u8(byte);
        }
        for flag in [place.mfm, multi_track, skip, dma, sought, self.terminal_count, self.unsettled.is_some()] {
            writer.u8(flag.into());
        }
        for byte in [id.cylinder, id.head, id.sector, id.size, last] {
            writer.u8(byte);
        }
        writer.blob(count.as_slice());
        for byte in [self.stage as u8, self.done, self.shown_head, self.st0, self.st1, self.st2] {
            writer.u8(byte);
        }
        [self.position as u16, self.length as u16, self.patience].into_iter().for_each(|value| writer.u16(value));
        writer.blob(&self.buffer[..]);
    }

    /// Reads what [`Execution::save`] wrote. `disk` is what is in a drive.
    pub fn load(reader: &mut StateReader, disk: impl FnOnce(u8) -> Option<Arc<dyn Disk>>) -> Result<Self, String> {
        let operation = *OPERATIONS
            .get(usize::from(reader.u8()?))
            .ok_or_else(|| reader.invalid("it executes a command that there is not"))?;
        let (unit, head, rate) = (reader.u8()? & 3, reader.u8()? & 1, reader.u8()? & 3);
        let place = Place { head, rate, mfm: reader.bool()? };
        let (multi_track, skip, dma, sought) = (reader.bool()?, reader.bool()?, reader.bool()?, reader.bool()?);
        let (terminal_count, unsettled) = (reader.bool()?, reader.bool()?);
        let id = Id { cylinder: reader.u8()?, head: reader.u8()?, sector: reader.u8()?, size: reader.u8()? };
        let last = reader.u8()?;
        let count = match *reader.blob()? {
            [] => None,
            [count] => Some(count),
            _ => return Err(reader.invalid("it counts sectors twice")),
        };
        let stage = *STAGES.get(usize::from(reader.u8()?)).ok_or_else(|| reader.invalid("its stage is unknown"))?;
        let (done, shown_head) = (reader.u8()?, reader.u8()? & 1);
        let (st0, st1, st2) = (reader.u8()? & 0xF8, reader.u8()?, reader.u8()?);
        let (position, length) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
        let patience = reader.u16()?.min(PATIENCE);
        let buffer = reader.blob()?.try_into().map_err(|_| reader.invalid("its buffer is not a sector"))?;
        let moving = matches!(stage, Stage::ToHost | Stage::FromHost);
        if length > SECTOR || position > length || moving && position == length {
            return Err(reader.invalid("it is beyond its buffer"));
        }
        let request = Request { operation, unit, place, multi_track, skip, dma, id, last, count, sought };
        Ok(Execution {
            stage,
            position,
            length,
            buffer: Box::new(buffer),
            terminal_count,
            done,
            shown_head,
            st0,
            st1,
            st2,
            patience,
            unsettled: disk(unit).filter(|_| unsettled),
            ..Execution::new(request)
        })
    }
}
