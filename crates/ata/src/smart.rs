//! SMART: a disk that is well. ATA/ATAPI-6, section 8.41.

/// What has to stand in the LBA mid and high registers.
pub(crate) const KEY: u16 = 0xC24F;

/// Functions, in the features register.
pub(crate) const READ_DATA: u8 = 0xD0;
pub(crate) const READ_THRESHOLDS: u8 = 0xD1;
pub(crate) const AUTOSAVE: u8 = 0xD2;
pub(crate) const ENABLE: u8 = 0xD8;
pub(crate) const DISABLE: u8 = 0xD9;
pub(crate) const RETURN_STATUS: u8 = 0xDA;

const REVISION: u16 = 0x0010;

/// The attribute values: there are none, and no self-tests.
pub(crate) fn data() -> [u8; 512] {
    let mut data = [0; 512];
    data[..2].copy_from_slice(&REVISION.to_le_bytes());
    // Attributes are kept across power modes.
    data[368] = 0x03;
    sum(data)
}

/// Their thresholds.
pub(crate) fn thresholds() -> [u8; 512] {
    let mut data = [0; 512];
    data[..2].copy_from_slice(&REVISION.to_le_bytes());
    sum(data)
}

/// Makes the sum of the bytes zero.
fn sum(mut data: [u8; 512]) -> [u8; 512] {
    data[511] = data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    data
}
