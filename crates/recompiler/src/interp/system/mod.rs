//! System instructions, control transfers between privilege levels, and the delivery of events.

pub(crate) mod control;
pub(crate) mod debug;
mod descriptor;
mod far;
pub(crate) mod fast_call;
mod interrupt;
mod io;
mod iret;
mod registers;
pub(super) mod segment;
mod stack;
mod task;
#[cfg(test)]
mod tests;

pub use interrupt::Delivered;

use super::Handler;
use hv::SegmentRegister;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The handler of a system instruction; `None` for all others, and for those this processor does not have.
pub(super) fn handler(instruction: &Instruction) -> Option<Handler> {
    let handler: Handler = match instruction.mnemonic() {
        Mnemonic::Mov => return mov(instruction),
        Mnemonic::Lds => |core, instruction| segment::load_far_pointer(core, instruction, SegmentRegister::Ds),
        Mnemonic::Les => |core, instruction| segment::load_far_pointer(core, instruction, SegmentRegister::Es),
        Mnemonic::Lfs => |core, instruction| segment::load_far_pointer(core, instruction, SegmentRegister::Fs),
        Mnemonic::Lgs => |core, instruction| segment::load_far_pointer(core, instruction, SegmentRegister::Gs),
        Mnemonic::Lss => |core, instruction| segment::load_far_pointer(core, instruction, SegmentRegister::Ss),
        Mnemonic::Lldt => segment::lldt,
        Mnemonic::Ltr => segment::ltr,
        Mnemonic::Sldt => segment::sldt,
        Mnemonic::Str => segment::store_task_register,
        Mnemonic::Lar => segment::lar,
        Mnemonic::Lsl => segment::lsl,
        Mnemonic::Verr => segment::verr,
        Mnemonic::Verw => segment::verw,
        Mnemonic::Arpl => segment::arpl,

        Mnemonic::Int => interrupt::int,
        Mnemonic::Int1 => interrupt::int1,
        Mnemonic::Int3 => interrupt::int3,
        Mnemonic::Into => interrupt::into,
        Mnemonic::Bound => interrupt::bound,
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => iret::iret,
        Mnemonic::Jmp if is_far(instruction) => far::jmp,
        Mnemonic::Call if is_far(instruction) => far::call,
        Mnemonic::Retf => far::ret,
        Mnemonic::Syscall => fast_call::syscall,
        Mnemonic::Sysret | Mnemonic::Sysretq => fast_call::sysret,
        Mnemonic::Sysenter => fast_call::sysenter,
        Mnemonic::Sysexit | Mnemonic::Sysexitq => fast_call::sysexit,

        Mnemonic::Lmsw => control::lmsw,
        Mnemonic::Smsw => control::smsw,
        Mnemonic::Clts => control::clts,
        Mnemonic::Lgdt => control::lgdt,
        Mnemonic::Lidt => control::lidt,
        Mnemonic::Sgdt => control::sgdt,
        Mnemonic::Sidt => control::sidt,
        Mnemonic::Invlpg => control::invlpg,
        Mnemonic::Invpcid => control::invpcid,
        Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => control::cache,
        Mnemonic::Hlt => control::hlt,
        Mnemonic::Cli => control::cli,
        Mnemonic::Sti => control::sti,
        Mnemonic::Stac => control::stac,
        Mnemonic::Clac => control::clac,
        Mnemonic::Swapgs => control::swapgs,
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase => control::read_base,
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => control::write_base,
        Mnemonic::Xsetbv => control::xsetbv,

        Mnemonic::In => io::input,
        Mnemonic::Out => io::output,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => io::input_string,
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => io::output_string,

        Mnemonic::Rdmsr => registers::rdmsr,
        Mnemonic::Wrmsr => registers::wrmsr,
        Mnemonic::Cpuid => registers::cpuid,
        Mnemonic::Rdtsc => registers::rdtsc,
        Mnemonic::Rdtscp => registers::rdtscp,
        Mnemonic::Rdpid => registers::rdpid,
        Mnemonic::Rdpmc => registers::rdpmc,
        Mnemonic::Xgetbv => registers::xgetbv,
        _ => return None,
    };
    Some(handler)
}

/// MOV to and from control and debug registers.
fn mov(instruction: &Instruction) -> Option<Handler> {
    let register = |operand| match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand),
        _ => Register::None,
    };
    let (target, source) = (register(0), register(1));
    if target.is_cr() {
        Some(control::mov_to_control)
    } else if source.is_cr() {
        Some(control::mov_from_control)
    } else if target.is_dr() {
        Some(debug::mov_to_debug)
    } else if source.is_dr() {
        Some(debug::mov_from_debug)
    } else if target.is_segment_register() {
        Some(segment::mov_to_segment)
    } else if source.is_segment_register() {
        Some(segment::mov_from_segment)
    } else {
        None
    }
}

/// A JMP or CALL that loads CS.
fn is_far(instruction: &Instruction) -> bool {
    instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
}
