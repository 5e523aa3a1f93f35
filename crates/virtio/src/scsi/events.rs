//! The event queue. virtio 1.2, section 5.6.6.3.

use super::Scsi;
use super::address::Address;
use crate::{Queue, QueueError};
use board::{StateReader, StateWriter};
use std::collections::VecDeque;

/// Bytes of an event: what, where, why.
pub(super) const SIZE: usize = 16;
/// Events that wait for a buffer. Those beyond are lost, and the driver hears of that.
const MAX_WAITING: usize = 64;

/// Kinds of event.
const TRANSPORT_RESET: u32 = 1;
const ASYNC_NOTIFY: u32 = 2;
const PARAM_CHANGE: u32 = 3;
/// Events were lost before this one.
const MISSED: u32 = 1 << 31;

/// Reasons of TRANSPORT_RESET.
const RESCAN: u32 = 1;
const REMOVED: u32 = 2;
/// Reason of ASYNC_NOTIFY: the medium has changed, or is asked for.
pub(super) const MEDIA_CHANGE: u32 = 16;
/// Reason of PARAM_CHANGE: additional sense code 0x2A, qualifier 0x09.
const CAPACITY_CHANGED: u32 = 0x092A;

/// What a driver is told about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    kind: u32,
    target: u8,
    reason: u32,
}

impl Event {
    pub fn added(target: u8) -> Self {
        Event { kind: TRANSPORT_RESET, target, reason: RESCAN }
    }

    pub fn removed(target: u8) -> Self {
        Event { kind: TRANSPORT_RESET, target, reason: REMOVED }
    }

    pub fn capacity_changed(target: u8) -> Self {
        Event { kind: PARAM_CHANGE, target, reason: CAPACITY_CHANGED }
    }

    pub fn medium_changed(target: u8) -> Self {
        Event { kind: ASYNC_NOTIFY, target, reason: MEDIA_CHANGE }
    }
}

/// Events that wait for a buffer.
#[derive(Default)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    missed: bool,
}

impl Events {
    pub fn push(&mut self, event: Event) {
        if self.waiting.len() == MAX_WAITING {
            self.missed = true;
        } else {
            self.waiting.push_back(event);
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.u8(self.missed.into());
        writer.u8(self.waiting.len() as u8);
        for event in &self.waiting {
            writer.u32(event.kind);
            writer.u8(event.target);
            writer.u32(event.reason);
        }
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let (missed, count) = (reader.bool()?, usize::from(reader.u8()?));
        if count > MAX_WAITING {
            return Err(reader.invalid("more events wait than can"));
        }
        let event = |_| Ok(Event { kind: reader.u32()?, target: reader.u8()?, reason: reader.u32()? });
        let waiting = (0..count).map(event).collect::<Result<_, String>>()?;
        Ok(Events { waiting, missed })
    }
}

impl Scsi {
    /// Tells the driver what waits, as far as it has given buffers. `true`: it has just given more.
    pub(super) fn report(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let mut state = self.state.lock();
        self.notice_media(&mut state);
        while let Some(event) = state.events.waiting.front().copied() {
            if !queue.pop()? {
                queue.signal();
                return queue.arm();
            }
            let missed = if std::mem::take(&mut state.events.missed) { MISSED } else { 0 };
            let mut bytes = [0; SIZE];
            bytes[..4].copy_from_slice(&(event.kind | missed).to_le_bytes());
            bytes[4..12].copy_from_slice(&Address::field(event.target));
            bytes[12..].copy_from_slice(&event.reason.to_le_bytes());
            if queue.chain().writable() < SIZE as u64 {
                return Err(QueueError::Request("a buffer too small for an event"));
            }
            queue.chain().write(0, &bytes);
            queue.push(SIZE as u32);
            state.events.waiting.pop_front();
        }
        queue.signal();
        Ok(false)
    }
}
