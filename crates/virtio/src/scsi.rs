//! virtio-scsi. virtio 1.2, section 5.6.

mod address;
mod control;
mod events;
mod request;

use crate::{DeviceType, Link, Queue, QueueError, VirtioDevice};
use ::scsi::{DeviceType as UnitType, LogicalUnit};
use block::{Disk, MediumWatcher};
use board::{StateReader, StateWriter};
use events::{Event, Events};
use parking_lot::Mutex;
use request::Scratch;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Device features. virtio 1.2, section 5.6.3.
const FEATURE_HOTPLUG: u64 = 1 << 1;
const FEATURE_CHANGE: u64 = 1 << 2;

/// Response values. virtio 1.2, sections 5.6.6.1 and 5.6.6.2.
mod response {
    pub const OK: u8 = 0;
    pub const OVERRUN: u8 = 1;
    pub const ABORTED: u8 = 2;
    pub const BAD_TARGET: u8 = 3;
    pub const RESET: u8 = 4;
    pub const BUSY: u8 = 5;
    pub const FAILURE: u8 = 9;
    pub const FUNCTION_REJECTED: u8 = 11;
    pub const INCORRECT_LUN: u8 = 12;
}

/// Offsets of what a driver may write in the device configuration.
const CONFIG_SENSE_SIZE: usize = 20;
const CONFIG_CDB_SIZE: usize = 24;
/// What is there after a reset, and the most that is taken.
const DEFAULT_SENSE_SIZE: u32 = 96;
const DEFAULT_CDB_SIZE: u32 = 32;
const MAX_SENSE_SIZE: u32 = 0xFFFF;
const MAX_CDB_SIZE: u32 = 0xFF;

const CONTROL_QUEUE_SIZE: u16 = 64;
const QUEUE_SIZE: u16 = 256;
/// Buffers for data in a request: the queue's size less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// A hint at how large requests may be, in sectors of 512 bytes: just below what units take.
const MAX_SECTORS: u32 = 0xFFFF;
/// Commands for one unit that wait at a time.
const COMMANDS_PER_UNIT: u32 = 128;
/// Characters of a serial number.
const SERIAL_SIZE: usize = 36;
const STATE_VERSION: u32 = 1;

/// What hangs on the device: a target with one unit, number 0.
pub struct Target {
    /// Its number.
    pub id: u8,
    /// Its unit, with a serial number of at most 36 characters of printable ASCII. Where it is empty, it becomes the
    /// device's name, a dash and the target's number.
    pub unit: Box<dyn LogicalUnit>,
}

/// How a SCSI host is shown to its guest.
#[derive(Clone, Debug, Default)]
pub struct ScsiOptions {
    /// Number of request queues, 1..=16; 0 means 1. One thread serves them all.
    pub queues: u16,
}

/// virtio-scsi: up to 256 targets, which come and go while the guest runs. virtio 1.2, section 5.6.
///
/// Data of disks move between the disk and guest memory without a copy of our own.
///
/// Lock order: `state`, held while a unit looks at a command but not while data move, then those of [`block::Medium`];
/// `news` is a leaf.
pub struct Scsi {
    name: String,
    queues: u16,
    features: AtomicU64,
    sense_size: AtomicU32,
    cdb_size: AtomicU32,
    state: Mutex<State>,
    news: Arc<News>,
}

#[derive(Default)]
struct State {
    targets: BTreeMap<u8, Attached>,
    events: Events,
}

struct Attached {
    unit: Box<dyn LogicalUnit>,
    /// What asynchronous events the driver has subscribed to.
    subscribed: u32,
    /// Kept so that the unit's slot finds it.
    _watcher: Option<Arc<Watcher>>,
}

/// Targets to whose slots the host has done something.
#[derive(Default)]
struct News {
    link: OnceLock<Arc<Link>>,
    changed: Mutex<Vec<u8>>,
}

impl News {
    fn wake(&self) {
        if let Some(link) = self.link.get() {
            link.wake();
        }
    }
}

struct Watcher {
    id: u8,
    news: Arc<News>,
}

