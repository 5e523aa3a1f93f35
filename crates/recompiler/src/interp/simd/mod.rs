//! Vector and x87 instructions. They run on the host's own units as one-instruction stubs ([`stub`]); those that save or
//! load the units' state ([`save`], [`environment`]) or touch memory by element ([`elements`]) are done here.

mod area;
mod elements;
mod environment;
mod save;
mod stub;

pub use stub::Stubs;

use super::Handler;
use super::integer::{operand, require_vex};
use crate::fault::{Fault, vector};
use crate::mmu::Kind;
use crate::state::{Bits, Core, Executed, cr0, cr4};
use iced_x86::{CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind, Register};
use std::arch::is_x86_feature_detected as host_has;

/// Whether the instruction belongs to a feature that CPUID may show and this host executes.
fn supported(feature: CpuidFeature) -> bool {
    match feature {
        // What every 64-bit processor has.
        CpuidFeature::INTEL8086
        | CpuidFeature::X64
        | CpuidFeature::FPU
        | CpuidFeature::FPU287
        | CpuidFeature::FPU387
        | CpuidFeature::CMOV
        | CpuidFeature::MMX
        | CpuidFeature::FXSR
        | CpuidFeature::SSE
        | CpuidFeature::SSE2
        | CpuidFeature::SSE3
        | CpuidFeature::SSSE3
        | CpuidFeature::SSE4_1
        | CpuidFeature::SSE4_2
        | CpuidFeature::XSAVE => true,
        CpuidFeature::AES => host_has!("aes"),
        CpuidFeature::PCLMULQDQ => host_has!("pclmulqdq"),
        CpuidFeature::SHA => host_has!("sha"),
        CpuidFeature::AVX => host_has!("avx"),
        CpuidFeature::AVX2 => host_has!("avx2"),
        CpuidFeature::FMA => host_has!("fma"),
        CpuidFeature::F16C => host_has!("f16c"),
        _ => false,
    }
}

/// The unit an instruction belongs to: decides which control bits forbid it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    X87,
    Mmx,
    Sse,
    Avx,
}

fn is_x87(instruction: &Instruction) -> bool {
    instruction
        .cpuid_features()
        .iter()
        .any(|feature| matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387))
}

/// What an x87 instruction leaves as the address of the last one: its own, or nothing. `None`: it is none of those that
/// are remembered. Intel SDM volume 1, section 8.1.8.
pub fn x87_pointer(instruction: &Instruction) -> Option<u64> {
    match instruction.mnemonic() {
        Mnemonic::Fninit => Some(0),
        Mnemonic::Fnclex | Mnemonic::Fnstcw | Mnemonic::Fldcw | Mnemonic::Fnstsw => None,
        _ if is_x87(instruction) => Some(instruction.ip()),
        _ => None,
    }
}

fn has_mmx_operand(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|index| instruction.op_register(index).is_mm())
}

/// Conversions from SSE operands, also where these are in memory.
fn converts_to_mmx(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Cvtpd2pi | Mnemonic::Cvttpd2pi | Mnemonic::Cvtps2pi | Mnemonic::Cvttps2pi
    )
}

fn unit(instruction: &Instruction) -> Unit {
    if instruction.encoding() == EncodingKind::VEX {
        Unit::Avx
    } else if is_x87(instruction) {
        Unit::X87
    } else if instruction.mnemonic() == Mnemonic::Emms
        || (has_mmx_operand(instruction)
            && !(0..instruction.op_count()).any(|i| instruction.op_register(i).is_xmm())
            && !converts_to_mmx(instruction))
    {
        Unit::Mmx
    } else {
        Unit::Sse
    }
}

/// #UD or #NM where control registers forbid a unit. Intel SDM volume 3A, section 13.1 and table 2-19 ff. of volume 2A.
fn check_unit(core: &Core, unit: Unit) -> Executed {
    match unit {
        Unit::X87 if core.cr0 & cr0::EM != 0 => return Err(Fault::NM),
        Unit::Mmx if core.cr0 & cr0::EM != 0 => return Err(Fault::UD),
        Unit::Sse if core.cr0 & cr0::EM != 0 || core.cr4 & cr4::OSFXSR == 0 => return Err(Fault::UD),
        Unit::Avx => {
            require_vex(core)?;
            if core.cr4 & cr4::OSXSAVE == 0 || core.xcr0 & 6 != 6 {
                return Err(Fault::UD);
            }
        }
        _ => {}
    }
    if core.cr0 & cr0::TS != 0 { Err(Fault::NM) } else { Ok(()) }
}

