//! The software TLBs: what translated code and the interpreter look up before they touch guest memory.
//!
//! An entry holds for one linear page, separately for reading and writing, its *tag* (the page's linear address) and
//! the host address of its bytes. Translated code subtracts the tag from the address: a result of at most
//! `4096 - size` says in one compare that the page matches, that the access is allowed, and that it does not cross into
//! the next page. An invalid tag is the address of a page that belongs to another slot, so that no address looked up in
//! this slot can be within it.
//!
//! In front of the tables are *memos*: one page each, found by the place in the code that accesses it instead of by
//! address. What code at one place touches is mostly in the page it touched before, and a check against a memo is on
//! nobody's critical path: the load does not wait for a table.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// Entries of one table; a power of two. 128 MiB of reach: the stores of each miss queue up behind the guest's own, which
/// wait for memory, so that a program that jumps about in more pages than there are entries is slow.
pub const ENTRIES: usize = 32768;

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

/// Memos of all views together: enough that a program's hot places in the code seldom get in each other's way.
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
    /// Slots that may hold entries of pages that are not global.
    local: Slots,
    /// Slots that may hold entries of global pages.
    global: Slots,
    /// Entries to which writes are allowed, and miss only because the page holds translated code.
    beside_code: [[u64; ENTRIES / 64]; VIEWS],
    /// What empty memos are compared with.
    empty: u64,
    /// Host address of byte 0 of the RAM file.
    ram: u64,
    /// By page of the RAM file the slot, plus one, of the entries that may lead there; or [`NOWHERE`], or [`SEVERAL`].
    homes: Vec<u16>,
}

/// No entry leads to a page.
const NOWHERE: u16 = 0;
/// Entries of more than one slot may lead to a page.
const SEVERAL: u16 = u16::MAX;
const _: () = assert!(ENTRIES < SEVERAL as usize);

/// A set of slots in each view.
struct Slots {
    words: [[u64; ENTRIES / 64]; VIEWS],
    /// A bit for each word that may not be zero.
    some: [[u64; ENTRIES / 64 / 64]; VIEWS],
}

impl Slots {
    fn insert(&mut self, view: usize, slot: usize) {
        let word = slot / 64;
        self.words[view][word] |= 1 << (slot % 64);
        self.some[view][word / 64] |= 1 << (word % 64);
    }

    fn remove(&mut self, view: usize, slot: usize) {
        self.words[view][slot / 64] &= !(1 << (slot % 64));
    }

    fn each(&self, view: usize, mut visit: impl FnMut(usize)) {
        for (index, &some) in self.some[view].iter().enumerate() {
            for word in bits(some) {
                let word = index * 64 + word;
                bits(self.words[view][word]).for_each(|bit| visit(word * 64 + bit));
            }
        }
    }

    /// Empties a view's set.
    fn drain(&mut self, view: usize, mut visit: impl FnMut(usize)) {
        for (index, some) in self.some[view].iter_mut().enumerate() {
            for word in bits(std::mem::take(some)) {
                let word = index * 64 + word;
                bits(std::mem::take(&mut self.words[view][word])).for_each(|bit| visit(word * 64 + bit));
            }
        }
    }
}

/// The numbers of the bits that are set, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

/// The slot of a linear address.
#[inline]
pub fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

/// An entry that nothing hits: page 0 belongs to slot 0. All of it being zero, the memory of slots that were never used is
/// never touched.
const fn invalid(slot: usize) -> Entry {
    let tag = if slot == 0 { 1 << 12 } else { 0 };
    Entry { read: tag, write: tag, host: 0, addend: 0 }
}

impl Tlb {
    /// Makes an empty TLB in place, for pages of a RAM file of `pages` pages that begins at the host address `ram`.
    ///
    /// # Safety
    /// `place` is valid for writes, and all zero.
    pub unsafe fn place(place: *mut Tlb, ram: u64, pages: usize) {
        // SAFETY: by the caller's promise; no reference is made before the vector, the one field that zero is no value of,
        // has been written.
        let tlb = unsafe {
            (&raw mut (*place).homes).write(vec![NOWHERE; pages]);
            &mut *place
        };
        // An address that no processor takes (bits 63 and 62 differ), and that a guest cannot know.
        let page = RandomState::new().hash_one(0) & 0x3FFF_FFFF_FFFF_F000 | 1 << 63;
        tlb.empty = page.wrapping_neg();
        tlb.memos.fill(Memo { minus: tlb.empty, addend: 0 });
        tlb.entries.iter_mut().for_each(|view| view[0] = invalid(0));
        tlb.ram = ram;
    }

    /// Puts a page in. `writable` also lets writes hit.
    pub fn fill(&mut self, view: View, linear: u64, host: u64, writable: bool, global: bool) {
        let slot = slot(linear);
        let page = linear & !0xFFF;
        let write = if writable { page } else { invalid(slot).write };
        self.entries[view as usize][slot] = Entry { read: page, write, host, addend: host.wrapping_sub(page) };
        self.beside_code[view as usize][slot / 64] &= !(1 << (slot % 64));
        let (kind, other) = match global {
            true => (&mut self.global, &mut self.local),
            false => (&mut self.local, &mut self.global),
        };
        other.remove(view as usize, slot);
        kind.insert(view as usize, slot);
        self.note_home(slot, host);
    }

