//! One vCPU: the loop around translated code and the interpreter.
//!
//! ```text
//! run:   loop { attend: requests, kicks, INIT/SIPI, NMI, interrupts, HLT   →  maybe leave
//!               execute: blocks, translated or interpreted, until the poll word is set }
//! ```

use crate::blocks::{self, Block, BlockId, Blocks, Body, Found};
use crate::fault::Fault;
use crate::instruments::Instruments;
use crate::interp::{self, Delivered};
use crate::mode::Mode;
use crate::smp::{QUIET, Request, WANTED};
use crate::state::{Core, cr0, flag};
use crate::translate::Translator;
use hv::{CpuState, Error, Exit, Kick, LocalApic, Pending, Segment, SegmentRegister, Vcpu};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Entries of the map from instruction pointers to blocks that is asked before [`Blocks`].
const NEAR: usize = 4096;

#[derive(Clone, Copy)]
struct NearEntry {
    rip: u64,
    mode: Mode,
    block: BlockId,
    /// Valid while this is the vCPU's generation.
    generation: u64,
}

const EMPTY: NearEntry = NearEntry { rip: 0, mode: Mode::NONE, block: 0, generation: 0 };

/// Reports faults on standard error when the environment variable `WIRT_TRACE` is set: what a guest that dies early
/// tripped over.
fn trace(core: &mut Core, fault: &Fault) {
    let linear = core.linear_rip();
    let mut bytes = [0; 15];
    let shown = match core.read_bytes(linear, &mut bytes) {
        Ok(()) => format!("{bytes:02x?}"),
        Err(_) => "unreadable".into(),
    };
    eprintln!("{fault:x?} at {linear:#x} cpl {} code {shown} gpr {:x?}", core.cpl(), core.gpr);
}

/// A virtual processor of the recompiler.
pub struct RecompilerVcpu {
    pub(crate) core: Box<Core>,
    pub(crate) blocks: Blocks,
    near: Box<[NearEntry; NEAR]>,
    /// Counts the times that `near` became stale.
    generation: u64,
    translator: Option<Translator>,
    kick: Arc<dyn Kick>,
    /// `WIRT_TRACE` is set.
    traced: bool,
}

/// Why the inner loop stopped.
pub(crate) enum Stop {
    /// The poll word is set, or something that `attend` decides may have changed.
    Poll,
    /// A triple fault.
    Shutdown,
}

impl RecompilerVcpu {
    pub(crate) fn new(mut core: Box<Core>, kick: Arc<dyn Kick>) -> Result<Self, Error> {
        core.shared.mailbox(core.id).attach(&core.poll);
        let translator = Translator::new(&mut core)?;
        Ok(RecompilerVcpu {
            core,
            blocks: Blocks::default(),
            near: Box::new([EMPTY; NEAR]),
            generation: 1,
            translator,
            kick,
            traced: std::env::var_os("WIRT_TRACE").is_some(),
        })
    }

    /// Sets who is told of each block that is translated.
    pub(crate) fn set_instruments(&mut self, instruments: Arc<Instruments>) {
        if let Some(translator) = &mut self.translator {
            translator.set_instruments(instruments);
        }
    }

    #[cfg(test)]
    pub(crate) fn translate_after(&mut self, times: u32) {
        if let Some(translator) = &mut self.translator {
            translator.translate_after(times);
        }
    }

    /// Handles whatever others want of this vCPU. `Some`: leave `run`.
    fn attend(&mut self) -> Option<Exit> {
        loop {
            // Cleared before anything is looked at: what comes later sets it again.
            self.core.poll.store(QUIET, Ordering::SeqCst);
            let shared = self.core.shared.clone();
            let (requests, kicked) = shared.mailbox(self.core.id).enter();
            requests.into_iter().for_each(|request| self.apply(request));
            self.flush_code_maps();
            if kicked {
                return Some(Exit::Kicked);
            }
            match self.core.deliver_loaded_events() {
                Delivered::Ok => {}
                Delivered::TripleFault => return Some(Exit::Shutdown),
            }
            if let Some(lapic) = self.core.lapic.clone() {
                match self.events(lapic.as_ref()) {
                    Delivered::Ok => {}
                    Delivered::TripleFault => return Some(Exit::Shutdown),
                }
            }
            if !self.core.halted && !self.core.waiting_for_sipi {
                return None;
            }
            if self.core.lapic.is_none() {
                return Some(Exit::Halted);
            }
            // An interrupt that could not be acknowledged may be pending again, without another kick.
            if !self.interruptible() {
                shared.mailbox(self.core.id).sleep(&self.core.poll);
            }
        }
    }

