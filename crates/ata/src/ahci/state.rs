//! What a port does with its command list, without the work on the media. AHCI 1.3.1, chapters 5 and 6.

use super::command::{BadSlot, Request, Slot, byte_count_address};
use super::fis;
use super::register::{SERR_DIAG_N, SERR_DIAG_X, SERR_ERR_P, SIG_NONE, STATUS_NO_DEVICE, interrupt};
use super::registers::{Effect, Registers};
use crate::drive::{Access, Drive, Failure, Next};
use crate::log::QueueError;
use crate::prd::{Prdt, Table, Usage};
use crate::registers::{TaskFile, command, control, error, reason, status};
use crate::transfer::{Buffer, Job, PACKET_SIZE, SECTOR, Transfer, Work};
use crate::worker::Outcome;
use board::{StateReader, StateWriter};
use hv::GuestMemory;
use std::collections::VecDeque;
use std::sync::Arc;

/// Command slots of a port, and tags of queued commands.
const SLOTS: u8 = 32;

/// A command that is not queued and that the thread has, or gets, to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Current {
    slot: u8,
    /// Where its command header is.
    header: u64,
    prdt: Prdt,
    transfer: Transfer,
    /// It is PACKET.
    packet: bool,
}

/// A command that the disk has taken into its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queued {
    tag: u8,
    prdt: Prdt,
    transfer: Transfer,
}

/// A port with its drive, if it has one.
///
/// The thread works on `current`, or on the first command of `queue`: never are there both.
pub(crate) struct State {
    memory: Arc<GuestMemory>,
    registers: Registers,
    drive: Option<Drive>,
    /// The drive's registers.
    file: TaskFile,
    device: u8,
    buffer: Buffer,
    current: Option<Current>,
    queue: VecDeque<Queued>,
    /// Tags of queued commands that are done, of which the host has not heard.
    done: u32,
    /// The host holds the drive in a software reset.
    soft_reset: bool,
    /// After a reset the drive has to tell its signature, as soon as the host receives FISes and the thread is through.
    unsigned: bool,
    /// After an error nothing more is done before the host clears PxCMD.ST.
    halted: bool,
    /// The thread is at it.
    working: bool,
    /// Of what it does nobody wants to know.
    abandoned: bool,
    /// The thread is not to begin anything.
    pub paused: bool,
    /// The function may access memory.
    pub may_master: bool,
}

impl State {
    /// A port after power-on.
    pub fn new(memory: Arc<GuestMemory>, drive: Option<Drive>) -> Self {
        let buffer = if drive.is_some() { Buffer::new() } else { Buffer::default() };
        let mut state = State {
            memory,
            registers: Registers::RESET,
            drive,
            file: TaskFile::default(),
            device: 0,
            buffer,
            current: None,
            queue: VecDeque::new(),
            done: 0,
            soft_reset: false,
            unsigned: false,
            halted: false,
            working: false,
            abandoned: false,
            paused: false,
            may_master: false,
        };
        state.power_on();
        state
    }

    /// The state after power-on. Not while the thread is at it.
    pub fn power_on(&mut self) {
        self.registers = Registers::RESET;
        if let Some(drive) = &mut self.drive {
            drive.power_on();
        }
        self.abandon();
        self.link_up();
    }

    /// A reset of the whole adapter. Where the command list and the received FIS structure are stays as it was. AHCI 1.3.1,
    /// section 10.4.3.
    pub fn adapter_reset(&mut self) {
        let Registers { list, received, .. } = self.registers;
        self.registers = Registers { list, received, ..Registers::RESET };
        self.abandon();
        self.link_up();
    }

    pub fn has_drive(&self) -> bool {
        self.drive.is_some()
    }

    pub fn is_working(&self) -> bool {
        self.working
    }

    /// Whether the thread does something that a stop or a reset makes useless.
    pub fn is_useless(&self) -> bool {
        self.working && self.abandoned
    }

    /// Whether the port has an interrupt that is enabled.
    pub fn interrupts(&self) -> bool {
        self.registers.interrupts()
    }

    /// Reads the register at `offset`, a multiple of 4.
    pub fn read(&self, offset: u64) -> u32 {
        self.registers.read(offset, self.drive.is_some(), self.working)
    }

