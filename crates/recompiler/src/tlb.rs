//! The software TLBs: what translated code and the interpreter look up before they touch guest memory.
//!
//! An entry holds for one linear page, separately for reading and writing, its *tag* (the page's linear address) and
//! the host address of its bytes. Translated code subtracts the tag from the address: a result of at most
//! `4096 - size` says in one compare that the page matches, that the access is allowed, and that it does not cross into
//! the next page. An invalid tag is the address of a page that belongs to the neighbouring slot, so that no address
//! looked up in this slot can be within it.
//!
//! In front of the tables are *memos*: one page each, found by the place in the code that accesses it instead of by
//! address. What code at one place touches is mostly in the page it touched before, and a check against a memo is on
//! nobody's critical path: the load does not wait for a table.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// Entries of one table; a power of two. 16 MiB of reach: with 512 entries a hash table of 16 MiB took four times as long.
pub const ENTRIES: usize = 4096;

/// Who accesses: each view has a table of its own, so that privilege needs no test at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum View {
    /// Privilege levels 0 to 2.
    Supervisor = 0,
    /// Privilege level 3.
    User = 1,
    /// Privilege levels 0 to 2 with SMAP suspended by RFLAGS.AC.
    SupervisorAc = 2,
}

/// Number of [`View`]s.
pub const VIEWS: usize = 3;

/// One linear page. 32 bytes: translated code computes the slot's offset by shift and mask.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct Entry {
    /// Linear page address when reads hit.
    pub read: u64,
    /// Linear page address when writes hit.
    pub write: u64,
    /// Host address of the page's first byte.
    pub host: u64,
    /// Host address minus linear address.
    pub addend: u64,
}

/// Memos of all views together. A program's hot places in the code should not get in each other's way: with 96 for reading
/// in user code, an interpreter's did.
pub const MEMOS: usize = 1088;

/// Memos that are emptied together, if one of them was filled.
pub const MEMO_CHUNK: usize = 32;

/// One page that code at some place accessed, found by the place: see [`ViewMemos`].
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Memo {
    /// Minus the linear address of the page.
    pub minus: u64,
    /// Host address minus linear address.
    pub addend: u64,
}

/// Which memos belong to a view. What a check against a memo does not look at is the same for all that use it: the
/// privilege, and whether they write.
#[derive(Clone, Copy)]
pub struct ViewMemos {
    first: usize,
    /// Those for reading, and as many for writing.
    each: usize,
}

impl ViewMemos {
    /// The memos of a view.
    pub const fn of(view: View) -> Self {
        match view {
            View::User => ViewMemos { first: 0, each: 512 },
            View::Supervisor => ViewMemos { first: 1024, each: 24 },
            View::SupervisorAc => ViewMemos { first: 1072, each: 8 },
        }
    }

    const fn kind(self, write: bool) -> Range<usize> {
        let start = self.first + if write { self.each } else { 0 };
        start..start + self.each
    }

    /// The memo for the stack.
    pub const fn stack(self, write: bool) -> usize {
        self.kind(write).start
    }

    /// The memos for anything else.
    pub const fn shared(self, write: bool) -> Range<usize> {
        let Range { start, end } = self.kind(write);
        start + 1..end
    }
}

/// The data TLB of one vCPU.
#[repr(C, align(64))]
pub struct Tlb {
    /// Entries by view and slot.
    pub entries: [[Entry; ENTRIES]; VIEWS],
    /// The memos.
    pub memos: [Memo; MEMOS],
    /// Per chunk, nonzero: a memo was filled since all were emptied.
    pub memos_used: [u8; MEMOS / MEMO_CHUNK],
    /// Memos were emptied: code in the middle of a block must not go on, since it may rely on one that its leader checked.
    pub memos_emptied: bool,
    used: [[u64; ENTRIES / 64]; VIEWS],
    global: [[u64; ENTRIES / 64]; VIEWS],
    /// Entries to which writes are allowed, and miss only because the page holds translated code.
    beside_code: [[u64; ENTRIES / 64]; VIEWS],
    /// What empty memos are compared with.
    empty: u64,
}

/// The slot of a linear address.
#[inline]
pub fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

const fn invalid(slot: usize) -> Entry {
    let tag = ((slot ^ 1) << 12) as u64;
    Entry { read: tag, write: tag, host: 0, addend: 0 }
}

