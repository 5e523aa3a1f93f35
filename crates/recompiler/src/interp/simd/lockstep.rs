//! Random vector and x87 instructions from random states: the host's processor, the interpreter and translated code must
//! end alike, in registers, flags, memory and exceptions.
//!
//! `WIRT_LOCKSTEP_N` sets the number of instructions, `WIRT_LOCKSTEP_SEED` where the sequence starts.

use super::area::{self, EXCEPTIONS, FCW, FSW, FTW, MXCSR, ST, XMM, XMM_END, XSTATE_BV, YMM_HIGH};
use crate::fault::vector;
use crate::interp;
use crate::native::{Host, State, UNITS, WINDOW, aim};
use crate::state::{Bits, Core, flag};
use crate::testing::{self, CODE, NoKick, Random, environment};
use crate::vcpu::RecompilerVcpu;
use hv::{Exit, Vcpu};
use iced_x86::{Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register, RflagsBits};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where guest RAM is seen, by the guest and by this process.
const RAM: u64 = 0x2800_0000;

/// Bytes that may well be an instruction of the vector units or of x87.
fn encoding(random: &mut Random) -> [u8; 15] {
    let mut bytes = Vec::new();
    match random.below(8) {
        0..2 => bytes.push(0xD8 + random.below(8) as u8),
        2..5 => {
            bytes.extend([None, Some(0x66), Some(0xF2), Some(0xF3)][random.below(4) as usize]);
            if random.below(2) == 0 {
                bytes.push(0x40 | random.below(16) as u8);
            }
            bytes.push(0x0F);
            bytes.extend([None, None, Some(0x38), Some(0x3A)][random.below(4) as usize]);
            bytes.push(random.next() as u8);
        }
        _ => {
            // Half of them without a register in VEX.vvvv.
            let payload = random.next() as u8 | if random.below(2) == 0 { 0x78 } else { 0 };
            bytes.extend([
                0xC4,
                random.next() as u8 & 0xE0 | (1 + random.below(3) as u8),
                payload,
                random.next() as u8,
            ]);
        }
    }
    let mut all = [0; 15];
    all.iter_mut().for_each(|byte| *byte = random.next() as u8);
    all[..bytes.len()].copy_from_slice(&bytes);
    all
}

/// A number on which floating point has its edges, in the low bits: of 4, 8 or 10 bytes.
fn float(random: &mut Random, size: usize) -> u128 {
    let (fraction, exponent) = match size {
        4 => (23, 8),
        8 => (52, 11),
        _ => (64, 15),
    };
    let sign = u128::from(random.next() & 1) << (fraction + exponent);
    let most = (1u128 << exponent) - 1;
    let bias = most >> 1;
    let any = u128::from(random.next()) & ((1 << fraction) - 1);
    // x87 shows its integer bit; without it, a number is denormal or no number at all.
    let integer = if size == 10 { 1u128 << 63 } else { 0 };
    let (exponent, fraction_bits) = match random.below(12) {
        0 => (0, 0),
        1 => (0, any & !integer),
        2 => (most, integer),
        3 => (most, any | integer | 1 << (fraction - 2)),
        4 => (most, any & !(1 << (fraction - if size == 10 { 2 } else { 1 })) | integer | 1),
        5 => (u128::from(random.next()) & most, any),
        6 => (bias, integer),
        _ => (bias.wrapping_add(u128::from(random.below(80))).wrapping_sub(40), any | integer),
    };
    sign | (exponent & most) << fraction | fraction_bits
}

/// Bytes in which instructions find floating point, integers and noise.
fn values(random: &mut Random, bytes: &mut [u8]) {
    for lane in bytes.chunks_mut(8) {
        let value = match random.below(4) {
            0 => float(random, 8) as u64,
            1 => float(random, 4) as u64 | (float(random, 4) as u64) << 32,
            2 => random.value(),
            _ => random.next(),
        };
        lane.copy_from_slice(&value.to_le_bytes()[..lane.len()]);
    }
}

