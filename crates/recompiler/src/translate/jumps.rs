//! From block to block: links to known addresses, the jump table of each view, and the table behind them.
//!
//! A link is a jump patched to lead from one block into another. The jump tables (`Core::jumps`) take indirect jumps by
//! linear address, for the present mappings; the table behind them (`Core::far_jumps`) also knows the place in guest
//! memory, and so outlives the mappings.

use super::callbacks::{raise, saved_to_flags, site_at};
use super::memory::CodeMemory;
use super::{Link, NONE, Translated, Translator};
use crate::blocks::{Block, BlockId, Blocks, Body, Key};
use crate::fault::Fault;
use crate::interp::integer::stack;
use crate::mode::Mode;
use crate::smp::WANTED;
use crate::state::{Core, FarJump, Jump, cr4};
use crate::tlb::VIEWS;
use std::sync::atomic::Ordering;

impl Translator {
    /// Links the jump that was taken last to the block it led to.
    pub(super) fn link_pending(&mut self, core: &mut Core, blocks: &mut Blocks, id: BlockId) {
        let Some(number) = self.pending_link.take() else { return };
        let link = &mut self.records.links[number as usize];
        let source = &blocks.list[link.block as usize];
        let target = &blocks.list[id as usize];
        let fits = source.valid() && target.valid() && link.target == target.key.rip && link.mode == target.key.mode;
        if !fits || link.patch == 0 || link.linked.is_some() {
            return;
        }
        if link.crosses || target.key.second.is_some() {
            let linear = target.key.mode.linear(link.target);
            let global = is_global(core, linear)
                && (target.key.second.is_none() || is_global(core, (linear | 0xFFF).wrapping_add(1)));
            self.crossing[usize::from(global)].push(number);
        }
        if link.among != id {
            self.move_link(blocks, number, id);
        }
        let link = &mut self.records.links[number as usize];
        let Body::Translated(translated) = &blocks.list[id as usize].body else { return };
        link.linked = Some(id);
        let entry = if link.host_flags { translated.entry_host } else { translated.entry_saved };
        self.code.patch_jump(link.patch, entry);
    }

    /// Puts a link among those of another block.
    fn move_link(&mut self, blocks: &mut Blocks, number: u32, id: BlockId) {
        let links = &mut self.records.links;
        let (among, next) = (links[number as usize].among, links[number as usize].next);
        if let Some(Body::Translated(before)) = blocks.list.get_mut(among as usize).map(|block| &mut block.body) {
            if before.incoming == number {
                before.incoming = next;
            } else {
                let mut at = before.incoming;
                while at != NONE && links[at as usize].next != number {
                    at = links[at as usize].next;
                }
                if at != NONE {
                    links[at as usize].next = next;
                }
            }
        }
        let Body::Translated(translated) = &mut blocks.list[id as usize].body else { return };
        links[number as usize].among = id;
        links[number as usize].next = std::mem::replace(&mut translated.incoming, number);
    }

    fn unlink(code: &mut CodeMemory, link: &mut Link) {
        if link.linked.take().is_some() {
            code.patch_jump(link.patch, code.base() + u64::from(link.cold));
        }
    }

    /// Puts a block into the jump tables and returns its entry.
    pub(super) fn enter_in_table(&mut self, core: &mut Core, block: &Block) -> u64 {
        let entry = block.translated().map_or(0, |translated| translated.entry_saved);
        let Key { rip, mode, offset, second } = block.key;
        if second.is_none() {
            core.far_jumps[FarJump::slot(rip, mode)] = FarJump { rip, offset, mode, host: entry };
        }
        enter_jump(core, mode, rip, second.is_some(), entry);
        entry
    }

    /// After a change of mappings: of non-global ones, or of any.
    pub fn flush_jumps(&mut self, core: &mut Core, any: bool) {
        let any = any || core.cr4 & cr4::PGE == 0;
        for view in 0..VIEWS {
            if any || core.jump_local[view] {
                flush_jumps(core, view);
            }
        }
        for global in 0..=usize::from(any) {
            for number in std::mem::take(&mut self.crossing[global]) {
                Self::unlink(&mut self.code, &mut self.records.links[number as usize]);
            }
        }
        self.pending_link = None;
    }

