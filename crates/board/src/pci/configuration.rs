use std::ops::RangeInclusive;

/// Bytes of a function's configuration space under configuration mechanism 1.
pub const CONFIGURATION_SIZE: usize = 256;

/// Register offsets of the type 0 header. PCI Local Bus 3.0, section 6.1.
pub mod register {
    /// Command, 2 bytes.
    pub const COMMAND: u8 = 0x04;
    /// Status, 2 bytes.
    pub const STATUS: u8 = 0x06;
    /// Header type; bit 7 says that the slot has several functions.
    pub const HEADER_TYPE: u8 = 0x0E;
    /// The first of six base address registers of 4 bytes.
    pub const BAR0: u8 = 0x10;
    /// Expansion ROM base address, 4 bytes; bit 0 enables decoding.
    pub const ROM: u8 = 0x30;
    /// Offset of the first capability.
    pub const CAPABILITIES: u8 = 0x34;
    /// The interrupt line as firmware noted it.
    pub const INTERRUPT_LINE: u8 = 0x3C;
    /// The INTx pin: 0 none, 1 INTA# … 4 INTD#.
    pub const INTERRUPT_PIN: u8 = 0x3D;
}

/// Base address registers of a function; the expansion ROM's counts as the last.
pub(super) const BARS: usize = 7;
/// Number of the expansion ROM base address register, wherever a base address register is named by number.
pub const ROM_BAR: usize = 6;

/// Expansion ROM base address register: the ROM answers.
const ROM_ENABLE: u32 = 1 << 0;

/// Command register: the function answers I/O accesses.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command register: the function answers memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: the function may access memory.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command register: INTx stays low.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status register: INTx is asserted.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status register: there is a list of capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Command bits a guest can change: I/O, memory, master, parity, SERR#, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0547;

/// Who a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code, highest byte first: base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// What a base address register decodes. Sizes are in bytes and powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// I/O ports, 4 to 256.
    Io(u16),
    /// Memory below 4 GiB, at least 16 bytes.
    Memory32(u32),
    /// As `Memory32`, and prefetchable: reads change nothing and bytes may be merged.
    Prefetchable32(u32),
    /// Memory anywhere, at least 16 bytes; takes this register and the next.
    Memory64(u64),
    /// The expansion ROM, 2 KiB to 16 MiB below 4 GiB; register [`ROM_BAR`] alone.
    Rom(u32),
}

impl Bar {
    /// Bytes or ports decoded.
    pub fn size(&self) -> u64 {
        match *self {
            Bar::Io(size) => u64::from(size),
            Bar::Memory32(size) | Bar::Prefetchable32(size) | Bar::Rom(size) => u64::from(size),
            Bar::Memory64(size) => size,
        }
    }
}

/// Where a base address register has been put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BarRange {
    /// I/O ports.
    Io(RangeInclusive<u16>),
    /// Guest physical addresses.
    Memory(RangeInclusive<u64>),
}

/// A function's configuration space with a type 0 header: its bytes and which of their bits a guest can write.
#[derive(Clone)]
pub struct Configuration {
    bytes: [u8; CONFIGURATION_SIZE],
    writable: [u8; CONFIGURATION_SIZE],
    bars: [Option<Bar>; BARS],
    last_capability: Option<u8>,
    next_capability: usize,
}

impl Configuration {
    /// A header without base addresses, capabilities or interrupt pin.
    pub fn new(identity: Identity) -> Self {
        let mut configuration = Configuration {
            bytes: [0; CONFIGURATION_SIZE],
            writable: [0; CONFIGURATION_SIZE],
            bars: [None; BARS],
            last_capability: None,
            next_capability: 0x40,
        };
        let [class, subclass, interface] = identity.class;
        configuration.set(0x00, &identity.vendor.to_le_bytes());
        configuration.set(0x02, &identity.device.to_le_bytes());
        configuration.set(0x08, &[identity.revision, interface, subclass, class]);
        configuration.set(0x2C, &identity.subsystem_vendor.to_le_bytes());
        configuration.set(0x2E, &identity.subsystem.to_le_bytes());
        configuration.set_writable(register::COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // Cache line size and interrupt line hold what firmware and system put there.
        configuration.set_writable(0x0C, &[0xFF]);
        configuration.set_writable(register::INTERRUPT_LINE, &[0xFF]);
        configuration
    }

    /// Lets the function use INTx pin 1 (INTA#) to 4 (INTD#).
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        self.set(register::INTERRUPT_PIN, &[pin]);
    }