    /// Delivers the most urgent pending event, and notes for translated STI whether another one waits.
    fn events(&mut self, lapic: &dyn LocalApic) -> Delivered {
        let delivered = self.deliver_event(lapic);
        let held_off = self.core.rflags & flag::IF == 0 && lapic.pending().contains(Pending::INTR);
        self.core.interrupt_waits = u32::from(held_off);
        delivered
    }

    /// Intel SDM volume 3A, section 6.9.
    fn deliver_event(&mut self, lapic: &dyn LocalApic) -> Delivered {
        let pending = lapic.pending();
        if pending.is_empty() {
            return Delivered::Ok;
        }
        let core = &mut self.core;
        if pending.contains(Pending::INIT) && lapic.take_init() {
            let apic_base = lapic.read_msr(0x1B);
            core.init();
            lapic.reset();
            debug_assert_eq!(apic_base, lapic.read_msr(0x1B));
        }
        if pending.contains(Pending::SIPI) {
            if let Some(vector) = lapic.take_sipi() {
                if core.waiting_for_sipi {
                    core.start_at(vector);
                }
            }
        }
        if core.waiting_for_sipi {
            return Delivered::Ok;
        }
        if core.interrupt_shadow {
            return Delivered::Ok;
        }
        if pending.contains(Pending::NMI) && !core.nmi_masked && lapic.take_nmi() {
            core.halted = false;
            return core.deliver_nmi();
        }
        if pending.contains(Pending::INTR) && core.rflags & flag::IF != 0 {
            if let Some(vector) = lapic.acknowledge() {
                core.halted = false;
                return core.deliver_interrupt(vector);
            }
        }
        Delivered::Ok
    }

    fn apply(&mut self, request: Request) {
        match request {
            Request::Invalidate { offset, size } => self.invalidate(offset, size),
            Request::Protect { page } => {
                let host = self.core.memory.base() as u64 + (page << 12);
                self.core.tlb.protect(host);
            }
            Request::Everything => self.forget_everything(),
        }
    }

    /// Drops all blocks and the TLBs, and looks up what memory answers where.
    fn forget_everything(&mut self) {
        self.core.layout = self.core.memory.layout();
        self.core.flush_tlb(false);
        match &mut self.translator {
            Some(translator) => translator.restart(&mut self.core, &mut self.blocks),
            None => self.blocks.clear(&self.core),
        }
        self.generation += 1;
    }

    fn invalidate(&mut self, offset: u64, size: u64) {
        let mut dropped = false;
        let mut retired = Vec::new();
        self.blocks.invalidate(&self.core, offset, size, |key, body| {
            dropped = true;
            if let Body::Translated(translated) = body {
                retired.push((key, translated));
            }
        });
        if let Some(translator) = &mut self.translator {
            retired.iter().for_each(|(key, translated)| translator.retire(&mut self.core, key, translated));
        }
        if dropped {
            self.generation += 1;
        }
    }

    /// After a change of address translation: the maps from instruction pointers to code are stale.
    fn flush_code_maps(&mut self) {
        if self.core.code_map_flush != 0 {
            let any = std::mem::take(&mut self.core.code_map_flush) > 1;
            self.core.counters.code_flushes += 1;
            self.generation += 1;
            if let Some(translator) = &mut self.translator {
                translator.flush_jumps(&mut self.core, any);
            }
        }
    }

    /// Runs blocks until the poll word is set.
    pub(crate) fn execute(&mut self) -> Stop {
        loop {
            if self.core.poll.load(Ordering::Relaxed) == WANTED {
                return Stop::Poll;
            }
            if self.core.code_map_flush != 0 {
                self.flush_code_maps();
            }
            let outcome = if self.core.interrupt_shadow || blocks::debugged(&self.core) {
                self.core.counters.interpreted += 1;
                interp::single(&mut self.core)
            } else {
                self.next_block()
            };
            match outcome {
                Ok(()) => {}
                Err(fault) => {
                    if self.traced {
                        trace(&mut self.core, &fault);
                    }
                    if let Delivered::TripleFault = self.core.deliver_fault(fault) {
                        return Stop::Shutdown;
                    }
                }
            }
            if std::mem::take(&mut self.core.shutdown) {
                return Stop::Shutdown;
            }
            if self.core.halted || self.interruptible() {
                return Stop::Poll;
            }
        }
    }

    /// Something waits that could be delivered now (IF may just have been set).
    fn interruptible(&self) -> bool {
        match &self.core.lapic {
            Some(lapic) => {
                let pending = lapic.pending();
                !pending.is_empty()
                    && !self.core.interrupt_shadow
                    && (pending.intersects(Pending::INIT | Pending::SIPI)
                        || !self.core.waiting_for_sipi
                            && (pending.contains(Pending::NMI) && !self.core.nmi_masked
                                || pending.contains(Pending::INTR) && self.core.rflags & flag::IF != 0))
            }
            None => false,
        }
    }