    /// Writes those bits of the register at `offset` that are set in `mask`.
    pub fn write(&mut self, offset: u64, value: u32, mask: u32) {
        match self.registers.write(offset, value, mask) {
            Effect::None | Effect::Start | Effect::Receive => {}
            Effect::Stop => {
                self.abandon();
                (self.registers.issue, self.registers.active) = (0, 0);
                (self.registers.slot, self.registers.next) = (0, 0);
            }
            Effect::LinkDown => {
                self.abandon();
                self.unsigned = false;
                (self.registers.issue, self.registers.active) = (0, 0);
                (self.registers.device_status, self.registers.device_error) = (STATUS_NO_DEVICE, 0);
                self.registers.signature = SIG_NONE;
            }
            Effect::LinkUp => self.link_up(),
        }
        self.sign();
    }

    /// Gives up all commands that were begun.
    fn abandon(&mut self) {
        self.abandoned = self.working;
        self.current = None;
        self.queue.clear();
        self.done = 0;
        self.halted = false;
        self.rest();
    }

    /// The drive is not busy any more with what was given up.
    fn rest(&mut self) {
        if !self.working && self.registers.device_status == status::BSY | status::READY {
            self.registers.device_status = status::READY;
        }
    }

    /// The link comes up after a reset, and if there is a drive it is new.
    fn link_up(&mut self) {
        self.soft_reset = false;
        if self.drive.is_some() {
            self.registers.error |= SERR_DIAG_X | SERR_DIAG_N;
            self.registers.device_status = status::BSY;
            self.unsigned = true;
        }
    }

    /// Lets the drive tell its signature after a reset.
    pub fn sign(&mut self) {
        if !self.unsigned || self.working || !self.registers.receives() || !self.may_master {
            return;
        }
        let Some(drive) = &mut self.drive else { return };
        self.unsigned = false;
        drive.reset(&mut self.file);
        self.device = 0;
        let TaskFile { count, lba_low, lba_mid, lba_high, .. } = self.file;
        let signature = [count, lba_low, lba_mid, lba_high].map(|register| register as u8);
        self.registers.signature = u32::from_le_bytes(signature);
        self.send_registers(false);
    }

    /// Puts a FIS of the drive where the host wants it.
    fn post(&mut self, at: u64, fis: &[u8]) {
        if self.registers.receives() {
            let address = self.registers.received.wrapping_add(at);
            if !self.may_master || self.memory.write(address, fis).is_err() {
                self.bus_error();
            }
        }
    }

    /// What was to be read or written in memory is not there.
    fn bus_error(&mut self) {
        self.registers.status |= interrupt::HBFS;
        self.halt();
    }

    fn halt(&mut self) {
        self.halted = true;
        self.current = None;
        self.queue.clear();
    }

    /// Sends a register FIS.
    fn send_registers(&mut self, interrupt: bool) {
        self.post(fis::REGISTER_AT, &fis::register(&self.file, self.device, interrupt));
        (self.registers.device_status, self.registers.device_error) = (self.file.status, self.file.error);
        if interrupt {
            self.registers.status |= interrupt::DHRS;
        }
        if self.file.status & status::ERR != 0 {
            self.registers.status |= interrupt::TFES;
            self.halt();
        }
    }

    /// Sends a PIO setup FIS for `size` bytes, behind which the drive is at rest again.
    fn send_pio_setup(&mut self, to_host: bool, interrupt: bool, size: u64) {
        let size = size.min(u16::MAX.into()) as u16;
        let fis = fis::pio_setup(&self.file, self.device, to_host, interrupt, size, status::READY);
        self.post(fis::PIO_SETUP_AT, &fis);
        (self.registers.device_status, self.registers.device_error) = (status::READY, 0);
        if interrupt {
            self.registers.status |= interrupt::PSS;
        }
    }

    /// Tells of all queued commands that are done.
    pub fn tell_done(&mut self) {
        let done = std::mem::take(&mut self.done);
        if done != 0 {
            self.send_device_bits(status::READY, 0, done);
        }
    }

    /// Whether there is a queued command of whose end the host has not heard.
    pub fn has_done(&self) -> bool {
        self.done != 0
    }

    fn send_device_bits(&mut self, bits: u8, error: u8, done: u32) {
        self.post(fis::SET_DEVICE_BITS_AT, &fis::set_device_bits(bits, error, done));
        (self.registers.device_status, self.registers.device_error) = (bits, error);
        self.registers.active &= !done;
        self.registers.status |= interrupt::SDBS;
        if bits & status::ERR != 0 {
            self.registers.status |= interrupt::TFES;
            self.halt();
        }
    }

    /// Whether there is something that the thread may do now.
    pub fn is_runnable(&self) -> bool {
        let may = self.may_master && !self.paused && !self.working && !self.halted;
        let ready = self.drive.is_some() && self.registers.started() && self.registers.link_wanted() && !self.unsigned;
        may && ready && (self.current.is_some() || !self.queue.is_empty() || self.can_fetch())
    }

