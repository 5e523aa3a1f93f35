//! The local APIC: xAPIC and x2APIC. Intel SDM volume 3A, chapter 11.
//!
//! Interrupts are posted from any thread without a lock: see `acceptance`.

mod acceptance;
#[cfg(test)]
mod model;
mod msr;
mod registers;
mod state;
mod sync;
#[cfg(test)]
mod tests;
mod timer;

use crate::irqchip::{Delivery, Irqchip, Message};
use crate::timer::Timers;
use acceptance::{Acceptance, Pins};
use hv::{Kick, LocalApic, Msi, Pending, Tsc};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use timer::ApicTimer;

/// Where the register page lies after power-on.
pub const LAPIC_ADDRESS: u64 = 0xFEE0_0000;
/// What the timer counts before its divider, in Hz: the bus (core crystal) clock that CPUID leaf 0x15 may name.
pub const LAPIC_TIMER_HZ: u64 = 1_000_000_000;

/// IA32_APIC_BASE: this is the boot processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is enabled.
const BASE_EN: u64 = 1 << 11;

/// Spurious-interrupt vector register: the APIC is enabled by software.
const SVR_ENABLE: u32 = 1 << 8;
/// Spurious-interrupt vector register: EOI is not broadcast to I/O APICs.
const SVR_SUPPRESS_EOI: u32 = 1 << 12;

/// Error status register: an IPI with a vector below 16.
const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// Error status register: an interrupt received with a vector below 16.
const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
/// Error status register: an access to a register that does not exist.
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

const LVT_MASKED: u32 = 1 << 16;

/// The entries of the local vector table that something here raises, by their place among the registers. Entries 1
/// (thermal sensor) and 2 (performance counters) are registers without a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lvt {
    Timer = 0,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

/// One processor's local APIC.
///
/// Everything a remote thread needs is atomic. Registers are written by the vCPU's thread alone; others read them to
/// match destinations. Lock order: `timer`, then the queue of [`Timers`]. Nothing is posted with `timer` held.
#[repr(align(64))]
pub(crate) struct Lapic {
    acceptance: Acceptance,
    sipi_vector: AtomicU8,
    /// Level of the pin LINT0: the PIC's INTR output.
    lint0: AtomicBool,
    /// An ExtINT message (from the I/O APIC) waits for its acknowledge cycle.
    extint: AtomicBool,
    /// An NMI came while one was pending. The processor that is about to take the first keeps this one: Intel SDM
    /// volume 3A, section 6.7.1.
    second_nmi: AtomicBool,
    /// The processor took an NMI and has not executed IRET since.
    nmi_masked: AtomicBool,
    base: AtomicU64,
    /// The 8-bit ID of xAPIC mode, writable by the guest.
    xapic_id: AtomicU32,
    ldr: AtomicU32,
    dfr: AtomicU32,
    svr: AtomicU32,
    esr: AtomicU32,
    /// Errors since ESR was last written.
    errors: AtomicU32,
    icr: AtomicU64,
    lvt: [AtomicU32; 6],
    /// The processor's number: its initial and its x2APIC ID.
    id: u32,
    kick: OnceLock<Arc<dyn Kick>>,
    timer: Mutex<ApicTimer>,
}

