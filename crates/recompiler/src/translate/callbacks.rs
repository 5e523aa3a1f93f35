//! What translated code calls in Rust when a lookup missed; and what all that it calls have in common: they leave the
//! arithmetic flags in the form of translated code (`Core::flags`), and say where it goes on.

use super::in_place::{interpret_light, interprets_light};
use super::jumps::translated_at_rip;
use super::{Site, SiteKind, memos, stubs};
use crate::blocks;
use crate::fault::{Fault, vector};
use crate::interp::Delivered;
use crate::mmu::Kind;
use crate::mode::Mode;
use crate::smp::QUIET;
use crate::state::{Core, flag};
use crate::tlb;
use hv::Pending;
use std::sync::atomic::Ordering;

/// RFLAGS as SETO and LAHF would save the arithmetic flags.
pub(super) fn flags_to_saved(rflags: u64) -> u32 {
    (rflags as u32 & 0xD5) << 8 | u32::from(rflags & flag::OF != 0)
}

/// RFLAGS with the arithmetic flags as saved by SETO and LAHF.
pub(super) fn saved_to_flags(rflags: u64, saved: u32) -> u64 {
    let low = u64::from(saved >> 8) & (flag::ARITHMETIC & 0xFF);
    let overflow = if saved & 1 != 0 { flag::OF } else { 0 };
    rflags & !flag::ARITHMETIC | low | overflow
}

/// What [`resolve_memory`] returns in RAX and RDX.
#[repr(C)]
pub(super) struct Resolved {
    /// Executable address to go on at, or 0: interpret the instruction.
    pub(super) resume: u64,
    /// Host address of the bytes.
    pub(super) host: u64,
}

/// Leave it to the interpreter.
pub(super) const INTERPRET: Resolved = Resolved { resume: 0, host: 0 };

/// A lookup missed at `linear`: finds the bytes. Runs with the guest's vector registers live in the host's (the stub
/// keeps them) and with its MXCSR: no floating point.
pub(super) extern "C" fn resolve_memory(core: &mut Core, linear: u64, site: u32) -> Resolved {
    core.units_live = true;
    let mut resolved = resolve(core, linear, site);
    if core.tlb.memos_emptied && resolved.resume != stubs::LEAVE {
        resolved = INTERPRET;
    }
    if resolved.resume == 0 && interprets_light(core, site) {
        let resume = interpret_light(core, site);
        resolved = Resolved { resume: if resume == 0 { stubs::LEAVE } else { resume }, host: 0 };
    }
    core.units_live = false;
    resolved
}

fn resolve(core: &mut Core, linear: u64, site: u32) -> Resolved {
    let Some(site) = site_at(core, site) else { return INTERPRET };
    if site.kind == SiteKind::Leader {
        return memos::resolve(core, linear, site);
    }
    let size = u64::from(site.size);
    if (linear & 0xFFF) + size > 4096 || site.aligned && linear & (size - 1) != 0 {
        core.counters.split += 1;
        return INTERPRET;
    }
    let view = site.mode.view();
    let (kind, write) = match site.kind {
        SiteKind::Read => (Kind::Read, false),
        _ => (Kind::Write, true),
    };
    let resume = core.code_base + u64::from(site.join);
    // Data beside code: no translation is touched.
    if site.kind == SiteKind::Write {
        if let Some(host) = core.known_beside_code(view, linear, size) {
            core.counters.stores_beside_code += 1;
            return Resolved { resume, host };
        }
    }
    let found = match core.translate_page(view, linear, kind) {
        Ok(found) => found,
        // Nothing of the instruction is done before its last access is looked up. Of an address that is none the interpreter
        // knows whether it is the stack's (#SS) or another (#GP).
        Err(fault) if site.mode.light() && fault.vector == vector::PF => {
            core.rip = site.rip;
            core.rflags = saved_to_flags(core.rflags, core.flags);
            let resume = raise(core, fault);
            return Resolved { resume: if resume == 0 { stubs::LEAVE } else { resume }, host: 0 };
        }
        Err(_) => return INTERPRET,
    };
    let entry = &core.tlb.entries[view as usize][tlb::slot(linear)];
    let offset = linear.wrapping_sub(if write { entry.write } else { entry.read });
    if offset < 4096 {
        return Resolved { resume, host: entry.host + offset };
    }
    if site.kind == SiteKind::Write {
        if let Some(host) = core.host_beside_code(found.physical, size) {
            core.counters.stores_beside_code += 1;
            return Resolved { resume, host: host as u64 };
        }
    }
    INTERPRET
}

/// Delivers a fault in the middle of translated code. Returns where its handler's translation is, or 0.
pub(super) fn raise(core: &mut Core, fault: Fault) -> u64 {
    if let Delivered::TripleFault = core.deliver_fault(fault) {
        core.shutdown = true;
    }
    core.flags = flags_to_saved(core.rflags);
    core.tlb.memos_emptied = false;
    match undisturbed(core) {
        Some(mode) if !core.shutdown => translated_at_rip(core, mode),
        _ => 0,
    }
}

/// The processor's mode, when nothing needs the dispatcher's attention. Translated code may go on then.
pub(super) fn undisturbed(core: &mut Core) -> Option<Mode> {
    let quiet = core.poll.load(Ordering::Relaxed) == QUIET
        && core.code_map_flush == 0
        && !core.halted
        && !core.interrupt_shadow
        && !blocks::debugged(core)
        && !interruptible(core);
    quiet.then(|| {
        core.update_windows();
        Mode::of(core)
    })
}

/// An interrupt or NMI waits that could be delivered now. Those that come later set the poll word.
pub(super) fn interruptible(core: &Core) -> bool {
    let Some(lapic) = &core.lapic else { return false };
    let pending = lapic.pending();
    core.rflags & flag::IF != 0 && pending.contains(Pending::INTR) || !core.nmi_masked && pending.contains(Pending::NMI)
}

pub(super) fn site_at(core: &Core, site: u32) -> Option<Site> {
    if site >= core.site_count {
        return None;
    }
    // SAFETY: `sites` points at `site_count` sites, which do not move while translated code runs.
    Some(unsafe { *(core.sites as *const Site).add(site as usize) })
}
