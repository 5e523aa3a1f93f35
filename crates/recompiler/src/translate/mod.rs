//! The translator: guest blocks become host code.
//!
//! `form` decides how each instruction is translated, `flags` which flags are wanted, `lower` emits a block, `stubs` are
//! the code around blocks, `memory` is where it all lies. `jumps` links blocks, and takes links back when the guest
//! changes its code or its mappings; `callbacks` is what translated code calls. This file owns the code: it places
//! blocks and runs them.

mod asm;
mod attend;
mod callbacks;
mod encode;
mod flags;
mod form;
mod groups;
mod in_place;
mod jumps;
#[cfg(test)]
mod lockstep;
mod lower;
mod memory;
mod memos;
mod peek;
#[cfg(test)]
mod programs;
mod stubs;
mod trace;
#[cfg(test)]
mod transitions;

use crate::blocks::{Block, BlockId, Blocks, Body, Decoded};
use crate::fault::Fault;
use crate::instruments::Instruments;
use crate::mode::Mode;
use crate::smp::WANTED;
use crate::state::{Core, FarJump};
use crate::tlb::VIEWS;
use callbacks::{flags_to_saved, saved_to_flags};
use form::Planner;
use hv::Error;
use jumps::flush_jumps;
use lower::Lowering;
use memory::CodeMemory;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use stubs::{Stubs, Vectors, exit};

pub use in_place::InPlace;
pub use peek::Pieces;
pub use trace::Trace;

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
    /// Stores that may go on to the end of the page.
    WriteRun,
    /// Always: the interpreter runs it.
    Interpret,
    /// An indirect branch, where its target is not canonical.
    Branch,
    /// The leader of a group of accesses.
    Leader,
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
    /// Bytes of the instruction, and of those behind it that are interpreted with it.
    pub extent: u16,
    /// What it needs.
    pub kind: SiteKind,
    /// The access must be aligned to its size.
    pub aligned: bool,
    /// Number of the decoded instruction, where it is always interpreted; of a branch, what added to RSP undoes it; of a
    /// leader, its number.
    pub decoded: u32,
}

/// The leader of a group of accesses: what it compares with, and where it goes on. The memo stub reads it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Leader {
    /// Largest offset in a page of the group's lowest byte.
    pub most: u64,
    /// Offset in the core of the tags it needs, of the TLB's slot 0.
    pub tag: u32,
    /// Offset in the core of its memo.
    pub memo: u32,
    /// Offset in the core of what says that the memo was filled.
    pub used: u32,
    /// Where its check begins: offset in the code memory.
    pub join: u32,
    /// Number of its site.
    pub site: u32,
    /// Times its check failed since that was looked into last.
    pub misses: u32,
    /// Number of its memo.
    pub number: u32,
    /// Bits of the lowest byte's address that have to be zero.
    pub mask: u32,
    /// From the group's lowest byte to what the leader accesses.
    pub own: u32,
    /// Somebody in the group writes.
    pub group_writes: bool,
    /// The leader writes.
    pub writes: bool,
    /// It compares with its memo, not with the TLB.
    pub remembered: bool,
}

/// What translated code and those who look after it need to know about it.
#[derive(Default)]
pub struct Records {
    /// Instructions that may need Rust.
    pub sites: Vec<Site>,
    /// Instructions that are always interpreted.
    pub decoded: Vec<Decoded>,
    /// Jumps to known addresses.
    pub links: Vec<Link>,
    /// Leaders of groups.
    pub leaders: Vec<Leader>,
    /// The memos given out next, for reading and for writing.
    pub next_memo: [usize; 2],
}

/// A jump from one block to a known guest address.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The block it leaves.
    pub block: BlockId,
    /// Guest address it leads to.
    pub target: u64,
    /// Mode there.
    pub mode: Mode,
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
    /// The block among whose links it is, or [`NONE`]: those that lead there or have led there.
    pub among: BlockId,
    /// The next of these, or [`NONE`].
    pub next: u32,
}

/// The number of no link and no block.
pub const NONE: u32 = u32::MAX;

