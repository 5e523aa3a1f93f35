use crate::vcpu_thread::{AroundThread, OnEvent, VcpuThread};
use crate::{Action, ActionSink, Buses};
use hv::{GuestMemory, InternalError, Interrupts, LocalApic, Vcpu, Vm};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How a machine's run ended.
#[derive(Debug)]
pub enum Event {
    /// The guest powered the machine off.
    Shutdown,
    /// The guest asked for a reset.
    Reset,
    /// A device ended the machine with an exit status (isa-debug-exit).
    Exit(u8),
    /// A processor shut down after a triple fault.
    TripleFault {
        /// Number of the vCPU.
        vcpu: u32,
    },
    /// A processor halted and nothing can wake it.
    Halted {
        /// Number of the vCPU.
        vcpu: u32,
    },
    /// The accelerator cannot go on.
    InternalError {
        /// Number of the vCPU.
        vcpu: u32,
        /// What is known.
        error: Box<InternalError>,
    },
    /// [`Machine::kill`] or [`Machine::close`] ended it.
    Killed,
}

impl Event {
    /// An internal error of which only a sentence is known.
    pub(crate) fn internal(vcpu: u32, what: String) -> Self {
        Event::InternalError { vcpu, error: Box::new(InternalError { what, instruction: Vec::new(), state: None }) }
    }
}

/// What a machine could not do. The text is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The accelerator refused.
    #[error(transparent)]
    Accelerator(#[from] hv::Error),
    /// The machine is in the wrong state for this.
    #[error("cannot {wanted} a machine that is {state}")]
    State {
        /// The verb.
        wanted: &'static str,
        /// Its state.
        state: &'static str,
    },
    /// There is no vCPU of that number.
    #[error("no vCPU {0}")]
    NoVcpu(u32),
    /// A device's handler asked for something that waits for the vCPU it runs on.
    #[error("a device cannot {0} while its vCPU waits for it")]
    OnVcpuThread(&'static str),
    /// The machine is closed: its vCPUs are gone.
    #[error("the machine is closed")]
    Closed,
}

/// One machine: memory, buses, an accelerator's VM and the threads that run its vCPUs.
///
/// ```text
///   created ──start──► running ◄──resume/pause──► paused
///      └───────────────────┴──── an event ───────────┴──► ended ──close──► closed
/// ```
///
/// An ended machine keeps its vCPUs parked, so that their state can be read, until it is closed. There is no way
/// back: a reset ends the machine, and whoever assembled it assembles it again.
///
/// Lock order: `state`, then a vCPU thread's control.
pub struct Machine {
    memory: Arc<GuestMemory>,
    buses: Arc<Buses>,
    vm: Arc<dyn Vm>,
    vcpus: Mutex<Vec<Arc<VcpuThread>>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    Created,
    Running,
    Paused,
    Ended(Arc<Event>),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Ended(_) => "ended",
        }
    }
}

impl Machine {
    /// A machine without vCPUs or devices on an accelerator's VM that sends its I/O to `buses`.
    pub fn new(memory: Arc<GuestMemory>, buses: Arc<Buses>, vm: Arc<dyn Vm>) -> Arc<Self> {
        let machine = Arc::new(Machine {
            memory,
            buses,
            vm,
            vcpus: Mutex::default(),
            state: Mutex::new(State::Created),
            changed: Condvar::new(),
        });
        let sink: Weak<Self> = Arc::downgrade(&machine);
        machine.buses.set_action_sink(sink);
        machine
    }

    /// Adds the next vCPU with its thread, parked. `lapic`: see [`Vm::create_vcpu`]; `around` surrounds the thread's life.
    ///
    /// # Errors
    /// [`MachineError::State`] after the start; [`MachineError::Accelerator`] when there can be no more vCPUs.
    pub fn add_vcpu(
        self: &Arc<Self>,
        lapic: Option<Arc<dyn LocalApic>>,
        around: AroundThread,
    ) -> Result<(), MachineError> {
        let state = self.state();
        if !matches!(*state, State::Created) {
            return Err(MachineError::State { wanted: "add a vCPU to", state: state.name() });
        }
        drop(state);
        let machine = Arc::downgrade(self);
        let on_event: OnEvent = Arc::new(move |event| {
            if let Some(machine) = machine.upgrade() {
                machine.end(event);
            }
        });
        let id = self.vcpus().len() as u32;
        let vcpu = VcpuThread::spawn(self.vm.clone(), id, lapic, around, on_event)?;
        self.lock_vcpus().push(Arc::new(vcpu));
        Ok(())
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The buses, to put devices on.
    pub fn buses(&self) -> &Arc<Buses> {
        &self.buses
    }

    /// The accelerator's VM.
    pub fn vm(&self) -> &Arc<dyn Vm> {
        &self.vm
    }

    /// The accelerator's own interrupt controllers, if it has some.
    pub fn interrupts(&self) -> Option<Arc<dyn Interrupts>> {
        self.vm.interrupts()
    }

    /// `created`, `running`, `paused` or `ended`.
    pub fn state_name(&self) -> &'static str {
        self.state().name()
    }

