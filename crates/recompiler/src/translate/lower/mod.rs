//! From guest instructions to host code: one block at a time.
//!
//! # Registers
//! Guest registers live in host registers, but for R10 and R11, which compilers use least and which live in the core. RAX
//! and RCX are scratch: RAX holds the address of a memory operand and serves LAHF and SAHF, RCX the TLB slot, counts and
//! JRCXZ. RSP is the guest's as well, so translated code has no stack, and no signal may be handled on its thread. The
//! core is reached through GS.
//!
//! # Flags
//! The guest's arithmetic flags are in the host's flags, or saved in the core (`Core::flags`, as LAHF and SETO give
//! them), or both. A TLB lookup destroys the host's: they are saved before it when anybody may still want them, and
//! restored before an instruction that reads them or passes some of them on.
//!
//! # Files
//! Here are the driver and the state of the flags. `copy` has the instructions that keep their encoding; the others have
//! rules, in `address` and `memo` (operands in memory), `arithmetic`, `stack`, `string`, `units` (control words of the vector units and x87), `system` and `flow` (branches, the block's exits).

mod address;
mod arithmetic;
mod copy;
mod flow;
mod memo;
mod stack;
mod string;
mod system;
mod units;

use super::asm::{Asm, host};
use super::encode::Rm;
use super::flags::{self, Flags, Use};
use super::form::{Plan, Planner};
use super::groups::Groups;
use super::peek::Peeked;
use super::stubs::Stubs;
use super::trace::Trace;
use super::{Leader, Link, Records, Site};
use crate::blocks::{BlockId, Decoded, Key};
use crate::mode::Mode;
use crate::state::{Roams, layout};
use crate::tlb::View;
use flow::Cold;
use iced_x86::{Instruction, Mnemonic};
use memo::Open;
use rustc_hash::FxHashMap;

/// Where a guest register lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In a host register.
    Host(u8),
    /// In the core, at this offset.
    Core(u32),
}

/// The homes of the guest's registers in encoding order; 0xFF: in the core.
pub const HOMES: [u8; 16] = [
    host::R14,
    host::R15,
    host::RDX,
    host::RBX,
    host::RSP,
    host::RBP,
    host::RSI,
    host::RDI,
    8,
    9,
    0xFF,
    0xFF,
    host::R12,
    host::R13,
    host::R10,
    host::R11,
];

/// The home of a guest register.
pub fn home(number: u8) -> Home {
    match HOMES[number as usize & 15] {
        0xFF => Home::Core(layout::gpr(number)),
        register => Home::Host(register),
    }
}

/// The home of a guest register as an operand.
fn place(number: u8) -> Rm {
    match home(number) {
        Home::Host(register) => Rm::Register(register),
        Home::Core(offset) => Rm::Gs(offset),
    }
}

/// An instruction that turned out not to fit the rules; the interpreter takes it.
#[derive(Debug)]
struct Unfit;

/// What translating a block gave.
pub struct Lowered {
    /// The host code.
    pub bytes: Vec<u8>,
    /// Offset of the entry that finds the flags saved in the core.
    pub entry_saved: u32,
    /// Offset of the entry that finds the flags in the host's.
    pub entry_host: u32,
}

/// The block to translate, and where to.
pub struct Place {
    /// Address of the host code.
    pub base: u64,
    /// What the block was found by.
    pub key: Key,
    /// Its number.
    pub block: BlockId,
    /// The number of its mode in the jump tables.
    pub mode_number: u32,
}