impl Lapic {
    /// The APIC of processor `id` (0 is the boot processor), as after power-on.
    pub(crate) fn new(id: u32, timers: &Timers, tsc: Tsc) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Lapic>| {
            let me = me.clone();
            let expired = move || {
                if let Some(lapic) = me.upgrade() {
                    lapic.timer_expired();
                }
            };
            let lapic = Lapic {
                acceptance: Acceptance::new(),
                sipi_vector: AtomicU8::new(0),
                lint0: AtomicBool::new(false),
                extint: AtomicBool::new(false),
                second_nmi: AtomicBool::new(false),
                nmi_masked: AtomicBool::new(false),
                base: AtomicU64::new(0),
                xapic_id: AtomicU32::new(id & 0xFF),
                ldr: AtomicU32::new(0),
                dfr: AtomicU32::new(0),
                svr: AtomicU32::new(0),
                esr: AtomicU32::new(0),
                errors: AtomicU32::new(0),
                icr: AtomicU64::new(0),
                lvt: Default::default(),
                id,
                kick: OnceLock::new(),
                timer: Mutex::new(ApicTimer::new(timers.create(expired), tsc)),
            };
            lapic.power_on();
            lapic
        })
    }

    /// The state after power-on.
    pub(crate) fn power_on(&self) {
        let bsp = if self.id == 0 { BASE_BSP } else { 0 };
        self.base.store(LAPIC_ADDRESS | BASE_EN | bsp, SeqCst);
        self.xapic_id.store(self.id & 0xFF, SeqCst);
        self.acceptance.take(Pending::all());
        self.reset_registers();
    }

    /// The state after INIT: all but the ID and the base. Section 11.4.7.
    fn reset_registers(&self) {
        self.timer.lock().reset();
        self.acceptance.clear();
        self.extint.store(false, SeqCst);
        self.ldr.store(0, SeqCst);
        self.dfr.store(u32::MAX, SeqCst);
        self.svr.store(0xFF, SeqCst);
        self.esr.store(0, SeqCst);
        self.errors.store(0, SeqCst);
        self.icr.store(0, SeqCst);
        for entry in &self.lvt {
            entry.store(LVT_MASKED, SeqCst);
        }
        if self.id == 0 {
            // Firmware leaves the boot processor in virtual wire mode. A kernel started without firmware, and
            // firmware that never touches its APIC, need the PIC to get through as well.
            self.lvt[Lvt::Lint0 as usize].store(0x700, SeqCst);
        }
        self.priority_changed();
    }

    pub(crate) fn hardware_enabled(&self) -> bool {
        self.base.load(SeqCst) & BASE_EN != 0
    }

    fn software_enabled(&self) -> bool {
        self.svr.load(SeqCst) & SVR_ENABLE != 0
    }

    fn x2apic(&self) -> bool {
        let mode = BASE_EN | BASE_EXTD;
        self.base.load(SeqCst) & mode == mode
    }

    fn lvt(&self, entry: Lvt) -> u32 {
        self.lvt[entry as usize].load(SeqCst)
    }

    /// Whether the pin LINT0 leads to the PIC: through an ExtINT entry, or as INTR while the APIC is disabled.
    fn lint0_is_extint(&self) -> bool {
        let entry = self.lvt(Lvt::Lint0);
        !self.hardware_enabled() || (entry & LVT_MASKED == 0 && entry >> 8 & 7 == 7)
    }

    fn raise(&self, what: Pending) {
        self.acceptance.raise(what, self);
    }

    fn update(&self) {
        self.acceptance.update(self);
    }

    fn priority_changed(&self) {
        self.acceptance.priority_changed(self);
    }

    /// Posts a fixed interrupt.
    fn post(&self, vector: u8, level: bool) {
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.acceptance.post(vector, level, self);
    }

    /// Takes a message from the APIC bus. True when it was accepted.
    pub(crate) fn accept(&self, delivery: Delivery, vector: u8, level: bool) -> bool {
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                if !self.software_enabled() {
                    return false;
                }
                self.post(vector, level);
            }
            // There is no system management mode: the interrupt has no effect.
            Delivery::Smi => {}
            Delivery::Nmi => self.raise_nmi(),
            Delivery::Init => {
                self.acceptance.take(Pending::SIPI);
                self.raise(Pending::INIT);
            }
            Delivery::StartUp => {
                self.sipi_vector.store(vector, SeqCst);
                self.raise(Pending::SIPI);
            }
            Delivery::ExtInt => {
                self.extint.store(true, SeqCst);
                self.update();
            }
        }
        true
    }

    /// Raises the interrupt of a local vector table entry.
    fn local_interrupt(&self, entry: Lvt) {
        self.local_interrupt_by(entry, self.lvt(entry));
    }

    /// The same by what the entry was when the interrupt came.
    fn local_interrupt_by(&self, entry: Lvt, value: u32) {
        if value & LVT_MASKED != 0 {
            return;
        }
        let vector = value as u8;
        match entry {
            Lvt::Timer | Lvt::Error => self.post(vector, false),
            Lvt::Lint0 | Lvt::Lint1 => match value >> 8 & 7 {
                0 => self.post(vector, false),
                4 => self.raise_nmi(),
                5 => _ = self.accept(Delivery::Init, vector, false),
                // ExtINT follows the level of the pin; SMI has no effect; the others are reserved.
                _ => {}
            },
        }
    }

    /// Collects an error and raises the error interrupt. Section 11.5.3.
    fn error(&self, what: u32) {
        if self.errors.fetch_or(what, SeqCst) & what == 0 {
            let entry = self.lvt(Lvt::Error);
            // An error entry with an illegal vector must not raise errors for ever.
            if entry & 0xFF >= 16 {
                self.local_interrupt(Lvt::Error);
            }
        }
    }

    /// The PIC's output changed. Called with the PIC's lock held, so that levels arrive in order.
    pub(crate) fn set_lint0(&self, high: bool) {
        let rising = !self.lint0.swap(high, SeqCst) && high;
        if self.lint0_is_extint() {
            self.update();
        } else if rising {
            self.local_interrupt(Lvt::Lint0);
        }
    }

    /// A rising edge at LINT1, the NMI pin.
    pub(crate) fn pulse_lint1(&self) {
        if self.hardware_enabled() {
            self.local_interrupt(Lvt::Lint1);
        } else {
            self.raise_nmi();
        }
    }

    /// Posts an NMI. One that comes while one is pending is kept, unless NMIs are masked: then they are the same.
    fn raise_nmi(&self) {
        while !self.acceptance.raise(Pending::NMI, self) {
            // One is pending; by the second look it may have been taken.
            if !self.nmi_masked.load(SeqCst) {
                self.second_nmi.store(true, SeqCst);
                if !self.acceptance.pending().contains(Pending::NMI) {
                    self.raise_second_nmi();
                }
                return;
            }
            if self.acceptance.pending().contains(Pending::NMI) {
                return;
            }
        }
    }

    fn raise_second_nmi(&self) {
        if self.second_nmi.swap(false, SeqCst) {
            self.raise(Pending::NMI);
        }
    }

    /// Whether a physical destination names this APIC. Section 11.6.2.1.
    pub(crate) fn matches_physical(&self, destination: u32) -> bool {
        let id = if self.x2apic() { self.id } else { self.xapic_id.load(SeqCst) };
        self.hardware_enabled() && id == destination
    }

    /// Whether a logical destination names this APIC. Section 11.6.2.2; x2APIC: 11.12.10.
    pub(crate) fn matches_logical(&self, destination: u32) -> bool {
        if self.x2apic() {
            let ldr = x2apic_ldr(self.id);
            return ldr >> 16 == destination >> 16 && ldr & destination & 0xFFFF != 0;
        }
        let ldr = self.ldr.load(SeqCst) >> 24;
        if !self.hardware_enabled() || destination > 0xFF {
            return false;
        }
        match self.dfr.load(SeqCst) >> 28 {
            0xF => ldr & destination != 0,
            0 => ldr >> 4 == destination >> 4 && ldr & destination & 0xF != 0,
            _ => false,
        }
    }

    /// The priority by which lowest-priority delivery chooses, or `None` when this APIC takes no such interrupts.
    pub(crate) fn arbitration_priority(&self) -> Option<u8> {
        self.software_enabled().then(|| self.acceptance.ppr() >> 4)
    }

    /// Ends the highest interrupt in service. Section 11.8.5.
    fn eoi(&self, irqchip: &Irqchip) {
        let Some((vector, level)) = self.acceptance.end() else { return };
        if level && self.svr.load(SeqCst) & SVR_SUPPRESS_EOI == 0 {
            irqchip.end_of_interrupt(vector);
        }
        self.priority_changed();
    }

    /// Sends an interprocessor interrupt. Section 11.6.1.
    fn send_ipi(&self, irqchip: &Irqchip, icr: u64) {
        let low = icr as u32;
        let vector = low as u8;
        let level = low & 1 << 15 != 0;
        let Some(delivery) = Delivery::from_bits(low >> 8) else { return };
        match delivery {
            // INIT level de-assert concerns arbitration IDs alone.
            Delivery::Init if level && low & 1 << 14 == 0 => return,
            Delivery::ExtInt => return,
            Delivery::Fixed | Delivery::LowestPriority if vector < 16 => {
                self.error(ESR_SEND_ILLEGAL_VECTOR);
                return;
            }
            _ => {}
        }
        let to_all = match low >> 18 & 3 {
            1 => {
                if matches!(delivery, Delivery::Fixed) {
                    self.accept(delivery, vector, false);
                }
                return;
            }
            2 => Some(None),
            3 => Some(Some(self.id)),
            _ => None,
        };
        if let Some(except) = to_all {
            irqchip.broadcast(delivery, vector, except);
            return;
        }
        let (destination, broadcast) =
            if self.x2apic() { ((icr >> 32) as u32, u32::MAX) } else { ((icr >> 56) as u32, 0xFF) };
        let logical = low & 1 << 11 != 0;
        if destination == broadcast {
            irqchip.broadcast(delivery, vector, None);
        } else {
            irqchip.deliver(Message { destination, logical, delivery, vector, level: false });
        }
    }
}