    /// Lets the vCPUs run for the first time.
    ///
    /// # Errors
    /// [`MachineError::State`] unless the machine was just created.
    pub fn start(&self) -> Result<(), MachineError> {
        let mut state = self.state();
        match *state {
            State::Created => self.run_all(&mut state),
            _ => return Err(MachineError::State { wanted: "start", state: state.name() }),
        }
        Ok(())
    }

    /// Stops all vCPUs and returns when they stand still. Pausing a paused machine changes nothing.
    ///
    /// # Errors
    /// [`MachineError::State`] before the start or after the end; [`MachineError::OnVcpuThread`] inside a device.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.outside_vcpus("pause its machine")?;
        let vcpus = self.vcpus();
        let mut state = self.state();
        match *state {
            State::Running | State::Paused => *state = State::Paused,
            _ => return Err(MachineError::State { wanted: "pause", state: state.name() }),
        }
        vcpus.iter().for_each(|vcpu| vcpu.stop());
        drop(state);
        vcpus.iter().for_each(|vcpu| vcpu.wait_parked());
        Ok(())
    }

    /// Lets a paused machine run on. Resuming a running machine changes nothing.
    ///
    /// # Errors
    /// [`MachineError::State`] before the start or after the end.
    pub fn resume(&self) -> Result<(), MachineError> {
        let mut state = self.state();
        match *state {
            State::Running => {}
            State::Paused => self.run_all(&mut state),
            _ => return Err(MachineError::State { wanted: "resume", state: state.name() }),
        }
        Ok(())
    }

    /// Ends the machine now, as when its power fails. Ending an ended machine changes nothing.
    pub fn kill(&self) {
        self.end(Event::Killed);
    }

    /// Waits for the end, for ever without a timeout. `None`: the time is up.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Arc<Event>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state();
        loop {
            if let State::Ended(event) = &*state {
                return Some(event.clone());
            }
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if Instant::now() >= deadline => return None,
                Some(deadline) => {
                    self.changed.wait_until(&mut state, deadline);
                }
            }
        }
    }

    /// How many vCPUs there are.
    pub fn cpus(&self) -> u32 {
        self.lock_vcpus().len() as u32
    }

    /// Does something with vCPU `id` between two of its runs (a running vCPU is interrupted for it) and returns
    /// the result. Waits while a device handles an access of that vCPU.
    ///
    /// # Errors
    /// [`MachineError::NoVcpu`], [`MachineError::Closed`], [`MachineError::OnVcpuThread`].
    pub fn with_vcpu<R: Send + 'static>(
        &self,
        id: u32,
        what: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Result<R, MachineError> {
        let vcpu = self.lock_vcpus().get(id as usize).cloned().ok_or(MachineError::NoVcpu(id))?;
        if vcpu.is_current() {
            return Err(MachineError::OnVcpuThread("look at its own vCPU"));
        }
        vcpu.call(what)
    }

    /// Ends the machine and its threads and lets go of all devices.
    pub fn close(&self) {
        self.end(Event::Killed);
        let vcpus = self.vcpus();
        vcpus.iter().for_each(|vcpu| vcpu.join());
        self.buses.clear();
    }

    fn run_all(&self, state: &mut State) {
        *state = State::Running;
        self.lock_vcpus().iter().for_each(|vcpu| vcpu.run());
    }

    fn end(&self, event: Event) {
        let mut state = self.state();
        if matches!(*state, State::Ended(_)) {
            return;
        }
        *state = State::Ended(Arc::new(event));
        self.lock_vcpus().iter().for_each(|vcpu| vcpu.stop());
        self.changed.notify_all();
    }

    fn outside_vcpus(&self, what: &'static str) -> Result<(), MachineError> {
        match self.lock_vcpus().iter().any(|vcpu| vcpu.is_current()) {
            true => Err(MachineError::OnVcpuThread(what)),
            false => Ok(()),
        }
    }

    fn vcpus(&self) -> Vec<Arc<VcpuThread>> {
        self.lock_vcpus().clone()
    }

    /// A leaf but for the threads' controls.
    fn lock_vcpus(&self) -> MutexGuard<'_, Vec<Arc<VcpuThread>>> {
        self.vcpus.lock()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl ActionSink for Machine {
    fn act(&self, action: Action) {
        match action {
            Action::None => {}
            Action::Reset => self.end(Event::Reset),
            Action::Shutdown => self.end(Event::Shutdown),
            Action::Exit(status) => self.end(Event::Exit(status)),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.close();
    }
}
