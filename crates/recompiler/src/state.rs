//! One guest processor: the registers that translated code works on, and everything around them.

use crate::fault::Fault;
use crate::mode::{Mode, ModeNumbers, Window};
use crate::smp::Shared;
use crate::tlb::{Itlb, Tlb};
use hv::{Bus, DescriptorTable, GuestMemory, LocalApic, Segment, SegmentRegister, Tsc};
use rustc_hash::{FxHashMap, FxHashSet};
use std::alloc::{Layout, alloc, handle_alloc_error};
use std::sync::Arc;

/// Bits of RFLAGS.
#[allow(missing_docs)]
pub mod flag {
    pub const CF: u64 = 1 << 0;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six flags that arithmetic sets.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

/// Bits of CR0.
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4.
#[allow(missing_docs)]
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// Bits of IA32_EFER.
#[allow(missing_docs)]
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// The x87, SSE and AVX registers in XSAVE's standard format, as the XSAVE and XRSTOR instructions want them.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; hv::XSAVE_AREA_SIZE]);

/// Where instruction fetch and operand sizes stand: the mode a block of code was decoded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Bits {
    /// 16-bit default operand and address size.
    B16 = 16,
    /// 32-bit default operand and address size.
    B32 = 32,
    /// 64-bit mode.
    B64 = 64,
}

/// Entries of a jump table; a power of two.
pub const JUMPS: usize = 16384;

/// Where translated code for an instruction pointer is. 16 bytes: translated code computes the offset as [`Jump::slot`]
/// and by a shift.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Jump {
    /// Instruction pointer, outside 64-bit mode with the mode's number in the upper half; in an empty entry one that
    /// belongs to another slot.
    pub rip: u64,
    /// Host address of the entry that finds the flags saved.
    pub host: u64,
}

impl Jump {
    /// An empty entry for a slot.
    pub const fn empty(slot: usize) -> Jump {
        // The one below 2^24 that belongs here, but for a bit.
        Jump { rip: (slot ^ slot >> 12 ^ 1) as u64, host: 0 }
    }

    /// The slot of an instruction pointer: programs have their hot code at the same offsets in several pages.
    pub const fn slot(rip: u64) -> usize {
        (rip as u32 ^ rip as u32 >> 12) as usize & (JUMPS - 1)
    }
}

const _: () = {
    let mut slot = 0;
    while slot < JUMPS {
        assert!(Jump::slot(Jump::empty(slot).rip) != slot);
        slot += 1;
    }
};

/// Entries of the table behind the jump tables; a power of two.
pub const FAR_JUMPS: usize = 16384;

/// Where translated code for an instruction pointer in a mode is, as long as the code lies at the same physical address.
#[derive(Clone, Copy)]
pub struct FarJump {
    /// Instruction pointer.
    pub rip: u64,
    /// Byte of the RAM file.
    pub offset: u64,
    /// Mode.
    pub mode: Mode,
    /// Host address of the entry that finds the flags saved; 0 when the entry is empty.
    pub host: u64,
}

impl FarJump {
    /// No entry.
    pub const EMPTY: FarJump = FarJump { rip: 0, offset: 0, mode: Mode::NONE, host: 0 };

    /// The slot of an instruction pointer.
    pub fn slot(rip: u64, mode: Mode) -> usize {
        let linear = mode.linear(rip);
        (linear ^ linear >> 14) as usize & (FAR_JUMPS - 1)
    }
}

/// Offsets of the fields that translated code uses, from the GS base.
pub mod layout {
    #![allow(missing_docs)]
    use super::{Core, JUMPS, Jump};
    use crate::mode::Window;
    use crate::tlb::{ENTRIES, Entry, MEMO_CHUNK, Memo, Tlb, View};
    use std::mem::offset_of;

