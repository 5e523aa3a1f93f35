//! Mode pages. MMC-3, section 6.3; SFF-8020i, section 10.8.6.

use super::packet::Packet;
use super::sense::Sense;

const ALL_PAGES: u8 = 0x3F;

/// What of a page is asked for.
const CHANGEABLE: u8 = 1;
const SAVED: u8 = 3;

/// 176 kB/s 32 times, as drives give their speed.
const SPEED: [u8; 2] = 5632u16.to_be_bytes();

/// MODE SENSE(6).
pub(super) fn sense6(packet: Packet, medium_type: u8, locked: bool) -> Result<Vec<u8>, Sense> {
    let pages = pages(packet, locked)?;
    Ok([&[pages.len() as u8 + 3, medium_type, 0, 0][..], &pages].concat())
}

/// MODE SENSE(10).
pub(super) fn sense10(packet: Packet, medium_type: u8, locked: bool) -> Result<Vec<u8>, Sense> {
    let pages = pages(packet, locked)?;
    Ok([&[0, pages.len() as u8 + 6, medium_type, 0, 0, 0, 0, 0][..], &pages].concat())
}

/// The pages asked for, each with its code and length in front. None of their bits can be changed.
fn pages(packet: Packet, locked: bool) -> Result<Vec<u8>, Sense> {
    let (wanted, values) = (packet.u8(2) & 0x3F, packet.u8(2) >> 6);
    if values == SAVED {
        return Err(Sense::NOTHING_SAVED);
    }
    let (speed_high, speed_low) = (SPEED[0], SPEED[1]);
    // A tray that can be locked and ejects.
    let mechanism = 0x29 | u8::from(locked) << 1;
    let all: [(u8, &[u8]); 4] = [
        // Read error recovery: five retries.
        (0x01, &[0, 5, 0, 0, 0, 0]),
        // CD device parameters: 60 seconds in a minute, 75 frames in a second.
        (0x0D, &[0, 0x0D, 0, 60, 0, 75]),
        // Audio control: two channels at full volume.
        (0x0E, &[0x04, 0, 0, 0, 0, 0, 1, 0xFF, 2, 0xFF, 0, 0, 0, 0]),
        // Capabilities: reads CD-R, CD-RW, DVD-ROM, DVD-R; several sessions; a buffer of 512 KiB.
        (
            0x2A,
            &[
                0x1B, 0, 0x40, 0, mechanism, 0, speed_high, speed_low, 0, 0, 2, 0, speed_high, speed_low, 0, 0, 0, 0,
                0, 0,
            ],
        ),
    ];
    let mut pages = Vec::new();
    for (code, content) in all.into_iter().filter(|(code, _)| wanted == ALL_PAGES || *code == wanted) {
        pages.extend([code, content.len() as u8]);
        match values {
            CHANGEABLE => pages.extend(content.iter().map(|_| 0)),
            _ => pages.extend(content),
        }
    }
    if pages.is_empty() { Err(Sense::INVALID_FIELD) } else { Ok(pages) }
}
