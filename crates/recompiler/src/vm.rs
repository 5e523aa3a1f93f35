//! The virtual machine as an accelerator sees it.

use crate::instruments::Instruments;
use crate::smp::{CodePages, Inside, Mailbox, Shared};
use crate::state::Core;
use crate::tlb::Tlb;
use crate::vcpu::RecompilerVcpu;
use hv::{Bus, Error, GuestMemory, Interrupts, IoAddress, Kick, Layout, LocalApic, Msi, PageFlags, Tsc, Vcpu, Vm};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

impl CodePages for GuestMemory {
    fn holds_code(&self, page: u64) -> bool {
        self.page_flags(page).contains(PageFlags::CODE)
    }

    fn set(&self, page: u64) -> bool {
        self.set_page_flags(page, PageFlags::CODE).contains(PageFlags::CODE)
    }

    fn clear(&self, page: u64) {
        self.clear_page_flags(page, PageFlags::CODE);
    }
}

/// The part of a [`Core`] that the other vCPUs concern.
pub(crate) struct Party<'a> {
    id: u32,
    poll: &'a AtomicU32,
    tlb: &'a mut Tlb,
    layout: &'a mut Arc<Layout>,
    memory: &'a GuestMemory,
}

impl Inside for Party<'_> {
    fn id(&self) -> u32 {
        self.id
    }

    fn poll(&self) -> &AtomicU32 {
        self.poll
    }

    fn protect(&mut self, page: Option<u64>) {
        match page {
            Some(page) => self.tlb.protect(self.memory.base() as u64 + (page << 12)),
            None => {
                self.tlb.flush(false);
                *self.layout = self.memory.layout();
            }
        }
    }
}

impl Core {
    /// What the vCPUs share, the flags of pages, and this vCPU's part in it.
    pub(crate) fn smp(&mut self) -> (&Shared, &GuestMemory, Party<'_>) {
        let party =
            Party { id: self.id, poll: &self.poll, tlb: &mut self.tlb, layout: &mut self.layout, memory: &self.memory };
        (&self.shared, &self.memory, party)
    }

    /// Runs `f`, which has no use for the processor, with this vCPU outside of guest code.
    pub(crate) fn outside<T>(&mut self, f: impl FnOnce(&Core) -> T) -> T {
        self.shared.mailbox(self.id).leave();
        let result = f(self);
        let (shared, _, mut party) = self.smp();
        shared.come_back(&mut party);
        result
    }
}

/// Drops translations of code that devices overwrite, and all where memory answers elsewhere.
struct Watcher(Arc<Shared>);

impl hv::MemoryWatcher for Watcher {
    fn code_written(&self, offset: u64, size: u64) {
        self.0.written_by_device(offset, size);
    }

    fn layout_changed(&self, _layout: &Arc<Layout>) -> Result<(), Error> {
        self.0.forget_everything();
        Ok(())
    }
}

/// Stops and wakes a vCPU from other threads.
struct Kicker(Arc<Mailbox>);

impl Kick for Kicker {
    fn kick(&self) {
        self.0.kick();
    }

    fn interrupt(&self) {
        self.0.interrupt();
    }
}

/// The handle that stops vCPU `id`.
pub(crate) fn kicker(shared: &Shared, id: u32) -> Arc<dyn Kick> {
    Arc::new(Kicker(shared.mailbox(id).clone()))
}

/// A virtual machine run by the recompiler.
pub struct RecompilerVm {
    memory: Arc<GuestMemory>,
    bus: Arc<dyn Bus>,
    shared: Arc<Shared>,
    cpus: u32,
    tsc: Tsc,
    model: Arc<crate::cpuid::CpuModel>,
    instruments: Arc<Instruments>,
}

impl RecompilerVm {
    /// Makes a VM of at most `cpus` vCPUs, which show themselves as `model` and tell `instruments` what they
    /// translate.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the host lacks something (SSE4.2, XSAVE, what the model promises) or the memory
    /// already belongs to a VM.
    pub fn new(
        memory: Arc<GuestMemory>,
        bus: Arc<dyn Bus>,
        cpus: u32,
        model: hv::CpuModel,
        instruments: Instruments,
    ) -> Result<Arc<Self>, Error> {
        let model = crate::cpuid::CpuModel::new(cpus, model)?;
        let pages = (memory.size() >> 12) as usize;
        let shared = Arc::new(Shared::new(cpus, pages));
        if !memory.set_watcher(Box::new(Watcher(shared.clone()))) {
            return Err(Error::Unavailable("the guest memory already belongs to a recompiler VM".into()));
        }
        Ok(Arc::new(RecompilerVm {
            memory,
            bus,
            shared,
            cpus,
            tsc: Tsc::starting_at(0),
            model: Arc::new(model),
            instruments: Arc::new(instruments),
        }))
    }
}

impl Vm for RecompilerVm {
    fn accelerator(&self) -> &'static str {
        "recompiler"
    }

    fn interrupts(&self) -> Option<Arc<dyn Interrupts>> {
        None
    }

    fn create_vcpu(&self, id: u32, lapic: Option<Arc<dyn LocalApic>>) -> Result<Box<dyn Vcpu>, Error> {
        if id >= self.cpus {
            return Err(Error::InvalidState(format!("vCPU {id} of a machine with {}", self.cpus)));
        }
        let kick = kicker(&self.shared, id);
        if let Some(lapic) = &lapic {
            lapic.set_tsc(self.tsc);
            lapic.attach(kick.clone());
        }
        let core = crate::state::Core::new(
            id,
            self.memory.clone(),
            self.bus.clone(),
            lapic,
            self.shared.clone(),
            self.model.clone(),
            self.tsc,
        );
        let mut vcpu = RecompilerVcpu::new(core, kick)?;
        vcpu.set_instruments(self.instruments.clone());
        Ok(Box::new(vcpu))
    }

    fn listings(&self) -> String {
        self.instruments.listings()
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
