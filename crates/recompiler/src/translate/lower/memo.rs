//! Operands in memory by way of memos: one check for a group of accesses.
//!
//! A leader adds the memo's `minus` to the lowest address of its group: a small sum says in one compare that the
//! whole group lies in the memo's page. Then RCX is the memo's `addend`, and the guest's own addressing, with RCX as
//! the index, reaches the host's bytes. Groups of the kernel seldom stay in one page, and neither do those that are known to
//! roam: there the leader asks the TLB, and the memo only keeps the addend for the others in the block.

use super::flow::Cold;
use super::{Home, Lowering, Unfit, home};
use crate::state::layout;
use crate::tlb::{View, ViewMemos};
use crate::translate::asm::host;
use crate::translate::encode::Rm;
use crate::translate::flags::Flags;
use crate::translate::form::Memory;
use crate::translate::groups::{Group, Groups};
use crate::translate::{Leader, SiteKind};
use iced_x86::{Instruction, Register};

/// Where [`Lowering::lookup`] leaves an operand.
pub(super) const TABLE: Rm = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };

/// Where the host finds an operand.
pub(super) struct Operand {
    /// The operand.
    pub rm: Rm,
    /// The site to finish behind the instruction.
    pub site: Option<u32>,
    /// The memo whose addend is in RCX.
    pub memo: Option<usize>,
}

/// The guest's registers that add up to an address but for its displacement.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    segment: Option<usize>,
    base: Register,
    index: Register,
    scale: u32,
}

impl Parts {
    fn of_operand(instruction: &Instruction) -> Self {
        let segment = instruction.memory_segment();
        Parts {
            segment: matches!(segment, Register::FS | Register::GS).then(|| segment.number()),
            base: instruction.memory_base(),
            index: instruction.memory_index(),
            scale: instruction.memory_index_scale(),
        }
    }

    fn of_register(register: Register) -> Self {
        Parts { segment: None, base: register, index: Register::None, scale: 1 }
    }

    /// One register and nothing else.
    fn plain(self) -> bool {
        self.segment.is_none() && self.index == Register::None
    }
}

/// What an instruction accesses besides its explicit memory operand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Implied {
    /// It is the explicit operand that is meant.
    Nothing,
    /// What a register points at, a displacement away.
    Register(Register, i32),
}

/// The state of the block's groups.
#[derive(Default)]
pub(super) struct Open {
    /// Per group: its memo.
    memos: Vec<Option<usize>>,
    /// Per group: its leader has run.
    groups: Vec<bool>,
    /// Groups that the present instruction leads.
    leading: Vec<usize>,
    /// Sites of leaders, and the instruction to go on at where theirs and some more were interpreted.
    resumes: Vec<(u32, usize)>,
}

impl Open {
    /// For groups that have these memos.
    pub fn new(memos: Vec<Option<usize>>) -> Self {
        let groups = vec![false; memos.len()];
        Open { memos, groups, ..Open::default() }
    }

    /// Closes all groups: something unknown happens.
    pub fn close(&mut self) {
        self.groups.fill(false);
        self.leading.clear();
    }

    /// The present instruction is translated: what it led is open.
    pub fn instruction_done(&mut self) {
        for group in self.leading.drain(..) {
            self.groups[group] = true;
        }
    }

    /// The number of waiting sites, for [`Self::forget_sites`].
    pub fn sites(&self) -> usize {
        self.resumes.len()
    }

    /// Forgets sites behind the first `keep`.
    pub fn forget_sites(&mut self, keep: usize) {
        self.resumes.truncate(keep);
    }

    /// Takes the sites that go on at an instruction.
    pub fn resuming_at(&mut self, index: usize) -> Vec<u32> {
        let (here, later) = self.resumes.drain(..).partition(|&(_, at)| at == index);
        self.resumes = later;
        here.into_iter().map(|(site, _)| site).collect()
    }
}