    pub const RIP: u32 = offset_of!(Core, rip) as u32;
    pub const FLAGS: u32 = offset_of!(Core, flags) as u32;
    pub const POLL: u32 = offset_of!(Core, poll) as u32;
    pub const EXIT: u32 = offset_of!(Core, exit) as u32;
    pub const EXIT_LINK: u32 = offset_of!(Core, exit_link) as u32;
    pub const SCRATCH: u32 = offset_of!(Core, scratch) as u32;
    pub const SCRATCH2: u32 = offset_of!(Core, scratch2) as u32;
    pub const RESUME: u32 = offset_of!(Core, resume) as u32;
    pub const HOST_STACK: u32 = offset_of!(Core, host_stack) as u32;
    pub const THIS: u32 = offset_of!(Core, this) as u32;
    pub const CR0: u32 = offset_of!(Core, cr0) as u32;
    pub const CR2: u32 = offset_of!(Core, cr2) as u32;
    pub const CR3: u32 = offset_of!(Core, cr3) as u32;
    pub const CR4: u32 = offset_of!(Core, cr4) as u32;
    pub const EFER: u32 = offset_of!(Core, efer) as u32;
    pub const RFLAGS: u32 = offset_of!(Core, rflags) as u32;
    pub const WAITING: u32 = offset_of!(Core, interrupt_waits) as u32;
    pub const TSC: u32 = (offset_of!(Core, tsc) + offset_of!(hv::Tsc, offset)) as u32;
    pub const TSC_AUX: u32 = (offset_of!(Core, msr) + offset_of!(crate::msr::Msrs, tsc_aux)) as u32;
    pub const KERNEL_GS_BASE: u32 = (offset_of!(Core, msr) + offset_of!(crate::msr::Msrs, kernel_gs_base)) as u32;
    pub const LSTAR: u32 = (offset_of!(Core, msr) + offset_of!(crate::msr::Msrs, lstar)) as u32;
    pub const FMASK: u32 = (offset_of!(Core, msr) + offset_of!(crate::msr::Msrs, fmask)) as u32;
    pub const STAR: u32 = (offset_of!(Core, msr) + offset_of!(crate::msr::Msrs, star)) as u32;
    pub const FPU: u32 = offset_of!(Core, fpu) as u32;
    pub const X87_POINTER: u32 = FPU + 8;
    pub const TLB_READ: u32 = offset_of!(Entry, read) as u32;
    pub const TLB_WRITE: u32 = offset_of!(Entry, write) as u32;
    pub const TLB_HOST: u32 = offset_of!(Entry, host) as u32;
    pub const TLB_ADDEND: u32 = offset_of!(Entry, addend) as u32;
    pub const MEMO_MINUS: u32 = offset_of!(Memo, minus) as u32;
    pub const MEMO_ADDEND: u32 = offset_of!(Memo, addend) as u32;
    pub const MEMO_BUDGET: u32 = offset_of!(Core, memo_budget) as u32;
    pub const CPUID_MEMOS: u32 = offset_of!(Core, cpuid_memos) as u32;
    pub const SPILL: u32 = offset_of!(Core, spill) as u32;
    pub const LEADERS: u32 = offset_of!(Core, leaders) as u32;
    pub const CODE_BASE: u32 = offset_of!(Core, code_base) as u32;

    pub const fn gpr(number: u8) -> u32 {
        offset_of!(Core, gpr) as u32 + number as u32 * 8
    }

    pub const fn selector(number: usize) -> u32 {
        segment_base(number) + offset_of!(hv::Segment, selector) as u32
    }

    pub const fn segment_limit(number: usize) -> u32 {
        segment_base(number) + offset_of!(hv::Segment, limit) as u32
    }

    pub const fn segment_base(number: usize) -> u32 {
        (offset_of!(Core, segments) + number * size_of::<hv::Segment>()) as u32
    }

    pub const fn readable(number: usize) -> u32 {
        (offset_of!(Core, windows) + number * size_of::<Window>() + offset_of!(Window, read)) as u32
    }

