use super::descriptor::{Link, PID_IN, PID_OUT, PID_SETUP, QueueHead, TransferDescriptor, actual_length, control};
use super::registers::{ATTENTION, Controller, Fault, system_error};
use crate::bus::{Response, Speed, Token, Transaction};
use hv::GuestMemory;

/// Entries of the frame list.
const FRAMES: u64 = 1024;
/// Queue heads and transfer descriptors that one frame looks at: a controller has no time for more. What is behind them has
/// its turn when a driver makes the way to it shorter.
const MOST_STEPS: u32 = 256;
/// Bit times of a frame, and those that a transaction takes besides its data: token, handshake, SYNC and EOP of each packet,
/// turns of the bus. USB 2.0, section 5.11.3, rounded.
const FRAME_BITS: usize = 12_000;
const OVERHEAD_BITS: usize = 13 * 8;
/// Bits of low speed last as long as these of full speed.
const LOW_SPEED_BITS: usize = 8;

/// Queue heads, and transfer descriptors outside of queues, from where on there was nothing to do, in frames that are made
/// up for together: the next of these frames need not go there again. Forgotten as soon as something is done.
#[derive(Default)]
pub(super) struct Barren(Vec<Link>);

/// Places that are remembered, at most. Drivers' trees have some dozens.
const MOST_BARREN: usize = 64;

impl Barren {
    fn contains(&self, link: Link) -> bool {
        self.0.contains(&link)
    }

    fn insert(&mut self, link: Link) {
        if self.0.len() < MOST_BARREN {
            self.0.push(link);
        }
    }
}

/// What a transfer descriptor came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is done, and its queue goes on.
    Done,
    /// It is done or not, and its queue waits.
    Wait,
    /// There is no time for it in this frame.
    NoTime,
}

/// How the way through a frame ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All that was due had its turn.
    Through,
    /// There was more.
    OutOfTime,
}

/// One frame.
struct Frame<'a> {
    controller: &'a mut Controller,
    memory: &'a GuestMemory,
    bits: usize,
    completed: bool,
    short_packet: bool,
    error: bool,
    /// Something was done since the loop detection's mark was set, so that a second turn may do more.
    progress: bool,
    /// Something was done that drivers may follow up, or that is to be tried again.
    active: bool,
    /// A report was taken.
    reported: bool,
}

impl Controller {
    /// Does the work of the frame that ends now and begins the next. `barren` is empty for the first of the frames that are made
    /// up for together. UHCI, section 1.3 and 3.4.
    pub fn run_frame(&mut self, memory: &GuestMemory, barren: &mut Barren) {
        let mut frame = Frame {
            controller: self,
            memory,
            bits: 0,
            completed: false,
            short_packet: false,
            error: false,
            progress: false,
            active: false,
            reported: false,
        };
        let known = barren.0.len();
        let walked = frame.walk(barren);
        let Frame { completed, short_packet, error, active, reported, .. } = frame;
        match walked {
            _ if active || reported => barren.0.clear(),
            Ok(End::OutOfTime) => barren.0.truncate(known),
            _ => {}
        }
        self.quiet = if active { 0 } else { self.quiet.saturating_add(1) };
        self.attention = if reported { 0 } else { self.attention.saturating_sub(1) };
        if reported && self.ports.iter().filter_map(|port| port.active_device()).any(|device| device.has_report()) {
            self.attention = ATTENTION;
        }
        self.end_frame(completed, short_packet, error);
        if let Err(fault) = walked {
            self.fail(fault);
        }
    }
}

