//! What `/dev/kvm` is worth on this host, found by measuring.
//!
//! That the device opens says little: in a cloud VM its provider may *emulate* guest code, instruction by instruction.
//! The probe runs a loop of known length in long mode at CPL 0, the mode of every kernel, and counts how many of its
//! instructions KVM emulated.

use crate::ioctls::Statistic;
use hv::GuestMemory;
use kvm_bindings::{KVM_API_VERSION, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Rounds of the measured loop.
const ROUNDS: u64 = 500;
/// Instructions in a round: `dec ecx; jnz`.
const INSTRUCTIONS_PER_ROUND: u64 = 2;
/// Times the loop is measured where only time can decide; the fastest counts, which keeps the host's load out.
const REPEATS_WITHOUT_COUNTER: u64 = 5;
/// Slower than this cannot be a processor. Emulation takes about 300 ns, hardware well below 10 ns with the cost of
/// the exit spread over the loop.
const EMULATION_NS: f64 = 50.0;

/// What KVM must offer, with the Linux version that brought it.
const REQUIRED: [(Cap, &str); 16] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::X2ApicApi, "KVM_CAP_X2APIC_API"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Why KVM cannot be used at all. Its text is one sentence.
#[derive(Debug)]
pub enum Reason {
    /// There is no `/dev/kvm`.
    NoDevice,
    /// `/dev/kvm` may not be opened by this user.
    NoPermission,
    /// Another hypervisor holds the processor's virtualization extensions.
    Busy,
    /// The API version is not 12.
    WrongApi(i32),
    /// A capability that is needed is missing.
    MissingCapability(&'static str),
    /// Something else did not work.
    Failed {
        /// What was being done.
        action: &'static str,
        /// The answer of the system.
        error: io::Error,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoDevice => write!(
                f,
                "there is no /dev/kvm: turn on virtualization in the firmware setup and load kvm_intel or kvm_amd, \
                 or in a virtual machine ask for nested virtualization"
            ),
            Reason::NoPermission => write!(
                f,
                "/dev/kvm may not be opened: add this user to the group of the device (usually `kvm`) and log in again"
            ),
            Reason::Busy => write!(
                f,
                "another hypervisor holds the processor's virtualization extensions: stop its machines or unload it"
            ),
            Reason::WrongApi(version) => {
                write!(f, "/dev/kvm speaks API version {version}, not {KVM_API_VERSION}: use a newer Linux")
            }
            Reason::MissingCapability(name) => {
                write!(f, "KVM lacks {name}: use Linux 4.12 or newer on a processor with XSAVE")
            }
            Reason::Failed { action, error } => write!(f, "KVM could not {action}: {error}"),
        }
    }
}

impl From<Reason> for hv::Error {
    fn from(reason: Reason) -> Self {
        hv::Error::Unavailable(reason.to_string())
    }
}

/// What KVM is worth.
#[derive(Debug)]
pub enum Verdict {
    /// Guest code runs on the processor itself.
    Hardware,
    /// KVM interprets guest code: far too slow for ordinary guests, and incomplete.
    Emulating,
    /// KVM cannot be used.
    Unavailable(Reason),
}

/// What the measurement saw.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Instructions in the measured loop.
    pub instructions: u64,
    /// How many of them KVM emulated; `None` where the kernel (before 5.14) does not count.
    pub emulated: Option<u64>,
    /// Time per instruction in nanoseconds, the exit at the end included.
    pub ns_per_instruction: f64,
}

/// The probe's result. Its text is one sentence for the user.
#[derive(Debug)]
pub struct Probe {
    /// What to make of it.
    pub verdict: Verdict,
    /// `KVM_GET_API_VERSION`, where the device opens.
    pub api_version: Option<i32>,
    /// The measurement, where it ran.
    pub figures: Option<Figures>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = |f: &mut fmt::Formatter<'_>| match self.figures {
            Some(Figures { instructions, emulated: Some(emulated), ns_per_instruction }) => {
                write!(f, "{emulated} of {instructions} instructions emulated, {ns_per_instruction:.1} ns each")
            }
            Some(Figures { instructions, emulated: None, ns_per_instruction }) => {
                write!(f, "{instructions} instructions, {ns_per_instruction:.1} ns each")
            }
            None => write!(f, "not measured"),
        };
        match &self.verdict {
            Verdict::Hardware => {
                write!(f, "KVM runs guests on the processor (")?;
                measured(f)?;
                write!(f, ")")
            }
            Verdict::Emulating => {
                write!(f, "KVM emulates guest code instead of running it (")?;
                measured(f)?;
                write!(f, "): ordinary guests do not work with it")
            }
            Verdict::Unavailable(reason) => write!(f, "{reason}"),
        }
    }
}