    pub const fn writable(number: usize) -> u32 {
        (offset_of!(Core, windows) + number * size_of::<Window>() + offset_of!(Window, write)) as u32
    }

    pub const fn access(number: usize) -> u32 {
        segment_base(number) + offset_of!(hv::Segment, access) as u32
    }

    pub const fn tlb(view: View) -> u32 {
        (offset_of!(Core, tlb) + view as usize * ENTRIES * size_of::<Entry>()) as u32
    }

    pub const fn memo(number: usize) -> u32 {
        (offset_of!(Core, tlb) + offset_of!(Tlb, memos) + number * size_of::<Memo>()) as u32
    }

    /// What says that the memo was filled.
    pub const fn memo_used(number: usize) -> u32 {
        (offset_of!(Core, tlb) + offset_of!(Tlb, memos_used) + number / MEMO_CHUNK) as u32
    }

    pub const fn jump_mode(view: View) -> u32 {
        (offset_of!(Core, jump_mode) + view as usize * size_of::<crate::mode::Mode>() + crate::mode::Mode::FLAGS) as u32
    }

    pub const fn jumps(view: View) -> u32 {
        (offset_of!(Core, jumps) + view as usize * JUMPS * size_of::<Jump>()) as u32
    }
}

/// What is known of an instruction that led a group of accesses and did not stay in one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Roams {
    /// It goes from page to page: its group had better ask the TLB.
    Far,
    /// Its group often lies across the end of a page, or is not aligned: it is better off alone.
    Alone,
}

