use crate::vm::Kick;
use std::sync::Arc;

/// A message-signalled interrupt: a 32-bit write of `data` to `address` (0xFEE0_0000 + …).
/// Intel SDM volume 3A, section 11.11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Destination and redirection bits.
    pub address: u64,
    /// Vector, delivery mode and trigger bits.
    pub data: u32,
}

/// The machine's interrupt controllers as devices see them.
pub trait Interrupts: Send + Sync {
    /// Drives a global system interrupt line (GSI 0..=23: ISA interrupts are 0..=15) high or low.
    fn set_line(&self, gsi: u32, high: bool);

    /// Delivers a message-signalled interrupt.
    fn signal_msi(&self, msi: Msi);

    /// Connects the interval timer (PIT) to ISA interrupt 0, as after power-on, or disconnects it: another timer has taken
    /// its place. Nothing to do where there is no such timer.
    fn connect_pit(&self, _connected: bool) {}
}

bitflags::bitflags! {
    /// What waits for a processor. One atomic load tells a running vCPU whether it has to look closer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pending: u32 {
        /// A maskable interrupt whose priority beats the task priority (local APIC) or ExtINT from the PIC.
        const INTR = 1 << 0;
        /// A non-maskable interrupt.
        const NMI = 1 << 1;
        /// INIT was signalled.
        const INIT = 1 << 2;
        /// A start-up IPI was signalled ([`LocalApic::take_sipi`]).
        const SIPI = 1 << 3;
        /// A system management interrupt.
        const SMI = 1 << 4;
    }
}

/// A user-space local APIC as its processor sees it. Implemented by the board, called by an accelerator without
/// interrupt controllers of its own, on the vCPU's thread unless said otherwise.
/// Intel SDM volume 3A, chapter 11.
pub trait LocalApic: Send + Sync {
    /// Sets whom to kick when something becomes pending. Called once, before the vCPU runs.
    fn attach(&self, kick: Arc<dyn Kick>);

    /// What is pending now. A single atomic load: may be called before each block of code.
    fn pending(&self) -> Pending;

    /// Acknowledges the highest-priority pending interrupt and returns its vector, or `None` when it went away.
    /// Moves it from IRR to ISR, or runs the PIC's acknowledge cycle for ExtINT.
    fn acknowledge(&self) -> Option<u8>;

    /// Takes a pending NMI: true when there was one. Further ones become one from then on to [`Self::unmask_nmi`].
    fn take_nmi(&self) -> bool;

    /// The processor executed IRET after an NMI: it takes NMIs again.
    fn unmask_nmi(&self);

    /// The processor drives its pin FERR#: an x87 exception waits that CR0.NE leaves to the board. Returns whether the
    /// board asserts IGNNE#, so that the processor goes on in spite of it.
    fn drive_ferr(&self, asserted: bool) -> bool;

    /// Takes a pending INIT: true when there was one. The caller resets the processor and calls [`Self::reset`].
    fn take_init(&self) -> bool;

    /// Takes a pending start-up IPI and returns its vector (the start address is `vector << 12`).
    fn take_sipi(&self) -> Option<u8>;

    /// Puts the APIC into its state after INIT (the APIC ID and base stay).
    fn reset(&self);

    /// Reads `data.len()` bytes (1, 2, 4 or 8) at `offset` (0..4096) of the register page.
    fn mmio_read(&self, offset: u16, data: &mut [u8]);

    /// Writes at `offset` (0..4096) of the register page.
    fn mmio_write(&self, offset: u16, data: &[u8]);

    /// Reads IA32_APIC_BASE (0x1B), IA32_TSC_DEADLINE (0x6E0) or an x2APIC register (0x800..=0x8FF).
    /// `None`: not an MSR of the APIC, or not in this mode: the processor raises #GP(0).
    fn read_msr(&self, msr: u32) -> Option<u64>;

    /// Writes one of those registers. False: reserved bits, a read-only register or the wrong mode: #GP(0).
    #[must_use]
    fn write_msr(&self, msr: u32, value: u64) -> bool;

    /// The physical address of the register page, or `None` while it is disabled or in x2APIC mode.
    fn base(&self) -> Option<u64>;

    /// The task priority as CR8 shows it, 0..=15.
    fn tpr(&self) -> u8;

    /// Writes CR8, 0..=15.
    fn set_tpr(&self, value: u8);

    /// The complete register state in the layout of KVM's `kvm_lapic_state` (1024 bytes: registers at 16-byte
    /// steps), for [`crate::CpuState::apic`].
    fn save(&self) -> Box<[u8; 1024]>;

    /// Loads what [`Self::save`] gave. The state may be hostile: nonsense is clamped to legal values.
    fn load(&self, registers: &[u8; 1024], apic_base: u64, tsc_deadline: u64);

    /// Called by the board's clock owner or the accelerator when guest TSC offsets change. May be called on any
    /// thread.
    fn set_tsc(&self, tsc: crate::Tsc);
}
