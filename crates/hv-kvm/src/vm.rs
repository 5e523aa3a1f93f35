//! The virtual machine: the in-kernel interrupt controllers and the file descriptors that stand for
//! interrupts and register writes.

use crate::cpuid;
use crate::ioctls::{self, Assign};
use crate::probe;
use crate::slots::Slots;
use crate::vcpu::KvmVcpu;
use crate::watchdog::Watchdog;
use hv::{Bus, CpuModel, Error, GuestMemory, Interrupts, IoAddress, LocalApic, Msi, Vcpu, Vm};
use kvm_bindings::{
    CpuId, KVM_CAP_X2APIC_API, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_SPEAKER_DUMMY,
    KVM_X2APIC_API_USE_32BIT_IDS, KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_irqchip, kvm_msi, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A page of page tables that KVM on old Intel processors needs inside the guest's address space, and behind it the
/// three pages of a task state segment for the same purpose. Below the local APICs, where no RAM or firmware lies.
pub(crate) const IDENTITY_MAP: u64 = 0xFEFF_C000;
const TSS: u64 = IDENTITY_MAP + hv::PAGE_SIZE;
pub(crate) const RESERVED_END: u64 = TSS + 3 * hv::PAGE_SIZE;

/// Pins of the IOAPIC; the global system interrupts from here on are message-signalled.
const IOAPIC_PINS: u32 = 24;

/// Memory type ranges: variable, fixed, default. KVM keeps them but does not list them.
const MTRRS: [std::ops::RangeInclusive<u32>; 5] =
    [0x200..=0x20F, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26F, 0x2FF..=0x2FF];

/// `map_err` for a failed call.
pub(crate) fn failed<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Os { action, source: error.into() }
}

/// One virtual machine of `/dev/kvm`.
///
/// PIC, IOAPIC, local APICs and PIT (ports 0x40..=0x43 and 0x61) are the kernel's and never reach the bus. The PIT and
/// GSI 0 drive pin 0 of the PIC and pin 2 of the IOAPIC, as PCs are wired; ACPI's MADT has to say so.
pub struct KvmVm {
    fd: Arc<VmFd>,
    memory: Arc<GuestMemory>,
    slots: Arc<Slots>,
    bus: Arc<dyn Bus>,
    cpus: u32,
    cpuid: CpuId,
    msr_indices: Arc<[u32]>,
    interrupts: Arc<KernelInterrupts>,
    power_on: Chips,
    routes: Mutex<Routes>,
    emulating: bool,
}

impl KvmVm {
    /// Makes a virtual machine over `memory` for up to `cpus` processors that show themselves as `model`; accesses
    /// outside RAM go to `bus`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when KVM cannot be used, or cannot have so many processors or such ones; [`Error::Memory`] when a
    /// region lies at 0xFEFF_C000..0xFF00_0000, which KVM needs; [`Error::Os`] when a call fails.
    pub fn new(memory: Arc<GuestMemory>, bus: Arc<dyn Bus>, cpus: u32, model: CpuModel) -> Result<Arc<KvmVm>, Error> {
        let kvm = probe::open()?;
        let most = kvm.get_max_vcpus();
        if cpus == 0 || cpus as usize > most {
            return Err(Error::Unavailable(format!(
                "KVM cannot make a machine with {cpus} processors: choose 1 to {most}"
            )));
        }
        let fd = probe::create_vm(&kvm)?;
        make_interrupt_controllers(&fd)?;
        let fd = Arc::new(fd);
        let slots = Slots::new(&fd, &memory)?;
        let routes = Routes { msis: BTreeMap::new() };
        routes.install(&fd)?;
        Ok(Arc::new(KvmVm {
            interrupts: Arc::new(KernelInterrupts { fd: fd.clone() }),
            power_on: Chips::save(&fd)?,
            fd,
            memory,
            slots,
            bus,
            cpus,
            cpuid: cpuid::supported(&kvm, model)?,
            msr_indices: msr_indices(&kvm)?,
            routes: Mutex::new(routes),
            emulating: emulating(),
        }))
    }
}

/// Whether this host's KVM emulates, found out once.
fn emulating() -> bool {
    static EMULATING: OnceLock<bool> = OnceLock::new();
    *EMULATING.get_or_init(|| matches!(probe::probe().verdict, probe::Verdict::Emulating))
}