    /// Remembers that an entry of a slot leads to the page at a host address.
    #[inline]
    fn note_home(&mut self, slot: usize, host: u64) {
        let Some(home) = self.homes.get_mut(((host - self.ram) >> 12) as usize) else { return };
        let own = slot as u16 + 1;
        if *home == own || *home == SEVERAL {
            return;
        }
        let before = *home;
        *home = match before {
            NOWHERE => own,
            _ if self.entries.iter().any(|view| view[usize::from(before) - 1].host == host) => SEVERAL,
            _ => own,
        };
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
            let entries = &mut self.entries[view];
            let mut drop = |slot| entries[slot] = invalid(slot);
            self.local.drain(view, &mut drop);
            if !keep_global {
                self.global.drain(view, &mut drop);
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
        let Tlb { entries, beside_code, local, global, homes, ram, .. } = self;
        let Some(home) = homes.get_mut(((host - *ram) >> 12) as usize) else { return };
        let mut found = NOWHERE;
        let mut protect = |view: usize, slot: usize| {
            let entry = &mut entries[view][slot];
            if entry.host == host {
                if entry.write == entry.read {
                    beside_code[view][slot / 64] |= 1 << (slot % 64);
                }
                entry.write = invalid(slot).write;
                let own = slot as u16 + 1;
                found = if found == NOWHERE || found == own { own } else { SEVERAL };
            }
        };
        for view in 0..VIEWS {
            match *home {
                NOWHERE => {}
                SEVERAL => {
                    [&*local, &*global].into_iter().for_each(|slots| slots.each(view, |slot| protect(view, slot)))
                }
                slot => protect(view, usize::from(slot) - 1),
            }
        }
        *home = found;
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
    use crate::state::zeroed;

    fn hit(tlb: &Tlb, view: View, linear: u64, size: u64, write: bool) -> bool {
        let entry = &tlb.entries[view as usize][slot(linear)];
        linear.wrapping_sub(if write { entry.write } else { entry.read }) <= 4096 - size
    }

    /// For a RAM file of 16 pages at host address 0.
    fn empty() -> Box<Tlb> {
        let place = zeroed::<Tlb>();
        // SAFETY: zeroed memory of the right size and alignment, which then holds a TLB.
        unsafe {
            Tlb::place(place, 0, 16);
            Box::from_raw(place)
        }
    }

    #[test]
    fn a_protected_page_misses_writes_wherever_it_is_mapped() {
        let mut tlb = empty();
        let mapped =
            [(View::Supervisor, 0x7000, true), (View::User, 0x7000, false), (View::SupervisorAc, 0x7000, false)];
        for (view, linear, global) in mapped {
            tlb.fill(view, linear, 0x5000, true, global);
        }
        tlb.fill(View::User, 0x8000, 0x6000, true, false);
        tlb.protect(0x5000);
        for (view, linear, _) in mapped {
            assert!(!hit(&tlb, view, linear, 1, true) && hit(&tlb, view, linear, 1, false));
        }
        assert!(hit(&tlb, View::User, 0x8000, 1, true));
        // In several slots, one of which holds something else by then.
        tlb.fill(View::User, 0x7000, 0x5000, true, false);
        tlb.fill(View::User, 0xFFFF_0000, 0x5000, true, true);
        tlb.fill(View::User, 0xA000, 0x5000, true, false);
        tlb.fill(View::User, 0xA000 + ((ENTRIES as u64) << 12), 0x7000, true, false);
        tlb.protect(0x5000);
        assert!(!hit(&tlb, View::User, 0x7000, 1, true) && !hit(&tlb, View::User, 0xFFFF_0000, 1, true));
        assert!(hit(&tlb, View::User, 0xA000 + ((ENTRIES as u64) << 12), 1, true));
        tlb.protect(0x9000);
    }

    #[test]
    fn slots_are_found_and_forgotten() {
        let mut slots = Slots { words: [[0; ENTRIES / 64]; VIEWS], some: [[0; ENTRIES / 64 / 64]; VIEWS] };
        for slot in [0, 63, 64, 4095, 4096, ENTRIES - 1, 63] {
            slots.insert(1, slot);
        }
        slots.remove(1, 64);
        let mut seen = Vec::new();
        slots.each(1, |slot| seen.push(slot));
        assert_eq!(seen, [0, 63, 4095, 4096, ENTRIES - 1]);
        slots.each(0, |slot| panic!("{slot} is another view's"));
        let mut drained = Vec::new();
        slots.drain(1, |slot| drained.push(slot));
        assert_eq!(drained, seen);
        slots.each(1, |slot| panic!("{slot} is still there"));
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
        let tlb = empty();
        for linear in (0..(ENTRIES as u64 + 4) << 12).step_by(1021) {
            assert!(!hit(&tlb, View::User, linear, 1, false));
            assert!(!hit(&tlb, View::Supervisor, linear.wrapping_neg(), 1, true));
        }
    }

    #[test]
    fn a_page_hits_in_its_view_and_for_what_it_allows() {
        let mut tlb = empty();
        tlb.fill(View::User, 0x7FFF_1234, 0x5000, false, false);
        assert!(hit(&tlb, View::User, 0x7FFF_1FF8, 8, false));
        assert!(!hit(&tlb, View::User, 0x7FFF_1FF9, 8, false));
        assert!(!hit(&tlb, View::User, 0x7FFF_1000, 1, true));
        assert!(!hit(&tlb, View::Supervisor, 0x7FFF_1000, 1, false));
    }

    #[test]
    fn a_flush_keeps_global_pages_when_asked() {
        let mut tlb = empty();
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
