//! The processors that programs run on: 64-bit code, pages of 4 KiB of every kind under two roots, and a kernel that mends
//! page faults.
//!
//! ```text
//! physical   0x10000  descriptor tables, TSS, the kernel's variables, its stacks and code
//!            0x20000  the log: all registers at each exception and system call
//!            0x30000  two roots, each with its tables behind it
//!            0x40000  the program's code, and at 0x50000 another version of it
//!            0x60000  data
//!            0x80000  pages for copy-on-write
//! linear     0        all of it, for the kernel
//!            user     the program's code, once more at ALIAS, the data pages
//! ```

use super::kernel;
use crate::state::{Bits, Core, cr0, cr4, efer, flag};
use crate::testing::{self, RAM, Random};
use hv::{DescriptorTable, Segment, SegmentRegister};

/// The page tables' roots.
pub(super) const ROOTS: [u64; 2] = [0x3_0000, 0x3_8000];
/// From a root to the table of the program's pages.
pub(super) const TABLE: u64 = 0x1000;
const GDT: u64 = 0x1_0000;
const IDT: u64 = 0x1_1000;
const TSS: u64 = 0x1_2000;
/// The kernel's variables.
pub(super) const VARIABLES: u64 = 0x1_3000;
/// The stacks of the kernel: of system calls, of page faults, of other exceptions.
pub(super) const STACKS: [u64; 3] = [0x1_5000, 0x1_6000, 0x1_7000];
/// The stack of interrupts, in the page of the first.
const INTERRUPT_STACK: u64 = 0x1_4800;
const KERNEL: u64 = 0x1_8000;
/// The log.
pub(super) const LOG: u64 = 0x2_0000;
pub(super) const LOG_END: u64 = 0x3_0000;
/// The program's code: two versions.
pub(super) const CODE: u64 = 0x4_0000;
pub(super) const OTHER_CODE: u64 = 0x5_0000;
pub(super) const CODE_PAGES: u64 = 8;
const DATA: u64 = 0x6_0000;
const FRAMES: u64 = 32;
/// Pages for copies.
pub(super) const POOL: u64 = 0x8_0000;

/// Linear pages of the program, counted from its first: the code once more, data, and of these the stacks.
pub(super) const ALIAS: u64 = 16;
pub(super) const FIRST_DATA: u64 = 32;
pub(super) const DATA_PAGES: u64 = 64;
pub(super) const FIRST_STACK: u64 = 88;

/// Bits of a page table entry.
pub(super) const PRESENT: u64 = 1;
pub(super) const WRITABLE: u64 = 2;
pub(super) const USER: u64 = 4;
pub(super) const GLOBAL: u64 = 0x100;
/// Free for the kernel: a write gets a copy of the page; a fault in it is mended, instead of being the end.
pub(super) const COPIED: u64 = 0x200;
pub(super) const MENDED: u64 = 0x400;
pub(super) const NO_EXECUTE: u64 = 1 << 63;

pub(super) const CODE0: u16 = 0x08;
pub(super) const DATA0: u16 = 0x10;
pub(super) const DATA3: u16 = 0x23;
pub(super) const CODE3: u16 = 0x2B;
const TASK: u16 = 0x30;
const INTERRUPT: u64 = super::ringer::VECTOR as u64;

/// What is chosen once for a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// Privilege level.
    pub ring: u8,
    /// Linear address of its first page.
    pub user: u64,
    pub smap: bool,
}

impl Setting {
    pub(super) fn new(random: &mut Random) -> Setting {
        let ring = if random.below(3) == 0 { 0 } else { 3 };
        const PLACES: [u64; 4] = [0x40_0000, 0x12_3440_0000, 0x7FFF_FFC0_0000, 0xFFFF_FFFF_8020_0000];
        let user = PLACES[random.below(4) as usize];
        Setting { ring, user, smap: ring == 0 && random.below(3) == 0 }
    }