/// Translates one block.
pub struct Lowering<'a> {
    asm: Asm,
    mode: Mode,
    mode_number: u32,
    stubs: &'a Stubs,
    sites: &'a mut Vec<Site>,
    decoded: &'a mut Vec<Decoded>,
    links: &'a mut Vec<Link>,
    memos: &'a mut Vec<Leader>,
    next_memo: &'a mut [usize; 2],
    groups: Groups,
    open: Open,
    /// The register of the core that RAX holds.
    held: Option<u8>,
    /// The memo whose addend RCX holds while no more code is emitted than this.
    addend: Option<(usize, usize)>,
    /// Index of the present instruction.
    index: usize,
    /// Where the instructions end.
    ends: Vec<u64>,
    block: BlockId,
    start_rip: u64,
    /// Where in its page the block begins.
    start_in_page: u64,
    cold: Vec<Cold>,
    /// The host's flags are the guest's (or the guest's are not wanted).
    in_host: bool,
    /// The core's saved flags are the guest's.
    saved: bool,
    /// Flags that are wanted behind the block.
    wanted: Flags,
    /// The branches in the middle, and the flags that are wanted where they lead.
    branches: Vec<(usize, Flags)>,
    entry_saved: u64,
    entry_host: u64,
    tlb_base: u32,
}

impl<'a> Lowering<'a> {
    /// Prepares to translate a block.
    pub fn new(place: Place, stubs: &'a Stubs, records: &'a mut Records) -> Self {
        let Place { base, key, block, mode_number } = place;
        let tlb_base = layout::tlb(key.mode.view());
        Lowering {
            asm: Asm::new(base),
            mode: key.mode,
            mode_number,
            stubs,
            sites: &mut records.sites,
            decoded: &mut records.decoded,
            links: &mut records.links,
            memos: &mut records.leaders,
            next_memo: &mut records.next_memo,
            groups: Groups::none(0),
            open: Open::default(),
            held: None,
            addend: None,
            index: 0,
            ends: Vec::new(),
            block,
            start_rip: key.rip,
            start_in_page: key.offset & 0xFFF,
            cold: Vec::new(),
            in_host: false,
            saved: false,
            wanted: flags::ALL,
            branches: Vec::new(),
            entry_saved: 0,
            entry_host: 0,
            tlb_base,
        }
    }

    /// Translates a trace. `wanted` tells the flags that are wanted where it is left, `roaming` what is known of instructions
    /// by address.
    pub fn translate(
        mut self,
        planner: &mut Planner,
        trace: &Trace,
        wanted: &Peeked,
        roaming: &FxHashMap<u64, Roams>,
    ) -> Lowered {
        let (code, bytes) = (&trace.code[..], &trace.bytes[..]);
        self.wanted = wanted.wanted(code.len() - 1);
        self.branches = trace.branches().map(|index| (index, wanted.wanted(index))).collect();
        let mut at = 0;
        let mut plans = Vec::with_capacity(code.len());
        for decoded in code {
            let end = at + decoded.instruction.len();
            plans.push((planner.plan(decoded, &bytes[at..end], self.mode), at));
            at = end;
        }
        let mut uses =
            flags::liveness(code, |index| wanted.wanted(index), |index| matches!(plans[index].0, Plan::Interpret));
        if self.wide() {
            let view = self.mode.view();
            let roams = |rip: u64| roaming.get(&rip).copied();
            self.groups = Groups::find(code, |index| &plans[index].0, roams, view == View::User);
            self.open = Open::new(memo::assign(&self.groups, view, self.next_memo));
        } else {
            self.groups = Groups::none(code.len());
        }
        self.ends = code.iter().map(|decoded| decoded.instruction.next_ip()).collect();
        self.entries(&uses, &plans);
        let pointers = units::x87_pointers(code, &plans);
        let mut ended = false;
        for (index, decoded) in code.iter().enumerate() {
            let flags = std::mem::take(&mut uses[index]);
            let (plan, start) = &plans[index];
            let bytes = &bytes[*start..*start + decoded.instruction.len()];
            self.index = index;
            self.resume_at(index);
            ended = self.instruction(decoded, plan, planner, bytes, flags);
            if let Some(pointer) = pointers[index] {
                self.note_x87(pointer);
                self.held = None;
            }
        }
        if !ended {
            self.resume_at(code.len());
            self.leave_to(self.mode.truncate(trace.key.rip.wrapping_add(u64::from(trace.size))), false);
        }
        self.emit_cold();
        let base = self.asm.base;
        Lowered {
            bytes: self.asm.bytes,
            entry_saved: (self.entry_saved - base) as u32,
            entry_host: (self.entry_host - base) as u32,
        }
    }

