//! The processors that random blocks run on: every width of code, with random segments, stacks and pages.

use crate::state::{Bits, Core, cr0, efer, flag};
use crate::testing::{self, CODE, RAM, Random};
use hv::{Segment, SegmentRegister};

/// Where data registers point: in the middle of RAM, near the end of a page. Real mode reaches it.
pub(super) const WINDOW: u64 = 0x8_0000;
const _: () = assert!(WINDOW + 0x1_0000 < RAM);

/// The 32-bit page directory and its table.
const DIRECTORY: u64 = 0x4000;
const TABLE: u64 = 0x5000;

/// What kind of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Long,
    Flat,
    Segments32,
    Compatibility,
    Protected16,
    Real,
    Vm86,
}

impl Kind {
    pub(super) fn of(random: &mut Random) -> Kind {
        use Kind::*;
        const KINDS: [Kind; 12] =
            [Long, Long, Long, Long, Flat, Flat, Segments32, Compatibility, Protected16, Real, Real, Vm86];
        KINDS[random.below(KINDS.len() as u64) as usize]
    }

    pub(super) fn bits(self) -> Bits {
        match self {
            Kind::Long => Bits::B64,
            Kind::Flat | Kind::Segments32 | Kind::Compatibility => Bits::B32,
            Kind::Protected16 | Kind::Real | Kind::Vm86 => Bits::B16,
        }
    }

    /// The code can write to itself through CS, or needs no segment to.
    pub(super) fn patches_itself(self) -> bool {
        !matches!(self, Kind::Segments32 | Kind::Protected16)
    }
}

/// A processor of a kind about to execute code at its instruction pointer; the same for every call with the same numbers.
pub(super) fn core(kind: Kind, random: &mut Random) -> Box<Core> {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
    // Anywhere in the page: blocks cross into the next one.
    let code = CODE + 0x2000 + random.below(0x1000);
    let ring = if random.below(2) == 0 { 0 } else { 3 };
    let mut core = match kind {
        Kind::Long => testing::core(Bits::B64, ring),
        Kind::Flat | Kind::Segments32 => testing::core(Bits::B32, ring),
        Kind::Compatibility => compatibility(ring),
        Kind::Protected16 => testing::core(Bits::B16, ring),
        Kind::Real => testing::real_mode(),
        Kind::Vm86 => vm86(random),
    };
    core.idtr.limit = 0;
    core.rip = code;
    if random.below(10) == 0 {
        // #AC at privilege level 3.
        core.cr0 |= cr0::AM;
        core.rflags |= flag::AC;
    }
    let data = [Es, Ss, Ds, Fs, Gs];
    match kind {
        Kind::Long => {}
        Kind::Flat | Kind::Compatibility => {
            if random.below(2) == 0 {
                core.segments[Gs as usize].base = WINDOW;
            }
        }
        Kind::Segments32 | Kind::Protected16 => {
            place_code(&mut core, code & !0xFFFF, code & 0xFFFF, [0xFFFF, u32::MAX, 0xFFFF][random.below(3) as usize]);
            for name in data {
                segment(&mut core.segments[name as usize], kind.bits(), random);
            }
        }
        Kind::Real | Kind::Vm86 => {
            let base = (code - random.below(code.min(0x1_0000))) & !0xF;
            place_code(&mut core, base, code - base, 0xFFFF);
            core.segments[Cs as usize].selector = (base >> 4) as u16;
            for name in data {
                let selector = (WINDOW >> 4) as u16 - random.below(0x200) as u16;
                core.segments[name as usize].selector = selector;
                core.segments[name as usize].base = u64::from(selector) << 4;
            }
            if kind == Kind::Real && random.below(3) == 0 {
                // Big real mode, where firmware mostly has such segments begin at 0: flat ones.
                let big = &mut core.segments[[Es, Ds, Fs][random.below(3) as usize] as usize];
                big.limit = u32::MAX;
                if random.below(2) == 0 {
                    (big.selector, big.base) = (0, 0);
                }
            }
        }
    }
    if core.protected() && !core.long_mode() && random.below(2) == 0 {
        pages(&mut core, random);
    }
    core.segments[Cs as usize].access |= 1;
    core
}

fn place_code(core: &mut Core, base: u64, rip: u64, limit: u32) {
    core.segments[SegmentRegister::Cs as usize].base = base;
    core.segments[SegmentRegister::Cs as usize].limit = limit;
    core.rip = rip;
}

