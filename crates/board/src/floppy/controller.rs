//! The controller: registers, phases, and the commands that need no track. 82078 data sheet, sections 2, 5 and 6.

mod saved;

use super::command::{Command, INWARDS, LOCK, LONGEST, MFM, MULTI_TRACK, SKIP};
use super::drive::{Drive, FloppyDrive, Id, Place};
use super::execution::{Execution, Io, Next, Operation, Request};
use super::status;
use crate::DmaChannel;
use block::BlockError;

/// Offsets of the registers.
pub(super) mod register {
    pub const SRA: u8 = 0;
    pub const SRB: u8 = 1;
    pub const DOR: u8 = 2;
    pub const TDR: u8 = 3;
    /// MSR when read, DSR when written.
    pub const MSR_DSR: u8 = 4;
    pub const FIFO: u8 = 5;
    /// DIR when read, CCR when written.
    pub const DIR_CCR: u8 = 7;
}

const DOR_NOT_RESET: u8 = 1 << 2;
const DOR_DMAGATE: u8 = 1 << 3;
const DOR_DRIVE: u8 = 3;

const MSR_RQM: u8 = 1 << 7;
const MSR_DIO: u8 = 1 << 6;
const MSR_NON_DMA: u8 = 1 << 5;
const MSR_BUSY: u8 = 1 << 4;

const DSR_RESET: u8 = 1 << 7;
const DSR_PRECOMPENSATION: u8 = 7 << 2;
const RATE: u8 = 3;

const DIR_CHANGED: u8 = 1 << 7;

const SRA_INTERRUPT: u8 = 1 << 7;
const SRA_NO_DRIVE_2: u8 = 1 << 6;
const SRA_NOT_TRACK_0: u8 = 1 << 4;
const SRA_HEAD: u8 = 1 << 3;
const SRA_NOT_INDEX: u8 = 1 << 2;
const SRA_NOT_PROTECTED: u8 = 1 << 1;

/// Of CONFIGURE: implied seeks, no FIFO, the FIFO's threshold.
const IMPLIED_SEEK: u8 = 1 << 6;
const NO_FIFO: u8 = 1 << 5;
const THRESHOLD: u8 = 0xF;
/// Of SPECIFY: the host moves data.
const NON_DMA: u8 = 1 << 0;
/// Of PERPENDICULAR MODE: the drives' bits count; those bits; WGATE and GAP.
const OVERWRITE: u8 = 1 << 7;
const PERPENDICULAR_DRIVES: u8 = 0xF << 2;
const PERPENDICULAR_GAP: u8 = 3;
/// Of VERIFY: the last byte counts sectors.
const ENABLE_COUNT: u8 = 1 << 7;

const VERSION: u8 = 0x90;
/// The 44-pin 82078.
const PART_ID: u8 = 0x41;

/// Bytes of the longest result.
const LONGEST_RESULT: usize = 10;
const RATE_AFTER_RESET: u8 = 2;

/// What comes next for the thread.
pub(super) enum Work {
    /// Nothing, until the host does something.
    Nothing,
    /// The DMA channel is to be looked at again after a while.
    Later,
    /// An image is to be worked on; then [`Controller::complete`].
    Io(Io, u64),
}

enum Phase {
    /// The bytes of a command so far, fewer than it has.
    Command {
        bytes: [u8; LONGEST],
        length: usize,
    },
    Execution(Box<Execution>),
    /// `interrupts`: that there is a result is told, until its first byte is read.
    Result {
        bytes: [u8; LONGEST_RESULT],
        length: usize,
        next: usize,
        interrupts: bool,
    },
}

const IDLE: Phase = Phase::Command { bytes: [0; LONGEST], length: 0 };

