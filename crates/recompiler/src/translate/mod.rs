//! The translator: guest blocks become host code.
//!
//! `form` decides how each instruction is translated, `flags` which flags are wanted, `lower` emits a block, `stubs` are
//! the code around blocks, `memory` is where it all lies. This file owns the code: it places blocks, links them,
//! takes links back when the guest changes its code or its mappings, and runs it.

mod asm;
mod encode;
mod flags;
mod form;
#[cfg(test)]
mod lockstep;
mod lower;
mod memory;
mod stubs;

use crate::blocks::{self, Block, BlockId, Blocks, Decoded, Key, Mode};
use crate::fault::Fault;
use crate::interp::{self, Delivered};
use crate::mmu::Kind;
use crate::state::{Bits, Core, FarJump, JUMPS, Jump, cr4, flag};
use crate::tlb::{self, VIEWS};
use form::Planner;
use hv::{Error, Pending};
use lower::Lowering;
use memory::CodeMemory;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use stubs::{Stubs, exit};

/// Bytes of host code one vCPU keeps before it starts afresh.
const CODE_SIZE: usize = 48 << 20;

/// Largest host code of one block: 64 instructions at well under this each.
const MAX_BLOCK: usize = 64 << 10;

/// Times a block is interpreted before it is translated.
const WARM: u32 = 4;

/// Why an instruction of translated code may need Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// A load.
    Read,
    /// A store or read-modify-write.
    Write,
    /// Always: the interpreter runs it.
    Interpret,
}

/// An instruction of translated code that may need Rust.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Its address.
    pub rip: u64,
    /// Where to go on with the host address of the bytes in RAX + RCX: offset in the code memory.
    pub join: u32,
    /// Where to go on when the instruction is done; 0 when it never comes back.
    pub after: u32,
    /// Bytes accessed.
    pub size: u16,
    /// Mode of the block.
    pub mode: Mode,
    /// Bytes of the instruction.
    pub length: u8,
    /// What it needs.
    pub kind: SiteKind,
    /// The access must be aligned to its size.
    pub aligned: bool,
    /// Number of the decoded instruction, where it is always interpreted.
    pub decoded: u32,
}

/// A jump from one block to a known guest address.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The block it leaves.
    pub block: BlockId,
    /// Guest address it leads to.
    pub target: u64,
    /// The jump's displacement: offset in the code memory; 0 when there is none to patch.
    pub patch: u32,
    /// Code that leaves to the dispatcher: offset in the code memory.
    pub cold: u32,
    /// The flags are in the host's only.
    pub host_flags: bool,
    /// Into another page.
    pub crosses: bool,
    /// The block it is linked to.
    pub linked: Option<BlockId>,
}

/// A block's host code.
pub struct Translated {
    /// Executable address of the entry that finds the flags saved in the core.
    pub entry_saved: u64,
    /// Executable address of the entry that finds the flags in the host's.
    pub entry_host: u64,
    /// Instruction pointer of the block.
    pub rip: u64,
    /// Links that lead here.
    pub incoming: Vec<u32>,
}

/// The translations of one vCPU.
pub struct Translator {
    code: CodeMemory,
    stubs: Stubs,
    stubs_size: usize,
    planner: Planner,
    sites: Vec<Site>,
    /// Instructions that are always interpreted.
    decoded: Vec<Decoded>,
    links: Vec<Link>,
    /// Links into other pages, by whether the target's mapping is global.
    crossing: [Vec<u32>; 2],
    /// Guest addresses whose blocks are translated: all, but for a search after the block that goes wrong.
    range: RangeInclusive<u64>,
    /// Times a block is interpreted before it is translated.
    warm: u32,
    /// The link by which translated code was left last, to be linked when its target is known.
    pending_link: Option<u32>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    translated: u64,
    guest_bytes: u64,
    entries: u64,
    restarts: u64,
}