    /// Linear address of a byte in a data page.
    pub(super) fn data(&self, page: u64, offset: u64) -> u64 {
        self.user + ((FIRST_DATA + page) << 12) + offset
    }
}

fn put(core: &Core, at: u64, value: u64) {
    core.memory.write(at, &value.to_le_bytes()).expect("RAM");
}

fn get(core: &Core, at: u64) -> u64 {
    let mut bytes = [0; 8];
    core.memory.read(at, &mut bytes).expect("RAM");
    u64::from_le_bytes(bytes)
}

/// The last-level table that a linear address belongs to; `next`: the next free page for tables.
fn table(core: &Core, root: u64, linear: u64, last: u64, next: &mut u64) {
    let mut at = root;
    for shift in [39, 30, 21] {
        let entry = at + (linear >> shift & 511) * 8;
        if get(core, entry) & PRESENT == 0 {
            let below = if shift == 21 { last } else { std::mem::replace(next, *next + 0x1000) };
            put(core, entry, below | 0x67);
        }
        at = get(core, entry) & !0xFFF;
    }
}

/// A random page of data, with rights that do not always last.
fn data_entry(random: &mut Random, page: u64, setting: &Setting) -> u64 {
    let stack = FIRST_DATA + page >= FIRST_STACK;
    // Stacks share no frame with other pages, but for some.
    let frame = match random.below(8) {
        0 if !stack => page % 24,
        _ if stack => 24 + page % 8,
        _ => random.below(24),
    };
    let user = if setting.ring == 3 { USER } else { random.next() & USER };
    let executed = if random.below(3) == 0 { 0 } else { NO_EXECUTE };
    let entry = (DATA + frame * 4096) | executed | MENDED | 0x60 | user;
    match random.below(16) {
        0 => entry | WRITABLE,
        1 => entry | PRESENT | WRITABLE & random.next(),
        2..=4 => entry | PRESENT,
        5..=7 => entry | PRESENT | COPIED,
        8 => (entry | PRESENT | WRITABLE) ^ USER,
        9 => entry & !0x60 | PRESENT | WRITABLE,
        10 if random.below(6) == 0 && !stack => entry & !MENDED | PRESENT,
        _ => entry | PRESENT | WRITABLE,
    }
}

fn code_entry(random: &mut Random, page: u64, setting: &Setting, global: bool) -> u64 {
    let user = if setting.ring == 3 { USER } else { random.next() & USER };
    let entry = (CODE + page * 4096) | MENDED | 0x60 | user | if global { GLOBAL } else { 0 };
    match random.below(8) {
        0 => entry,
        1 => entry | PRESENT | NO_EXECUTE,
        2 => entry | PRESENT | COPIED,
        3..=4 => entry | PRESENT | WRITABLE,
        _ => entry | PRESENT,
    }
}

