//! What concerns a target rather than one of its units. Every target has one unit, number 0.

use crate::{Cdb, Sense, Work};

/// REPORT LUNS. SPC-4, section 6.33.
pub(crate) fn report_luns(cdb: &Cdb) -> Result<Work, Sense> {
    let luns: &[[u8; 8]] = match cdb.u8(2) {
        // All that are no well-known ones, or all.
        0x00 | 0x02 => &[[0; 8]],
        // Well-known ones.
        0x01 => &[],
        _ => return Err(Sense::INVALID_FIELD),
    };
    let mut data = (luns.as_flattened().len() as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(luns.as_flattened());
    Work::answer(data, cdb.u32(6) as usize)
}

/// REQUEST SENSE in the one format there is. SPC-4, section 6.39.
pub(crate) fn request_sense(cdb: &Cdb, sense: Sense) -> Result<Work, Sense> {
    match cdb.u8(1) & 1 {
        0 => Work::answer(sense.fixed_format().to_vec(), cdb.u8(4).into()),
        _ => Err(Sense::INVALID_FIELD),
    }
}

/// A command for a unit that a target does not have. SPC-4, section 5.10, and SAM-5, section 5.12.
///
/// # Errors
/// As for any command: most fail.
pub fn absent(cdb: &Cdb) -> Result<Work, Sense> {
    match cdb.operation() {
        0x03 => request_sense(cdb, Sense::NO_UNIT),
        // INQUIRY: no unit is possible there.
        0x12 if cdb.u8(1) & 1 == 0 && cdb.u8(2) == 0 => {
            let mut data = vec![0; 36];
            data[..5].copy_from_slice(&[0x7F, 0, 0x06, 0x12, 31]);
            data[8..].fill(b' ');
            Work::answer(data, cdb.u16(3).into())
        }
        0xA0 => report_luns(cdb),
        _ => Err(Sense::NO_UNIT),
    }
}
