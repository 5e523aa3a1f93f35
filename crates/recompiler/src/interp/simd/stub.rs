//! One-instruction stubs: a copy of the guest's instruction with its memory operand in a buffer and its general register
//! in RAX, followed by a return. They live in a memfd that is mapped twice, once for writing and once for executing.

use super::area;
use crate::fault::{Fault, vector};
use crate::interp::integer::{flags, operand};
use crate::state::{Core, Executed, XsaveArea, cr4, flag};
use iced_x86::{CodeSize, Encoder, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};
use std::arch::asm;
use std::collections::HashMap;
use std::ptr::NonNull;

/// Bytes of stubs; when they are used up all are dropped.
const SIZE: usize = 256 << 10;
/// Bytes of one stub: the longest instruction and a return.
const SLOT: usize = 16;

/// A stub, and what has to be done around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    /// Offset in the executable mapping.
    offset: usize,
    /// Bytes of the memory operand; 0 without one.
    pub memory_size: usize,
    /// The instruction reads its memory operand.
    pub reads: bool,
    /// The instruction writes its memory operand.
    pub writes: bool,
    /// The instruction writes its general register operand.
    writes_register: bool,
}

/// The stubs of one vCPU.
#[derive(Default)]
pub struct Stubs {
    memory: Option<Memory>,
    used: usize,
    prepared: HashMap<Instruction, Prepared>,
}

/// One memfd, mapped for writing and for executing.
struct Memory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
}

// SAFETY: the mappings belong to this struct alone and outlive a move to another thread.
unsafe impl Send for Memory {}

impl Memory {
    fn new() -> Option<Self> {
        // SAFETY: the name is a NUL-terminated literal; the call has no other memory effects.
        let fd = unsafe { libc::memfd_create(c"wirt-stubs".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return None;
        }
        let map = |protection| {
            // SAFETY: a fresh shared mapping of our own file at an address the kernel picks.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, libc::MAP_SHARED, fd, 0) };
            if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast::<u8>()) }
        };
        // SAFETY: `fd` is ours.
        let sized = unsafe { libc::ftruncate(fd, SIZE as libc::off_t) } == 0;
        let writable = if sized { map(libc::PROT_READ | libc::PROT_WRITE) } else { None };
        let executable = if sized { map(libc::PROT_READ | libc::PROT_EXEC) } else { None };
        // SAFETY: the mappings keep the file; the descriptor is ours to close.
        unsafe { libc::close(fd) };
        match (writable, executable) {
            (Some(writable), Some(executable)) => Some(Memory { writable, executable }),
            (one, other) => {
                for at in one.into_iter().chain(other) {
                    // SAFETY: just mapped, and nobody else knows of it.
                    unsafe { libc::munmap(at.as_ptr().cast(), SIZE) };
                }
                None
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for at in [self.writable, self.executable] {
            // SAFETY: our own mapping; no stub is running, as running one borrows the core.
            unsafe { libc::munmap(at.as_ptr().cast(), SIZE) };
        }
    }
}

/// The register that stands for a general register operand in a stub.
fn stand_in(register: Register) -> Register {
    match register.size() {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    }
}

/// The instruction as the stub has it, so that one stub serves all addresses and general registers.
fn normalised(instruction: &Instruction) -> Instruction {
    let mut copy = *instruction;
    for index in 0..copy.op_count() {
        match copy.op_kind(index) {
            OpKind::Register if copy.op_register(index).is_gpr() => {
                copy.set_op_register(index, stand_in(copy.op_register(index)));
            }
            OpKind::Memory => {
                copy.set_memory_base(Register::RDI);
                copy.set_memory_index(Register::None);
                copy.set_memory_index_scale(1);
                copy.set_memory_displacement64(0);
                copy.set_memory_displ_size(0);
            }
            _ => {}
        }
    }
    copy.set_segment_prefix(Register::None);
    copy.set_has_rep_prefix(false);
    copy.set_has_repne_prefix(false);
    copy.set_code_size(CodeSize::Code64);
    copy
}

impl Stubs {
    /// The stub of an instruction. `None`: it cannot be encoded alone, or the host gives no executable memory.
    pub(super) fn prepare(&mut self, instruction: &Instruction) -> Option<Prepared> {
        let key = normalised(instruction);
        if let Some(&prepared) = self.prepared.get(&key) {
            return Some(prepared);
        }
        if self.memory.is_none() {
            self.memory = Memory::new();
        }
        let memory = self.memory.as_ref()?;
        if self.used + SLOT > SIZE {
            self.used = 0;
            self.prepared.clear();
        }
        let mut encoder = Encoder::new(64);
        encoder.encode(&key, 0).ok()?;
        let mut bytes = encoder.take_buffer();
        bytes.push(0xC3);
        if bytes.len() > SLOT {
            return None;
        }
        // SAFETY: `used + SLOT` is within the mapping, and `bytes` within the slot.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.writable.as_ptr().add(self.used), bytes.len()) };
        let mut prepared =
            Prepared { offset: self.used, memory_size: 0, reads: false, writes: false, writes_register: false };
        self.used += SLOT;
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(&key);
        for index in 0..key.op_count() {
            let access = info.op_access(index);
            let writes =
                matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite);
            let reads =
                matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite);
            match key.op_kind(index) {
                OpKind::Memory => {
                    prepared.memory_size = key.memory_size().size();
                    prepared.reads = reads;
                    prepared.writes = writes;
                }
                OpKind::Register if key.op_register(index).is_gpr() => prepared.writes_register |= writes,
                _ => {}
            }
        }
        if prepared.memory_size > size_of::<Buffer>() {
            return None;
        }
        self.prepared.insert(key, prepared);
        Some(prepared)
    }
}