impl Translator {
    /// The translator of a vCPU; `None` where the environment variable `WIRT_INTERPRET` asks for the interpreter alone.
    ///
    /// # Errors
    /// [`Error::Os`] when there is no executable memory.
    pub fn new(core: &mut Core) -> Result<Option<Self>, Error> {
        if std::env::var_os("WIRT_INTERPRET").is_some() {
            return Ok(None);
        }
        let mut code = CodeMemory::new(CODE_SIZE)?;
        let mut asm = asm::Asm::new(code.base());
        // Offset 0 means "nowhere" in a site: no code begins there.
        asm.raw(&[0xCC; 16]);
        let stubs = stubs::emit(&mut asm, is_x86_feature_detected!("avx"));
        code.append(&asm.bytes);
        core.this = std::ptr::from_mut(core) as u64;
        core.code_base = code.base();
        let stubs_size = code.used();
        Ok(Some(Translator {
            code,
            stubs,
            stubs_size,
            planner: Planner::new(),
            sites: Vec::new(),
            decoded: Vec::new(),
            links: Vec::new(),
            crossing: [Vec::new(), Vec::new()],
            range: translated_range(),
            warm: WARM,
            pending_link: None,
            counters: Counters::default(),
        }))
    }

    /// Whether a block is to run as host code: it is translated, or has been interpreted often enough.
    pub fn wants(&mut self, block: &Block) -> bool {
        if block.translated.is_some() {
            return true;
        }
        let possible =
            block.key.mode.bits() == Bits::B64 && block.key.mode.flat() && self.range.contains(&block.key.rip);
        if !possible || block.entered < self.warm {
            self.pending_link = None;
            return false;
        }
        true
    }

    /// Runs a block and what is linked to it, until translated code is left; then RIP is right and nothing is pending.
    pub fn run(&mut self, core: &mut Core, blocks: &mut Blocks, id: BlockId) -> Result<(), Fault> {
        if blocks.list[id as usize].translated.is_none() {
            if self.code.room() < MAX_BLOCK {
                self.restart(core, blocks);
                return Ok(());
            }
            self.translate(blocks, id);
        }
        self.link_pending(core, blocks, id);
        let entry = self.enter_in_table(core, &blocks.list[id as usize]);
        self.enter(core, entry);
        match core.exit {
            exit::LINK => {
                core.rip = self.links[core.exit_link as usize].target;
                self.pending_link = Some(core.exit_link);
            }
            exit::POLL => core.rip = self.links[core.exit_link as usize].target,
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, core: &mut Core, entry: u64) {
        self.counters.entries += 1;
        core.sites = self.sites.as_ptr() as u64;
        core.decoded = self.decoded.as_ptr() as u64;
        core.site_count = self.sites.len() as u32;
        core.flags = flags_to_saved(core.rflags);
        set_gs_base(core.this);
        // SAFETY: `enter` was emitted with this signature.
        let enter: extern "C" fn(*mut Core, u64) = unsafe { std::mem::transmute(self.stubs.enter) };
        enter(core, entry);
        core.rflags = saved_to_flags(core.rflags, core.flags);
    }

    /// Translates a block.
    fn translate(&mut self, blocks: &mut Blocks, id: BlockId) {
        let block = &blocks.list[id as usize];
        let (first_site, first_link) = (self.sites.len(), self.links.len());
        let base = self.code.next();
        let key = block.key;
        let lowering = Lowering::new(
            base,
            key.mode,
            id,
            key.rip,
            &self.stubs,
            &mut self.sites,
            &mut self.decoded,
            &mut self.links,
        );
        let lowered = lowering.translate(&mut self.planner, block);
        let offset = (base - self.code.base()) as u32;
        for site in &mut self.sites[first_site..] {
            site.join += offset;
            if site.after != 0 {
                site.after += offset;
            }
        }
        for link in &mut self.links[first_link..] {
            link.cold += offset;
            if link.patch != 0 {
                link.patch += offset;
            }
        }
        self.code.append(&lowered.bytes);
        self.counters.translated += 1;
        self.counters.guest_bytes += u64::from(block.size);
        let block = &mut blocks.list[id as usize];
        block.code = Box::default();
        block.bytes = Box::default();
        block.translated = Some(Translated {
            entry_saved: base + u64::from(lowered.entry_saved),
            entry_host: base + u64::from(lowered.entry_host),
            rip: block.key.rip,
            incoming: Vec::new(),
        });
    }

    /// Links the jump that was taken last to the block it led to.
    fn link_pending(&mut self, core: &mut Core, blocks: &mut Blocks, id: BlockId) {
        let Some(number) = self.pending_link.take() else { return };
        let link = &mut self.links[number as usize];
        let source = &blocks.list[link.block as usize];
        let target = &blocks.list[id as usize];
        let fits = source.valid && target.valid && link.target == target.key.rip && source.key.mode == target.key.mode;
        if !fits || link.patch == 0 || link.linked.is_some() {
            return;
        }
        if link.crosses || target.key.second.is_some() {
            let global = is_global(core, link.target)
                && (target.key.second.is_none() || is_global(core, (link.target | 0xFFF).wrapping_add(1)));
            self.crossing[usize::from(global)].push(number);
        }
        link.linked = Some(id);
        let Some(translated) = &mut blocks.list[id as usize].translated else { return };
        translated.incoming.push(number);
        let entry = if link.host_flags { translated.entry_host } else { translated.entry_saved };
        self.code.patch_jump(link.patch, entry);
    }

    fn unlink(code: &mut CodeMemory, link: &mut Link) {
        if link.linked.take().is_some() {
            code.patch_jump(link.patch, code.base() + u64::from(link.cold));
        }
    }

    /// Puts a block into the jump tables and returns its entry.
    fn enter_in_table(&mut self, core: &mut Core, block: &Block) -> u64 {
        let entry = block.translated.as_ref().map_or(0, |translated| translated.entry_saved);
        let Key { rip, mode, offset, second } = block.key;
        if second.is_none() {
            core.far_jumps[FarJump::slot(rip)] = FarJump { rip, offset, mode, host: entry };
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
                Self::unlink(&mut self.code, &mut self.links[number as usize]);
            }
        }
        self.pending_link = None;
    }

