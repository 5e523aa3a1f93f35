use crate::checksum::{frame_check_sequence, sum};
use crate::filter::Pass;
use crate::offload;
use crate::register::{cause, ctrl, rctl, rxcsum};
use crate::statistics::counter;
use crate::worker::Shared;
use board::{StateReader, StateWriter};
use std::collections::VecDeque;

/// Bytes of the largest frame that is stored, with its frame check sequence: RCTL.LPE.
const MAX_LONG: usize = 16384;
/// The largest one without RCTL.LPE.
const MAX_SHORT: usize = 1522;
/// Bytes of a frame check sequence.
const FCS: usize = 4;
/// Frames on a cable are never shorter; what stands behind a card knows no padding.
const MIN_FRAME: usize = 60;
/// Room for the largest frame, and for one byte more, so that one that is too long is seen to be.
const BUFFER: usize = MAX_LONG + FCS;

/// Bits of the descriptor's status.
const STATUS_DD: u8 = 1 << 0;
const STATUS_EOP: u8 = 1 << 1;
const STATUS_VP: u8 = 1 << 3;
const STATUS_PIF: u8 = 1 << 7;

/// Frames that the transmitter sent to the receiver of its own card, as many as fit the packet buffer. They are not part
/// of a saved state: to a network's user they are lost.
#[derive(Default)]
pub(crate) struct Loopback {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Loopback {
    /// Bytes of the packet buffer.
    const ROOM: usize = 48 << 10;

