//! Tests of system instructions on a machine with descriptor tables, a TSS and handlers that are never run: what is
//! looked at is the state right after a transfer.

mod control;
mod debugging;
mod delivery;
mod hostile;
mod io;
mod segments;
mod tasks;
mod transfers;

use crate::fault::Fault;
use crate::state::{Bits, Core};
use crate::testing;
use hv::{DescriptorTable, Gpr, Segment, SegmentRegister};

const GDT: u64 = 0x2_0000;
const IDT: u64 = 0x2_1000;
const TSS: u64 = 0x2_2000;
const TSS_LIMIT: u32 = 0x2FF;
const LDT: u64 = 0x2_3000;
const STACK0: u64 = 0x3_0000;
const STACK3: u64 = 0x3_8000;
const IST2: u64 = 0x3_C000;
/// The handler of vector v is at `HANDLER + v * 16`.
const HANDLER: u64 = 0x4_0000;

const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1B;
const DATA3: u16 = 0x23;
const TASK: u16 = 0x28;
const CODE0_64: u16 = 0x38;
const CODE3_64: u16 = 0x43;
const CONFORMING: u16 = 0x48;
const ABSENT: u16 = 0x50;
const CALL_GATE: u16 = 0x58;
const TABLE: u16 = 0x68;
const CODE16: u16 = 0x78;
const READ_ONLY: u16 = 0x80;
const EXECUTE_ONLY: u16 = 0x88;
/// Free for a test.
const SPARE: u16 = 0x90;

const FLAT_CODE0: u64 = 0x00CF_9B00_0000_FFFF;
const FLAT_DATA0: u64 = 0x00CF_9300_0000_FFFF;
const DPL3: u64 = 3 << 45;

fn put<const N: usize>(core: &Core, address: u64, bytes: [u8; N]) {
    core.memory.write(address, &bytes).expect("RAM");
}

fn put64(core: &Core, address: u64, value: u64) {
    put(core, address, value.to_le_bytes());
}

fn get<const N: usize>(core: &Core, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    core.memory.read(address, &mut bytes).expect("RAM");
    bytes
}

fn get16(core: &Core, address: u64) -> u64 {
    u64::from(u16::from_le_bytes(get(core, address)))
}

fn get32(core: &Core, address: u64) -> u64 {
    u64::from(u32::from_le_bytes(get(core, address)))
}

fn get64(core: &Core, address: u64) -> u64 {
    u64::from_le_bytes(get(core, address))
}

fn put_descriptor(core: &Core, selector: u16, value: u64) {
    put64(core, GDT + u64::from(selector & !7), value);
}

fn get_descriptor(core: &Core, selector: u16) -> u64 {
    get64(core, GDT + u64::from(selector & !7))
}

/// A system descriptor: byte-granular, present, with a type and DPL.
fn system(base: u64, limit: u32, kind: u64, dpl: u64) -> u64 {
    let limit = u64::from(limit);
    limit & 0xFFFF
        | (limit & 0xF_0000) << 32
        | (base & 0xFF_FFFF) << 16
        | (base & 0xFF00_0000) << 32
        | kind << 40
        | dpl << 45
        | 1 << 47
}

/// A gate: present, with a type and DPL. `extra` is the parameter count or IST.
fn gate(selector: u16, offset: u64, kind: u64, dpl: u64, extra: u64) -> u64 {
    offset & 0xFFFF
        | (offset & 0xFFFF_0000) << 32
        | u64::from(selector) << 16
        | extra << 32
        | kind << 40
        | dpl << 45
        | 1 << 47
}

/// Puts a gate into the IDT of a machine made by [`machine`].
fn put_gate(core: &Core, vector: u8, value: u64) {
    let size = if core.long_mode() { 16 } else { 8 };
    put64(core, IDT + u64::from(vector) * size, value);
}

