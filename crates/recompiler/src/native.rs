//! The host's processor as the judge: runs one instruction from a given state, in a stub of its own, and shows how it
//! ended.
//!
//! The RAM of a test's processor is mapped into this process at the linear address at which the guest sees it, so that
//! the same registers lead both to the same bytes.

use crate::state::Core;
use crate::testing::{self, Random};
use iced_x86::{Decoder, Instruction, Mnemonic, OpKind, Register};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of RAM that instructions may reach, as offsets.
pub(crate) const WINDOW: std::ops::Range<u64> = 0x8_0000..0xC_0000;

/// Distance of the stub and of the registers for it from the RAM.
const STUB: u64 = 0x200_0000;
const CONTEXT: u64 = 0x300_0000;

/// In the page of the context: 16 registers before and after, and what else the constants name.
const OUT: u64 = 128;
const FLAGS_IN: u64 = 256;
const FLAGS_OUT: u64 = 264;
const HOST_RSP: u64 = 280;
const HOST_MXCSR: u64 = 288;
const RECOVERY: u64 = 296;
const SIGNAL: u64 = 304;
const UNITS_IN: u64 = 0x400;
const UNITS_OUT: u64 = 0x800;

/// Bytes of vector and x87 state: the XSAVE area with the AVX component.
pub(crate) const UNITS: usize = 832;

/// Every test's RAM, for the signal handler; 0: none.
static BASES: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// What a program sees of a processor.
#[derive(Clone)]
pub(crate) struct State {
    pub gpr: [u64; 16],
    pub rflags: u64,
    /// An XSAVE area in the standard format; its XSTATE_BV counts.
    pub units: [u8; UNITS],
}

/// The host's processor, and memory for it to work on.
pub(crate) struct Host {
    base: u64,
    writable: *mut u8,
}

impl Host {
    /// Shows the RAM of `core` at `base` (a multiple of 0x800_0000 below 0x4000_0000, one for each test), and prepares to
    /// catch signals on this thread.
    pub(crate) fn new(core: &Core, base: u64) -> Host {
        map(
            base,
            testing::RAM,
            libc::PROT_READ | libc::PROT_WRITE,
            core.memory.file().expect("shared memory").as_raw_fd(),
        );
        map(base + CONTEXT, 4096, libc::PROT_READ | libc::PROT_WRITE, -1);
        let writable = map_stub(base + STUB);
        let free =
            BASES.iter().find(|known| known.compare_exchange(0, base, Ordering::SeqCst, Ordering::SeqCst).is_ok());
        free.expect("too few places for bases");
        catch_signals();
        Host { base, writable }
    }

    /// Address of the instruction that [`run`](Self::run) runs.
    pub(crate) fn ip(&self) -> u64 {
        self.base + STUB + self.prologue().len() as u64
    }

    fn poke(&self, offset: u64, value: u64) {
        // SAFETY: within the context page, which `new` made for this test.
        unsafe { ((self.base + CONTEXT + offset) as *mut u64).write_volatile(value) };
    }

    fn peek(&self, offset: u64) -> u64 {
        // SAFETY: as in `poke`.
        unsafe { ((self.base + CONTEXT + offset) as *const u64).read_volatile() }
    }

    fn units(&mut self, offset: u64) -> &mut [u8; UNITS] {
        // SAFETY: within the context page, which this struct alone refers to while no stub runs.
        unsafe { &mut *((self.base + CONTEXT + offset) as *mut [u8; UNITS]) }
    }

    /// Everything before the instruction; it always has the same length.
    fn prologue(&self) -> Vec<u8> {
        let context = self.base + CONTEXT;
        let mut code = SAVE.to_vec();
        move_absolute(&mut code, 0x89, 4, context + HOST_RSP);
        // stmxcsr [HOST_MXCSR]; xrstor64 [UNITS_IN]
        absolute(&mut code, &[0x0F, 0xAE], 3, context + HOST_MXCSR);
        code.extend(ALL_UNITS);
        absolute(&mut code, &[0x48, 0x0F, 0xAE], 5, context + UNITS_IN);
        set_rsp(&mut code, context + FLAGS_IN);
        code.push(0x9D);
        (0..16).for_each(|register| move_absolute(&mut code, 0x8B, register, context + 8 * u64::from(register)));
        code
    }

    fn epilogue(&self) -> Vec<u8> {
        let context = self.base + CONTEXT;
        let mut code = Vec::new();
        (0..16).for_each(|register| move_absolute(&mut code, 0x89, register, context + OUT + 8 * u64::from(register)));
        set_rsp(&mut code, context + FLAGS_OUT + 8);
        code.push(0x9C);
        // xsave64 [UNITS_OUT]; fninit; ldmxcsr [HOST_MXCSR]; vzeroupper
        code.extend(ALL_UNITS);
        absolute(&mut code, &[0x48, 0x0F, 0xAE], 4, context + UNITS_OUT);
        code.extend([0xDB, 0xE3]);
        absolute(&mut code, &[0x0F, 0xAE], 2, context + HOST_MXCSR);
        if is_x86_feature_detected!("avx") {
            code.extend([0xC5, 0xF8, 0x77]);
        }
        move_absolute(&mut code, 0x8B, 4, context + HOST_RSP);
        code.extend(RESTORE);
        code
    }

