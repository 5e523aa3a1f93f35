//! Random integer instructions, run by the interpreter and by the host's processor, must end alike.
//!
//! The guest's RAM is mapped into this process at the linear address at which the guest sees it, so that the same
//! registers lead both to the same bytes. `WIRT_LOCKSTEP_N` sets the number of instructions.

use super::handler;
use crate::state::{Bits, Core, flag};
use crate::testing;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

/// Where guest RAM is seen, by the guest and by this process.
const RAM: u64 = 0x2000_0000;
/// The part of RAM that instructions may reach, as offsets.
const WINDOW: std::ops::Range<u64> = 0x8_0000..0xC_0000;
/// Host code that sets the registers, runs one instruction and saves them.
const STUB: u64 = 0x2200_0000;
/// Registers for the stub: see the constants below.
const CONTEXT: u64 = 0x2300_0000;
const OUT: u64 = CONTEXT + 128;
const FLAGS_IN: u64 = CONTEXT + 256;
const FLAGS_OUT: u64 = CONTEXT + 264;
const HOST_RSP: u64 = CONTEXT + 280;
const RECOVERY: u64 = CONTEXT + 288;
const SIGNAL: u64 = CONTEXT + 296;

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }

    /// Numbers at which arithmetic has its edges, and any others.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(4).wrapping_sub(2),
            1 => 1 << self.below(64),
            2 => (1 << self.below(64)) - 1,
            3 => self.below(0x200).wrapping_sub(0x100),
            _ => self.next(),
        }
    }
}

fn poke(address: u64, value: u64) {
    // SAFETY: only used on the context page, which `map` made for this test.
    unsafe { (address as *mut u64).write_volatile(value) };
}

fn peek(address: u64) -> u64 {
    // SAFETY: as in `poke`.
    unsafe { (address as *const u64).read_volatile() }
}

fn map(address: u64, size: u64, protection: i32, fd: i32) {
    let flags = libc::MAP_FIXED_NOREPLACE | libc::MAP_SHARED | if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    // SAFETY: a new mapping at an address that nobody uses (NOREPLACE).
    let got = unsafe { libc::mmap(address as *mut _, size as usize, protection, flags, fd, 0) };
    assert_eq!(got as u64, address, "{}", std::io::Error::last_os_error());
}

