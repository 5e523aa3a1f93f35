use crate::edid::{EDID_SIZE, edid};
use crate::frame::{Frame, Rect};
use crate::planes::Copied;
use crate::screen::VGA_PLANES;
use crate::state::State;
use crate::vram::Vram;
use board::pci::{Bar, BarRange, Configuration, Identity, PciBus, PciFunction, ROM_BAR};
use board::{AccessSizes, Action, Buses, Device};
use hv::{GuestMemory, Region};
use parking_lot::Mutex;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Guest physical addresses through which real-mode programs reach video memory. No RAM may lie there.
pub const WINDOW: RangeInclusive<u64> = 0xA_0000..=0xB_FFFF;

/// The VGA's ports. Between them lies a parallel port's.
const PORTS: [RangeInclusive<u16>; 2] = [0x3B0..=0x3BB, 0x3C0..=0x3DF];
/// Index port, data port, and the data port once more where a word is aligned.
const DISPI_PORTS: RangeInclusive<u16> = 0x1CE..=0x1D1;

/// Base address register of video memory.
const MEMORY_BAR: usize = 0;
/// Base address register of registers.
const REGISTERS_BAR: usize = 2;
const REGISTERS_SIZE: u32 = 0x1000;

/// What lies where in the registers' range. QEMU, `docs/specs/standard-vga.rst`.
mod layout {
    /// Up to the ports: EDID.
    pub const PORTS: u64 = 0x400;
    pub const PORTS_END: u64 = 0x420;
    /// The port at [`PORTS`].
    pub const FIRST_PORT: u16 = 0x3C0;
    /// Registers of the Bochs VBE interface, 2 bytes each.
    pub const DISPI: u64 = 0x500;
    pub const DISPI_END: u64 = 0x516;
    /// How many bytes of extended registers there are from here on.
    pub const EXTENDED_SIZE: u64 = 0x600;
    /// The byte order of pixels.
    pub const BYTE_ORDER: u64 = 0x604;
    pub const EXTENDED_END: u64 = 0x608;
}

const BIG_ENDIAN: u32 = 0xBEBE_BEBE;
const LITTLE_ENDIAN: u32 = 0x1E1E_1E1E;

/// Where interrupt controllers answer before memory does, and accelerators keep pages of their own.
const NO_MEMORY: Range<u64> = 0xFEC0_0000..0xFF00_0000;

/// The largest ROM that fits below 1 MiB.
const MAX_ROM: usize = 0x4_0000;
const SMALLEST_ROM: usize = 0x800;

/// The card, a PCI function. Its ports and its window below 1 MiB are devices of their own ([`Vga::attach`]).
///
/// Lock order: `mapped` and `state` are never held together; both before the locks of [`GuestMemory`].
pub struct Vga {
    vram: Vram,
    rom: Vec<u8>,
    edid: [u8; EDID_SIZE],
    power_on: Instant,
    /// Where the guest sees video memory as it sees RAM.
    mapped: Mutex<Option<Range<u64>>>,
    state: Mutex<State>,
}

impl Vga {
    /// A card whose memory of `size` bytes (a power of two from 1 MiB to 256 MiB; 16 MiB hold all modes) lies at `offset`
    /// of what is behind `memory`, where nothing else lies. `rom` is its BIOS, at most 256 KiB; empty for none.
    ///
    /// # Errors
    /// One sentence when there is no such memory or the BIOS is too large.
    pub fn new(memory: Arc<GuestMemory>, offset: u64, size: u64, rom: Vec<u8>) -> Result<Arc<Self>, String> {
        if rom.len() > MAX_ROM {
            return Err(format!("a VGA BIOS of {:#x} bytes is too large, {MAX_ROM:#x} are possible", rom.len()));
        }
        let vram = Vram::new(memory, offset, size)?;
        let state = Mutex::new(State::new(vram.size()));
        let (edid, power_on, mapped) = (edid(), Instant::now(), Mutex::default());
        Ok(Arc::new(Vga { vram, rom, edid, power_on, mapped, state }))
    }