    /// Runs one instruction. Returns the signal it raised, if any, and the state afterwards.
    pub(crate) fn run(&mut self, bytes: &[u8], state: &State) -> (Option<i32>, State) {
        let mut code = self.prologue();
        code.extend(bytes);
        self.poke(RECOVERY, self.base + STUB + code.len() as u64);
        code.extend(self.epilogue());
        (0..16).for_each(|index| self.poke(8 * index as u64, state.gpr[index]));
        self.poke(FLAGS_IN, state.rflags);
        self.poke(SIGNAL, 0);
        *self.units(UNITS_IN) = state.units;
        self.units(UNITS_OUT).fill(0);
        // SAFETY: the stub is shorter than its page.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable, code.len()) };
        // CPUID serialises: the processor must not run what the stub held before.
        std::arch::x86_64::__cpuid(0);
        let stub = (self.base + STUB) as *const ();
        // SAFETY: the stub keeps the calling convention; the instruction between was chosen to stay in the window.
        unsafe { std::mem::transmute::<*const (), extern "C" fn()>(stub)() };
        let mut after = State { gpr: [0; 16], rflags: self.peek(FLAGS_OUT), units: *self.units(UNITS_OUT) };
        (0..16).for_each(|index| after.gpr[index] = self.peek(OUT + 8 * index as u64));
        (Some(self.peek(SIGNAL) as i32).filter(|&signal| signal != 0), after)
    }
}

fn map(address: u64, size: u64, protection: i32, fd: i32) {
    let flags = libc::MAP_FIXED_NOREPLACE | libc::MAP_SHARED | if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    // SAFETY: a new mapping at an address that nobody uses (NOREPLACE).
    let got = unsafe { libc::mmap(address as *mut _, size as usize, protection, flags, fd, 0) };
    assert_eq!(got as u64, address, "{}", std::io::Error::last_os_error());
}

/// Executable memory for the stub: returns the writable view.
fn map_stub(address: u64) -> *mut u8 {
    // SAFETY: creates a file; no memory is involved.
    let fd = unsafe { libc::memfd_create(c"lockstep".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: `fd` is ours.
    assert_eq!(unsafe { libc::ftruncate(fd, 4096) }, 0);
    map(address, 4096, libc::PROT_READ | libc::PROT_EXEC, fd);
    // SAFETY: a second, writable view at an address the kernel picks.
    let writable =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
    assert_ne!(writable, libc::MAP_FAILED);
    writable.cast()
}

/// A fault inside a stub goes on at its end, with the signal's number noted.
extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext to SA_SIGINFO handlers.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize] as u64;
    let stub = |base: u64| base + STUB..base + STUB + 4096;
    let bases = BASES.iter().map(|base| base.load(Ordering::SeqCst));
    let Some(base) = bases.into_iter().find(|&base| base != 0 && stub(base).contains(&rip)) else {
        // Not ours: let it kill the process.
        // SAFETY: restoring the default action is always allowed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    // SAFETY: the context page of a base lives for ever.
    unsafe {
        registers[libc::REG_RIP as usize] = ((base + CONTEXT + RECOVERY) as *const i64).read_volatile();
        ((base + CONTEXT + SIGNAL) as *mut u64).write_volatile(signal as u64);
    }
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

/// An instruction with the operand `[address]`.
fn absolute(code: &mut Vec<u8>, opcode: &[u8], reg: u8, address: u64) {
    code.extend(opcode);
    code.extend([(reg & 7) << 3 | 4, 0x25]);
    code.extend((address as u32).to_le_bytes());
}

/// `mov r64, [address]` (opcode 8B) or `mov [address], r64` (89).
fn move_absolute(code: &mut Vec<u8>, opcode: u8, register: u8, address: u64) {
    absolute(code, &[0x48 | register >> 3 << 2, opcode], register, address);
}

fn set_rsp(code: &mut Vec<u8>, address: u64) {
    code.extend([0x48, 0xC7, 0xC4]);
    code.extend((address as u32).to_le_bytes());
}

/// mov eax, 7; xor edx, edx
const ALL_UNITS: [u8; 7] = [0xB8, 7, 0, 0, 0, 0x31, 0xD2];
const SAVE: [u8; 10] = [0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
const RESTORE: [u8; 12] = [0xFC, 0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B, 0xC3];

/// A general register's number.
pub(crate) fn gpr_index(register: Register) -> usize {
    register.full_register() as usize - Register::RAX as usize
}

/// Points the memory operand, if there is one, to `target`: by a register, or by patching the displacement. False: not
/// possible with this encoding.
pub(crate) fn aim(
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
        if index.is_gpr() {
            let value = random.below(500).wrapping_sub(250);
            gpr[gpr_index(index)] = value;
            rest = rest.wrapping_sub(value.wrapping_mul(scale));
        }
        gpr[gpr_index(base)] = rest;
    } else if index.is_gpr() {
        let rest = target.wrapping_sub(displacement);
        if rest % scale != 0 {
            return false;
        }
        gpr[gpr_index(index)] = (rest as i64 / scale as i64) as u64;
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

/// The bytes of the window.
pub(crate) fn window(core: &Core) -> Vec<u8> {
    let mut bytes = vec![0; (WINDOW.end - WINDOW.start) as usize];
    core.memory.read(WINDOW.start, &mut bytes).expect("RAM");
    bytes
}
