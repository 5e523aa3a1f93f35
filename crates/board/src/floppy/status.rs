//! The bits of status bytes. 82078 data sheet, section 6.1 ("Status register encoding").

pub const ST0_ABNORMAL: u8 = 0x40;
pub const ST0_INVALID: u8 = 0x80;
/// Polling has found that a drive's ready line changed, as after each reset.
pub const ST0_POLLING: u8 = 0xC0;
pub const ST0_SEEK_END: u8 = 1 << 5;
pub const ST0_EQUIPMENT_CHECK: u8 = 1 << 4;

pub const ST1_END_OF_CYLINDER: u8 = 1 << 7;
pub const ST1_DATA_ERROR: u8 = 1 << 5;
pub const ST1_OVERRUN: u8 = 1 << 4;
pub const ST1_NO_DATA: u8 = 1 << 2;
pub const ST1_NOT_WRITABLE: u8 = 1 << 1;
pub const ST1_MISSING_ADDRESS_MARK: u8 = 1 << 0;

pub const ST2_CONTROL_MARK: u8 = 1 << 6;
pub const ST2_DATA_ERROR: u8 = 1 << 5;
pub const ST2_WRONG_CYLINDER: u8 = 1 << 4;
pub const ST2_BAD_CYLINDER: u8 = 1 << 1;

pub const ST3_PROTECTED: u8 = 1 << 6;
/// Bits that always read 1.
pub const ST3_FIXED: u8 = 1 << 5 | 1 << 3;
pub const ST3_TRACK_0: u8 = 1 << 4;