impl Lowering<'_> {
    /// The explicit memory operand. Of `live`, the flags wanted before the instruction, those in the host's are saved
    /// where they would be destroyed. RAX and RCX are destroyed; both may be part of the operand.
    pub(super) fn operand(&mut self, instruction: &Instruction, memory: Memory, live: Flags) -> Result<Operand, Unfit> {
        if let Some(operand) = self.grouped_operand(instruction, Implied::Nothing, memory, live) {
            return Ok(operand);
        }
        self.before_clobber(live);
        let site = match self.fixed_address(instruction, memory) {
            Some(address) => self.lookup_fixed(instruction, address, memory),
            None => {
                self.address(instruction)?;
                self.lookup(instruction, memory)
            }
        };
        Ok(Operand { rm: TABLE, site: Some(site), memo: None })
    }

    /// An operand that belongs to a group; otherwise nothing is done.
    pub(super) fn grouped_operand(
        &mut self,
        instruction: &Instruction,
        implied: Implied,
        memory: Memory,
        live: Flags,
    ) -> Option<Operand> {
        let access = self.groups.access(self.index, implied != Implied::Nothing)?;
        let memo = self.open.memos[access.group]?;
        let (parts, displacement) = match implied {
            Implied::Register(register, displacement) => (Parts::of_register(register), displacement),
            Implied::Nothing => (Parts::of_operand(instruction), instruction.memory_displacement64() as i32),
        };
        let addend = Rm::Gs(layout::memo(memo) + layout::MEMO_ADDEND);
        if self.open.groups[access.group] {
            let known = parts.plain() && self.addend == Some((memo, self.asm.bytes.len()));
            let base = self.base(parts);
            if !known {
                self.asm.load(host::RCX, addend);
            }
            let rm = Rm::BaseIndex { base, index: host::RCX, scale: 0, displacement };
            return Some(Operand { rm, site: None, memo: Some(memo) });
        }
        self.before_clobber(live);
        let group = self.groups.list[access.group];
        let low = displacement.wrapping_sub(access.displacement).wrapping_add(group.low);
        let tag = self.tlb_base + if group.write { layout::TLB_WRITE } else { layout::TLB_READ };
        let remembered = self.remembers(&group);
        let join = self.asm.bytes.len() as u32;
        let mut register = self.base(parts);
        let from;
        if remembered {
            self.asm.load(host::RCX, Rm::Gs(layout::memo(memo) + layout::MEMO_MINUS));
            self.asm.lea(host::RCX, Rm::BaseIndex { base: register, index: host::RCX, scale: 0, displacement: low });
            from = self.in_page(host::RCX, group.high - group.low, group.mask);
            self.asm.load(host::RCX, addend);
        } else {
            self.asm.lea(host::RAX, Rm::Base { base: register, displacement: low });
            self.slot();
            self.asm.op(true, &[0x2B], host::RAX, Rm::GsIndexed { base: host::RCX, displacement: tag });
            from = self.in_page(host::RAX, group.high - group.low, group.mask);
            let found = Rm::GsIndexed { base: host::RCX, displacement: self.tlb_base + layout::TLB_ADDEND };
            self.asm.load(host::RCX, found);
            if group.count > 1 || !parts.plain() {
                self.asm.store(addend, host::RCX);
            }
            register = self.base(parts);
            if !parts.plain() {
                self.asm.load(host::RCX, addend);
            }
        }
        let resume = self.groups.resume(self.index, access.group, |group| self.open.groups[group]);
        let site = self.site(instruction, SiteKind::Leader, memory.size, memory.aligned);
        self.sites[site as usize].extent = self.ends[resume - 1].wrapping_sub(instruction.ip()) as u16;
        self.sites[site as usize].decoded = self.memos.len() as u32;
        self.memos.push(Leader {
            most: 4096 - (group.high - group.low) as u64,
            tag,
            memo: layout::memo(memo),
            used: layout::memo_used(memo),
            number: memo as u32,
            join,
            site,
            mask: group.mask as u32,
            own: (access.displacement - group.low) as u32,
            misses: 0,
            group_writes: group.write,
            writes: memory.write,
            remembered,
        });
        self.open.leading.push(access.group);
        self.open.resumes.push((site, resume));
        self.cold.push(Cold::Leader { from, parts, low, site });
        let rm = Rm::BaseIndex { base: register, index: host::RCX, scale: 0, displacement };
        Some(Operand { rm, site: None, memo: Some(memo) })
    }

    /// As [`Self::finish_site`] where the instruction may lead a group behind the lookup of `site`: the interpreter then goes
    /// on to where nothing relies on that leader, which has not run.
    pub(super) fn finish_early_site(&mut self, site: u32) {
        let Some(&group) = self.open.leading.last() else { return self.finish_site(site) };
        let resume = self.groups.resume(self.index, group, |group| self.open.groups[group]);
        let record = &mut self.sites[site as usize];
        record.extent = self.ends[resume - 1].wrapping_sub(record.rip) as u16;
        self.open.resumes.push((site, resume));
    }

    /// Whether a group's leader compares with its memo, instead of asking the TLB.
    fn remembers(&self, group: &Group) -> bool {
        (group.stack || self.mode.view() == View::User) && !group.roams
    }

    /// A host register that holds what the guest's registers add up to: where that is no single one with a home on the host,
    /// RAX. Sums also destroy RCX.
    fn base(&mut self, parts: Parts) -> u8 {
        let Parts { segment, base, index, scale } = parts;
        if parts.plain() {
            return match home(base.number() as u8) {
                Home::Host(register) => register,
                Home::Core(offset) => {
                    self.asm.load(host::RAX, Rm::Gs(offset));
                    host::RAX
                }
            };
        }
        if base != Register::None || index != Register::None {
            let from = self.address_operand(base, index, scale, 0);
            self.asm.lea(host::RAX, from);
        }
        if let Some(segment) = segment {
            let start = Rm::Gs(layout::segment_base(segment));
            if base == Register::None && index == Register::None {
                self.asm.load(host::RAX, start);
            } else {
                self.asm.load(host::RCX, start);
                self.asm.lea(host::RAX, TABLE);
            }
        }
        host::RAX
    }

    /// A leader's check failed: RAX = its group's lowest address.
    pub(super) fn memo_missed(&mut self, parts: Parts, low: i32, site: u32) {
        let register = self.base(parts);
        self.asm.lea(host::RAX, Rm::Base { base: register, displacement: low });
        let record = &self.sites[site as usize];
        let remembered = self.memos[record.decoded as usize].remembered;
        // mov ecx, number
        self.asm.raw(&[0xB9]);
        self.asm.dword(if remembered { record.decoded } else { site });
        self.asm.jmp(if remembered { self.stubs.memo } else { self.stubs.memory });
    }

    /// RCX holds the addend of a memo, unless there is none; where the code emitted since `start` has left RCX alone, it
    /// then holds what it held there.
    pub(super) fn keep_addend(&mut self, memo: Option<usize>, start: Option<usize>) {
        let before = self.addend.filter(|&(_, at)| Some(at) == start).map(|(memo, _)| memo);
        self.addend = memo.or(before).map(|memo| (memo, self.asm.bytes.len()));
    }

    /// RAX + displacement without RAX in it: for instructions that need RAX otherwise.
    pub(super) fn without_rax(&mut self, operand: Rm) -> Rm {
        match operand {
            Rm::BaseIndex { base: host::RAX, .. } => self.combine(operand, host::RCX),
            other => other,
        }
    }
}

/// The memos for the groups of a block. `next`: where the next block looks for its own, among those of the view for reading
/// and those for writing.
pub(super) fn assign(groups: &Groups, view: View, next: &mut [usize; 2]) -> Vec<Option<usize>> {
    let memos = ViewMemos::of(view);
    // What only keeps addends within a block finds a place where nobody compares.
    let passing = ViewMemos::of(View::Supervisor);
    let mut used = [0; 2];
    let mut roaming = [0; 2];
    let mut assign = |group: &Group| {
        let kind = usize::from(group.write);
        if group.stack && !group.roams {
            return Some(memos.stack(group.write));
        }
        if group.roams && view == View::User {
            let number = passing.shared(group.write).nth(roaming[kind]);
            roaming[kind] += 1;
            return number;
        }
        let shared = memos.shared(group.write);
        used[kind] += 1;
        let number = if view == View::User { next[kind] % shared.len() } else { used[kind] - 1 };
        next[kind] = next[kind].wrapping_add(1);
        (used[kind] <= shared.len()).then_some(shared.start + number)
    };
    groups.list.iter().map(&mut assign).collect()
}
