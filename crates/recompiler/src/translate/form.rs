//! How each guest instruction is translated: copied with other operands, by a rule of its own, or not at all.

use super::encode::Raw;
use crate::blocks::Decoded;
use crate::mode::{Mode, Reach};
use crate::state::layout;
use iced_x86::{
    CpuidFeature, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, MandatoryPrefix, Mnemonic,
    OpAccess, OpCodeOperandKind, OpKind, Register,
};

/// A general register that an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpr {
    /// Number in encoding order; for the high-byte registers that of the whole register.
    pub number: u8,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// AH, CH, DH or BH.
    pub high: bool,
    /// The old value matters.
    pub read: bool,
    /// Gets a new value.
    pub written: bool,
}

/// An instruction that is copied: its operands by the field that names them.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The encoding.
    pub raw: Raw,
    /// General register in the reg field.
    pub reg: Option<Gpr>,
    /// General register in the r/m field.
    pub rm: Option<Gpr>,
    /// General register in VEX.vvvv.
    pub vvvv: Option<Gpr>,
    /// General register in the opcode.
    pub opcode: Option<Gpr>,
    /// Memory operand.
    pub memory: Option<Memory>,
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub size: u16,
    /// Written (also when read).
    pub write: bool,
    /// Must be aligned to its size, or the instruction faults (SSE) or needs more than one bus access (LOCK).
    pub aligned: bool,
}

/// The way an instruction is translated.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Copied with its operands replaced.
    Copy(Box<Copied>),
    /// No effect worth an instruction.
    Nothing,
    /// A rule of its own in the lowering, by mnemonic.
    Rule,
    /// Left to the interpreter.
    Interpret,
}

/// Decides how instructions are translated.
pub struct Planner {
    factory: InstructionInfoFactory,
}

impl Planner {
    /// A planner.
    pub fn new() -> Self {
        Planner { factory: InstructionInfoFactory::new() }
    }

    /// The plan for one instruction, whose bytes are given.
    pub fn plan(&mut self, decoded: &Decoded, bytes: &[u8], mode: Mode) -> Plan {
        let instruction = &decoded.instruction;
        match class(instruction, mode) {
            Class::Copy => match self.copied(instruction, bytes, mode) {
                Some(copied) => Plan::Copy(Box::new(copied)),
                None => Plan::Interpret,
            },
            Class::Nothing => Plan::Nothing,
            Class::Rule => Plan::Rule,
            Class::Interpret => Plan::Interpret,
        }
    }

