//! UNMAP and WRITE SAME. SBC-3, sections 5.28, 5.43 and 5.44.

use super::commands::refuse_protection;
use super::{BLOCK_SIZE, DirectAccess, PIECE};
use crate::{Cdb, Sense, Work};

/// The most blocks that one UNMAP gives back, 1 GiB, and in how many ranges.
pub(super) const MAX_UNMAP_BLOCKS: u32 = 1 << 21;
pub(super) const MAX_UNMAP_RANGES: u32 = 256;
/// The most blocks of a WRITE SAME: 128 MiB, so that writing them by hand ends soon.
pub(super) const MAX_WRITE_SAME: u32 = 1 << 18;

/// Flags of WRITE SAME: no data-out buffer (of the long form alone), unmap, anchor.
const NDOB: u8 = 1 << 0;
const UNMAP: u8 = 1 << 3;
const ANCHOR: u8 = 1 << 4;
/// Flags of older versions: the block's address goes into the data.
const LBDATA_PBDATA: u8 = 3 << 1;

/// Bytes of UNMAP's header and of each range after it.
const HEADER: usize = 8;
const RANGE: usize = 16;

impl DirectAccess {
    /// Gives blocks back: all of the list, or nothing where some of it is no good.
    pub(super) fn unmap(&mut self, list: &[u8]) -> Result<(), Sense> {
        let Some(([_, _, size_high, size_low, ..], ranges)) = list.split_first_chunk::<HEADER>() else {
            return Err(Sense::LIST_LENGTH);
        };
        // A last range that is not all there is no range.
        let size = usize::from(u16::from_be_bytes([*size_high, *size_low])).min(ranges.len());
        let ranges = || ranges[..size].chunks_exact(RANGE).filter_map(range);
        let total: u64 = ranges().map(|(_, count)| u64::from(count)).sum();
        if size / RANGE > MAX_UNMAP_RANGES as usize || total > MAX_UNMAP_BLOCKS.into() {
            return Err(Sense::INVALID_PARAMETER);
        }
        for (first, count) in ranges() {
            self.check(first, count.into())?;
        }
        for (first, count) in ranges().filter(|(_, count)| *count > 0) {
            let (offset, size) = (first * u64::from(BLOCK_SIZE), u64::from(count) * u64::from(BLOCK_SIZE));
            self.disk.discard(offset, size).map_err(Sense::of_write)?;
        }
        self.settle()
    }

    /// Looks at WRITE SAME.
    pub(super) fn want_write_same(&mut self, cdb: &Cdb) -> Result<Work, Sense> {
        self.writable()?;
        refuse_protection(cdb)?;
        let flags = cdb.u8(1);
        let wide = cdb.operation() == 0x93;
        if flags & (ANCHOR | LBDATA_PBDATA) != 0 || !wide && flags & NDOB != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        self.same_range(cdb)?;
        if flags & NDOB == 0 {
            return Ok(Work::Parameters(BLOCK_SIZE as usize));
        }
        self.write_same(cdb, &[0; BLOCK_SIZE as usize]).map(|()| Work::Done)
    }

    /// Offset and positive size, in bytes, of what WRITE SAME writes.
    fn same_range(&self, cdb: &Cdb) -> Result<(u64, u64), Sense> {
        let (first, count) = cdb.blocks();
        self.check(first, count.into())?;
        match count {
            1..=MAX_WRITE_SAME => Ok((first * u64::from(BLOCK_SIZE), u64::from(count) * u64::from(BLOCK_SIZE))),
            _ => Err(Sense::INVALID_FIELD),
        }
    }

    /// Writes a block over and over.
    pub(super) fn write_same(&mut self, cdb: &Cdb, block: &[u8]) -> Result<(), Sense> {
        let (offset, size) = self.same_range(cdb)?;
        if block.len() != BLOCK_SIZE as usize {
            return Err(Sense::LIST_LENGTH);
        }
        if block.iter().all(|byte| *byte == 0) {
            let unmap = cdb.u8(1) & UNMAP != 0;
            self.disk.write_zeroes(offset, size, unmap).map_err(Sense::of_write)?;
        } else {
            let piece = block.repeat(PIECE.min(size as usize) / block.len());
            for at in (0..size).step_by(piece.len()) {
                let part = piece.len().min((size - at) as usize);
                self.disk.write(offset + at, &piece[..part]).map_err(Sense::of_write)?;
            }
        }
        self.settle()
    }
}

/// First block and number of blocks of a range.
fn range(bytes: &[u8]) -> Option<(u64, u32)> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    let count = rest.first_chunk::<4>()?;
    Some((u64::from_be_bytes(*first), u32::from_be_bytes(*count)))
}