impl Pins for Lapic {
    fn external(&self) -> bool {
        self.extint.load(SeqCst) || (self.lint0.load(SeqCst) && self.lint0_is_extint())
    }

    fn interrupt(&self) {
        if let Some(kick) = self.kick.get() {
            kick.interrupt();
        }
    }
}

/// The logical ID of x2APIC mode: cluster in the high, one bit in the low half. Section 11.12.10.2.
fn x2apic_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

/// A local APIC together with the machine it sends to: what an accelerator holds.
pub(crate) struct LapicHandle {
    pub(crate) lapic: Arc<Lapic>,
    pub(crate) irqchip: Arc<Irqchip>,
}

impl LocalApic for LapicHandle {
    fn attach(&self, kick: Arc<dyn Kick>) {
        // Called once by contract; a second processor for the same APIC would be a mistake of the machine.
        let _ = self.lapic.kick.set(kick);
        if !self.pending().is_empty()
            && let Some(kick) = self.lapic.kick.get()
        {
            kick.interrupt();
        }
    }

    fn pending(&self) -> Pending {
        self.lapic.acceptance.pending()
    }

    fn acknowledge(&self) -> Option<u8> {
        let lapic = &self.lapic;
        if lapic.external() {
            let latched = lapic.extint.swap(false, SeqCst);
            let vector = self.irqchip.acknowledge_pic(latched);
            lapic.update();
            if vector.is_some() {
                return vector;
            }
        }
        lapic.acceptance.acknowledge(&**lapic)
    }