    /// Declares base address register `index`, 0..=5, or [`ROM_BAR`].
    ///
    /// # Panics
    /// When the index or size is not one that a register can have, or the register is taken.
    pub fn add_bar(&mut self, index: usize, bar: Bar) {
        let size = bar.size();
        let (flags, smallest, largest) = match bar {
            Bar::Io(_) => (1, 4, 256),
            Bar::Memory32(_) => (0, 16, 1 << 31),
            Bar::Prefetchable32(_) => (8, 16, 1 << 31),
            Bar::Memory64(_) => (4, 16, 1 << 40),
            Bar::Rom(_) => (0, 1 << 11, 1 << 24),
        };
        assert_eq!(index == ROM_BAR, matches!(bar, Bar::Rom(_)), "BAR {index} is not for this");
        assert!(size.is_power_of_two() && (smallest..=largest).contains(&size), "BAR {index} of {size} bytes");
        let in_use = |bar: &Option<Bar>| matches!(bar, Some(Bar::Memory64(_)));
        assert!(self.bars[index].is_none() && !self.bars[..index].last().is_some_and(in_use), "BAR {index} is taken");
        let at = bar_register(index);
        let mask = !(size - 1);
        self.set(at, &[flags]);
        let enable = if index == ROM_BAR { ROM_ENABLE } else { 0 };
        self.set_writable(at, &(mask as u32 | enable).to_le_bytes());
        if flags == 4 {
            assert!(index < 5 && self.bars[index + 1].is_none(), "a 64-bit BAR takes two registers");
            self.set_writable(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[index] = Some(bar);
    }

    /// What register `index` decodes.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// Where register `index` answers now; `None` when it is not decoded, holds zero or reaches beyond its space.
    pub fn bar_range(&self, index: usize) -> Option<BarRange> {
        let bar = self.bar(index)?;
        let at = bar_register(index);
        let command = self.u16(register::COMMAND);
        let base = match bar {
            Bar::Io(_) => u64::from(self.u32(at) & !3),
            Bar::Memory32(_) | Bar::Prefetchable32(_) => u64::from(self.u32(at) & !15),
            // PCI Local Bus 3.0, section 6.2.5.2: decoded when enabled here and in the command register.
            Bar::Rom(_) if self.u32(at) & ROM_ENABLE == 0 => return None,
            Bar::Rom(_) => u64::from(self.u32(at) & !0x7FF),
            Bar::Memory64(_) => u64::from(self.u32(at) & !15) | u64::from(self.u32(at + 4)) << 32,
        };
        let last = base.checked_add(bar.size() - 1)?;
        let decoded = if matches!(bar, Bar::Io(_)) { COMMAND_IO } else { COMMAND_MEMORY };
        if command & decoded == 0 || base == 0 {
            return None;
        }
        match bar {
            Bar::Io(_) => Some(BarRange::Io(u16::try_from(base).ok()?..=u16::try_from(last).ok()?)),
            _ => Some(BarRange::Memory(base..=last)),
        }
    }

    /// Puts the address of register `index` without regard to what is there; low bits stay what the kind of
    /// register says.
    pub fn set_bar_address(&mut self, index: usize, address: u64) {
        let at = bar_register(index);
        self.write(at, &(address as u32).to_le_bytes());
        if matches!(self.bar(index), Some(Bar::Memory64(_))) {
            self.write(at + 4, &((address >> 32) as u32).to_le_bytes());
        }
    }

    /// Appends a capability: its ID, then `body` from the third byte on, of which a guest can change the bits set in
    /// `writable`. Returns its offset. PCI Local Bus 3.0, section 6.7.
    ///
    /// # Panics
    /// When configuration space is full.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.next_capability;
        assert!(at + 2 + body.len().max(writable.len()) <= CONFIGURATION_SIZE, "configuration space is full");
        let offset = at as u8;
        self.bytes[at] = id;
        self.bytes[at + 2..][..body.len()].copy_from_slice(body);
        self.writable[at + 2..][..writable.len()].copy_from_slice(writable);
        match self.last_capability {
            Some(last) => self.bytes[usize::from(last) + 1] = offset,
            None => {
                self.bytes[usize::from(register::CAPABILITIES)] = offset;
                let status = self.u16(register::STATUS) | STATUS_CAPABILITIES;
                self.set(register::STATUS, &status.to_le_bytes());
            }
        }
        self.last_capability = Some(offset);
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        offset
    }

    /// The offset of the first capability with this ID.
    pub fn capability(&self, id: u8) -> Option<u8> {
        let mut at = self.u8(register::CAPABILITIES);
        // The list was built by `add_capability` and no guest can write its links: it ends.
        while at != 0 {
            if self.u8(at) == id {
                return Some(at);
            }
            at = self.u8(at + 1);
        }
        None
    }

    /// Sets bytes from `offset` on, whether a guest can write them or not; what reaches beyond the end is dropped.
    pub fn set(&mut self, offset: u8, data: &[u8]) {
        for (byte, value) in self.bytes[usize::from(offset)..].iter_mut().zip(data) {
            *byte = *value;
        }
    }

    /// Says which bits from `offset` on a guest can change.
    pub fn set_writable(&mut self, offset: u8, masks: &[u8]) {
        for (byte, mask) in self.writable[usize::from(offset)..].iter_mut().zip(masks) {
            *byte = *mask;
        }
    }

    /// Reads as a guest does; bytes beyond the end stay as they are in `data`.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (value, byte) in data.iter_mut().zip(&self.bytes[usize::from(offset)..]) {
            *value = *byte;
        }
    }

    /// Writes as a guest does: only writable bits change.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        let at = usize::from(offset);
        for ((byte, mask), value) in self.bytes[at..].iter_mut().zip(&self.writable[at..]).zip(data) {
            *byte = *byte & !mask | value & mask;
        }
    }

    /// The byte at `offset`.
    pub fn u8(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// The 2 bytes at `offset`.
    pub fn u16(&self, offset: u8) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The 4 bytes at `offset`.
    pub fn u32(&self, offset: u8) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// All bytes, for a snapshot.
    pub fn bytes(&self) -> &[u8; CONFIGURATION_SIZE] {
        &self.bytes
    }

    /// Loads what [`Configuration::bytes`] gave. False, with nothing changed, when they differ in bits that no guest
    /// can write: another function's, or tampered with.
    #[must_use]
    pub fn load(&mut self, bytes: &[u8; CONFIGURATION_SIZE]) -> bool {
        let same = self.bytes.iter().zip(bytes).zip(&self.writable).all(|((now, new), mask)| (now ^ new) & !mask == 0);
        if same {
            self.bytes = *bytes;
        }
        same
    }
}

/// Offset of base address register `index`.
fn bar_register(index: usize) -> u8 {
    if index == ROM_BAR { register::ROM } else { register::BAR0 + 4 * index as u8 }
}