/// A block's host code.
pub struct Translated {
    /// Executable address of the entry that finds the flags saved in the core.
    pub entry_saved: u64,
    /// Executable address of the entry that finds the flags in the host's.
    pub entry_host: u64,
    /// What it depends on beside its own bytes.
    pub peeked: Pieces,
    /// The first of the links that lead here, or [`NONE`].
    pub incoming: u32,
}

/// The translations of one vCPU.
pub struct Translator {
    code: CodeMemory,
    stubs: Stubs,
    stubs_size: usize,
    planner: Planner,
    records: Records,
    /// Links into other pages, by whether the target's mapping is global.
    crossing: [Vec<u32>; 2],
    /// Guest addresses whose blocks are translated: all, but for a search after the block that goes wrong.
    range: RangeInclusive<u64>,
    /// Times a block is interpreted before it is translated.
    warm: u32,
    /// The link by which translated code was left last, to be linked when its target is known.
    pending_link: Option<u32>,
    instruments: Arc<Instruments>,
    /// Blocks translated, their bytes, and the time it took in ticks of the host's counter.
    translated: u64,
    guest_bytes: u64,
    host_bytes: u64,
    ticks: u64,
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
        let stubs = stubs::emit(&mut asm, Vectors::of_host());
        code.append(&asm.bytes);
        core.this = std::ptr::from_mut(core) as u64;
        core.code_base = code.base();
        let stubs_size = code.used();
        Ok(Some(Translator {
            code,
            stubs,
            stubs_size,
            planner: Planner::new(),
            records: Records::default(),
            crossing: [Vec::new(), Vec::new()],
            range: translated_range(),
            warm: WARM,
            pending_link: None,
            translated: 0,
            guest_bytes: 0,
            host_bytes: 0,
            ticks: 0,
            entries: 0,
            restarts: 0,
            instruments: Arc::default(),
        }))
    }

    /// Sets who is told of each block that is translated.
    pub fn set_instruments(&mut self, instruments: Arc<Instruments>) {
        self.instruments = instruments;
    }

    /// Whether a block is to run as host code: it is translated, or has been interpreted often enough.
    pub fn wants(&mut self, block: &Block) -> bool {
        if block.translated().is_some() {
            return true;
        }
        let mode = block.key.mode;
        let possible = self.range.contains(&mode.linear(block.key.rip)) && !mode.checks_alignment();
        if !possible || block.entered < self.warm {
            self.pending_link = None;
            return false;
        }
        true
    }

    /// Runs a block and what is linked to it, until translated code is left; then RIP is right and nothing is pending.
    pub fn run(&mut self, core: &mut Core, blocks: &mut Blocks, id: BlockId) -> Result<(), Fault> {
        if blocks.list[id as usize].translated().is_none() {
            if self.code.room() < MAX_BLOCK || core.mode_numbers.full() {
                self.restart(core, blocks);
                return Ok(());
            }
            self.translate(core, blocks, id);
            // What was asked meanwhile may concern this very block.
            if core.poll.load(Ordering::Relaxed) == WANTED {
                return Ok(());
            }
        }
        self.link_pending(core, blocks, id);
        let entry = self.enter_in_table(core, &blocks.list[id as usize]);
        self.enter(core, entry);
        match core.exit {
            exit::LINK => {
                core.rip = self.records.links[core.exit_link as usize].target;
                self.pending_link = Some(core.exit_link);
            }
            exit::POLL => core.rip = self.records.links[core.exit_link as usize].target,
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, core: &mut Core, entry: u64) {
        self.entries += 1;
        core.sites = self.records.sites.as_ptr() as u64;
        core.decoded = self.records.decoded.as_ptr() as u64;
        core.site_count = self.records.sites.len() as u32;
        core.links = self.records.links.as_ptr() as u64;
        core.link_count = self.records.links.len() as u32;
        core.leaders = self.records.leaders.as_mut_ptr() as u64;
        core.leader_count = self.records.leaders.len() as u32;
        core.flags = flags_to_saved(core.rflags);
        core.update_windows();
        core.tlb.memos_emptied = false;
        prepare_thread(core.this);
        // SAFETY: `enter` was emitted with this signature.
        let enter: extern "C" fn(*mut Core, u64) = unsafe { std::mem::transmute(self.stubs.enter) };
        enter(core, entry);
        core.counters.exits[core.exit as usize & 3] += 1;
        core.rflags = saved_to_flags(core.rflags, core.flags);
    }

    /// Translates a block, and what follows it as a rule.
    fn translate(&mut self, core: &mut Core, blocks: &mut Blocks, id: BlockId) {
        let start = core.tsc.now();
        let Some(trace) = Trace::take(blocks, id) else { return };
        let peeked = peek::behind(core, &trace);
        let records = &self.records;
        let (first_site, first_link) = (records.sites.len(), records.links.len());
        let first_leader = records.leaders.len();
        let base = self.code.next();
        let key = trace.key;
        let mode_number = core.mode_numbers.assign(key.mode);
        let place = lower::Place { base, key, block: id, mode_number };
        let lowering = Lowering::new(place, &self.stubs, &mut self.records);
        let lowered = lowering.translate(&mut self.planner, &trace, &peeked, &core.roaming);
        let offset = (base - self.code.base()) as u32;
        for leader in &mut self.records.leaders[first_leader..] {
            leader.join += offset;
        }
        for site in &mut self.records.sites[first_site..] {
            site.join += offset;
            if site.after != 0 {
                site.after += offset;
            }
        }
        for link in &mut self.records.links[first_link..] {
            link.cold += offset;
            if link.patch != 0 {
                link.patch += offset;
            }
        }
        self.code.append(&lowered.bytes);
        self.instruments.translated(&trace, base, &lowered.bytes);
        self.translated += 1;
        self.guest_bytes += u64::from(trace.size);
        self.host_bytes += lowered.bytes.len() as u64;
        blocks.list[id as usize].body = Body::Translated(Translated {
            entry_saved: base + u64::from(lowered.entry_saved),
            entry_host: base + u64::from(lowered.entry_host),
            peeked: peeked.pieces,
            incoming: NONE,
        });
        self.ticks += core.tsc.now().wrapping_sub(start);
    }

    /// Forgets all code.
    pub fn restart(&mut self, core: &mut Core, blocks: &mut Blocks) {
        self.restarts += 1;
        blocks.clear(core);
        self.code.truncate(self.stubs_size);
        self.records = Records::default();
        self.crossing = [Vec::new(), Vec::new()];
        self.pending_link = None;
        for view in 0..VIEWS {
            flush_jumps(core, view);
        }
        core.far_jumps.fill(FarJump::EMPTY);
        core.mode_numbers.clear();
        *core.in_place = InPlace::default();
        core.code_map_flush = 2;
    }

    /// Translates every block when it was met this often.
    #[cfg(test)]
    pub fn translate_after(&mut self, times: u32) {
        self.warm = times;
    }

    /// Counters by name.
    pub fn statistics(&self, core: &Core) -> [(&'static str, u64); 6] {
        let nanoseconds = u128::from(self.ticks) * 1_000_000 / u128::from(core.tsc.khz);
        [
            ("translated", self.translated),
            ("translation-ns", nanoseconds as u64),
            ("guest-bytes", self.guest_bytes),
            ("host-bytes", self.host_bytes),
            ("entries", self.entries),
            ("restarts", self.restarts),
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

/// Prepares this thread for translated code: points the host's GS segment at the core, and holds signals off, whose
/// handlers would run on the guest's stack pointer. Those that the processor raises end the process in any case.
fn prepare_thread(gs_base: u64) {
    use std::cell::Cell;
    thread_local! {
        static CURRENT: Cell<u64> = const { Cell::new(0) };
    }
    CURRENT.with(|current| {
        if current.get() == 0 {
            block_signals();
        }
        if current.get() != gs_base {
            const ARCH_SET_GS: i32 = 0x1001;
            // SAFETY: sets the GS base of this thread, which nothing else in the process uses.
            unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, gs_base) };
            current.set(gs_base);
        }
    });
}

fn block_signals() {
    // SAFETY: fills a set of our own, and changes the mask of this thread alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for raised in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS] {
            libc::sigdelset(&mut set, raised);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}