    pub fn push(&mut self, frame: &[u8]) {
        if self.bytes + frame.len() <= Self::ROOM {
            self.bytes += frame.len();
            self.frames.push_back(frame.to_vec());
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

/// The receiver: owned by the I/O thread.
pub(crate) struct Receiver {
    /// A frame that is being stored, as it goes into descriptors' buffers.
    data: Box<[u8; BUFFER]>,
    /// Its bytes; 0: there is none.
    length: usize,
    /// How many of them are stored.
    stored: usize,
    /// Descriptors without a buffer that were passed since the last one with.
    skipped: u32,
    /// What its descriptors say.
    status: u8,
    errors: u8,
    checksum: u16,
    special: u16,
    pub loopback: Loopback,
}

impl Receiver {
    pub fn new() -> Self {
        Receiver {
            data: Box::new([0; BUFFER]),
            length: 0,
            stored: 0,
            skipped: 0,
            status: 0,
            errors: 0,
            checksum: 0,
            special: 0,
            loopback: Loopback::default(),
        }
    }

    /// Forgets a frame that was begun, and those that were looped back.
    pub fn abandon(&mut self) {
        self.length = 0;
        self.loopback = Loopback::default();
    }

    /// Whether a frame waits for descriptors.
    pub fn is_waiting(&self) -> bool {
        self.length != 0
    }

    /// Receives and stores, at most `budget` frames and descriptors together; true when there may be more.
    pub fn run(&mut self, shared: &Shared, mut budget: u32) -> bool {
        let mut causes = 0;
        let more = loop {
            if budget == 0 {
                break true;
            }
            budget -= 1;
            let outcome = if self.length == 0 { self.take(shared) } else { self.store(shared) };
            match outcome {
                Some(raised) => causes |= raised,
                None => break false,
            }
        };
        if causes != 0 {
            shared.registers.lock().raise(causes);
        }
        more
    }

    /// Takes the next frame, when there is one and a place for it.
    fn take(&mut self, shared: &Shared) -> Option<u32> {
        if !shared.registers.lock().can_receive() {
            return None;
        }
        let length = match self.loopback.pop() {
            Some(frame) => {
                self.data[..frame.len()].copy_from_slice(&frame);
                frame.len()
            }
            None => shared.backend.receive(&mut self.data[..]).filter(|length| *length != 0)?,
        };
        self.accept(shared, length.min(BUFFER));
        Some(0)
    }

    /// Decides on a frame whose `length` bytes lie in `data`; what is not received is forgotten.
    fn accept(&mut self, shared: &Shared, length: usize) {
        if length < MIN_FRAME {
            self.data[length..MIN_FRAME].fill(0);
        }
        let mut length = length.max(MIN_FRAME);
        let type_at_12 = u16::from_be_bytes([self.data[12], self.data[13]]);
        let tci = u16::from_be_bytes([self.data[14], self.data[15]]);
        let (control, vlan_mode, vlan_type, checks) = {
            let registers = &mut *shared.registers.lock();
            let limit = if registers.rctl & (rctl::LPE | rctl::SBP) != 0 { MAX_LONG } else { MAX_SHORT };
            if length + FCS > limit {
                return registers.statistics.count(counter::ROC);
            }
            let vlan = (type_at_12 == registers.vlan_type).then_some(tci);
            let Some(pass) = registers.filter.passes(registers.rctl, &self.data[..length], vlan) else { return };
            registers.statistics.received(&self.data[..length]);
            self.status = if pass == Pass::Inexact { STATUS_PIF } else { 0 };
            (registers.rctl, registers.ctrl & ctrl::VME != 0, registers.vlan_type, registers.rxcsum)
        };
        let sequence = (control & rctl::SECRC == 0).then(|| frame_check_sequence(&self.data[..length]));
        self.special = 0;
        if vlan_mode && type_at_12 == vlan_type {
            self.data.copy_within(16..length, 12);
            length -= 4;
            self.special = tci;
            self.status |= STATUS_VP;
        }
        let verdict = offload::check(&self.data[..length], checks, vlan_type);
        self.status |= verdict.status;
        self.errors = verdict.errors;
        if let Some(sequence) = sequence {
            self.data[length..length + FCS].copy_from_slice(&sequence.to_le_bytes());
            length += FCS;
        }
        self.checksum = self.data[..length].get((checks & rxcsum::PCSS) as usize..).map_or(0, sum);
        (self.length, self.stored, self.skipped) = (length, 0, 0);
    }

    /// Stores as much of the frame as the next descriptor's buffer takes, and gives the descriptor back.
    fn store(&mut self, shared: &Shared) -> Option<u32> {
        let (address, room, count) = {
            let registers = shared.registers.lock();
            if !registers.can_receive() {
                return None;
            }
            (registers.receive.next()?, registers.buffer_size(), registers.receive.count())
        };
        let mut buffer = [0; 8];
        shared.memory.read(address, &mut buffer).ok()?;
        let buffer = u64::from_le_bytes(buffer);
        let mut status = STATUS_DD;
        let mut errors = 0;
        let mut taken = 0;
        if buffer == 0 {
            self.skipped += 1;
        } else {
            let left = &self.data[self.stored..self.length];
            taken = left.len().min(room);
            // A buffer that is no RAM takes its bytes as a bus does that nobody answers on.
            let _ = shared.memory.write(buffer, &left[..taken]);
            let checksum = if self.stored == 0 { self.checksum } else { 0 };
            self.skipped = 0;
            self.stored += taken;
            if self.stored == self.length {
                status |= STATUS_EOP | self.status;
                errors = self.errors;
            }
            let [a, b] = (taken as u16).to_le_bytes();
            let [c, d] = checksum.to_le_bytes();
            let _ = shared.memory.write(address + 8, &[a, b, c, d]);
            let _ = shared.memory.write(address + 14, &self.special.to_le_bytes());
        }
        // The status is last: a driver that sees DD may look at all of it.
        let _ = shared.memory.store_u16(address + 12, u16::from_le_bytes([status, errors]));
        let registers = &mut *shared.registers.lock();
        registers.receive.advance();
        let mut causes = 0;
        if self.stored == self.length {
            self.length = 0;
            causes |= cause::RXT0;
        } else if taken == 0 && self.skipped >= count {
            // A ring without a single buffer.
            self.length = 0;
        }
        let threshold = registers.receive.count() >> (1 + (registers.rctl >> rctl::RDMTS_SHIFT & 3));
        if registers.receive.available() <= threshold {
            causes |= cause::RXDMT0;
        }
        Some(causes)
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.blob(&self.data[..self.length]);
        writer.u16(self.stored as u16);
        writer.u8(self.status);
        writer.u8(self.errors);
        writer.u16(self.checksum);
        writer.u16(self.special);
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let mut receiver = Receiver::new();
        let data = reader.blob()?;
        let Some(room) = receiver.data.get_mut(..data.len()) else {
            return Err(reader.invalid("a frame that is longer than one can be"));
        };
        room.copy_from_slice(data);
        receiver.length = data.len();
        receiver.stored = usize::from(reader.u16()?);
        receiver.status = reader.u8()?;
        receiver.errors = reader.u8()?;
        receiver.checksum = reader.u16()?;
        receiver.special = reader.u16()?;
        if receiver.length != 0 && receiver.stored >= receiver.length {
            return Err(reader.invalid("a frame of which more was stored than there is"));
        }
        Ok(receiver)
    }
}
