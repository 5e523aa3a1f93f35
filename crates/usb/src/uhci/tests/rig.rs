//! A controller without a clock, memory with room for schedules, and a device that answers as it is told.

use crate::bus::{Response, Speed, Token, Transaction, UsbDevice, Wake};
use crate::uhci::registers::Controller;
use crate::uhci::schedule::Barren;
use board::{StateReader, StateWriter};
use hv::{GuestMemory, Region};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) const RAM: u64 = 1 << 20;
/// Where tests put things.
pub(super) const FRAME_LIST: u32 = 0x1000;
pub(super) const QUEUE: u32 = 0x3000;
pub(super) const TDS: u32 = 0x4000;
pub(super) const DATA: u32 = 0x8000;

pub(super) const END: u32 = 1;
pub(super) const Q: u32 = 2;
pub(super) const VF: u32 = 4;
pub(super) const ACTIVE: u32 = 1 << 23;
pub(super) const STALLED: u32 = 1 << 22;
pub(super) const BABBLE: u32 = 1 << 20;
pub(super) const NAK: u32 = 1 << 19;
pub(super) const TIMEOUT: u32 = 1 << 18;
pub(super) const IOC: u32 = 1 << 24;
pub(super) const IOS: u32 = 1 << 25;
pub(super) const LOW: u32 = 1 << 26;
pub(super) const SPD: u32 = 1 << 29;
pub(super) const fn errors(count: u32) -> u32 {
    count << 27
}

pub(super) const IN: u32 = 0x69;
pub(super) const OUT: u32 = 0xE1;
pub(super) const SETUP: u32 = 0x2D;

pub(super) const RUN: u16 = 1;
pub(super) const HALTED: u16 = 0x20;
pub(super) const PORT_RESET: u16 = 0x200;
pub(super) const PORT_ENABLE: u16 = 4;
pub(super) const PORT_SUSPEND: u16 = 0x1000;

pub(super) fn token(pid: u32, device: u32, endpoint: u32, toggle: u32, length: u32) -> u32 {
    length.wrapping_sub(1) << 21 | toggle << 19 | endpoint << 15 | device << 8 | pid
}

/// Answers as it was told, and keeps what it was asked.
#[derive(Default)]
pub(super) struct Scripted {
    pub(super) answers: Mutex<VecDeque<Response>>,
    pub(super) asked: Mutex<Vec<(Token, Vec<u8>)>>,
}

impl Scripted {
    pub(super) fn answer(&self, answers: impl IntoIterator<Item = Response>) {
        self.answers.lock().extend(answers);
    }
}

impl UsbDevice for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }
    fn speed(&self) -> Speed {
        Speed::Full
    }
    fn connect(&self, _: Wake) {}
    fn has_report(&self) -> bool {
        false
    }
    fn next_report(&self) -> Option<u64> {
        None
    }
    fn transact(&self, token: Token, transaction: Transaction, _: u64) -> Response {
        let data = match transaction {
            Transaction::Setup(data) | Transaction::Out { data, .. } => data.to_vec(),
            Transaction::In => Vec::new(),
        };
        self.asked.lock().push((token, data));
        self.answers.lock().pop_front().unwrap_or(Response::Nak)
    }
    fn bus_reset(&self) {}
    fn may_wake_host(&self) -> bool {
        true
    }
    fn reset(&self) {}
    fn save(&self, _: &mut StateWriter) {}
    fn load(&self, _: &mut StateReader) -> Result<(), String> {
        Ok(())
    }
}

pub(super) fn data(bytes: &[u8], toggle: bool) -> Response {
    Response::Data { data: bytes.to_vec(), toggle }
}

/// A controller with these devices in its ports.
pub(super) fn controller<const N: usize>(devices: [Arc<dyn UsbDevice>; N]) -> Controller {
    let mut controller = Controller::new();
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(controller.plug(device), Some(index));
    }
    controller
}

pub(super) struct Rig {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) controller: Controller,
}

impl Rig {
    /// A controller that runs, its ports enabled; every frame leads to [`QUEUE`].
    pub(super) fn new<const N: usize>(devices: [Arc<dyn UsbDevice>; N]) -> Self {
        let region = Region { address: 0, size: RAM, offset: 0, readonly: false };
        let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
        let mut rig = Rig { memory, controller: controller(devices) };
        for frame in 0..1024 {
            rig.put(FRAME_LIST + 4 * frame, &[QUEUE | Q]);
        }
        rig.put(QUEUE, &[END, END]);
        for port in [0x10, 0x12] {
            rig.write(port, PORT_RESET);
            rig.write(port, 0);
            rig.write(port, PORT_ENABLE | 2);
        }
        rig.write(0x08, FRAME_LIST as u16);
        rig.write(0x04, 0xF);
        rig.write(0x00, RUN);
        rig
    }

    pub(super) fn scripted() -> (Self, Arc<Scripted>) {
        let device = Arc::new(Scripted::default());
        (Rig::new([device.clone()]), device)
    }

