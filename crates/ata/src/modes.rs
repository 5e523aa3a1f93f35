use board::StateReader;

/// The multiword DMA modes there are.
const MULTIWORD: std::ops::RangeInclusive<u8> = 0x20..=0x22;
/// The Ultra DMA modes there are.
const ULTRA: std::ops::RangeInclusive<u8> = 0x40..=0x45;

/// The transfer mode that a host has chosen. All of them are as fast; what was chosen is only remembered. ATA/ATAPI-6,
/// table 44.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransferMode(u8);

impl TransferMode {
    /// As firmware would have chosen.
    pub fn fastest() -> Self {
        TransferMode(*ULTRA.end())
    }

    /// SET FEATURES, subcommand 0x03. False: there is no such mode.
    #[must_use]
    pub fn set(&mut self, code: u8) -> bool {
        match code {
            // PIO: the default, and with flow control; DMA modes stay.
            0x00 | 0x01 | 0x08..=0x0C => true,
            _ if MULTIWORD.contains(&code) || ULTRA.contains(&code) => {
                self.0 = code;
                true
            }
            _ => false,
        }
    }

    /// Word 63 of IDENTIFY: multiword DMA.
    pub fn multiword(self) -> u16 {
        0x0007 | if MULTIWORD.contains(&self.0) { 0x0100 << (self.0 & 7) } else { 0 }
    }

    /// Word 88: Ultra DMA.
    pub fn ultra(self) -> u16 {
        0x003F | if ULTRA.contains(&self.0) { 0x0100 << (self.0 & 7) } else { 0 }
    }

    pub fn code(self) -> u8 {
        self.0
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let mut mode = Self::fastest();
        match mode.set(reader.u8()?) {
            true => Ok(mode),
            false => Err(reader.invalid("a transfer mode that there is not")),
        }
    }
}
