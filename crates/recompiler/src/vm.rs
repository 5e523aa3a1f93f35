//! The virtual machine as an accelerator sees it, and what its vCPUs share: who holds translations of which code.
//!
//! # The invalidation protocol
//! Every vCPU translates for itself. A page of RAM that any vCPU has translated code from carries
//! [`hv::PageFlags::CODE`], which keeps it out of every vCPU's write TLB; per vCPU and page, 64 *granule* bits say
//! which 64-byte pieces hold translated code. A store that misses the write TLB looks at the granules: data beside code is
//! stored without further ado; behind a store into a granule with code, before the next instruction, every vCPU that has
//! code there drops it. (Before the store would be too early: a vCPU could translate the old bytes again.) The storing
//! vCPU posts the request, and waits until the other one has taken it or is *outside* of guest code (halted, in a
//! device, waiting itself): whoever is outside takes its requests before it runs translated code again.

use crate::vcpu::RecompilerVcpu;
use hv::{Bus, Error, GuestMemory, Interrupts, IoAddress, Kick, LocalApic, Msi, PageFlags, Tsc, Vcpu, Vm};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// The poll word of a vCPU that nobody wants anything of. Translated code tests the word with JRCXZ, which takes no
/// flags and, when nothing is wanted, no branch.
pub const QUIET: u32 = 1;

/// The poll word of a vCPU that is to look at its mailbox, its APIC and its state.
pub const WANTED: u32 = 0;

/// What one vCPU or device asks of another vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Drop translations of code in these bytes of the RAM file.
    Invalidate {
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Stop writing to this page of the RAM file by way of the TLB.
    Protect {
        /// Page number in the RAM file.
        page: u64,
    },
}

/// What a vCPU has to look at when it leaves translated code.
#[derive(Default)]
struct Inbox {
    requests: Vec<Request>,
    kicked: bool,
    outside: bool,
    /// The vCPU's poll word, while the vCPU lives.
    poll: Option<PollWord>,
}

/// Points at `Core::poll` of a living vCPU; taken out of the inbox before the core is dropped.
struct PollWord(*const AtomicU32);

// SAFETY: the word is an atomic; the pointer is valid while it is in the inbox (see `Mailbox::detach`).
unsafe impl Send for PollWord {}

/// How others reach a vCPU.
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    changed: Condvar,
    /// Per page of the RAM file: which 64-byte granules hold code this vCPU has translated.
    granules: Box<[AtomicU64]>,
}

