use super::port::Port;
use crate::bus::UsbDevice;
use board::{StateReader, StateWriter};
use std::sync::Arc;

/// Root ports.
pub const PORTS: usize = 2;
/// I/O ports that the registers take.
pub(super) const SIZE: usize = 0x20;

/// Offsets of registers. UHCI, section 2.1.
mod offset {
    pub const USBCMD: usize = 0x00;
    pub const USBSTS: usize = 0x02;
    pub const USBINTR: usize = 0x04;
    pub const FRNUM: usize = 0x06;
    pub const FRBASEADD: usize = 0x08;
    pub const FRBASEADD_HIGH: usize = 0x0A;
    pub const SOFMOD: usize = 0x0C;
    pub const PORTSC1: usize = 0x10;
    pub const PORTSC_LAST: usize = PORTSC1 + 2 * (super::PORTS - 1);
}

/// USBCMD. UHCI, section 2.1.1.
mod command {
    /// RS: run.
    pub const RUN: u16 = 1 << 0;
    pub const HCRESET: u16 = 1 << 1;
    pub const GRESET: u16 = 1 << 2;
    /// EGSM: enter global suspend mode.
    pub const GLOBAL_SUSPEND: u16 = 1 << 3;
    /// FGR: force global resume.
    pub const GLOBAL_RESUME: u16 = 1 << 4;
    /// RS, EGSM, FGR, SWDBG, CF and MAXP. The last three hold their values.
    pub const WRITABLE: u16 = 0x00F9;
}

/// USBSTS. UHCI, section 2.1.2.
mod status {
    /// USBINT: interrupt on complete, or a short packet.
    pub const INTERRUPT: u16 = 1 << 0;
    pub const ERROR: u16 = 1 << 1;
    pub const RESUME: u16 = 1 << 2;
    pub const SYSTEM_ERROR: u16 = 1 << 3;
    pub const PROCESS_ERROR: u16 = 1 << 4;
    pub const HALTED: u16 = 1 << 5;
    /// What is kept as such; the first bit follows from why it is set, the last from RS.
    pub const KEPT: u16 = ERROR | RESUME | SYSTEM_ERROR | PROCESS_ERROR;
}

/// USBINTR. UHCI, section 2.1.3.
mod enable {
    pub const ERROR: u16 = 1 << 0;
    pub const RESUME: u16 = 1 << 1;
    pub const IOC: u16 = 1 << 2;
    pub const SHORT_PACKET: u16 = 1 << 3;
    pub const ALL: u16 = 0xF;
}

const FRNUM_MASK: u16 = 0x7FF;
const FRAME_LIST_MASK: u32 = !0xFFF;
const SOFMOD_MASK: u8 = 0x7F;
/// A frame of 12000 bit times.
const SOFMOD_RESET: u8 = 64;
/// Bit times of a frame when SOFMOD is 0. UHCI, section 2.1.6.
const SHORTEST_FRAME: u64 = 11936;

/// A schedule in which nothing has happened for so many frames is left alone for one more than before.
const FRAMES_OF_REST: u32 = 8;
/// Frames between two looks at the schedule, at most.
const LONGEST_SLEEP: u32 = 64;
/// How long each frame is looked at when a device has a report: drivers ask every 32 frames at least.
pub(super) const ATTENTION: u32 = 40;

/// What stops the controller. UHCI, section 2.1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Host system error: there is no memory where the schedule points to.
    System,
    /// Host controller process error: a transfer descriptor makes no sense.
    Process,
}

/// The fault for memory that is not there.
pub(super) fn system_error(_: hv::MemoryError) -> Fault {
    Fault::System
}

/// The registers, and the bus behind them.
pub(super) struct Controller {
    command: u16,
    status: u16,
    /// Why USBINT is set: interrupt on complete, and a short packet.
    completed: bool,
    short_packet: bool,
    interrupt_enable: u16,
    pub(super) frame_number: u16,
    pub(super) frame_list: u32,
    sofmod: u8,
    pub(super) ports: [Port; PORTS],
    /// Frames since power-on, the clock of devices.
    pub(super) frames: u64,
    /// Frames since something happened last that more may follow.
    pub(super) quiet: u32,
    /// Frames left in which a report is expected to be asked for.
    pub(super) attention: u32,
}