    /// Takes a copyable instruction apart. `None`: a form that is not copied.
    pub fn copied(&mut self, instruction: &Instruction, bytes: &[u8], mode: Mode) -> Option<Copied> {
        let mut raw = Raw::parse(bytes, mode.bits())?;
        let form = instruction.code().op_code();
        if !mode.long() {
            raw.set_operand_size(match form.operand_size() {
                16 => true,
                32 => false,
                _ => form.mandatory_prefix() == MandatoryPrefix::P66,
            });
            if form.is_wig32() {
                raw.clear_vex_w();
            }
            if form
                .op_kinds()
                .iter()
                .any(|kind| matches!(kind, OpCodeOperandKind::xmm_is4 | OpCodeOperandKind::ymm_is4))
            {
                raw.narrow_immediate_register();
            }
        }
        let info = self.factory.info_options(
            instruction,
            InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE,
        );
        let accesses = [info.op0_access(), info.op1_access(), info.op2_access(), info.op3_access()];
        let mut copied = Copied { raw, reg: None, rm: None, vvvv: None, opcode: None, memory: None };
        for (operand, &access) in (0..instruction.op_count()).zip(&accesses) {
            use OpCodeOperandKind as K;
            let kind = form.op_kind(operand);
            if instruction.op_kind(operand) == OpKind::Memory {
                copied.memory = Some(memory(instruction, access)?);
                continue;
            }
            let register = instruction.op_register(operand);
            let gpr = || general(register, access);
            match kind {
                K::r8_reg | K::r16_reg | K::r32_reg | K::r64_reg => copied.reg = Some(gpr()?),
                K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::r16_rm | K::r32_rm | K::r64_rm => {
                    copied.rm = Some(gpr()?);
                }
                K::r32_vvvv | K::r64_vvvv => copied.vvvv = Some(gpr()?),
                // `inc r` and `xchg eax, r` were spelled out with a ModRM.
                K::r16_opcode | K::r32_opcode | K::r64_opcode if copied.raw.has_modrm() => copied.rm = Some(gpr()?),
                K::r8_opcode | K::r16_opcode | K::r32_opcode | K::r64_opcode => copied.opcode = Some(gpr()?),
                K::ax | K::eax | K::rax if instruction.mnemonic() == Mnemonic::Xchg => copied.reg = Some(gpr()?),
                // A move at a fixed address.
                K::al | K::ax | K::eax | K::rax if instruction.mnemonic() == Mnemonic::Mov => copied.reg = Some(gpr()?),
                K::al | K::ax | K::eax | K::rax => {
                    // So were the accumulator's short forms; other implicit uses are not copied.
                    if !copied.raw.has_modrm() || copied.raw.memory {
                        return None;
                    }
                    copied.rm = Some(gpr()?);
                }
                K::cl
                | K::mm_or_mem
                | K::mm_reg
                | K::mm_rm
                | K::xmm_or_mem
                | K::xmm_reg
                | K::xmm_rm
                | K::xmm_vvvv
                | K::xmm_is4
                | K::ymm_or_mem
                | K::ymm_reg
                | K::ymm_rm
                | K::ymm_vvvv
                | K::ymm_is4
                | K::st0
                | K::sti_opcode
                | K::imm8
                | K::imm8_const_1
                | K::imm8sex16
                | K::imm8sex32
                | K::imm8sex64
                | K::imm16
                | K::imm32
                | K::imm32sex64
                | K::imm64 => {}
                _ => return None,
            }
        }
        Some(copied)
    }
}

/// Splits a general register into number, size and half.
pub fn general(register: Register, access: OpAccess) -> Option<Gpr> {
    if !register.is_gpr() {
        return None;
    }
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    let read = matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite);
    let written =
        matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite);
    let size = register.size() as u8;
    // A write of 8 or 16 bits, or one that may not happen, keeps the rest.
    let read = read || written && size < 4 || matches!(access, OpAccess::CondWrite);
    Some(Gpr { number: register.full_register().number() as u8, size, high, read, written })
}

fn memory(instruction: &Instruction, access: OpAccess) -> Option<Memory> {
    let size = instruction.memory_size().size() as u16;
    let write = !matches!(access, OpAccess::Read | OpAccess::CondRead);
    if !matches!(size, 1 | 2 | 4 | 6 | 8 | 10 | 16 | 32) || access == OpAccess::NoMemAccess {
        return None;
    }
    use Mnemonic::*;
    let locked = instruction.has_lock_prefix() || instruction.mnemonic() == Xchg;
    let aligned_vex =
        matches!(instruction.mnemonic(), Vmovaps | Vmovapd | Vmovdqa | Vmovntdq | Vmovntdqa | Vmovntps | Vmovntpd);
    let unaligned_legacy = matches!(instruction.mnemonic(), Movups | Movupd | Movdqu | Lddqu);
    let legacy = instruction.code().encoding() == iced_x86::EncodingKind::Legacy;
    let aligned = locked || aligned_vex || (size == 16 && legacy && !unaligned_legacy);
    Some(Memory { size, write, aligned })
}

enum Class {
    Copy,
    Nothing,
    Rule,
    Interpret,
}

/// RDTSCP: CPUID 0x8000_0001, EDX bit 27.
fn is_rdtscp_detected() -> bool {
    core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 27 != 0
}

