//! A disk: a direct-access block device of SBC-3 (T10/BSR INCITS 514) with thin provisioning.

mod commands;
mod pages;
mod provisioning;

use crate::target::{report_luns, request_sense};
use crate::unit::Span;
use crate::{Cdb, DeviceType, Identity, Interface, LogicalUnit, Sense, Work, mode};
use block::Disk;
use board::{StateReader, StateWriter};
use std::sync::Arc;

/// Bytes of a logical block.
pub const BLOCK_SIZE: u32 = 512;
/// Blocks of a physical block, 4 KiB, as a power of two: what page caches of hosts and guests like.
const PHYSICAL_EXPONENT: u8 = 3;
/// The most blocks that a command transfers or verifies, 32 MiB.
const MAX_TRANSFER: u32 = 1 << 16;
/// Bytes that are read or written at once where no initiator is concerned.
const PIECE: usize = 64 << 10;

/// A disk with blocks of 512 bytes.
pub struct DirectAccess {
    identity: Identity,
    disk: Arc<dyn Disk>,
    /// Positive.
    blocks: u64,
    /// Writes may end before they are durable.
    write_cache: bool,
    /// It was stopped, and does nothing to its medium until it is started.
    stopped: bool,
    /// Unit attentions that the initiator has not heard of.
    was_reset: bool,
    was_resized: bool,
}

impl DirectAccess {
    /// Shows `disk`, one that is read-only as such. What is behind its last whole block of 512 bytes cannot be seen.
    ///
    /// # Errors
    /// One sentence when there is not one whole block.
    pub fn new(disk: Arc<dyn Disk>, serial: String) -> Result<Self, String> {
        let blocks = blocks_of(&*disk)?;
        let identity = Identity { serial, interface: Interface::Scsi };
        Ok(DirectAccess {
            identity,
            disk,
            blocks,
            write_cache: true,
            stopped: false,
            was_reset: true,
            was_resized: false,
        })
    }

    /// The unit attention that comes next.
    fn attention(&mut self) -> Sense {
        if std::mem::take(&mut self.was_reset) {
            // A host that hears of the reset asks for everything anew.
            self.was_resized = false;
            return Sense::RESET;
        }
        if std::mem::take(&mut self.was_resized) { Sense::CAPACITY_CHANGED } else { Sense::NONE }
    }

    fn inquiry(&self, cdb: &Cdb) -> Result<Work, Sense> {
        let more = pages::vital(self.disk.readonly());
        self.identity.inquiry(cdb, DeviceType::DirectAccess, b"Wirt disk       ", &more)
    }

    fn ready(&self) -> Result<(), Sense> {
        if self.stopped { Err(Sense::STOPPED) } else { Ok(()) }
    }

    fn writable(&self) -> Result<(), Sense> {
        self.ready()?;
        if self.disk.readonly() { Err(Sense::WRITE_PROTECTED) } else { Ok(()) }
    }

    /// Checks that blocks are on the disk.
    fn check(&self, first: u64, count: u64) -> Result<(), Sense> {
        match first.checked_add(count) {
            Some(end) if end <= self.blocks => Ok(()),
            _ => Err(Sense::OUT_OF_RANGE),
        }
    }

    /// The blocks that a command wants to have moved or verified; `None` where there are none.
    fn span(&self, cdb: &Cdb) -> Result<Option<Span>, Sense> {
        let (first, count) = match (cdb.operation(), cdb.blocks()) {
            // READ(6) and WRITE(6) move at least one.
            (0x08 | 0x0A, (first, 0)) => (first, 256),
            (_, blocks) => blocks,
        };
        self.check(first, count.into())?;
        if count > MAX_TRANSFER {
            return Err(Sense::INVALID_FIELD);
        }
        Ok((count > 0).then_some(Span { first, count, block: BLOCK_SIZE }))
    }

    fn flush(&self) -> Result<(), Sense> {
        self.disk.flush().map_err(Sense::of_write)
    }

    /// Makes what was written durable, unless the initiator does that when it wants to.
    fn settle(&self) -> Result<(), Sense> {
        if self.write_cache { Ok(()) } else { self.flush() }
    }
}

fn blocks_of(disk: &dyn Disk) -> Result<u64, String> {
    match disk.size() / u64::from(BLOCK_SIZE) {
        0 => Err(format!("a SCSI disk needs at least {BLOCK_SIZE} bytes, this one has {}", disk.size())),
        blocks => Ok(blocks),
    }
}

impl LogicalUnit for DirectAccess {
    fn device_type(&self) -> DeviceType {
        DeviceType::DirectAccess
    }

    fn identity(&mut self) -> &mut Identity {
        &mut self.identity
    }

    fn command(&mut self, cdb: &Cdb, before: Sense) -> Result<Work, Sense> {
        // NACA: there is no auto contingent allegiance.
        if cdb.control() & 1 << 2 != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        // What tells about the unit is told in spite of an attention. SAM-5, section 5.14.
        match cdb.operation() {
            0x03 => {
                let sense = if before == Sense::NONE { self.attention() } else { before };
                return request_sense(cdb, sense);
            }
            0x12 => return self.inquiry(cdb),
            0xA0 => return report_luns(cdb),
            _ => {}
        }
        match self.attention() {
            Sense::NONE => self.execute(cdb),
            attention => Err(attention),
        }
    }

    fn take(&mut self, cdb: &Cdb, list: &[u8]) -> Result<(), Sense> {
        match cdb.operation() {
            // MODE SELECT(6) and (10).
            0x15 | 0x55 => {
                let changes =
                    mode::select(cdb, list, pages::descriptor(self.blocks), &pages::modes(&self.caching_page()))?;
                match changes.iter().rev().find_map(|change| pages::write_cache(*change)) {
                    Some(false) if self.write_cache => {
                        self.flush()?;
                        self.write_cache = false;
                    }
                    Some(on) => self.write_cache = on,
                    None => {}
                }
                Ok(())
            }
            // UNMAP.
            0x42 => self.unmap(list),
            // WRITE SAME(10) and (16).
            0x41 | 0x93 => self.write_same(cdb, list),
            _ => Err(Sense::INVALID_OPERATION),
        }
    }

    fn medium(&self) -> Option<Arc<dyn Disk>> {
        Some(self.disk.clone())
    }

    fn resize(&mut self, disk: Arc<dyn Disk>) -> Result<(), String> {
        self.blocks = blocks_of(&*disk)?;
        self.disk = disk;
        self.was_resized = true;
        Ok(())
    }

    fn reset(&mut self) {
        (self.write_cache, self.stopped) = (true, false);
        (self.was_reset, self.was_resized) = (true, false);
    }

    fn save(&self, writer: &mut StateWriter) {
        writer.u64(self.blocks);
        for flag in [self.write_cache, self.stopped, self.was_reset, self.was_resized] {
            writer.u8(flag.into());
        }
    }

    fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        if reader.u64()? != self.blocks {
            return Err(reader.invalid("a disk was of another size"));
        }
        (self.write_cache, self.stopped) = (reader.bool()?, reader.bool()?);
        (self.was_reset, self.was_resized) = (reader.bool()?, reader.bool()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
