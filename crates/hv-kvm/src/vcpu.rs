//! The virtual processor and its run loop.

use crate::kick::VcpuKick;
use crate::slots::Slots;
use crate::state;
use crate::vm::failed;
use crate::watchdog::{Finding, Watchdog, is_jump};
use hv::{Bus, CpuState, Error, Exit, GuestMemory, InternalError, Kick, SegmentRegister, Vcpu};
use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_lapic_state, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Longest x86 instruction in bytes.
const MAX_INSTRUCTION: usize = 15;
/// What the watchdog says.
const STUCK: &str = "this KVM emulates guest code and does not get past an instruction";

/// One virtual processor of `/dev/kvm`.
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    /// The page that `fd` shares with the kernel, for what [`VcpuExit`] does not carry.
    shared: NonNull<kvm_run>,
    kick: Arc<VcpuKick>,
    memory: Arc<GuestMemory>,
    slots: Arc<Slots>,
    bus: Arc<dyn Bus>,
    msr_indices: Arc<[u32]>,
    exits: Exits,
    /// On an emulating KVM only.
    watchdog: Option<Watchdog>,
}

// SAFETY: `shared` belongs to `fd`, which may be sent, and is only used through `&mut self`.
unsafe impl Send for KvmVcpu {}

/// How often each kind of exit came.
#[derive(Default)]
struct Exits {
    pio_in: u64,
    pio_out: u64,
    mmio_read: u64,
    mmio_write: u64,
    interrupted: u64,
    other: u64,
}

impl KvmVcpu {
    pub fn new(
        mut fd: VcpuFd,
        memory: Arc<GuestMemory>,
        slots: Arc<Slots>,
        bus: Arc<dyn Bus>,
        msr_indices: Arc<[u32]>,
        watchdog: Option<Watchdog>,
    ) -> Result<Self, Error> {
        let shared = NonNull::from(fd.get_kvm_run());
        // SAFETY: `shared` points into a mapping that lives as long as `fd`.
        let immediate_exit = unsafe { NonNull::new_unchecked(&raw mut (*shared.as_ptr()).immediate_exit) };
        // SAFETY: valid until `drop`, which detaches before `fd` goes.
        let kick = Arc::new(unsafe { VcpuKick::new(immediate_exit) }?);
        Ok(KvmVcpu { fd, shared, kick, memory, slots, bus, msr_indices, exits: Exits::default(), watchdog })
    }

    /// The end of a guest that KVM cannot go on with: registers and instruction, as far as they can be had.
    fn give_up(&mut self, what: &str, instruction: Vec<u8>) -> Exit {
        let state = self.state().ok().map(Box::new);
        let instruction = match &state {
            Some(state) if instruction.is_empty() => {
                let code_base = state.segments[SegmentRegister::Cs as usize].base;
                instruction_at(&self.fd, &self.memory, code_base.wrapping_add(state.rip))
            }
            _ => instruction,
        };
        let place = state.as_ref().map(|state| format!(" at RIP {:#x}", state.rip)).unwrap_or_default();
        let bytes: String = instruction.iter().map(|byte| format!(" {byte:02x}")).collect();
        let what = format!("{what}{place} (bytes:{})", if bytes.is_empty() { " unreadable" } else { &bytes });
        Exit::InternalError(Box::new(InternalError { what, instruction, state }))
    }

    /// Runs guest code until there is something to return.
    fn run_guest(&mut self) -> Result<Exit, Error> {
        let shared = self.shared;
        loop {
            match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    write_elements(&*self.bus, port, access_size(shared), data);
                    self.exits.pio_out += 1;
                    if let Some(why) = self.slots.failure().map(str::to_owned) {
                        return Ok(self.give_up(&why, Vec::new()));
                    }
                }
                Ok(VcpuExit::IoIn(port, data)) => {
                    read_elements(&*self.bus, port, access_size(shared), data);
                    self.exits.pio_in += 1;
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    self.bus.mmio_read(address, data);
                    self.exits.mmio_read += 1;
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    self.bus.mmio_write(address, data);
                    self.exits.mmio_write += 1;
                }
                Ok(VcpuExit::Shutdown) => return Ok(Exit::Shutdown),
                Ok(VcpuExit::Hlt) => return Ok(Exit::Halted),
                Ok(VcpuExit::InternalError) => {
                    let (what, instruction) = internal_error(shared);
                    return Ok(self.give_up(&what, instruction));
                }
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    let what = format!("the processor refused the guest's state (hardware reason {reason:#x})");
                    return Ok(self.give_up(&what, Vec::new()));
                }
                Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                    let what = format!("the host has no memory behind guest address {gpa:#x}");
                    return Ok(self.give_up(&what, Vec::new()));
                }
                Ok(VcpuExit::Debug(_)) => {
                    if self.watchdog.as_mut().map_or(Ok(Finding::Fine), |dog| dog.stepped(&self.fd))? == Finding::Stuck
                    {
                        return Ok(self.give_up(STUCK, Vec::new()));
                    }
                    self.exits.other += 1;
                }
                Ok(exit) => {
                    let what = format!("KVM ended with {exit:?}, which nothing here asks for,");
                    return Ok(self.give_up(&what, Vec::new()));
                }
                Err(error) if error.errno() == libc::EINTR => {
                    self.exits.interrupted += 1;
                    if self.kick.take() {
                        return Ok(Exit::Kicked);
                    }
                    if self.look()? == Finding::Stuck {
                        return Ok(self.give_up(STUCK, Vec::new()));
                    }
                }
                // A processor that waited for INIT got it; the next KVM_RUN waits for the start-up IPI.
                Err(error) if error.errno() == libc::EAGAIN => self.exits.other += 1,
                Err(error) if [libc::EFAULT, libc::EHWPOISON].contains(&error.errno()) => {
                    return Ok(self.give_up("the host has no memory behind a guest address", Vec::new()));
                }
                Err(error) => return Err(failed("run a virtual CPU")(error)),
            }
        }
    }

    /// Has the watchdog look at the guest.
    fn look(&mut self) -> Result<Finding, Error> {
        let KvmVcpu { fd, memory, watchdog: Some(watchdog), .. } = self else { return Ok(Finding::Fine) };
        let code = fd.get_sregs().map_err(failed("read the segment and control registers"))?.cs;
        watchdog.look(fd, |regs| is_jump(&instruction_at(fd, memory, code.base.wrapping_add(regs.rip)), code.l != 0))
    }
}

