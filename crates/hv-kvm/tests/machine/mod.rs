//! A machine for bare guests: 1 MiB of RAM, 4 KiB of ROM behind it, a bus that remembers, and time limits.

#![allow(dead_code, reason = "each test file uses its own part")]

use hv::{Bus, CpuState, DescriptorTable, Exit, GuestMemory, Kick, Region, Segment, SegmentRegister, Vcpu, Vm};
use hv_kvm::KvmVm;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Where programs begin.
pub const CODE: u64 = 0x1000;
/// Where the read-only region begins, 4 KiB.
pub const ROM: u64 = 0x10_0000;
/// A byte written to this port ends [`run`].
pub const EXIT_PORT: u16 = 0xF4;
/// An address that nothing answers but the bus.
pub const DEVICE: u64 = 0xD000_0000;
/// The longest that any guest here may take.
pub const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    PioRead(u16, u8),
    PioWrite(u16, u8, u32),
    MmioRead(u64, usize),
    MmioWrite(u64, Vec<u8>),
}

/// Remembers accesses; port reads answer 0xA0 + the count of reads so far in every byte, MMIO reads count upwards.
#[derive(Default)]
pub struct TestBus {
    pub log: Mutex<Vec<Access>>,
    changed: Condvar,
    kicks: Mutex<Vec<Arc<dyn Kick>>>,
}

impl TestBus {
    fn push(&self, access: Access) -> usize {
        let mut log = self.log.lock().unwrap();
        log.push(access);
        self.changed.notify_all();
        log.len() - 1
    }

    pub fn accesses(&self) -> Vec<Access> {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the guest has made this access.
    pub fn wait_for(&self, access: &Access) {
        let log = self.log.lock().unwrap();
        let (log, result) = self.changed.wait_timeout_while(log, LIMIT, |log| !log.contains(access)).unwrap();
        assert!(!result.timed_out(), "no {access:?} in {log:?}");
    }
}

impl Bus for TestBus {
    fn pio_read(&self, port: u16, size: u8) -> u32 {
        let count = self.push(Access::PioRead(port, size)) as u32;
        (0xA0 + count) * 0x0101_0101
    }

    fn pio_write(&self, port: u16, size: u8, value: u32) {
        self.push(Access::PioWrite(port, size, value));
        if port == EXIT_PORT {
            self.kicks.lock().unwrap().iter().for_each(|kick| kick.kick());
        }
    }

    fn mmio_read(&self, address: u64, data: &mut [u8]) {
        self.push(Access::MmioRead(address, data.len()));
        (1..).zip(data).for_each(|(value, byte)| *byte = value);
    }

