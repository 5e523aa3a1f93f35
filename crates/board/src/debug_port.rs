use crate::device::{AccessSizes, Action, Device};
use parking_lot::Mutex;
use std::io::Write;

/// Where firmware looks for it.
pub const DEBUG_PORT: u16 = 0x402;
/// What it reads, by which firmware knows it.
const SIGNATURE: u8 = 0xE9;

/// The debug port of SeaBIOS and OVMF: each byte written goes to a sink; its errors are the sink's loss, not the guest's.
pub struct DebugPort {
    sink: Mutex<Box<dyn Write + Send>>,
}

impl DebugPort {
    /// A port that writes to `sink`, one byte a call: it should buffer if that costs.
    pub fn new(sink: Box<dyn Write + Send>) -> Self {
        DebugPort { sink: Mutex::new(sink) }
    }
}

impl Device for DebugPort {
    fn name(&self) -> &str {
        "debug-port"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(SIGNATURE);
    }

    fn write(&self, _: u64, data: &[u8]) -> Action {
        let _ = self.sink.lock().write_all(data);
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Bytes(Sender<u8>);

    impl Write for Bytes {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            data.iter().for_each(|&byte| self.0.send(byte).unwrap());
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn it_shows_its_signature_and_passes_bytes_on() {
        let (sender, receiver) = channel();
        let port = DebugPort::new(Box::new(Bytes(sender)));
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, [0xE9]);
        for byte in *b"ok" {
            assert_eq!(port.write(0, &[byte]), Action::None);
        }
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), b"ok");
    }
}
