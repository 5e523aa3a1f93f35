//! Answers that do not depend on the disc.

/// INQUIRY. SFF-8020i, section 10.8.1.
pub(super) fn inquiry() -> Vec<u8> {
    const TEXT: &[u8; 24] = b"WIRT    Wirt CD-ROM     ";
    // A CD-ROM drive with removable media, ATAPI version 2, response format 1; 31 bytes follow.
    let mut data = vec![0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0];
    data.extend(TEXT);
    let mut revision = *b"    ";
    for (place, byte) in revision.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
        *place = byte;
    }
    data.extend(revision);
    data
}

/// MECHANISM STATUS of a drive without a changer. MMC-3, section 6.8.
pub(super) fn mechanism_status(open: bool) -> Vec<u8> {
    vec![0, u8::from(open) << 4, 0, 0, 0, 0, 0, 0]
}

/// GET EVENT STATUS NOTIFICATION when none of the classes asked for is one of `supported`.
pub(super) fn no_event(supported: u8) -> Vec<u8> {
    vec![0, 2, 0x80, supported]
}