/// A processor with its tables and its kernel; the same for every call with the same numbers. The program is not there yet.
pub(super) fn core(setting: &Setting, random: &mut Random) -> Box<Core> {
    let mut core = testing::core(Bits::B64, setting.ring);
    let global = if random.below(2) == 0 { GLOBAL } else { 0 };
    let (global_code, global_alias) = (random.below(4) == 0, random.below(4) == 0);
    let mut entries = Vec::new();
    for page in 0..CODE_PAGES {
        entries.push((page, code_entry(random, page, setting, global_code)));
        entries.push((ALIAS + page, code_entry(random, page, setting, global_alias)));
    }
    for page in 0..DATA_PAGES {
        entries.push((FIRST_DATA + page, data_entry(random, page, setting)));
    }
    for root in ROOTS {
        let mut next = root + 0x3000;
        table(&core, root, setting.user, root + TABLE, &mut next);
        table(&core, root, 0, root + 0x2000, &mut next);
        for page in 0..RAM >> 12 {
            put(&core, root + 0x2000 + page * 8, page << 12 | 0x63 | global);
        }
        for &(place, entry) in &entries {
            // Under the other root some pages are others.
            let other = root != ROOTS[0] && random.below(3) == 0;
            let entry = match place {
                FIRST_DATA.. if other => data_entry(random, place - FIRST_DATA, setting),
                _ if other && entry & GLOBAL == 0 => entry ^ (CODE ^ OTHER_CODE),
                _ => entry,
            };
            put(&core, root + TABLE + place * 8, entry);
        }
    }
    let kernel = kernel::Kernel::new(KERNEL, setting);
    assert!(KERNEL + (kernel.code.len() as u64) < LOG);
    core.memory.write(KERNEL, &kernel.code).expect("RAM");
    kernel::variables(&core, setting);
    const FLAT_CODE: u64 = 0x00AF_9B00_0000_FFFF;
    const FLAT_DATA: u64 = 0x00CF_9300_0000_FFFF;
    const DPL3: u64 = 3 << 45;
    let descriptors = [0, FLAT_CODE, FLAT_DATA, 0, FLAT_DATA | DPL3, FLAT_CODE | DPL3];
    descriptors.iter().zip(0..).for_each(|(&value, index)| put(&core, GDT + index * 8, value));
    put(&core, GDT + u64::from(TASK), 0x67 | (TSS & 0xFF_FFFF) << 16 | 0x8B << 40);
    put(&core, TSS + 4, STACKS[0]);
    put(&core, TSS + 36, STACKS[1]);
    put(&core, TSS + 44, STACKS[2]);
    put(&core, TSS + 52, INTERRUPT_STACK);
    for (vector, &offset) in (0..).zip(&kernel.vectors) {
        let (level, stack) = match vector {
            kernel::CALL => (3, 0),
            14 => (0, 1),
            INTERRUPT => (0, 3),
            _ => (0, 2),
        };
        let offset = if vector == INTERRUPT { kernel.interrupt } else { offset };
        let gate =
            offset & 0xFFFF | (offset >> 16) << 48 | u64::from(CODE0) << 16 | stack << 32 | (0x8E | level << 5) << 40;
        put(&core, IDT + vector * 16, gate);
    }
    core.gdtr = DescriptorTable { base: GDT, limit: 0x3F };
    core.idtr = DescriptorTable { base: IDT, limit: 0xFFF };
    core.tr = Segment { base: TSS, limit: 0x67, selector: TASK, access: 0x8B };
    let (code, stack) = if setting.ring == 0 { (CODE0, DATA0) } else { (CODE3, DATA3) };
    core.segments[SegmentRegister::Cs as usize].selector = code;
    core.segments[SegmentRegister::Ss as usize].selector = stack;
    // The kernel may go to ring 3 by SYSRET, after which an interrupt's IRET would take data segments of ring 0.
    for name in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
        let segment = &mut core.segments[name as usize];
        segment.selector = DATA3;
        segment.access |= 3 << 5;
    }
    core.segments[SegmentRegister::Fs as usize].base = setting.data(random.below(48), random.below(0x1000));
    core.cr3 = ROOTS[random.below(2) as usize];
    core.cr0 |= if random.below(8) == 0 { 0 } else { cr0::WP };
    core.cr4 |= if random.below(2) == 0 { cr4::PGE } else { 0 } | if setting.smap { cr4::SMAP } else { 0 };
    if setting.ring == 0 && random.below(4) == 0 {
        core.cr4 |= cr4::SMEP;
    }
    core.efer |= efer::SCE;
    core.msr.lstar = kernel.system_call;
    core.msr.star = u64::from(CODE0) << 32 | u64::from(DATA3 - 11) << 48;
    core.msr.fmask = flag::TF | flag::IF | flag::AC | flag::NT | if random.below(2) == 0 { flag::DF } else { 0 };
    let data: Vec<u8> = (0..FRAMES * 512).flat_map(|_| random.next().to_le_bytes()).collect();
    core.memory.write(DATA, &data).expect("RAM");
    for register in &mut core.gpr {
        *register = random.value();
    }
    core.rflags |= random.next() & flag::ARITHMETIC;
    testing::fill_vectors(&mut core, random);
    core
}
