use crate::drive::Drive;
use crate::protocol::State;
use crate::registers::register;
use crate::worker::Tools;
use board::{AccessSizes, Action, Device, IrqLine, StateReader, StateWriter};
use hv::GuestMemory;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One of the function's two channels: its registers, and the thread that works on its drives' media.
///
/// Lock order: `state`, then those of [`block::Medium`] and of the interrupt line. The worker does its work without
/// it, so an access never waits for a file; but whoever stops a transfer does, at most for one piece.
pub(crate) struct Channel {
    name: &'static str,
    memory: Arc<GuestMemory>,
    line: IrqLine,
    state: Mutex<State>,
    /// There is something to do, or nothing any more for ever.
    work: Condvar,
    /// The worker has finished something.
    finished: Condvar,
    /// What the worker does is not wanted any more.
    cancel: AtomicBool,
    quit: AtomicBool,
}

impl Channel {
    /// A channel after power-on. Its worker is whoever calls [`Channel::work`].
    pub fn new(name: &'static str, memory: Arc<GuestMemory>, line: IrqLine, drives: [Option<Drive>; 2]) -> Arc<Self> {
        Arc::new(Channel {
            name,
            memory,
            line,
            state: Mutex::new(State::new(drives)),
            work: Condvar::new(),
            finished: Condvar::new(),
            cancel: AtomicBool::new(false),
            quit: AtomicBool::new(false),
        })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn has_drives(&self) -> bool {
        self.state.lock().has_drives()
    }

    /// The device at the 8 ports of the command block.
    pub fn command_block(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(CommandBlock(self.clone()))
    }

    /// The device at the one port of the control block.
    pub fn control_block(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(ControlBlock(self.clone()))
    }

    /// Changes the state and does what has to follow.
    fn with_state<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.follow(&mut state);
        result
    }

    fn follow(&self, state: &mut State) {
        let high = state.interrupt();
        if high != state.line_high {
            state.line_high = high;
            if high {
                state.master.interrupted();
            }
            self.line.set(high);
        }
        if state.is_useless() {
            self.cancel.store(true, Ordering::Release);
        }
        if state.is_runnable() {
            self.work.notify_one();
        }
    }

    /// Ends a transfer by DMA that is going on, and waits for that.
    fn stop_dma(&self, state: &mut MutexGuard<State>) {
        if state.in_dma() {
            self.cancel.store(true, Ordering::Release);
            self.wait_finished(state);
        }
    }

    fn wait_finished(&self, state: &mut MutexGuard<State>) {
        while state.is_working() {
            self.finished.wait(state);
        }
    }

    /// Reads a byte of the bus master's 8 ports.
    pub fn read_master(&self, offset: u64) -> u8 {
        self.state.lock().master.read(offset)
    }

    /// Writes a byte of the bus master's 8 ports.
    pub fn write_master(&self, offset: u64, value: u8) {
        let mut state = self.state.lock();
        if state.master.write(offset, value) {
            self.stop_dma(&mut state);
        }
        self.follow(&mut state);
    }

    /// Whether the function may access memory. When it may not any more, it does not when this returns.
    pub fn set_may_master(&self, may: bool) {
        let mut state = self.state.lock();
        state.may_master = may;
        if !may {
            self.stop_dma(&mut state);
        }
        self.follow(&mut state);
    }

    /// Lets the worker finish what it is doing, and begin nothing more.
    pub fn pause(&self) {
        let mut state = self.state.lock();
        state.paused = true;
        self.wait_finished(&mut state);
    }

    pub fn resume(&self) {
        self.with_state(|state| state.paused = false);
    }

    /// The state after power-on.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        self.cancel.store(true, Ordering::Release);
        self.wait_finished(&mut state);
        state.power_on();
        self.follow(&mut state);
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let mut state = self.state.lock();
        self.wait_finished(&mut state);
        state.save(writer);
    }

    pub fn load(&self, reader: &mut StateReader) -> Result<(), String> {
        let mut state = self.state.lock();
        self.wait_finished(&mut state);
        let loaded = state.load(reader);
        if loaded.is_err() {
            state.power_on();
        }
        self.follow(&mut state);
        loaded
    }

    /// The worker: does what there is to do until [`Channel::quit`].
    pub fn work(&self) {
        let mut tools = Tools::new(&self.memory, &self.cancel);
        let mut state = self.state.lock();
        while !self.quit.load(Ordering::Acquire) {
            let Some(mut job) = state.take_job() else {
                self.work.wait(&mut state);
                continue;
            };
            self.cancel.store(false, Ordering::Release);
            let outcome = MutexGuard::unlocked(&mut state, || job.run(&mut tools));
            state.finish_job(job, outcome);
            self.follow(&mut state);
            self.finished.notify_all();
        }
    }

    /// Makes the worker return soon.
    pub fn quit(&self) {
        let _state = self.state.lock();
        self.cancel.store(true, Ordering::Release);
        self.quit.store(true, Ordering::Release);
        self.work.notify_all();
    }
}

/// Command block registers. ATA/ATAPI-6, section 7.
struct CommandBlock(Arc<Channel>);

impl Device for CommandBlock {
    fn name(&self) -> &str {
        self.0.name
    }

    /// Registers are bytes, of which wider accesses touch several; data are 16 or 32 bits wide.
    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.with_state(|state| match offset {
            register::DATA => state.read_data(data),
            _ => (offset..).zip(data).for_each(|(offset, byte)| *byte = state.read(offset)),
        });
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        self.0.with_state(|state| match offset {
            register::DATA => state.write_data(data),
            _ => (offset..).zip(data).for_each(|(offset, byte)| state.write(offset, *byte)),
        });
        Action::None
    }
}

/// Alternate status when read, device control when written.
struct ControlBlock(Arc<Channel>);

impl Device for ControlBlock {
    fn name(&self) -> &str {
        self.0.name
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.0.state.lock().status());
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Action {
        for byte in data {
            self.0.with_state(|state| state.write_control(*byte));
        }
        Action::None
    }
}
