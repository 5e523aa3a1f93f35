//! Vital product data and mode pages of a disk. SBC-3, sections 6.5 and 6.6.

use super::provisioning::{MAX_UNMAP_BLOCKS, MAX_UNMAP_RANGES, MAX_WRITE_SAME};
use super::{BLOCK_SIZE, MAX_TRANSFER, PHYSICAL_EXPONENT};
use crate::mode::Page;

/// Mode pages.
const ERROR_RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0A;

/// Bytes of the caching page.
pub(super) const CACHING_SIZE: usize = 18;
/// In its first byte: the write cache is on.
const WCE: u8 = 1 << 2;

/// The vital product data pages of disks alone.
pub(super) fn vital(readonly: bool) -> Vec<(u8, Vec<u8>)> {
    let granularity = 1u32 << PHYSICAL_EXPONENT;
    let mut limits = vec![0; 60];
    let mut put = |at: usize, value: &[u8]| limits[at - 4..at - 4 + value.len()].copy_from_slice(value);
    // WSNZ: WRITE SAME names a number of blocks.
    put(4, &[0x01]);
    put(6, &(granularity as u16).to_be_bytes());
    put(8, &MAX_TRANSFER.to_be_bytes());
    if !readonly {
        put(20, &MAX_UNMAP_BLOCKS.to_be_bytes());
        put(24, &MAX_UNMAP_RANGES.to_be_bytes());
        put(28, &granularity.to_be_bytes());
        // From block 0 on.
        put(32, &[1 << 7, 0, 0, 0]);
        put(36, &u64::from(MAX_WRITE_SAME).to_be_bytes());
    }
    // Nothing rotates.
    let mut characteristics = vec![0; 60];
    characteristics[..2].copy_from_slice(&[0, 1]);
    // UNMAP and WRITE SAME give blocks back to a thin disk.
    let provisioning = if readonly { vec![0; 4] } else { vec![0, 0xE0, 0x02, 0] };
    vec![(0xB0, limits), (0xB1, characteristics), (0xB2, provisioning)]
}

/// The device-specific parameter of mode parameter headers. SBC-3, section 6.4.1.
pub(super) fn device_specific(readonly: bool) -> u8 {
    // WP; DPOFUA.
    u8::from(readonly) << 7 | 1 << 4
}

/// The block descriptor: how many blocks, and their size.
pub(super) fn descriptor(blocks: u64) -> [u8; 8] {
    let [b0, b1, b2, b3] = u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes();
    let [_, s1, s2, s3] = BLOCK_SIZE.to_be_bytes();
    [b0, b1, b2, b3, 0, s1, s2, s3]
}

/// The content of the caching page.
pub(super) fn caching(write_cache: bool) -> [u8; CACHING_SIZE] {
    let mut content = [0; CACHING_SIZE];
    content[0] = if write_cache { WCE } else { 0 };
    content
}

/// The mode pages there are.
pub(super) fn modes(caching_page: &[u8; CACHING_SIZE]) -> [Page<'_>; 3] {
    const DEFAULT: [u8; CACHING_SIZE] = [WCE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    [
        // Automatic reallocation of blocks that are written or read, no retries.
        Page::fixed(ERROR_RECOVERY, &[0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        Page { code: CACHING, current: caching_page, default: &DEFAULT, changeable: &[WCE] },
        // Commands may be reordered; sense data in fixed format; no time-out while busy.
        Page::fixed(CONTROL, &[0, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0]),
    ]
}

/// Whether the write cache is on in the new content of a page, if it is the caching page.
pub(super) fn write_cache((code, content): (u8, &[u8])) -> Option<bool> {
    (code == CACHING).then(|| content.first().is_some_and(|flags| flags & WCE != 0))
}