/// Measures what `/dev/kvm` is worth. Takes 1 to 5 ms, independent of the host's load, and leaves nothing behind.
pub fn probe() -> Probe {
    let kvm = match open() {
        Ok(kvm) => kvm,
        Err(reason) => {
            let api_version = if let Reason::WrongApi(version) = reason { Some(version) } else { None };
            return Probe { verdict: Verdict::Unavailable(reason), api_version, figures: None };
        }
    };
    let api_version = Some(kvm.get_api_version());
    match measure(&kvm) {
        Ok(figures) => Probe { verdict: judge(&figures), api_version, figures: Some(figures) },
        Err(reason) => Probe { verdict: Verdict::Unavailable(reason), api_version, figures: None },
    }
}

fn judge(figures: &Figures) -> Verdict {
    let emulating = match figures.emulated {
        Some(emulated) => emulated > figures.instructions / INSTRUCTIONS_PER_ROUND,
        None => figures.ns_per_instruction > EMULATION_NS,
    };
    if emulating { Verdict::Emulating } else { Verdict::Hardware }
}

/// Opens `/dev/kvm` and makes sure that it offers what is needed.
pub(crate) fn open() -> Result<Kvm, Reason> {
    let kvm = Kvm::new().map_err(not_opened)?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(Reason::WrongApi(version));
    }
    match REQUIRED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Err(Reason::MissingCapability(name)),
        None => Ok(kvm),
    }
}

fn not_opened(error: vmm_sys_util::errno::Error) -> Reason {
    match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => Reason::NoDevice,
        libc::EACCES | libc::EPERM => Reason::NoPermission,
        libc::EBUSY => Reason::Busy,
        _ => failed("open /dev/kvm")(error),
    }
}

/// Makes an empty VM. Turning on the virtualization extensions is what another hypervisor in use makes fail.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<kvm_ioctls::VmFd, Reason> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(vm),
            // KVM_CREATE_VM waits for other processors and gives up when a signal comes.
            Err(error) if error.errno() == libc::EINTR => continue,
            Err(error) if error.errno() == libc::EBUSY => return Err(Reason::Busy),
            Err(error) => return Err(failed("create a virtual machine")(error)),
        }
    }
}

