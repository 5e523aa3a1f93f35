//! Answers that do not depend on the disc.

/// MECHANISM STATUS of a drive without a changer. MMC-3, section 6.8.
pub(super) fn mechanism_status(open: bool) -> Vec<u8> {
    vec![0, u8::from(open) << 4, 0, 0, 0, 0, 0, 0]
}

/// GET EVENT STATUS NOTIFICATION when none of the classes asked for is one of `supported`.
pub(super) fn no_event(supported: u8) -> Vec<u8> {
    vec![0, 2, 0x80, supported]
}
