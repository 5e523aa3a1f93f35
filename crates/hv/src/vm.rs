use crate::{CpuState, Error, Interrupts, LocalApic};
use std::os::fd::RawFd;
use std::sync::Arc;

/// Why [`Vcpu::run`] returned.
#[derive(Debug)]
pub enum Exit {
    /// Somebody called [`Kick::kick`]; look at what they wanted and run again.
    Kicked,
    /// A triple fault: the processor has shut down.
    Shutdown,
    /// The guest executed HLT and nothing on this accelerator can wake it (no interrupt controller attached).
    Halted,
    /// The accelerator cannot go on with this guest.
    InternalError(Box<InternalError>),
}

/// What there is to say about a guest that an accelerator cannot go on with.
#[derive(Debug)]
pub struct InternalError {
    /// One sentence: what happened.
    pub what: String,
    /// The bytes at the instruction pointer, as far as they could be read (at most 15).
    pub instruction: Vec<u8>,
    /// The processor's state at that instruction, when it could be read.
    pub state: Option<Box<CpuState>>,
}

/// Stops a running vCPU from any thread: its current or next [`Vcpu::run`] returns [`Exit::Kicked`] soon
/// (microseconds to a few milliseconds), also out of HLT. A vCPU that looks at its [`LocalApic`] by itself uses the
/// same call to be told that something became pending ([`Kick::interrupt`]), which does not end `run`.
pub trait Kick: Send + Sync {
    /// Makes `run` return [`Exit::Kicked`] once.
    fn kick(&self);

    /// Makes a running or halted vCPU look at its local APIC.
    fn interrupt(&self);
}

/// One virtual machine of an accelerator: memory is mapped, vCPUs can be made.
pub trait Vm: Send + Sync {
    /// `kvm` or `recompiler`.
    fn accelerator(&self) -> &'static str;

    /// The accelerator's own interrupt controllers (PIC, IOAPIC, local APICs, PIT), or `None` when the board has
    /// to bring them.
    fn interrupts(&self) -> Option<Arc<dyn Interrupts>>;

    /// Puts the accelerator's own interrupt controllers and timer into their state after power-on, as a machine reset
    /// does; the vCPUs with their local APICs are reset by [`Vcpu::set_state`]. No vCPU may be running. Nothing to do
    /// where the board brings them.
    fn reset_interrupts(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes vCPU number `id` (0-based, also its APIC ID). `lapic` is its user-space local APIC; it is given exactly
    /// when [`Vm::interrupts`] is `None`.
    ///
    /// vCPU 0 starts as the boot processor; the others wait for INIT and a start-up IPI.
    fn create_vcpu(&self, id: u32, lapic: Option<Arc<dyn LocalApic>>) -> Result<Box<dyn Vcpu>, Error>;

    /// What instruments have listed so far, for people: guest code beside the accelerator's. Empty where there is none.
    fn listings(&self) -> String {
        String::new()
    }

    /// Makes a guest write of `size` bytes (0 = any size) to `address` signal `eventfd` inside the kernel instead of
    /// reaching the bus. `Ok(false)`: not supported here, the bus will see the write.
    fn register_ioeventfd(&self, address: IoAddress, size: u8, eventfd: RawFd) -> Result<bool, Error>;

    /// Ends what [`Vm::register_ioeventfd`] began.
    fn unregister_ioeventfd(&self, address: IoAddress, size: u8, eventfd: RawFd) -> Result<(), Error>;

    /// Makes a signal on `eventfd` deliver `msi` without a system call by anybody. `Ok(false)`: not supported
    /// here, use [`Interrupts::signal_msi`].
    fn register_irqfd(&self, eventfd: RawFd, msi: crate::Msi) -> Result<bool, Error>;

    /// Ends what [`Vm::register_irqfd`] began, so that a masked MSI-X vector stays silent. Registering an eventfd
    /// again changes its message. Nothing happens for an eventfd that is not registered.
    fn unregister_irqfd(&self, _eventfd: RawFd) -> Result<(), Error> {
        Ok(())
    }
}

/// A place on one of the two buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoAddress {
    /// An I/O port.
    Port(u16),
    /// A guest physical address.
    Mmio(u64),
}

/// One virtual processor. Belongs to the thread that runs it.
pub trait Vcpu: Send {
    /// Runs guest code until there is something only the machine can decide. Port and memory-mapped I/O go to the
    /// [`crate::Bus`] from inside, as do interrupts that [`Kick::interrupt`] announced; HLT sleeps in here.
    fn run(&mut self) -> Result<Exit, Error>;

    /// The handle by which other threads stop this vCPU.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// The processor's complete state. Only between two calls of [`Vcpu::run`].
    fn state(&mut self) -> Result<CpuState, Error>;

    /// Loads a complete state; refuses one that no processor can have.
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error>;

    /// Translates a guest linear address with the vCPU's current paging, without side effects.
    /// `None`: not mapped.
    fn translate(&mut self, linear: u64) -> Option<u64>;

    /// A rising edge at the NMI pin (LINT1) of a processor whose local APIC is the accelerator's own
    /// ([`Vm::interrupts`]). Intel SDM volume 3, section 12.5.1.
    fn pulse_nmi(&mut self) -> Result<(), Error> {
        Err(Error::Unavailable("this processor's NMI pin belongs to the board's local APIC".into()))
    }

    /// Counters worth showing, by name (for `--accel-stats`); those of one kind are called `kind.name`.
    fn statistics(&self) -> Vec<(String, u64)>;
}
