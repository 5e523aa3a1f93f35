use crate::register::{STATISTICS, STATISTICS_END};
use board::{StateReader, StateWriter};

/// Offsets of the registers that count something here. Manual, section 13.7.
pub(crate) mod counter {
    pub const PRC64: u32 = 0x405C;
    pub const GPRC: u32 = 0x4074;
    pub const BPRC: u32 = 0x4078;
    pub const MPRC: u32 = 0x407C;
    pub const GPTC: u32 = 0x4080;
    pub const GORCL: u32 = 0x4088;
    pub const GOTCL: u32 = 0x4090;
    pub const ROC: u32 = 0x40AC;
    pub const TORL: u32 = 0x40C0;
    pub const TOTL: u32 = 0x40C8;
    pub const TPR: u32 = 0x40D0;
    pub const TPT: u32 = 0x40D4;
    pub const PTC64: u32 = 0x40D8;
    pub const MPTC: u32 = 0x40F0;
    pub const BPTC: u32 = 0x40F4;
    pub const TSCTC: u32 = 0x40F8;
    pub const TSCTFC: u32 = 0x40FC;
}

use counter::*;

const COUNT: usize = ((STATISTICS_END - STATISTICS) / 4) as usize;

/// Bytes of the frame check sequence, which octet counts include.
const FCS: u32 = 4;

/// The statistics registers. They stick at their largest value, and reading clears them: of those of 64 bits, reading
/// the high half.
pub(crate) struct Statistics([u32; COUNT]);

impl Statistics {
    pub fn new() -> Self {
        Statistics([0; COUNT])
    }

    /// Counts a frame sent, given without its frame check sequence.
    pub fn sent(&mut self, frame: &[u8]) {
        self.frame(frame, [TPT, GPTC], [TOTL, GOTCL], PTC64, [MPTC, BPTC]);
    }

    /// Counts a frame received, given without its frame check sequence.
    pub fn received(&mut self, frame: &[u8]) {
        self.frame(frame, [TPR, GPRC], [TORL, GORCL], PRC64, [MPRC, BPRC]);
    }

    fn frame(&mut self, frame: &[u8], packets: [u32; 2], octets: [u32; 2], sizes: u32, groups: [u32; 2]) {
        let size = frame.len() as u32 + FCS;
        packets.into_iter().for_each(|offset| self.count(offset));
        octets.into_iter().for_each(|offset| self.add(offset, size));
        // 64, then up to 127, 255, 511, 1023 and more.
        match size {
            0..64 => {}
            64 => self.count(sizes),
            65..1024 => self.count(sizes + 4 * (size.ilog2() - 5)),
            _ => self.count(sizes + 4 * 5),
        }
        match frame {
            [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, ..] => self.count(groups[1]),
            [first, ..] if first & 1 != 0 => self.count(groups[0]),
            _ => {}
        }
    }

    /// Counts a packet that was cut into segments, or (`false`) could not be.
    pub fn segmented(&mut self, whole: bool) {
        self.count(if whole { TSCTC } else { TSCTFC });
    }

    /// Adds one to a register.
    pub fn count(&mut self, offset: u32) {
        if let Some(register) = self.0.get_mut(((offset - STATISTICS) / 4) as usize) {
            *register = register.saturating_add(1);
        }
    }

    /// Adds to a register of 64 bits.
    fn add(&mut self, offset: u32, count: u32) {
        let at = ((offset - STATISTICS) / 4) as usize;
        if let Some([low, high]) = self.0.get_mut(at..at + 2) {
            let sum = (u64::from(*high) << 32 | u64::from(*low)).saturating_add(u64::from(count));
            (*low, *high) = (sum as u32, (sum >> 32) as u32);
        }
    }

    /// Reads a register as a driver does.
    pub fn read(&mut self, offset: u32) -> u32 {
        let at = ((offset - STATISTICS) / 4) as usize;
        let Some(value) = self.0.get(at).copied() else { return 0 };
        match offset {
            GORCL | GOTCL | TORL | TOTL => return value,
            _ if [GORCL, GOTCL, TORL, TOTL].contains(&offset.wrapping_sub(4)) => self.0[at - 1..=at].fill(0),
            _ => self.0[at] = 0,
        }
        value
    }

    pub fn save(&self, writer: &mut StateWriter) {
        self.0.iter().for_each(|register| writer.u32(*register));
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        for register in &mut self.0 {
            *register = reader.u32()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_their_classes() {
        let mut statistics = Statistics::new();
        let sizes =
            [(60, 0), (61, 1), (123, 1), (124, 2), (251, 2), (252, 3), (507, 3), (508, 4), (1019, 4), (1020, 5)];
        for (size, class) in sizes {
            statistics.sent(&vec![0; size]);
            assert_eq!(statistics.read(PTC64 + 4 * class), 1, "{size}");
        }
        statistics.sent(&[0; 59]);
        assert!((0..6).all(|class| statistics.read(PTC64 + 4 * class) == 0));
    }

    #[test]
    fn counts_stick_and_are_cleared_by_reading() {
        let mut statistics = Statistics::new();
        statistics.received(&[0xFF; 60]);
        statistics.received(&[1; 60]);
        statistics.received(&[2; 60]);
        let counts = [TPR, GPRC, BPRC, MPRC].map(|offset| statistics.read(offset));
        assert_eq!((counts, statistics.read(TPR)), ([3, 3, 1, 1], 0));
        assert_eq!([statistics.read(TORL), statistics.read(TORL), statistics.read(TORL + 4)], [192, 192, 0]);
        assert_eq!((statistics.read(TORL), statistics.read(GORCL)), (0, 192));
        statistics.0.fill(u32::MAX);
        statistics.received(&[0; 60]);
        assert_eq!(
            (statistics.read(TPR), statistics.read(TORL), statistics.read(TORL + 4)),
            (u32::MAX, u32::MAX, u32::MAX)
        );
    }
}