/// The controller and its drives, as the host's accesses and the thread use them in turn.
pub(super) struct Controller {
    channel: DmaChannel,
    drives: [Option<Drive>; 2],
    dor: u8,
    tdr: u8,
    precompensation: u8,
    rate: u8,
    /// The two bytes of SPECIFY, that of CONFIGURE and PRETRK, the last EOT or SC, and what PERPENDICULAR MODE has set.
    specified: [u8; 2],
    configured: u8,
    precompensation_track: u8,
    last: u8,
    perpendicular: u8,
    locked: bool,
    /// PCN of each drive.
    cylinders: [u8; 4],
    /// Counts the sectors that READ ID has seen pass.
    turn: u8,
    phase: Phase,
    /// The reset is over and not yet told.
    reset_ended: bool,
    /// ST0 of each drive that seeks, as it will be told, and of each that SENSE INTERRUPT STATUS finds.
    seeking: [Option<u8>; 4],
    sensed: [Option<u8>; 4],
    /// The interrupt that SENSE INTERRUPT STATUS answers.
    told: bool,
    /// Counts resets, behind which nobody cares for what was done before.
    generation: u64,
    /// The thread works for the command.
    working: bool,
}

impl Controller {
    /// A controller after power-on, without a reset that was told.
    pub fn new(channel: DmaChannel, drives: [Option<FloppyDrive>; 2]) -> Self {
        Controller {
            channel,
            drives: drives.map(|drive| drive.map(Drive::new)),
            dor: DOR_NOT_RESET | DOR_DMAGATE,
            tdr: 0,
            precompensation: 0,
            rate: RATE_AFTER_RESET,
            specified: [0; 2],
            configured: NO_FIFO,
            precompensation_track: 0,
            last: 0,
            perpendicular: 0,
            locked: false,
            cylinders: [0; 4],
            turn: 0,
            phase: IDLE,
            reset_ended: false,
            seeking: [None; 4],
            sensed: [None; 4],
            told: false,
            generation: 0,
            working: false,
        }
    }

    /// The state after a reset of the machine. Heads stay where they are.
    pub fn power_on(&mut self) {
        self.reset();
        (self.dor, self.tdr, self.precompensation, self.rate) = (DOR_NOT_RESET | DOR_DMAGATE, 0, 0, RATE_AFTER_RESET);
        (self.specified, self.configured, self.precompensation_track) = ([0; 2], NO_FIFO, 0);
        (self.last, self.perpendicular, self.locked) = (0, 0, false);
    }

    /// The level of the interrupt line.
    pub fn line(&self) -> bool {
        self.interrupts() && self.dor & DOR_DMAGATE != 0
    }

    fn interrupts(&self) -> bool {
        self.told
            || match &self.phase {
                Phase::Command { .. } => false,
                Phase::Execution(execution) => execution.host_reads().is_some(),
                Phase::Result { interrupts, next, .. } => *interrupts && *next == 0,
            }
    }

    /// There is something for the thread to do.
    pub fn has_work(&self) -> bool {
        let executes = matches!(&self.phase, Phase::Execution(execution) if execution.host_reads().is_none());
        !self.working && (self.reset_ended || self.seeking.iter().any(Option::is_some) || executes)
    }

    pub fn read(&mut self, register: u8) -> u8 {
        match register {
            register::SRA => self.status_a(),
            register::SRB => 0xC0 | (self.dor & 1) << 5 | self.dor >> 4 & 3,
            register::DOR => self.dor,
            register::TDR => self.tdr,
            register::MSR_DSR => self.main_status(),
            register::FIFO => self.read_fifo(),
            register::DIR_CCR => {
                let changed = self.drive(self.dor & DOR_DRIVE).is_some_and(Drive::is_changed);
                if changed { DIR_CHANGED } else { 0 }
            }
            _ => 0xFF,
        }
    }

    pub fn write(&mut self, register: u8, value: u8) {
        match register {
            register::DOR => {
                let before = std::mem::replace(&mut self.dor, value);
                if value & DOR_NOT_RESET == 0 {
                    self.reset();
                } else if before & DOR_NOT_RESET == 0 {
                    self.reset_ended = true;
                }
            }
            register::TDR => self.tdr = value & 3,
            register::MSR_DSR => {
                (self.precompensation, self.rate) = (value & DSR_PRECOMPENSATION, value & RATE);
                if value & DSR_RESET != 0 {
                    self.reset();
                    self.reset_ended = self.dor & DOR_NOT_RESET != 0;
                }
            }
            register::FIFO if self.dor & DOR_NOT_RESET != 0 => self.write_fifo(value),
            register::DIR_CCR => self.rate = value & RATE,
            _ => {}
        }
    }