    /// Chooses in which form the block wants the flags, and emits the entry for the other form in front of it.
    fn entries(&mut self, uses: &[Use], plans: &[(Plan, usize)]) {
        self.entry_saved = self.asm.here();
        self.entry_host = self.entry_saved;
        if uses.first().is_none_or(|first| first.live_in == 0) {
            self.in_host = true;
            return;
        }
        let wants_host = uses.iter().zip(plans).find_map(|(flags, (plan, _))| {
            let partial = flags.reads != 0 || flags.writes != 0;
            match plan {
                Plan::Copy(copied) if copied.memory.is_some() => Some(false),
                Plan::Copy(_) if partial => Some(true),
                Plan::Rule if flags.reads != 0 => Some(true),
                Plan::Copy(_) | Plan::Nothing => None,
                Plan::Rule | Plan::Interpret => Some(false),
            }
        });
        if wants_host == Some(true) {
            self.restore_flags();
            self.entry_host = self.asm.here();
            self.in_host = true;
            self.saved = false;
        } else {
            self.save_flags();
            self.entry_saved = self.asm.here();
            self.in_host = false;
            self.saved = true;
        }
    }

    /// Translates one instruction. True when it ends the block with all exits emitted.
    fn instruction(&mut self, decoded: &Decoded, plan: &Plan, planner: &mut Planner, bytes: &[u8], flags: Use) -> bool {
        let mark = (self.asm.bytes.len(), self.cold.len(), self.sites.len(), self.in_host, self.saved);
        let memos = (self.memos.len(), self.open.sites());
        let held = self.held.take();
        let result = match plan {
            Plan::Nothing => {
                self.held = held;
                Ok(false)
            }
            Plan::Copy(copied) => self.copy(decoded, copied, flags, held).map(|()| false),
            Plan::Rule => self.rule(decoded, planner, bytes, flags),
            Plan::Interpret => Err(Unfit),
        };
        match result {
            Ok(ended) => {
                self.open.instruction_done();
                ended
            }
            Err(Unfit) => {
                self.held = None;
                self.memos.truncate(memos.0);
                self.open.forget_sites(memos.1);
                self.open.close();
                self.asm.bytes.truncate(mark.0);
                self.cold.truncate(mark.1);
                self.sites.truncate(mark.2);
                (self.in_host, self.saved) = (mark.3, mark.4);
                self.interpret(&decoded.instruction);
                false
            }
        }
    }

    /// Leaders that were interpreted, and what followed them, go on here.
    fn resume_at(&mut self, index: usize) {
        for site in self.open.resuming_at(index) {
            self.finish_site(site);
            (self.held, self.addend) = (None, None);
        }
    }