    fn mmio_write(&self, address: u64, data: &[u8]) {
        self.push(Access::MmioWrite(address, data.to_vec()));
    }
}

pub struct Machine {
    pub vm: Arc<KvmVm>,
    pub bus: Arc<TestBus>,
    pub memory: Arc<GuestMemory>,
}

/// A machine, or `None` (and why) where /dev/kvm cannot be used.
pub fn machine(cpus: u32) -> Option<Machine> {
    let ram = Region { address: 0, size: ROM, offset: 0, readonly: false };
    let rom = Region { address: ROM, size: 0x1000, offset: ROM, readonly: true };
    let memory = Arc::new(GuestMemory::new(&[ram, rom]).unwrap());
    let bus = Arc::new(TestBus::default());
    match KvmVm::new(memory.clone(), bus.clone(), cpus, hv::CpuModel::Host) {
        Ok(vm) => Some(Machine { vm, bus, memory }),
        Err(hv::Error::Unavailable(why)) => {
            eprintln!("skipped: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Machine {
    /// A vCPU whose runs end at [`EXIT_PORT`].
    pub fn vcpu(&self, id: u32) -> Box<dyn Vcpu> {
        let vcpu = self.vm.create_vcpu(id, None).unwrap();
        self.bus.kicks.lock().unwrap().push(vcpu.kicker());
        vcpu
    }

    /// A boot processor about to run `program` at [`CODE`] in `mode`.
    pub fn boot(&self, mode: Mode, program: &[u8]) -> Box<dyn Vcpu> {
        self.memory.write(CODE, program).unwrap();
        let mut vcpu = self.vcpu(0);
        let mut state = vcpu.state().unwrap();
        mode.enter(&mut state, &self.memory);
        vcpu.set_state(&state).unwrap();
        vcpu
    }
}

/// The modes that an emulating KVM manages.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// 16 bits, all bases 0.
    Real,
    /// 32 bits without paging, flat.
    Protected,
    /// 64 bits at CPL 0; linear 0..2 MiB is physical, 2 MiB..4 MiB is [`DEVICE`], 4 MiB..6 MiB the APIC's pages.
    Long,
}

/// In long mode: the page of [`DEVICE`].
pub const LONG_DEVICE: u64 = 0x20_0000;
/// In long mode: the register page of the local APIC.
pub const LONG_APIC: u64 = 0x40_0000;

impl Mode {
    pub fn enter(self, state: &mut CpuState, memory: &GuestMemory) {
        let (code, data, limit) = match self {
            Mode::Real => (0x9B, 0x93, 0xFFFF),
            Mode::Protected => (0xC09B, 0xC093, u32::MAX),
            Mode::Long => (0xA09B, 0xC093, u32::MAX),
        };
        let selector = |selector| if matches!(self, Mode::Real) { 0 } else { selector };
        state.segments = [Segment { base: 0, limit, selector: selector(0x10), access: data }; 6];
        state.segments[SegmentRegister::Cs as usize] =
            Segment { base: 0, limit, selector: selector(0x08), access: code };
        (state.rip, state.rflags) = (CODE, 2);
        state.gpr = [0; 16];
        state.gpr[hv::Gpr::Rsp as usize] = 0x8000;
        match self {
            Mode::Real => state.idtr = DescriptorTable { base: 0, limit: 0x3FF },
            Mode::Protected => state.cr0 = 0x6000_0011,
            Mode::Long => {
                let large = 0x83;
                let entries = [
                    (0x2000, 0x3003),
                    (0x3000, 0x4003),
                    (0x4000, large),
                    (0x4008, DEVICE | large),
                    (0x4010, 0xFEE0_0083),
                ];
                for (address, entry) in entries {
                    memory.write(address, &u64::to_le_bytes(entry)).unwrap();
                }
                (state.cr3, state.cr4, state.efer, state.cr0) = (0x2000, 0x20, 0x500, 0xE000_0011);
            }
        }
    }
}

/// Runs a vCPU until it returns, which it must do within [`LIMIT`].
pub fn run(vcpu: &mut dyn Vcpu) -> Exit {
    let (done, is_done) = channel::<()>();
    let kick = vcpu.kicker();
    let guard = std::thread::spawn(move || {
        if is_done.recv_timeout(LIMIT) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        kick.kick();
        if is_done.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("a vCPU does not answer its kick");
            std::process::abort();
        }
        true
    });
    let exit = vcpu.run().unwrap();
    drop(done);
    assert!(!guard.join().unwrap(), "the guest did not end in time: {exit:?} {:x?}", vcpu.state());
    exit
}

/// Runs until the guest writes [`EXIT_PORT`].
pub fn run_to_end(vcpu: &mut dyn Vcpu) {
    let exit = run(vcpu);
    assert!(matches!(exit, Exit::Kicked), "{exit:x?}");
}

/// Kicks after `delay` and returns the exit and how long after the kick it came.
pub fn kick_after(vcpu: &mut dyn Vcpu, delay: Duration) -> (Exit, Duration) {
    let kick = vcpu.kicker();
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(delay);
        let now = Instant::now();
        kick.kick();
        now
    });
    let exit = run(vcpu);
    let end = Instant::now();
    (exit, end.saturating_duration_since(kicker.join().unwrap()))
}
