//! What a disc has to tell: one session with one data track of mode 1.

use super::block::{CD_BLOCK, msf};
use crate::{Cdb, Sense};
use block::Disk;

/// Blocks that fit on a CD, 80 minutes; what is larger passes for a DVD.
const CD_LIMIT: u32 = 80 * 60 * 75;
/// ADR and control: position data, a data track.
const DATA_TRACK: u8 = 0x14;
/// Number of the lead-out.
const LEAD_OUT: u8 = 0xAA;
/// The first physical sector of a DVD's data.
const DVD_START: u32 = 0x03_0000;

/// Profiles. MMC-3, section 5.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Profile {
    CdRom = 0x0008,
    DvdRom = 0x0010,
}

/// Whether addresses in the answer are minutes, seconds and frames.
fn wants_msf(cdb: &Cdb) -> bool {
    cdb.u8(1) & 2 != 0
}

#[derive(Clone, Copy)]
pub(super) struct Disc {
    /// Positive.
    blocks: u32,
}

impl Disc {
    /// The disc in an image, what is behind its last whole block left out.
    pub fn new(disk: &dyn Disk) -> Result<Self, Sense> {
        match u32::try_from(disk.size() / CD_BLOCK).unwrap_or(u32::MAX) {
            0 => Err(Sense::INCOMPATIBLE),
            blocks => Ok(Disc { blocks }),
        }
    }

    pub fn profile(self) -> Profile {
        if self.blocks > CD_LIMIT { Profile::DvdRom } else { Profile::CdRom }
    }

    /// Checks that blocks are on the disc.
    pub fn blocks(self, first: u64, count: u32) -> Result<(), Sense> {
        match first.checked_add(count.into()) {
            Some(end) if end <= self.blocks.into() => Ok(()),
            _ => Err(Sense::OUT_OF_RANGE),
        }
    }

    /// READ CAPACITY: the last block, and bytes of a block.
    pub fn capacity(self) -> Vec<u8> {
        [(self.blocks - 1).to_be_bytes(), (CD_BLOCK as u32).to_be_bytes()].concat()
    }

    fn address(lba: u32, as_msf: bool) -> [u8; 4] {
        if as_msf {
            let [minutes, seconds, frames] = msf(lba.into());
            [0, minutes, seconds, frames]
        } else {
            lba.to_be_bytes()
        }
    }

    /// READ TOC/PMA/ATIP. MMC-3, section 6.26.
    pub fn toc(self, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
        let as_msf = wants_msf(cdb);
        // SFF-8020i has the format in the last byte.
        let format = match cdb.u8(2) & 0x0F {
            0 => cdb.u8(9) >> 6,
            format => format,
        };
        let track = |number: u8, lba: u32| {
            let [a, b, c, d] = Self::address(lba, as_msf);
            [0, DATA_TRACK, number, 0, a, b, c, d]
        };
        let body: Vec<u8> = match (format, cdb.u8(6)) {
            (0, 0 | 1) => [track(1, 0), track(LEAD_OUT, self.blocks)].concat(),
            (0, LEAD_OUT) => track(LEAD_OUT, self.blocks).to_vec(),
            (1, _) => track(1, 0).to_vec(),
            (2, 0 | 1) => {
                let entry = |point: u8, [minutes, seconds, frames]: [u8; 3]| {
                    [1, DATA_TRACK, 0, point, 0, 0, 0, 0, minutes, seconds, frames]
                };
                // First track, last track, lead-out, and the track itself.
                let lead_out = msf(self.blocks.into());
                [entry(0xA0, [1, 0, 0]), entry(0xA1, [1, 0, 0]), entry(0xA2, lead_out), entry(1, msf(0))].concat()
            }
            _ => return Err(Sense::INVALID_FIELD),
        };
        let mut data = (body.len() as u16 + 2).to_be_bytes().to_vec();
        data.extend([1, 1]);
        data.extend(body);
        Ok(data)
    }

    /// READ SUB-CHANNEL: nothing plays. MMC-3, section 6.25.
    pub fn subchannel(self, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
        let mut body = Vec::new();
        if cdb.u8(2) & 1 << 6 != 0 {
            match cdb.u8(3) {
                // The position, at the start.
                1 => {
                    body.extend([1, DATA_TRACK, 1, 1]);
                    body.extend(Self::address(0, wants_msf(cdb)));
                    body.extend([0; 4]);
                }
                // No catalogue number, no recording code.
                2 => body.extend([&[2, 0, 0, 0][..], &[0; 16]].concat()),
                3 => body.extend([&[3, DATA_TRACK, 1, 0][..], &[0; 16]].concat()),
                _ => return Err(Sense::INVALID_FIELD),
            }
        }
        // Audio status: none to return.
        Ok([&[0, 0x15, 0, body.len() as u8][..], &body].concat())
    }

    /// READ DISC INFORMATION: complete, one session. MMC-3, section 6.22.
    pub fn information(self) -> Vec<u8> {
        let mut data = vec![0; 34];
        data[..9].copy_from_slice(&[0, 32, 0x0E, 1, 1, 1, 1, 0x20, 0x00]);
        data
    }

    /// READ TRACK INFORMATION, by block, track or session. MMC-3, section 6.27.
    pub fn track_information(self, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
        match (cdb.u8(1) & 3, cdb.u32(2)) {
            (0, lba) => self.blocks(lba.into(), 1)?,
            (1 | 2, 1) => {}
            _ => return Err(Sense::INVALID_FIELD),
        }
        let mut data = vec![0; 36];
        // Track 1 of session 1, data, mode 1.
        data[..7].copy_from_slice(&[0, 34, 1, 1, 0, 4, 1]);
        data[24..28].copy_from_slice(&self.blocks.to_be_bytes());
        data[28..32].copy_from_slice(&(self.blocks - 1).to_be_bytes());
        Ok(data)
    }

    /// READ DVD STRUCTURE: physical format, copyright, manufacturer. MMC-3, section 6.23.
    pub fn dvd_structure(self, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
        if self.profile() != Profile::DvdRom {
            return Err(Sense::OTHER_FORMAT);
        }
        let body = match (cdb.u8(6), cdb.u8(7)) {
            (0, 0) => {
                // DVD-ROM, 120 mm, no rate given, one embossed layer.
                let mut body = vec![0; 2048];
                body[..4].copy_from_slice(&[0x01, 0x0F, 0x01, 0x00]);
                body[4..8].copy_from_slice(&DVD_START.to_be_bytes());
                body[8..12].copy_from_slice(&DVD_START.saturating_add(self.blocks - 1).to_be_bytes());
                body
            }
            (0, 1) => vec![0; 4],
            (0, 4) => vec![0; 2048],
            _ => return Err(Sense::INVALID_FIELD),
        };
        let mut data = (body.len() as u16 + 2).to_be_bytes().to_vec();
        data.extend([0, 0]);
        data.extend(body);
        Ok(data)
    }
}
