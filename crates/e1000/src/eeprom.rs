use board::{StateReader, StateWriter};

/// Words of a 93C46.
const WORDS: usize = 64;
/// What all words add up to. Manual, section 5.6.35.
const CHECKSUM: u16 = 0xBABA;

/// EECD: clock, chip select, data to the EEPROM and from it.
const EECD_SK: u32 = 1 << 0;
const EECD_CS: u32 = 1 << 1;
const EECD_DI: u32 = 1 << 2;
const EECD_DO: u32 = 1 << 3;
const EECD_FWE: u32 = 3 << 4;
const EECD_REQ: u32 = 1 << 6;
const EECD_GNT: u32 = 1 << 7;
const EECD_PRES: u32 = 1 << 8;
const EECD_WRITABLE: u32 = EECD_SK | EECD_CS | EECD_DI | EECD_FWE | EECD_REQ;

const EERD_START: u32 = 1 << 0;
const EERD_DONE: u32 = 1 << 4;
const EERD_ADDRESS_SHIFT: u32 = 8;
const EERD_DATA_SHIFT: u32 = 16;

/// A Microwire instruction is complete when its start bit is here: behind it come 2 bits of code and 6 of address.
const COMPLETE: u16 = 1 << 8;
const READ: u16 = 0b10;

/// The EEPROM, and the two ways to it: EERD, and bit by bit through EECD. Manual, chapter 5 and sections 13.4.3 and
/// 13.4.4; National Semiconductor NM93C46 data sheet.
///
/// It is write-protected: writes are followed to their end and change nothing.
pub(crate) struct Eeprom {
    words: [u16; WORDS],
    eerd: u32,
    /// What was written to EECD.
    eecd: u32,
    /// Bits since the start bit, which is the highest one set.
    instruction: u16,
    /// The bit of all words, first to last and high to low, that the next clock gives; `None`: no READ goes on.
    reading: Option<u16>,
    output: bool,
}

