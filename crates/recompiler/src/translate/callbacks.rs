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
use crate::tlb::{self, View};
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
    let view = site.mode.view();
    let (kind, write) = match site.kind {
        SiteKind::Read => (Kind::Read, false),
        _ => (Kind::Write, true),
    };
    let resume = core.code_base + u64::from(site.join);
    if site.aligned && linear & (size - 1) != 0 {
        return INTERPRET;
    }
    if (linear & 0xFFF) + size > 4096 {
        core.counters.split += 1;
        return match across_pages(core, view, linear, size, kind) {
            Some(host) => Resolved { resume, host },
            None => INTERPRET,
        };
    }
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

/// The host address of `size` bytes across the end of a page, when they are RAM on both sides: where the pages lie one
/// behind the other on the host as well, or of a copy, which serves loads until the next one.
fn across_pages(core: &mut Core, view: View, linear: u64, size: u64, kind: Kind) -> Option<u64> {
    let first = 4096 - (linear & 0xFFF);
    let near = host_in_page(core, view, linear, kind)?;
    let far = host_in_page(core, view, core.wrap_linear(linear.wrapping_add(first)), kind)?;
    if near + first == far {
        return Some(near);
    }
    let bounce = core.bounce.get_mut(..size as usize).filter(|_| kind == Kind::Read)?;
    let (head, tail) = bounce.split_at_mut(first as usize);
    // SAFETY: TLB entries lead to pages of RAM, which stay mapped; the pieces lie within them, by the sizes given. It is
    // copied as racing memory, and is not part of the core.
    unsafe {
        std::ptr::copy_nonoverlapping(near as *const u8, head.as_mut_ptr(), head.len());
        std::ptr::copy_nonoverlapping(far as *const u8, tail.as_mut_ptr(), tail.len());
    }
    Some(bounce.as_ptr() as u64)
}

/// The host address of a byte for which the TLB has an entry, or gets one.
fn host_in_page(core: &mut Core, view: View, linear: u64, kind: Kind) -> Option<u64> {
    let known = |core: &Core| {
        let entry = &core.tlb.entries[view as usize][tlb::slot(linear)];
        let offset = linear.wrapping_sub(if kind == Kind::Write { entry.write } else { entry.read });
        (offset < 4096).then(|| entry.host + offset)
    };
    known(core).or_else(|| {
        core.translate_page(view, linear, kind).ok()?;
        known(core)
    })
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

#[cfg(test)]
mod tests {
    use crate::state::{Bits, Roams};
    use crate::testing::{self, CODE, DATA, NoKick, RAM};
    use crate::tlb::View;
    use crate::vcpu::{RecompilerVcpu, Stop};
    use std::sync::Arc;

    /// Where the RAM is seen a second time, so that its beginning comes behind its end.
    const AGAIN: u64 = 0x2020_0000;
    const VALUE: u64 = 0x8877_6655_4433_2211;

    /// What RCX holds behind loading [RBX], adding [RBX] and storing to [RBX + 16], and how much of that was interpreted.
    fn run(at: u64) -> (u64, u64) {
        let code = [0x48, 0x8B, 0x0B, 0x48, 0x03, 0x0B, 0x48, 0x89, 0x4B, 0x10, 0xF4];
        let mut core = testing::core(Bits::B64, 3);
        testing::map_ram_at(&core, AGAIN, true);
        core.memory.write(CODE, &code).expect("RAM");
        core.gpr[3] = at;
        // As groups they are interpreted until that is learnt.
        core.roaming.extend([0, 3, 6].map(|place| (CODE + place, Roams::Alone)));
        core.write_view(View::User, at, VALUE).expect("RAM");
        let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
        vcpu.translate_after(0);
        assert!(matches!(vcpu.execute(), Stop::Shutdown));
        let stored: u64 = vcpu.core.read_view(View::User, at + 16).expect("RAM");
        assert_eq!(stored, vcpu.core.gpr[1]);
        let counted = vcpu.core.counters.listed().into_iter().find(|(name, _)| name == "interpreted-in-place");
        let interpreted = counted.map_or(0, |(_, count)| count);
        (vcpu.core.gpr[1], interpreted)
    }

    #[test]
    fn loads_across_the_end_of_a_page_are_not_interpreted() {
        let sum = VALUE.wrapping_mul(2);
        let alone = run(DATA).1;
        for at in [DATA + 0xFF9, DATA + 0xFFF, AGAIN - 1, AGAIN - 7] {
            assert_eq!(run(at), (sum, alone), "{at:#x}");
        }
        // A store where the pages are apart is.
        assert_eq!(run(AGAIN - 20), (sum, alone + 1));
        const { assert!(RAM == 0x20_0000) };
    }
}
