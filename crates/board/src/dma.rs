//! The ISA bus's DMA: two 8237A controllers, the second of which passes on the requests of the first, and the page
//! registers beside them. Intel 8237A data sheet; IBM PC/AT Technical Reference, "Direct Memory Access (DMA)".

mod chip;

use crate::{AccessSizes, Action, BusError, Buses, Device, StateReader, StateWriter};
use chip::{Chip, Kind, Run};
use hv::GuestMemory;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// First port of the controller of channels 0 to 3, whose registers are a port each.
const FIRST_PORT: u16 = 0x00;
/// First of the page registers.
const PAGE_PORT: u16 = 0x80;
/// First port of the controller of channels 4 to 7, whose registers are two ports each.
const SECOND_PORT: u16 = 0xC0;
/// Page registers by channel: offsets from [`PAGE_PORT`]. That of channel 4 belongs to the refresh of memory. The others are
/// bytes to keep; what is written to the first is a POST code.
const PAGES: [usize; 8] = [0x7, 0x3, 0x1, 0x2, 0xF, 0xB, 0x9, 0xA];
/// The channel through which the first controller's requests come.
const CASCADE: u8 = 4;
const PAGE_SIZE: u64 = 4096;
const STATE_VERSION: u32 = 1;

/// Both controllers as a BIOS leaves them: all channels are masked but the one through which the second serves the first.
///
/// Bytes move when the device offers them: all modes but cascade are alike, priorities decide nothing, and neither timing nor
/// the senses of DREQ and DACK matter. There is no memory-to-memory transfer, as on the 82371SB. Addresses count within 64 KiB
/// (128 KiB on channels 5 to 7). Only RAM is reached: elsewhere reads give all ones and writes are lost.
///
/// Lock order: `chips` is a leaf; memory is accessed without it.
pub struct Dma {
    memory: Arc<GuestMemory>,
    /// Written all the time by programs that only want to wait: no lock.
    pages: [AtomicU8; 16],
    chips: Mutex<[Chip; 2]>,
}

/// A device's connection to a channel: DREQ, DACK and EOP.
pub struct DmaChannel {
    dma: Arc<Dma>,
    number: u8,
}

/// What a channel did with the data it was offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes moved. None: the channel is masked, or set up for something else.
    pub bytes: usize,
    /// The last of them ended the channel's count (EOP).
    pub terminal_count: bool,
}

impl Dma {
    /// The controllers of a machine with this memory.
    pub fn new(memory: Arc<GuestMemory>) -> Arc<Self> {
        Arc::new(Dma { memory, pages: Default::default(), chips: Mutex::new(after_reset()) })
    }

    /// Puts the controllers and the page registers on the bus.
    ///
    /// # Errors
    /// When their ports are taken.
    pub fn insert(self: &Arc<Self>, buses: &Buses) -> Result<(), BusError> {
        for (first, size, part) in
            [(FIRST_PORT, 16, Part::First), (PAGE_PORT, 16, Part::Pages), (SECOND_PORT, 32, Part::Second)]
        {
            buses.insert_port(first..=first + (size - 1), Arc::new(Ports { dma: self.clone(), part }))?;
        }
        Ok(())
    }

    /// A connection to channel 0 to 3 (bytes) or 5 to 7 (words of 16 bits); `None` for other numbers.
    pub fn channel(self: &Arc<Self>, number: u8) -> Option<DmaChannel> {
        (number < 8 && number != CASCADE).then(|| DmaChannel { dma: self.clone(), number })
    }

    /// The bytes of a unit of a channel as its controller counts.
    fn unit(number: u8) -> usize {
        if number < CASCADE { 1 } else { 2 }
    }

    /// Counts up to `bytes` on a channel. `None` when the channel does not serve this kind of transfer now.
    fn advance(&self, number: u8, bytes: usize, kind: Kind) -> Option<Run> {
        let mut chips = self.chips.lock();
        let [first, second] = &mut *chips;
        match number < CASCADE {
            true if !second.cascades() => None,
            true => first.advance(number.into(), bytes, kind),
            false => second.advance(usize::from(number - CASCADE), bytes / 2, kind),
        }
    }

