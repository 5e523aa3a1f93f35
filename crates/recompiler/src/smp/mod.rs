//! What the vCPUs of a machine have to agree on: who holds translations of which code, and who stands still when.
//!
//! # Inside and outside
//! A vCPU is *inside* while it runs guest code or touches guest memory for it, and *outside* while it halts, is in a device,
//! waits for a lock, or is not run at all. Others ask things of it by [`Request`]s in its [`Mailbox`], and wait until it
//! has taken them or is outside: whoever comes from outside looks into the mailbox first. A vCPU that waits is outside
//! itself, so nobody waits in a circle.
//!
//! # Code
//! Every vCPU translates for itself. A page of RAM that any vCPU has code of carries a flag, which keeps the page out of
//! every vCPU's write TLB; per vCPU and page, 64 *granule* bits say which 64-byte pieces hold code. A store that
//! misses the write TLB looks at the granules: data beside code is stored without further ado; behind a store into a
//! granule with code, before the next instruction, every vCPU that has code there drops it. (Before the store would be too
//! early: a vCPU could translate the old bytes again.)
//!
//! What must never happen: a store and a translation of the old bytes that miss each other, since then the old
//! translation would stay. Whoever translates sets its granules, then the flag, and then compares the bytes with what it
//! decoded. Against it stand
//! - *a store through the write TLB*, by a vCPU that has not seen the flag. Whoever sets the flag first asks every
//!   vCPU to drop the page from its write TLB, and waits. A vCPU takes the request behind its store, or is outside, and
//!   then does what was asked before its next store.
//! - *a store that looks at granules afterwards* ([`Shared::stored`]): the store, a fence, the granules, against the
//!   granules, a locked instruction being a fence, the bytes. One of the two sees the other.
//! - *a store beside code by translated code* ([`Shared::may_store_beside`]), which looks at the granules before, since
//!   nothing runs behind it. It announces the page first. Whoever has set granules and finds its page announced waits, as
//!   above, until that vCPU has come by.
//! - *a device's store* ([`hv::GuestMemory::written`]): a fence, then the flag and the granules.
//!
//! # Standing still
//! [`Shared::exclusive`] has all other vCPUs stay outside while something happens that no other vCPU may see half of: a
//! locked access across cache lines, which must not reach the host's bus.
//!
//! Lock order: `exclusive`, `code`, an inbox.

mod mailbox;

use super::sync::{Arc, AtomicU32, Mutex, Ordering, fence};
pub use mailbox::{Mailbox, QUIET, Request, WANTED};

/// The flags of the pages of RAM that hold code.
pub trait CodePages {
    /// Whether the flag of a page of the RAM file is set.
    fn holds_code(&self, page: u64) -> bool;
    /// Sets it and tells whether it was set before.
    fn set(&self, page: u64) -> bool;
    /// Clears it.
    fn clear(&self, page: u64);
}

/// A vCPU that is inside, and calls.
pub trait Inside {
    /// Its number.
    fn id(&self) -> u32;
    /// Its poll word.
    fn poll(&self) -> &AtomicU32;
    /// Makes stores to a page of the RAM file miss its TLB. With `None` all accesses miss it, and memory answers as it does now.
    fn protect(&mut self, page: Option<u64>);
}

/// What the vCPUs of one VM share.
pub struct Shared {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Orders the first translation of a page against the discovery that it holds no code any more.
    code: Mutex<()>,
    /// Held by the vCPU for which the others stand still.
    exclusive: Mutex<()>,
}

