//! A drive: its head, the line that tells of an exchanged disk, and what is in it.

use super::format::{FloppyKind, Format, SECTOR_CODE};
use super::status;
use block::{Disk, Medium};
use std::sync::Arc;

/// A drive to be attached, and its slot.
#[derive(Clone)]
pub struct FloppyDrive {
    /// The kind of drive.
    pub kind: FloppyKind,
    /// What is in it, which can be exchanged.
    pub medium: Arc<Medium>,
}

/// A sector's address, as it stands in front of the sector and in commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Id {
    pub cylinder: u8,
    pub head: u8,
    pub sector: u8,
    /// 128 << this are the bytes of its data.
    pub size: u8,
}

/// What a command wants of a drive.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The side.
    pub head: u8,
    /// The data rate, as CCR has it.
    pub rate: u8,
    /// Double density: not FM.
    pub mfm: bool,
}

/// Bits of ST1 and ST2 that say why a sector was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotFound {
    pub st1: u8,
    pub st2: u8,
}

const NO_ADDRESS_MARK: NotFound = NotFound { st1: status::ST1_MISSING_ADDRESS_MARK, st2: 0 };

pub(super) struct Drive {
    attached: FloppyDrive,
    /// The cylinder that the head is at.
    position: u8,
    /// [`Medium::current`]'s count when the drive looked last.
    seen: u64,
    /// DSKCHG: the disk was exchanged, and the head has not stepped since.
    changed: bool,
}

impl Drive {
    /// A drive after power-on.
    pub fn new(attached: FloppyDrive) -> Self {
        let (seen, _) = attached.medium.current();
        Drive { attached, position: 0, seen, changed: true }
    }

    /// What is in the drive, if it is any disk of ours.
    fn disk(&mut self) -> Option<(Arc<dyn Disk>, &'static Format)> {
        let (changes, disk) = self.attached.medium.current();
        self.changed |= std::mem::replace(&mut self.seen, changes) != changes || disk.is_none();
        let disk = disk?;
        let format = Format::of(disk.size())?;
        Some((disk, format))
    }

    /// What is in the drive.
    pub fn content(&mut self) -> Option<Arc<dyn Disk>> {
        Some(self.disk()?.0)
    }

    /// DSKCHG.
    pub fn is_changed(&mut self) -> bool {
        self.disk();
        self.changed
    }

    pub fn at_track_0(&self) -> bool {
        self.position == 0
    }

    /// The position of the write-protect switch; protected without a disk.
    pub fn is_protected(&mut self) -> bool {
        self.disk().is_none_or(|(disk, _)| disk.readonly())
    }

    /// Steps towards a cylinder, as far as the head goes.
    pub fn step_to(&mut self, cylinder: u8) {
        let present = self.disk().is_some();
        let position = cylinder.min(self.attached.kind.last_cylinder());
        if std::mem::replace(&mut self.position, position) != position && present {
            self.changed = false;
        }
    }

    pub fn position(&self) -> u8 {
        self.position
    }

    /// The disk, its format and the cylinder under the head, where there is a track to read.
    fn track(&mut self, place: Place) -> Result<(Arc<dyn Disk>, &'static Format, u8), NotFound> {
        let kind = self.attached.kind;
        let (disk, format) = self.disk().ok_or(NO_ADDRESS_MARK)?;
        let cylinder = kind.cylinder(format, self.position).ok_or(NO_ADDRESS_MARK)?;
        let readable = place.mfm && place.head < format.heads && kind.reads(format, place.rate);
        if readable { Ok((disk, format, cylinder)) } else { Err(NO_ADDRESS_MARK) }
    }

    /// The disk and the place in it of the sector that `id` names.
    pub fn find(&mut self, place: Place, id: Id) -> Result<(Arc<dyn Disk>, u64), NotFound> {
        let (disk, format, cylinder) = self.track(place)?;
        let no_data = |st2| NotFound { st1: status::ST1_NO_DATA, st2 };
        if id.cylinder != cylinder {
            let bad = if id.cylinder == 0xFF { status::ST2_BAD_CYLINDER } else { 0 };
            return Err(no_data(status::ST2_WRONG_CYLINDER | bad));
        }
        if id.head != place.head || id.size != SECTOR_CODE {
            return Err(no_data(0));
        }
        let offset = format.offset(cylinder, place.head, id.sector).ok_or(no_data(0))?;
        Ok((disk, offset))
    }

    /// The address in front of the sector that comes `turn` sectors behind the first of the track.
    pub fn passing(&mut self, place: Place, turn: u8) -> Result<Id, NotFound> {
        let (_, format, cylinder) = self.track(place)?;
        let sector = turn % format.sectors + 1;
        Ok(Id { cylinder, head: place.head, sector, size: SECTOR_CODE })
    }

    /// For a saved state: the head's position and DSKCHG.
    pub fn mechanics(&self) -> (u8, bool) {
        (self.position, self.changed)
    }

    /// Takes what [`Drive::mechanics`] gave, or what claims to be.
    pub fn set_mechanics(&mut self, position: u8, changed: bool) {
        self.position = position.min(self.attached.kind.last_cylinder());
        self.changed = changed;
    }
}