    /// Whether there is a command to be fetched, and the drive takes one.
    fn can_fetch(&self) -> bool {
        let busy = self.registers.device_status & (status::BSY | status::DRQ) != 0;
        self.registers.issue != 0 && self.current.is_none() && !busy
    }

    /// What the thread shall do now. It gives back what it got with [`State::finish_job`]. Commands that need no work are
    /// carried out at once, each slot's at most once.
    pub fn take_job(&mut self) -> Option<Job> {
        for _ in 0..SLOTS {
            if self.is_runnable() && self.can_fetch() {
                self.fetch();
            }
        }
        if !self.is_runnable() {
            return None;
        }
        let (transfer, prdt) = match (self.current, self.queue.front()) {
            (Some(Current { transfer, prdt, .. }), _) => (transfer, prdt),
            (None, Some(&Queued { tag, transfer, prdt })) => {
                let size = transfer.left.saturating_mul(SECTOR as u32);
                self.post(fis::DMA_SETUP_AT, &fis::dma_setup(tag, transfer.work.to_host(), size));
                (transfer, prdt)
            }
            (None, None) => return None,
        };
        if self.halted {
            return None;
        }
        self.working = true;
        let disk = self.drive.as_ref().and_then(Drive::medium);
        // Data of PIO commands go by the descriptors as well.
        let transfer = Transfer { dma: true, ..transfer };
        Some(Job::new(transfer, std::mem::take(&mut self.buffer), disk, Table::Ahci(prdt)))
    }

    /// Fetches the next command. Slots have their turn one after the other.
    fn fetch(&mut self) {
        let after = |distance: u8| (self.registers.next + distance) % SLOTS;
        let Some(index) = (0..SLOTS).map(after).find(|slot| self.registers.issue >> slot & 1 != 0) else { return };
        (self.registers.slot, self.registers.next) = (index, (index + 1) % SLOTS);
        match Slot::fetch(&self.memory, self.registers.list, index) {
            Ok(slot) => self.begin(index, slot),
            Err(BadSlot::Outside) => self.bus_error(),
            // The drive does not acknowledge what it does not understand.
            Err(BadSlot::NoFis) => {
                self.registers.status |= interrupt::IFS;
                self.registers.error |= SERR_ERR_P;
                self.halt();
            }
        }
    }

    fn begin(&mut self, index: u8, slot: Slot) {
        let value = match slot.request {
            Request::Command(value) => value,
            Request::Control(value) => return self.write_control(index, value),
        };
        let Some(drive) = &mut self.drive else { return };
        self.file = TaskFile { status: status::READY, ..slot.file };
        self.device = slot.device;
        if let Drive::Disk(disk) = drive {
            if let Some(transfer) = disk.queue(value, &self.file, self.device) {
                return self.enqueue(index, slot.prdt, transfer);
            }
            if !self.queue.is_empty() {
                // Queued commands and others do not go together: all of them are given up.
                return self.refuse_queued(index, error::ABRT);
            }
        }
        let resets = value == command::DEVICE_RESET && drive.takes_packets();
        if resets || value == command::EXECUTE_DEVICE_DIAGNOSTIC {
            drive.reset(&mut self.file);
            self.device = 0;
            self.send_registers(true);
            return self.finished(index);
        }
        let mut access = Access { file: &mut self.file, device: &mut self.device, buffer: &mut self.buffer };
        let mut next = drive.command(value, &mut access);
        let mut packet = false;
        if let Next::Packet { dma, block } = next {
            packet = true;
            next = match slot.packet {
                Some(bytes) => drive.packet(&bytes, dma, block, &mut self.buffer),
                None => Next::Fail(error::ABRT),
            };
            self.file.count = reason::COD.into();
            self.send_pio_setup(false, false, PACKET_SIZE as u64);
        }
        let Slot { header, prdt, .. } = slot;
        match next {
            Next::Start(transfer) => {
                self.registers.device_status = status::BSY | status::READY;
                self.current = (!self.halted).then_some(Current { slot: index, header, prdt, transfer, packet });
            }
            Next::Done => self.complete(index, packet),
            Next::Fail(bits) => self.fail(bits, packet),
            Next::Packet { .. } => self.fail(error::ABRT, packet),
        }
    }

    /// The host writes the device control register: with SRST set, then clear, it resets the drive.
    fn write_control(&mut self, index: u8, value: u8) {
        let resets = value & control::SRST != 0;
        if resets {
            self.queue.clear();
            (self.registers.active, self.done) = (0, 0);
        }
        if std::mem::replace(&mut self.soft_reset, resets) && !resets {
            self.unsigned = true;
            self.sign();
        }
        self.finished(index);
    }