    /// What a reset by DOR or DSR does. Section 4.1 ("Reset pin and software resets").
    fn reset(&mut self) {
        self.generation += 1;
        self.channel.request(false);
        self.phase = IDLE;
        (self.seeking, self.sensed) = ([None; 4], [None; 4]);
        (self.reset_ended, self.told, self.working) = (false, false, false);
        self.perpendicular &= !PERPENDICULAR_GAP;
        if self.locked {
            self.configured &= NO_FIFO | THRESHOLD;
        } else {
            (self.configured, self.precompensation_track) = (NO_FIFO, 0);
        }
    }

    fn drive(&mut self, unit: u8) -> Option<&mut Drive> {
        self.drives.get_mut(usize::from(unit))?.as_mut()
    }

    fn status_a(&mut self) -> u8 {
        let mut value = SRA_NOT_INDEX;
        value |= if self.interrupts() { SRA_INTERRUPT } else { 0 };
        value |= if self.drives[1].is_none() { SRA_NO_DRIVE_2 } else { 0 };
        if let Phase::Execution(execution) = &self.phase {
            value |= if execution.head() == 1 { SRA_HEAD } else { 0 };
        }
        let drive = self.drive(self.dor & DOR_DRIVE);
        let (at_track_0, protected) = drive.map_or((false, false), |drive| (drive.at_track_0(), drive.is_protected()));
        value |= if at_track_0 { 0 } else { SRA_NOT_TRACK_0 };
        value | if protected { 0 } else { SRA_NOT_PROTECTED }
    }

    fn main_status(&self) -> u8 {
        if self.dor & DOR_NOT_RESET == 0 {
            return 0;
        }
        let seeking = (0..4).filter(|&unit| self.seeking[unit].is_some()).fold(0, |bits, unit| bits | 1 << unit);
        seeking
            | match &self.phase {
                Phase::Command { length: 0, .. } => MSR_RQM,
                Phase::Command { .. } => MSR_RQM | MSR_BUSY,
                Phase::Result { .. } => MSR_RQM | MSR_DIO | MSR_BUSY,
                Phase::Execution(execution) => {
                    MSR_BUSY
                        | if execution.is_programmed() { MSR_NON_DMA } else { 0 }
                        | match execution.host_reads() {
                            Some(true) => MSR_RQM | MSR_DIO,
                            Some(false) => MSR_RQM,
                            None => 0,
                        }
                }
            }
    }

    fn read_fifo(&mut self) -> u8 {
        match &mut self.phase {
            Phase::Result { bytes, length, next, .. } => {
                let byte = bytes.get(*next).copied().unwrap_or(0);
                *next += 1;
                if *next >= *length {
                    self.phase = IDLE;
                }
                byte
            }
            Phase::Execution(execution) if execution.host_reads() == Some(true) => execution.read_byte(),
            _ => 0,
        }
    }

    fn write_fifo(&mut self, value: u8) {
        match &mut self.phase {
            Phase::Command { bytes, length } => {
                // A command is carried out with its last byte, so there is always room for one more.
                let Some(place) = bytes.get_mut(*length) else { return };
                *place = value;
                *length += 1;
                match Command::decode(bytes[0]) {
                    None => self.answer(&[status::ST0_INVALID]),
                    Some((command, needed)) if *length >= needed => {
                        let bytes = *bytes;
                        self.phase = IDLE;
                        self.carry_out(command, bytes);
                    }
                    Some(_) => {}
                }
            }
            Phase::Execution(execution) if execution.host_reads() == Some(false) => execution.write_byte(value),
            _ => {}
        }
    }

    /// Begins the result phase of a command without an execution phase.
    fn answer(&mut self, result: &[u8]) {
        self.begin_result(result, false);
    }

