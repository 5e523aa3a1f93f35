use super::causes::Causes;
use super::state::State;
use crate::drive::Drive;
use crate::worker::Tools;
use board::{StateReader, StateWriter};
use hv::GuestMemory;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Queued commands that are done are told of together, when there are no more or this time has passed.
const TOGETHER: Duration = Duration::from_micros(100);

/// One of the adapter's ports: its registers, and the thread that works on its drive's medium.
///
/// Lock order: `state`, then those of [`block::Medium`] and of [`Causes`]. Guest memory is read and written under it. The
/// thread does its work without it, so an access never waits for a file.
pub(crate) struct Port {
    index: usize,
    memory: Arc<GuestMemory>,
    causes: Arc<Causes>,
    state: Mutex<State>,
    /// There is something to do, or nothing any more for ever.
    work: Condvar,
    /// The thread has finished something.
    finished: Condvar,
    /// What the thread does is not wanted any more.
    cancel: AtomicBool,
    quit: AtomicBool,
}

impl Port {
    /// A port after power-on. Its thread is whoever calls [`Port::work`].
    pub fn new(index: usize, memory: Arc<GuestMemory>, causes: Arc<Causes>, drive: Option<Drive>) -> Arc<Self> {
        Arc::new(Port {
            index,
            causes,
            state: Mutex::new(State::new(memory.clone(), drive)),
            memory,
            work: Condvar::new(),
            finished: Condvar::new(),
            cancel: AtomicBool::new(false),
            quit: AtomicBool::new(false),
        })
    }

    pub fn has_drive(&self) -> bool {
        self.state.lock().has_drive()
    }

    /// What has to follow a change.
    fn follow(&self, state: &State) {
        self.causes.set(self.index, state.interrupts());
        if state.is_useless() {
            self.cancel.store(true, Ordering::Release);
        }
        if state.is_runnable() {
            self.work.notify_one();
        }
    }

    fn wait_finished(&self, state: &mut MutexGuard<State>) {
        while state.is_working() {
            self.finished.wait(state);
        }
    }

    /// Reads the register at `offset`, a multiple of 4.
    pub fn read(&self, offset: u64) -> u32 {
        self.state.lock().read(offset)
    }

    /// Writes those bits of the register at `offset` that are set in `mask`.
    pub fn write(&self, offset: u64, value: u32, mask: u32) {
        let mut state = self.state.lock();
        state.write(offset, value, mask);
        self.follow(&state);
    }

    /// A reset of the adapter. It does not wait for the thread.
    pub fn adapter_reset(&self) {
        let mut state = self.state.lock();
        state.adapter_reset();
        self.follow(&state);
    }

    /// Whether the thread has not heard of a reset.
    pub fn is_resetting(&self) -> bool {
        self.state.lock().is_useless()
    }

    /// Whether the function may access memory. When it may not any more, it does not when this returns.
    pub fn set_may_master(&self, may: bool) {
        let mut state = self.state.lock();
        if state.may_master == may {
            return;
        }
        state.may_master = may;
        if !may && state.is_working() {
            self.cancel.store(true, Ordering::Release);
            self.wait_finished(&mut state);
        }
        state.sign();
        self.follow(&state);
    }

    /// Lets the thread finish what it is doing, and begin nothing more.
    pub fn pause(&self) {
        let mut state = self.state.lock();
        state.paused = true;
        self.wait_finished(&mut state);
        state.tell_done();
        self.follow(&state);
    }

    pub fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = false;
        self.follow(&state);
    }

    /// The state after power-on.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        self.cancel.store(true, Ordering::Release);
        self.wait_finished(&mut state);
        state.power_on();
        self.follow(&state);
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let mut state = self.state.lock();
        self.wait_finished(&mut state);
        state.tell_done();
        state.save(writer);
        self.follow(&state);
    }

    pub fn load(&self, reader: &mut StateReader) -> Result<(), String> {
        let mut state = self.state.lock();
        self.wait_finished(&mut state);
        let loaded = state.load(reader);
        if loaded.is_err() {
            state.power_on();
        }
        self.follow(&state);
        loaded
    }

    /// The thread: does what there is to do until [`Port::quit`].
    pub fn work(&self) {
        let mut tools = Tools::new(&self.memory, &self.cancel);
        let mut state = self.state.lock();
        let mut told = Instant::now();
        while !self.quit.load(Ordering::Acquire) {
            let Some(mut job) = state.take_job() else {
                state.tell_done();
                self.follow(&state);
                self.work.wait(&mut state);
                continue;
            };
            if !state.has_done() {
                told = Instant::now();
            }
            self.follow(&state);
            self.cancel.store(false, Ordering::Release);
            let outcome = MutexGuard::unlocked(&mut state, || job.run(&mut tools));
            state.finish_job(job, outcome);
            if state.has_done() && told.elapsed() > TOGETHER {
                state.tell_done();
            }
            self.follow(&state);
            self.finished.notify_all();
        }
    }

    /// Makes the thread return soon.
    pub fn quit(&self) {
        let _state = self.state.lock();
        self.cancel.store(true, Ordering::Release);
        self.quit.store(true, Ordering::Release);
        self.work.notify_all();
    }
}