/// 32-bit code under the page tables of 64-bit code.
fn compatibility(ring: u8) -> Box<Core> {
    let mut core = testing::core(Bits::B64, ring);
    core.segments[SegmentRegister::Cs as usize].access &= !Segment::L;
    core.segments[SegmentRegister::Cs as usize].access |= Segment::DB;
    assert!(core.efer & efer::LMA != 0);
    core
}

fn vm86(random: &mut Random) -> Box<Core> {
    let mut core = testing::real_mode();
    core.cr0 |= cr0::PE;
    core.rflags = flag::FIXED | flag::IF | flag::VM | random.below(4) << 12;
    for segment in &mut core.segments {
        segment.access = 0xF3;
    }
    core
}

/// A data segment round the window, of any kind.
fn segment(segment: &mut Segment, bits: Bits, random: &mut Random) {
    let rights = segment.access & (Segment::P | Segment::S | 0x60);
    let wide = if bits == Bits::B32 || random.below(3) == 0 { Segment::DB } else { 0 };
    segment.base = if random.below(4) == 0 { 0 } else { WINDOW - random.below(0x2000) };
    let (limit, kind) = match random.below(10) {
        0..=2 => (0xFFFF, 3),
        3..=5 => (u32::MAX, 3),
        6 => (random.below(0x4000) as u32, 3),
        // Expands down.
        7 => (random.below(0x2000) as u32, 7),
        // Read-only.
        8 => (0xFFFF, 1),
        _ => (0xFFFF, 3),
    };
    segment.limit = limit;
    segment.access = rights | wide | kind;
    if random.below(30) == 0 {
        // Null.
        *segment = Segment { base: 0, limit: 0, selector: 0, access: segment.access & 0x60 };
    }
}

/// 32-bit paging: everything mapped to itself, with pages in the window that are absent, read-only or the supervisor's.
fn pages(core: &mut Core, random: &mut Random) {
    let entry = |core: &Core, at: u64, value: u64| {
        core.memory.write(at, &(value as u32).to_le_bytes()).expect("RAM");
    };
    entry(core, DIRECTORY, TABLE | 0x67);
    for page in 0..RAM >> 12 {
        let address = page << 12;
        let bits = match random.below(12) {
            _ if !(WINDOW - 0x2000..WINDOW + 0x1_0000).contains(&address) => 0x67,
            0 => 0x66,
            1 => 0x65,
            2 => 0x63,
            _ => 0x67,
        };
        entry(core, TABLE + 4 * page, address | bits);
    }
    core.cr3 = DIRECTORY;
    core.cr0 |= cr0::PG | if random.below(2) == 0 { cr0::WP } else { 0 };
}

/// Random registers, memory and vector state for a case.
pub(super) fn prepare(core: &mut Core, kind: Kind, random: &mut Random) {
    for register in &mut core.gpr {
        *register = random.value();
    }
    let base = if kind == Kind::Long { 0 } else { core.segments[SegmentRegister::Ds as usize].base };
    let keep = if kind.bits() == Bits::B16 && random.below(2) == 0 { 0xFFFF_0000 } else { 0 };
    for register in [3, 5, 6, 7, 11, 14, 15] {
        let mut offset = WINDOW - base + random.below(0x3000);
        if random.below(4) == 0 {
            offset = (offset | 0xFFF) - random.below(24);
        }
        if kind != Kind::Long && random.below(16) == 0 {
            // Near the end of a segment of 64 KiB.
            offset = 0xFFFF - random.below(12);
        }
        core.gpr[register] = core.gpr[register] & keep | offset;
    }
    let stack = match kind {
        Kind::Long => 0,
        _ => core.segments[SegmentRegister::Ss as usize].base,
    };
    core.gpr[4] = core.gpr[4] & keep | (WINDOW + 0x8000 + random.below(0x200) * 8 - stack);
    match random.below(12) {
        0 => core.gpr[4] |= 0xFF8,
        1 => core.gpr[4] = (core.gpr[4] | 0xFFF) - random.below(6),
        2 if kind != Kind::Long => core.gpr[4] = core.gpr[4] & !0xFFFF | random.below(8),
        _ => {}
    }
    core.rflags = core.rflags & !0x8D5 | random.next() & 0x8D5;
    // A count for repeated instructions, some of which go down.
    if random.below(2) == 0 {
        core.gpr[1] = random.below(0x180);
        core.rflags |= random.next() & 0x400;
    }
    let mut data = vec![0; 0x6000];
    data.iter_mut().for_each(|byte| *byte = random.next() as u8);
    core.memory.write(WINDOW - 0x1000, &data).expect("RAM");
    testing::fill_vectors(core, random);
}
