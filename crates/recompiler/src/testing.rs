//! A processor with a little RAM for tests of single instructions.

use crate::smp::Shared;
use crate::state::{Bits, Core, cr0, cr4, efer, flag};
use hv::{GuestMemory, PAGE_SIZE, Region, Segment, Tsc};
use iced_x86::{Decoder, DecoderOptions};
use std::sync::Arc;

/// Bytes of RAM, from guest physical address 0.
pub(crate) const RAM: u64 = 2 << 20;

/// Where [`core`] lets code run; data may lie anywhere else above [`DATA`].
pub(crate) const CODE: u64 = 0x1_0000;

/// First byte above the page tables and code.
pub(crate) const DATA: u64 = 0x2_0000;

pub(crate) const PML4: u64 = 0x1000;
pub(crate) const PDPT: u64 = 0x2000;
pub(crate) const PAGE_DIRECTORY: u64 = 0x3000;

/// Nothing but open bus.
struct Open;

impl hv::Bus for Open {
    fn pio_read(&self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }

    fn pio_write(&self, _port: u16, _size: u8, _value: u32) {}

    fn mmio_read(&self, _address: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn mmio_write(&self, _address: u64, _data: &[u8]) {}
}

/// A processor in real mode, with [`RAM`] bytes of RAM.
pub(crate) fn real_mode() -> Box<Core> {
    let region = Region { address: 0, size: RAM, offset: 0, readonly: false };
    let memory = Arc::new(GuestMemory::shared(&[region]).expect("memory for a test"));
    let shared = Arc::new(Shared::new(1, (RAM / PAGE_SIZE) as usize));
    let model = Arc::new(crate::cpuid::CpuModel::new(1, hv::CpuModel::Host).expect("a usable host processor"));
    let mut core = Core::new(0, memory, Arc::new(Open), None, shared, model, Tsc::starting_at(0));
    for segment in &mut core.segments {
        *segment = Segment { base: 0, limit: 0xFFFF, selector: 0, access: 0x93 };
    }
    core.rip = 0x1000;
    core
}

/// A processor at privilege level `cpl` with flat segments. 64-bit mode has 4-level paging that maps the RAM to linear
/// addresses 0 and 0x2000_0000 (user pages, all rights); 32- and 16-bit mode run without paging.
pub(crate) fn core(bits: Bits, cpl: u8) -> Box<Core> {
    let mut core = real_mode();
    let width = match bits {
        Bits::B64 => Segment::L,
        Bits::B32 => Segment::DB,
        Bits::B16 => 0,
    };
    let rights = Segment::P | Segment::S | Segment::G | u16::from(cpl) << 5;
    let selector = |index: u16| index << 3 | u16::from(cpl);
    for segment in &mut core.segments {
        let stack = if bits == Bits::B16 { 0 } else { Segment::DB };
        *segment = Segment { base: 0, limit: u32::MAX, selector: selector(2), access: rights | stack | 3 };
    }
    core.segments[1] = Segment { base: 0, limit: u32::MAX, selector: selector(1), access: rights | width | 0xB };
    core.cr0 |= cr0::PE | cr0::NE | cr0::MP;
    core.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    core.xcr0 = 7;
    core.rflags = flag::FIXED | flag::IF;
    core.rip = CODE;
    core.gpr[4] = RAM - 0x1000;
    if bits == Bits::B64 {
        let entry = |core: &Core, at: u64, value: u64| core.memory.write(at, &value.to_le_bytes()).expect("RAM");
        // Present, writable, user, accessed, dirty; a 2 MiB page at the last level.
        entry(&core, PML4, PDPT | 0x67);
        entry(&core, PDPT, PAGE_DIRECTORY | 0x67);
        entry(&core, PAGE_DIRECTORY, 0xE7);
        entry(&core, PAGE_DIRECTORY + 8 * (0x2000_0000 >> 21), 0xE7);
        core.cr3 = PML4;
        core.cr4 |= cr4::PAE;
        core.efer |= efer::LME | efer::LMA | efer::NXE;
        core.cr0 |= cr0::PG;
    }
    core
}

/// Lets a 64-bit processor made by [`core`] see its RAM at one more linear address (a multiple of 2 MiB below 1 GiB).
pub(crate) fn map_ram_at(core: &Core, linear: u64, writable: bool) {
    let entry = 0xE5 | u64::from(writable) << 1;
    core.memory.write(PAGE_DIRECTORY + 8 * (linear >> 21), &entry.to_le_bytes()).expect("RAM");
}

/// Random vector registers.
pub(crate) fn fill_vectors(core: &mut Core, random: &mut Random) {
    let vectors: Vec<u8> = (0..256).map(|_| random.next() as u8).collect();
    core.fpu.0[160..416].copy_from_slice(&vectors);
    // The stubs keep the upper halves apart from the lower ones: in half of the cases they are not in use.
    core.fpu.0[512] = 3;
    if random.below(2) == 0 {
        core.fpu.0[576..832].copy_from_slice(&vectors);
        core.fpu.0[512] = 7;
    }
}

/// A kick that reaches nobody.
pub(crate) struct NoKick;

impl hv::Kick for NoKick {
    fn kick(&self) {}
    fn interrupt(&self) {}
}

/// Decodes and executes one instruction at RIP without fetching it from memory.
pub(crate) fn execute(core: &mut Core, bytes: &[u8]) -> crate::state::Executed {
    let instruction = Decoder::with_ip(core.bits() as u32, bytes, core.rip, DecoderOptions::NONE).decode();
    assert_eq!(instruction.len(), bytes.len(), "{bytes:x?} is not one instruction");
    let handler = crate::interp::handler(&instruction);
    crate::interp::step(core, &instruction, handler)
}

/// Like [`execute`] until RIP has moved on, for repeated string instructions.
pub(crate) fn execute_all(core: &mut Core, bytes: &[u8]) -> crate::state::Executed {
    let start = core.rip;
    while core.rip == start {
        execute(core, bytes)?;
    }
    Ok(())
}

/// xorshift64*: the same numbers in every run. Not zero.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// Numbers at which arithmetic has its edges, and any others.
    pub(crate) fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(4).wrapping_sub(2),
            1 => 1 << self.below(64),
            2 => (1 << self.below(64)) - 1,
            3 => self.below(0x200).wrapping_sub(0x100),
            _ => self.next(),
        }
    }
}

/// A number from the environment.
pub(crate) fn environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