impl MediumWatcher for Watcher {
    fn medium_changed(&self) {
        let mut changed = self.news.changed.lock();
        if !changed.contains(&self.id) {
            changed.push(self.id);
        }
        drop(changed);
        self.news.wake();
    }
}

impl Scsi {
    /// A host with these targets.
    ///
    /// # Errors
    /// One sentence when two have the same number, a serial number is not as [`Target`] says, or an option is out of
    /// range.
    pub fn new(name: &str, targets: Vec<Target>, options: ScsiOptions) -> Result<Self, String> {
        let queues = options.queues.max(1);
        if queues > 16 {
            return Err(format!("SCSI host {name} cannot have {queues} request queues: use 1 to 16"));
        }
        let scsi = Scsi {
            name: name.to_owned(),
            queues,
            features: AtomicU64::new(0),
            sense_size: AtomicU32::new(DEFAULT_SENSE_SIZE),
            cdb_size: AtomicU32::new(DEFAULT_CDB_SIZE),
            state: Mutex::default(),
            news: Arc::default(),
        };
        for target in targets {
            scsi.plug(target)?;
        }
        Ok(scsi)
    }

    /// Adds a target. A running guest is told.
    ///
    /// # Errors
    /// One sentence when there is one of its number, or its serial number is not as [`Target`] says.
    pub fn plug(&self, mut target: Target) -> Result<(), String> {
        let id = target.id;
        let serial = &mut target.unit.identity().serial;
        if serial.len() > SERIAL_SIZE || !serial.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(format!(
                "the serial number {serial:?} of target {id} of SCSI host {} is longer than {SERIAL_SIZE} characters or \
                 not printable ASCII",
                self.name
            ));
        }
        if serial.is_empty() {
            *serial = format!("{}-{id}", self.name);
        }
        let watcher = target.unit.slot().map(|slot| {
            let watcher = Arc::new(Watcher { id, news: self.news.clone() });
            let weak = Arc::downgrade(&watcher);
            slot.watch(weak);
            watcher
        });
        let mut state = self.state.lock();
        match state.targets.entry(id) {
            Entry::Occupied(_) => return Err(format!("SCSI host {} has a target {id} already", self.name)),
            Entry::Vacant(place) => {
                place.insert(Attached { unit: target.unit, subscribed: 0, _watcher: watcher });
            }
        }
        self.announce(&mut state, FEATURE_HOTPLUG, Event::added(id));
        Ok(())
    }

    /// Takes a target away; a command that moves data is not waited for. A running guest is told.
    pub fn unplug(&self, id: u8) -> Option<Box<dyn LogicalUnit>> {
        let mut state = self.state.lock();
        let attached = state.targets.remove(&id)?;
        self.announce(&mut state, FEATURE_HOTPLUG, Event::removed(id));
        Some(attached.unit)
    }

    /// Exchanges a target's disk for one of another size with the same content at its beginning. A running guest is
    /// told.
    ///
    /// # Errors
    /// One sentence when there is no such target, it is no disk, or the new one is of no use.
    pub fn resize(&self, id: u8, disk: Arc<dyn Disk>) -> Result<(), String> {
        let mut state = self.state.lock();
        let attached = state.targets.get_mut(&id);
        let attached = attached.ok_or_else(|| format!("SCSI host {} has no target {id}", self.name))?;
        attached.unit.resize(disk)?;
        self.announce(&mut state, FEATURE_CHANGE, Event::capacity_changed(id));
        Ok(())
    }

    /// Lets a driver know that has taken the feature.
    fn announce(&self, state: &mut State, feature: u64, event: Event) {
        if self.features.load(Ordering::Acquire) & feature != 0 {
            state.events.push(event);
            self.news.wake();
        }
    }

    /// Makes events of what has happened to slots. CD-ROM drives have asynchronous notifications alone: virtio 1.2,
    /// section 5.6.6.3.
    fn notice_media(&self, state: &mut State) {
        let changed = std::mem::take(&mut *self.news.changed.lock());
        for id in changed {
            let subscribed = state.targets.get(&id).map_or(0, |attached| attached.subscribed);
            if subscribed & events::MEDIA_CHANGE != 0 {
                state.events.push(Event::medium_changed(id));
            }
        }
    }
}