/// Whether the host's processor has an extension. An instruction it lacks must not reach it, whatever CPUID shows the
/// guest.
fn host_has(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    match feature {
        BMI1 => is_x86_feature_detected!("bmi1"),
        BMI2 => is_x86_feature_detected!("bmi2"),
        ADX => is_x86_feature_detected!("adx"),
        LZCNT => is_x86_feature_detected!("lzcnt"),
        POPCNT => is_x86_feature_detected!("popcnt"),
        MOVBE => is_x86_feature_detected!("movbe"),
        SSE3 => is_x86_feature_detected!("sse3"),
        SSSE3 => is_x86_feature_detected!("ssse3"),
        SSE4_1 => is_x86_feature_detected!("sse4.1"),
        SSE4_2 => is_x86_feature_detected!("sse4.2"),
        AES => is_x86_feature_detected!("aes"),
        PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        SHA => is_x86_feature_detected!("sha"),
        AVX => is_x86_feature_detected!("avx"),
        AVX2 => is_x86_feature_detected!("avx2"),
        FMA => is_x86_feature_detected!("fma"),
        RDTSCP => is_rdtscp_detected(),
        F16C => is_x86_feature_detected!("f16c"),
        INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | X64 | CMOV | CX8 | CMPXCHG16B | FPU | FPU287
        | FPU387 | MMX | SSE | SSE2 | TSC | MULTIBYTENOP | PAUSE | PREFETCHW | CET_IBT | CPUID | SYSCALL | SMAP
        | SERIALIZE => true,
        _ => false,
    }
}

fn class(instruction: &Instruction, mode: Mode) -> Class {
    use Mnemonic::*;
    if !instruction.cpuid_features().iter().all(|&feature| host_has(feature)) {
        return Class::Interpret;
    }
    if instruction.is_string_instruction() {
        return string(instruction, mode);
    }
    // The host would take the prefix for TZCNT and LZCNT, which the guest's processor has not.
    if matches!(instruction.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr) && instruction.has_rep_prefix() {
        return Class::Interpret;
    }
    match instruction.mnemonic() {
        Adc | Add | And | Cmp | Or | Sbb | Sub | Test | Xor | Inc | Dec | Neg | Not | Mov | Movzx | Movsx | Movsxd
        | Bswap | Movbe | Xadd | Xchg | Imul | Rcl | Rcr | Rol | Ror | Sal | Shl | Shr | Sar | Bsf | Bsr | Tzcnt
        | Lzcnt | Popcnt | Shld | Shrd | Andn | Bextr | Blsi | Blsmsk | Blsr | Bzhi | Pdep | Pext | Rorx | Sarx
        | Shlx | Shrx | Adcx | Adox | Crc32 | Movnti | Mulx | Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg
        | Cmovge | Cmovl | Cmovle | Cmovne | Cmovno | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs | Seta | Setae | Setb
        | Setbe | Sete | Setg | Setge | Setl | Setle | Setne | Setno | Setnp | Setns | Seto | Setp | Sets => {
            integer(instruction, mode)
        }
        Bt | Btc | Btr | Bts => bit_test(instruction),
        Rdtsc if mode.rdtsc() => Class::Rule,
        Rdtscp if mode.rdtsc() && host_has(CpuidFeature::RDTSCP) => Class::Rule,
        Cpuid => Class::Rule,
        Cli | Sti | Swapgs if mode.ring_0() => Class::Rule,
        Sysretq if mode.ring_0() && mode.long() => Class::Rule,
        Stac | Clac if mode.ring_0() && mode.smap() && mode.long() => Class::Rule,
        Syscall if mode.long() => Class::Rule,
        Cld | Std => Class::Rule,
        // Translated code is not executed before the stores in front of it are done.
        Serialize => Class::Nothing,
        Pushfq => Class::Rule,
        Pushf | Pushfd if !mode.long() && !mode.vm86() => Class::Rule,
        Lds if mode.loads_base(Register::DS) => Class::Rule,
        Les if mode.loads_base(Register::ES) => Class::Rule,
        Lfs if mode.loads_base(Register::FS) => Class::Rule,
        Lgs if mode.loads_base(Register::GS) => Class::Rule,
        Lahf | Sahf | Cmpxchg8b => Class::Rule,
        Loop | Jcxz | Jecxz | Jrcxz if !mode.long() || instruction.op0_kind() == OpKind::NearBranch64 => Class::Rule,
        Nop | Endbr64 | Endbr32 | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw => Class::Nothing,
        Lfence | Mfence | Sfence | Clc | Stc | Cmc => Class::Copy,
        Pause | Lea | Push | Pop | Call | Ret | Jmp | Leave | Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo | Mul | Div
        | Idiv | Cmpxchg | Cmpxchg16b | Fnstsw | Ja | Jae | Jb | Jbe | Je | Jg | Jge | Jl | Jle | Jne | Jno | Jnp
        | Jns | Jo | Jp | Js => rule(instruction, mode),
        _ => vector(instruction, mode),
    }
}