/// Bits of the granules that `offset..offset + size` touches within its page.
pub(crate) fn granules_of(offset: u64, size: u64) -> u64 {
    let first = (offset & 0xFFF) >> 6;
    let last = ((offset & 0xFFF) + size.max(1) - 1).min(0xFFF) >> 6;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

impl Shared {
    /// For `cpus` vCPUs and a RAM file of `pages` pages.
    pub(crate) fn new(cpus: u32, pages: usize) -> Self {
        let mailboxes = (0..cpus).map(|_| Arc::new(Mailbox::new(pages))).collect();
        Shared { mailboxes, code: Mutex::new(()), exclusive: Mutex::new(()) }
    }

    /// The mailbox of a vCPU.
    pub(crate) fn mailbox(&self, id: u32) -> &Arc<Mailbox> {
        &self.mailboxes[id as usize]
    }

    fn others(&self, id: u32) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.mailboxes.iter().enumerate().filter(move |(other, _)| *other != id as usize).map(|(_, mailbox)| mailbox)
    }

    /// Runs `f` with the vCPU outside, so that nobody waits for it meanwhile.
    fn outside<T>(&self, vcpu: &mut impl Inside, f: impl FnOnce() -> T) -> T {
        self.mailbox(vcpu.id()).leave();
        let result = f();
        self.come_back(vcpu);
        result
    }

    /// The vCPU, having left its mailbox in the middle of an instruction, goes on.
    #[inline]
    pub(crate) fn come_back(&self, vcpu: &mut impl Inside) {
        if let Some(now) = self.mailbox(vcpu.id()).come_back() {
            Self::heed(vcpu, now);
        }
    }

    #[cold]
    fn heed(vcpu: &mut impl Inside, now: Vec<Request>) {
        vcpu.poll().store(WANTED, Ordering::SeqCst);
        for request in now {
            match request {
                Request::Protect { page } => vcpu.protect(Some(page)),
                Request::Everything => vcpu.protect(None),
                Request::Invalidate { .. } => {}
            }
        }
    }

    /// Whether any vCPU has translated code from `offset..offset + size` of the RAM file, within one page.
    pub(crate) fn hit(&self, offset: u64, size: u64) -> bool {
        let (page, mask) = ((offset >> 12) as usize, granules_of(offset, size));
        self.mailboxes.iter().any(|mailbox| mailbox.granules[page].load(Ordering::SeqCst) & mask != 0)
    }

    /// The vCPU has stored to `offset..offset + size` of the RAM file, within one page, by a path that the TLB did not
    /// clear. When this returns, every vCPU has dropped what it translated from the old bytes, or will before it runs
    /// translated code again.
    pub(crate) fn stored(&self, vcpu: &mut impl Inside, pages: &impl CodePages, offset: u64, size: u64) {
        // Whoever sets the flag later waits for this vCPU before it reads the bytes.
        if !pages.holds_code(offset >> 12) {
            return;
        }
        fence(Ordering::SeqCst);
        let asked = self.ask_to_drop(offset, size);
        let id = vcpu.id() as usize;
        if asked.iter().any(|&(other, _)| other != id) {
            self.outside(vcpu, || self.wait_for(asked.into_iter().filter(|&(other, _)| other != id)));
        }
    }

    /// Something other than a vCPU has changed `offset..offset + size` of the RAM file, and found behind a fence that it
    /// lies in pages with the flag. As [`Self::stored`].
    pub(crate) fn written_by_device(&self, offset: u64, size: u64) {
        let end = offset + size;
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(4096 - (at & 0xFFF));
            // Called from a vCPU's thread, a device finds that vCPU outside and does not wait for it.
            self.wait_for(self.ask_to_drop(at, piece));
            at += piece;
        }
    }

    /// Something other than a vCPU that is inside has changed what memory answers where. When this returns no vCPU accesses
    /// memory as before.
    pub(crate) fn forget_everything(&self) {
        let asked: Vec<_> =
            self.mailboxes.iter().enumerate().map(|(id, mailbox)| (id, mailbox.post(Request::Everything))).collect();
        self.wait_for(asked);
    }

    /// Asks all that have code there to drop it: their numbers, and the requests'.
    fn ask_to_drop(&self, offset: u64, size: u64) -> Vec<(usize, u64)> {
        let (page, mask) = ((offset >> 12) as usize, granules_of(offset, size));
        let hit = |mailbox: &Mailbox| mailbox.granules[page].load(Ordering::SeqCst) & mask != 0;
        let all = self.mailboxes.iter().enumerate().filter(|(_, mailbox)| hit(mailbox));
        all.map(|(id, mailbox)| (id, mailbox.post(Request::Invalidate { offset, size }))).collect()
    }

    fn wait_for(&self, asked: impl IntoIterator<Item = (usize, u64)>) {
        asked.into_iter().for_each(|(id, number)| self.mailboxes[id].wait_taken(number));
    }

    /// Whether translated code of vCPU `id` may store to `offset..offset + size` of the RAM file, within one page that
    /// holds code, since none lies in these bytes. It is the next thing the vCPU does to memory.
    pub(crate) fn may_store_beside(&self, id: u32, offset: u64, size: u64) -> bool {
        self.mailbox(id).beside.store((offset >> 12) + 1, Ordering::SeqCst);
        !self.hit(offset, size)
    }

    /// Whether a page of the RAM file holds no translated code, so that the TLB of the vCPU may let writes through. Clears
    /// a stale flag.
    pub(crate) fn page_free_of_code(&self, vcpu: &mut impl Inside, pages: &impl CodePages, page: u64) -> bool {
        if !pages.holds_code(page) {
            return true;
        }
        if self.hit(page << 12, 4096) {
            return false;
        }
        let _guard = self.outside(vcpu, || self.code.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let free = !self.hit(page << 12, 4096);
        if free {
            pages.clear(page);
        }
        free
    }

    /// The vCPU is about to translate code from `offset..offset + size`, within one page: every store there that is not yet
    /// seen when this returns will be noticed.
    pub(crate) fn register_code(&self, vcpu: &mut impl Inside, pages: &impl CodePages, offset: u64, size: u64) {
        let (page, mask) = (offset >> 12, granules_of(offset, size));
        let granules = &self.mailbox(vcpu.id()).granules[page as usize];
        if granules.load(Ordering::SeqCst) & mask == mask {
            return;
        }
        // The lock is held until every other vCPU has taken the request: whoever finds the flag set can rely on it.
        let _guard = self.outside(vcpu, || self.code.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        granules.fetch_or(mask, Ordering::SeqCst);
        let fresh = !pages.set(page);
        if fresh {
            vcpu.protect(Some(page));
        }
        let concerned = |mailbox: &&Arc<Mailbox>| fresh || mailbox.beside.load(Ordering::SeqCst) == page + 1;
        let others = self.others(vcpu.id()).filter(concerned);
        let asked: Vec<_> = others.map(|mailbox| (mailbox, mailbox.post(Request::Protect { page }))).collect();
        if !asked.is_empty() {
            self.outside(vcpu, || asked.into_iter().for_each(|(mailbox, number)| mailbox.wait_taken(number)));
        }
    }

    /// Replaces the granules of a page that vCPU `id` has code in, after it dropped some.
    pub(crate) fn set_granules(&self, id: u32, page: u64, mask: u64) {
        self.mailbox(id).granules[page as usize].store(mask, Ordering::SeqCst);
    }

    /// Runs `f`, which neither blocks nor calls back, while no other vCPU runs guest code or touches guest memory for it.
    pub(crate) fn exclusive<T>(&self, vcpu: &mut impl Inside, f: impl FnOnce() -> T) -> T {
        let id = vcpu.id();
        let _guard = self.outside(vcpu, || self.exclusive.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.others(id).for_each(|mailbox| mailbox.hold());
        self.outside(vcpu, || self.others(id).for_each(|mailbox| mailbox.wait_outside()));
        let result = f();
        self.others(id).for_each(|mailbox| mailbox.release());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_cover_exactly_the_touched_pieces() {
        assert_eq!(granules_of(0, 1), 1);
        assert_eq!(granules_of(63, 2), 0b11);
        assert_eq!(granules_of(0x1FC0, 64), 1 << 63);
        assert_eq!(granules_of(0x1000, 4096), u64::MAX);
    }
}