    /// A block was invalidated: nothing may lead to it any more.
    pub fn retire(&mut self, core: &mut Core, translated: &Translated) {
        for &number in &translated.incoming {
            Self::unlink(&mut self.code, &mut self.links[number as usize]);
        }
        let far = &mut core.far_jumps[FarJump::slot(translated.rip)];
        if far.host == translated.entry_saved {
            *far = FarJump::EMPTY;
        }
        let slot = translated.rip as usize & (JUMPS - 1);
        for view in &mut core.jumps {
            if view[slot].host == translated.entry_saved {
                view[slot] = Jump::empty(slot);
            }
        }
        self.pending_link = None;
    }

    /// Forgets all code.
    fn restart(&mut self, core: &mut Core, blocks: &mut Blocks) {
        self.counters.restarts += 1;
        blocks.clear(core);
        self.code.truncate(self.stubs_size);
        self.sites.clear();
        self.decoded.clear();
        self.links.clear();
        self.crossing = [Vec::new(), Vec::new()];
        self.pending_link = None;
        for view in 0..VIEWS {
            flush_jumps(core, view);
        }
        core.far_jumps.fill(FarJump::EMPTY);
        core.code_map_flush = 2;
    }

    /// Translates every block the first time it is met.
    #[cfg(test)]
    pub fn translate_at_once(&mut self) {
        self.warm = 0;
    }

    /// Counters by name.
    pub fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("translated", self.counters.translated),
            ("guest-bytes", self.counters.guest_bytes),
            ("host-bytes", (self.code.used() - self.stubs_size) as u64),
            ("entries", self.counters.entries),
            ("restarts", self.counters.restarts),
        ]
    }
}

/// The range `WIRT_TRANSLATE=LOW-HIGH` (hexadecimal) restricts translation to; everything otherwise.
fn translated_range() -> RangeInclusive<u64> {
    let parse = |text: String| {
        let (low, high) = text.split_once('-')?;
        Some(u64::from_str_radix(low, 16).ok()?..=u64::from_str_radix(high, 16).ok()?)
    };
    std::env::var("WIRT_TRANSLATE").ok().and_then(parse).unwrap_or(0..=u64::MAX)
}