    pub(super) fn put(&self, address: u32, words: &[u32]) {
        for (index, word) in words.iter().enumerate() {
            self.memory.write(u64::from(address) + 4 * index as u64, &word.to_le_bytes()).unwrap();
        }
    }

    pub(super) fn word(&self, address: u32) -> u32 {
        self.memory.load_u32(address.into()).unwrap()
    }

    pub(super) fn bytes<const N: usize>(&self, address: u32) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read(address.into(), &mut bytes).unwrap();
        bytes
    }

    /// Transfer descriptor number `index` with its buffer at [`DATA`].
    pub(super) fn td(&self, index: u32, link: u32, control: u32, token: u32) -> u32 {
        let at = TDS + 0x20 * index;
        self.put(at, &[link, control, token, DATA + 0x800 * index]);
        at
    }

    pub(super) fn control(&self, index: u32) -> u32 {
        self.word(TDS + 0x20 * index + 4)
    }

    pub(super) fn write(&mut self, register: usize, value: u16) {
        self.controller.write(register, value, 0xFFFF);
    }

    pub(super) fn read(&self, register: usize) -> u16 {
        let registers = self.controller.registers();
        u16::from_le_bytes([registers[register], registers[register + 1]])
    }

    pub(super) fn frame(&mut self) {
        self.controller.run_frame(&self.memory, &mut Barren::default());
    }

    /// A control transfer, as drivers do it: one queue, all of it in a frame if it can. `Err` has the status of the transfer
    /// descriptor that failed.
    pub(super) fn request(&mut self, address: u32, speed: u32, setup: [u8; 8], out: &[u8]) -> Result<Vec<u8>, u32> {
        let is_read = setup[0] & 0x80 != 0;
        let length = u32::from(u16::from_le_bytes([setup[6], setup[7]]));
        let control = ACTIVE | errors(3) | speed;
        let mut tds = vec![(SETUP, 0, 8)];
        let mut left = length;
        while left > 0 {
            let size = left.min(8);
            tds.push((if is_read { IN } else { OUT }, tds.len() as u32 & 1, size));
            left -= size;
        }
        tds.push((if is_read && length > 0 { OUT } else { IN }, 1, 0));
        self.memory.write(DATA.into(), &setup).unwrap();
        let last = tds.len() as u32 - 1;
        for (index, &(pid, toggle, size)) in (0..).zip(&tds) {
            let at = TDS + 0x20 * index;
            let link = if index == last { END } else { (at + 0x20) | VF };
            let buffer = if index == 0 { DATA } else { DATA + 0x100 + 8 * (index - 1) };
            let extra = if pid == IN && index != last { SPD } else { 0 };
            self.put(at, &[link, control | extra, token(pid, address, 0, toggle, size), buffer]);
        }
        self.memory.write((DATA + 0x100).into(), out).unwrap();
        self.put(QUEUE, &[END, TDS]);
        let mut read = 0;
        for _ in 0..200 {
            self.frame();
            let index = (self.word(QUEUE + 4) & !0xF).wrapping_sub(TDS) / 0x20;
            let done = self.word(QUEUE + 4) == END;
            let status = if done { 0 } else { self.control(index) };
            if status & STALLED != 0 {
                return Err(status & 0x7E_0000);
            }
            if !done && status & ACTIVE == 0 {
                // A short packet: on to the status.
                self.put(QUEUE + 4, &[TDS + 0x20 * last]);
                continue;
            }
            if done {
                for index in 1..last {
                    let control = self.control(index);
                    if is_read && control & ACTIVE == 0 {
                        read += (control as usize + 1) & 0x7FF;
                    }
                }
                break;
            }
        }
        assert_eq!(self.word(QUEUE + 4), END, "the transfer ends");
        let mut data = vec![0; read];
        self.memory.read((DATA + 0x100).into(), &mut data).unwrap();
        Ok(data)
    }

    /// Asks endpoint 1 of a device for a report.
    pub(super) fn poll(&mut self, address: u32, speed: u32, toggle: u32) -> Option<Vec<u8>> {
        let at = self.td(0, END, ACTIVE | errors(3) | speed, token(IN, address, 1, toggle, 8));
        self.put(QUEUE, &[END, at]);
        self.frame();
        let control = self.control(0);
        if control & ACTIVE != 0 {
            return None;
        }
        assert_eq!(control & 0x7E_0000, 0);
        Some(self.bytes::<8>(DATA)[..(control as usize + 1) & 0x7FF].to_vec())
    }
}

pub(super) fn get_descriptor(kind: u8, index: u8, length: u16) -> [u8; 8] {
    [if kind >= 0x21 { 0x81 } else { 0x80 }, 6, index, kind, 0, 0, length as u8, (length >> 8) as u8]
}

pub(super) const SET_ADDRESS_5: [u8; 8] = [0, 5, 5, 0, 0, 0, 0, 0];
pub(super) const SET_CONFIGURATION_1: [u8; 8] = [0, 9, 1, 0, 0, 0, 0, 0];