fn make_interrupt_controllers(vm: &VmFd) -> Result<(), Error> {
    vm.set_identity_map_address(IDENTITY_MAP).map_err(failed("set the identity map address"))?;
    vm.set_tss_address(TSS as usize).map_err(failed("set the TSS address"))?;
    // The register page of an APIC in x2APIC mode then holds the ID as the processor shows it, not shifted.
    let mut x2apic = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..Default::default() };
    x2apic.args[0] = u64::from(KVM_X2APIC_API_USE_32BIT_IDS);
    vm.enable_cap(&x2apic).map_err(failed("enable x2APIC identifiers"))?;
    vm.create_irq_chip().map_err(failed("create the interrupt controllers"))?;
    // The dummy speaker makes the kernel answer port 0x61, whose bits read and gate the PIT's channel 2.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(failed("create the interval timer"))
}

fn msr_indices(kvm: &Kvm) -> Result<Arc<[u32]>, Error> {
    let list = kvm.get_msr_index_list().map_err(failed("list the model-specific registers"))?;
    let mut indices = list.as_slice().to_vec();
    if kvm.check_extension(Cap::TscDeadlineTimer) {
        indices.push(cpuid::IA32_TSC_DEADLINE);
    }
    indices.extend(MTRRS.into_iter().flatten());
    indices.sort_unstable();
    indices.dedup();
    Ok(indices.into())
}

impl Vm for KvmVm {
    fn accelerator(&self) -> &'static str {
        "kvm"
    }

    fn interrupts(&self) -> Option<Arc<dyn Interrupts>> {
        Some(self.interrupts.clone())
    }

    fn reset_interrupts(&self) -> Result<(), Error> {
        self.power_on.load(&self.fd)
    }

    fn create_vcpu(&self, id: u32, lapic: Option<Arc<dyn LocalApic>>) -> Result<Box<dyn Vcpu>, Error> {
        if lapic.is_some() {
            return Err(Error::Unavailable("KVM brings its own local APICs: none can be attached".into()));
        }
        if id >= self.cpus {
            let cpus = self.cpus;
            return Err(Error::Unavailable(format!("this machine has {cpus} processors: there is no number {id}")));
        }
        let fd = self.fd.create_vcpu(u64::from(id)).map_err(failed("create a virtual CPU"))?;
        let tsc_khz = fd.get_tsc_khz().map_err(failed("read the frequency of the time-stamp counter"))?;
        let cpuid = cpuid::of_vcpu(&self.cpuid, id, self.cpus, tsc_khz)?;
        fd.set_cpuid2(&cpuid).map_err(failed("set CPUID"))?;
        let watchdog = self.emulating.then(Watchdog::default);
        let msr_indices = self.msr_indices.clone();
        Ok(Box::new(KvmVcpu::new(
            fd,
            self.memory.clone(),
            self.slots.clone(),
            self.bus.clone(),
            msr_indices,
            watchdog,
        )?))
    }

    fn register_ioeventfd(&self, address: IoAddress, size: u8, eventfd: RawFd) -> Result<bool, Error> {
        ioctls::ioeventfd(&self.fd, address, size, eventfd, Assign::Yes)
            .map_err(failed("attach an eventfd to a register"))?;
        Ok(true)
    }

    fn unregister_ioeventfd(&self, address: IoAddress, size: u8, eventfd: RawFd) -> Result<(), Error> {
        ioctls::ioeventfd(&self.fd, address, size, eventfd, Assign::No)
            .map_err(failed("detach an eventfd from a register"))
    }

    fn register_irqfd(&self, eventfd: RawFd, msi: Msi) -> Result<bool, Error> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        // The number may be known from an eventfd that was closed since, so what is attached is always made anew.
        // A signal in between is not lost: the kernel looks at the eventfd's counter when it attaches it.
        if let Some(gsi) = routes.gsi_of(eventfd) {
            ioctls::irqfd(&self.fd, eventfd, gsi, Assign::No).map_err(failed("detach an eventfd from an interrupt"))?;
        }
        let Some(gsi) = routes.insert(eventfd, msi) else { return Ok(false) };
        routes.install(&self.fd)?;
        ioctls::irqfd(&self.fd, eventfd, gsi, Assign::Yes).map_err(failed("attach an eventfd to an interrupt"))?;
        Ok(true)
    }

    fn unregister_irqfd(&self, eventfd: RawFd) -> Result<(), Error> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gsi) = routes.gsi_of(eventfd) else { return Ok(()) };
        ioctls::irqfd(&self.fd, eventfd, gsi, Assign::No).map_err(failed("detach an eventfd from an interrupt"))?;
        routes.msis.remove(&gsi);
        routes.install(&self.fd)
    }
}

