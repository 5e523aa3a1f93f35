//! The command interface of the flash: what a write begins and what reads show. The cells are somebody else's.

use crate::{StateReader, StateWriter};

/// Bytes that are erased together.
pub(super) const BLOCK: u64 = 4096;
/// Bytes that one Write to Buffer programs at most, and its exponent of 2.
const BUFFER: usize = 1 << BUFFER_SHIFT;
const BUFFER_SHIFT: u8 = 8;

/// Commands. Intel 28F400BL data sheet, table 4; Write to Buffer and Read Query: Intel AP-646.
mod command {
    pub const PROGRAM_ALTERNATE: u8 = 0x10;
    pub const ERASE: u8 = 0x20;
    pub const PROGRAM: u8 = 0x40;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_IDENTIFIER: u8 = 0x90;
    pub const READ_QUERY: u8 = 0x98;
    pub const CONFIRM: u8 = 0xD0;
    pub const WRITE_TO_BUFFER: u8 = 0xE8;
    pub const READ_ARRAY: u8 = 0xFF;
}

/// Status register.
const READY: u8 = 1 << 7;
const ERASE_ERROR: u8 = 1 << 5;
const PROGRAM_ERROR: u8 = 1 << 4;
/// Both together: commands in a wrong order.
const SEQUENCE_ERROR: u8 = ERASE_ERROR | PROGRAM_ERROR;

/// Manufacturer (Intel) and device (28F320, an 8-bit part with the basic command set).
const IDENTIFIER: [u8; 2] = [0x89, 0x16];
/// Bytes of the query table.
const QUERY: usize = 0x40;

/// What reads show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    Array,
    Status,
    Identifier,
    Query,
}

/// What the next write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Command,
    /// The byte to program.
    Program,
    /// The confirmation of an erase.
    Erase,
    /// How many bytes for the buffer, less one.
    Count,
    /// A byte for the buffer.
    Data,
    /// The confirmation of a Write to Buffer.
    Confirm,
}

/// Something to be done to the cells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    /// Clear the bits that are 0 in these bytes (offset, byte), all of one block.
    Program(&'a [(u64, u8)]),
    /// Set all bits of the block that begins there.
    Erase(u64),
}

/// The state of the command interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chip {
    reads: Reads,
    step: Step,
    status: u8,
    /// Bytes that the buffer waits for, and those it has.
    count: usize,
    buffer: Vec<(u64, u8)>,
    query: [u8; QUERY],
}

impl Chip {
    /// The interface of a flash of `size` bytes, as after power-on.
    pub(super) fn new(size: u64) -> Self {
        Chip {
            reads: Reads::Array,
            step: Step::Command,
            status: READY,
            count: 0,
            buffer: Vec::new(),
            query: query_table(size),
        }
    }

    pub(super) fn reads(&self) -> Reads {
        self.reads
    }

    /// Back to the state after power-on.
    pub(super) fn reset(&mut self) {
        (self.reads, self.step, self.status) = (Reads::Array, Step::Command, READY);
        self.buffer.clear();
    }

    /// What a read of the byte at `offset` shows, but for the array.
    pub(super) fn answer(&self, offset: u64) -> u8 {
        let low = usize::from(offset as u8);
        match self.reads {
            Reads::Array | Reads::Status => self.status,
            // From offset 2 on in each block: not locked.
            Reads::Identifier => IDENTIFIER.get(low).copied().unwrap_or(0),
            Reads::Query => self.query.get(low).copied().unwrap_or(0),
        }
    }