    fn take_nmi(&self) -> bool {
        let taken = self.lapic.acceptance.take(Pending::NMI);
        if taken {
            self.lapic.nmi_masked.store(true, SeqCst);
            self.lapic.raise_second_nmi();
        }
        taken
    }

    fn drive_ferr(&self, asserted: bool) -> bool {
        self.irqchip.coprocessor_error().drive_ferr(&self.irqchip, asserted)
    }

    fn unmask_nmi(&self) {
        self.lapic.nmi_masked.store(false, SeqCst);
    }

    fn take_init(&self) -> bool {
        self.lapic.acceptance.take(Pending::INIT)
    }

    fn take_sipi(&self) -> Option<u8> {
        self.lapic.acceptance.take(Pending::SIPI).then(|| self.lapic.sipi_vector.load(SeqCst))
    }

    fn reset(&self) {
        self.lapic.acceptance.take(Pending::NMI | Pending::SMI);
        self.lapic.second_nmi.store(false, SeqCst);
        self.lapic.nmi_masked.store(false, SeqCst);
        self.lapic.reset_registers();
    }

    fn mmio_read(&self, offset: u16, data: &mut [u8]) {
        self.lapic.mmio_read(offset, data);
    }

    fn mmio_write(&self, offset: u16, data: &[u8]) {
        self.lapic.mmio_write(&self.irqchip, offset, data);
    }

    fn read_msr(&self, msr: u32) -> Option<u64> {
        self.lapic.read_msr(msr)
    }

    fn write_msr(&self, msr: u32, value: u64) -> bool {
        self.lapic.write_msr(&self.irqchip, msr, value)
    }

    fn base(&self) -> Option<u64> {
        let base = self.lapic.base.load(SeqCst);
        (base & (BASE_EN | BASE_EXTD) == BASE_EN).then_some(base & !0xFFF)
    }

    fn tpr(&self) -> u8 {
        self.lapic.acceptance.tpr() >> 4
    }

    fn set_tpr(&self, value: u8) {
        self.lapic.set_tpr((value & 15) << 4);
    }

    fn save(&self) -> Box<[u8; 1024]> {
        self.lapic.save()
    }

    fn load(&self, registers: &[u8; 1024], apic_base: u64, tsc_deadline: u64) {
        self.lapic.load(registers, apic_base, tsc_deadline);
    }

    fn set_tsc(&self, tsc: Tsc) {
        self.lapic.set_tsc(tsc);
    }
}

impl Message {
    /// The message that an MSI write stands for, or `None` when it is none. Section 11.11.
    pub(crate) fn from_msi(msi: Msi) -> Option<Message> {
        if msi.address >> 20 != LAPIC_ADDRESS >> 20 {
            return None;
        }
        let destination = (msi.address >> 12) as u32 & 0xFF;
        let logical = msi.address & 4 != 0;
        let mut delivery = Delivery::from_bits(msi.data >> 8)?;
        // The redirection hint makes one processor out of a group.
        if delivery == Delivery::Fixed && logical && msi.address & 8 != 0 {
            delivery = Delivery::LowestPriority;
        }
        Some(Message { destination, logical, delivery, vector: msi.data as u8, level: false })
    }
}
