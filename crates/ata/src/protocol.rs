//! What a channel's registers do: command protocols of ATA/ATAPI-6, chapter 9, without the work on the media.

use crate::bus_master::BusMaster;
use crate::drive::{Access, Drive, Failure, Next};
use crate::prd::Table;
use crate::registers::{Signature, TaskFile, command, control, device, error, reason, register, status};
use crate::transfer::{BUFFER_SIZE, Buffer, Job, PACKET_SIZE, SECTOR, Transfer, Work};
use crate::worker::Outcome;
use board::{StateReader, StateWriter};

/// Where the command that is being carried out stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Rest,
    /// The host writes the packet.
    Packet,
    /// The host reads a block of data.
    In,
    /// The host writes a block of data.
    Out,
    /// The worker has, or gets, something to do.
    Work,
}

/// A channel: two drives that share registers, and a bus master. One command is carried out at a time, as a drive can be
/// selected only while the other is at rest.
pub(crate) struct State {
    drives: [Option<Drive>; 2],
    files: [TaskFile; 2],
    /// The device register.
    device: u8,
    /// The device control register.
    control: u8,
    pub master: BusMaster,
    phase: Phase,
    /// The drive that carries out the command.
    active: usize,
    /// The command is PACKET.
    packet: bool,
    transfer: Transfer,
    buffer: Buffer,
    /// SRST was set, and the reset is not over.
    resetting: bool,
    /// DEVICE RESET waits for the worker.
    device_reset: bool,
    /// The worker is at it.
    working: bool,
    /// The worker is not to begin anything.
    pub paused: bool,
    /// The function may access memory.
    pub may_master: bool,
    /// The interrupt line as it was driven last.
    pub line_high: bool,
}

impl State {
    /// A channel after power-on.
    pub fn new(drives: [Option<Drive>; 2]) -> Self {
        let mut state = State {
            drives,
            files: [TaskFile::default(); 2],
            device: 0,
            control: 0,
            master: BusMaster::default(),
            phase: Phase::Rest,
            active: 0,
            packet: false,
            transfer: Transfer::answer(0, false),
            buffer: Buffer::new(),
            resetting: false,
            device_reset: false,
            working: false,
            paused: false,
            may_master: false,
            line_high: false,
        };
        state.power_on();
        state
    }

    /// The state after power-on. Not while the worker is at it.
    pub fn power_on(&mut self) {
        self.files = [TaskFile::default(); 2];
        self.control = 0;
        self.master = BusMaster::default();
        self.phase = Phase::Rest;
        self.packet = false;
        (self.resetting, self.device_reset) = (false, false);
        self.drives.iter_mut().flatten().for_each(Drive::power_on);
        self.sign_all();
    }

    fn selected(&self) -> usize {
        usize::from(self.device & device::DEV != 0)
    }

    fn is_empty(&self) -> bool {
        self.drives.iter().all(Option::is_none)
    }

    /// Whether the interrupt line is high.
    pub fn interrupt(&self) -> bool {
        let selected = self.selected();
        self.control & control::NIEN == 0 && self.drives[selected].is_some() && self.files[selected].interrupt
    }

    /// Reads a register of the command block other than data. Reading the status acknowledges the interrupt.
    pub fn read(&mut self, offset: u64) -> u8 {
        let selected = self.selected();
        match offset {
            register::STATUS => {
                self.files[selected].interrupt = false;
                self.status()
            }
            // Nobody answers for device 0, and device 0 for device 1.
            _ if self.is_empty() || selected == 0 && self.drives[0].is_none() => 0,
            register::DEVICE => self.device,
            _ => self.files[selected].read(offset, self.control & control::HOB != 0),
        }
    }

    /// The status register, without consequences. A missing drive has no status, and so has a channel without drives:
    /// were BSY set there, as where all bits float, OVMF would wait 35 seconds for it to clear.
    pub fn status(&self) -> u8 {
        if self.is_empty() { 0 } else { self.files[self.selected()].status }
    }

    /// Writes a register of the command block other than data.
    pub fn write(&mut self, offset: u64, value: u8) {
        self.control &= !control::HOB;
        if offset == register::STATUS {
            self.command(value);
        } else if self.status() & (status::BSY | status::DRQ) == 0 {
            match offset {
                register::DEVICE => self.device = value | device::OBSOLETE,
                _ => self.files.iter_mut().for_each(|file| file.write(offset, value)),
            }
        }
    }

