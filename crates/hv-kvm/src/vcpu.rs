//! The virtual processor and its run loop.

use crate::kick::VcpuKick;
use crate::state;
use crate::vm::failed;
use hv::{Bus, CpuState, Error, Exit, GuestMemory, InternalError, Kick, SegmentRegister, Vcpu};
use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Longest x86 instruction in bytes.
const MAX_INSTRUCTION: usize = 15;

/// One virtual processor of `/dev/kvm`.
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    /// The page that `fd` shares with the kernel, for what [`VcpuExit`] does not carry.
    shared: NonNull<kvm_run>,
    kick: Arc<VcpuKick>,
    memory: Arc<GuestMemory>,
    bus: Arc<dyn Bus>,
    msr_indices: Arc<[u32]>,
    exits: Exits,
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
        bus: Arc<dyn Bus>,
        msr_indices: Arc<[u32]>,
    ) -> Result<Self, Error> {
        let shared = NonNull::from(fd.get_kvm_run());
        // SAFETY: `shared` points into a mapping that lives as long as `fd`.
        let immediate_exit = unsafe { NonNull::new_unchecked(&raw mut (*shared.as_ptr()).immediate_exit) };
        // SAFETY: valid until `drop`, which detaches before `fd` goes.
        let kick = Arc::new(unsafe { VcpuKick::new(immediate_exit) }?);
        Ok(KvmVcpu { fd, shared, kick, memory, bus, msr_indices, exits: Exits::default() })
    }

    /// Bytes per element of the port access that KVM just reported.
    fn port_access_size(&self) -> u8 {
        // SAFETY: `shared` is valid while `fd` lives; after KVM_EXIT_IO the union holds `io`. The size is 1, 2 or 4.
        unsafe { (*self.shared.as_ptr()).__bindgen_anon_1.io.size }.max(1)
    }

    /// What KVM says about an internal error, and the bytes of the instruction where it gives them.
    fn internal_error(&self) -> (String, Vec<u8>) {
        // SAFETY: `shared` is valid while `fd` lives; after KVM_EXIT_INTERNAL_ERROR the union holds `internal`, whose
        // extension `emulation_failure` shares its beginning and lies within the same page.
        let (internal, failure) = unsafe {
            let reason = &(*self.shared.as_ptr()).__bindgen_anon_1;
            (reason.internal, reason.emulation_failure)
        };
        let what = match internal.suberror {
            KVM_INTERNAL_ERROR_EMULATION => "KVM could not emulate an instruction".into(),
            KVM_INTERNAL_ERROR_SIMUL_EX => "KVM met an exception while delivering another".into(),
            KVM_INTERNAL_ERROR_DELIVERY_EV => "KVM could not deliver an event".into(),
            KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
                format!("KVM met exit reason {:#x}, which it does not know", internal.data[0])
            }
            other => format!("KVM reported internal error {other}"),
        };
        let emulation = internal.suberror == KVM_INTERNAL_ERROR_EMULATION && internal.ndata >= 3;
        let flag = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
        if !emulation || failure.flags & flag == 0 {
            return (what, Vec::new());
        }
        // SAFETY: the flag says that the union holds the instruction.
        let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let size = usize::from(instruction.insn_size).min(MAX_INSTRUCTION);
        (what, instruction.insn_bytes[..size].to_vec())
    }

    /// The end of a guest that KVM cannot go on with: registers and instruction, as far as they can be had.
    fn give_up(&mut self, what: &str, instruction: Vec<u8>) -> Exit {
        let state = self.state().ok().map(Box::new);
        let instruction = match &state {
            Some(state) if instruction.is_empty() => self.instruction_at(state),
            _ => instruction,
        };
        let place = state.as_ref().map(|state| format!(" at RIP {:#x}", state.rip)).unwrap_or_default();
        let bytes: String = instruction.iter().map(|byte| format!(" {byte:02x}")).collect();
        let what = format!("{what}{place} (bytes:{})", if bytes.is_empty() { " unreadable" } else { &bytes });
        Exit::InternalError(Box::new(InternalError { what, instruction, state }))
    }

    fn instruction_at(&mut self, state: &CpuState) -> Vec<u8> {
        let start = state.segments[SegmentRegister::Cs as usize].base.wrapping_add(state.rip);
        (0..MAX_INSTRUCTION as u64)
            .map_while(|at| {
                let mut byte = [0];
                let physical = self.translate(start.wrapping_add(at))?;
                self.memory.read(physical, &mut byte).ok().map(|()| byte[0])
            })
            .collect()
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<Exit, Error> {
        let _running = self.kick.enter()?;
        loop {
            match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    let data: *const [u8] = data;
                    let size = self.port_access_size();
                    // SAFETY: `data` lies in the pages shared with the kernel, which writes them inside KVM_RUN only.
                    for element in unsafe { &*data }.chunks_exact(usize::from(size)) {
                        let mut value = [0; 4];
                        value[..element.len()].copy_from_slice(element);
                        self.bus.pio_write(port, size, u32::from_le_bytes(value));
                    }
                    self.exits.pio_out += 1;
                }
                Ok(VcpuExit::IoIn(port, data)) => {
                    let data: *mut [u8] = data;
                    let size = self.port_access_size();
                    // SAFETY: as for IoOut.
                    for element in unsafe { &mut *data }.chunks_exact_mut(usize::from(size)) {
                        let value = self.bus.pio_read(port, size).to_le_bytes();
                        element.copy_from_slice(&value[..element.len()]);
                    }
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
                    let (what, instruction) = self.internal_error();
                    return Ok(self.give_up(&what, instruction));
                }
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    let what = format!("the processor refused the guest's state (hardware reason {reason:#x})");
                    return Ok(self.give_up(&what, Vec::new()));
                }
                Ok(VcpuExit::Intr) => self.exits.interrupted += 1,
                Ok(exit) => {
                    let what = format!("KVM ended with {exit:?}, which this machine never asks for,");
                    return Ok(self.give_up(&what, Vec::new()));
                }
                Err(error) if error.errno() == libc::EINTR => {
                    self.exits.interrupted += 1;
                    if self.kick.take() {
                        return Ok(Exit::Kicked);
                    }
                }
                // A processor that waited for INIT got it; the next KVM_RUN waits for the start-up IPI.
                Err(error) if error.errno() == libc::EAGAIN => self.exits.other += 1,
                Err(error) if [libc::EFAULT, libc::EHWPOISON].contains(&error.errno()) => {
                    return Ok(self.give_up("guest memory could not be reached on the host", Vec::new()));
                }
                Err(error) => return Err(failed("run a virtual CPU")(error)),
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        state::save(&self.fd, &self.msr_indices)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        state::load(&self.fd, &self.msr_indices, state)
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        let translation = self.fd.translate_gva(linear).ok()?;
        (translation.valid != 0).then_some(translation.physical_address)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let Exits { pio_in, pio_out, mmio_read, mmio_write, interrupted, other } = self.exits;
        vec![
            ("pio_in", pio_in),
            ("pio_out", pio_out),
            ("mmio_read", mmio_read),
            ("mmio_write", mmio_write),
            ("interrupted", interrupted),
            ("other", other),
        ]
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kick.detach();
    }
}