/// The non-waiting x87 instructions, which do not report a pending exception.
fn waits(instruction: &Instruction) -> bool {
    !matches!(
        instruction.mnemonic(),
        Mnemonic::Fninit
            | Mnemonic::Fnclex
            | Mnemonic::Fnstcw
            | Mnemonic::Fnstsw
            | Mnemonic::Fnstenv
            | Mnemonic::Fnsave
            // Of older units; they do nothing.
            | Mnemonic::Fneni
            | Mnemonic::Fndisi
            | Mnemonic::Fnsetpm
    )
}

/// Whether an instruction has to wait for the board to do something about a pending unmasked x87 exception: it is then
/// executed again, between two looks for interrupts. Intel SDM volume 1, section 8.7.
///
/// # Errors
/// #MF when one is pending and CR0.NE is set.
fn held_by_exception(core: &mut Core) -> Result<bool, Fault> {
    ferr_follows(core);
    if !area::x87_pending(core) {
        return Ok(false);
    }
    if core.cr0 & cr0::NE != 0 {
        return Err(Fault::plain(vector::MF));
    }
    let Some(lapic) = &core.lapic else { return Ok(false) };
    core.ferr = true;
    let held = !lapic.drive_ferr(true);
    if held {
        core.next_rip = core.rip;
    }
    Ok(held)
}

/// Takes FERR# back once no exception is pending: called behind whatever may have cleared it.
fn ferr_follows(core: &mut Core) {
    if core.ferr && !area::x87_pending(core) {
        core.ferr = false;
        if let Some(lapic) = &core.lapic {
            lapic.drive_ferr(false);
        }
    }
}

/// Instructions whose 16-byte (VEX: also 32-byte) memory operand must be aligned.
fn needs_alignment(instruction: &Instruction, unit: Unit) -> bool {
    match unit {
        Unit::Sse => !matches!(
            instruction.mnemonic(),
            Mnemonic::Movups
                | Mnemonic::Movupd
                | Mnemonic::Movdqu
                | Mnemonic::Lddqu
                | Mnemonic::Pcmpestri
                | Mnemonic::Pcmpestri64
                | Mnemonic::Pcmpestrm
                | Mnemonic::Pcmpestrm64
                | Mnemonic::Pcmpistri
                | Mnemonic::Pcmpistrm
        ),
        Unit::Avx => matches!(
            instruction.mnemonic(),
            Mnemonic::Vmovaps
                | Mnemonic::Vmovapd
                | Mnemonic::Vmovdqa
                | Mnemonic::Vmovntps
                | Mnemonic::Vmovntpd
                | Mnemonic::Vmovntdq
                | Mnemonic::Vmovntdqa
        ),
        _ => false,
    }
}

/// Runs an instruction as a stub, with its memory operand in a buffer.
fn native(core: &mut Core, instruction: &Instruction) -> Executed {
    let unit = unit(instruction);
    check_unit(core, unit)?;
    let waits = unit == Unit::X87 && waits(instruction) || unit == Unit::Mmx || has_mmx_operand(instruction);
    if waits && held_by_exception(core)? {
        return Ok(());
    }
    let prepared = core.stubs.prepare(instruction).ok_or(Fault::UD)?;
    let mut buffer = stub::Buffer::default();
    let mut linear = 0;
    let size = prepared.memory_size;
    if size != 0 {
        linear = operand::memory(core, instruction, size, prepared.writes)?;
        if size >= 16 && needs_alignment(instruction, unit) && linear % size as u64 != 0 {
            return Err(Fault::GP0);
        }
        // An x87 store with an unmasked exception leaves memory as it was, so what is there comes along.
        if prepared.reads || (unit == Unit::X87 && !area::x87_all_masked(core)) {
            read_operand(core, linear, &mut buffer.0[..size])?;
        }
        if prepared.writes {
            core.probe(linear, size as u64, Kind::Write)?;
        }
    }
    stub::run(core, instruction, prepared, &mut buffer)?;
    if prepared.writes && size != 0 {
        write_operand(core, linear, &buffer.0[..size])?;
    }
    if unit == Unit::X87 {
        let data = if size != 0 { operand::effective_offset(core, instruction) } else { 0 };
        area::note_instruction(core, instruction, data);
        ferr_follows(core);
    }
    Ok(())
}