/// RFLAGS as SETO and LAHF would save the arithmetic flags.
fn flags_to_saved(rflags: u64) -> u32 {
    (rflags as u32 & 0xD5) << 8 | u32::from(rflags & flag::OF != 0)
}

/// RFLAGS with the arithmetic flags as saved by SETO and LAHF.
fn saved_to_flags(rflags: u64, saved: u32) -> u64 {
    let low = u64::from(saved >> 8) & (flag::ARITHMETIC & 0xFF);
    let overflow = if saved & 1 != 0 { flag::OF } else { 0 };
    rflags & !flag::ARITHMETIC | low | overflow
}

/// Points the GS segment of the host at the core.
fn set_gs_base(base: u64) {
    use std::cell::Cell;
    thread_local! {
        static CURRENT: Cell<u64> = const { Cell::new(0) };
    }
    CURRENT.with(|current| {
        if current.get() != base {
            const ARCH_SET_GS: i32 = 0x1001;
            // SAFETY: sets the GS base of this thread, which nothing else in the process uses.
            unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
            current.set(base);
        }
    });
}

/// Puts an entry into the jump table of a view. `spans`: the block goes on in the next page.
fn enter_jump(core: &mut Core, mode: Mode, rip: u64, spans: bool, host: u64) {
    let view = mode.view() as usize;
    if core.jump_mode[view] != mode {
        flush_jumps(core, view);
        core.jump_mode[view] = mode;
    }
    let slot = rip as usize & (JUMPS - 1);
    if core.jumps[view][slot].host == 0 {
        core.used_jumps[view].push(slot as u16);
    }
    core.jumps[view][slot] = Jump { rip, host };
    if !core.jump_local[view] {
        let next = spans.then(|| (rip | 0xFFF).wrapping_add(1));
        core.jump_local[view] = [Some(rip), next].into_iter().flatten().any(|page| !is_global(core, page));
    }
}

/// Whether the code page of an instruction pointer is mapped globally.
fn is_global(core: &mut Core, rip: u64) -> bool {
    let user = core.cpl() == 3;
    // The page may have fallen out of the instruction TLB since it was executed last.
    core.fetch_address(rip).is_ok() && core.itlb.is_global(user, rip)
}

/// Empties the jump table of a view.
fn flush_jumps(core: &mut Core, view: usize) {
    for slot in std::mem::take(&mut core.used_jumps[view]) {
        core.jumps[view][slot as usize] = Jump::empty(slot as usize);
    }
    core.jump_local[view] = false;
}

/// The jump table has no entry for RIP: looks in the table behind it. Returns the host address to go on at, or 0 when the
/// dispatcher has to look. Runs with the guest's vector registers live, as [`resolve_memory`].
extern "C" fn find_target(core: &mut Core) -> u64 {
    if core.poll.load(Ordering::Relaxed) != 0 || core.code_map_flush != 0 {
        return 0;
    }
    let mode = Mode::of(core);
    let far = core.far_jumps[FarJump::slot(core.rip)];
    if far.rip != core.rip || far.mode != mode || far.host == 0 {
        return 0;
    }
    // A fault of the fetch is the dispatcher's to raise.
    let Ok(physical) = core.fetch_address(far.rip) else { return 0 };
    if core.memory.offset(physical, 1) != Some(far.offset) {
        return 0;
    }
    enter_jump(core, mode, far.rip, false, far.host);
    far.host
}

/// What [`resolve_memory`] returns in RAX and RDX.
#[repr(C)]
pub struct Resolved {
    /// Executable address to go on at, or 0: interpret the instruction.
    resume: u64,
    /// Host address of the bytes.
    host: u64,
}