/// A machine in the given mode at CPL 0 or 3, with interrupt gates of DPL 0 for all vectors.
fn machine(bits: Bits, cpl: u8) -> Box<Core> {
    let mut core = testing::core(bits, cpl);
    let long = bits == Bits::B64;
    put_descriptor(&core, CODE0, FLAT_CODE0);
    put_descriptor(&core, DATA0, FLAT_DATA0);
    put_descriptor(&core, CODE3, FLAT_CODE0 | DPL3);
    put_descriptor(&core, DATA3, FLAT_DATA0 | DPL3);
    put_descriptor(&core, TASK, system(TSS, TSS_LIMIT, 11, 0));
    put_descriptor(&core, CODE0_64, 0x00AF_9B00_0000_FFFF);
    put_descriptor(&core, CODE3_64, 0x00AF_FB00_0000_FFFF);
    put_descriptor(&core, CONFORMING, FLAT_CODE0 | 4 << 40);
    put_descriptor(&core, ABSENT, (FLAT_DATA0 | DPL3) & !(1 << 47));
    put_descriptor(&core, TABLE, system(LDT, 0xFF, 2, 0));
    put_descriptor(&core, CODE16, 0x0000_9B00_0000_FFFF);
    put_descriptor(&core, READ_ONLY, 0x00CF_9100_0000_FFFF);
    put_descriptor(&core, EXECUTE_ONLY, 0x00CF_9900_0000_FFFF);
    core.gdtr = DescriptorTable { base: GDT, limit: 0xFF };
    core.idtr = DescriptorTable { base: IDT, limit: if long { 0xFFF } else { 0x7FF } };
    for vector in 0..=255u8 {
        let selector = if long { CODE0_64 } else { CODE0 };
        put_gate(&core, vector, gate(selector, HANDLER + u64::from(vector) * 16, 14, 0, 0));
    }
    core.tr = Segment { base: TSS, limit: TSS_LIMIT, selector: TASK, access: 0x8B };
    if long {
        put64(&core, TSS + 4, STACK0);
        put64(&core, TSS + 36 + 8, IST2);
    } else {
        put64(&core, TSS + 4, STACK0 | u64::from(DATA0) << 32);
    }
    // No I/O permission map.
    put(&core, TSS + 0x66, 0xFFFFu16.to_le_bytes());
    let code = match (bits, cpl) {
        (Bits::B64, 0) => CODE0_64,
        (Bits::B64, _) => CODE3_64,
        (_, 0) => CODE0,
        _ => CODE3,
    };
    let data = if cpl == 0 { DATA0 } else { DATA3 };
    for segment in &mut core.segments {
        segment.selector = data;
    }
    core.segments[SegmentRegister::Cs as usize].selector = code;
    core.gpr[Gpr::Rsp as usize] = if cpl == 0 { STACK0 } else { STACK3 };
    core
}

/// A virtual-8086 program with IOPL 0: CS 0x1000, SS 0x3000, the data segments 0x2000.
fn vm86_machine() -> Box<Core> {
    let mut core = machine(Bits::B32, 3);
    core.rflags |= crate::state::flag::VM;
    let selectors = [0x2000, 0x1000, 0x3000, 0x2000, 0x2000, 0x2000];
    for (segment, selector) in core.segments.iter_mut().zip(selectors) {
        *segment = Segment { base: u64::from(selector) << 4, limit: 0xFFFF, selector, access: 0xF3 };
    }
    core.rip = 0x123;
    core.gpr[Gpr::Rsp as usize] = 0x8000;
    core
}

fn rsp(core: &Core) -> u64 {
    core.gpr[Gpr::Rsp as usize]
}

fn selector(core: &Core, name: SegmentRegister) -> u16 {
    core.segments[name as usize].selector
}

/// Executes one instruction and gives what it raised.
fn run(core: &mut Core, bytes: &[u8]) -> Result<(), Fault> {
    testing::execute(core, bytes)
}
