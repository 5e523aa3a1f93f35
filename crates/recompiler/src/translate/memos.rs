//! Memos that miss: finding the page, and finding out which instructions are better off without.

use super::callbacks::{INTERPRET, Resolved, raise, saved_to_flags};
use super::{Leader, Site, stubs};
use crate::fault::vector;
use crate::mmu::Kind;
use crate::smp::Request;
use crate::state::{Core, Roams};
use crate::tlb;

/// Misses of all memos between two looks at who missed.
const BUDGET: i32 = 1 << 18;

/// Ticks of the time-stamp counter per miss below which memos miss too often.
const RARE: u64 = 150;

/// A leader that has this share of all misses asks the TLB from then on.
const SHARE: u32 = BUDGET as u32 / 256;

/// What an interpreted group counts for, in misses.
const INTERPRETED: u32 = 64;

/// A leader this often in vain does without, whatever the others do.
const HOPELESS: u32 = 1 << 14;

/// Most instructions known to roam; when there are more, all get another chance.
const MOST_ROAMING: usize = 1 << 16;

/// The check of the leader at `site` failed, and so did the TLB: finds its group's bytes, the lowest of which is at
/// `linear`. Runs with the guest's vector registers live, as [`super::callbacks::resolve_memory`], which calls it.
pub(super) fn resolve(core: &mut Core, linear: u64, site: Site) -> Resolved {
    if core.memo_budget < 0 {
        judge(core);
    }
    let Some(memo) = leader_at(core, site.decoded) else { return INTERPRET };
    let Leader { most, mask, join, number, own, group_writes, writes, remembered, .. } = *memo;
    let own = linear.wrapping_add(u64::from(own));
    let size = u64::from(site.size);
    if (own & 0xFFF) + size > 4096 || site.aligned && own & (size - 1) != 0 {
        return in_vain(core, site);
    }
    let view = site.mode.view();
    let kind = if writes { Kind::Write } else { Kind::Read };
    if let Err(fault) = core.translate_page(view, own, kind) {
        // As in `resolve_memory`.
        if !site.mode.light() || fault.vector != vector::PF {
            return INTERPRET;
        }
        // Nothing of the instruction is done before its last access is looked up.
        core.rip = site.rip;
        core.rflags = saved_to_flags(core.rflags, core.flags);
        let resume = raise(core, fault);
        return Resolved { resume: if resume == 0 { stubs::LEAVE } else { resume }, host: 0 };
    }
    let entry = &core.tlb.entries[view as usize][tlb::slot(linear)];
    let tag = if group_writes { entry.write } else { entry.read };
    if linear.wrapping_sub(tag) > most || linear as u32 & mask != 0 {
        return in_vain(core, site);
    }
    if remembered {
        let host = entry.host;
        core.tlb.fill_memo(number as usize, linear, host);
    }
    Resolved { resume: core.code_base + u64::from(join), host: 0 }
}

/// A group that cannot be accessed as one is interpreted.
fn in_vain(core: &mut Core, site: Site) -> Resolved {
    if let Some(memo) = leader_at(core, site.decoded) {
        memo.misses += INTERPRETED;
        if memo.misses >= HOPELESS {
            memo.misses = 0;
            learn(core, site.rip, Roams::Alone);
        }
    }
    INTERPRET
}

/// Many memos missed: when it happened in a short time, those that missed often ask the TLB in the future.
fn judge(core: &mut Core) {
    let now = core.tsc.now();
    let often = now.wrapping_sub(core.memos_judged) < BUDGET as u64 * RARE;
    core.memos_judged = now;
    core.memo_budget = BUDGET;
    for number in 0..core.leader_count {
        let Some(memo) = leader_at(core, number) else { break };
        let misses = std::mem::take(&mut memo.misses);
        let (site, remembered) = (memo.site, memo.remembered);
        if often && misses >= SHARE && remembered {
            if let Some(site) = super::callbacks::site_at(core, site) {
                learn(core, site.rip, Roams::Far);
            }
        }
    }
}

/// Remembers something of the instruction at `rip`: its block is translated afresh.
fn learn(core: &mut Core, rip: u64, roams: Roams) {
    if core.roaming.len() >= MOST_ROAMING {
        core.roaming.clear();
    }
    let known = core.roaming.entry(rip).or_insert(roams);
    if roams == Roams::Alone {
        *known = roams;
    }
    // Where the code is not mapped any more, its block is not run any more either.
    let Ok(physical) = core.fetch_address(rip) else { return };
    if let Some(offset) = core.layout.offset(physical, 1) {
        core.shared.mailbox(core.id).post(Request::Invalidate { offset, size: 1 });
    }
}