impl Eeprom {
    /// The EEPROM of a card with this hardware address.
    pub fn new(mac: [u8; 6], subsystem: u16, subsystem_vendor: u16, device: u16, vendor: u16) -> Self {
        let mut words = [0xFFFF; WORDS];
        for (word, pair) in words.iter_mut().zip(mac.chunks_exact(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        words[0x03] = 0;
        // Initialization control word 1: signature 01b, identities come from here.
        words[0x0A] = 0x4003;
        words[0x0B] = subsystem;
        words[0x0C] = subsystem_vendor;
        words[0x0D] = device;
        words[0x0E] = vendor;
        // Initialization control word 2: asymmetric and symmetric PAUSE.
        words[0x0F] = 0x3000;
        // Software defined pins and initialization control word 3: APM is off, nothing wakes this machine.
        words[0x20] = 0;
        words[0x24] = 0;
        words[WORDS - 1] = 0;
        words[WORDS - 1] = CHECKSUM.wrapping_sub(words.iter().fold(0, |sum: u16, word| sum.wrapping_add(*word)));
        Eeprom { words, eerd: 0, eecd: 0, instruction: 0, reading: None, output: true }
    }

    /// RAL0 and RAH0 without AV, as hardware loads them.
    pub fn address(&self) -> [u32; 2] {
        let [a, b, c, ..] = self.words.map(u32::from);
        [a | b << 16, c]
    }

    /// Lets go of the lines, as a reset does.
    pub fn reset(&mut self) {
        *self = Eeprom { words: self.words, eerd: 0, eecd: 0, instruction: 0, reading: None, output: true };
    }

    pub fn eerd(&self) -> u32 {
        self.eerd
    }

    /// Reads a word at once.
    pub fn set_eerd(&mut self, value: u32) {
        let address = value >> EERD_ADDRESS_SHIFT & 0xFF;
        self.eerd = address << EERD_ADDRESS_SHIFT;
        if value & EERD_START != 0 {
            let word = self.words.get(address as usize).copied().unwrap_or(0xFFFF);
            self.eerd |= u32::from(word) << EERD_DATA_SHIFT | EERD_DONE;
        }
    }

    pub fn eecd(&self) -> u32 {
        let granted = if self.eecd & EECD_REQ != 0 { EECD_GNT } else { 0 };
        self.eecd | EECD_PRES | granted | if self.output { EECD_DO } else { 0 }
    }

    pub fn set_eecd(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.eecd, value & EECD_WRITABLE);
        if value & EECD_CS == 0 {
            // Without chip select the output floats, and is pulled high: `ready`.
            (self.instruction, self.reading, self.output) = (0, None, true);
        } else if before & EECD_CS != 0 && value & !before & EECD_SK != 0 {
            self.clock(value & EECD_DI != 0);
        }
    }

    /// A rising edge of the clock while the chip is selected.
    fn clock(&mut self, input: bool) {
        if let Some(bit) = self.reading {
            self.output = self.words[usize::from(bit / 16) % WORDS] >> (15 - bit % 16) & 1 != 0;
            self.reading = Some((bit + 1) % (16 * WORDS as u16));
        } else if self.instruction & COMPLETE == 0 {
            // Zeros before the start bit shift nothing in.
            self.instruction = self.instruction << 1 | u16::from(input);
            if self.instruction & COMPLETE != 0 && self.instruction >> 6 & 3 == READ {
                self.reading = Some(16 * (self.instruction & 0x3F));
                // The dummy bit in front of the data.
                self.output = false;
            }
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.u32(self.eerd);
        writer.u32(self.eecd);
        writer.u16(self.instruction);
        writer.u16(self.reading.unwrap_or(u16::MAX));
        writer.u8(u8::from(self.output));
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.eerd = reader.u32()?;
        self.eecd = reader.u32()? & EECD_WRITABLE;
        self.instruction = reader.u16()? & (2 * COMPLETE - 1);
        self.reading = Some(reader.u16()?).filter(|bit| *bit < 16 * WORDS as u16);
        self.output = reader.bool()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

    fn eeprom() -> Eeprom {
        Eeprom::new(MAC, 0x1100, 0x1AF4, 0x100E, 0x8086)
    }

    fn shift_out(eeprom: &mut Eeprom, value: u16, bits: u32) {
        for bit in (0..bits).rev() {
            let data = if value >> bit & 1 != 0 { EECD_DI } else { 0 };
            for clock in [0, EECD_SK, 0] {
                eeprom.set_eecd(EECD_REQ | EECD_CS | data | clock);
            }
        }
    }

    fn shift_in(eeprom: &mut Eeprom) -> u16 {
        (0..16).fold(0, |word, _| {
            eeprom.set_eecd(EECD_REQ | EECD_CS | EECD_SK);
            let bit = eeprom.eecd() & EECD_DO != 0;
            eeprom.set_eecd(EECD_REQ | EECD_CS);
            word << 1 | u16::from(bit)
        })
    }

    #[test]
    fn words_read_the_same_both_ways_and_add_up() {
        let mut eeprom = eeprom();
        eeprom.set_eecd(EECD_REQ);
        assert_eq!(eeprom.eecd(), EECD_REQ | EECD_GNT | EECD_PRES | EECD_DO);
        let mut sum = 0u16;
        for address in 0..64u16 {
            eeprom.set_eerd(u32::from(address) << 8 | EERD_START);
            assert_eq!(eeprom.eerd() & 0xFFFF, u32::from(address) << 8 | EERD_DONE);
            let word = (eeprom.eerd() >> 16) as u16;
            eeprom.set_eecd(EECD_REQ);
            eeprom.set_eecd(EECD_REQ | EECD_CS);
            // Leading zeros are what drivers send for want of knowing better.
            shift_out(&mut eeprom, 0b0_0110, 5);
            shift_out(&mut eeprom, address, 6);
            assert_eq!(eeprom.eecd() & EECD_DO, 0, "the dummy bit");
            assert_eq!(shift_in(&mut eeprom), word);
            sum = sum.wrapping_add(word);
        }
        assert_eq!(sum, 0xBABA);
        assert_eq!(eeprom.words[..3], [0x5452, 0x1200, 0x5634]);
        assert_eq!(eeprom.address(), [0x1200_5452, 0x5634]);
    }

    #[test]
    fn a_read_goes_on_into_the_next_word_and_round() {
        let mut eeprom = eeprom();
        eeprom.set_eecd(EECD_CS);
        shift_out(&mut eeprom, 0b110, 3);
        shift_out(&mut eeprom, 63, 6);
        let words = [shift_in(&mut eeprom), shift_in(&mut eeprom)];
        assert_eq!(words, [eeprom.words[63], 0x5452]);
    }

    #[test]
    fn writes_complete_and_change_nothing() {
        let mut eeprom = eeprom();
        let before = eeprom.words;
        eeprom.set_eecd(EECD_CS);
        shift_out(&mut eeprom, 0b101, 3);
        shift_out(&mut eeprom, 0, 6);
        shift_out(&mut eeprom, 0xABCD, 16);
        eeprom.set_eecd(0);
        eeprom.set_eecd(EECD_CS);
        assert_ne!(eeprom.eecd() & EECD_DO, 0, "ready");
        assert_eq!(eeprom.words, before);
    }

    #[test]
    fn a_word_that_does_not_exist_is_blank() {
        let mut eeprom = eeprom();
        eeprom.set_eerd(0xFF00 | EERD_START);
        assert_eq!(eeprom.eerd(), 0xFFFF_FF10);
        eeprom.set_eerd(0x0100);
        assert_eq!(eeprom.eerd(), 0x0100, "no start, no data");
    }
}