/// Where a stub finds its memory operand.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Buffer(pub [u8; 64]);

impl Default for Buffer {
    fn default() -> Self {
        Buffer([0; 64])
    }
}

/// What a stub gets in general registers, and leaves there.
#[derive(Clone, Copy)]
#[repr(C)]
struct Context {
    rax: u64,
    rcx: u64,
    rdx: u64,
    flags: u64,
    /// Nonzero: clear the upper halves afterwards, which the host's own code does not expect in use.
    avx: u64,
    host_mxcsr: u32,
}

/// Loads the guest's vector state, runs a stub and saves the state.
///
/// # Safety
/// `code` is a stub of [`Stubs`]; `area` is an XSAVE area that XRSTOR accepts.
unsafe fn enter(code: *const u8, context: &mut Context, area: &mut XsaveArea, buffer: &mut Buffer) {
    // SAFETY: the stub changes what is listed as changed: vector and x87 registers, RAX, RCX, RDX, the flags and the
    // buffer. x87 and MXCSR are put back to what the host's calling convention wants.
    unsafe {
        asm!(
            "mov eax, 7",
            "xor edx, edx",
            "xrstor64 [r13]",
            "mov rax, [r12]",
            "mov rcx, [r12 + 8]",
            "mov rdx, [r12 + 16]",
            "push qword ptr [r12 + 24]",
            "popfq",
            "call r14",
            "pushfq",
            "pop qword ptr [r12 + 24]",
            "cld",
            "mov [r12], rax",
            "mov [r12 + 8], rcx",
            "mov [r12 + 16], rdx",
            "mov eax, 7",
            "xor edx, edx",
            "xsave64 [r13]",
            "fninit",
            "ldmxcsr [r12 + 40]",
            "cmp qword ptr [r12 + 32], 0",
            "je 2f",
            "vzeroupper",
            "2:",
            in("r12") context,
            in("r13") area.0.as_mut_ptr(),
            in("r14") code,
            inout("rdi") buffer.0.as_mut_ptr() => _,
            out("rax") _,
            out("rcx") _,
            out("rdx") _,
            clobber_abi("sysv64"),
        );
    }
}

fn host_mxcsr() -> u32 {
    let mut value = 0u32;
    // SAFETY: STMXCSR writes four bytes to a local variable.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut value) };
    value
}

/// MXCSR: invalid operation, denormal operand, division by zero: found before anything is computed.
const BEFORE_COMPUTING: u32 = 0b111;
/// MXCSR: underflow; its mask; results that would be denormal become zero.
const UNDERFLOW: u32 = 1 << 4;
const UNDERFLOW_MASK: u32 = 1 << 11;
const FLUSH_TO_ZERO: u32 = 1 << 15;
/// MXCSR: denormal operands count as zero.
const DENORMALS_ARE_ZERO: u32 = 1 << 6;

/// The exceptions of an SSE or AVX instruction that ran with all of them masked, as a processor reports them that has
/// unmasked some. Intel SDM volume 1, sections 11.5.2 and 11.5.3.
fn reported(raised: u32, unmasked: u32) -> u32 {
    if raised & unmasked & BEFORE_COMPUTING != 0 { raised & BEFORE_COMPUTING } else { raised }
}