fn units(random: &mut Random) -> [u8; UNITS] {
    let mut units = [0; UNITS];
    let mut put = |at: usize, bytes: &[u8]| units[at..at + bytes.len()].copy_from_slice(bytes);
    let some =
        |random: &mut Random, bits: u64, odds: u64| if random.below(odds) == 0 { random.next() & bits } else { 0 };
    let masks = !(some(random, 0x3F, 4) as u16) & EXCEPTIONS;
    let fcw = 0x40 | masks | some(random, 0xC00, 2) as u16 | if random.below(3) == 0 { 0x200 } else { 0x300 };
    let fsw = area::summarised((random.next() & 0x7F00 & !0x80 | some(random, 0x7F, 4)) as u16, fcw);
    put(FCW, &fcw.to_le_bytes());
    put(FSW, &fsw.to_le_bytes());
    put(FTW, &[[0, 0xFF, 0xFF, random.next() as u8][random.below(4) as usize]]);
    let masks = !(some(random, 0x1F80, 4) as u32) & 0x1F80;
    let mxcsr = masks | (some(random, 0xE040, 3) | some(random, 0x3F, 3)) as u32;
    put(MXCSR, &mxcsr.to_le_bytes());
    for register in 0..8 {
        let value = if random.below(5) == 0 { random.next().into() } else { float(random, 10) };
        put(ST + 16 * register, &value.to_le_bytes()[..10]);
    }
    put(XSTATE_BV, &[7]);
    values(random, &mut units[XMM..XMM_END]);
    if random.below(2) == 0 {
        values(random, &mut units[YMM_HIGH..]);
    }
    units
}

/// One instruction and where it starts from.
struct Case {
    bytes: Vec<u8>,
    instruction: Instruction,
    /// Offset of its memory operand in RAM, where it has one.
    target: u64,
    before: State,
}

/// Intel's processors want the operands of the SHA instructions aligned, AMD's do not. The guest sees Intel's.
fn misaligned_sha(case: &Case) -> bool {
    use Mnemonic::{Sha1msg1, Sha1msg2, Sha1nexte, Sha1rnds4, Sha256msg1, Sha256msg2, Sha256rnds2};
    case.target % 16 != 0
        && (0..case.instruction.op_count()).any(|operand| case.instruction.op_kind(operand) == OpKind::Memory)
        && matches!(
            case.instruction.mnemonic(),
            Sha1msg1 | Sha1msg2 | Sha1nexte | Sha1rnds4 | Sha256msg1 | Sha256msg2 | Sha256rnds2
        )
}

/// Whether the instruction raises an exception of SSE and has an MMX operand: x87 may have gone over to MMX by then.
fn half_way_to_mmx(case: &Case, exception: &str) -> bool {
    exception == "floating point" && (0..case.instruction.op_count()).any(|at| case.instruction.op_register(at).is_mm())
}

/// Bytes before and behind the target that an instruction may reach: gathers go farthest.
const REACH: u64 = 0x4800;

impl Case {
    /// What the instruction may reach of RAM.
    fn near(&self) -> std::ops::Range<u64> {
        self.target - REACH..self.target + REACH
    }

    /// The bytes there.
    fn memory(&self, core: &Core) -> Vec<u8> {
        let mut bytes = vec![0; 2 * REACH as usize];
        core.memory.read(self.near().start, &mut bytes).expect("RAM");
        bytes
    }
}

/// Instructions that cannot be compared: XCR0 has more bits on the host, and the host's pointers to instruction and operand
/// are its own.
fn comparable(instruction: &Instruction) -> bool {
    use Mnemonic::{Fxsave, Fxsave64, Xrstor, Xrstor64, Xsave, Xsave64};
    !matches!(instruction.mnemonic(), Fxsave | Fxsave64 | Xsave | Xsave64 | Xrstor | Xrstor64)
        && !matches!(instruction.memory_segment(), Register::FS | Register::GS)
        && !instruction.is_ip_rel_memory_operand()
}