/// The kernel's interrupt controllers as devices see them.
struct KernelInterrupts {
    fd: Arc<VmFd>,
}

impl Interrupts for KernelInterrupts {
    fn set_line(&self, gsi: u32, high: bool) {
        if gsi < IOAPIC_PINS {
            // Fails only for GSI 2, the cascade, which has no route as nothing can drive it.
            let _ = self.fd.set_irq_line(gsi, high);
        }
    }

    fn signal_msi(&self, msi: Msi) {
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        // An address that names no local APIC is the guest's mistake; the message is lost, as on a PC.
        let _ = self.fd.signal_msi(message);
    }

    fn connect_pit(&self, connected: bool) {
        // The kernel has made the timer and takes back what it gave: neither call fails. Counter 0 begins anew.
        if let Ok(mut pit) = self.fd.get_pit2() {
            pit.flags &= !KVM_PIT_FLAGS_HPET_LEGACY;
            pit.flags |= if connected { 0 } else { KVM_PIT_FLAGS_HPET_LEGACY };
            let _ = self.fd.set_pit2(&pit);
        }
    }
}

/// The state of the interrupt controllers and the timer that belong to no vCPU.
struct Chips {
    /// Both PICs and the IOAPIC.
    irqchips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
}

impl Chips {
    fn save(vm: &VmFd) -> Result<Self, Error> {
        let mut irqchips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
            .map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut irqchips {
            vm.get_irqchip(chip).map_err(failed("read an interrupt controller"))?;
        }
        Ok(Chips { irqchips, pit: vm.get_pit2().map_err(failed("read the interval timer"))? })
    }

    fn load(&self, vm: &VmFd) -> Result<(), Error> {
        for chip in &self.irqchips {
            vm.set_irqchip(chip).map_err(failed("set an interrupt controller"))?;
        }
        vm.set_pit2(&self.pit).map_err(failed("set the interval timer"))
    }
}

/// What the global system interrupts mean: 0..24 the pins of PIC and IOAPIC, the others one message each.
struct Routes {
    /// By GSI: the eventfd and its message.
    msis: BTreeMap<u32, (RawFd, Msi)>,
}

impl Routes {
    fn gsi_of(&self, eventfd: RawFd) -> Option<u32> {
        self.msis.iter().find(|(_, (fd, _))| *fd == eventfd).map(|(gsi, _)| *gsi)
    }

    /// Gives `eventfd` its message and returns the GSI; `None` when the table is full.
    fn insert(&mut self, eventfd: RawFd, msi: Msi) -> Option<u32> {
        let room = IOAPIC_PINS..kvm_bindings::KVM_MAX_IRQ_ROUTES as u32 - pins().len() as u32;
        let gsi = self.gsi_of(eventfd).or_else(|| room.into_iter().find(|gsi| !self.msis.contains_key(gsi)))?;
        self.msis.insert(gsi, (eventfd, msi));
        Some(gsi)
    }

    fn install(&self, vm: &VmFd) -> Result<(), Error> {
        let mut entries = pins();
        entries.extend(self.msis.iter().map(|(gsi, (_, msi))| message(*gsi, *msi)));
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| Error::Unavailable("KVM has no room for so many interrupt routes".into()))?;
        vm.set_gsi_routing(&table).map_err(failed("set the interrupt routes"))
    }
}

fn pins() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::with_capacity(40);
    for gsi in 0..16 {
        match gsi {
            // The cascade between the two PICs is no interrupt source.
            2 => {}
            0..8 => entries.push(pin(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
            _ => entries.push(pin(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
        }
    }
    entries.push(pin(0, KVM_IRQCHIP_IOAPIC, 2));
    entries.extend((1..IOAPIC_PINS).filter(|gsi| *gsi != 2).map(|gsi| pin(gsi, KVM_IRQCHIP_IOAPIC, gsi)));
    entries
}

fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: msi.address as u32,
        address_hi: (msi.address >> 32) as u32,
        data: msi.data,
        ..Default::default()
    };
    entry
}