    /// Writes the device control register.
    pub fn write_control(&mut self, value: u8) {
        self.control = value & (control::HOB | control::SRST | control::NIEN);
        if value & control::SRST != 0 {
            self.resetting = true;
            self.phase = Phase::Rest;
            for (file, drive) in self.files.iter_mut().zip(&self.drives) {
                file.status = if drive.is_some() { status::BSY } else { 0 };
                file.interrupt = false;
            }
        }
        self.finish_reset();
    }

    /// Whether the worker does something that a reset or a stop makes useless.
    pub fn is_useless(&self) -> bool {
        self.working && (self.resetting || self.device_reset)
    }

    /// Whether the worker moves data by DMA.
    pub fn in_dma(&self) -> bool {
        self.working && self.transfer.dma
    }

    pub fn has_drives(&self) -> bool {
        !self.is_empty()
    }

    pub fn is_working(&self) -> bool {
        self.working
    }

    /// Ends a reset that the host wants no longer and the worker does not stand against.
    fn finish_reset(&mut self) {
        if self.working || self.control & control::SRST != 0 {
            return;
        }
        if std::mem::take(&mut self.resetting) {
            self.device_reset = false;
            self.sign_all();
        } else if std::mem::take(&mut self.device_reset) {
            self.sign(self.active);
        }
    }

    /// Lets both drives show their signature, device 0 selected.
    fn sign_all(&mut self) {
        self.device = device::OBSOLETE;
        self.sign(0);
        self.sign(1);
    }

    /// Lets a drive show its signature; for an absent device 1, device 0 has one without status.
    fn sign(&mut self, index: usize) {
        let file = &mut self.files[index];
        match &mut self.drives[index] {
            Some(drive) => drive.reset(file),
            None => {
                (file.status, file.error) = (0, error::PASSED);
                file.sign(Signature::Ata);
            }
        }
        file.interrupt = false;
    }

    fn command(&mut self, value: u8) {
        let selected = self.selected();
        let idle = self.status() & (status::BSY | status::DRQ) == 0;
        if value == command::EXECUTE_DEVICE_DIAGNOSTIC {
            // For both, whichever is selected; device 0 tells that it is done.
            if idle {
                self.sign_all();
                self.files[0].interrupt = self.drives[0].is_some();
            }
            return;
        }
        let Some(drive) = &mut self.drives[selected] else { return };
        let resets = value == command::DEVICE_RESET && drive.takes_packets() && !self.resetting;
        if !idle && !resets {
            return;
        }
        let file = &mut self.files[selected];
        file.interrupt = false;
        if resets {
            // What is going on ends here. `active` is this drive when the worker is at it: no other can be selected.
            file.status = status::BSY;
            (self.active, self.phase, self.device_reset) = (selected, Phase::Rest, true);
            return self.finish_reset();
        }
        file.error = 0;
        (self.active, self.packet) = (selected, false);
        let mut access = Access { file, device: &mut self.device, buffer: &mut self.buffer };
        let next = drive.command(value, &mut access);
        self.follow(next);
    }

    fn follow(&mut self, next: Next) {
        match next {
            Next::Done => self.complete(true),
            Next::Fail(bits) => self.fail(bits),
            Next::Packet { dma, block } => {
                self.packet = true;
                self.transfer = Transfer::answer(block, dma);
                self.buffer.prepare(PACKET_SIZE);
                self.offer(Phase::Packet, false);
            }
            Next::Start(transfer) => {
                self.transfer = transfer;
                match (transfer.work, transfer.dma) {
                    (Work::Answer, false) => self.offer(Phase::In, true),
                    // No interrupt for the first block: the host looks at the status.
                    (Work::Write { .. }, false) => self.take_blocks(false),
                    _ => self.work(),
                }
            }
        }
    }

    fn file(&mut self) -> &mut TaskFile {
        &mut self.files[self.active]
    }

    /// Lets the host move the next block.
    fn offer(&mut self, phase: Phase, interrupt: bool) {
        let limit = if phase == Phase::Packet { PACKET_SIZE } else { self.transfer.block as usize };
        let size = self.buffer.begin_block(limit);
        self.phase = phase;
        let packet = self.packet;
        let file = self.file();
        file.status = status::READY | status::DRQ;
        file.interrupt |= interrupt;
        match phase {
            Phase::Packet => file.count = reason::COD.into(),
            Phase::In if packet => {
                file.count = reason::IO.into();
                file.set_byte_count(size as u16);
            }
            _ => {}
        }
    }