fn leader_at(core: &mut Core, number: u32) -> Option<&mut Leader> {
    if number >= core.leader_count {
        return None;
    }
    // SAFETY: `leaders` points at `leader_count` elements that do not move while translated code runs; only this
    // vCPU's thread, which is here, touches them.
    Some(unsafe { &mut *(core.leaders as *mut Leader).add(number as usize) })
}

#[cfg(test)]
mod tests {
    use super::BUDGET;
    use crate::state::{Bits, Core, Roams};
    use crate::testing::{self, CODE, DATA, NoKick};
    use crate::tlb::MEMOS;
    use crate::vcpu::{RecompilerVcpu, Stop};
    use std::sync::Arc;

    /// Where the RAM is seen without the right to write.
    const READ_ONLY: u64 = 0x2020_0000;

    fn machine(code: &[u8]) -> Box<Core> {
        let mut core = testing::core(Bits::B64, 3);
        testing::map_ram_at(&core, READ_ONLY, false);
        core.memory.write(CODE, code).expect("RAM");
        core.gpr[3] = READ_ONLY + DATA;
        core
    }

    /// A processor that translates everything at once, at the end of its program: an exception.
    fn run(core: Box<Core>) -> RecompilerVcpu {
        let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
        vcpu.translate_after(0);
        assert!(matches!(vcpu.execute(), Stop::Shutdown));
        vcpu
    }

    #[test]
    fn a_memo_that_was_filled_for_reading_lets_nobody_write() {
        let load = [0x48, 0x8B, 0x03, 0xEB, 0x00]; // mov rax, [rbx]; jmp to the next instruction
        let store = [0xC6, 0x43, 0x08, 0x55]; // mov byte [rbx + 8], 0x55
        // As many loads as it takes to have all memos show the page.
        let vcpu = run(machine(&[load.repeat(MEMOS), store.to_vec()].concat()));
        assert_eq!(vcpu.core.rip, CODE + (MEMOS * load.len()) as u64);
        assert_eq!(vcpu.core.cr2, READ_ONLY + DATA + 8);
        let mut byte = [0];
        vcpu.core.memory.read(DATA + 8, &mut byte).expect("RAM");
        assert_eq!(byte, [0]);
    }

    #[test]
    fn a_push_whose_operand_is_interpreted_leads_nobody_astray() {
        // push [rbx + rcx], across the end of a page; pop rdx: off the same stack pointer
        let mut core = machine(&[0xFF, 0x34, 0x0B, 0x5A]);
        core.gpr[1] = 0xFFC;
        core.memory.write(DATA + 0xFFC, &0x1234_5678_9ABC_DEF0u64.to_le_bytes()).expect("RAM");
        let vcpu = run(core);
        assert_eq!(vcpu.core.gpr[2], 0x1234_5678_9ABC_DEF0);
    }

    #[test]
    fn a_stack_at_no_address_is_a_fault_of_the_stack() {
        let push = [0x50]; // push rax
        let load = [0x48, 0x8B, 0x45, 0x00]; // mov rax, [rbp]
        for code in [&push[..], &load[..]] {
            let mut core = machine(&[code, &[0xF4][..]].concat());
            core.gpr[4] = 1 << 60;
            core.gpr[5] = 1 << 60;
            let vcpu = run(core);
            assert_eq!(vcpu.core.rip, CODE);
            assert_eq!([12, 13].map(|vector| vcpu.core.counters.faults[vector]), [1, 0]);
        }
    }

    #[test]
    fn a_stack_known_to_roam_asks_the_tlb() {
        let code = [
            &[0x50][..],                        // push rax
            &[0x48, 0x81, 0xF4, 0, 0x10, 0, 0], // xor rsp, 0x1000: another page
            &[0xFF, 0xC9, 0x75, 0xF4],          // dec ecx; jnz to the push
            &[0xF4],                            // hlt, which is not allowed
        ];
        let misses = |known: bool| {
            let mut core = machine(&code.concat());
            core.gpr[1] = 200;
            core.gpr[4] = DATA + 0x1800;
            if known {
                core.roaming.insert(CODE, Roams::Far);
            }
            core.memo_budget = BUDGET;
            let vcpu = run(core);
            assert_eq!(vcpu.core.gpr[4], DATA + 0x1800 - 200 * 8);
            BUDGET - vcpu.core.memo_budget
        };
        let (unknown, known) = (misses(false), misses(true));
        assert!(unknown > 150 && known < 10, "{unknown} and {known} misses");
    }
}