impl Frame<'_> {
    fn walk(&mut self, barren: &mut Barren) -> Result<End, Fault> {
        let entry = u64::from(self.controller.frame_list) + 4 * (u64::from(self.controller.frame_number) % FRAMES);
        let mut link = Link(self.memory.load_u32(entry).map_err(system_error)?);
        // The queue that the next transfer descriptor is of.
        let mut queue: Option<QueueHead> = None;
        // Schedules are loops where drivers reclaim bandwidth. A place is marked at each power of two of steps: whoever comes
        // there again, with nothing done since, is through with the frame.
        let mut mark = None;
        for step in 1..=MOST_STEPS {
            if link.is_end() || mark == Some(link) && !self.progress || barren.contains(link) && !self.is_busy() {
                return Ok(End::Through);
            }
            if step.is_power_of_two() || mark == Some(link) {
                (mark, self.progress) = (Some(link), false);
            }
            if link.is_queue() || queue.is_none() {
                barren.insert(link);
            }
            if link.is_queue() {
                let head = QueueHead::load(self.memory, link.address())?;
                (link, queue) = if head.element.is_end() { (head.link, None) } else { (head.element, Some(head)) };
                continue;
            }
            let descriptor = TransferDescriptor::load(self.memory, link.address())?;
            let outcome = self.visit(&descriptor, queue.is_some())?;
            link = match (outcome, queue.take()) {
                (Outcome::NoTime, _) => return Ok(End::OutOfTime),
                (_, None) => descriptor.link,
                (Outcome::Wait, Some(head)) => head.link,
                (Outcome::Done, Some(head)) => {
                    head.set_element(self.memory, descriptor.link)?;
                    if descriptor.link.is_depth_first() && !descriptor.link.is_end() {
                        queue = Some(head);
                        descriptor.link
                    } else {
                        head.link
                    }
                }
            };
        }
        Ok(End::OutOfTime)
    }

    fn is_busy(&self) -> bool {
        self.active || self.reported
    }

    fn visit(&mut self, descriptor: &TransferDescriptor, queued: bool) -> Result<Outcome, Fault> {
        if !descriptor.is_active() {
            // It interrupts nonetheless: drivers ask for an interrupt at the end of a frame so.
            self.completed |= descriptor.control & control::IOC != 0;
            return Ok(Outcome::Wait);
        }
        let length = descriptor.length()?;
        let low_speed = descriptor.control & control::LOW_SPEED != 0;
        let bits = (OVERHEAD_BITS + 8 * length) * if low_speed { LOW_SPEED_BITS } else { 1 };
        if self.bits != 0 && self.bits + bits > FRAME_BITS {
            return Ok(Outcome::NoTime);
        }
        self.bits += bits;
        let response = self.transact(descriptor, length)?;
        self.complete(descriptor, length, response, queued)
    }

    fn transact(&self, descriptor: &TransferDescriptor, length: usize) -> Result<Response, Fault> {
        let data = match descriptor.pid() {
            PID_IN => Vec::new(),
            PID_OUT | PID_SETUP => descriptor.read_buffer(self.memory, length)?,
            _ => return Err(Fault::Process),
        };
        let transaction = match descriptor.pid() {
            PID_IN => Transaction::In,
            PID_SETUP => Transaction::Setup(&data),
            _ => Transaction::Out { data: &data, toggle: descriptor.toggle() },
        };
        let speed = if descriptor.control & control::LOW_SPEED != 0 { Speed::Low } else { Speed::Full };
        let token = Token { address: descriptor.device(), endpoint: descriptor.endpoint() };
        let frames = self.controller.frames;
        let mut answers = self.controller.ports.iter().map(|port| port.transact(speed, token, transaction, frames));
        Ok(answers.find(|response| *response != Response::Silence).unwrap_or(Response::Silence))
    }

    /// Moves data and writes the status. UHCI, section 3.2.2.
    fn complete(
        &mut self,
        descriptor: &TransferDescriptor,
        length: usize,
        response: Response,
        queued: bool,
    ) -> Result<Outcome, Fault> {
        let isochronous = descriptor.control & control::IOS != 0;
        // Retired with these bits of status and so many bytes, or with an error.
        let (status, moved) = match response {
            Response::Ack => (0, length),
            Response::Data { data, .. } if data.len() > length => (control::BABBLE | control::STALLED, 0),
            // The packet that the host has already, sent again: it is acknowledged and dropped.
            Response::Data { toggle, .. } if toggle != descriptor.toggle() && !isochronous => {
                return self.retry(descriptor, 0);
            }
            Response::Data { data, .. } => {
                descriptor.write_buffer(self.memory, &data)?;
                (0, data.len())
            }
            Response::Nak if !isochronous => return self.retry(descriptor, control::NAK),
            Response::Nak => (control::NAK, 0),
            Response::Stall => (control::STALLED, 0),
            Response::Silence if isochronous => (control::CRC_OR_TIMEOUT, 0),
            Response::Silence => match descriptor.control & control::ERRORS {
                0 => return self.retry(descriptor, control::CRC_OR_TIMEOUT),
                control::ONE_ERROR => (control::CRC_OR_TIMEOUT | control::STALLED, 0),
                _ => return self.retry(descriptor, control::CRC_OR_TIMEOUT),
            },
        };
        self.progress = true;
        if descriptor.pid() == PID_IN && descriptor.endpoint() != 0 && status == 0 {
            self.reported = true;
        } else {
            self.active = true;
        }
        let mut word = descriptor.control & !(control::STATUS | control::ACTUAL_LENGTH) | status | actual_length(moved);
        if status & control::STALLED != 0 && status & control::CRC_OR_TIMEOUT != 0 {
            word &= !control::ERRORS;
        }
        descriptor.set_control(self.memory, word)?;
        self.completed |= descriptor.control & control::IOC != 0;
        let failed = status & !control::NAK != 0;
        self.error |= failed;
        let short = descriptor.pid() == PID_IN && queued && !failed && moved < length;
        if short && descriptor.control & control::SPD != 0 {
            self.short_packet = true;
            return Ok(Outcome::Wait);
        }
        Ok(if failed { Outcome::Wait } else { Outcome::Done })
    }

    /// It stays active and is tried again, in another frame. A timeout is counted where errors are counted.
    fn retry(&mut self, descriptor: &TransferDescriptor, status: u32) -> Result<Outcome, Fault> {
        let mut word = descriptor.control | status;
        if status == control::CRC_OR_TIMEOUT && word & control::ERRORS != 0 {
            word -= control::ONE_ERROR;
            self.active = true;
        }
        descriptor.set_control(self.memory, word)?;
        Ok(Outcome::Wait)
    }
}