    /// Puts the card into a PCI slot (0..=31), and its ports and its [`WINDOW`] on the buses.
    ///
    /// # Errors
    /// One sentence when another device is in the way.
    pub fn attach(self: &Arc<Self>, buses: &Buses, pci: &PciBus, slot: u8) -> Result<(), String> {
        for range in PORTS {
            let ports = Ports { card: self.clone(), first: *range.start() };
            buses.insert_port(range, Arc::new(ports)).map_err(|error| error.to_string())?;
        }
        buses.insert_port(DISPI_PORTS, Arc::new(DispiPorts(self.clone()))).map_err(|error| error.to_string())?;
        buses.insert_mmio(WINDOW, Arc::new(Window(self.clone()))).map_err(|error| error.to_string())?;
        pci.add(slot, 0, self.clone()).map_err(|error| error.to_string())
    }

    /// Brings a picture up to date and returns what changed, from top to bottom: rectangles that do not overlap, all of the
    /// picture when its size changed. What the guest writes meanwhile shows in part, and otherwise with the next update.
    pub fn update(&self, frame: &mut Frame) -> Vec<Rect> {
        self.update_at(frame, self.power_on.elapsed())
    }

    /// As [`Vga::update`], so long after the card was switched on.
    pub(crate) fn update_at(&self, frame: &mut Frame, time: Duration) -> Vec<Rect> {
        let screen = self.state.lock().screen(time);
        frame.show(screen, &self.vram)
    }

    /// What is written on the screen in a text mode: a line for each row, without its trailing blanks, as if the
    /// characters looked as in code page 437. A dark screen is read as well. `None` in graphics modes.
    pub fn text(&self) -> Option<String> {
        let (text, height) = self.state.lock().text()?;
        let mut planes = vec![0; VGA_PLANES.len() * 4];
        self.vram.read(0, &mut planes);
        Some(text.characters(Copied::new(&planes, VGA_PLANES.start), height))
    }

    /// Shows video memory at a range of guest physical addresses, so that the guest reaches it as RAM. Where that cannot be,
    /// accesses come through the bus.
    fn map(&self, range: Option<Range<u64>>) {
        let memory = self.vram.memory();
        let mut mapped = self.mapped.lock();
        if let Some(old) = mapped.take() {
            let _ = memory.remap(&[old], &[]);
        }
        let fits = |range: &Range<u64>| range.end <= NO_MEMORY.start || range.start >= NO_MEMORY.end;
        if let Some(range) = range.filter(fits) {
            let size = range.end - range.start;
            let region = Region { address: range.start, size, offset: self.vram.offset(), readonly: false };
            if memory.remap(&[], &[region]).is_ok() {
                *mapped = Some(range);
            }
        }
    }

    fn read_ports(&self, first: u16, data: &mut [u8]) {
        self.state.lock().read_ports(first, data, self.power_on.elapsed());
    }