/// Runs a stub. Exceptions never reach the host: SSE runs with all masked and the flags are looked at afterwards; x87
/// reports with a later instruction, before which the guest gets its own.
///
/// # Errors
/// #XM (#UD without CR4.OSXMMEXCPT) for an unmasked SSE exception: only the flags in MXCSR are changed then.
pub(super) fn run(core: &mut Core, instruction: &Instruction, prepared: Prepared, buffer: &mut Buffer) -> Executed {
    let guest_mxcsr = core.area32(area::MXCSR);
    let (fip, fdp, fop) = (core.area64(area::FIP), core.area64(area::FDP), core.area16(area::FOP));
    let pending = core.area16(area::FSW) & (area::EXCEPTIONS | area::FSW_ES | area::FSW_BUSY);
    let held = super::waits(instruction) && pending & area::FSW_ES != 0;
    if held {
        // Not reported by this instruction, or CR0.NE is clear: the exception must not reach the host.
        core.set_area16(area::FSW, core.area16(area::FSW) & !pending);
    }
    let hold = |core: &mut Core| {
        if held {
            core.set_area16(area::FSW, core.area16(area::FSW) | pending);
        }
    };
    let all_masked = guest_mxcsr & area::MXCSR_INITIAL == area::MXCSR_INITIAL;
    let before = if all_masked { None } else { Some(core.fpu.clone()) };
    core.set_area32(area::MXCSR, guest_mxcsr & !0x3F | area::MXCSR_INITIAL);
    core.set_area32(area::MXCSR_MASK, area::MXCSR_BITS);

    let general =
        (0..instruction.op_count()).map(|index| instruction.op_register(index)).find(|register| register.is_gpr());
    let Some(memory) = core.stubs.memory.as_ref() else { return Err(Fault::UD) };
    // SAFETY: a prepared offset is within the mapping.
    let code = unsafe { memory.executable.as_ptr().add(prepared.offset) };
    let rax = general.map_or(core.gpr[0], |register| operand::read_register(core, register));
    let arithmetic = core.rflags & flag::ARITHMETIC | flag::FIXED;
    let mut context = Context {
        rax,
        rcx: core.gpr[1],
        rdx: core.gpr[2],
        flags: arithmetic,
        avx: u64::from(std::arch::is_x86_feature_detected!("avx")),
        host_mxcsr: host_mxcsr(),
    };
    // SAFETY: `code` is a stub; the area is kept acceptable by everything that writes to it.
    unsafe { enter(code, &mut context, &mut core.fpu, buffer) };

    let mut raised = core.area32(area::MXCSR) & 0x3F;
    if let Some(before) = before {
        let unmasked = !(guest_mxcsr >> 7) & 0x3F;
        if guest_mxcsr & UNDERFLOW_MASK == 0 && raised & UNDERFLOW == 0 {
            // Unmasked, underflow is reported for exact results as well: ask once more, with those flushed to zero.
            let mut area = before.clone();
            area.0[area::MXCSR..][..4].copy_from_slice(
                &(area::MXCSR_INITIAL | FLUSH_TO_ZERO | guest_mxcsr & DENORMALS_ARE_ZERO).to_le_bytes(),
            );
            let mut again = Context { rax, flags: arithmetic, ..context };
            // SAFETY: as above, with another area of the same content.
            unsafe { enter(code, &mut again, &mut area, &mut buffer.clone()) };
            raised |= area.0[area::MXCSR] as u32 & UNDERFLOW;
        }
        if raised & unmasked != 0 {
            core.fpu = before;
            core.set_area32(area::MXCSR, guest_mxcsr | reported(raised, unmasked));
            hold(core);
            let enabled = core.cr4 & cr4::OSXMMEXCPT != 0;
            return Err(if enabled { Fault::plain(vector::XM) } else { Fault::UD });
        }
    }
    core.set_area32(area::MXCSR, guest_mxcsr | raised);
    // The host saved its own addresses, or none.
    core.set_area64(area::FIP, fip);
    core.set_area64(area::FDP, fdp);
    core.set_area16(area::FOP, fop);
    hold(core);
    flags::set(core, flag::ARITHMETIC, context.flags);
    match general {
        Some(register) if prepared.writes_register => operand::write_register(core, register, context.rax),
        Some(_) => {}
        // PCMPESTRI and PCMPISTRI leave an index here; all others leave what was there.
        None => core.gpr[1] = context.rcx,
    }
    Ok(())
}
