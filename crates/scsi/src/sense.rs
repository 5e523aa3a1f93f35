use block::BlockError;
use board::{StateReader, StateWriter};

/// Sense keys. SPC-4, section 4.5.6.
pub(crate) mod key {
    pub const NOT_READY: u8 = 0x2;
    pub const MEDIUM_ERROR: u8 = 0x3;
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    pub const UNIT_ATTENTION: u8 = 0x6;
    pub const DATA_PROTECT: u8 = 0x7;
    pub const ABORTED_COMMAND: u8 = 0xB;
    pub const MISCOMPARE: u8 = 0xE;
}

/// Why a command failed: sense key, additional sense code and its qualifier. SPC-4, sections 4.5.6 and D.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    key: u8,
    code: u8,
    qualifier: u8,
    /// The block concerned.
    information: Option<u32>,
}

impl Sense {
    /// Bytes of sense data in fixed format.
    pub const SIZE: usize = 18;

    /// Nothing is wrong.
    pub const NONE: Sense = Sense::new(0, 0, 0);
    /// Logical unit not ready, initializing command required: it was stopped.
    pub const STOPPED: Sense = Sense::new(key::NOT_READY, 0x04, 0x02);
    /// Medium not present, tray closed.
    pub const NO_MEDIUM: Sense = Sense::new(key::NOT_READY, 0x3A, 0x01);
    /// Medium not present, tray open.
    pub const TRAY_OPEN: Sense = Sense::new(key::NOT_READY, 0x3A, 0x02);
    /// Incompatible medium installed.
    pub const INCOMPATIBLE: Sense = Sense::new(key::NOT_READY, 0x30, 0x00);
    /// Power on, reset, or bus device reset occurred.
    pub const RESET: Sense = Sense::new(key::UNIT_ATTENTION, 0x29, 0x00);
    /// Not ready to ready change, medium may have changed.
    pub const MEDIUM_CHANGED: Sense = Sense::new(key::UNIT_ATTENTION, 0x28, 0x00);
    /// Capacity data has changed.
    pub const CAPACITY_CHANGED: Sense = Sense::new(key::UNIT_ATTENTION, 0x2A, 0x09);
    /// Parameter list length error.
    pub const LIST_LENGTH: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x1A, 0x00);
    /// Invalid command operation code.
    pub const INVALID_OPERATION: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x20, 0x00);
    /// Logical block address out of range.
    pub const OUT_OF_RANGE: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x21, 0x00);
    /// Invalid field in command descriptor block.
    pub const INVALID_FIELD: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x24, 0x00);
    /// Logical unit not supported.
    pub const NO_UNIT: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x25, 0x00);
    /// Invalid field in parameter list.
    pub const INVALID_PARAMETER: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x26, 0x00);
    /// Cannot read medium, incompatible format.
    pub const OTHER_FORMAT: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x30, 0x02);
    /// Saving parameters not supported.
    pub const NOTHING_SAVED: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x39, 0x00);
    /// Medium removal prevented.
    pub const REMOVAL_PREVENTED: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x53, 0x02);
    /// Illegal mode for this track.
    pub const ILLEGAL_MODE: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x64, 0x00);
    /// Write protected.
    pub const WRITE_PROTECTED: Sense = Sense::new(key::DATA_PROTECT, 0x27, 0x00);
    /// Space allocation failed write protect.
    pub const NO_SPACE: Sense = Sense::new(key::DATA_PROTECT, 0x27, 0x07);
    /// Data phase error.
    pub const DATA_PHASE: Sense = Sense::new(key::ABORTED_COMMAND, 0x4B, 0x00);
    /// Miscompare during verify operation.
    pub const MISCOMPARE: Sense = Sense::new(key::MISCOMPARE, 0x1D, 0x00);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Sense { key, code, qualifier, information: None }
    }

    /// The disk could not be read.
    pub fn of_read(error: BlockError) -> Self {
        match error {
            BlockError::BeyondEnd => Self::OUT_OF_RANGE,
            // Unrecovered read error.
            _ => Sense::new(key::MEDIUM_ERROR, 0x11, 0x00),
        }
    }

    /// The disk could not be written, or not made durable.
    pub fn of_write(error: BlockError) -> Self {
        match error {
            BlockError::BeyondEnd => Self::OUT_OF_RANGE,
            BlockError::Readonly => Self::WRITE_PROTECTED,
            BlockError::NoSpace(_) => Self::NO_SPACE,
            // Write error.
            BlockError::Io(_) => Sense::new(key::MEDIUM_ERROR, 0x0C, 0x00),
        }
    }

    /// The same at block `lba`, where that can be told.
    pub fn at(self, lba: u64) -> Self {
        Sense { information: u32::try_from(lba).ok(), ..self }
    }

    /// The sense key: 0..=15.
    pub fn key(self) -> u8 {
        self.key
    }

    /// Additional sense code and its qualifier.
    pub fn code(self) -> (u8, u8) {
        (self.code, self.qualifier)
    }

    /// Whether the command itself was no good, or was given up.
    pub fn is_refusal(self) -> bool {
        matches!(self.key, key::ILLEGAL_REQUEST | key::ABORTED_COMMAND)
    }

    /// Sense data in fixed format. SPC-4, section 4.5.3.
    pub fn fixed_format(self) -> [u8; Self::SIZE] {
        let mut data = [0; Self::SIZE];
        data[0] = 0x70 | u8::from(self.information.is_some()) << 7;
        data[2] = self.key;
        data[3..7].copy_from_slice(&self.information.unwrap_or(0).to_be_bytes());
        data[7] = 10;
        data[12] = self.code;
        data[13] = self.qualifier;
        data
    }

    /// Appends it to a state.
    pub fn save(self, writer: &mut StateWriter) {
        for byte in [self.key, self.code, self.qualifier, self.information.is_some().into()] {
            writer.u8(byte);
        }
        writer.u32(self.information.unwrap_or(0));
    }

    /// Takes what [`Sense::save`] wrote.
    ///
    /// # Errors
    /// One sentence when it is damaged.
    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let sense = Sense::new(reader.u8()? & 0xF, reader.u8()?, reader.u8()?);
        let (has_information, information) = (reader.bool()?, reader.u32()?);
        Ok(Sense { information: has_information.then_some(information), ..sense })
    }
}
