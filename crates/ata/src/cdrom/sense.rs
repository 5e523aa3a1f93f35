use crate::registers::error;
use board::{StateReader, StateWriter};

/// Sense keys. SPC-2, section 7.20.4.
const NOT_READY: u8 = 0x2;
const MEDIUM_ERROR: u8 = 0x3;
const ILLEGAL_REQUEST: u8 = 0x5;
const UNIT_ATTENTION: u8 = 0x6;
const ABORTED_COMMAND: u8 = 0xB;

/// Why a command failed: sense key, additional sense code and its qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sense {
    key: u8,
    code: u8,
    qualifier: u8,
    /// The block concerned.
    information: Option<u32>,
}

impl Sense {
    /// Nothing is wrong.
    pub const NONE: Sense = Sense::new(0, 0, 0);
    /// Medium not present, tray closed.
    pub const NO_MEDIUM: Sense = Sense::new(NOT_READY, 0x3A, 0x01);
    /// Medium not present, tray open.
    pub const TRAY_OPEN: Sense = Sense::new(NOT_READY, 0x3A, 0x02);
    /// Incompatible medium installed.
    pub const INCOMPATIBLE: Sense = Sense::new(NOT_READY, 0x30, 0x00);
    /// Not ready to ready change, medium may have changed.
    pub const MEDIUM_CHANGED: Sense = Sense::new(UNIT_ATTENTION, 0x28, 0x00);
    /// Invalid command operation code.
    pub const INVALID_OPERATION: Sense = Sense::new(ILLEGAL_REQUEST, 0x20, 0x00);
    /// Logical block address out of range.
    pub const OUT_OF_RANGE: Sense = Sense::new(ILLEGAL_REQUEST, 0x21, 0x00);
    /// Invalid field in command packet.
    pub const INVALID_FIELD: Sense = Sense::new(ILLEGAL_REQUEST, 0x24, 0x00);
    /// Cannot read medium, incompatible format.
    pub const OTHER_FORMAT: Sense = Sense::new(ILLEGAL_REQUEST, 0x30, 0x02);
    /// Saving parameters not supported.
    pub const NOTHING_SAVED: Sense = Sense::new(ILLEGAL_REQUEST, 0x39, 0x00);
    /// Medium removal prevented.
    pub const REMOVAL_PREVENTED: Sense = Sense::new(ILLEGAL_REQUEST, 0x53, 0x02);
    /// Illegal mode for this track.
    pub const ILLEGAL_MODE: Sense = Sense::new(ILLEGAL_REQUEST, 0x64, 0x00);
    /// Data phase error.
    pub const DATA_PHASE: Sense = Sense::new(ABORTED_COMMAND, 0x4B, 0x00);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Sense { key, code, qualifier, information: None }
    }

    /// Unrecovered read error at block `lba`.
    pub fn unrecovered(lba: u64) -> Self {
        Sense { information: u32::try_from(lba).ok(), ..Sense::new(MEDIUM_ERROR, 0x11, 0x00) }
    }

    /// The error register: the key, and whether the command was no good.
    pub fn error(self) -> u8 {
        let aborted = matches!(self.key, ILLEGAL_REQUEST | ABORTED_COMMAND);
        self.key << 4 | if aborted { error::ABRT } else { 0 }
    }

    /// The answer to REQUEST SENSE. SPC-2, section 7.20.2.
    pub fn fixed_format(self) -> Vec<u8> {
        let mut data = vec![0; 18];
        data[0] = 0x70 | u8::from(self.information.is_some()) << 7;
        data[2] = self.key;
        data[3..7].copy_from_slice(&self.information.unwrap_or(0).to_be_bytes());
        data[7] = 10;
        data[12] = self.code;
        data[13] = self.qualifier;
        data
    }

    pub fn save(self, writer: &mut StateWriter) {
        for byte in [self.key, self.code, self.qualifier, self.information.is_some().into()] {
            writer.u8(byte);
        }
        writer.u32(self.information.unwrap_or(0));
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let sense = Sense::new(reader.u8()? & 0xF, reader.u8()?, reader.u8()?);
        let (has_information, information) = (reader.bool()?, reader.u32()?);
        Ok(Sense { information: has_information.then_some(information), ..sense })
    }
}