    /// Translates an instruction that has a rule of its own. True as for [`Self::instruction`].
    fn rule(&mut self, decoded: &Decoded, planner: &mut Planner, bytes: &[u8], flags: Use) -> Result<bool, Unfit> {
        let instruction = &decoded.instruction;
        use Mnemonic::*;
        if instruction.is_string_instruction() {
            return self.string(instruction, flags).map(|()| false);
        }
        match instruction.mnemonic() {
            // Spelled out: with REX.B some processors take F3 90 for XCHG.
            Pause => self.asm.raw(&[0xF3, 0x90]),
            Lea => self.lea(instruction)?,
            Push => self.push(instruction, flags)?,
            Pop => self.pop(instruction, flags)?,
            Leave => self.leave(instruction, flags)?,
            Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo => self.widen(instruction),
            Mul | Imul => self.multiply(instruction, planner, bytes, flags)?,
            Div | Idiv => self.divide(instruction, flags)?,
            Cmpxchg => self.compare_exchange(instruction, planner, bytes, flags)?,
            Cmpxchg8b | Cmpxchg16b => self.compare_exchange_pair(instruction, bytes, flags)?,
            Rdtsc | Rdtscp => self.time_stamp(instruction, flags),
            Cpuid => self.cpuid(instruction, flags),
            Cli => self.clear_interrupt_flag(flags),
            Sti => self.set_interrupt_flag(instruction, flags),
            Cld | Std => self.set_direction(instruction, flags),
            Stac | Clac => {
                self.set_access_flag(instruction, flags);
                return Ok(true);
            }
            Swapgs => self.swap_gs(),
            Syscall => {
                self.syscall(instruction);
                return Ok(true);
            }
            Sysretq => {
                self.sysret(instruction);
                return Ok(true);
            }
            Pushf | Pushfd | Pushfq => self.push_flags(instruction, flags),
            Lahf => self.load_flags(flags),
            Sahf => self.store_flags(),
            Mov if instruction.op0_register().is_segment_register() => self.load_segment(instruction, flags)?,
            Mov if instruction.op1_register().is_cr() => self.read_control(instruction)?,
            Mov => self.read_segment(instruction, flags)?,
            Lds | Les | Lfs | Lgs => self.load_far_pointer(instruction, flags)?,
            Bt | Btc | Btr | Bts => self.bit_test(instruction, planner, bytes, flags)?,
            Fnstsw => self.store_status(),
            Ldmxcsr | Vldmxcsr | Fldcw => self.load_control(instruction, flags)?,
            Pcmpestri | Pcmpestri64 | Pcmpestrm | Pcmpestrm64 | Pcmpistri | Pcmpistrm | Vpcmpestri | Vpcmpestri64
            | Vpcmpestrm | Vpcmpestrm64 | Vpcmpistri | Vpcmpistrm => {
                self.compare_texts(instruction, planner, bytes, flags)?;
            }
            Call => return self.call(instruction, flags).map(|()| true),
            Ret => return self.ret(instruction, flags).map(|()| true),
            Jmp => return self.jump(instruction, flags).map(|()| true),
            Loop | Jcxz | Jecxz | Jrcxz => return self.counted(instruction).map(|()| true),
            _ => return self.conditional(instruction, flags),
        }
        Ok(false)
    }

    /// Whether the block is 64-bit code.
    fn wide(&self) -> bool {
        self.mode.long()
    }

    /// The instruction pointer behind an instruction.
    fn next_rip(&self, instruction: &Instruction) -> u64 {
        self.mode.truncate(instruction.next_ip())
    }
}

/// Where the guest's arithmetic flags are.
impl Lowering<'_> {
    /// Host flags into the core.
    fn save_flags(&mut self) {
        self.asm.raw(&[0x9F, 0x0F, 0x90, 0xC0, 0x65, 0x66, 0x89, 0x04, 0x25]);
        self.asm.dword(layout::FLAGS);
        self.saved = true;
    }

    /// The core's flags into the host's. Destroys RAX.
    fn restore_flags(&mut self) {
        // movzx eax, word gs:[FLAGS]; add al, 0x7F (sets OF when AL was 1); sahf
        self.asm.raw(&[0x65, 0x0F, 0xB7, 0x04, 0x25]);
        self.asm.dword(layout::FLAGS);
        self.asm.raw(&[0x04, 0x7F, 0x9E]);
        self.in_host = true;
    }

    /// Called in front of the ways out of a block to known addresses: flags that nobody wants there count as saved.
    fn before_exits(&mut self) {
        self.saved |= self.wanted == 0;
    }

    /// Called before code that destroys the host's flags, in front of an instruction.
    fn before_clobber(&mut self, wanted: u32) {
        if wanted != 0 && !self.saved {
            self.save_flags();
        }
        self.in_host = wanted == 0 && !self.saved;
    }

    /// Whether an instruction needs the host's flags to be the guest's when it runs.
    fn needs_host(flags: &Use) -> bool {
        flags.reads != 0 || flags.writes != 0 && flags.live_out & !flags.writes != 0
    }

    /// Called right before the host instruction. Destroys RAX when it restores.
    fn before_op(&mut self, flags: &Use) {
        if Self::needs_host(flags) && !self.in_host {
            self.restore_flags();
        }
    }

    /// Called after the host instruction.
    fn after_op(&mut self, flags: &Use) {
        if flags.writes != 0 {
            self.in_host = true;
            self.saved = false;
        }
    }

    /// The flags are wanted by whatever comes next and must be in the core.
    fn flags_to_core(&mut self) {
        if !self.saved {
            self.save_flags();
        }
    }
}