impl Mailbox {
    fn new(pages: usize) -> Self {
        let zeroed = vec![0u64; pages].into_boxed_slice();
        // SAFETY: AtomicU64 has the size, alignment and bit validity of u64. The zeroed allocation stays untouched, so
        // that it takes memory only where code was translated.
        let granules = unsafe { Box::from_raw(Box::into_raw(zeroed) as *mut [AtomicU64]) };
        let inbox = Inbox { outside: true, ..Inbox::default() };
        Mailbox { inbox: Mutex::new(inbox), changed: Condvar::new(), granules }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn raise(inbox: &Inbox) {
        if let Some(poll) = &inbox.poll {
            // SAFETY: the word lives while it is registered.
            unsafe { &*poll.0 }.store(WANTED, Ordering::SeqCst);
        }
    }

    /// Registers the poll word of a vCPU, which must call [`Self::detach`] before the word goes away.
    pub(crate) fn attach(&self, poll: *const AtomicU32) {
        self.lock().poll = Some(PollWord(poll));
    }

    /// Forgets the poll word.
    pub(crate) fn detach(&self) {
        let mut inbox = self.lock();
        inbox.poll = None;
        inbox.outside = true;
        self.changed.notify_all();
    }

    /// Takes all requests and whether a kick came, and marks the vCPU inside.
    pub(crate) fn enter(&self) -> (Vec<Request>, bool) {
        let mut inbox = self.lock();
        inbox.outside = false;
        let taken = (std::mem::take(&mut inbox.requests), std::mem::take(&mut inbox.kicked));
        self.changed.notify_all();
        taken
    }

    /// Marks the vCPU outside of guest code.
    pub(crate) fn leave(&self) {
        self.lock().outside = true;
        self.changed.notify_all();
    }

    /// Sleeps until the poll word is set.
    pub(crate) fn sleep(&self, poll: &AtomicU32) {
        let mut inbox = self.lock();
        inbox.outside = true;
        self.changed.notify_all();
        while poll.load(Ordering::SeqCst) != WANTED {
            inbox = self.changed.wait(inbox).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn post(&self, request: Request) {
        let mut inbox = self.lock();
        inbox.requests.push(request);
        Self::raise(&inbox);
        self.changed.notify_all();
    }

    fn wait_taken(&self) {
        let mut inbox = self.lock();
        while !(inbox.outside || inbox.requests.is_empty()) {
            inbox = self.changed.wait(inbox).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

/// What the vCPUs of one VM share.
pub struct Shared {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Orders the first translation of a page against the discovery that it holds no code any more.
    code: Mutex<()>,
    /// Held around a locked access that the host cannot do in one piece.
    pub split_lock: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(cpus: u32, pages: usize) -> Self {
        let mailboxes = (0..cpus).map(|_| Arc::new(Mailbox::new(pages))).collect();
        Shared { mailboxes, code: Mutex::new(()), split_lock: Mutex::new(()) }
    }

    /// The mailbox of a vCPU.
    pub(crate) fn mailbox(&self, id: u32) -> &Arc<Mailbox> {
        &self.mailboxes[id as usize]
    }

    fn code_lock(&self) -> MutexGuard<'_, ()> {
        self.code.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs `f` with vCPU `id` outside of guest code, so that nobody waits for it meanwhile.
    pub(crate) fn outside<T>(&self, id: u32, f: impl FnOnce() -> T) -> T {
        let mailbox = self.mailbox(id);
        mailbox.leave();
        let result = f();
        let mut inbox = mailbox.lock();
        inbox.outside = false;
        if !inbox.requests.is_empty() || inbox.kicked {
            Mailbox::raise(&inbox);
        }
        result
    }

    /// Bits of the granules that `offset..offset + size` touches within its page.
    fn granule_mask(offset: u64, size: u64) -> u64 {
        let first = (offset & 0xFFF) >> 6;
        let last = ((offset & 0xFFF) + size.max(1) - 1).min(0xFFF) >> 6;
        (u64::MAX >> (63 - last)) & (u64::MAX << first)
    }

    /// vCPU `id` has stored to `offset..offset + size` of the RAM file, within one page with the CODE flag. When this returns,
    /// every vCPU has dropped what it translated from the old bytes, or will before it runs translated code again.
    pub(crate) fn code_written_by_vcpu(&self, id: u32, offset: u64, size: u64) {
        let mask = Self::granule_mask(offset, size);
        let page = (offset >> 12) as usize;
        let request = Request::Invalidate { offset, size };
        let hit = |mailbox: &Mailbox| mailbox.granules[page].load(Ordering::SeqCst) & mask != 0;
        let mut waiting = Vec::new();
        for (other, mailbox) in self.mailboxes.iter().enumerate() {
            if hit(mailbox) {
                mailbox.post(request);
                if other != id as usize {
                    waiting.push(mailbox);
                }
            }
        }
        if !waiting.is_empty() {
            self.outside(id, || waiting.iter().for_each(|mailbox| mailbox.wait_taken()));
        }
    }

    /// Whether any vCPU has translated code from `offset..offset + size` of the RAM file, within one page.
    pub(crate) fn holds_code(&self, offset: u64, size: u64) -> bool {
        let mask = Self::granule_mask(offset, size);
        self.mailboxes
            .iter()
            .any(|mailbox| mailbox.granules[(offset >> 12) as usize].load(Ordering::SeqCst) & mask != 0)
    }

    /// Whether a page of the RAM file holds no translated code, so that the TLB of vCPU `id` may let writes through. Clears
    /// a stale CODE flag.
    pub(crate) fn page_free_of_code(&self, id: u32, memory: &GuestMemory, page: u64) -> bool {
        if !memory.page_flags(page).contains(PageFlags::CODE) {
            return true;
        }
        let _guard = self.outside(id, || self.code_lock());
        let used = self.mailboxes.iter().any(|mailbox| mailbox.granules[page as usize].load(Ordering::SeqCst) != 0);
        if !used {
            memory.clear_page_flags(page, PageFlags::CODE);
        }
        !used
    }

    /// vCPU `id` is about to translate code from `offset..offset + size`, within one page: from here on every store
    /// there is noticed. The caller protects its own TLB when this returns true.
    pub(crate) fn register_code(&self, id: u32, memory: &GuestMemory, offset: u64, size: u64) -> bool {
        let page = offset >> 12;
        // The lock is held until every other vCPU has taken the request: whoever finds the flag set can rely on it.
        let _guard = self.outside(id, || self.code_lock());
        self.mailbox(id).granules[page as usize].fetch_or(Self::granule_mask(offset, size), Ordering::SeqCst);
        if memory.set_page_flags(page, PageFlags::CODE).contains(PageFlags::CODE) {
            return false;
        }
        let others = || self.mailboxes.iter().enumerate().filter(|(other, _)| *other != id as usize);
        for (_, mailbox) in others() {
            mailbox.post(Request::Protect { page });
        }
        self.outside(id, || others().for_each(|(_, mailbox)| mailbox.wait_taken()));
        true
    }

    /// Replaces the granules of a page that vCPU `id` has code in, after it dropped some.
    pub(crate) fn set_granules(&self, id: u32, page: u64, mask: u64) {
        self.mailbox(id).granules[page as usize].store(mask, Ordering::SeqCst);
    }

    /// The granule bits that `offset..offset + size` covers, for [`Self::set_granules`].
    pub(crate) fn granules_of(offset: u64, size: u64) -> u64 {
        Self::granule_mask(offset, size)
    }
}

/// Drops translations of code that devices overwrite.
struct Watcher(Arc<Shared>);

impl hv::CodeWatcher for Watcher {
    fn code_written(&self, offset: u64, size: u64) {
        // Post, and wait for those that run.
        let end = offset + size;
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(4096 - (at & 0xFFF));
            for mailbox in &self.0.mailboxes {
                if mailbox.granules[(at >> 12) as usize].load(Ordering::SeqCst) & Shared::granule_mask(at, piece) != 0 {
                    mailbox.post(Request::Invalidate { offset: at, size: piece });
                }
            }
            at += piece;
        }
        // A device called from a vCPU's thread finds that vCPU outside and does not wait for it.
        self.0.mailboxes.iter().for_each(|mailbox| mailbox.wait_taken());
    }
}

/// Stops and wakes a vCPU from other threads.
struct Kicker(Arc<Mailbox>);

impl Kick for Kicker {
    fn kick(&self) {
        let mut inbox = self.0.lock();
        inbox.kicked = true;
        Mailbox::raise(&inbox);
        self.0.changed.notify_all();
    }

    fn interrupt(&self) {
        let inbox = self.0.lock();
        Mailbox::raise(&inbox);
        self.0.changed.notify_all();
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
}

impl RecompilerVm {
    /// Makes a VM of at most `cpus` vCPUs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the host lacks something (SSE4.2, XSAVE) or the memory already belongs to a VM.
    pub fn new(memory: Arc<GuestMemory>, bus: Arc<dyn Bus>, cpus: u32) -> Result<Arc<Self>, Error> {
        let model = crate::cpuid::CpuModel::host(cpus)?;
        let pages = (memory.size() >> 12) as usize;
        let shared = Arc::new(Shared::new(cpus, pages));
        if !memory.set_code_watcher(Box::new(Watcher(shared.clone()))) {
            return Err(Error::Unavailable("the guest memory already belongs to a recompiler VM".into()));
        }
        Ok(Arc::new(RecompilerVm { memory, bus, shared, cpus, tsc: Tsc::starting_at(0), model: Arc::new(model) }))
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
        Ok(Box::new(RecompilerVcpu::new(core, kick)?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granule_mask_covers_exactly_the_touched_pieces() {
        assert_eq!(Shared::granule_mask(0, 1), 1);
        assert_eq!(Shared::granule_mask(63, 2), 0b11);
        assert_eq!(Shared::granule_mask(0x1FC0, 64), 1 << 63);
        assert_eq!(Shared::granule_mask(0x1000, 4096), u64::MAX);
    }
}