    /// Takes a write of one byte. `operate` does what follows to the cells; false: it failed.
    pub(super) fn write(&mut self, offset: u64, value: u8, operate: &mut dyn FnMut(Operation<'_>) -> bool) {
        match std::mem::replace(&mut self.step, Step::Command) {
            Step::Command => self.command(value),
            Step::Program => {
                let done = operate(Operation::Program(&[(offset, value)]));
                self.finish(done, PROGRAM_ERROR);
            }
            Step::Erase if value == command::CONFIRM => {
                let done = operate(Operation::Erase(offset & !(BLOCK - 1)));
                self.finish(done, ERASE_ERROR);
            }
            Step::Erase if value == command::READ_ARRAY => self.reads = Reads::Array,
            Step::Count => {
                self.count = usize::from(value) + 1;
                self.buffer.clear();
                self.step = Step::Data;
            }
            Step::Data => {
                self.buffer.push((offset, value));
                let (first, _) = self.buffer[0];
                if first / BLOCK != offset / BLOCK {
                    self.finish(false, SEQUENCE_ERROR);
                } else if self.buffer.len() < self.count {
                    self.step = Step::Data;
                } else {
                    self.step = Step::Confirm;
                }
            }
            Step::Confirm if value == command::CONFIRM => {
                let done = operate(Operation::Program(&self.buffer));
                self.finish(done, PROGRAM_ERROR);
            }
            Step::Erase | Step::Confirm => self.finish(false, SEQUENCE_ERROR),
        }
    }

    fn command(&mut self, value: u8) {
        let (reads, step) = match value {
            command::PROGRAM | command::PROGRAM_ALTERNATE => (Reads::Status, Step::Program),
            command::ERASE => (Reads::Status, Step::Erase),
            command::WRITE_TO_BUFFER => {
                // What is read next is whether there is a buffer.
                self.status |= READY;
                (Reads::Status, Step::Count)
            }
            command::CLEAR_STATUS => {
                // Chips go on showing READY. OVMF knows flash from ROM and RAM by a status of zero.
                self.status = 0;
                (Reads::Array, Step::Command)
            }
            command::READ_STATUS => (Reads::Status, Step::Command),
            command::READ_IDENTIFIER => (Reads::Identifier, Step::Command),
            command::READ_QUERY => (Reads::Query, Step::Command),
            // Resumes what was suspended: nothing ever is.
            command::CONFIRM => (self.reads, Step::Command),
            // Read Array, and commands that this chip does not have.
            _ => (Reads::Array, Step::Command),
        };
        (self.reads, self.step) = (reads, step);
    }

    /// An operation has ended; reads show the status.
    fn finish(&mut self, done: bool, error: u8) {
        self.buffer.clear();
        self.status |= READY | if done { 0 } else { error };
    }

    pub(super) fn save(&self, writer: &mut StateWriter) {
        writer.u8(self.reads as u8);
        writer.u8(self.step as u8);
        writer.u8(self.status);
        writer.u16(self.count as u16);
        writer.u16(self.buffer.len() as u16);
        for &(offset, byte) in &self.buffer {
            writer.u64(offset);
            writer.u8(byte);
        }
    }

    /// What [`Chip::save`] gave, for a flash of `size` bytes.
    pub(super) fn load(reader: &mut StateReader<'_>, size: u64) -> Result<Self, String> {
        let mut chip = Chip::new(size);
        let all_reads = [Reads::Array, Reads::Status, Reads::Identifier, Reads::Query];
        let steps = [Step::Command, Step::Program, Step::Erase, Step::Count, Step::Data, Step::Confirm];
        let (reads, step) = (usize::from(reader.u8()?), usize::from(reader.u8()?));
        chip.reads = *all_reads.get(reads).ok_or_else(|| reader.invalid("no such mode"))?;
        chip.step = *steps.get(step).ok_or_else(|| reader.invalid("no such step"))?;
        chip.status = reader.u8()? & (READY | SEQUENCE_ERROR);
        chip.count = usize::from(reader.u16()?);
        let length = usize::from(reader.u16()?);
        let fits = match chip.step {
            Step::Data => length < chip.count,
            Step::Confirm => length != 0 && length == chip.count,
            _ => length == 0,
        };
        if !fits || chip.count > BUFFER {
            return Err(reader.invalid(&format!("{length} of {} bytes in the buffer", chip.count)));
        }
        for _ in 0..length {
            let (offset, byte) = (reader.u64()?, reader.u8()?);
            let first = chip.buffer.first().map_or(offset, |&(first, _)| first);
            if offset >= size || first / BLOCK != offset / BLOCK {
                return Err(reader.invalid("its buffer is for several blocks"));
            }
            chip.buffer.push((offset, byte));
        }
        Ok(chip)
    }
}

/// The answers to Read Query. JEDEC JESD68.01; Intel AP-646.
fn query_table(size: u64) -> [u8; QUERY] {
    let mut table = [0; QUERY];
    let blocks = ((size / BLOCK).saturating_sub(1) as u16).to_le_bytes();
    let units = ((BLOCK / 256) as u16).to_le_bytes();
    let parts: [(usize, &[u8]); 6] = [
        // The Intel basic and extended command set, with its table at 0x31; no alternative one.
        (0x10, b"QRY\x01\x00\x31\x00\x00\x00\x00\x00"),
        // 4.5 to 5.5 V, no VPP; typical times 2^n: us for a byte and a buffer, ms for a block; none for the chip. Longest
        // times: 2^n times those.
        (0x1B, &[0x45, 0x55, 0, 0, 7, 7, 10, 0, 4, 4, 4, 0]),
        // 2^n bytes hold the device; an 8-bit interface.
        (0x27, &[size.next_power_of_two().trailing_zeros() as u8, 0, 0, BUFFER_SHIFT, 0]),
        // One region of equal blocks: how many less one, and their size in units of 256 bytes.
        (0x2C, &[1, blocks[0], blocks[1], units[0], units[1]]),
        // Version 1.0 of the extended table: no suspending, no locks.
        (0x31, b"PRI10"),
        (0x3F, &[0]),
    ];
    for (at, bytes) in parts {
        table[at..at + bytes.len()].copy_from_slice(bytes);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes and collects what is to be done to the cells.
    fn run(chip: &mut Chip, done: bool, writes: &[(u64, u8)]) -> Vec<String> {
        let mut log = Vec::new();
        for &(offset, value) in writes {
            chip.write(offset, value, &mut |operation| {
                log.push(format!("{operation:x?}"));
                done
            });
        }
        log
    }

    #[test]
    fn bytes_are_programmed_until_array_mode_returns() {
        let mut chip = Chip::new(0x8000);
        let log = run(&mut chip, true, &[(0x1234, 0x10), (0x1234, 0xAB), (0x1235, 0x40), (0x1235, 0xFF)]);
        assert_eq!(log, ["Program([(1234, ab)])", "Program([(1235, ff)])"]);
        assert_eq!((chip.reads(), chip.answer(0)), (Reads::Status, 0x80));
        run(&mut chip, true, &[(0, 0xFF)]);
        assert_eq!(chip.reads(), Reads::Array);
    }

    #[test]
    fn an_erase_wants_its_confirmation() {
        let mut chip = Chip::new(0x8000);
        assert_eq!(run(&mut chip, true, &[(0, 0x20), (0x1FFF, 0xD0)]), ["Erase(1000)"]);
        assert_eq!(chip.answer(0), 0x80);
        assert!(run(&mut chip, true, &[(0, 0x20), (0, 0x12)]).is_empty());
        assert_eq!(chip.answer(0), 0xB0, "a sequence error");
        assert!(run(&mut chip, true, &[(0, 0x20), (0, 0xFF)]).is_empty());
        assert_eq!(chip.reads(), Reads::Array);
        // A confirmation of nothing.
        assert!(run(&mut chip, true, &[(0, 0xD0)]).is_empty());
        assert_eq!(chip.reads(), Reads::Array);
    }

    #[test]
    fn a_buffer_is_programmed_when_it_is_full_and_confirmed() {
        let mut chip = Chip::new(0x8000);
        run(&mut chip, true, &[(0x2000, 0xE8)]);
        assert_eq!(chip.answer(0), 0x80, "there is a buffer");
        let log = run(&mut chip, true, &[(0x2000, 2), (0x2010, 0x11), (0x2011, 0x22), (0x2012, 0x33), (0x2000, 0xD0)]);
        assert_eq!(log, ["Program([(2010, 11), (2011, 22), (2012, 33)])"]);
        assert!(run(&mut chip, true, &[(0, 0xE8), (0, 0), (0, 1), (0, 0xFF)]).is_empty(), "not confirmed");
        assert_eq!(chip.answer(0), 0xB0);
        run(&mut chip, true, &[(0, 0x50)]);
        assert!(run(&mut chip, true, &[(0, 0xE8), (0, 3), (0xFFF, 1), (0x1000, 1)]).is_empty(), "two blocks");
        assert_eq!(chip.answer(0), 0xB0);
        let most: Vec<_> = (0..256).map(|at| (at, at as u8)).collect();
        assert!(run(&mut chip, true, &[(0, 0xE8), (0, 0xFF)]).is_empty());
        assert!(run(&mut chip, true, &most).is_empty());
        assert_eq!(run(&mut chip, true, &[(0, 0xD0)]).len(), 1);
    }

    #[test]
    fn failures_stay_in_the_status_until_it_is_cleared() {
        let mut chip = Chip::new(0x8000);
        assert_eq!(run(&mut chip, false, &[(0, 0x10), (0, 0)]).len(), 1);
        assert_eq!(chip.answer(0), 0x90);
        run(&mut chip, false, &[(0, 0x20), (0, 0xD0), (0, 0x70)]);
        assert_eq!(chip.answer(0), 0xB0);
        run(&mut chip, true, &[(0, 0x50), (0, 0x70)]);
        assert_eq!(chip.answer(0), 0, "by which OVMF knows flash");
    }

    #[test]
    fn identifier_and_query_describe_the_chip() {
        let mut chip = Chip::new(0x8_4000);
        run(&mut chip, true, &[(0x55, 0x98)]);
        let query: Vec<u8> = (0..0x40).map(|offset| chip.answer(offset)).collect();
        assert_eq!(&query[0x10..0x17], b"QRY\x01\x00\x31\x00");
        assert_eq!(&query[0x27..0x31], [20, 0, 0, 8, 0, 1, 0x83, 0, 0x10, 0]);
        assert_eq!(&query[0x31..0x36], b"PRI10");
        run(&mut chip, true, &[(0, 0x90)]);
        assert_eq!([chip.answer(0), chip.answer(1), chip.answer(2)], [0x89, 0x16, 0]);
        run(&mut chip, true, &[(0, 0xF0)]);
        assert_eq!(chip.reads(), Reads::Array);
    }
}