fn case(random: &mut Random) -> Option<Case> {
    let mut bytes = encoding(random);
    let copy = bytes;
    let mut decoder = Decoder::with_ip(64, &copy, RAM + CODE, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() || !interp::uses_units(&instruction) || !comparable(&instruction) {
        return None;
    }
    let mut before =
        State { gpr: [0; 16], rflags: random.next() & flag::ARITHMETIC | flag::FIXED | flag::IF, units: units(random) };
    before.gpr.iter_mut().for_each(|register| *register = random.value());
    let mut target = (WINDOW.start + WINDOW.end) / 2 + random.below(0x1_0000);
    target &= [!0, !63, !31, !15][random.below(4) as usize];
    if matches!(instruction.op0_kind(), OpKind::MemorySegRDI | OpKind::MemorySegEDI) {
        before.gpr[7] = RAM + target;
    } else if !aim(&instruction, &mut bytes, &decoder, &mut before.gpr, RAM + target, random) {
        return None;
    }
    if instruction.is_vsib() {
        if !instruction.memory_base().is_gpr() {
            return None;
        }
        // Indices of either width that stay near.
        let index = instruction.memory_index().number() & 15;
        for half in [XMM + 16 * index, YMM_HIGH + 16 * index] {
            for lane in before.units[half..half + 16].chunks_mut(if instruction.is_vsib64() { 8 } else { 4 }) {
                let value = random.below(0x1000).wrapping_sub(0x800);
                lane.copy_from_slice(&value.to_le_bytes()[..lane.len()]);
            }
        }
    }
    let patched = Decoder::with_ip(64, &bytes, RAM + CODE, DecoderOptions::NONE).decode();
    Some(Case { bytes: bytes[..patched.len()].to_vec(), instruction: patched, target, before })
}

/// How an instruction ended: an exception of a kind, or none, and everything it left.
struct Outcome {
    exception: &'static str,
    state: State,
    memory: Vec<u8>,
}

fn exception_name(vector: u8) -> &'static str {
    match vector {
        vector::UD => "invalid",
        vector::MF | vector::XM => "floating point",
        vector::GP | vector::SS | vector::PF => "access",
        vector::NM => "no unit",
        _ => "another",
    }
}

fn load(core: &mut Core, before: &State) {
    core.gpr = before.gpr;
    core.rflags = before.rflags;
    core.rip = RAM + CODE;
    core.fpu.0[..UNITS].copy_from_slice(&before.units);
    core.halted = false;
}

fn outcome(core: &Core, case: &Case, exception: &'static str) -> Outcome {
    let mut units = [0; UNITS];
    units.copy_from_slice(&core.fpu.0[..UNITS]);
    Outcome { exception, state: State { gpr: core.gpr, rflags: core.rflags, units }, memory: case.memory(core) }
}

fn on_host(host: &mut Host, core: &Core, case: &Case) -> Outcome {
    let (signal, state) = host.run(&case.bytes, &case.before);
    let exception = match signal {
        None => "none",
        Some(libc::SIGILL) => "invalid",
        Some(libc::SIGFPE) => "floating point",
        Some(libc::SIGSEGV) => "access",
        Some(_) => "another",
    };
    Outcome { exception, state, memory: case.memory(core) }
}

fn interpreted(core: &mut Core, case: &Case) -> Outcome {
    load(core, &case.before);
    let exception = match testing::execute(core, &case.bytes) {
        Ok(()) => "none",
        Err(fault) => exception_name(fault.vector),
    };
    outcome(core, case, exception)
}

/// The instruction is followed by HLT; an exception finds no table and ends in a shutdown.
fn translated(vcpu: &mut RecompilerVcpu, case: &Case) -> Outcome {
    let mut code = case.bytes.clone();
    code.push(0xF4);
    vcpu.core.memory.write(CODE, &code).expect("RAM");
    let host = vcpu.core.memory.host(CODE, code.len() as u64).expect("RAM");
    vcpu.core.stored(host, code.len() as u64);
    load(&mut vcpu.core, &case.before);
    vcpu.core.counters.faults.fill(0);
    let exception = match vcpu.run().expect("a run") {
        Exit::Halted => "none",
        _ => vcpu.core.counters.faults.iter().position(|&count| count != 0).map_or("?", |at| exception_name(at as u8)),
    };
    outcome(&vcpu.core, case, exception)
}