/// What asynchronous events a unit can report.
fn asynchronous(unit: &dyn LogicalUnit) -> u32 {
    match unit.device_type() {
        UnitType::MultiMedia => events::MEDIA_CHANGE,
        UnitType::DirectAccess => 0,
    }
}

impl VirtioDevice for Scsi {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Scsi
    }

    fn features(&self) -> u64 {
        FEATURE_HOTPLUG | FEATURE_CHANGE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![CONTROL_QUEUE_SIZE, CONTROL_QUEUE_SIZE];
        sizes.extend(std::iter::repeat_n(QUEUE_SIZE, self.queues.into()));
        sizes
    }

    /// virtio 1.2, section 5.6.4.
    fn config(&self) -> Vec<u8> {
        let words = [
            u32::from(self.queues),
            SEG_MAX,
            MAX_SECTORS,
            COMMANDS_PER_UNIT,
            events::SIZE as u32,
            self.sense_size.load(Ordering::Acquire),
            self.cdb_size.load(Ordering::Acquire),
            // Channel 0 alone, targets up to 255; unit 0 alone.
            u32::from(u8::MAX) << 16,
            0,
        ];
        words.map(u32::to_le_bytes).concat()
    }

    /// Sizes beyond what requests can have are not taken.
    fn write_config(&self, offset: usize, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        match (offset, u32::from_le_bytes(bytes)) {
            (CONFIG_SENSE_SIZE, size @ 0..=MAX_SENSE_SIZE) => self.sense_size.store(size, Ordering::Release),
            (CONFIG_CDB_SIZE, size @ 0..=MAX_CDB_SIZE) => self.cdb_size.store(size, Ordering::Release),
            _ => {}
        }
    }

    fn connect(&self, link: Arc<Link>) {
        let _ = self.news.link.set(link);
    }

    fn start(&self, features: u64) {
        self.features.store(features, Ordering::Release);
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let [control, event, requests @ ..] = queues else { return Ok(false) };
        let mut scratch = Scratch::default();
        let mut more = control.serve(|chain| self.control(chain, requests, &mut scratch))?;
        more |= self.report(event)?;
        for queue in requests {
            more |= queue.serve(|chain| self.request(chain, &mut scratch))?;
        }
        Ok(more)
    }

    fn reset(&self) {
        self.features.store(0, Ordering::Release);
        self.sense_size.store(DEFAULT_SENSE_SIZE, Ordering::Release);
        self.cdb_size.store(DEFAULT_CDB_SIZE, Ordering::Release);
        let mut state = self.state.lock();
        state.events = Events::default();
        for attached in state.targets.values_mut() {
            attached.subscribed = 0;
            attached.unit.power_on();
        }
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u32(self.sense_size.load(Ordering::Acquire));
        writer.u32(self.cdb_size.load(Ordering::Acquire));
        writer.u16(state.targets.len() as u16);
        for (id, attached) in &state.targets {
            writer.u8(*id);
            writer.u8(attached.unit.device_type() as u8);
            writer.u32(attached.subscribed);
            attached.unit.save(&mut writer);
        }
        state.events.save(&mut writer);
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, saved, STATE_VERSION)?;
        let (sense_size, cdb_size) = (reader.u32()?, reader.u32()?);
        if sense_size > MAX_SENSE_SIZE || cdb_size > MAX_CDB_SIZE {
            return Err(reader.invalid("requests of an impossible size"));
        }
        let mut state = self.state.lock();
        if usize::from(reader.u16()?) != state.targets.len() {
            return Err(reader.invalid("it had another number of targets"));
        }
        for (id, attached) in &mut state.targets {
            if (reader.u8()?, reader.u8()?) != (*id, attached.unit.device_type() as u8) {
                return Err(reader.invalid("it had other targets"));
            }
            attached.subscribed = reader.u32()? & asynchronous(&*attached.unit);
            attached.unit.load(&mut reader)?;
        }
        state.events = Events::load(&mut reader)?;
        reader.finish()?;
        self.sense_size.store(sense_size, Ordering::Release);
        self.cdb_size.store(cdb_size, Ordering::Release);
        Ok(())
    }
}
