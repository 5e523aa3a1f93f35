use super::QUEUE_SIZE;
use crate::state::{StateReader, StateWriter};
use std::collections::VecDeque;

const ACKNOWLEDGE: u8 = 0xFA;
const SELF_TEST_PASSED: u8 = 0xAA;
const RESEND: u8 = 0xFE;

/// What keyboard and mouse have in common: bytes on their way to the host and a command that waits for its parameter.
#[derive(Debug, Default)]
struct Link {
    queue: VecDeque<u8>,
    /// Zero when none does.
    waiting: u8,
}

impl Link {
    fn send(&mut self, bytes: &[u8]) {
        let room = QUEUE_SIZE - self.queue.len().min(QUEUE_SIZE);
        self.queue.extend(bytes.iter().take(room));
    }

    fn save(&self, writer: &mut StateWriter) {
        let bytes: Vec<u8> = self.queue.iter().copied().collect();
        writer.u8(self.waiting);
        writer.blob(&bytes);
    }

    fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.waiting = reader.u8()?;
        self.queue = reader.blob()?.iter().copied().take(QUEUE_SIZE).collect();
        Ok(())
    }
}

/// A 101-key keyboard without keys. IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)".
#[derive(Debug)]
pub(super) struct Keyboard {
    link: Link,
    /// Scan code set, 1..=3.
    set: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Keyboard { link: Link::default(), set: 2 }
    }
}

impl Keyboard {
    pub(super) fn queue(&mut self) -> &mut VecDeque<u8> {
        &mut self.link.queue
    }

    /// A byte from the host. `translate`: the controller translates what the keyboard sends to scan code set 1.
    pub(super) fn command(&mut self, value: u8, translate: bool) {
        match (std::mem::take(&mut self.link.waiting), value) {
            (0xF0, 0) => {
                let set = match (translate, self.set) {
                    (true, 1) => 0x43,
                    (true, 2) => 0x41,
                    (true, _) => 0x3F,
                    (false, set) => set,
                };
                self.link.send(&[ACKNOWLEDGE, set]);
            }
            (0xF0, 1..=3) => {
                self.set = value;
                self.link.send(&[ACKNOWLEDGE]);
            }
            // Lights and repeat rate.
            (0xED | 0xF3, 0..=0x7F) => self.link.send(&[ACKNOWLEDGE]),
            (_, 0xED | 0xF0 | 0xF3) => {
                self.link.waiting = value;
                self.link.send(&[ACKNOWLEDGE]);
            }
            (_, 0xEE) => self.link.send(&[0xEE]),
            (_, 0xF2) => self.link.send(&[ACKNOWLEDGE, 0xAB, if translate { 0x41 } else { 0x83 }]),
            (_, 0xF5 | 0xF6) => {
                self.set = 2;
                self.link.send(&[ACKNOWLEDGE]);
            }
            (_, 0xF4 | 0xF7..=0xFA) => self.link.send(&[ACKNOWLEDGE]),
            (_, 0xFF) => {
                *self = Keyboard::default();
                self.link.send(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.link.send(&[RESEND]),
        }
    }

    pub(super) fn save(&self, writer: &mut StateWriter) {
        self.link.save(writer);
        writer.u8(self.set);
    }

    pub(super) fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.link.load(reader)?;
        self.set = reader.u8()?.clamp(1, 3);
        Ok(())
    }
}

/// A two-button mouse that does not move. The same reference, "Mouse".
#[derive(Debug)]
pub(super) struct Mouse {
    link: Link,
    /// Status byte: bit 4 scaling 2:1, bit 5 reporting, bit 6 remote mode.
    status: u8,
    /// Counts a millimetre, as a power of two: 0..=3.
    resolution: u8,
    /// Reports a second.
    rate: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Mouse { link: Link::default(), status: 0, resolution: 2, rate: 100 }
    }
}

impl Mouse {
    const SCALING: u8 = 1 << 4;
    const REPORTING: u8 = 1 << 5;
    const REMOTE: u8 = 1 << 6;

    pub(super) fn queue(&mut self) -> &mut VecDeque<u8> {
        &mut self.link.queue
    }

    /// A byte from the host.
    pub(super) fn command(&mut self, value: u8) {
        match (std::mem::take(&mut self.link.waiting), value) {
            (0xE8, resolution) => self.resolution = resolution & 3,
            (0xF3, rate) => self.rate = rate,
            (_, 0xE6) => self.status &= !Self::SCALING,
            (_, 0xE7) => self.status |= Self::SCALING,
            (_, 0xE8 | 0xF3) => self.link.waiting = value,
            (_, 0xE9) => return self.link.send(&[ACKNOWLEDGE, self.status, self.resolution, self.rate]),
            (_, 0xEA) => self.status &= !Self::REMOTE,
            // A report: no button pressed, no movement (bit 3 is always set).
            (_, 0xEB) => return self.link.send(&[ACKNOWLEDGE, 0x08, 0, 0]),
            (_, 0xF0) => self.status |= Self::REMOTE,
            (_, 0xF2) => return self.link.send(&[ACKNOWLEDGE, 0]),
            (_, 0xF4) => self.status |= Self::REPORTING,
            (_, 0xF5) => self.status &= !Self::REPORTING,
            (_, 0xF6) => *self = Mouse::default(),
            (_, 0xFF) => {
                *self = Mouse::default();
                return self.link.send(&[ACKNOWLEDGE, SELF_TEST_PASSED, 0]);
            }
            _ => return self.link.send(&[RESEND]),
        }
        self.link.send(&[ACKNOWLEDGE]);
    }

    pub(super) fn save(&self, writer: &mut StateWriter) {
        self.link.save(writer);
        for byte in [self.status, self.resolution, self.rate] {
            writer.u8(byte);
        }
    }

    pub(super) fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.link.load(reader)?;
        self.status = reader.u8()? & (Self::SCALING | Self::REPORTING | Self::REMOTE);
        self.resolution = reader.u8()? & 3;
        self.rate = reader.u8()?;
        Ok(())
    }
}