/// A guest processor.
///
/// The first part is laid out for translated code, which reaches it through the GS segment; everything else is Rust's.
/// `rip` is the address of the instruction under execution while a handler of the interpreter runs, and `next_rip` the
/// one it will continue at: branches write `next_rip`, and the dispatcher moves it into `rip` when the handler
/// succeeds.
#[repr(C, align(64))]
pub struct Core {
    /// General registers in encoding order. In 16- and 32-bit code the upper parts are kept as hardware would.
    pub gpr: [u64; 16],
    /// Instruction pointer (offset in CS), truncated to the mode's width.
    pub rip: u64,
    /// All of RFLAGS, arithmetic flags included, whenever Rust code runs.
    pub rflags: u64,
    /// Segment registers by [`SegmentRegister`].
    pub segments: [Segment; 6],
    /// What translated code may access in each of them, outside 64-bit mode.
    pub windows: [Window; 6],
    /// Where the instruction being interpreted continues.
    pub next_rip: u64,
    /// [`crate::smp::QUIET`], or [`crate::smp::WANTED`]: leave translated code at the next poll. Written by other threads
    /// through [`Shared`].
    pub poll: std::sync::atomic::AtomicU32,
    /// Interrupts are held off until after the next instruction (STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// MOV SS or POP SS was the last instruction: debug exceptions are held off until after the next one too.
    pub stack_shadow: bool,
    /// Data and I/O breakpoints that the instruction under execution met, a bit each as in DR6.
    pub breakpoints_met: u8,
    /// The pin FERR#: an x87 exception waits that CR0.NE leaves to the board.
    pub ferr: bool,
    /// In HLT, waiting for an interrupt.
    pub halted: bool,
    /// NMIs are blocked until IRET.
    pub nmi_masked: bool,
    /// Waits for INIT and a start-up IPI.
    pub waiting_for_sipi: bool,
    /// Linear code addresses were remapped: 1 non-global ones, 2 any. The dispatcher drops its maps and clears this.
    pub code_map_flush: u8,
    /// Linear pages that code was fetched from since the last flush: those that are not global, and those that are.
    pub code_pages: [FxHashSet<u64>; 2],
    /// The range of linear addresses that TLB entries cut out of large pages may lie in (INVLPG has to drop them all).
    pub large_low: u64,
    /// End of that range, inclusive.
    pub large_high: u64,
    /// Arithmetic flags saved by translated code: SETO in the low byte, LAHF in the next.
    pub flags: u32,
    /// Why translated code was left: one of the numbers in `translate::stubs::exit`.
    pub exit: u32,
    /// The link that was taken, where `exit` says so.
    pub exit_link: u32,
    /// Nonzero: an interrupt is pending that RFLAGS.IF holds off.
    pub interrupt_waits: u32,
    /// The guest's x87 state and MXCSR are in the processor's registers, not in `fpu`; their exceptions are masked.
    pub units_live: bool,
    /// A triple fault happened while an instruction of translated code was interpreted.
    pub shutdown: bool,
    /// Spare place for translated code.
    pub scratch: u64,
    /// Second spare place.
    pub scratch2: u64,
    /// Instructions interpreted in the middle of translated code.
    pub in_place: Box<crate::translate::InPlace>,
    /// What CPUID gave lately.
    pub cpuid_memos: crate::cpuid::CpuidMemos,
    /// What a load across the end of a page finds.
    pub bounce: [u8; 64],
    /// Registers that the memo stub borrows.
    pub spill: [u64; 2],
    /// Misses of memos until they are looked into.
    pub memo_budget: i32,
    /// Time-stamp counter when that was done last.
    pub memos_judged: u64,
    /// What is known of instructions by address, for those that do not stay in one page.
    pub roaming: FxHashMap<u64, Roams>,
    /// Host address at which translated code goes on.
    pub resume: u64,
    /// The host's stack pointer, while RSP is the guest's.
    pub host_stack: u64,
    /// Address of this structure.
    pub this: u64,
    /// Address of the first of the translator's sites.
    pub sites: u64,
    /// Number of sites.
    pub site_count: u32,
    /// Number of the translator's links.
    pub link_count: u32,
    /// Address of the first of them.
    pub links: u64,
    /// Address of the first of the translator's leaders.
    pub leaders: u64,
    /// Number of leaders.
    pub leader_count: u32,
    /// Start of the translator's executable memory.
    pub code_base: u64,
    /// Address of the first instruction kept decoded for the interpreter.
    pub decoded: u64,
    /// Numbers of the modes outside 64-bit mode.
    pub mode_numbers: ModeNumbers,
    /// The jump table of a view holds blocks of this mode, or [`Mode::NUMBERED`] ones.
    pub jump_mode: [Mode; crate::tlb::VIEWS],
    /// Slots of the jump tables in use.
    pub used_jumps: [Vec<u16>; crate::tlb::VIEWS],
    /// The jump table of a view holds blocks in pages that are not global.
    pub jump_local: [bool; crate::tlb::VIEWS],
    /// What the jump tables forget when mappings change, checked against the mapping when it is asked.
    pub far_jumps: Box<[FarJump]>,
    /// Translated blocks by instruction pointer, one table a view.
    pub jumps: [[Jump; JUMPS]; crate::tlb::VIEWS],
    /// Data accesses: one table for each of [`crate::tlb::View`].
    pub tlb: Tlb,

    /// Instruction fetches.
    pub itlb: Itlb,
    /// I/O ports used lately.
    pub ports: crate::ports::Ports,
    /// Data accesses beside RAM.
    pub device_pages: crate::mmu::DevicePages,
    /// x87, SSE and AVX registers whenever Rust code runs that looks at them; `units_live` tells of the rest.
    pub fpu: XsaveArea,
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Global descriptor table register.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table register.
    pub idtr: DescriptorTable,
    /// Control register 0.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page table root and PCID.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// PDPTEs as loaded by a write of CR3 in PAE mode.
    pub pdpte: [u64; 4],
    /// Extended control register 0.
    pub xcr0: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// Debug registers 0..=3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// Model-specific registers with storage of their own.
    pub msr: crate::msr::Msrs,
    /// The time-stamp counter.
    pub tsc: Tsc,
    /// Events that came with a loaded state: its exception, interrupt and NMI, until they are delivered.
    pub events: hv::CpuEvents,
    /// What CPUID shows.
    pub cpuid: Arc<crate::cpuid::CpuModel>,
    /// The vCPU's number, also its APIC ID.
    pub id: u32,