impl Controller {
    /// With nothing plugged in.
    pub fn new() -> Self {
        Controller {
            command: 0,
            status: 0,
            completed: false,
            short_packet: false,
            interrupt_enable: 0,
            frame_number: 0,
            frame_list: 0,
            sofmod: SOFMOD_RESET,
            ports: Default::default(),
            frames: 0,
            quiet: 0,
            attention: 0,
        }
    }

    /// Whether frames follow each other.
    pub fn is_running(&self) -> bool {
        self.command & (command::RUN | command::GLOBAL_SUSPEND) == command::RUN
    }

    /// Whether the interrupt is asserted.
    pub fn interrupt(&self) -> bool {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        self.completed && enabled(enable::IOC)
            || self.short_packet && enabled(enable::SHORT_PACKET)
            || self.status & status::ERROR != 0 && enabled(enable::ERROR)
            || self.status & status::RESUME != 0 && enabled(enable::RESUME)
            || self.status & (status::SYSTEM_ERROR | status::PROCESS_ERROR) != 0
    }

    /// How long a frame is, in ns.
    pub fn frame_length(&self) -> u64 {
        (SHORTEST_FRAME + u64::from(self.sofmod)) * 250 / 3
    }

    /// How many frames from now the schedule is to be looked at: it cannot be seen that a driver puts something there, but in
    /// most of the time it does not, and devices tell of themselves.
    pub fn next_look(&self) -> u32 {
        let mut frames = (self.quiet / FRAMES_OF_REST).clamp(1, LONGEST_SLEEP);
        if self.attention != 0 {
            return 1;
        }
        for due in self.ports.iter().filter_map(|port| port.active_device()?.next_report()) {
            match due.checked_sub(self.frames) {
                Some(0) => return 1,
                Some(left) => frames = frames.min(left.try_into().unwrap_or(u32::MAX)),
                None if self.frames - due < u64::from(ATTENTION) => return 1,
                None => {}
            }
        }
        frames
    }

    /// Frames pass in which nothing is done.
    pub fn skip_frames(&mut self, count: u64) {
        self.frame_number = (u64::from(self.frame_number) + count) as u16 & FRNUM_MASK;
        self.frames = self.frames.wrapping_add(count);
    }

    /// What the frame that ends now has brought about.
    pub fn end_frame(&mut self, completed: bool, short_packet: bool, error: bool) {
        self.completed |= completed;
        self.short_packet |= short_packet;
        if error {
            self.status |= status::ERROR;
        }
        self.skip_frames(1);
    }

    /// The controller stops with an interrupt that cannot be disabled.
    pub fn fail(&mut self, fault: Fault) {
        self.command &= !command::RUN;
        self.status |= match fault {
            Fault::System => status::SYSTEM_ERROR,
            Fault::Process => status::PROCESS_ERROR,
        };
    }

    /// Plugs a device into the first port that is free, and returns its index.
    pub fn plug(&mut self, device: &Arc<dyn UsbDevice>) -> Option<usize> {
        let index = self.ports.iter_mut().position(|port| port.plug(device))?;
        if self.command & command::GLOBAL_SUSPEND != 0 {
            self.resume();
        }
        Some(index)
    }

    /// The suspended bus is woken. UHCI, section 2.1.1, FGR.
    fn resume(&mut self) {
        self.command |= command::GLOBAL_RESUME;
        self.status |= status::RESUME;
    }

    /// The device in port `index` has something to say.
    pub fn wake(&mut self, index: usize) {
        self.attention = ATTENTION;
        let global = self.command & command::GLOBAL_SUSPEND != 0;
        if self.ports.get_mut(index).is_some_and(|port| port.wake(global)) && global {
            self.resume();
        }
    }

    /// All registers.
    pub fn registers(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, word: u16| bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
        put(offset::USBCMD, self.command);
        put(offset::USBSTS, self.usbsts());
        put(offset::USBINTR, self.interrupt_enable);
        put(offset::FRNUM, self.frame_number);
        put(offset::FRBASEADD, self.frame_list as u16);
        put(offset::FRBASEADD_HIGH, (self.frame_list >> 16) as u16);
        put(offset::SOFMOD, self.sofmod.into());
        for (index, port) in self.ports.iter().enumerate() {
            put(offset::PORTSC1 + 2 * index, port.read());
        }
        bytes
    }

    fn usbsts(&self) -> u16 {
        let mut value = self.status;
        if self.completed || self.short_packet {
            value |= status::INTERRUPT;
        }
        if self.command & command::RUN == 0 {
            value |= status::HALTED;
        }
        value
    }

