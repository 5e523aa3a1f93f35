//! GET CONFIGURATION: features and profiles. MMC-3, sections 5.3 and 6.5.

use super::disc::Profile;
use crate::Interface;

/// Which features are asked for: the current ones alone, or just one.
const CURRENT: u8 = 1;
const ONE: u8 = 2;

const PERSISTENT: u8 = 1 << 1;

/// The answer, for features from number `start` on. `profile` is the disc's.
pub(super) fn answer(wanted: u8, start: u16, profile: Option<Profile>, interface: Interface) -> Vec<u8> {
    let standard = match interface {
        Interface::Scsi => 1,
        Interface::Atapi => 2,
    };
    let core = [0, 0, 0, standard];
    let (cd, dvd) = (profile == Some(Profile::CdRom), profile == Some(Profile::DvdRom));
    let profiles = [0x00, 0x10, dvd.into(), 0, 0x00, 0x08, cd.into(), 0];
    // Blocks of 2048 bytes that are read one at a time from a CD, by 16 from a DVD.
    let random_readable = [0, 0, 8, 0, 0, if dvd { 16 } else { 1 }, 0, 0];
    let always = (PERSISTENT, true);
    let features: [(u16, (u8, bool), &[u8]); 10] = [
        (0x0000, always, &profiles),
        // Core: the interface.
        (0x0001, always, &core),
        // Morphing: nothing happens by itself.
        (0x0002, always, &[0; 4]),
        // Removable medium: a tray that can be locked and ejects.
        (0x0003, always, &[0x29, 0, 0, 0]),
        (0x0010, (0, cd || dvd), &random_readable),
        // MultiRead, CD read (neither C2 errors nor CD-Text), DVD read.
        (0x001D, (0, cd), &[]),
        (0x001E, (0, cd), &[0; 4]),
        (0x001F, (0, dvd), &[]),
        // Power management, time-out.
        (0x0100, always, &[]),
        (0x0105, always, &[]),
    ];
    let mut body = vec![0, 0];
    body.extend(profile.map_or(0, |profile| profile as u16).to_be_bytes());
    let asked = features.into_iter().filter(|(code, (_, current), _)| match wanted {
        ONE => *code == start,
        CURRENT => *code >= start && *current,
        _ => *code >= start,
    });
    for (code, (persistent, current), content) in asked {
        body.extend(code.to_be_bytes());
        body.extend([persistent | u8::from(current), content.len() as u8]);
        body.extend(content);
    }
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}