impl Default for Tlb {
    fn default() -> Self {
        let mut entries = [[invalid(0); ENTRIES]; VIEWS];
        for view in &mut entries {
            for (slot, entry) in view.iter_mut().enumerate() {
                *entry = invalid(slot);
            }
        }
        // An address that no processor takes (bits 63 and 62 differ), and that a guest cannot know.
        let page = RandomState::new().hash_one(0) & 0x3FFF_FFFF_FFFF_F000 | 1 << 63;
        Tlb {
            entries,
            memos: [Memo { minus: page.wrapping_neg(), addend: 0 }; MEMOS],
            memos_used: [0; MEMOS / MEMO_CHUNK],
            used: [[0; ENTRIES / 64]; VIEWS],
            global: [[0; ENTRIES / 64]; VIEWS],
            beside_code: [[0; ENTRIES / 64]; VIEWS],
            memos_emptied: false,
            empty: page.wrapping_neg(),
        }
    }
}

impl Tlb {
    /// Puts a page in. `writable` also lets writes hit.
    pub fn fill(&mut self, view: View, linear: u64, host: u64, writable: bool, global: bool) {
        let slot = slot(linear);
        let page = linear & !0xFFF;
        let write = if writable { page } else { invalid(slot).write };
        self.entries[view as usize][slot] = Entry { read: page, write, host, addend: host.wrapping_sub(page) };
        let bit = 1u64 << (slot % 64);
        self.used[view as usize][slot / 64] |= bit;
        self.beside_code[view as usize][slot / 64] &= !bit;
        if global {
            self.global[view as usize][slot / 64] |= bit;
        } else {
            self.global[view as usize][slot / 64] &= !bit;
        }
    }

    /// Notes of a page that was just put in without writes that they are allowed but for code in it.
    pub fn note_code(&mut self, view: View, linear: u64) {
        let slot = slot(linear);
        self.beside_code[view as usize][slot / 64] |= 1 << (slot % 64);
    }

    /// The host address of `size` bytes that may be written, when only code in their page is in the way.
    pub fn beside_code(&self, view: View, linear: u64, size: u64) -> Option<u64> {
        let slot = slot(linear);
        let entry = &self.entries[view as usize][slot];
        let noted = self.beside_code[view as usize][slot / 64] >> (slot % 64) & 1 != 0;
        let offset = linear.wrapping_sub(entry.read);
        (noted && offset <= 4096 - size).then(|| entry.host + offset)
    }

    /// Drops everything, or everything but global pages.
    pub fn flush(&mut self, keep_global: bool) {
        self.empty_memos();
        for view in 0..VIEWS {
            for word in 0..ENTRIES / 64 {
                let kept = if keep_global { self.global[view][word] } else { 0 };
                let mut drop = self.used[view][word] & !kept;
                self.used[view][word] &= kept;
                self.global[view][word] &= kept;
                while drop != 0 {
                    let slot = word * 64 + drop.trailing_zeros() as usize;
                    self.entries[view][slot] = invalid(slot);
                    drop &= drop - 1;
                }
            }
        }
    }

    /// Lets a memo show a page.
    pub fn fill_memo(&mut self, number: usize, linear: u64, host: u64) {
        let page = linear & !0xFFF;
        self.memos[number] = Memo { minus: page.wrapping_neg(), addend: host.wrapping_sub(page) };
        self.memos_used[number / MEMO_CHUNK] = 1;
    }

    /// The addends stay: nothing may rely on them any more, but nothing can go astray by them either.
    fn empty_memos(&mut self) {
        self.memos_emptied = true;
        for (memos, used) in self.memos.chunks_exact_mut(MEMO_CHUNK).zip(&mut self.memos_used) {
            if std::mem::take(used) != 0 {
                memos.iter_mut().for_each(|memo| memo.minus = self.empty);
            }
        }
    }

    /// Drops one linear page from all views.
    pub fn flush_page(&mut self, linear: u64) {
        self.empty_memos();
        let slot = slot(linear);
        for view in &mut self.entries {
            let entry = &mut view[slot];
            if entry.read == linear & !0xFFF {
                *entry = invalid(slot);
            }
        }
    }

    /// Makes writes to the page at a host address miss from now on, in every view.
    pub fn protect(&mut self, host: u64) {
        self.empty_memos();
        for view in 0..VIEWS {
            for word in 0..ENTRIES / 64 {
                let mut used = self.used[view][word];
                while used != 0 {
                    let slot = word * 64 + used.trailing_zeros() as usize;
                    let entry = &mut self.entries[view][slot];
                    if entry.host == host {
                        if entry.write == entry.read {
                            self.beside_code[view][word] |= 1 << (slot % 64);
                        }
                        entry.write = invalid(slot).write;
                    }
                    used &= used - 1;
                }
            }
        }
    }
}

/// Slots of the instruction TLB.
pub const ITLB_ENTRIES: usize = 256;

/// One page of instructions.
#[derive(Clone, Copy)]
pub struct ItlbEntry {
    /// Linear page address with the view in bit 0 ([`View::User`] = 1); `u64::MAX` when invalid.
    pub tag: u64,
    /// Guest physical address of the page.
    pub physical: u64,
    /// The page is global.
    pub global: bool,
}