    fn read_registers(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            0..layout::PORTS => {
                for (byte, value) in data.iter_mut().zip(self.edid.iter().skip(offset as usize)) {
                    *byte = *value;
                }
            }
            layout::PORTS..layout::PORTS_END => {
                self.read_ports(layout::FIRST_PORT + (offset - layout::PORTS) as u16, data);
            }
            layout::DISPI..layout::DISPI_END => {
                let state = self.state.lock();
                for (offset, byte) in (offset - layout::DISPI..).zip(data) {
                    *byte = state.dispi.read(offset as u16 / 2).to_le_bytes()[offset as usize % 2];
                }
            }
            layout::EXTENDED_SIZE..layout::EXTENDED_END => {
                let size = (layout::EXTENDED_END - layout::EXTENDED_SIZE) as u32;
                let order = if self.state.lock().big_endian { BIG_ENDIAN } else { LITTLE_ENDIAN };
                let registers = u64::from(order) << 32 | u64::from(size);
                let values = registers.to_le_bytes();
                for (byte, value) in data.iter_mut().zip(&values[(offset - layout::EXTENDED_SIZE) as usize..]) {
                    *byte = *value;
                }
            }
            _ => {}
        }
    }

    fn write_registers(&self, offset: u64, data: &[u8]) {
        let mut state = self.state.lock();
        match (offset, data) {
            (layout::PORTS..layout::PORTS_END, _) => {
                state.write_ports(layout::FIRST_PORT + (offset - layout::PORTS) as u16, data);
            }
            (layout::DISPI..layout::DISPI_END, _) => {
                let first = (offset - layout::DISPI) as u16 / 2;
                for (index, value) in (first..).zip(data.chunks_exact(2)) {
                    state.write_dispi(index, u16::from_le_bytes([value[0], value[1]]), &self.vram);
                }
            }
            (layout::BYTE_ORDER, &[a, b, c, d]) => match u32::from_le_bytes([a, b, c, d]) {
                BIG_ENDIAN => state.big_endian = true,
                LITTLE_ENDIAN => state.big_endian = false,
                _ => {}
            },
            _ => {}
        }
    }
}

impl PciFunction for Vga {
    fn name(&self) -> &str {
        "vga"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x1234,
            device: 0x1111,
            revision: 2,
            class: [0x03, 0x00, 0x00],
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        configuration.add_bar(MEMORY_BAR, Bar::Prefetchable32(self.vram.size()));
        configuration.add_bar(REGISTERS_BAR, Bar::Memory32(REGISTERS_SIZE));
        if !self.rom.is_empty() {
            let size = self.rom.len().next_power_of_two().max(SMALLEST_ROM);
            configuration.add_bar(ROM_BAR, Bar::Rom(size as u32));
        }
        configuration
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        match bar {
            MEMORY_BAR => self.vram.read(offset, data),
            REGISTERS_BAR => self.read_registers(offset, data),
            _ => {
                data.fill(0xFF);
                for (byte, value) in data.iter_mut().zip(self.rom.iter().skip(offset as usize)) {
                    *byte = *value;
                }
            }
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) -> Action {
        match bar {
            MEMORY_BAR => self.vram.write(offset, data),
            REGISTERS_BAR => self.write_registers(offset, data),
            _ => {}
        }
        Action::None
    }

    fn bar_moved(&self, bar: usize, range: Option<&BarRange>) {
        if bar == MEMORY_BAR {
            self.map(match range {
                Some(BarRange::Memory(range)) => range.end().checked_add(1).map(|end| *range.start()..end),
                _ => None,
            });
        }
    }

    fn reset(&self) {
        *self.state.lock() = State::new(self.vram.size());
    }

    fn save(&self) -> Vec<u8> {
        self.state.lock().save()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        *self.state.lock() = State::load(state, self.vram.size())?;
        Ok(())
    }
}

/// A range of the VGA's ports. The card carries the state, as for the devices that follow.
struct Ports {
    card: Arc<Vga>,
    first: u16,
}

impl Device for Ports {
    fn name(&self) -> &str {
        "vga-ports"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.card.read_ports(self.first + offset as u16, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        self.card.state.lock().write_ports(self.first + offset as u16, data);
        Action::None
    }
}

/// The ports of the Bochs VBE interface.
struct DispiPorts(Arc<Vga>);

impl Device for DispiPorts {
    fn name(&self) -> &str {
        "vga-vbe"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 2 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.state.lock().read_dispi_ports(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        self.0.state.lock().write_dispi_ports(offset, data, &self.0.vram);
        Action::None
    }
}

/// Video memory at [`WINDOW`].
struct Window(Arc<Vga>);

impl Device for Window {
    fn name(&self) -> &str {
        "vga-window"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 8 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.state.lock().read_window(&self.0.vram, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        self.0.state.lock().write_window(&self.0.vram, offset, data);
        Action::None
    }
}