/// Bytes per element of the port access that KVM just reported.
fn access_size(shared: NonNull<kvm_run>) -> u8 {
    // SAFETY: `shared` is valid while its vCPU lives; after KVM_EXIT_IO the union holds `io`.
    unsafe { (*shared.as_ptr()).__bindgen_anon_1.io.size }.clamp(1, 4)
}

fn write_elements(bus: &dyn Bus, port: u16, size: u8, data: &[u8]) {
    for element in data.chunks_exact(usize::from(size)) {
        let mut value = [0; 4];
        value[..element.len()].copy_from_slice(element);
        bus.pio_write(port, size, u32::from_le_bytes(value));
    }
}

fn read_elements(bus: &dyn Bus, port: u16, size: u8, data: &mut [u8]) {
    for element in data.chunks_exact_mut(usize::from(size)) {
        let value = bus.pio_read(port, size).to_le_bytes();
        element.copy_from_slice(&value[..element.len()]);
    }
}

/// What KVM says about an internal error, and the bytes of the instruction where it gives them.
fn internal_error(shared: NonNull<kvm_run>) -> (String, Vec<u8>) {
    // SAFETY: `shared` is valid while its vCPU lives; after KVM_EXIT_INTERNAL_ERROR the union holds `internal`, whose
    // extension `emulation_failure` shares its beginning and lies within the same page.
    let (internal, failure) = unsafe {
        let reason = &(*shared.as_ptr()).__bindgen_anon_1;
        (reason.internal, reason.emulation_failure)
    };
    let what = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "KVM could not emulate an instruction".into(),
        KVM_INTERNAL_ERROR_SIMUL_EX => "KVM met an exception while delivering another".into(),
        KVM_INTERNAL_ERROR_DELIVERY_EV => "KVM could not deliver an event".into(),
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            format!("KVM met exit reason {:#x}, which it does not know,", internal.data[0])
        }
        other => format!("KVM reported internal error {other}"),
    };
    // Flags, and size and bytes in the two words behind them.
    let emulation = internal.suberror == KVM_INTERNAL_ERROR_EMULATION && internal.ndata >= 3;
    if !emulation || failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0 {
        return (what, Vec::new());
    }
    // SAFETY: the flag says that the union holds the instruction.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let size = usize::from(instruction.insn_size).min(MAX_INSTRUCTION);
    (what, instruction.insn_bytes[..size].to_vec())
}

/// Up to 15 bytes of code at a linear address, as far as it is mapped to RAM.
fn instruction_at(vcpu: &VcpuFd, memory: &GuestMemory, linear: u64) -> Vec<u8> {
    (0..MAX_INSTRUCTION as u64)
        .map_while(|at| {
            let mut byte = [0];
            let physical = translate(vcpu, linear.wrapping_add(at))?;
            memory.read(physical, &mut byte).ok().map(|()| byte[0])
        })
        .collect()
}

fn translate(vcpu: &VcpuFd, linear: u64) -> Option<u64> {
    let translation = vcpu.translate_gva(linear).ok()?;
    (translation.valid != 0).then_some(translation.physical_address)
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<Exit, Error> {
        let _running = self.kick.enter()?;
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.start()?;
        }
        let exit = self.run_guest();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.stop(&self.fd)?;
        }
        exit
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        state::save(&self.fd, &self.msr_indices)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        state::load(&self.fd, state)
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        translate(&self.fd, linear)
    }

    fn pulse_nmi(&mut self) -> Result<(), Error> {
        let lapic = self.fd.get_lapic().map_err(failed("read the local APIC"))?;
        if lint1_is_nmi(&lapic) {
            self.fd.nmi().map_err(failed("raise an NMI"))?;
        }
        Ok(())
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let Exits { pio_in, pio_out, mmio_read, mmio_write, interrupted, other } = self.exits;
        [
            ("pio_in", pio_in),
            ("pio_out", pio_out),
            ("mmio_read", mmio_read),
            ("mmio_write", mmio_write),
            ("interrupted", interrupted),
            ("other", other),
        ]
        .map(|(name, count)| (name.to_string(), count))
        .into()
    }
}

/// Whether LINT1 of a local APIC is not masked and stands for an NMI. Intel SDM volume 3, section 12.5.1.
fn lint1_is_nmi(lapic: &kvm_lapic_state) -> bool {
    const LINT1: usize = 0x360;
    const NMI: u8 = 4;
    // The second byte has the delivery mode in its low three bits, the third the mask.
    let [mode, mask] = [LINT1 + 1, LINT1 + 2].map(|at| lapic.regs[at] as u8);
    mask & 1 == 0 && mode & 7 == NMI
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kick.detach();
    }
}