    fn begin_result(&mut self, result: &[u8], interrupts: bool) {
        let mut bytes = [0; LONGEST_RESULT];
        let length = result.len().min(LONGEST_RESULT);
        bytes[..length].copy_from_slice(&result[..length]);
        self.phase = Phase::Result { bytes, length, next: 0, interrupts };
    }

    fn carry_out(&mut self, command: Command, bytes: [u8; LONGEST]) {
        let unit = bytes[1] & 3;
        match command {
            Command::Specify => self.specified = [bytes[1], bytes[2]],
            Command::Configure => (self.configured, self.precompensation_track) = (bytes[2] & 0x7F, bytes[3]),
            Command::Perpendicular => {
                let kept = if bytes[1] & OVERWRITE != 0 { 0 } else { self.perpendicular & PERPENDICULAR_DRIVES };
                let set = if bytes[1] & OVERWRITE != 0 { PERPENDICULAR_DRIVES } else { 0 } | PERPENDICULAR_GAP;
                self.perpendicular = kept | bytes[1] & set;
            }
            Command::Lock => {
                self.locked = bytes[0] & LOCK != 0;
                self.answer(&[u8::from(self.locked) << 4]);
            }
            Command::Version => self.answer(&[VERSION]),
            Command::PartId => self.answer(&[PART_ID]),
            Command::DumpRegisters => {
                let [a, b, c, d] = self.cylinders;
                let [rates, load] = self.specified;
                let modes = u8::from(self.locked) << 7 | self.perpendicular;
                let (configured, track) = (self.configured, self.precompensation_track);
                self.answer(&[a, b, c, d, rates, load, self.last, modes, configured, track]);
            }
            Command::SenseDrive => {
                let status = self.status_3(bytes[1] & 7);
                self.answer(&[status]);
            }
            Command::SenseInterrupt => self.sense_interrupt(),
            Command::Recalibrate => {
                self.cylinders[usize::from(unit)] = 0;
                let missing = status::ST0_ABNORMAL | status::ST0_EQUIPMENT_CHECK;
                let st0 = match self.drive(unit) {
                    Some(drive) => {
                        drive.step_to(0);
                        0
                    }
                    // There is no signal from track 0.
                    None => missing,
                };
                self.seeking[usize::from(unit)] = Some(st0 | status::ST0_SEEK_END | unit);
            }
            Command::Seek => {
                self.seek(unit, bytes[2]);
                self.seeking[usize::from(unit)] = Some(status::ST0_SEEK_END | bytes[1] & 7);
            }
            Command::RelativeSeek => self.relative_seek(bytes[1] & 7, bytes[0] & INWARDS != 0, bytes[2]),
            _ => self.execute(command, bytes),
        }
    }

    /// Steps as many cylinders as lie between a drive's PCN and the target.
    fn seek(&mut self, unit: u8, cylinder: u8) {
        let before = std::mem::replace(&mut self.cylinders[usize::from(unit)], cylinder);
        if let Some(drive) = self.drive(unit) {
            let target = i16::from(drive.position()) + i16::from(cylinder) - i16::from(before);
            drive.step_to(target.clamp(0, 0xFF) as u8);
        }
    }

    fn relative_seek(&mut self, select: u8, inwards: bool, steps: u8) {
        let unit = select & 3;
        let present = self.cylinders[usize::from(unit)];
        let position = self.drive(unit).map_or(present, |drive| drive.position());
        let mut st0 = status::ST0_SEEK_END | select;
        if !inwards && steps > position {
            st0 |= status::ST0_ABNORMAL | status::ST0_EQUIPMENT_CHECK;
        }
        self.cylinders[usize::from(unit)] =
            if inwards { present.wrapping_add(steps) } else { present.wrapping_sub(steps) };
        if let Some(drive) = self.drive(unit) {
            drive.step_to(if inwards { position.saturating_add(steps) } else { position.saturating_sub(steps) });
        }
        self.seeking[usize::from(unit)] = Some(st0);
    }

    fn status_3(&mut self, select: u8) -> u8 {
        let mut value = status::ST3_FIXED | select;
        if let Some(drive) = self.drive(select & 3) {
            value |= if drive.is_protected() { status::ST3_PROTECTED } else { 0 };
            value |= if drive.at_track_0() { status::ST3_TRACK_0 } else { 0 };
        }
        value
    }