/// Whether a segment register can be loaded without looking at a descriptor. SS holds interrupts off as well.
fn plain_segment(register: Register, mode: Mode) -> bool {
    matches!(register, Register::DS | Register::ES | Register::FS | Register::GS) && mode.loads_base(register)
}

/// Where in the core a control register is that is read as it is.
pub fn control_field(register: Register) -> Option<u32> {
    match register {
        Register::CR0 => Some(layout::CR0),
        Register::CR2 => Some(layout::CR2),
        Register::CR3 => Some(layout::CR3),
        Register::CR4 => Some(layout::CR4),
        _ => None,
    }
}

fn integer(instruction: &Instruction, mode: Mode) -> Class {
    let one_operand_multiply = instruction.mnemonic() == Mnemonic::Imul && instruction.op_count() == 1;
    if one_operand_multiply {
        return Class::Rule;
    }
    let odd = (0..instruction.op_count()).any(|operand| {
        let register = instruction.op_register(operand);
        register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr()
    });
    let from_segment = instruction.op1_register().is_segment_register();
    let from_control = mode.ring_0() && mode.long() && control_field(instruction.op1_register()).is_some();
    if instruction.mnemonic() == Mnemonic::Mov
        && (from_control || from_segment || plain_segment(instruction.op0_register(), mode))
    {
        return Class::Rule;
    }
    if odd { Class::Interpret } else { Class::Copy }
}

/// MOVS, STOS, LODS, SCAS and CMPS; repeated ones that change no flags, where offsets are linear addresses.
fn string(instruction: &Instruction, mode: Mode) -> Class {
    use Mnemonic::*;
    let moves = matches!(instruction.mnemonic(), Movsb | Movsw | Movsd | Movsq | Stosb | Stosw | Stosd | Stosq);
    let known = moves
        || matches!(
            instruction.mnemonic(),
            Lodsb | Lodsw | Lodsd | Lodsq | Scasb | Scasw | Scasd | Scasq | Cmpsb | Cmpsw | Cmpsd | Cmpsq
        ) && !instruction.has_rep_prefix()
            && !instruction.has_repne_prefix();
    let size = string_address_size(instruction);
    let plain = if mode.long() {
        size == 8 && !matches!(instruction.segment_prefix(), Register::FS | Register::GS)
    } else {
        let flat = |register: Register| mode.reach(register.number()) == Reach::Flat;
        let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        !repeated || size == 4 && flat(Register::ES) && flat(instruction.memory_segment())
    };
    if known && plain { Class::Rule } else { Class::Interpret }
}

/// Bytes of the address size of a string instruction.
pub fn string_address_size(instruction: &Instruction) -> u16 {
    let is = |short, middle| {
        (0..instruction.op_count()).find_map(|operand| match instruction.op_kind(operand) {
            kind if kind == short => Some(2),
            kind if kind == middle => Some(4),
            _ => None,
        })
    };
    is(OpKind::MemorySegSI, OpKind::MemorySegESI).or(is(OpKind::MemoryESDI, OpKind::MemoryESEDI)).unwrap_or(8)
}

