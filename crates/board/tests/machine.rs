//! The machine's states and its threads, on an accelerator whose vCPUs follow a script.

use board::{Action, ActionSink, Buses, Event, Machine, MachineError};
use hv::{CpuState, Error, Exit, GuestMemory, Interrupts, IoAddress, Kick, LocalApic, Msi, Region, Vcpu, Vm};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

#[derive(Clone, Copy)]
enum Script {
    Spin,
    TripleFault,
    Panic,
    Fail,
}

struct ScriptVm {
    script: Script,
    runs: Arc<AtomicU64>,
}

#[derive(Default)]
struct Wake {
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl Kick for Wake {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.changed.notify_all();
    }
    fn interrupt(&self) {}
}

struct ScriptVcpu {
    script: Script,
    state: CpuState,
    wake: Arc<Wake>,
    runs: Arc<AtomicU64>,
}

impl Vcpu for ScriptVcpu {
    fn run(&mut self) -> Result<Exit, Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        match self.script {
            Script::Spin => {
                let mut kicked = self.wake.kicked.lock().unwrap();
                while !*kicked {
                    kicked = self.wake.changed.wait(kicked).unwrap();
                }
                *kicked = false;
                Ok(Exit::Kicked)
            }
            Script::TripleFault => Ok(Exit::Shutdown),
            Script::Panic => panic!("a bug"),
            Script::Fail => Err(Error::Unavailable("nothing works".into())),
        }
    }
    fn kicker(&self) -> Arc<dyn Kick> {
        self.wake.clone()
    }
    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(self.state.clone())
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        self.state = state.clone();
        Ok(())
    }
    fn translate(&mut self, linear: u64) -> Option<u64> {
        Some(linear)
    }
    fn statistics(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

impl Vm for ScriptVm {
    fn accelerator(&self) -> &'static str {
        "script"
    }
    fn interrupts(&self) -> Option<Arc<dyn Interrupts>> {
        None
    }
    fn create_vcpu(&self, id: u32, _lapic: Option<Arc<dyn LocalApic>>) -> Result<Box<dyn Vcpu>, Error> {
        if id > 3 {
            return Err(Error::Unavailable("no more than 4 vCPUs".into()));
        }
        Ok(Box::new(ScriptVcpu {
            script: self.script,
            state: CpuState::reset(),
            wake: Arc::default(),
            runs: self.runs.clone(),
        }))
    }
    fn register_ioeventfd(&self, _address: IoAddress, _size: u8, _eventfd: RawFd) -> Result<bool, Error> {
        Ok(false)
    }
    fn unregister_ioeventfd(&self, _address: IoAddress, _size: u8, _eventfd: RawFd) -> Result<(), Error> {
        Ok(())
    }
    fn register_irqfd(&self, _eventfd: RawFd, _msi: Msi) -> Result<bool, Error> {
        Ok(false)
    }
}

fn machine(script: Script, cpus: u32) -> (Arc<Machine>, Arc<AtomicU64>) {
    let region = Region { address: 0, size: 0x10000, offset: 0, readonly: false };
    let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
    let runs = Arc::new(AtomicU64::new(0));
    let vm = Arc::new(ScriptVm { script, runs: runs.clone() });
    let machine = Machine::new(memory, Arc::new(Buses::new()), vm);
    for _ in 0..cpus {
        machine.add_vcpu(None, Arc::new(|life| life())).unwrap();
    }
    (machine, runs)
}

const SOON: Option<Duration> = Some(Duration::from_secs(5));

#[test]
fn state_is_read_and_written_in_every_state() {
    let (machine, _) = machine(Script::Spin, 2);
    let set = |rip| {
        machine
            .with_vcpu(1, move |vcpu| {
                let mut state = vcpu.state().unwrap();
                let old = std::mem::replace(&mut state.rip, rip);
                vcpu.set_state(&state).unwrap();
                (old, std::thread::current().name().map(str::to_owned))
            })
            .unwrap()
    };
    assert_eq!(set(1), (0xFFF0, Some("vcpu1".to_owned())));
    machine.start().unwrap();
    assert_eq!(set(2).0, 1);
    machine.pause().unwrap();
    assert_eq!(set(3).0, 2);
    machine.kill();
    assert_eq!(set(4).0, 3);
    assert!(matches!(machine.with_vcpu(2, |_| ()), Err(MachineError::NoVcpu(2))));
    machine.close();
    assert!(matches!(machine.with_vcpu(1, |_| ()), Err(MachineError::Closed)));
}

#[test]
fn a_paused_machine_does_not_run() {
    let (machine, runs) = machine(Script::Spin, 2);
    assert!(matches!(machine.pause(), Err(MachineError::State { .. })));
    machine.start().unwrap();
    assert!(matches!(machine.start(), Err(MachineError::State { .. })));
    for _ in 0..100 {
        machine.pause().unwrap();
        machine.pause().unwrap();
        let before = runs.load(Ordering::SeqCst);
        machine.with_vcpu(0, |_| ()).unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), before);
        machine.resume().unwrap();
        machine.resume().unwrap();
    }
    assert!(machine.wait(Some(Duration::from_millis(10))).is_none());
    machine.kill();
    assert!(matches!(*machine.wait(None).unwrap(), Event::Killed));
    assert!(matches!(machine.resume(), Err(MachineError::State { .. })));
}

#[test]
fn the_first_event_counts() {
    let (machine, _) = machine(Script::Spin, 1);
    machine.start().unwrap();
    machine.act(Action::None);
    assert_eq!(machine.state_name(), "running");
    machine.act(Action::Exit(3));
    machine.act(Action::Shutdown);
    machine.kill();
    assert!(matches!(*machine.wait(SOON).unwrap(), Event::Exit(3)));
}

#[test]
fn faults_of_guest_and_accelerator_end_the_machine() {
    let end = |script| {
        let (machine, _) = machine(script, 2);
        machine.start().unwrap();
        machine.wait(SOON).unwrap()
    };
    assert!(matches!(*end(Script::TripleFault), Event::TripleFault { .. }));
    match &*end(Script::Fail) {
        Event::InternalError { error, .. } => assert_eq!(error.what, "nothing works"),
        other => panic!("{other:?}"),
    }
    match &*end(Script::Panic) {
        Event::InternalError { error, .. } => assert!(error.what.contains("a bug"), "{}", error.what),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vcpu_that_cannot_be_made_is_an_error() {
    let (machine, _) = machine(Script::Spin, 4);
    assert!(machine.add_vcpu(None, Arc::new(|life| life())).unwrap_err().to_string().contains("no more than 4"));
}

#[test]
fn a_device_that_waits_for_its_own_vcpu_is_refused() {
    let (machine, _) = machine(Script::Spin, 1);
    machine.start().unwrap();
    let inner = machine.clone();
    let refused = machine
        .with_vcpu(0, move |_| {
            let pause = inner.pause().unwrap_err();
            let look = inner.with_vcpu(0, |_| ()).unwrap_err();
            inner.kill();
            matches!(pause, MachineError::OnVcpuThread(_)) && matches!(look, MachineError::OnVcpuThread(_))
        })
        .unwrap();
    assert!(refused);
}
