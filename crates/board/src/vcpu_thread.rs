use crate::machine::{Event, MachineError};
use hv::{Exit, Kick, LocalApic, Vcpu, Vm};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, ThreadId};

/// Something to do with a vCPU between two runs.
type Call = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

/// What surrounds the life of each vCPU thread: it calls what it is given, once. An interpreter whose devices the thread
/// calls keeps its state for the thread this way.
pub type AroundThread = Arc<dyn Fn(&mut (dyn FnMut() + Send)) + Send + Sync>;

/// What a vCPU thread tells the machine: that it ended, and why. Called without locks held.
pub(crate) type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// One vCPU and the thread `vcpuN` that alone touches it.
///
/// ```text
///            run()                  kicked, or the guest ended
///   parked ──────────► running ──────────────────────────────► between runs ──► parked, running again, or gone
///      ▲ └─ calls are executed here ─┘                              │
///      └────────────────────────────────────────────────────────────┘
/// ```
pub(crate) struct VcpuThread {
    shared: Arc<Shared>,
    kick: Arc<dyn Kick>,
    thread: ThreadId,
    handle: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// A leaf lock: nothing else is locked while it is held.
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Default)]
struct Control {
    run: bool,
    quit: bool,
    parked: bool,
    calls: VecDeque<Call>,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock()
    }
}

impl VcpuThread {
    /// Starts the thread, which makes its vCPU and parks.
    pub(crate) fn spawn(
        vm: Arc<dyn Vm>,
        id: u32,
        lapic: Option<Arc<dyn LocalApic>>,
        around: AroundThread,
        on_event: OnEvent,
    ) -> Result<Self, MachineError> {
        let shared = Arc::new(Shared { control: Mutex::default(), changed: Condvar::new() });
        let (made, kicker) = mpsc::sync_channel(1);
        let theirs = shared.clone();
        let body = move || match vm.create_vcpu(id, lapic) {
            Ok(mut vcpu) => {
                let _ = made.send(Ok(vcpu.kicker()));
                let mut life = || run(id, &mut *vcpu, &theirs, &on_event);
                let outcome = catch_unwind(AssertUnwindSafe(|| around(&mut life)));
                if let Err(panic) = outcome {
                    on_event(Event::internal(id, format!("the accelerator failed: {}", panic_text(&*panic))));
                }
                let mut control = theirs.control();
                control.quit = true;
                control.parked = true;
                // Callers that wait for an answer learn that there will be none.
                control.calls.clear();
                theirs.changed.notify_all();
            }
            Err(error) => {
                let _ = made.send(Err(error));
            }
        };
        let handle = std::thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(body)
            .map_err(|source| hv::Error::Os { action: "start a vCPU thread", source })?;
        let kick = kicker.recv().map_err(|_| MachineError::Closed)??;
        Ok(VcpuThread { shared, kick, thread: handle.thread().id(), handle: Mutex::new(Some(handle)) })
    }

    /// True on the vCPU's own thread, where waiting for the vCPU would never end.
    pub(crate) fn is_current(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// Lets the vCPU run.
    pub(crate) fn run(&self) {
        let mut control = self.shared.control();
        control.run = true;
        control.parked = false;
        self.shared.changed.notify_all();
    }

    /// Makes the vCPU stop soon. Does not wait.
    pub(crate) fn stop(&self) {
        self.shared.control().run = false;
        self.kick.kick();
    }

    /// Waits until the vCPU stands still.
    pub(crate) fn wait_parked(&self) {
        let mut control = self.shared.control();
        while !control.parked && !control.run {
            self.shared.changed.wait(&mut control);
        }
    }

    /// Does something with the vCPU between two runs and waits for the result.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Result<R, MachineError> {
        let (done, result) = mpsc::sync_channel(1);
        {
            let mut control = self.shared.control();
            if control.quit {
                return Err(MachineError::Closed);
            }
            control.calls.push_back(Box::new(move |vcpu| {
                let _ = done.send(what(vcpu));
            }));
            self.shared.changed.notify_all();
        }
        self.kick.kick();
        result.recv().map_err(|_| MachineError::Closed)
    }

    /// Ends the thread and waits for it, except on the thread itself.
    pub(crate) fn join(&self) {
        {
            let mut control = self.shared.control();
            control.run = false;
            control.quit = true;
            self.shared.changed.notify_all();
        }
        self.kick.kick();
        if self.is_current() {
            return;
        }
        let handle = self.handle.lock().take();
        if let Some(handle) = handle {
            // A panic of the thread was reported as an event already.
            let _ = handle.join();
        }
    }
}

/// The life of a vCPU thread.
fn run(id: u32, vcpu: &mut dyn Vcpu, shared: &Shared, on_event: &OnEvent) {
    while between_runs(vcpu, shared) {
        match vcpu.run() {
            Ok(Exit::Kicked) => {}
            Ok(Exit::Shutdown) => on_event(Event::TripleFault { vcpu: id }),
            Ok(Exit::Halted) => on_event(Event::Halted { vcpu: id }),
            Ok(Exit::InternalError(error)) => on_event(Event::InternalError { vcpu: id, error }),
            Err(error) => on_event(Event::internal(id, error.to_string())),
        }
    }
}

/// Executes calls and waits until the vCPU shall run (true) or its thread shall end (false).
fn between_runs(vcpu: &mut dyn Vcpu, shared: &Shared) -> bool {
    let mut control = shared.control();
    loop {
        if let Some(call) = control.calls.pop_front() {
            drop(control);
            call(vcpu);
            control = shared.control();
        } else if control.quit {
            return false;
        } else if control.run {
            return true;
        } else {
            control.parked = true;
            shared.changed.notify_all();
            shared.changed.wait(&mut control);
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