    /// Lets the host write as many sectors as are wanted and fit.
    fn take_blocks(&mut self, interrupt: bool) {
        let size = (u64::from(self.transfer.left) * SECTOR).min(BUFFER_SIZE as u64);
        self.buffer.prepare(size as usize);
        self.offer(Phase::Out, interrupt);
    }

    /// Gives the worker something to do.
    fn work(&mut self) {
        self.phase = Phase::Work;
        self.file().status = status::BSY | status::READY;
    }

    /// Ends the command; a drive at rest tells that it is through with `interrupt`.
    fn complete(&mut self, interrupt: bool) {
        self.phase = Phase::Rest;
        let packet = self.packet;
        let file = &mut self.files[self.active];
        file.status = status::READY;
        file.interrupt |= interrupt;
        if packet {
            file.count = (reason::IO | reason::COD).into();
        }
    }

    /// Ends a command that has worked on the medium.
    fn succeed(&mut self, interrupt: bool) {
        if let Some(drive) = &mut self.drives[self.active] {
            let file = &mut self.files[self.active];
            let mut access = Access { file, device: &mut self.device, buffer: &mut self.buffer };
            drive.succeeded(&self.transfer, &mut access);
        }
        self.complete(interrupt);
    }

    /// Ends the command with these bits in the error register.
    fn fail(&mut self, bits: u8) {
        self.complete(true);
        let file = self.file();
        file.status |= status::ERR;
        file.error = bits;
    }

    /// Ends a command whose work has failed.
    fn fail_work(&mut self, failure: Failure) {
        let bits = match &mut self.drives[self.active] {
            Some(drive) => {
                let file = &mut self.files[self.active];
                let mut access = Access { file, device: &mut self.device, buffer: &mut self.buffer };
                drive.failed(failure, &self.transfer, &mut access)
            }
            None => error::ABRT,
        };
        self.fail(bits);
    }

    /// The host reads the data register, 1 to 4 bytes.
    pub fn read_data(&mut self, data: &mut [u8]) {
        data.fill(0xFF);
        if self.phase != Phase::In || self.selected() != self.active {
            return;
        }
        self.buffer.read(data);
        if !self.buffer.block_done() {
            return;
        }
        match self.transfer.work {
            _ if !self.buffer.done() => self.offer(Phase::In, true),
            Work::Read(_) if self.transfer.left > 0 => self.work(),
            // After the last block there is a status to be had for a packet alone.
            Work::Read(_) => self.succeed(self.packet),
            _ => self.complete(self.packet),
        }
    }

    /// The host writes the data register, 1 to 4 bytes.
    pub fn write_data(&mut self, data: &[u8]) {
        if !matches!(self.phase, Phase::Packet | Phase::Out) || self.selected() != self.active {
            return;
        }
        self.buffer.write(data);
        if !self.buffer.block_done() {
            return;
        }
        match self.phase {
            Phase::Out if !self.buffer.done() => self.offer(Phase::Out, true),
            Phase::Out => self.work(),
            _ => self.take_packet(),
        }
    }

    fn take_packet(&mut self) {
        let mut packet = [0; PACKET_SIZE];
        for (byte, value) in packet.iter_mut().zip(self.buffer.data()) {
            *byte = *value;
        }
        let Transfer { dma, block, .. } = self.transfer;
        let next = match &mut self.drives[self.active] {
            Some(drive) => drive.packet(&packet, dma, block, &mut self.buffer),
            None => Next::Fail(error::ABRT),
        };
        self.follow(next);
    }

    /// Whether there is something that the worker may do now.
    pub fn is_runnable(&self) -> bool {
        let may_move = !self.transfer.dma || self.may_master && self.master.armed();
        self.phase == Phase::Work && !self.working && !self.paused && may_move
    }

    /// What the worker shall do now. It gives back what it got with [`State::finish_job`].
    pub fn take_job(&mut self) -> Option<Job> {
        if !self.is_runnable() {
            return None;
        }
        self.working = true;
        let table = Table::BusMaster(if self.transfer.dma { self.master.begin() } else { 0 });
        let disk = self.drives[self.active].as_ref().and_then(Drive::medium);
        Some(Job::new(self.transfer, std::mem::take(&mut self.buffer), disk, table))
    }

