use crate::device::{AccessSizes, Action, Device};
use std::sync::atomic::{AtomicU8, Ordering};

/// The port. It lies inside the dword of PCI configuration mechanism 1's address register, which answers only to
/// 4-byte accesses: bytes at 0xCF9 are this register's.
pub const RESET_PORT: u16 = 0xCF9;
/// Written to [`RESET_PORT`], this resets the machine: system reset and the reset bit. For the FADT's RESET_VALUE.
pub const RESET_VALUE: u8 = 0x06;

/// The reset bit: a rising edge resets.
const RESET_CPU: u8 = 1 << 2;
/// Bits that can be read back.
const READABLE: u8 = 1 << 1;

/// The PIIX reset control register. Intel 82371AB data sheet (290562), section 4.2.8.
#[derive(Default)]
pub struct ResetControl(AtomicU8);

impl ResetControl {
    /// The register as after power-on.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for ResetControl {
    fn name(&self) -> &str {
        "reset-control"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0.load(Ordering::Relaxed));
    }

    fn write(&self, _: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        // The reset bit falls back by itself with the reset, so every write of 1 is an edge.
        self.0.store(value & READABLE, Ordering::Relaxed);
        if value & RESET_CPU != 0 { Action::Reset } else { Action::None }
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_bit_resets_and_the_type_reads_back() {
        let register = ResetControl::new();
        assert_eq!(register.write(0, &[0x02]), Action::None);
        let mut data = [0];
        register.read(0, &mut data);
        assert_eq!(data, [0x02]);
        assert_eq!(register.write(0, &[RESET_VALUE]), Action::Reset);
    }
}