/// Reads a memory operand of up to 64 bytes; the common sizes by way of the TLB.
fn read_operand(core: &mut Core, linear: u64, data: &mut [u8]) -> Executed {
    match data.len() {
        4 => data.copy_from_slice(&core.read::<u32>(linear)?.to_le_bytes()),
        8 => data.copy_from_slice(&core.read::<u64>(linear)?.to_le_bytes()),
        16 => data.copy_from_slice(&core.read::<u128>(linear)?.to_le_bytes()),
        _ => core.read_bytes(linear, data)?,
    }
    Ok(())
}

/// The counterpart of [`read_operand`].
fn write_operand(core: &mut Core, linear: u64, data: &[u8]) -> Executed {
    match *data {
        [a, b, c, d] => core.write(linear, u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => core.write(linear, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => core.write_bytes(linear, data),
    }
}

/// WAIT: #NM when both MP and TS ask for it, then a pending exception.
fn wait(core: &mut Core, _: &Instruction) -> Executed {
    if core.cr0 & cr0::MP != 0 && core.cr0 & cr0::TS != 0 {
        return Err(Fault::NM);
    }
    held_by_exception(core).map(|_| ())
}

/// Whether an instruction works on vector or x87 registers and so may run on the host.
fn runs_natively(instruction: &Instruction) -> bool {
    let vector = |index| {
        let register: Register = instruction.op_register(index);
        instruction.op_kind(index) == OpKind::Register && (register.is_vector_register() || register.is_mm())
    };
    // Those that show no vector register: the unit's state, and scalar conversions from memory.
    let hidden = matches!(
        instruction.mnemonic(),
        Mnemonic::Emms
            | Mnemonic::Vzeroupper
            | Mnemonic::Vzeroall
            | Mnemonic::Cvtss2si
            | Mnemonic::Cvttss2si
            | Mnemonic::Cvtsd2si
            | Mnemonic::Cvttsd2si
            | Mnemonic::Vcvtss2si
            | Mnemonic::Vcvttss2si
            | Mnemonic::Vcvtsd2si
            | Mnemonic::Vcvttsd2si
    );
    is_x87(instruction) || hidden || (0..instruction.op_count()).any(vector)
}

pub(super) fn handler(instruction: &Instruction) -> Option<Handler> {
    if !instruction.cpuid_features().iter().all(|&feature| supported(feature)) {
        return None;
    }
    let handler: Handler = match instruction.mnemonic() {
        Mnemonic::Wait => wait,
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => save::fxsave,
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => save::fxrstor,
        Mnemonic::Xsave | Mnemonic::Xsave64 => save::xsave,
        Mnemonic::Xrstor | Mnemonic::Xrstor64 => save::xrstor,
        Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => save::ldmxcsr,
        Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr => save::stmxcsr,
        Mnemonic::Fnstenv => environment::fnstenv,
        Mnemonic::Fldenv => environment::fldenv,
        Mnemonic::Fnsave => environment::fnsave,
        Mnemonic::Frstor => environment::frstor,
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => elements::maskmov,
        Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq => elements::vmaskmov,
        Mnemonic::Vgatherdps
        | Mnemonic::Vgatherdpd
        | Mnemonic::Vgatherqps
        | Mnemonic::Vgatherqpd
        | Mnemonic::Vpgatherdd
        | Mnemonic::Vpgatherdq
        | Mnemonic::Vpgatherqd
        | Mnemonic::Vpgatherqq => elements::gather,
        _ if runs_natively(instruction) => native,
        _ => return None,
    };
    Some(handler)
}

/// 64-bit mode has 16 vector registers, other modes see 8.
fn vector_registers(core: &Core) -> usize {
    if core.bits() == Bits::B64 { 16 } else { 8 }
}

#[cfg(test)]
mod lockstep;
#[cfg(test)]
mod tests;