    /// Finds what is at the instruction pointer and runs it, translated when there is a translation.
    fn next_block(&mut self) -> Result<(), Fault> {
        let mode = Mode::of(&self.core);
        let slot = self.core.rip as usize & (NEAR - 1);
        let near = self.near[slot];
        let id = if near.rip == self.core.rip && near.mode == mode && near.generation == self.generation {
            near.block
        } else {
            if self.blocks.crowded() {
                self.blocks.drop_cold(&self.core);
                self.generation += 1;
            }
            match self.blocks.find(&mut self.core, mode)? {
                // What was asked meanwhile may concern this very block.
                Found::Block(_) if self.core.poll.load(Ordering::Relaxed) == WANTED => return Ok(()),
                Found::Block(id) => {
                    self.near[slot] = NearEntry { rip: self.core.rip, mode, block: id, generation: self.generation };
                    id
                }
                Found::Single(decoded) => {
                    self.core.counters.interpreted += 1;
                    return interp::step(&mut self.core, &decoded.instruction, decoded.handler);
                }
            }
        };
        if let Some(translator) = &mut self.translator {
            if translator.wants(&self.blocks.list[id as usize]) {
                return translator.run(&mut self.core, &mut self.blocks, id);
            }
        }
        let block = &mut self.blocks.list[id as usize];
        block.entered = block.entered.saturating_add(1);
        let (count, result) = interpret(&mut self.core, block);
        self.core.counters.interpreted += count;
        result
    }
}

/// Interprets a block; stops early at a branch, or when the block's own code was changed. Returns the number of
/// instructions executed.
fn interpret(core: &mut Core, block: &Block) -> (u64, Result<(), Fault>) {
    let mut count = 0;
    for decoded in block.code().0 {
        if core.rip != decoded.instruction.ip() {
            break;
        }
        count += 1;
        if let Err(fault) = interp::step(core, &decoded.instruction, decoded.handler) {
            return (count, Err(fault));
        }
        // A store into translated code (our own included) posts a request and sets the poll word.
        if core.poll.load(Ordering::Relaxed) == WANTED || core.interrupt_shadow {
            break;
        }
    }
    (count, Ok(()))
}

impl Core {
    /// INIT: Intel SDM volume 3A, table 10-1. x87, SSE, MSRs and the local APIC's base keep their values.
    fn init(&mut self) {
        let reset = CpuState::reset();
        self.gpr = reset.gpr;
        self.rip = reset.rip;
        self.rflags = reset.rflags;
        self.segments = reset.segments;
        self.tr = reset.tr;
        self.ldtr = reset.ldtr;
        self.gdtr = reset.gdtr;
        self.idtr = reset.idtr;
        self.cr0 = reset.cr0 & !(cr0::CD | cr0::NW) | self.cr0 & (cr0::CD | cr0::NW);
        self.cr2 = 0;
        self.cr3 = 0;
        self.cr4 = 0;
        self.efer = 0;
        self.dr = reset.dr;
        self.dr6 = reset.dr6;
        self.dr7 = reset.dr7;
        self.halted = false;
        self.nmi_masked = false;
        self.interrupt_shadow = false;
        self.stack_shadow = false;
        self.waiting_for_sipi = self.id != 0;
        self.flush_tlb(false);
        self.forget_cpuid();
    }

    /// A start-up IPI: real mode at `vector << 12`.
    fn start_at(&mut self, vector: u8) {
        let selector = u16::from(vector) << 8;
        self.segments[SegmentRegister::Cs as usize] =
            Segment { base: u64::from(vector) << 12, limit: 0xFFFF, selector, access: 0x9B };
        self.rip = 0;
        self.waiting_for_sipi = false;
    }
}

impl Drop for RecompilerVcpu {
    fn drop(&mut self) {
        self.core.shared.mailbox(self.core.id).detach();
    }
}

impl Vcpu for RecompilerVcpu {
    fn run(&mut self) -> Result<Exit, Error> {
        loop {
            if let Some(exit) = self.attend() {
                self.core.shared.mailbox(self.core.id).leave();
                return Ok(exit);
            }
            if let Stop::Shutdown = self.execute() {
                self.core.shared.mailbox(self.core.id).leave();
                return Ok(Exit::Shutdown);
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(self.core.to_state())
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        self.core.load_state(state)?;
        self.core.flush_tlb(false);
        self.flush_code_maps();
        Ok(())
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        self.core.peek_translate(linear)
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let blocks = [("blocks", self.blocks.decoded), ("invalidations", self.blocks.invalidations)];
        let translator = self.translator.as_ref().map(|translator| translator.statistics(&self.core));
        let named = blocks.into_iter().chain(translator.into_iter().flatten());
        let mut statistics: Vec<_> = named.map(|(name, count)| (name.to_string(), count)).collect();
        statistics.extend(self.core.counters.listed());
        statistics
    }
}
