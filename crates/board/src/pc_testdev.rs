use crate::device::{AccessSizes, Action, Device};
use crate::line::{GSI_COUNT, IrqLine, IrqLines};
use crate::{BusError, Buses};
use parking_lot::Mutex;
use std::sync::Arc;

/// Four bytes that read as written.
const LATCH_PORT: u16 = 0xE0;
/// Where a guest announces that it changed a page table. Translations are dropped by the architecture's rules here.
const FLUSH_PORT: u16 = 0xE4;
/// A port for each interrupt line: its level is what was written.
const LINES_PORT: u16 = 0x2000;
/// Memory that every access leaves the processor for.
const MEMORY_ADDRESS: u64 = 0xFF00_0000;
const MEMORY_SIZE: usize = 0x1_0000;

/// QEMU's `pc-testdev`: interrupt lines, ports and memory for the tests of a processor to play with.
pub struct PcTestdev;

impl PcTestdev {
    /// Puts its parts on a machine's buses.
    ///
    /// # Errors
    /// One of its ranges is taken.
    pub fn insert(buses: &Buses, lines: &IrqLines) -> Result<(), BusError> {
        let levels = (0..GSI_COUNT).filter_map(|gsi| lines.line(gsi).ok()).collect();
        buses.insert_port(LATCH_PORT..=LATCH_PORT + 3, Memory::new(4))?;
        buses.insert_port(FLUSH_PORT..=FLUSH_PORT + 3, Arc::new(Flush))?;
        buses.insert_port(LINES_PORT..=LINES_PORT + GSI_COUNT as u16 - 1, Arc::new(Lines(levels)))?;
        buses.insert_mmio(MEMORY_ADDRESS..=MEMORY_ADDRESS + MEMORY_SIZE as u64 - 1, Memory::new(MEMORY_SIZE))
    }
}

/// Bytes that read as they were written.
struct Memory(Mutex<Box<[u8]>>);

impl Memory {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Memory(Mutex::new(vec![0; size].into_boxed_slice())))
    }
}

impl Device for Memory {
    fn name(&self) -> &str {
        "pc-testdev memory"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 8 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let memory = self.0.lock();
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = memory.get(at).copied().unwrap_or(0xFF);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let mut memory = self.0.lock();
        for (at, byte) in (offset as usize..).zip(data) {
            if let Some(place) = memory.get_mut(at) {
                *place = *byte;
            }
        }
        Action::None
    }

    fn reset(&self) {
        self.0.lock().fill(0);
    }
}

struct Flush;

impl Device for Flush {
    fn name(&self) -> &str {
        "pc-testdev flush"
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn write(&self, _: u64, _: &[u8]) -> Action {
        Action::None
    }
}

struct Lines(Vec<IrqLine>);

impl Device for Lines {
    fn name(&self) -> &str {
        "pc-testdev lines"
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        if let Some(line) = self.0.get(offset as usize) {
            line.set(data.iter().any(|&byte| byte != 0));
        }
        Action::None
    }

    fn reset(&self) {
        self.0.iter().for_each(|line| line.set(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv::{Bus, Interrupts, Msi};

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool)>>);

    impl Interrupts for Log {
        fn set_line(&self, gsi: u32, high: bool) {
            self.0.lock().push((gsi, high));
        }

        fn signal_msi(&self, _: Msi) {}
    }

    #[test]
    fn lines_follow_their_ports_and_memory_keeps_what_was_written() {
        let log = Arc::new(Log::default());
        let buses = Buses::new();
        PcTestdev::insert(&buses, &IrqLines::new(log.clone())).expect("its ranges are free");
        buses.pio_write(0x200B, 4, 1);
        buses.pio_write(0x200B, 4, 1);
        buses.pio_write(0x200B, 1, 0);
        assert_eq!(*log.0.lock(), [(11, true), (11, false)]);

        buses.pio_write(0xE0, 4, 0x1234_5678);
        assert_eq!(buses.pio_read(0xE1, 1), 0x56);
        buses.mmio_write(0xFF00_FFF8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut read = [0; 16];
        buses.mmio_read(0xFF00_FFF0, &mut read);
        assert_eq!(read, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