fn bit_test(instruction: &Instruction) -> Class {
    let memory = instruction.op0_kind() == OpKind::Memory;
    if memory && instruction.op1_kind() == OpKind::Register { Class::Rule } else { Class::Copy }
}

fn rule(instruction: &Instruction, mode: Mode) -> Class {
    use FlowControl::*;
    let far = instruction.is_jmp_far()
        || instruction.is_call_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect();
    let operand_size = instruction.code().op_code().operand_size();
    let stack_or_flow = matches!(
        instruction.mnemonic(),
        Mnemonic::Push | Mnemonic::Pop | Mnemonic::Leave | Mnemonic::Ret | Mnemonic::Call | Mnemonic::Jmp
    );
    // In 64-bit code narrow pushes, branches and the like are too rare for a rule.
    let odd_size = mode.long() && stack_or_flow && operand_size != 0 && operand_size != 64;
    let near_conditional = instruction.flow_control() == ConditionalBranch && !instruction.is_jcc_short_or_near();
    let truncating = mode.long() && instruction.op0_kind() == OpKind::NearBranch16;
    let pushed = instruction.mnemonic() == Mnemonic::Push && !mode.long();
    let segment = instruction.op_count() > 0
        && instruction.op0_register().is_segment_register()
        && !pushed
        && !plain_segment(instruction.op0_register(), mode);
    let is_pop_memory = instruction.mnemonic() == Mnemonic::Pop && instruction.op0_kind() == OpKind::Memory;
    let small_divide = instruction.mnemonic() == Mnemonic::Idiv && operand_bytes(instruction) == 1;
    if far || truncating || odd_size || near_conditional || segment || is_pop_memory || small_divide {
        return Class::Interpret;
    }
    if instruction.mnemonic() == Mnemonic::Fnstsw {
        let to_ax = instruction.op0_register() == Register::AX;
        return if !mode.x87() {
            Class::Interpret
        } else if to_ax {
            Class::Rule
        } else {
            Class::Copy
        };
    }
    Class::Rule
}

/// Bytes of the first operand.
pub fn operand_bytes(instruction: &Instruction) -> usize {
    match instruction.op0_kind() {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op0_register().size(),
    }
}

/// Vector and x87 instructions are copied by the extension they belong to.
fn vector(instruction: &Instruction, mode: Mode) -> Class {
    use CpuidFeature::*;
    use Mnemonic::*;
    // Instructions that touch memory or registers without naming them are not in these sets but for a few.
    let usable = !instruction.cpuid_features().is_empty()
        && instruction.cpuid_features().iter().all(|feature| match feature {
            MMX | FPU | FPU287 | FPU387 | CMOV => mode.x87(),
            SSE | SSE2 | SSE3 | SSSE3 | SSE4_1 | SSE4_2 | AES | PCLMULQDQ | SHA => mode.sse(),
            AVX | AVX2 | FMA | F16C => mode.avx() && !instruction.is_vsib(),
            _ => false,
        });
    match instruction.mnemonic() {
        Fldenv | Fnstenv | Fnsave | Frstor | Maskmovq | Maskmovdqu | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd
        | Vpmaskmovd | Vpmaskmovq => Class::Interpret,
        _ if !usable => Class::Interpret,
        Fldcw | Ldmxcsr | Vldmxcsr | Pcmpestri | Pcmpestri64 | Pcmpestrm | Pcmpestrm64 | Pcmpistri | Pcmpistrm
        | Vpcmpestri | Vpcmpestri64 | Vpcmpestrm | Vpcmpestrm64 | Vpcmpistri | Vpcmpistrm => Class::Rule,
        // No exception is pending while all are masked.
        Wait => Class::Nothing,
        _ => Class::Copy,
    }
}