fn failed(action: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> Reason {
    move |error| Reason::Failed { action, error: error.into() }
}

// Where things lie in the 64 KiB of the probe's guest.
const MEMORY_SIZE: u64 = 0x1_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x4000;
/// `loop: dec ecx; jnz loop; hlt`. Without an interrupt controller HLT exits.
const LOOP: [u8; 5] = [0xFF, 0xC9, 0x75, 0xFC, 0xF4];

fn measure(kvm: &Kvm) -> Result<Figures, Reason> {
    let region = hv::Region { address: 0, size: MEMORY_SIZE, offset: 0, readonly: false };
    let memory = GuestMemory::new(&[region]).map_err(no_memory)?;
    for (address, value) in [(PML4, PDPT | 3), (PDPT, PD | 3), (PD, 0x83)] {
        memory.write(address, &u64::to_le_bytes(value)).map_err(no_memory)?;
    }
    memory.write(CODE, &LOOP).map_err(no_memory)?;
    let vm = create_vm(kvm)?;
    let slot = kvm_userspace_memory_region {
        memory_size: MEMORY_SIZE,
        userspace_addr: memory.base() as u64,
        ..Default::default()
    };
    // SAFETY: `memory` outlives `vm` and its vCPU and is ours alone.
    unsafe { vm.set_user_memory_region(slot) }.map_err(failed("map guest memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("create a virtual CPU"))?;
    enter_long_mode(&vcpu).map_err(failed("enter long mode"))?;
    run_loop(&mut vcpu, 1)?;

    let counter = Statistic::find(&vcpu, "insn_emulation");
    let count = || counter.as_ref().and_then(Statistic::read);
    let before = count();
    let repeats = if before.is_some() { 1 } else { REPEATS_WITHOUT_COUNTER };
    let mut fastest = Duration::MAX;
    for _ in 0..repeats {
        let start = Instant::now();
        run_loop(&mut vcpu, ROUNDS)?;
        fastest = fastest.min(start.elapsed());
    }
    let instructions = ROUNDS * INSTRUCTIONS_PER_ROUND;
    let emulated = before.zip(count()).map(|(before, after)| (after - before).min(instructions));
    let ns_per_instruction = fastest.as_nanos() as f64 / instructions as f64;
    Ok(Figures { instructions, emulated, ns_per_instruction })
}

fn no_memory(error: hv::MemoryError) -> Reason {
    Reason::Failed { action: "get guest memory", error: io::Error::other(error) }
}

/// 64-bit code at CPL 0 with the first 2 MiB mapped to themselves.
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), vmm_sys_util::errno::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: 0x08, type_: 0xB, l: 1, ..flat };
    let data = kvm_segment { selector: 0x10, type_: 0x3, db: 1, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr0 = 0x8000_0011; // PG, ET, PE
    sregs.cr3 = PML4;
    sregs.cr4 = 0x20; // PAE
    sregs.efer = 0x500; // LMA, LME
    vcpu.set_sregs(&sregs)
}

fn run_loop(vcpu: &mut VcpuFd, rounds: u64) -> Result<(), Reason> {
    let regs = kvm_regs { rip: CODE, rcx: rounds, rflags: 2, rsp: CODE, ..Default::default() };
    vcpu.set_regs(&regs).map_err(failed("set registers"))?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(()),
            Ok(exit) => {
                let error = io::Error::other(format!("unexpected exit {exit:?}"));
                return Err(Reason::Failed { action: "run a loop of two instructions", error });
            }
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => continue,
            Err(error) => return Err(failed("run a loop of two instructions")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(emulated: Option<u64>, ns_per_instruction: f64) -> Verdict {
        judge(&Figures { instructions: 1000, emulated, ns_per_instruction })
    }

    #[test]
    fn the_count_decides_and_time_only_without_it() {
        assert!(matches!(verdict(Some(1000), 1.0), Verdict::Emulating));
        assert!(matches!(verdict(Some(3), 400.0), Verdict::Hardware));
        assert!(matches!(verdict(None, 300.0), Verdict::Emulating));
        assert!(matches!(verdict(None, 4.0), Verdict::Hardware));
    }

    #[test]
    fn every_reason_is_one_sentence_that_says_what_to_do() {
        let reasons = [Reason::NoDevice, Reason::NoPermission, Reason::Busy, Reason::WrongApi(11)];
        for reason in reasons {
            let text = Probe { verdict: Verdict::Unavailable(reason), api_version: None, figures: None }.to_string();
            assert!(text.contains(": ") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn what_the_system_answers_becomes_the_reason() {
        let reason = |errno| not_opened(vmm_sys_util::errno::Error::new(errno));
        assert!(matches!(reason(libc::ENOENT), Reason::NoDevice));
        assert!(matches!(reason(libc::EACCES), Reason::NoPermission));
        assert!(matches!(reason(libc::EBUSY), Reason::Busy));
        assert!(matches!(reason(libc::EMFILE), Reason::Failed { .. }));
    }

    #[test]
    fn the_probe_agrees_with_itself() {
        let start = Instant::now();
        let probe = probe();
        eprintln!("{probe}, in {:?}", start.elapsed());
        match (&probe.verdict, probe.figures) {
            (Verdict::Unavailable(_), figures) => assert!(figures.is_none()),
            (_, Some(figures)) => {
                assert_eq!(probe.api_version, Some(12));
                assert!(figures.ns_per_instruction > 0.0);
                let again = super::probe();
                assert_eq!(std::mem::discriminant(&probe.verdict), std::mem::discriminant(&again.verdict));
            }
            (verdict, None) => panic!("{verdict:?} without figures"),
        }
    }
}