/// RFLAGS bits that the instruction defines.
fn defined_flags(instruction: &Instruction) -> u64 {
    let undefined = instruction.rflags_undefined();
    [
        (RflagsBits::CF, flag::CF),
        (RflagsBits::PF, flag::PF),
        (RflagsBits::AF, flag::AF),
        (RflagsBits::ZF, flag::ZF),
        (RflagsBits::SF, flag::SF),
        (RflagsBits::OF, flag::OF),
    ]
    .iter()
    .filter(|(name, _)| undefined & name == 0)
    .map(|(_, bit)| bit)
    .sum()
}

/// Whether MXCSR differs in the precision flag alone, after an unmasked overflow or underflow: the processor looks whether
/// the result with its exponent wrapped is exact, the interpreter whether the masked one would be.
fn only_precision_of_a_wrapped_result(host: &Outcome, found: &Outcome) -> bool {
    let [host_mxcsr, found_mxcsr] = [host, found].map(|outcome| {
        let bytes = &outcome.state.units[MXCSR..MXCSR + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    });
    let unmasked = host_mxcsr & !(host_mxcsr >> 7) & 0x18 != 0;
    host.exception == "floating point" && unmasked && host_mxcsr ^ found_mxcsr == 1 << 5
}

/// Whether MXCSR differs in flags of results alone, after an exception in a dot product: it consists of several steps, and
/// how much of the later ones a processor still does is its own.
fn only_later_steps_of_a_dot_product(case: &Case, host: &Outcome, found: &Outcome) -> bool {
    use Mnemonic::{Dppd, Dpps, Vdppd, Vdpps};
    let bytes = [host, found].map(|outcome| outcome.state.units[MXCSR]);
    matches!(case.instruction.mnemonic(), Dpps | Dppd | Vdpps | Vdppd)
        && host.exception == "floating point"
        && (bytes[0] ^ bytes[1]) & !0x38 == 0
}

/// Bytes behind the memory operand's start that are not compared: the pointers of an x87 environment.
fn own_bytes(case: &Case) -> std::ops::Range<usize> {
    let at = REACH as usize;
    let writes = matches!(case.instruction.mnemonic(), Mnemonic::Fnstenv | Mnemonic::Fnsave);
    match case.instruction.memory_size() {
        MemorySize::FpuEnv14 | MemorySize::FpuState94 if writes => at + 6..at + 14,
        MemorySize::FpuEnv28 | MemorySize::FpuState108 if writes => at + 12..at + 28,
        _ => at..at,
    }
}

/// The first difference between two outcomes.
fn difference(case: &Case, host: &Outcome, found: &Outcome) -> Option<String> {
    if host.exception != found.exception {
        return Some(format!("exception {}, host {}", found.exception, host.exception));
    }
    if let Some(at) = (0..16).find(|&at| host.state.gpr[at] != found.state.gpr[at]) {
        return Some(format!("register {at}: {:#x}, host {:#x}", found.state.gpr[at], host.state.gpr[at]));
    }
    let flags = if host.exception == "none" { defined_flags(&case.instruction) } else { flag::ARITHMETIC };
    if (host.state.rflags ^ found.state.rflags) & flags != 0 {
        return Some(format!("flags {:#x}, host {:#x}", found.state.rflags, host.state.rflags));
    }
    let parts = [
        ("FCW", FCW..FCW + 2),
        ("FSW", FSW..FSW + 2),
        ("FTW", FTW..FTW + 1),
        ("MXCSR", MXCSR..MXCSR + 4),
        ("XMM", XMM..XMM_END),
        ("YMM", YMM_HIGH..UNITS),
    ]
    .into_iter()
    .chain((0..8).map(|register| ("ST", ST + 16 * register..ST + 16 * register + 10)));
    let x87 = !half_way_to_mmx(case, host.exception);
    for (name, range) in parts.filter(|(name, _)| x87 || !matches!(*name, "FSW" | "FTW" | "ST")) {
        if name == "MXCSR"
            && (only_precision_of_a_wrapped_result(host, found) || only_later_steps_of_a_dot_product(case, host, found))
        {
            continue;
        }
        if host.state.units[range.clone()] != found.state.units[range.clone()] {
            let number = if range.len() == 256 {
                range.clone().position(|at| host.state.units[at] != found.state.units[at]).unwrap_or(0) / 16
            } else {
                range.start.saturating_sub(ST) / 16
            };
            let shown = |state: &State| {
                let start = if range.len() == 256 { range.start + 16 * number } else { range.start };
                format!("{:02x?}", &state.units[start..start + range.len().min(16)])
            };
            return Some(format!("{name}{number}: {}, host {}", shown(&found.state), shown(&host.state)));
        }
    }
    let own = own_bytes(case);
    (0..host.memory.len())
        .filter(|at| !own.contains(at))
        .find(|&at| host.memory[at] != found.memory[at])
        .map(|at| format!("memory at {at:#x}: {:#x}, host {:#x}", found.memory[at], host.memory[at]))
}

#[test]
fn random_vector_instructions_end_as_on_the_host() {
    let wanted = environment("WIRT_LOCKSTEP_N", 6_000);
    let mut random = Random(environment("WIRT_LOCKSTEP_SEED", 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut core = testing::core(Bits::B64, 0);
    testing::map_ram_at(&core, RAM, true);
    core.rip = RAM + CODE;
    let mut host = Host::new(&core, RAM);
    let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
    vcpu.translate_after(0);
    let mut filled = vec![0; (WINDOW.end - WINDOW.start) as usize];
    values(&mut random, &mut filled);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let (mut done, mut exceptions) = (0, 0);
    let mut differences = Vec::new();
    let mut wrong: BTreeMap<String, u64> = BTreeMap::new();
    while done < wanted {
        let Some(case) = case(&mut random) else { continue };
        let mut memory = filled[(case.near().start - WINDOW.start) as usize..][..2 * REACH as usize].to_vec();
        // Control words are more often loaded when they can be.
        let at = REACH as usize;
        let control = units(&mut random);
        match case.instruction.mnemonic() {
            Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => memory[at..at + 4].copy_from_slice(&control[MXCSR..MXCSR + 4]),
            Mnemonic::Fldcw => memory[at..at + 2].copy_from_slice(&control[FCW..FCW + 2]),
            Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => memory[at..at + 512].copy_from_slice(&control[..512]),
            _ => {}
        }
        if misaligned_sha(&case) {
            continue;
        }
        let core = &mut vcpu.core;
        let reset = |core: &Core| core.memory.write(case.near().start, &memory).expect("RAM");
        reset(core);
        let on_host = on_host(&mut host, core, &case);
        reset(core);
        let interpreted = interpreted(core, &case);
        reset(core);
        let translated = translated(&mut vcpu, &case);
        done += 1;
        exceptions += u64::from(on_host.exception != "none");
        let name = format!("{:?}", case.instruction.mnemonic());
        for (who, found) in [("interpreted", &interpreted), ("translated", &translated)] {
            if let Some(text) = difference(&case, &on_host, found) {
                *wrong.entry(name.clone()).or_default() += 1;
                let [fcw, fsw, mxcsr] =
                    [FCW, FSW, MXCSR].map(|at| u16::from_le_bytes([case.before.units[at], case.before.units[at + 1]]));
                differences.push(format!(
                    "{who}: {} {:02x?} at {:#x}, FCW {fcw:#x} FSW {fsw:#x} MXCSR {mxcsr:#x}: {text}",
                    case.instruction, case.bytes, case.target
                ));
            }
        }
        *seen.entry(name).or_default() += 1;
        if differences.len() > 400 {
            break;
        }
    }
    println!("{done} instructions, {} mnemonics, {exceptions} exceptions: {seen:?}", seen.len());
    let shown = differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} differences: {wrong:?}\n{shown}", differences.len());
    assert!(seen.len() > 450 || wanted < 6_000, "only {} mnemonics were generated", seen.len());
}