    /// Guest RAM.
    pub memory: Arc<GuestMemory>,
    /// What of it answers where: [`Request::Everything`](crate::smp::Request::Everything) says that this has changed.
    pub layout: Arc<hv::Layout>,
    /// Ports and memory-mapped I/O.
    pub bus: Arc<dyn Bus>,
    /// The local APIC, when the machine has one.
    pub lapic: Option<Arc<dyn LocalApic>>,
    /// What the vCPUs of this VM share.
    pub shared: Arc<Shared>,
    /// Vector and x87 instructions as the interpreter runs them.
    pub stubs: crate::interp::Stubs,
    /// What is counted for `--accel-stats`.
    pub counters: crate::counters::Counters,
}

impl Core {
    /// Current privilege level, 0..=3.
    #[inline]
    pub fn cpl(&self) -> u8 {
        // In real mode SS.DPL is 0 and in virtual-8086 mode 3, as the hidden parts are kept that way.
        self.segments[SegmentRegister::Ss as usize].dpl()
    }

    /// Protected mode (PE), virtual-8086 and long mode included.
    #[inline]
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Virtual-8086 mode.
    #[inline]
    pub fn vm86(&self) -> bool {
        self.rflags & flag::VM != 0
    }

    /// IA-32e mode is active (compatibility or 64-bit mode).
    #[inline]
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// The width of the code under execution.
    #[inline]
    pub fn bits(&self) -> Bits {
        let access = self.segments[SegmentRegister::Cs as usize].access;
        if self.long_mode() && access & Segment::L != 0 {
            Bits::B64
        } else if access & Segment::DB != 0 {
            Bits::B32
        } else {
            Bits::B16
        }
    }

    /// The linear address of the instruction at `rip`.
    #[inline]
    pub fn linear_rip(&self) -> u64 {
        match self.bits() {
            Bits::B64 => self.rip,
            _ => self.segments[SegmentRegister::Cs as usize].base.wrapping_add(self.rip) & 0xFFFF_FFFF,
        }
    }

    /// Calls a device: outside of guest code.
    pub(crate) fn device<T>(&mut self, access: impl FnOnce(&dyn Bus) -> T) -> T {
        self.outside(|core| access(&*core.bus))
    }
}

/// Zeroed memory for a `T`, which [`Box::from_raw`] may take over once it holds one. It takes no more of the host's memory
/// than is touched: the allocator would write the zeros itself where it is asked for an alignment.
pub(crate) fn zeroed<T>() -> *mut T {
    let layout = Layout::new::<T>();
    assert!(layout.size() != 0);
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    let (start, end) = (memory as usize, memory as usize + layout.size());
    let (first, last) = (start.next_multiple_of(4096), end & !4095);
    // SAFETY: whole pages of our own memory, which nothing is in yet. They are private and anonymous, as the allocator's are,
    // and so read as zero afterwards.
    let dropped = first < last && unsafe { libc::madvise(first as *mut _, last - first, libc::MADV_DONTNEED) } == 0;
    let written = if dropped { [start..first, last..end] } else { [start..end, end..end] };
    for part in written {
        // SAFETY: a part of our own memory.
        unsafe { std::ptr::write_bytes(part.start as *mut u8, 0, part.len()) };
    }
    memory.cast()
}

/// Writes the fields of a structure at an address, all but a few: one that is forgotten does not compile.
macro_rules! place {
    ($place:ident as $type:ident, but { $($other:ident),* }, { $($field:ident: $value:expr,)* }) => {
        let _all = |whole: &$type| {
            let $type { $($field: _,)* $($other: _,)* } = whole;
        };
        $(
            let value = $value;
            // SAFETY: the address is valid for writes of the structure.
            unsafe { (&raw mut (*$place).$field).write(value) };
        )*
    };
}