    /// The worker is through.
    pub fn finish_job(&mut self, job: Job, outcome: Outcome) {
        self.working = false;
        self.buffer = job.buffer;
        if self.resetting || self.device_reset {
            return self.finish_reset();
        }
        if self.transfer.dma && matches!(outcome, Outcome::Done | Outcome::Failed(_)) {
            self.master.end(job.usage.descriptors_left);
        }
        match outcome {
            Outcome::Done => {
                self.transfer.advance(self.transfer.left);
                self.succeed(true);
            }
            Outcome::Blocks(count) => {
                self.transfer.advance(count);
                match self.transfer.work {
                    Work::Write { .. } if self.transfer.left > 0 => self.take_blocks(true),
                    Work::Write { .. } => self.succeed(true),
                    _ => self.offer(Phase::In, true),
                }
            }
            // The host waits for an interrupt that does not come, and finds the bus master inactive. SFF-8038i, table 3.
            Outcome::Short => {
                self.master.end(false);
                self.complete(false);
            }
            // Whoever stops a transfer does not wait for it.
            Outcome::Canceled => self.complete(false),
            Outcome::Failed(failure) => {
                if failure == Failure::Bus {
                    self.master.fail();
                }
                self.fail_work(failure);
            }
        }
    }

    /// Not while the worker is at it.
    pub fn save(&self, writer: &mut StateWriter) {
        for (drive, file) in self.drives.iter().zip(&self.files) {
            match drive {
                Some(drive) => drive.save(writer),
                None => writer.u8(0),
            }
            file.save(writer);
        }
        self.master.save(writer);
        self.transfer.save(writer);
        self.buffer.save(writer);
        for byte in [self.device, self.control, self.phase as u8, self.active as u8] {
            writer.u8(byte);
        }
        writer.u8(self.packet.into());
        writer.u8(self.resetting.into());
    }

    /// Loads what [`State::save`] gave. After an error the state is any that this channel can have.
    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.power_on();
        let mut files = [TaskFile::default(); 2];
        for (drive, file) in self.drives.iter_mut().zip(&mut files) {
            match drive {
                Some(drive) => drive.load(reader)?,
                None if reader.u8()? == 0 => {}
                None => return Err(reader.invalid("it has a drive that this machine has not")),
            }
            *file = TaskFile::load(reader)?;
        }
        let master = BusMaster::load(reader)?;
        let transfer = Transfer::load(reader)?;
        let buffer = Buffer::load(reader)?;
        let device = reader.u8()? | device::OBSOLETE;
        let control = reader.u8()? & (control::HOB | control::SRST | control::NIEN);
        let phase = match reader.u8()? {
            0 => Phase::Rest,
            1 => Phase::Packet,
            2 => Phase::In,
            3 => Phase::Out,
            4 => Phase::Work,
            _ => return Err(reader.invalid("a command in no known phase")),
        };
        let active = usize::from(reader.u8()?);
        let (packet, resetting) = (reader.bool()?, reader.bool()?);
        let carried_out = phase != Phase::Rest;
        if active > 1 || carried_out && (self.drives[active].is_none() || resetting) {
            return Err(reader.invalid("a command that no drive carries out"));
        }
        if phase == Phase::Packet && buffer.data().len() != PACKET_SIZE {
            return Err(reader.invalid("a packet of an impossible size"));
        }
        if phase == Phase::Out && !matches!(transfer.work, Work::Write { .. }) {
            return Err(reader.invalid("a command that takes no data waits for them"));
        }
        if carried_out && !self.drives[active].as_ref().is_some_and(|drive| drive.does(transfer.work)) {
            return Err(reader.invalid("a command that its drive does not have"));
        }
        for (index, (file, drive)) in files.iter_mut().zip(&self.drives).enumerate() {
            file.status = match phase {
                _ if drive.is_none() => 0,
                _ if resetting => status::BSY,
                Phase::Work if index == active => status::BSY | status::READY,
                Phase::Rest => file.status & !(status::BSY | status::DRQ),
                _ if index == active => status::READY | status::DRQ,
                _ => file.status & !(status::BSY | status::DRQ),
            };
        }
        (self.files, self.master, self.transfer, self.buffer) = (files, master, transfer, buffer);
        (self.device, self.control, self.phase, self.active) = (device, control, phase, active);
        (self.packet, self.resetting) = (packet, resetting);
        self.finish_reset();
        Ok(())
    }
}