/// The instruction TLB of one vCPU.
pub struct Itlb {
    entries: [ItlbEntry; ITLB_ENTRIES],
}

impl Default for Itlb {
    fn default() -> Self {
        Itlb { entries: [ItlbEntry { tag: u64::MAX, physical: 0, global: false }; ITLB_ENTRIES] }
    }
}

impl Itlb {
    /// The physical address behind a linear one, when the page is known.
    #[inline]
    pub fn lookup(&self, user: bool, linear: u64) -> Option<u64> {
        let entry = &self.entries[(linear >> 12) as usize & (ITLB_ENTRIES - 1)];
        (entry.tag == (linear & !0xFFF | u64::from(user))).then_some(entry.physical | linear & 0xFFF)
    }

    /// Whether a page is known and global.
    pub fn is_global(&self, user: bool, linear: u64) -> bool {
        let entry = &self.entries[(linear >> 12) as usize & (ITLB_ENTRIES - 1)];
        entry.tag == (linear & !0xFFF | u64::from(user)) && entry.global
    }

    /// Puts a page in.
    pub fn fill(&mut self, user: bool, linear: u64, physical: u64, global: bool) {
        self.entries[(linear >> 12) as usize & (ITLB_ENTRIES - 1)] =
            ItlbEntry { tag: linear & !0xFFF | u64::from(user), physical: physical & !0xFFF, global };
    }

    /// Drops everything, or everything but global pages.
    pub fn flush(&mut self, keep_global: bool) {
        for entry in &mut self.entries {
            if !(keep_global && entry.global) {
                entry.tag = u64::MAX;
            }
        }
    }

    /// Drops one linear page.
    pub fn flush_page(&mut self, linear: u64) {
        let entry = &mut self.entries[(linear >> 12) as usize & (ITLB_ENTRIES - 1)];
        if entry.tag & !0xFFF == linear & !0xFFF {
            entry.tag = u64::MAX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(tlb: &Tlb, view: View, linear: u64, size: u64, write: bool) -> bool {
        let entry = &tlb.entries[view as usize][slot(linear)];
        linear.wrapping_sub(if write { entry.write } else { entry.read }) <= 4096 - size
    }

    #[test]
    fn memos_of_different_views_and_rights_are_different() {
        let mut seen = std::collections::HashSet::new();
        for view in [View::User, View::Supervisor, View::SupervisorAc] {
            for write in [false, true] {
                let memos = ViewMemos::of(view);
                assert!(std::iter::once(memos.stack(write)).chain(memos.shared(write)).all(|memo| seen.insert(memo)));
            }
        }
        assert!(seen.len() == MEMOS && seen.into_iter().all(|memo| memo < MEMOS));
    }

    #[test]
    fn an_empty_table_hits_nothing() {
        let tlb = Tlb::default();
        for linear in (0..(ENTRIES as u64 + 4) << 12).step_by(1021) {
            assert!(!hit(&tlb, View::User, linear, 1, false));
            assert!(!hit(&tlb, View::Supervisor, linear.wrapping_neg(), 1, true));
        }
    }

    #[test]
    fn a_page_hits_in_its_view_and_for_what_it_allows() {
        let mut tlb = Tlb::default();
        tlb.fill(View::User, 0x7FFF_1234, 0x5000, false, false);
        assert!(hit(&tlb, View::User, 0x7FFF_1FF8, 8, false));
        assert!(!hit(&tlb, View::User, 0x7FFF_1FF9, 8, false));
        assert!(!hit(&tlb, View::User, 0x7FFF_1000, 1, true));
        assert!(!hit(&tlb, View::Supervisor, 0x7FFF_1000, 1, false));
    }

    #[test]
    fn a_flush_keeps_global_pages_when_asked() {
        let mut tlb = Tlb::default();
        tlb.fill(View::Supervisor, 0x1000, 0x5000, true, true);
        tlb.fill(View::Supervisor, 0x2000, 0x5000, true, false);
        tlb.flush(true);
        assert!(hit(&tlb, View::Supervisor, 0x1000, 1, true));
        assert!(!hit(&tlb, View::Supervisor, 0x2000, 1, true));
        assert_eq!(tlb.beside_code(View::Supervisor, 0x1008, 8), None);
        tlb.protect(0x5000);
        assert!(!hit(&tlb, View::Supervisor, 0x1000, 1, true));
        assert!(hit(&tlb, View::Supervisor, 0x1000, 1, false));
        assert_eq!(tlb.beside_code(View::Supervisor, 0x1008, 8), Some(0x5008));
        assert_eq!(tlb.beside_code(View::Supervisor, 0x1FF9, 8), None);
        tlb.flush(false);
        assert!(!hit(&tlb, View::Supervisor, 0x1000, 1, false));
    }
}