    /// Writes those bits of the register of 2 bytes at `at` that `mask` has.
    pub fn write(&mut self, at: usize, value: u16, mask: u16) {
        if at != offset::USBSTS {
            self.quiet = 0;
        }
        let merge = |old: u16| old & !mask | value & mask;
        match at {
            offset::USBCMD => self.write_command(merge(self.command)),
            offset::USBSTS => {
                self.status &= !(value & mask);
                if value & mask & status::INTERRUPT != 0 {
                    (self.completed, self.short_packet) = (false, false);
                }
            }
            offset::USBINTR => self.interrupt_enable = merge(self.interrupt_enable) & enable::ALL,
            offset::FRNUM if self.command & command::RUN == 0 => {
                self.frame_number = merge(self.frame_number) & FRNUM_MASK;
            }
            offset::FRBASEADD => {
                let low = merge(self.frame_list as u16);
                self.frame_list = (self.frame_list & 0xFFFF_0000 | u32::from(low)) & FRAME_LIST_MASK;
            }
            offset::FRBASEADD_HIGH => {
                let high = merge((self.frame_list >> 16) as u16);
                self.frame_list = self.frame_list & 0xFFFF | u32::from(high) << 16;
            }
            offset::SOFMOD => self.sofmod = merge(self.sofmod.into()) as u8 & SOFMOD_MASK,
            offset::PORTSC1..=offset::PORTSC_LAST => {
                if let Some(port) = self.ports.get_mut((at - offset::PORTSC1) / 2) {
                    port.write(value, mask);
                }
            }
            _ => {}
        }
    }

    fn write_command(&mut self, value: u16) {
        if value & command::GRESET != 0 {
            // The whole bus, as long as the bit is set.
            if self.command & command::GRESET == 0 {
                self.reset_registers();
                self.ports.iter_mut().for_each(Port::bus_reset);
            }
            self.command = command::GRESET;
        } else if value & command::HCRESET != 0 {
            self.reset_registers();
        } else {
            self.command = value & command::WRITABLE;
        }
    }

    fn reset_registers(&mut self) {
        (self.command, self.status, self.interrupt_enable) = (0, 0, 0);
        (self.completed, self.short_packet) = (false, false);
        (self.frame_number, self.frame_list, self.sofmod) = (0, 0, SOFMOD_RESET);
        self.ports.iter_mut().for_each(Port::controller_reset);
    }

    /// As after power-on.
    pub fn reset(&mut self) {
        self.reset_registers();
        self.ports.iter_mut().for_each(Port::reset);
        (self.frames, self.quiet, self.attention) = (0, 0, 0);
    }

    pub fn save(&self, writer: &mut StateWriter) {
        for word in [self.command, self.status, self.interrupt_enable, self.frame_number] {
            writer.u16(word);
        }
        writer.u8(self.completed.into());
        writer.u8(self.short_packet.into());
        writer.u32(self.frame_list);
        writer.u8(self.sofmod);
        writer.u64(self.frames);
        self.ports.iter().for_each(|port| port.save(writer));
    }

    /// # Errors
    /// One sentence; registers and devices are then to be reset.
    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        let [command, status] = [reader.u16()?, reader.u16()?];
        let [interrupt_enable, frame_number] = [reader.u16()?, reader.u16()?];
        let [completed, short_packet] = [reader.bool()?, reader.bool()?];
        let frame_list = reader.u32()?;
        let sofmod = reader.u8()?;
        let frames = reader.u64()?;
        let sane = command & !command::WRITABLE == 0 || command == command::GRESET;
        if !sane || status & !status::KEPT != 0 || interrupt_enable & !enable::ALL != 0 {
            return Err(reader.invalid(&format!("{command:#x}, {status:#x}, {interrupt_enable:#x} in registers")));
        }
        if frame_number & !FRNUM_MASK != 0 || frame_list & !FRAME_LIST_MASK != 0 || sofmod & !SOFMOD_MASK != 0 {
            return Err(reader.invalid(&format!("frame {frame_number:#x} of {frame_list:#x}, SOFMOD {sofmod:#x}")));
        }
        (self.command, self.status, self.interrupt_enable) = (command, status, interrupt_enable);
        (self.completed, self.short_packet) = (completed, short_packet);
        (self.frame_number, self.frame_list, self.sofmod) = (frame_number, frame_list, sofmod);
        (self.frames, self.quiet, self.attention) = (frames, 0, ATTENTION);
        self.ports.iter_mut().try_for_each(|port| port.load(reader))
    }
}
