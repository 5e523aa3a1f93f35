//! Guest memory as KVM sees it: a slot for each region.

use crate::vm::{IDENTITY_MAP, RESERVED_END, failed};
use hv::{Error, GuestMemory, Layout, MemoryWatcher, Region};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The slots of one virtual machine, which follow the layout of its memory.
///
/// KVM takes one slot at a time, so between two of them other vCPUs find no memory where some is only exchanged: reads
/// give all ones. Firmware changes the layout while the other processors wait to be started.
pub(crate) struct Slots {
    vm: Arc<VmFd>,
    /// Host address of the backing memory.
    base: u64,
    /// By guest physical address: the slot's number and what it maps.
    mapped: Mutex<BTreeMap<u64, (u32, Region)>>,
    failure: OnceLock<String>,
}

impl Slots {
    /// Maps all of `memory`, which must outlive the machine's vCPUs, and follows its changes.
    ///
    /// # Errors
    /// [`Error::Memory`] when a region lies at 0xFEFF_C000..0xFF00_0000, which KVM needs; [`Error::Os`] when KVM refuses;
    /// [`Error::Unavailable`] when the memory already belongs to a VM.
    pub fn new(vm: &Arc<VmFd>, memory: &GuestMemory) -> Result<Arc<Self>, Error> {
        let slots = Arc::new(Slots {
            vm: vm.clone(),
            base: memory.base() as u64,
            mapped: Mutex::default(),
            failure: OnceLock::new(),
        });
        slots.follow(&memory.layout())?;
        if !memory.set_watcher(Box::new(Follower(slots.clone()))) {
            return Err(Error::Unavailable("the guest memory already belongs to a virtual machine".into()));
        }
        Ok(slots)
    }

    /// Why the guest cannot go on: KVM did not take a change of its memory.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn follow(&self, layout: &Layout) -> Result<(), Error> {
        if layout
            .regions()
            .iter()
            .any(|region| region.address < RESERVED_END && region.address + region.size > IDENTITY_MAP)
        {
            let what = format!("{IDENTITY_MAP:#x}..{RESERVED_END:#x} is KVM's own, no memory may lie there");
            return Err(Error::Memory(hv::MemoryError::Layout(what)));
        }
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = |region: &Region| layout.regions().contains(region);
        let gone: Vec<u64> =
            mapped.values().filter(|(_, region)| !stays(region)).map(|(_, region)| region.address).collect();
        for address in gone {
            if let Some((slot, region)) = mapped.remove(&address) {
                self.set(slot, Region { size: 0, ..region })?;
            }
        }
        for region in layout.regions() {
            if !mapped.contains_key(&region.address) {
                let used: Vec<u32> = mapped.values().map(|(slot, _)| *slot).collect();
                let slot = (0..).find(|slot| !used.contains(slot)).unwrap_or(u32::MAX);
                self.set(slot, *region)?;
                mapped.insert(region.address, (slot, *region));
            }
        }
        Ok(())
    }

    /// Sets a slot; one of no bytes is taken away.
    fn set(&self, slot: u32, region: Region) -> Result<(), Error> {
        let request = kvm_userspace_memory_region {
            slot,
            flags: if region.readonly { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: region.address,
            memory_size: region.size,
            userspace_addr: self.base + region.offset,
        };
        // SAFETY: the range lies in the mapping of the memory, which lives as long as any vCPU: each holds a reference.
        // Guest writes race with ours, which `GuestMemory` is made for.
        unsafe { self.vm.set_user_memory_region(request) }.map_err(failed("map guest memory into the virtual machine"))
    }
}

/// Owned by the memory.
struct Follower(Arc<Slots>);

impl MemoryWatcher for Follower {
    fn layout_changed(&self, layout: &Arc<Layout>) -> Result<(), Error> {
        self.0.follow(layout).inspect_err(|error| _ = self.0.failure.set(error.to_string()))
    }
}