/// Executable memory for the stub: returns the writable view.
fn map_stub() -> *mut u8 {
    // SAFETY: creates a file; no memory is involved.
    let fd = unsafe { libc::memfd_create(c"lockstep".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: `fd` is ours.
    assert_eq!(unsafe { libc::ftruncate(fd, 4096) }, 0);
    map(STUB, 4096, libc::PROT_READ | libc::PROT_EXEC, fd);
    // SAFETY: a second, writable view at an address the kernel picks.
    let writable =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
    assert_ne!(writable, libc::MAP_FAILED);
    writable.cast()
}

/// A fault inside the stub goes on at its end, with the signal's number noted.
extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext to SA_SIGINFO handlers.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize] as u64;
    if !(STUB..STUB + 4096).contains(&rip) {
        // Not ours: let it kill the process.
        // SAFETY: restoring the default action is always allowed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    registers[libc::REG_RIP as usize] = peek(RECOVERY) as i64;
    poke(SIGNAL, signal as u64);
}

fn catch_signals() {
    let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: the leaked stack lives for ever; the handler only touches its own context.
    unsafe {
        assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [libc::SIGFPE, libc::SIGSEGV, libc::SIGILL, libc::SIGBUS] {
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    }
}

/// `mov r64, [address]` (opcode 8B) or `mov [address], r64` (89).
fn move_absolute(code: &mut Vec<u8>, opcode: u8, register: u8, address: u64) {
    code.extend([0x48 | register >> 3 << 2, opcode, (register & 7) << 3 | 4, 0x25]);
    code.extend((address as u32).to_le_bytes());
}

fn set_rsp(code: &mut Vec<u8>, address: u64) {
    code.extend([0x48, 0xC7, 0xC4]);
    code.extend((address as u32).to_le_bytes());
}

const SAVE: [u8; 10] = [0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
const RESTORE: [u8; 12] = [0xFC, 0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B, 0xC3];

/// Everything before the instruction; it always has the same length.
fn prologue() -> Vec<u8> {
    let mut code = SAVE.to_vec();
    move_absolute(&mut code, 0x89, 4, HOST_RSP);
    set_rsp(&mut code, FLAGS_IN);
    code.push(0x9D);
    (0..16).for_each(|register| move_absolute(&mut code, 0x8B, register, CONTEXT + 8 * u64::from(register)));
    code
}

fn epilogue() -> Vec<u8> {
    let mut code = Vec::new();
    (0..16).for_each(|register| move_absolute(&mut code, 0x89, register, OUT + 8 * u64::from(register)));
    set_rsp(&mut code, FLAGS_OUT + 8);
    code.push(0x9C);
    move_absolute(&mut code, 0x8B, 4, HOST_RSP);
    code.extend(RESTORE);
    code
}

/// Runs one instruction on the host. Returns the signal it raised, if any.
fn run_on_host(writable: *mut u8, bytes: &[u8], gpr: &[u64; 16], rflags: u64) -> (Option<u64>, [u64; 16], u64) {
    let mut code = prologue();
    code.extend(bytes);
    poke(RECOVERY, STUB + code.len() as u64);
    code.extend(epilogue());
    (0..16).for_each(|index| poke(CONTEXT + 8 * index as u64, gpr[index]));
    poke(FLAGS_IN, rflags);
    poke(SIGNAL, 0);
    // SAFETY: the stub is shorter than its page.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), writable, code.len()) };
    // CPUID serialises: the processor must not run what the stub held before.
    std::arch::x86_64::__cpuid(0);
    // SAFETY: the stub keeps the calling convention; the instruction between was chosen to stay in the window.
    unsafe { std::mem::transmute::<*const (), extern "C" fn()>(STUB as *const ())() };
    let mut out = [0; 16];
    (0..16).for_each(|index| out[index] = peek(OUT + 8 * index as u64));
    (Some(peek(SIGNAL)).filter(|&signal| signal != 0), out, peek(FLAGS_OUT))
}

/// Bytes that may well be an integer instruction, followed by more of them.
fn encoding(random: &mut Random) -> [u8; 15] {
    let mut bytes = Vec::new();
    for (prefix, odds) in [(0x66, 4), (0xF0, 12), (0xF2, 12), (0xF3, 8), (0x67, 12)] {
        if random.one_in(odds) {
            bytes.push(prefix);
        }
    }
    if random.one_in(10) {
        // VEX with map 0F38 or 0F3A.
        bytes.clear();
        bytes.extend([0xC4, random.next() as u8 & 0xE0 | (2 + random.below(2) as u8), random.next() as u8 & 0xFB]);
        bytes.push(0xF0 + random.below(8) as u8);
    } else {
        if random.one_in(2) {
            bytes.push(0x40 | random.below(16) as u8);
        }
        match random.below(16) {
            0..8 => {}
            8..14 => bytes.push(0x0F),
            _ => bytes.extend([0x0F, 0x38, 0xF0 + random.below(8) as u8]),
        }
        bytes.push(random.next() as u8);
    }
    let mut all = [0; 15];
    all.iter_mut().for_each(|byte| *byte = random.next() as u8);
    all[..bytes.len()].copy_from_slice(&bytes);
    all
}

/// Instructions that cannot be compared: they branch, show this process's selectors, or would turn on traps.
fn comparable(instruction: &Instruction) -> bool {
    let segment = |register: Register| register.is_segment_register();
    let mnemonic = instruction.mnemonic();
    let conditional_set = instruction.condition_code() != iced_x86::ConditionCode::None;
    !(instruction.is_jmp_short_or_near()
        || instruction.is_jmp_near_indirect()
        || instruction.is_call_near()
        || instruction.is_call_near_indirect()
        || (conditional_set && matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch16))
        || segment(instruction.op0_register())
        || segment(instruction.op1_register())
        || matches!(instruction.memory_segment(), Register::FS | Register::GS)
        || matches!(
            mnemonic,
            Mnemonic::Ret
                | Mnemonic::Loop
                | Mnemonic::Loope
                | Mnemonic::Loopne
                | Mnemonic::Jcxz
                | Mnemonic::Jecxz
                | Mnemonic::Jrcxz
                | Mnemonic::Popf
                | Mnemonic::Popfq
                | Mnemonic::Rdsspd
                | Mnemonic::Rdsspq
                | Mnemonic::Clwb
                | Mnemonic::Cldemote
                | Mnemonic::Rdrand
                | Mnemonic::Rdseed
                // With REX.B this is XCHG R8 to some processors.
                | Mnemonic::Pause
                // 0F 0D with a register: undefined to some processors.
                | Mnemonic::Reservednop
        ))
}

fn gpr_index(register: Register) -> usize {
    register.full_register() as usize - Register::RAX as usize
}

/// Points the memory operand, if there is one, to `target`: by a register, or by patching the displacement.
fn aim(
    instruction: &Instruction,
    bytes: &mut [u8],
    decoder: &Decoder<'_>,
    gpr: &mut [u64; 16],
    target: u64,
    random: &mut Random,
) -> bool {
    let explicit = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    if !explicit || instruction.mnemonic() == Mnemonic::Xlatb {
        return true;
    }
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let displacement = instruction.memory_displacement64();
    let scale = u64::from(instruction.memory_index_scale());
    if base.is_gpr() {
        if index == base {
            return false;
        }
        let mut rest = target.wrapping_sub(displacement);
        if index != Register::None {
            let value = random.below(500).wrapping_sub(250);
            gpr[gpr_index(index)] = value;
            rest = rest.wrapping_sub(value.wrapping_mul(scale));
        }
        gpr[gpr_index(base)] = rest;
    } else if index != Register::None {
        // What a division leaves over only moves the target a little.
        gpr[gpr_index(index)] = (target.wrapping_sub(displacement) as i64 / scale as i64) as u64;
    } else {
        let offsets = decoder.get_constant_offsets(instruction);
        let value = if base == Register::RIP { target.wrapping_sub(instruction.next_ip()) } else { target };
        let (at, size) = (offsets.displacement_offset(), offsets.displacement_size());
        if base == Register::EIP || size < 4 {
            return false;
        }
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    true
}

struct Case {
    bytes: Vec<u8>,
    instruction: Instruction,
    gpr: [u64; 16],
    rflags: u64,
}

fn case(random: &mut Random) -> Option<Case> {
    let mut bytes = encoding(random);
    let ip = STUB + prologue().len() as u64;
    let mut gpr = [0; 16];
    gpr.iter_mut().for_each(|register| *register = random.value());
    let middle = RAM + (WINDOW.start + WINDOW.end) / 2;
    gpr[4] = middle + random.below(0x4000);
    let copy = bytes;
    let mut decoder = Decoder::with_ip(64, &copy, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() || !comparable(&instruction) || handler(&instruction).is_none() {
        return None;
    }
    let mut target = middle + random.below(0x1_0000);
    if random.one_in(2) {
        target &= !15;
    }
    match instruction.mnemonic() {
        Mnemonic::Enter | Mnemonic::Leave => gpr[5] = target,
        Mnemonic::Xlatb => gpr[3] = target,
        _ if instruction.is_string_instruction() => {
            gpr[6] = target;
            gpr[7] = middle + random.below(0x4000);
            gpr[1] = random.below(300);
        }
        Mnemonic::Div | Mnemonic::Idiv if random.one_in(2) => {
            gpr[2] = random.below(3).wrapping_sub(1);
            gpr[0] = random.value();
        }
        _ => {}
    }
    if !aim(&instruction, &mut bytes, &decoder, &mut gpr, target, random) {
        return None;
    }
    if matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
    {
        let selector = instruction.op1_register().full_register();
        if selector == instruction.memory_base().full_register()
            || selector == instruction.memory_index().full_register()
        {
            return None;
        }
        gpr[gpr_index(selector)] = random.below(1 << 17).wrapping_sub(1 << 16);
    }
    let patched = Decoder::with_ip(64, &bytes, ip, DecoderOptions::NONE).decode();
    let rflags = random.next() & (flag::ARITHMETIC | flag::DF) | flag::FIXED | flag::IF;
    Some(Case { bytes: bytes[..patched.len()].to_vec(), instruction: patched, gpr, rflags })
}

fn window(core: &Core) -> Vec<u8> {
    let mut data = vec![0; (WINDOW.end - WINDOW.start) as usize];
    core.memory.read(WINDOW.start, &mut data).expect("RAM");
    data
}

/// Flags that the instruction leaves defined; the count decides it for shifts.
fn defined_flags(case: &Case) -> u64 {
    use iced_x86::RflagsBits;
    let undefined = case.instruction.rflags_undefined();
    let bits = [
        (RflagsBits::CF, flag::CF),
        (RflagsBits::PF, flag::PF),
        (RflagsBits::AF, flag::AF),
        (RflagsBits::ZF, flag::ZF),
        (RflagsBits::SF, flag::SF),
        (RflagsBits::OF, flag::OF),
    ];
    let mut defined = flag::ARITHMETIC | flag::DF;
    bits.iter().filter(|(name, _)| undefined & name != 0).for_each(|(_, bit)| defined &= !bit);
    let width = super::operand::size(&case.instruction, 0) as u64;
    match case.instruction.mnemonic() {
        Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr => {
            // OF is defined for counts of one, CF while the count is below the width.
            let count = match case.instruction.op1_kind() {
                OpKind::Register => case.gpr[1] & if width == 8 { 63 } else { 31 },
                _ => u64::from(case.instruction.immediate8()) & if width == 8 { 63 } else { 31 },
            };
            if count > 1 {
                defined &= !flag::OF;
            }
            if count >= 8 * width
                && matches!(case.instruction.mnemonic(), Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr)
            {
                defined &= !flag::CF;
            }
        }
        _ => {}
    }
    defined
}

/// SHLD and SHRD of 16 bits by more than 16 have an undefined result.
fn result_undefined(case: &Case) -> bool {
    let double = matches!(case.instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
    let count = match case.instruction.op_kind(2) {
        OpKind::Register => case.gpr[1],
        _ => u64::from(case.instruction.immediate8()),
    };
    double && super::operand::size(&case.instruction, 0) == 2 && count & 31 > 16
}

#[test]
fn random_instructions_end_as_on_the_host() {
    let wanted = std::env::var("WIRT_LOCKSTEP_N").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000u64);
    let mut core = testing::core(Bits::B64, 3);
    map(RAM, testing::RAM, libc::PROT_READ | libc::PROT_WRITE, core.memory.file().as_raw_fd());
    map(CONTEXT, 4096, libc::PROT_READ | libc::PROT_WRITE, -1);
    let writable = map_stub();
    catch_signals();
    let mut random = Random(0x57_49_52_54);
    let filled: Vec<u8> = (0..WINDOW.end - WINDOW.start).map(|_| random.next() as u8).collect();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let (mut faults, mut done) = (0, 0);
    let mut differences = Vec::new();
    while done < wanted {
        let Some(mut case) = case(&mut random) else { continue };
        if result_undefined(&case) {
            continue;
        }
        core.memory.write(WINDOW.start, &filled).expect("RAM");
        if matches!(case.instruction.mnemonic(), Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b)
            && random.one_in(2)
        {
            // Half of the exchanges find what they expect.
            core.gpr = case.gpr;
            core.next_rip = case.instruction.next_ip();
            let target = super::operand::effective_offset(&core, &case.instruction).wrapping_sub(RAM);
            if WINDOW.contains(&target) {
                let mut found = [0; 16];
                core.memory.read(target, &mut found).expect("RAM");
                let half =
                    |range: std::ops::Range<usize>| u64::from_le_bytes(found[range].try_into().expect("8 bytes"));
                let expected = [case.gpr[0], case.gpr[2]];
                if case.instruction.mnemonic() == Mnemonic::Cmpxchg16b {
                    (case.gpr[0], case.gpr[2]) = (half(0..8), half(8..16));
                } else {
                    (case.gpr[0], case.gpr[2]) = (half(0..8), half(0..8) >> 32);
                }
                core.gpr = case.gpr;
                if super::operand::effective_offset(&core, &case.instruction).wrapping_sub(RAM) != target {
                    [case.gpr[0], case.gpr[2]] = expected;
                }
            }
        }
        let (signal, host_gpr, host_flags) = run_on_host(writable, &case.bytes, &case.gpr, case.rflags);
        let host_memory = window(&core);
        core.memory.write(WINDOW.start, &filled).expect("RAM");
        core.gpr = case.gpr;
        core.rflags = case.rflags;
        core.rip = case.instruction.ip();
        let result = testing::execute_all(&mut core, &case.bytes);
        done += 1;
        *seen.entry(format!("{:?}", case.instruction.mnemonic())).or_default() += 1;
        let describe = |what: &str| format!("{what}: {:02x?} {}", case.bytes, case.instruction);
        if signal.is_some() != result.is_err() {
            differences.push(describe(&format!("host signal {signal:?}, interpreter {result:?}")));
        } else if signal.is_some() {
            faults += 1;
            if core.gpr != case.gpr {
                differences.push(describe("registers changed by a fault"));
            }
        } else {
            for index in (0..16).filter(|&index| core.gpr[index] != host_gpr[index]) {
                let text = format!(
                    "register {index} host {:x} interpreter {:x}, before {:x?} flags {:x}",
                    host_gpr[index], core.gpr[index], case.gpr, case.rflags
                );
                differences.push(describe(&text));
            }
            let wrong = (core.rflags ^ host_flags) & defined_flags(&case);
            if wrong != 0 {
                let text = format!("flags {wrong:x} host {host_flags:x} before {:x} {:x?}", case.rflags, case.gpr);
                differences.push(describe(&text));
            }
        }
        if window(&core) != host_memory {
            differences.push(describe("memory"));
        }
        if differences.len() > 30 {
            break;
        }
    }
    println!("{done} instructions, {} mnemonics, {faults} faults on both: {seen:?}", seen.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(seen.len() > 80 || wanted < 10_000, "only {} mnemonics were generated", seen.len());
}