    /// Takes a command into the disk's queue.
    fn enqueue(&mut self, index: u8, prdt: Prdt, transfer: Result<Transfer, u8>) {
        // The tag is that of the slot, else its data would go by the descriptors of another one.
        let tag = (self.file.count >> 3) as u8 & (SLOTS - 1);
        let is_free = tag == index && self.queue.iter().all(|queued| queued.tag != tag) && self.done >> tag & 1 == 0;
        match transfer {
            Ok(transfer) if is_free => {
                self.queue.push_back(Queued { tag, prdt, transfer });
                self.send_registers(false);
                self.finished(index);
            }
            Ok(_) => self.refuse_queued(index, error::ABRT),
            Err(bits) => self.refuse_queued(index, bits),
        }
    }

    /// Fails a command that the queue does not take, and with it all that are there.
    fn refuse_queued(&mut self, index: u8, bits: u8) {
        self.tell_done();
        if let Some(Drive::Disk(disk)) = &mut self.drive {
            disk.queue_failed(QueueError { tag: index, error: bits, file: self.file, device: self.device });
        }
        self.file.status = status::READY | status::ERR;
        self.file.error = bits;
        self.send_registers(true);
    }

    /// The slot is free again, unless an error holds everything.
    fn finished(&mut self, index: u8) {
        if !self.halted {
            self.registers.issue &= !(1 << index);
        }
    }

    /// Ends a command.
    fn complete(&mut self, index: u8, packet: bool) {
        (self.file.status, self.file.error) = (status::READY, 0);
        self.show_reason(packet);
        self.send_registers(true);
        self.finished(index);
    }

    /// Ends a command with these bits in the error register.
    fn fail(&mut self, bits: u8, packet: bool) {
        (self.file.status, self.file.error) = (status::READY | status::ERR, bits);
        self.show_reason(packet);
        self.send_registers(true);
    }

    /// At the end of a packet command its status is transferred.
    fn show_reason(&mut self, packet: bool) {
        if packet {
            self.file.count = (reason::IO | reason::COD).into();
        }
    }

    /// The thread is through.
    pub fn finish_job(&mut self, job: Job, outcome: Outcome) {
        self.working = false;
        let Job { buffer, usage, .. } = job;
        self.buffer = buffer;
        if std::mem::take(&mut self.abandoned) {
            self.rest();
            return self.sign();
        }
        if usage.interrupt {
            self.registers.status |= interrupt::DPS;
        }
        match (self.current.take(), self.queue.pop_front()) {
            (Some(current), _) => self.finish_current(current, usage, outcome),
            (None, Some(queued)) => self.finish_queued(queued, outcome),
            (None, None) => {}
        }
    }

    fn finish_current(&mut self, current: Current, usage: Usage, outcome: Outcome) {
        let Current { slot, header, mut transfer, packet, .. } = current;
        let to_host = transfer.work.to_host();
        // What the host has not room for is lost. What it does not give is missing, and a real drive would wait for ever.
        let failure = match outcome {
            Outcome::Short => {
                self.registers.status |= interrupt::OFS;
                if to_host { None } else { Some(Failure::Bus) }
            }
            Outcome::Failed(Failure::Bus) | Outcome::Canceled => return self.bus_error(),
            Outcome::Failed(failure) => Some(failure),
            Outcome::Done | Outcome::Blocks(_) => None,
        };
        let moves = to_host || matches!(transfer.work, Work::Write { .. } | Work::Trim { .. });
        if moves && self.memory.write(byte_count_address(header), &(usage.moved as u32).to_le_bytes()).is_err() {
            return self.bus_error();
        }
        if let Some(failure) = failure {
            return self.fail_work(failure, &transfer, packet);
        }
        transfer.advance(transfer.left);
        let mut access = Access { file: &mut self.file, device: &mut self.device, buffer: &mut self.buffer };
        if let Some(drive) = &mut self.drive {
            drive.succeeded(&transfer, &mut access);
        }
        if moves && !transfer.dma {
            if packet {
                self.file.count = reason::IO.into();
            }
            self.send_pio_setup(to_host, to_host, usage.moved);
        }
        match to_host && !transfer.dma && !packet {
            // The status was in the PIO setup FIS.
            true => self.finished(slot),
            false => self.complete(slot, packet),
        }
    }

    fn fail_work(&mut self, failure: Failure, transfer: &Transfer, packet: bool) {
        let bits = self.failed(failure, transfer);
        self.fail(bits, packet);
    }

