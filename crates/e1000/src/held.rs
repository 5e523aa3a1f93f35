use crate::register::*;
use board::{StateReader, StateWriter};

/// Registers that hold what is written to them, and have no further effect on this card.
struct Row {
    first: u32,
    /// Bytes from one to the next.
    step: u32,
    count: u32,
    writable: u32,
    reset: u32,
    /// CTRL.RST leaves it alone.
    kept: bool,
}

const fn one(first: u32, writable: u32, reset: u32) -> Row {
    Row { first, step: 4, count: 1, writable, reset, kept: false }
}

const fn array(first: u32, step: u32, count: u32, writable: u32) -> Row {
    Row { first, step, count, writable, reset: 0, kept: false }
}

const fn kept(row: Row) -> Row {
    Row { kept: true, ..row }
}

/// Manual, sections 13.4 to 13.8.
const ROWS: [Row; 36] = [
    one(FCAL, u32::MAX, 0x00C2_8001),
    one(FCAH, 0xFFFF, 0x0100),
    one(FCT, 0xFFFF, 0x8808),
    one(ITR, 0xFFFF, 0),
    one(FCTTV, 0xFFFF, 0),
    one(TXCW, 0xC000_FFFF, 0),
    one(TIPG, 0x3FFF_FFFF, 0),
    one(AIT, 0xFFFF, 0),
    one(LEDCTL, u32::MAX, 0x0706_8302),
    kept(one(PBA, 0xFFFF, 0x0010_0030)),
    one(FCRTL, 0x8000_FFF8, 0),
    one(FCRTH, 0x8000_FFF8, 0),
    array(RDFH, 8, 5, 0x1FFF),
    one(RDTR, 0xFFFF, 0),
    one(RXDCTL, 0x0F3F_3F3F, 0x0001_0000),
    one(RADV, 0xFFFF, 0),
    one(RSRPD, 0x0FFF, 0),
    one(TXDMAC, 1, 0),
    array(TDFH, 8, 2, 0x07FF),
    array(TDFH + 16, 8, 3, 0x1FFF),
    one(TIDV, 0xFFFF, 0),
    one(TXDCTL, 0xFF7F_3F3F, 0),
    one(TADV, 0xFFFF, 0),
    one(TSPMT, u32::MAX, 0x0100_0400),
    one(WUC, 0x0F, 0),
    one(WUFC, 0x000F_80FF, 0),
    // No packet wakes anybody, so these stay empty.
    one(WUS, 0, 0),
    one(WUPL, 0, 0),
    array(WUPM, 4, 32, 0),
    one(MANC, u32::MAX, 0),
    one(IPAV, 0x0001_000F, 0),
    array(IP4AT, 8, 4, u32::MAX),
    array(IP6AT, 4, 4, u32::MAX),
    array(FFLT, 8, 4, 0x07FF),
    array(FFMT, 8, 128, 0x000F),
    array(FFVT, 8, 128, u32::MAX),
];

/// Registers that only hold their values.
pub(crate) struct Held {
    /// In the order of [`ROWS`].
    values: Vec<u32>,
}

impl Held {
    pub fn new() -> Self {
        let values = ROWS.iter().flat_map(|row| std::iter::repeat_n(row.reset, row.count as usize));
        Held { values: values.collect() }
    }

    /// What CTRL.RST does.
    pub fn reset(&mut self) {
        let rows = ROWS.iter().flat_map(|row| std::iter::repeat_n(row, row.count as usize));
        for (value, row) in self.values.iter_mut().zip(rows).filter(|(_, row)| !row.kept) {
            *value = row.reset;
        }
    }

    /// Where the register at an offset is kept, when it is one of these.
    fn find(offset: u32) -> Option<(usize, &'static Row)> {
        let mut before = 0;
        for row in &ROWS {
            let within = offset.wrapping_sub(row.first);
            if within % row.step == 0 && within / row.step < row.count {
                return Some((before + (within / row.step) as usize, row));
            }
            before += row.count as usize;
        }
        None
    }

    /// Reads; 0 where there is no such register.
    pub fn read(&self, offset: u32) -> u32 {
        Self::find(offset).and_then(|(at, _)| self.values.get(at).copied()).unwrap_or(0)
    }

    pub fn write(&mut self, offset: u32, value: u32) {
        let Some((at, row)) = Self::find(offset) else { return };
        if let Some(register) = self.values.get_mut(at) {
            *register = *register & !row.writable | value & row.writable;
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        self.values.iter().for_each(|value| writer.u32(*value));
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        *self = Held::new();
        for row in &ROWS {
            for index in 0..row.count {
                let value = reader.u32()?;
                self.write(row.first + index * row.step, value);
            }
        }
        Ok(())
    }
}