/// The outcome of one interpreted instruction.
pub type Executed = Result<(), Fault>;

impl Core {
    /// A processor in its power-on state.
    pub fn new(
        id: u32,
        memory: Arc<GuestMemory>,
        bus: Arc<dyn Bus>,
        lapic: Option<Arc<dyn LocalApic>>,
        shared: Arc<Shared>,
        cpuid: Arc<crate::cpuid::CpuModel>,
        tsc: Tsc,
    ) -> Box<Core> {
        let reset = hv::CpuState::reset();
        let mut fpu = XsaveArea([0; hv::XSAVE_AREA_SIZE]);
        fpu.0.copy_from_slice(&reset.fpu.area[..]);
        let (ram, pages) = (memory.base() as u64, memory.size().div_ceil(4096) as usize);
        let core = zeroed::<Core>();
        place!(core as Core, but { tlb, jumps }, {
            gpr: reset.gpr,
            rip: reset.rip,
            rflags: reset.rflags,
            segments: reset.segments,
            windows: Default::default(),
            next_rip: 0,
            poll: std::sync::atomic::AtomicU32::new(crate::smp::QUIET),
            interrupt_shadow: false,
            stack_shadow: false,
            breakpoints_met: 0,
            ferr: false,
            halted: false,
            nmi_masked: false,
            waiting_for_sipi: id != 0,
            code_map_flush: 0,
            code_pages: Default::default(),
            large_low: u64::MAX,
            large_high: 0,
            flags: 0,
            exit: 0,
            exit_link: 0,
            interrupt_waits: 0,
            units_live: false,
            shutdown: false,
            scratch: 0,
            scratch2: 0,
            in_place: Box::default(),
            cpuid_memos: crate::cpuid::NO_MEMOS,
            bounce: [0; 64],
            spill: [0; 2],
            memo_budget: 0,
            memos_judged: 0,
            roaming: FxHashMap::default(),
            resume: 0,
            host_stack: 0,
            this: 0,
            sites: 0,
            site_count: 0,
            link_count: 0,
            links: 0,
            leaders: 0,
            leader_count: 0,
            code_base: 0,
            decoded: 0,
            mode_numbers: ModeNumbers::default(),
            jump_mode: [Mode::NONE; crate::tlb::VIEWS],
            used_jumps: Default::default(),
            jump_local: [false; crate::tlb::VIEWS],
            far_jumps: vec![FarJump::EMPTY; FAR_JUMPS].into_boxed_slice(),
            itlb: Itlb::default(),
            ports: crate::ports::Ports::default(),
            device_pages: crate::mmu::DevicePages::default(),
            fpu: fpu,
            tr: reset.tr,
            ldtr: reset.ldtr,
            gdtr: reset.gdtr,
            idtr: reset.idtr,
            cr0: reset.cr0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdpte: [0; 4],
            xcr0: reset.xcr0,
            efer: 0,
            dr: reset.dr,
            dr6: reset.dr6,
            dr7: reset.dr7,
            msr: crate::msr::Msrs::default(),
            tsc: tsc,
            events: hv::CpuEvents::default(),
            cpuid: cpuid,
            id: id,
            layout: memory.layout(),
            memory: memory,
            bus: bus,
            lapic: lapic,
            shared: shared,
            stubs: crate::interp::Stubs::default(),
            counters: crate::counters::Counters::default(),
        });
        // SAFETY: zeroed memory of the right size and alignment, all of whose other fields were just written.
        unsafe {
            Tlb::place(&raw mut (*core).tlb, ram, pages);
            for (slot, view) in (0..JUMPS).flat_map(|slot| (0..crate::tlb::VIEWS).map(move |view| (slot, view))) {
                (&raw mut (*core).jumps[view][slot]).write(Jump::empty(slot));
            }
            Box::from_raw(core)
        }
    }
}
