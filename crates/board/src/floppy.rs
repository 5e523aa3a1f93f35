//! The floppy disk controller and its two drives. Intel 82078 (44 pin) data sheet; IBM PC/AT Technical Reference.

mod command;
mod controller;
mod drive;
mod execution;
mod format;
mod status;

use crate::{AccessSizes, Action, BusError, Buses, Device, DmaChannel, IrqLine, StateReader, StateWriter};
use controller::{Controller, Work};
pub use drive::FloppyDrive;
pub use format::FloppyKind;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// First of the controller's ports. One of the eight is the IDE channel's.
const BASE_PORT: u16 = 0x3F0;
/// Offset of the last port before the gap, and of the port behind it.
const BEFORE_GAP: u16 = 5;
const BEHIND_GAP: u16 = 7;

/// From a command to its interrupt: drivers may expect that their next instructions come before it.
const DELAY: Duration = Duration::from_micros(500);
/// From one look at a DMA channel that is not ready to the next.
const RETRY: Duration = Duration::from_millis(1);
const STATE_VERSION: u32 = 1;

/// A floppy controller in the PC/AT's mode, whose status registers A and B can be read as on a PS/2.
///
/// Disks do not turn: data move as fast as the host takes them, and each command ends half a millisecond after it was given, or
/// when its data are durable. That is the work of a thread, `floppy`. A command that no disk answers ends with an error
/// instead of never. There are the commands of drivers; SCAN, FORMAT AND WRITE, SAVE, RESTORE, OPTION, POWERDOWN MODE and
/// DRIVE SPECIFICATION are invalid. No sector has the deleted mark: WRITE DELETED DATA writes ordinary ones.
///
/// Lock order: `shared.state`, then the DMA controllers', the medium's and the interrupt line's.
pub struct Floppy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    line: IrqLine,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    controller: Controller,
    /// When the thread goes on.
    due: Instant,
    /// The thread works on an image, without the lock.
    busy: bool,
    paused: bool,
    stopped: bool,
}

impl Floppy {
    /// A controller on a connection to ISA interrupt 6 and a DMA channel (of a PC, 2), with two drives at most.
    ///
    /// # Errors
    /// The host's, when it gives no thread.
    pub fn new(line: IrqLine, channel: DmaChannel, drives: [Option<FloppyDrive>; 2]) -> io::Result<Arc<Self>> {
        let controller = Controller::new(channel, drives);
        let state = State { controller, due: Instant::now(), busy: false, paused: false, stopped: false };
        let shared = Arc::new(Shared { line, state: Mutex::new(state), changed: Condvar::new() });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new().name("floppy".into()).spawn(move || for_thread.run())?;
        Ok(Arc::new(Floppy { shared, thread: Some(thread) }))
    }

    /// Puts the controller on the bus, at ports 0x3F0 to 0x3F5 and 0x3F7.
    ///
    /// # Errors
    /// When they are taken.
    pub fn insert(self: &Arc<Self>, buses: &Buses) -> Result<(), BusError> {
        let ports = |first| Arc::new(Ports { floppy: self.clone(), first });
        buses.insert_port(BASE_PORT..=BASE_PORT + BEFORE_GAP, ports(0))?;
        buses.insert_port(BASE_PORT + BEHIND_GAP..=BASE_PORT + BEHIND_GAP, ports(BEHIND_GAP))
    }

    /// Stops the thread's work, and returns when it has let go of memory.
    pub fn pause(&self) {
        let mut state = self.shared.state.lock();
        state.paused = true;
        drop(self.shared.idle(state));
    }

    /// Goes on after [`Floppy::pause`].
    pub fn resume(&self) {
        self.shared.state.lock().paused = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Floppy {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits until the thread has brought back what it works on.
    fn idle<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.busy {
            self.changed.wait(&mut state);
        }
        state
    }

    /// Uses the controller on behalf of the host, and has the thread do what comes of it.
    fn with_controller<R>(&self, using: impl FnOnce(&mut Controller) -> R) -> R {
        let mut state = self.state.lock();
        let result = self.using(&mut state, using);
        drop(state);
        result
    }

    fn using<R>(&self, state: &mut State, using: impl FnOnce(&mut Controller) -> R) -> R {
        let had_work = state.controller.has_work();
        let result = using(&mut state.controller);
        self.line.set(state.controller.line());
        if !had_work && state.controller.has_work() {
            state.due = Instant::now() + DELAY;
            self.changed.notify_all();
        }
        result
    }

    /// The thread.
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.paused || !state.controller.has_work() {
                self.changed.wait(&mut state);
                continue;
            }
            let due = state.due;
            if Instant::now() < due {
                self.changed.wait_until(&mut state, due);
                continue;
            }
            match state.controller.work() {
                Work::Nothing => {}
                Work::Later => state.due = Instant::now() + RETRY,
                Work::Io(mut io, generation) => {
                    state.busy = true;
                    let outcome = MutexGuard::unlocked(&mut state, || io.perform());
                    state.busy = false;
                    state.controller.complete(io, generation, outcome);
                    self.changed.notify_all();
                }
            }
            self.line.set(state.controller.line());
        }
    }
}

struct Ports {
    floppy: Arc<Floppy>,
    /// Offset of the first port. The range that begins at 0 carries the state.
    first: u16,
}

impl Device for Ports {
    fn name(&self) -> &str {
        if self.first == 0 { "floppy" } else { "floppy-rate" }
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let register = self.first as u8 + offset as u8;
        data.fill(self.floppy.shared.with_controller(|controller| controller.read(register)));
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        let register = self.first as u8 + offset as u8;
        self.floppy.shared.with_controller(|controller| controller.write(register, value));
        Action::None
    }

    fn reset(&self) {
        if self.first == 0 {
            self.floppy.shared.with_controller(Controller::power_on);
        }
    }

    fn save(&self) -> Vec<u8> {
        if self.first != 0 {
            return Vec::new();
        }
        let shared = &self.floppy.shared;
        let state = shared.idle(shared.state.lock());
        let mut writer = StateWriter::new(STATE_VERSION);
        state.controller.save(&mut writer);
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        if self.first != 0 {
            return Ok(());
        }
        let mut reader = StateReader::new(self.name(), saved, STATE_VERSION)?;
        let shared = &self.floppy.shared;
        let mut state = shared.idle(shared.state.lock());
        shared.using(&mut state, |controller| {
            controller.load(&mut reader)?;
            reader.finish().inspect_err(|_| controller.power_on())
        })
    }
}

#[cfg(test)]
mod tests;
