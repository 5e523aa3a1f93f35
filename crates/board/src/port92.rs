use crate::device::{AccessSizes, Action, Device};
use std::sync::atomic::{AtomicU8, Ordering};

const FAST_INIT: u8 = 1 << 0;
const A20: u8 = 1 << 1;

/// System control port A at 0x92: fast A20 and fast reset. Intel 82371AB data sheet (290562), section 4.2.7.
///
/// Address line 20 is never masked; the bit is kept for software that reads it back.
pub struct Port92(AtomicU8);

impl Default for Port92 {
    fn default() -> Self {
        Self::new()
    }
}

impl Port92 {
    /// The port as after power-on: A20 on.
    pub fn new() -> Self {
        Port92(AtomicU8::new(A20))
    }
}

impl Device for Port92 {
    fn name(&self) -> &str {
        "port92"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0.load(Ordering::Relaxed));
    }

    fn write(&self, _: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        let before = self.0.swap(value & (A20 | FAST_INIT), Ordering::Relaxed);
        if value & !before & FAST_INIT != 0 { Action::Reset } else { Action::None }
    }

    fn reset(&self) {
        self.0.store(A20, Ordering::Relaxed);
    }

    fn save(&self) -> Vec<u8> {
        vec![self.0.load(Ordering::Relaxed)]
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let &[value] = state else {
            return Err(format!("the saved state of port92 has {} bytes instead of 1", state.len()));
        };
        self.0.store(value & (A20 | FAST_INIT), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rising_reset_bit_resets_once_and_a20_reads_back() {
        let port = Port92::new();
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, [A20]);
        assert_eq!(port.write(0, &[A20 | FAST_INIT]), Action::Reset);
        assert_eq!(port.write(0, &[FAST_INIT]), Action::None);
        port.read(0, &mut data);
        assert_eq!(data, [FAST_INIT]);
    }
}
