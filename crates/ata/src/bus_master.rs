use board::{StateReader, StateWriter};

/// Command: transfers run. Command: the transfer writes memory.
const START: u8 = 1 << 0;
const TO_MEMORY: u8 = 1 << 3;

/// Status.
const ACTIVE: u8 = 1 << 0;
const ERROR: u8 = 1 << 1;
const INTERRUPT: u8 = 1 << 2;
/// Firmware notes here that it has set up DMA for drive 0, drive 1.
const DRIVES_CAPABLE: u8 = 3 << 5;

/// The bus master registers of one channel, 8 ports. Intel 82371SB data sheet (290550), section 2.7; SFF-8038i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
    /// Started, and no command has used it yet.
    armed: bool,
}

impl BusMaster {
    /// Reads a byte at `offset` 0..8.
    pub fn read(&self, offset: u64) -> u8 {
        match offset {
            0 => self.command,
            2 => self.status,
            4..8 => (self.table >> (8 * (offset - 4))) as u8,
            _ => 0,
        }
    }

    /// Writes a byte at `offset` 0..8. True: a transfer that may be going on has to stop.
    #[must_use]
    pub fn write(&mut self, offset: u64, value: u8) -> bool {
        match offset {
            0 => {
                let before = std::mem::replace(&mut self.command, value & (START | TO_MEMORY));
                match (before & START != 0, value & START != 0) {
                    (false, true) => {
                        self.armed = true;
                        self.status |= ACTIVE;
                    }
                    (true, false) => {
                        self.armed = false;
                        self.status &= !ACTIVE;
                        return true;
                    }
                    _ => {}
                }
            }
            2 => {
                self.status &= !(value & (ERROR | INTERRUPT)) & !DRIVES_CAPABLE;
                self.status |= value & DRIVES_CAPABLE;
            }
            4..8 => {
                let shift = 8 * (offset - 4);
                self.table = (self.table & !(0xFF << shift) | u32::from(value) << shift) & !3;
            }
            _ => {}
        }
        false
    }

    /// Whether a transfer can begin: each start is good for one.
    pub fn armed(&self) -> bool {
        self.armed
    }

    /// Begins a transfer; returns where its descriptors are.
    pub fn begin(&mut self) -> u32 {
        self.armed = false;
        self.table
    }

    /// Ends a transfer. While descriptors are left the bus master stays active, until it is stopped.
    pub fn end(&mut self, descriptors_left: bool) {
        if !descriptors_left {
            self.status &= !ACTIVE;
        }
    }

    /// Ends a transfer at a descriptor that names no memory.
    pub fn fail(&mut self) {
        self.status = self.status & !ACTIVE | ERROR;
    }

    /// The channel's interrupt line has gone high.
    pub fn interrupted(&mut self) {
        self.status |= INTERRUPT;
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.u8(self.command);
        writer.u8(self.status);
        writer.u32(self.table);
        writer.u8(self.armed.into());
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        Ok(BusMaster {
            command: reader.u8()? & (START | TO_MEMORY),
            status: reader.u8()? & (ACTIVE | ERROR | INTERRUPT | DRIVES_CAPABLE),
            table: reader.u32()? & !3,
            armed: reader.bool()?,
        })
    }
}
