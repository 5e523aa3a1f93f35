use crate::cdrom::{CD_BLOCK, CdParts};
use crate::{Cdb, Identity, Sense};
use block::{BlockError, Disk, Medium};
use board::{StateReader, StateWriter};
use std::sync::Arc;

/// The most bytes of a parameter list.
pub const MAX_PARAMETERS: usize = 0xFFFF;

/// Peripheral device types. SPC-4, section 6.6.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeviceType {
    /// A disk.
    DirectAccess = 0x00,
    /// A CD or DVD drive.
    MultiMedia = 0x05,
}

/// Blocks of a medium, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first one.
    pub first: u64,
    /// How many, at least one.
    pub count: u32,
    /// Bytes of one.
    pub block: u32,
}

impl Span {
    /// Where on the disk they begin, in bytes. On a medium, as units check, it is exact.
    pub fn offset(self) -> u64 {
        self.first.saturating_mul(self.block.into())
    }

    /// Their bytes.
    pub fn size(self) -> u64 {
        u64::from(self.count) * u64::from(self.block)
    }
}

/// What a command leads to when nothing is wrong. Spans are on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// It is done, without data.
    Done,
    /// It is done: these bytes are for the initiator, no more than it has allocated.
    Answer(Vec<u8>),
    /// The initiator is to give so many bytes, 1 to [`MAX_PARAMETERS`], to [`LogicalUnit::take`].
    Parameters(usize),
    /// The initiator gets blocks as they are.
    Read(Span),
    /// The initiator gets these parts of a CD's blocks, by [`read_parts`].
    ReadParts(CdParts, Span),
    /// The initiator gives blocks to be written.
    Write {
        /// Which.
        span: Span,
        /// They are on the disk before the command ends.
        durable: bool,
    },
    /// The initiator gives blocks to be compared with those on the medium: [`Sense::MISCOMPARE`] where they differ.
    Compare(Span),
}

impl Work {
    /// An answer of which the initiator takes at most `limit` bytes.
    pub(crate) fn answer(mut data: Vec<u8>, limit: usize) -> Result<Work, Sense> {
        data.truncate(limit);
        Ok(Work::Answer(data))
    }
}

/// A SCSI logical unit.
///
/// Commands come one at a time, from a thread that may wait for files. Work on the medium that needs nothing of the
/// initiator is done by [`LogicalUnit::command`] itself, and bounded.
pub trait LogicalUnit: Send {
    /// Its type.
    fn device_type(&self) -> DeviceType;

    /// What it tells about itself.
    fn identity(&mut self) -> &mut Identity;

    /// Looks at a command; `before` is what REQUEST SENSE shall tell: why the last one failed, if the initiator has not
    /// been told.
    ///
    /// # Errors
    /// Why the command fails.
    fn command(&mut self, cdb: &Cdb, before: Sense) -> Result<Work, Sense>;

    /// Takes the parameter list that the command asked for, which ends it.
    ///
    /// # Errors
    /// Why the command fails.
    fn take(&mut self, _cdb: &Cdb, _list: &[u8]) -> Result<(), Sense> {
        Err(Sense::INVALID_OPERATION)
    }

    /// What the last command is to be carried out on; `None` when that is not there any more.
    fn medium(&self) -> Option<Arc<dyn Disk>>;

    /// Its slot, where the medium can be exchanged.
    fn slot(&self) -> Option<&Arc<Medium>> {
        None
    }

    /// Exchanges the disk for one of another size with the same content at its beginning, and lets the initiator know.
    ///
    /// # Errors
    /// One sentence when this unit has no such disk, or the new one is of no use.
    fn resize(&mut self, disk: Arc<dyn Disk>) -> Result<(), String>;

    /// The state after power-on. What the host did to its medium is no news then.
    fn power_on(&mut self) {
        self.reset();
    }

    /// The state after a reset: settings are the defaults.
    fn reset(&mut self);

    /// Appends the state.
    fn save(&self, writer: &mut StateWriter);

    /// Takes what [`LogicalUnit::save`] wrote.
    ///
    /// # Errors
    /// One sentence when it is damaged; the unit is then to be reset.
    fn load(&mut self, reader: &mut StateReader) -> Result<(), String>;
}

/// Fills `out`, which has room for whole blocks, with `parts` of those from `first` on.
///
/// # Errors
/// The block that could not be read, and why.
pub fn read_parts(disk: &dyn Disk, parts: CdParts, first: u64, out: &mut [u8]) -> Result<(), (u64, BlockError)> {
    let mut user = [0; CD_BLOCK as usize];
    for (lba, block) in (first..).zip(out.chunks_exact_mut(parts.size())) {
        let offset = lba.checked_mul(CD_BLOCK).ok_or((lba, BlockError::BeyondEnd))?;
        disk.read(offset, &mut user).map_err(|error| (lba, error))?;
        parts.wrap(lba, &user, block);
    }
    Ok(())
}