    /// What the drive says to a failure.
    fn failed(&mut self, failure: Failure, transfer: &Transfer) -> u8 {
        let mut access = Access { file: &mut self.file, device: &mut self.device, buffer: &mut self.buffer };
        match &mut self.drive {
            Some(drive) => drive.failed(failure, transfer, &mut access),
            None => error::ABRT,
        }
    }

    fn finish_queued(&mut self, queued: Queued, outcome: Outcome) {
        let Queued { tag, transfer, .. } = queued;
        let failure = match outcome {
            Outcome::Short => {
                self.registers.status |= interrupt::OFS;
                if transfer.work.to_host() { None } else { Some(Failure::Bus) }
            }
            Outcome::Failed(Failure::Bus) | Outcome::Canceled => return self.bus_error(),
            Outcome::Failed(failure) => Some(failure),
            Outcome::Done | Outcome::Blocks(_) => None,
        };
        let Some(failure) = failure else {
            self.done |= 1 << tag;
            return;
        };
        self.tell_done();
        let bits = self.failed(failure, &transfer);
        if let Some(Drive::Disk(disk)) = &mut self.drive {
            disk.queue_failed(QueueError { tag, error: bits, file: self.file, device: self.device });
        }
        self.send_device_bits(status::READY | status::ERR, bits, 0);
    }

    /// Not while the thread is at it, nor while there is anything to tell.
    pub fn save(&self, writer: &mut StateWriter) {
        self.registers.save(writer);
        match &self.drive {
            Some(drive) => drive.save(writer),
            None => return writer.u8(0),
        }
        self.file.save(writer);
        writer.u8(self.device);
        self.buffer.save(writer);
        writer.u8(self.current.is_some().into());
        if let Some(Current { slot, header, prdt, transfer, packet }) = self.current {
            writer.u8(slot);
            writer.u64(header);
            writer.u8(packet.into());
            save_transfer(prdt, &transfer, writer);
        }
        writer.u8(self.queue.len() as u8);
        for Queued { tag, prdt, transfer } in &self.queue {
            writer.u8(*tag);
            save_transfer(*prdt, transfer, writer);
        }
        for flag in [self.soft_reset, self.unsigned, self.halted] {
            writer.u8(flag.into());
        }
    }

    /// Loads what [`State::save`] gave. After an error the state is any that this port can have.
    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.power_on();
        let registers = Registers::load(reader)?;
        let Some(drive) = &mut self.drive else {
            self.registers = registers;
            return match reader.u8()? {
                0 => Ok(()),
                _ => Err(reader.invalid("it has a drive that this machine has not")),
            };
        };
        drive.load(reader)?;
        let (file, device, buffer) = (TaskFile::load(reader)?, reader.u8()?, Buffer::load(reader)?);
        let mut current = None;
        if reader.bool()? {
            let (slot, header, packet) = (reader.u8()?, reader.u64()?, reader.bool()?);
            let (prdt, transfer) = load_transfer(reader)?;
            if slot >= SLOTS || packet && !drive.takes_packets() || !drive.does(transfer.work) {
                return Err(reader.invalid("a command that its drive does not have"));
            }
            current = Some(Current { slot, header, prdt, transfer, packet });
        }
        let mut queue = VecDeque::new();
        for _ in 0..reader.u8()? {
            let tag = reader.u8()?;
            let (prdt, transfer) = load_transfer(reader)?;
            let is_moving = matches!(transfer.work, Work::Read(_) | Work::Write { .. });
            let is_queued = is_moving && !drive.takes_packets() && drive.does(transfer.work) && current.is_none();
            if tag >= SLOTS || !is_queued || queue.iter().any(|queued: &Queued| queued.tag == tag) {
                return Err(reader.invalid("a queue that its drive cannot have"));
            }
            queue.push_back(Queued { tag, prdt, transfer });
        }
        let (soft_reset, unsigned, halted) = (reader.bool()?, reader.bool()?, reader.bool()?);
        if (unsigned || halted) && (current.is_some() || !queue.is_empty()) {
            return Err(reader.invalid("a command that is not carried out"));
        }
        (self.registers, self.file, self.device, self.buffer) = (registers, file, device, buffer);
        (self.current, self.queue) = (current, queue);
        (self.soft_reset, self.unsigned, self.halted) = (soft_reset, unsigned, halted);
        Ok(())
    }
}

fn save_transfer(prdt: Prdt, transfer: &Transfer, writer: &mut StateWriter) {
    writer.u64(prdt.address);
    writer.u16(prdt.entries);
    transfer.save(writer);
}

fn load_transfer(reader: &mut StateReader) -> Result<(Prdt, Transfer), String> {
    let prdt = Prdt { address: reader.u64()?, entries: reader.u16()? };
    Ok((prdt, Transfer::load(reader)?))
}