    /// Calls `each` with the address and the place in the data of all pieces of a run that lie together in memory, none of
    /// which crosses a page's end.
    fn pieces(&self, number: u8, run: &Run, mut each: impl FnMut(u64, std::ops::Range<usize>)) {
        let unit = Self::unit(number);
        let page = u64::from(self.pages[PAGES[usize::from(number)]].load(Ordering::Relaxed));
        let base = if unit == 1 { page << 16 } else { (page & 0xFE) << 16 };
        let mut done = 0;
        while done < run.units {
            let offset =
                if run.down { run.start.wrapping_sub(done as u16) } else { run.start.wrapping_add(done as u16) };
            let address = base + u64::from(offset) * unit as u64;
            let together = (PAGE_SIZE - address % PAGE_SIZE) as usize / unit;
            let count = if run.down { 1 } else { together.min(run.units - done) };
            each(address, done * unit..(done + count) * unit);
            done += count;
        }
    }
}

impl DmaChannel {
    /// Drives DREQ, which the guest sees in the status register.
    pub fn request(&self, wanted: bool) {
        let (chip, channel) = (usize::from(self.number / CASCADE), usize::from(self.number % CASCADE));
        self.dma.chips.lock()[chip].set_request(channel, wanted);
    }

    /// Offers `data` to memory. A channel that verifies takes them and leaves memory alone.
    pub fn to_memory(&self, data: &[u8]) -> Moved {
        let Some(run) = self.dma.advance(self.number, data.len(), Kind::Write) else { return Moved::default() };
        if !run.verify {
            self.dma.pieces(self.number, &run, |address, place| {
                // No RAM there: nobody takes them.
                let _ = self.dma.memory.write(address, &data[place]);
            });
        }
        run.moved(Dma::unit(self.number))
    }

    /// Asks for `data` from memory; what is beyond the bytes moved stays as it is.
    pub fn from_memory(&self, data: &mut [u8]) -> Moved {
        let Some(run) = self.dma.advance(self.number, data.len(), Kind::Read) else { return Moved::default() };
        self.dma.pieces(self.number, &run, |address, place| {
            let data = &mut data[place];
            if self.dma.memory.read(address, data).is_err() {
                data.fill(0xFF);
            }
        });
        run.moved(Dma::unit(self.number))
    }
}

impl Run {
    fn moved(&self, unit: usize) -> Moved {
        Moved { bytes: self.units * unit, terminal_count: self.terminal_count }
    }
}

fn after_reset() -> [Chip; 2] {
    let mut chips: [Chip; 2] = Default::default();
    chips[1].cascade();
    chips
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Carries the state of all.
    First,
    Pages,
    Second,
}

struct Ports {
    dma: Arc<Dma>,
    part: Part,
}

impl Device for Ports {
    fn name(&self) -> &str {
        match self.part {
            Part::First => "dma",
            Part::Pages => "dma-pages",
            Part::Second => "dma-second",
        }
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(match self.part {
            Part::First => self.dma.chips.lock()[0].read(offset as u8),
            Part::Second => self.dma.chips.lock()[1].read(offset as u8 / 2),
            Part::Pages => self.dma.pages[offset as usize & 0xF].load(Ordering::Relaxed),
        });
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        match self.part {
            Part::First => {
                let mut chips = self.dma.chips.lock();
                let open = chips[1].cascades();
                chips[0].write(offset as u8, value, open);
            }
            Part::Second => self.dma.chips.lock()[1].write(offset as u8 / 2, value, true),
            Part::Pages => self.dma.pages[offset as usize & 0xF].store(value, Ordering::Relaxed),
        }
        Action::None
    }

    fn reset(&self) {
        match self.part {
            Part::First => *self.dma.chips.lock() = after_reset(),
            Part::Pages => self.dma.pages.iter().for_each(|page| page.store(0, Ordering::Relaxed)),
            Part::Second => {}
        }
    }

    fn save(&self) -> Vec<u8> {
        if self.part != Part::First {
            return Vec::new();
        }
        let mut writer = StateWriter::new(STATE_VERSION);
        self.dma.chips.lock().iter().for_each(|chip| chip.save(&mut writer));
        writer.blob(&self.dma.pages.each_ref().map(|page| page.load(Ordering::Relaxed)));
        writer.finish()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        if self.part != Part::First {
            return Ok(());
        }
        let mut reader = StateReader::new(self.name(), state, STATE_VERSION)?;
        let chips = [Chip::load(&mut reader)?, Chip::load(&mut reader)?];
        let pages: [u8; 16] = reader.blob()?.try_into().map_err(|_| reader.invalid("it has not 16 page registers"))?;
        reader.finish()?;
        *self.dma.chips.lock() = chips;
        self.dma.pages.iter().zip(pages).for_each(|(page, value)| page.store(value, Ordering::Relaxed));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
