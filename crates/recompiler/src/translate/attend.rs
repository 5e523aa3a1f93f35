//! Interrupts that are delivered in the middle of translated code, without a way out to the dispatcher and back.

use super::Link;
use super::callbacks::{flags_to_saved, interruptible, saved_to_flags, undisturbed};
use super::jumps::translated_at_rip;
use crate::blocks;
use crate::interp::Delivered;
use crate::smp::{QUIET, WANTED};
use crate::state::{Core, flag};
use hv::Pending;
use std::sync::atomic::Ordering;

/// Somebody wants the vCPU at a link. Returns where to go on, or 0 when the dispatcher has to look: RIP is right then. The
/// vector registers are still live in the host's.
pub(super) extern "C" fn attend_at_link(core: &mut Core, link: u32) -> u64 {
    if link >= core.link_count {
        core.shutdown = true;
        return 0;
    }
    // SAFETY: `links` points at `link_count` links, which do not move while translated code runs.
    core.rip = unsafe { (*(core.links as *const Link).add(link as usize)).target };
    core.rflags = saved_to_flags(core.rflags, core.flags);
    core.units_live = true;
    let resume = after_interrupt(core);
    core.units_live = false;
    resume
}

/// Between two instructions, something wants attention. Where that is an interrupt alone, it is delivered. Returns where to go
/// on, or 0 when the dispatcher has to look.
pub(super) fn after_interrupt(core: &mut Core) -> u64 {
    if !take_interrupt(core) {
        return 0;
    }
    core.flags = flags_to_saved(core.rflags);
    core.tlb.memos_emptied = false;
    undisturbed(core).map_or(0, |mode| translated_at_rip(core, mode))
}

/// As the dispatcher attends to the vCPU, for an interrupt when nothing else is asked. False: the dispatcher has to look.
fn take_interrupt(core: &mut Core) -> bool {
    let Some(lapic) = core.lapic.clone() else { return false };
    // Cleared before anything is looked at: what comes later sets it again.
    core.poll.store(QUIET, Ordering::SeqCst);
    let pending = lapic.pending();
    let events = &core.events;
    let rare = core.shared.mailbox(core.id).asks()
        || pending.intersects(Pending::INIT | Pending::SIPI | Pending::NMI)
        || core.code_map_flush != 0
        || core.halted
        || core.waiting_for_sipi
        || core.interrupt_shadow
        || core.shutdown
        || blocks::debugged(core)
        || events.exception.is_some()
        || events.interrupt.is_some()
        || events.nmi_pending;
    if !rare && core.rflags & flag::IF != 0 && pending.contains(Pending::INTR) {
        if let Some(vector) = lapic.acknowledge() {
            if let Delivered::TripleFault = core.deliver_interrupt(vector) {
                core.shutdown = true;
            }
        }
    }
    core.interrupt_waits = u32::from(core.rflags & flag::IF == 0 && lapic.pending().contains(Pending::INTR));
    // An interrupt that is still pending does not announce itself again.
    if rare || core.shutdown || interruptible(core) {
        core.poll.store(WANTED, Ordering::SeqCst);
        return false;
    }
    true
}
