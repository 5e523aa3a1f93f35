//! Instructions in the middle of translated code that the interpreter runs: those that are always interpreted, and those
//! whose memory is not RAM, or otherwise unfit for the host.

use super::attend::after_interrupt;
use super::callbacks::{flags_to_saved, raise, saved_to_flags, site_at, undisturbed};
use super::jumps::translated_at_rip;
use super::{Site, SiteKind};
use crate::blocks::{self, Decoded};
use crate::fault::Fault;
use crate::interp;
use crate::smp::QUIET;
use crate::state::Core;
use std::sync::atomic::Ordering;

/// Instructions whose decoding is kept, by the numbers of their sites.
const KEPT: usize = 64;

/// The decoded instructions of some sites that access memory. Their bytes are those of the blocks that they are in: who runs
/// a block runs these.
pub struct InPlace([Option<Kept>; KEPT]);

#[derive(Clone)]
struct Kept {
    site: u32,
    decoded: Decoded,
    /// It neither sees nor raises anything of the vector units and x87.
    light: bool,
}

impl Default for InPlace {
    fn default() -> Self {
        InPlace([const { None }; KEPT])
    }
}

/// The decoded instruction of a site.
fn decoded(core: &mut Core, number: u32, site: &Site) -> Result<Kept, Fault> {
    if site.kind == SiteKind::Interpret {
        // SAFETY: an interpreted site's number is that of an element, and the elements do not move while translated code
        // runs.
        let decoded = unsafe { (*(core.decoded as *const Decoded).add(site.decoded as usize)).clone() };
        return Ok(Kept { site: number, decoded, light: false });
    }
    let slot = number as usize % KEPT;
    if let Some(kept) = core.in_place.0[slot].as_ref().filter(|kept| kept.site == number) {
        return Ok(kept.clone());
    }
    let linear = core.rip;
    core.rip = site.rip;
    let decoded = blocks::fetch_one(core);
    core.rip = linear;
    let decoded = decoded?;
    let light = site.mode.light() && !interp::uses_units(&decoded.instruction);
    let kept = Kept { site: number, decoded, light };
    core.in_place.0[slot] = Some(kept.clone());
    Ok(kept)
}

/// Whether [`interpret_light`] can interpret the instruction of a site at which a lookup missed.
pub(super) fn interprets_light(core: &mut Core, number: u32) -> bool {
    let Some(site) = site_at(core, number) else { return false };
    decoded(core, number, &site).is_ok_and(|kept| kept.light)
}

/// Interprets the instruction of a site. Returns the executable address to go on at, or 0 when the dispatcher has to look:
/// RIP is right then.
pub(super) extern "C" fn interpret_site(core: &mut Core, number: u32) -> u64 {
    let Some(site) = site_at(core, number) else {
        core.shutdown = true;
        return 0;
    };
    core.rip = site.rip;
    core.rflags = saved_to_flags(core.rflags, core.flags);
    let end = site.rip.wrapping_add(u64::from(site.extent));
    let mut decoded = decoded(core, number, &site).map(|kept| kept.decoded);
    // A leader is interpreted with all that relies on it: forwards only, so it ends.
    let mode = loop {
        let from = core.rip;
        let stepped = decoded.and_then(|decoded| {
            core.counters.interpreted_in_place(decoded.instruction.mnemonic());
            interp::step(core, &decoded.instruction, decoded.handler)
        });
        if let Err(fault) = stepped {
            return raise(core, fault);
        }
        let mode = undisturbed(core);
        if core.rip <= from || core.rip >= end || mode != Some(site.mode) {
            break mode;
        }
        decoded = blocks::fetch_one(core);
        // The rest is for whoever finds it at the instruction pointer.
        if core.units_live && decoded.as_ref().is_ok_and(|decoded| interp::uses_units(&decoded.instruction)) {
            break mode;
        }
    };
    core.flags = flags_to_saved(core.rflags);
    let emptied = std::mem::take(&mut core.tlb.memos_emptied);
    match mode {
        Some(mode) if core.rip == end && site.after != 0 && mode == site.mode && !emptied => {
            core.code_base + u64::from(site.after)
        }
        Some(mode) => translated_at_rip(core, mode),
        None => after_interrupt(core),
    }
}

/// The same with the vector registers and those of x87 live in the host's: the instruction does not look at them.
pub(super) extern "C" fn interpret_light(core: &mut Core, number: u32) -> u64 {
    core.units_live = true;
    let resume = interpret_site(core, number);
    core.units_live = false;
    resume
}

/// The same for an instruction of which [`interp::steady`] is true: behind it only others can want anything new of the
/// processor.
pub(super) extern "C" fn interpret_steady(core: &mut Core, number: u32) -> u64 {
    let Some(site) = site_at(core, number).filter(|site| site.kind == SiteKind::Interpret) else {
        core.shutdown = true;
        return 0;
    };
    core.rip = site.rip;
    core.rflags = saved_to_flags(core.rflags, core.flags);
    // SAFETY: an interpreted site's number is that of an element, which nothing that the interpreter does changes.
    let decoded = unsafe { &*(core.decoded as *const Decoded).add(site.decoded as usize) };
    core.counters.interpreted_in_place(decoded.instruction.mnemonic());
    core.units_live = true;
    let stepped = interp::step(core, &decoded.instruction, decoded.handler);
    let quiet = core.poll.load(Ordering::Relaxed) == QUIET && core.code_map_flush == 0 && !core.tlb.memos_emptied;
    if stepped.is_ok() && quiet && site.after != 0 {
        core.flags = flags_to_saved(core.rflags);
        core.units_live = false;
        return core.code_base + u64::from(site.after);
    }
    let resume = disturbed(core, stepped);
    core.units_live = false;
    resume
}

#[cold]
fn disturbed(core: &mut Core, stepped: Result<(), Fault>) -> u64 {
    if let Err(fault) = stepped {
        return raise(core, fault);
    }
    core.flags = flags_to_saved(core.rflags);
    core.tlb.memos_emptied = false;
    match undisturbed(core) {
        Some(mode) => translated_at_rip(core, mode),
        None => after_interrupt(core),
    }
}
