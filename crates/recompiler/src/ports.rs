//! I/O ports. A vCPU keeps what it found at the ports it used lately: most accesses are one of many.

use crate::state::Core;
use hv::Port;

/// Ports that are kept, by their numbers.
const KEPT: usize = 16;

#[derive(Default)]
struct Kept {
    port: u16,
    /// Bytes of the access; 0 for nothing.
    size: u8,
    /// Of the bus, when it was asked.
    version: u64,
    /// What answers, where it can be kept.
    found: Option<Box<dyn Port>>,
}

/// What was found lately.
#[derive(Default)]
pub struct Ports([Kept; KEPT]);

impl Core {
    /// Reads an I/O port (`size` 1, 2 or 4). Permissions are checked by the caller.
    pub fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.port_access(port, size, |found| found.read())
            .unwrap_or_else(|| self.device(|bus| bus.pio_read(port, size)))
    }

    /// Writes an I/O port.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) {
        let written = self.port_access(port, size, |found| found.write(value));
        written.unwrap_or_else(|| self.device(|bus| bus.pio_write(port, size, value)));
    }

    /// Lets what is kept of a port answer, if anything is.
    #[inline]
    fn port_access<T>(&mut self, port: u16, size: u8, access: impl FnOnce(&dyn Port) -> T) -> Option<T> {
        let slot = usize::from(port ^ port >> 4) % KEPT;
        let kept = &mut self.ports.0[slot];
        // Asked for first: what is found is as new as this says, or newer.
        let version = self.bus.version();
        if (kept.port, kept.size, kept.version) != (port, size, version) {
            *kept = Kept { port, size, version, found: self.bus.port(port, size) };
        }
        let found = kept.found.take()?;
        let result = self.outside(|_| access(&*found));
        self.ports.0[slot].found = Some(found);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing;
    use hv::{Bus, Port};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Answers even ports, from `version` on with that number, and counts how often it was asked for one.
    #[derive(Default)]
    struct Counting {
        version: AtomicU64,
        asked: AtomicU64,
    }

    struct Answer(u32);

    impl Port for Answer {
        fn read(&self) -> u32 {
            self.0
        }
        fn write(&self, _: u32) {}
    }

    impl Bus for Counting {
        fn pio_read(&self, _: u16, _: u8) -> u32 {
            0xFFFF
        }
        fn pio_write(&self, _: u16, _: u8, _: u32) {}
        fn mmio_read(&self, _: u64, _: &mut [u8]) {}
        fn mmio_write(&self, _: u64, _: &[u8]) {}
        fn version(&self) -> u64 {
            self.version.load(Ordering::SeqCst)
        }
        fn port(&self, port: u16, size: u8) -> Option<Box<dyn Port>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let value = u32::from(port) << 8 | u32::from(size) << 4 | self.version() as u32;
            (port % 2 == 0).then(|| Box::new(Answer(value)) as Box<dyn Port>)
        }
    }

    #[test]
    fn a_port_is_found_once_until_the_bus_changes() {
        let bus = Arc::new(Counting::default());
        let mut core = testing::real_mode();
        core.bus = bus.clone();
        for _ in 0..3 {
            assert_eq!(core.port_read(0x60, 1), 0x6010);
            assert_eq!(core.port_read(0x61, 1), 0xFFFF);
            core.port_write(0x60, 1, 5);
        }
        assert_eq!(bus.asked.load(Ordering::SeqCst), 2);
        assert_eq!(core.port_read(0x60, 2), 0x6020);
        // In the same place.
        assert_eq!(core.port_read(0x160, 2), 0x1_6020);
        assert_eq!(core.port_read(0x60, 2), 0x6020);
        bus.version.store(7, Ordering::SeqCst);
        assert_eq!(core.port_read(0x60, 2), 0x6027);
    }
}
