//! What of a block the host is given.

use crate::transfer::SECTOR;
use scsi::{CD_BLOCK, CdParts};

/// The form in which blocks go to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A disk's sector.
    Sector,
    /// A CD's block: these parts of it.
    Cd(CdParts),
}

impl Format {
    /// Bytes that the host gets of each block.
    pub fn size(self) -> usize {
        match self {
            Format::Sector => SECTOR as usize,
            Format::Cd(parts) => parts.size(),
        }
    }

    /// Bytes that a block has on the medium.
    pub fn medium_size(self) -> u64 {
        match self {
            Format::Sector => SECTOR,
            Format::Cd(_) => CD_BLOCK,
        }
    }

    /// Whether the host gets just what is on the medium.
    pub fn is_plain(self) -> bool {
        matches!(self, Format::Sector | Format::Cd(CdParts::DATA))
    }

    pub fn to_bits(self) -> u8 {
        match self {
            Format::Sector => 0,
            Format::Cd(parts) => parts.bits(),
        }
    }

    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Format::Sector),
            _ => CdParts::asked(bits).filter(|parts| parts.bits() == bits).map(Format::Cd),
        }
    }
}
