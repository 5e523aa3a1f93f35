//! Mode pages. MMC-3, section 6.3; SFF-8020i, section 10.8.6.

use crate::mode::{Header, Page, sense as answer};
use crate::{Cdb, Sense, Work};

/// 176 kB/s 32 times, as drives give their speed.
const SPEED: [u8; 2] = 5632u16.to_be_bytes();

/// MODE SENSE(6) and (10). No bits can be changed.
pub(super) fn sense(cdb: &Cdb, medium_type: u8, locked: bool) -> Result<Work, Sense> {
    let (speed_high, speed_low) = (SPEED[0], SPEED[1]);
    // A tray that can be locked and ejects.
    let mechanism = 0x29 | u8::from(locked) << 1;
    // Reads CD-R, CD-RW, DVD-ROM, DVD-R; several sessions; a buffer of 512 KiB.
    let capabilities =
        [0x1B, 0, 0x40, 0, mechanism, 0, speed_high, speed_low, 0, 0, 2, 0, speed_high, speed_low, 0, 0, 0, 0, 0, 0];
    let pages = [
        // Read error recovery: five retries.
        Page::fixed(0x01, &[0, 5, 0, 0, 0, 0]),
        // CD device parameters: 60 seconds in a minute, 75 frames in a second.
        Page::fixed(0x0D, &[0, 0x0D, 0, 60, 0, 75]),
        // Audio control: two channels at full volume.
        Page::fixed(0x0E, &[0x04, 0, 0, 0, 0, 0, 1, 0xFF, 2, 0xFF, 0, 0, 0, 0]),
        Page::fixed(0x2A, &capabilities),
    ];
    answer(cdb, &Header { medium_type, device_specific: 0, descriptor: None }, &pages)
}
