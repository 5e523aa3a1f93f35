//! A block of a CD in mode 1, and its address in time.

/// Bytes of user data in a CD's block of mode 1.
pub const CD_BLOCK: u64 = 2048;
/// Blocks before the first one of the program area, 2 s.
const PREGAP: u64 = 150;
const BLOCKS_PER_SECOND: u64 = 75;

const SYNC: [u8; 12] = [0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0];
/// Bytes of error detection and correction codes.
const CODES: usize = 288;

/// Parts of a block in mode 1. MMC-3, section 4.2.3.3; the bits are those of READ CD's byte 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CdParts(u8);

impl CdParts {
    const SYNC: u8 = 1 << 7;
    /// In any combination with the subheader, which mode 1 has not.
    const HEADER: u8 = 1 << 5;
    const USER: u8 = 1 << 4;
    const CODES: u8 = 1 << 3;
    const ALL: u8 = Self::SYNC | Self::HEADER | Self::USER | Self::CODES;

    /// The user data alone: what is on the medium.
    pub const DATA: CdParts = CdParts(Self::USER);

    /// What READ CD's byte 9 asks for. `None`: nothing.
    pub fn asked(byte: u8) -> Option<Self> {
        let parts = byte & Self::ALL;
        (parts != 0).then_some(CdParts(parts))
    }

    /// The bits that [`CdParts::asked`] takes.
    pub fn bits(self) -> u8 {
        self.0
    }

    fn has(self, part: u8) -> bool {
        self.0 & part != 0
    }

    /// Bytes of them in a block.
    pub fn size(self) -> usize {
        let part = |bit, size| if self.has(bit) { size } else { 0 };
        part(Self::SYNC, SYNC.len())
            + part(Self::HEADER, 4)
            + part(Self::USER, CD_BLOCK as usize)
            + part(Self::CODES, CODES)
    }

    /// Puts the parts of block `lba` into `out`, [`CdParts::size`] bytes, around its user data. Error detection and
    /// correction codes are zero.
    pub fn wrap(self, lba: u64, user: &[u8; CD_BLOCK as usize], out: &mut [u8]) {
        let [minute, second, frame] = msf(lba);
        let header = [minute, second, frame].map(bcd);
        let pieces: [(u8, &[u8]); 5] = [
            (Self::SYNC, &SYNC),
            (Self::HEADER, &header),
            (Self::HEADER, &[1]),
            (Self::USER, user),
            (Self::CODES, &[0; CODES]),
        ];
        let mut rest = out;
        for (_, piece) in pieces.into_iter().filter(|(part, _)| self.has(*part)) {
            let Some((place, after)) = rest.split_at_mut_checked(piece.len()) else { return };
            place.copy_from_slice(piece);
            rest = after;
        }
    }
}

/// Minutes, seconds and frames of a block. MMC-3, section 4.2.3.1. Beyond 255 minutes there is no such address.
pub(super) fn msf(lba: u64) -> [u8; 3] {
    let blocks = lba.saturating_add(PREGAP);
    let seconds = blocks / BLOCKS_PER_SECOND;
    let minutes = u8::try_from(seconds / 60).unwrap_or(u8::MAX);
    [minutes, (seconds % 60) as u8, (blocks % BLOCKS_PER_SECOND) as u8]
}

/// The block at minutes, seconds and frames; `None` in the two seconds before the first one, or out of range.
pub(super) fn from_msf([minutes, seconds, frames]: [u8; 3]) -> Option<u64> {
    let valid = seconds < 60 && u64::from(frames) < BLOCKS_PER_SECOND;
    let blocks = (u64::from(minutes) * 60 + u64::from(seconds)) * BLOCKS_PER_SECOND + u64::from(frames);
    blocks.checked_sub(PREGAP).filter(|_| valid)
}

fn bcd(value: u8) -> u8 {
    let value = value % 100;
    (value / 10) << 4 | (value % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_block_is_2352_bytes_with_its_address() {
        let whole = CdParts::asked(0xF8).unwrap();
        assert_eq!((whole.size(), whole == CdParts::DATA), (2352, false));
        let mut out = vec![0xEE; 2352];
        whole.wrap(16, &[0x5A; 2048], &mut out);
        assert_eq!(out[..16], [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0x00, 0x02, 0x16, 1]);
        assert_eq!((&out[16..2064], &out[2064..]), (&[0x5A; 2048][..], &[0; 288][..]));
        let header = CdParts::asked(0x20).unwrap();
        let mut out = [0; 4];
        header.wrap(75 * 60 * 12 + 33, &[0; 2048], &mut out);
        assert_eq!(out, [0x12, 0x02, 0x33, 1]);
        assert_eq!((CdParts::asked(0x40), CdParts::asked(0x10)), (None, Some(CdParts::DATA)));
    }

    #[test]
    fn minutes_seconds_and_frames_lead_back() {
        for lba in [0, 1, 74, 75, 4350, 333_000] {
            assert_eq!(from_msf(msf(lba)), Some(lba));
        }
        assert_eq!(msf(0), [0, 2, 0]);
        assert_eq!([[0, 1, 74], [0, 60, 0], [0, 2, 75]].map(from_msf), [None; 3]);
        assert_eq!(msf(u64::MAX)[0], 255);
    }
}