    /// A block was invalidated: nothing may lead to it any more.
    pub fn retire(&mut self, core: &mut Core, key: &Key, translated: &Translated) {
        let mut number = translated.incoming;
        while number != NONE {
            let link = &mut self.records.links[number as usize];
            Self::unlink(&mut self.code, link);
            link.among = NONE;
            number = std::mem::replace(&mut link.next, NONE);
        }
        let far = &mut core.far_jumps[FarJump::slot(key.rip, key.mode)];
        if far.host == translated.entry_saved {
            *far = FarJump::EMPTY;
        }
        let slot = Jump::slot(key.rip);
        for view in &mut core.jumps {
            if view[slot].host == translated.entry_saved {
                view[slot] = Jump::empty(slot);
            }
        }
        self.pending_link = None;
    }
}

/// Puts an entry into the jump table of a view. `spans`: the block goes on in the next page.
fn enter_jump(core: &mut Core, mode: Mode, rip: u64, spans: bool, host: u64) {
    let view = mode.view() as usize;
    let Some(number) = core.mode_numbers.get(mode) else { return };
    if core.jump_mode[view] != mode.tabled() {
        flush_jumps(core, view);
        core.jump_mode[view] = mode.tabled();
    }
    let slot = Jump::slot(rip);
    if core.jumps[view][slot].host == 0 {
        core.used_jumps[view].push(slot as u16);
    }
    core.jumps[view][slot] = Jump { rip: rip | u64::from(number) << 32, host };
    if !core.jump_local[view] {
        let linear = mode.linear(rip);
        let next = spans.then(|| (linear | 0xFFF).wrapping_add(1));
        core.jump_local[view] = [Some(linear), next].into_iter().flatten().any(|page| !is_global(core, page));
    }
}

/// Whether the code page of a linear address is mapped globally.
fn is_global(core: &mut Core, linear: u64) -> bool {
    let user = core.cpl() == 3;
    // The page may have fallen out of the instruction TLB since it was executed last.
    core.fetch_address(linear).is_ok() && core.itlb.is_global(user, linear)
}

/// Empties the jump table of a view.
pub(super) fn flush_jumps(core: &mut Core, view: usize) {
    for slot in std::mem::take(&mut core.used_jumps[view]) {
        core.jumps[view][slot as usize] = Jump::empty(slot as usize);
    }
    core.jump_local[view] = false;
}

/// The jump table's entry for the instruction pointer, or 0.
pub(super) fn translated_at_rip(core: &mut Core, mode: Mode) -> u64 {
    let view = mode.view() as usize;
    let Some(number) = core.mode_numbers.get(mode) else { return 0 };
    let jump = core.jumps[view][Jump::slot(core.rip)];
    let here = core.rip | u64::from(number) << 32;
    if core.jump_mode[view] == mode.tabled() && jump.rip == here { jump.host } else { 0 }
}

/// The jump table has no entry for RIP: looks in the table behind it. Returns the host address to go on at, or 0 when the
/// dispatcher has to look. Runs with the guest's vector registers live, as
/// [`resolve_memory`](super::callbacks::resolve_memory).
pub(super) extern "C" fn find_target(core: &mut Core, site: u32) -> u64 {
    if let Some(site) = site_at(core, site) {
        if !site.mode.reaches(core.rip) {
            // The branch itself faults.
            core.rip = site.rip;
            stack::adjust(core, i64::from(site.decoded as i32) as u64);
            core.rflags = saved_to_flags(core.rflags, core.flags);
            return raise(core, Fault::GP0);
        }
    }
    if core.poll.load(Ordering::Relaxed) == WANTED || core.code_map_flush != 0 {
        return 0;
    }
    let mode = Mode::of(core);
    let far = core.far_jumps[FarJump::slot(core.rip, mode)];
    if far.rip != core.rip || far.mode != mode || far.host == 0 {
        return 0;
    }
    // A fault of the fetch is the dispatcher's to raise.
    let Ok(physical) = core.fetch_address(mode.linear(far.rip)) else { return 0 };
    if core.layout.offset(physical, 1) != Some(far.offset) {
        return 0;
    }
    core.counters.far_jumps += 1;
    enter_jump(core, mode, far.rip, false, far.host);
    far.host
}
