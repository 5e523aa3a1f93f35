use crate::device::{Action, Device};

/// The first of its four ports, where test guests expect it.
pub const DEBUG_EXIT_PORT: u16 = 0xF4;

/// `isa-debug-exit`: a write ends the machine with status `(value << 1) | 1`, cut to 8 bits as exit statuses are.
pub struct DebugExit;

impl Device for DebugExit {
    fn name(&self) -> &str {
        "isa-debug-exit"
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn write(&self, _: u64, data: &[u8]) -> Action {
        data.first().map_or(Action::None, |value| Action::Exit(value << 1 | 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_odd_and_says_what_was_written() {
        assert_eq!(DebugExit.write(0, &[0x10, 0, 0, 0]), Action::Exit(0x21));
        assert_eq!(DebugExit.write(3, &[0x80]), Action::Exit(1));
    }
}
