//! The commands. 82078 data sheet, section 5 ("Command set").

/// A command, without the bits of its first byte that are options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    ReadData,
    ReadDeleted,
    WriteData,
    WriteDeleted,
    ReadTrack,
    Verify,
    FormatTrack,
    ReadId,
    Recalibrate,
    SenseInterrupt,
    Specify,
    SenseDrive,
    Seek,
    RelativeSeek,
    Version,
    DumpRegisters,
    Perpendicular,
    Configure,
    Lock,
    PartId,
}

/// Options in the first byte.
pub(super) const MULTI_TRACK: u8 = 1 << 7;
pub(super) const MFM: u8 = 1 << 6;
pub(super) const SKIP: u8 = 1 << 5;
/// Of [`Command::RelativeSeek`]: towards the spindle.
pub(super) const INWARDS: u8 = 1 << 6;
/// Of [`Command::Lock`].
pub(super) const LOCK: u8 = 1 << 7;

/// Bytes of the longest command.
pub(super) const LONGEST: usize = 9;

impl Command {
    /// The command that a first byte begins, and how many bytes it has; `None` for those that there are not.
    pub fn decode(first: u8) -> Option<(Self, usize)> {
        Some(match (first & 0x1F, first & 0xE0) {
            (0x06, _) => (Command::ReadData, 9),
            (0x0C, _) => (Command::ReadDeleted, 9),
            (0x05, 0x00 | 0x40 | 0x80 | 0xC0) => (Command::WriteData, 9),
            (0x09, 0x00 | 0x40 | 0x80 | 0xC0) => (Command::WriteDeleted, 9),
            (0x02, 0x00 | 0x40) => (Command::ReadTrack, 9),
            (0x16, _) => (Command::Verify, 9),
            (0x0D, 0x00 | 0x40) => (Command::FormatTrack, 6),
            (0x0A, 0x00 | 0x40) => (Command::ReadId, 2),
            (0x07, 0x00) => (Command::Recalibrate, 2),
            (0x08, 0x00) => (Command::SenseInterrupt, 1),
            (0x03, 0x00) => (Command::Specify, 3),
            (0x04, 0x00) => (Command::SenseDrive, 2),
            (0x0F, 0x00) => (Command::Seek, 3),
            (0x0F, 0x80 | 0xC0) => (Command::RelativeSeek, 3),
            (0x10, 0x00) => (Command::Version, 1),
            (0x0E, 0x00) => (Command::DumpRegisters, 1),
            (0x12, 0x00) => (Command::Perpendicular, 2),
            (0x13, 0x00) => (Command::Configure, 4),
            (0x14, 0x00 | 0x80) => (Command::Lock, 1),
            (0x18, 0x00) => (Command::PartId, 1),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_is_longer_than_the_longest() {
        let lengths = (0..=255).filter_map(Command::decode).map(|(_, length)| length);
        assert_eq!((lengths.clone().min(), lengths.max()), (Some(1), Some(LONGEST)));
        // Scanning, saving, and those of other controllers.
        for first in [0x11, 0x19, 0x1D, 0x2E, 0x4E, 0x8E, 0x17, 0x33, 0xCD, 0x00, 0xFF] {
            assert_eq!(Command::decode(first), None);
        }
    }
}