    fn sense_interrupt(&mut self) {
        let Some(unit) = self.sensed.iter().position(Option::is_some) else {
            return self.answer(&[status::ST0_INVALID]);
        };
        let st0 = self.sensed[unit].take().unwrap_or(0);
        // One interrupt stands for all drives after a reset, each seek has its own.
        let polled = |st0: Option<u8>| st0.is_none_or(|st0| st0 & 0xC0 == status::ST0_POLLING);
        self.told = !self.sensed.into_iter().all(polled);
        self.answer(&[st0, self.cylinders[unit]]);
    }

    /// Begins a command that has an execution phase.
    fn execute(&mut self, command: Command, bytes: [u8; LONGEST]) {
        let [first, select, cylinder, head, sector, size, last, _, length] = bytes;
        let unit = select & 3;
        let place = Place { head: select >> 2 & 1, rate: self.rate, mfm: first & MFM != 0 };
        let operation = match command {
            Command::ReadDeleted => Operation::ReadDeleted,
            Command::WriteData | Command::WriteDeleted => Operation::Write,
            Command::ReadTrack => Operation::ReadTrack,
            Command::Verify => Operation::Verify,
            Command::FormatTrack => Operation::Format,
            Command::ReadId => Operation::ReadId,
            _ => Operation::Read,
        };
        let addresses = !matches!(operation, Operation::Format | Operation::ReadId);
        let sought = addresses && self.configured & IMPLIED_SEEK != 0;
        if sought {
            self.seek(unit, cylinder);
        }
        let (last, count) = match operation {
            // N, SC, GPL and the filler.
            Operation::Format => (bytes[5], Some(bytes[3])),
            Operation::ReadId => {
                self.turn = self.turn.wrapping_add(1);
                (self.turn, None)
            }
            Operation::Verify => (last, (select & ENABLE_COUNT != 0).then_some(length)),
            _ => (last, None),
        };
        self.last = match operation {
            Operation::Format => bytes[3],
            Operation::ReadId => self.last,
            _ => last,
        };
        let dma = self.specified[1] & NON_DMA == 0;
        let execution = Execution::new(Request {
            operation,
            unit,
            place,
            multi_track: addresses && first & MULTI_TRACK != 0,
            skip: first & SKIP != 0,
            dma,
            id: Id { cylinder, head, sector, size },
            last,
            count,
            sought,
        });
        self.channel.request(dma && !matches!(operation, Operation::Verify | Operation::ReadId));
        self.phase = Phase::Execution(Box::new(execution));
    }

    /// Does what is to be done outside of the host's accesses: ends resets and seeks, and goes on with a command.
    pub fn work(&mut self) -> Work {
        if std::mem::take(&mut self.reset_ended) {
            self.sensed = [0, 1, 2, 3].map(|unit| Some(status::ST0_POLLING | unit));
            self.told = true;
        }
        for (seeking, sensed) in self.seeking.iter_mut().zip(&mut self.sensed) {
            if let Some(st0) = seeking.take() {
                *sensed = Some(st0);
                self.told = true;
            }
        }
        let Phase::Execution(execution) = &mut self.phase else { return Work::Nothing };
        let channel = (self.dor & DOR_DMAGATE != 0).then_some(&self.channel);
        let drive = self.drives.get_mut(usize::from(execution.unit())).and_then(Option::as_mut);
        match execution.proceed(drive, channel) {
            Next::Io(io) => {
                self.working = true;
                return Work::Io(io, self.generation);
            }
            Next::Later => return Work::Later,
            Next::Host => {}
            Next::Done(result) => {
                self.channel.request(false);
                self.begin_result(&result, true);
            }
        }
        Work::Nothing
    }

    /// Takes the outcome of [`Work::Io`].
    pub fn complete(&mut self, io: Io, generation: u64, outcome: Result<(), BlockError>) {
        if generation != self.generation {
            return;
        }
        self.working = false;
        if let Phase::Execution(execution) = &mut self.phase {
            execution.complete(io, outcome);
        }
    }
}