/// A lookup missed at `linear`: finds the bytes. Runs with the guest's vector registers live in the host's (the stub
/// keeps them) and with its MXCSR: no floating point, no devices.
extern "C" fn resolve_memory(core: &mut Core, linear: u64, site: u32) -> Resolved {
    const INTERPRET: Resolved = Resolved { resume: 0, host: 0 };
    let Some(site) = site_at(core, site) else { return INTERPRET };
    let size = u64::from(site.size);
    if (linear & 0xFFF) + size > 4096 || site.aligned && linear & (size - 1) != 0 {
        return INTERPRET;
    }
    let view = site.mode.view();
    let (kind, write) = match site.kind {
        SiteKind::Read => (Kind::Read, false),
        _ => (Kind::Write, true),
    };
    let found = match core.translate_page(view, linear, kind) {
        Ok(found) => found,
        // Nothing of the instruction is done before its last access is looked up.
        Err(fault) if site.mode.fpu() => {
            core.rip = site.rip;
            core.rflags = saved_to_flags(core.rflags, core.flags);
            let resume = raise(core, fault);
            return Resolved { resume: if resume == 0 { stubs::LEAVE } else { resume }, host: 0 };
        }
        Err(_) => return INTERPRET,
    };
    let entry = &core.tlb.entries[view as usize][tlb::slot(linear)];
    let offset = linear.wrapping_sub(if write { entry.write } else { entry.read });
    let resume = core.code_base + u64::from(site.join);
    if offset < 4096 {
        return Resolved { resume, host: entry.host + offset };
    }
    // Data beside code: no translation is touched.
    if write {
        if let Some(host) = core.host_beside_code(found.physical, size) {
            return Resolved { resume, host: host as u64 };
        }
    }
    INTERPRET
}

/// Interprets the instruction of a site. Returns the executable address to go on at, or 0 when the dispatcher has to look:
/// RIP is right then.
extern "C" fn interpret_site(core: &mut Core, site: u32) -> u64 {
    let Some(site) = site_at(core, site) else {
        core.shutdown = true;
        return 0;
    };
    core.rip = site.rip;
    core.rflags = saved_to_flags(core.rflags, core.flags);
    let decoded = match site.kind {
        // SAFETY: an interpreted site's number is that of an element, and the elements do not move while translated code
        // runs.
        SiteKind::Interpret => Ok(unsafe { (*(core.decoded as *const Decoded).add(site.decoded as usize)).clone() }),
        _ => blocks::fetch_one(core),
    };
    if let Err(fault) = decoded.and_then(|decoded| interp::step(core, &decoded.instruction, decoded.handler)) {
        return raise(core, fault);
    }
    core.flags = flags_to_saved(core.rflags);
    let behind = core.rip == site.rip.wrapping_add(u64::from(site.length)) && site.after != 0;
    match undisturbed(core) {
        Some(mode) if behind && mode == site.mode => core.code_base + u64::from(site.after),
        Some(mode) => translated_at_rip(core, mode),
        None => 0,
    }
}

/// Delivers a fault in the middle of translated code. Returns where its handler's translation is, or 0.
fn raise(core: &mut Core, fault: Fault) -> u64 {
    if let Delivered::TripleFault = core.deliver_fault(fault) {
        core.shutdown = true;
    }
    core.flags = flags_to_saved(core.rflags);
    match undisturbed(core) {
        Some(mode) if !core.shutdown => translated_at_rip(core, mode),
        _ => 0,
    }
}

/// The processor's mode, when nothing needs the dispatcher's attention.
fn undisturbed(core: &Core) -> Option<Mode> {
    let quiet = core.poll.load(Ordering::Relaxed) == 0
        && core.code_map_flush == 0
        && !core.halted
        && !core.interrupt_shadow
        && !blocks::debugged(core)
        && !interruptible(core);
    quiet.then(|| Mode::of(core))
}

/// The jump table's entry for the instruction pointer, or 0.
fn translated_at_rip(core: &Core, mode: Mode) -> u64 {
    let view = mode.view() as usize;
    let jump = core.jumps[view][core.rip as usize & (JUMPS - 1)];
    if core.jump_mode[view] == mode && jump.rip == core.rip { jump.host } else { 0 }
}

fn interruptible(core: &Core) -> bool {
    core.rflags & flag::IF != 0 && core.lapic.as_ref().is_some_and(|lapic| lapic.pending().contains(Pending::INTR))
}

fn site_at(core: &Core, site: u32) -> Option<Site> {
    if site >= core.site_count {
        return None;
    }
    // SAFETY: `sites` points at `site_count` sites, which do not move while translated code runs.
    Some(unsafe { *(core.sites as *const Site).add(site as usize) })
}
