//! The control queue: task management and subscriptions. virtio 1.2, section 5.6.6.2.

use super::address::Address;
use super::request::Scratch;
use super::{Scsi, asynchronous, response};
use crate::{Chain, Queue, QueueError};

/// Types of request.
const TASK_MANAGEMENT: u32 = 0;
const QUERY_NOTIFICATIONS: u32 = 1;
const SUBSCRIBE_NOTIFICATIONS: u32 = 2;

/// Task management functions.
mod function {
    pub const ABORT_TASK: u32 = 0;
    pub const ABORT_TASK_SET: u32 = 1;
    pub const CLEAR_TASK_SET: u32 = 3;
    pub const NEXUS_RESET: u32 = 4;
    pub const UNIT_RESET: u32 = 5;
    pub const QUERY_TASK: u32 = 6;
    pub const QUERY_TASK_SET: u32 = 7;
}

/// Bytes that a driver gives: task management has type, function, address, tag; the others type, address, events.
const TASK_MANAGEMENT_SIZE: usize = 24;
const NOTIFICATIONS_SIZE: usize = 16;

/// Requests that are not to be carried out any more.
pub(super) struct Cancelled {
    target: u8,
    /// This one alone.
    tag: Option<u64>,
    /// How they end.
    response: u8,
}

impl Cancelled {
    pub fn concerns(&self, address: Option<Address>, tag: u64) -> Option<u8> {
        let same = address.is_some_and(|address| address.target == self.target);
        (same && self.tag.is_none_or(|wanted| wanted == tag)).then_some(self.response)
    }
}

impl Scsi {
    /// Serves a control request; returns the bytes written.
    pub(super) fn control(
        &self,
        chain: &Chain,
        requests: &mut [Queue],
        scratch: &mut Scratch,
    ) -> Result<u32, QueueError> {
        let mut bytes = [0; TASK_MANAGEMENT_SIZE];
        let got = chain.read(0, &mut bytes);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let address = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            Address::parse(field)
        };
        match word(0) {
            TASK_MANAGEMENT if got == TASK_MANAGEMENT_SIZE && chain.writable() >= 1 => {
                let tag = u64::from(word(16)) | u64::from(word(20)) << 32;
                let answer = self.manage(word(4), address(8), tag, requests, scratch)?;
                Ok(chain.write(0, &[answer]) as u32)
            }
            kind @ (QUERY_NOTIFICATIONS | SUBSCRIBE_NOTIFICATIONS)
                if got >= NOTIFICATIONS_SIZE && chain.writable() >= 5 =>
            {
                let (events, answer) = self.notifications(kind, address(4), word(12));
                let [e0, e1, e2, e3] = events.to_le_bytes();
                Ok(chain.write(0, &[e0, e1, e2, e3, answer]) as u32)
            }
            _ => Err(QueueError::Request("a SCSI control request without a known type, or too short")),
        }
    }

    /// Carries out a task management function. What the driver gave before it is over when it ends: there is one
    /// thread, so a request is either done or waits in its queue.
    fn manage(
        &self,
        what: u32,
        address: Option<Address>,
        tag: u64,
        requests: &mut [Queue],
        scratch: &mut Scratch,
    ) -> Result<u8, QueueError> {
        let there = |address: &Address| self.state.lock().targets.contains_key(&address.target);
        let Some(Address { target, unit }) = address.filter(there) else { return Ok(response::BAD_TARGET) };
        if unit != 0 && what != function::NEXUS_RESET {
            return Ok(response::INCORRECT_LUN);
        }
        let cancelled = |tag, response| Some(Cancelled { target, tag, response });
        let (cancelled, resets) = match what {
            function::ABORT_TASK => (cancelled(Some(tag), response::ABORTED), false),
            function::ABORT_TASK_SET | function::CLEAR_TASK_SET => (cancelled(None, response::ABORTED), false),
            function::NEXUS_RESET | function::UNIT_RESET => (cancelled(None, response::RESET), true),
            // Carried out while it was asked for.
            function::QUERY_TASK | function::QUERY_TASK_SET => (None, false),
            _ => return Ok(response::FUNCTION_REJECTED),
        };
        for queue in requests {
            self.drain(queue, cancelled.as_ref(), scratch)?;
        }
        if let Some(attached) = self.state.lock().targets.get_mut(&target).filter(|_| resets) {
            attached.unit.reset();
        }
        Ok(response::OK)
    }

    /// Finishes all requests that wait in a queue: as `cancelled` says, or by carrying them out. A thread that is asked
    /// to stop does not begin any more; then the driver is to try again.
    fn drain(&self, queue: &mut Queue, cancelled: Option<&Cancelled>, scratch: &mut Scratch) -> Result<(), QueueError> {
        for _ in 0..queue.size() {
            if !queue.pop()? {
                break;
            }
            let stopping = self.news.link.get().is_some_and(|link| link.stopping());
            let written = self.request_unless(queue.chain(), scratch, |address, tag| {
                let answer = cancelled.and_then(|cancelled| cancelled.concerns(address, tag));
                answer.or(stopping.then_some(response::BUSY))
            })?;
            queue.push(written);
        }
        queue.signal();
        Ok(())
    }

    /// Which of the events `wanted` a unit can report; what a driver subscribes to.
    fn notifications(&self, kind: u32, address: Option<Address>, wanted: u32) -> (u32, u8) {
        let mut state = self.state.lock();
        let Some(Address { target, unit }) = address else { return (0, response::BAD_TARGET) };
        match state.targets.get_mut(&target) {
            None => (0, response::BAD_TARGET),
            Some(_) if unit != 0 => (0, response::INCORRECT_LUN),
            Some(attached) => {
                let actual = wanted & asynchronous(&*attached.unit);
                if kind == SUBSCRIBE_NOTIFICATIONS {
                    attached.subscribed = actual;
                }
                (actual, response::OK)
            }
        }
    }
}
