//! FXSAVE, FXRSTOR, XSAVE, XRSTOR, LDMXCSR, STMXCSR on the guest's own area. Intel SDM volume 1, chapters 10 and 13.

use super::area::{self, AVX, MXCSR_BITS, MXCSR_INITIAL, SSE, X87};
use super::{Unit, check_unit, unit, vector_registers};
use crate::fault::Fault;
use crate::interp::integer::operand::{memory, read_linear, write_linear};
use crate::mmu::Kind;
use crate::state::{Core, Executed, cr0, cr4};
use iced_x86::{Instruction, Mnemonic};

/// With REX.W the x87 pointers are 64 bits wide, without it 32 bits and a selector, which reads as zero.
fn wide_pointers(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Fxsave64 | Mnemonic::Fxrstor64 | Mnemonic::Xsave64 | Mnemonic::Xrstor64)
}

/// The first 32 bytes of the area in the instruction's pointer format.
fn x87_header(core: &Core, instruction: &Instruction) -> [u8; 32] {
    let mut header = [0; 32];
    header.copy_from_slice(&core.fpu.0[..32]);
    if !wide_pointers(instruction) {
        header[12..16].fill(0);
        header[20..24].fill(0);
    }
    header[28..32].copy_from_slice(&MXCSR_BITS.to_le_bytes());
    header
}

/// Takes over the x87 part of a saved area (160 bytes).
fn load_x87(core: &mut Core, instruction: &Instruction, image: &[u8]) {
    core.fpu.0[..area::MXCSR].copy_from_slice(&image[..area::MXCSR]);
    core.fpu.0[area::FTW + 1] = 0;
    if !wide_pointers(instruction) {
        core.fpu.0[12..16].fill(0);
        core.fpu.0[20..24].fill(0);
    }
    let fsw = area::summarised(core.area16(area::FSW), core.area16(area::FCW));
    core.set_area16(area::FSW, fsw);
    for register in 0..8 {
        let at = area::ST + 16 * register;
        core.fpu.0[at..at + 10].copy_from_slice(&image[at..at + 10]);
        core.fpu.0[at + 10..at + 16].fill(0);
    }
}

fn valid_mxcsr(image: &[u8]) -> Result<u32, Fault> {
    let value = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
    if value & !MXCSR_BITS != 0 { Err(Fault::GP0) } else { Ok(value) }
}

/// FXSAVE and FXRSTOR: both CR0.EM and CR0.TS give #NM, and the area is aligned to 16 bytes.
fn fx_address(core: &Core, instruction: &Instruction, write: bool) -> Result<u64, Fault> {
    if core.cr0 & (cr0::EM | cr0::TS) != 0 {
        return Err(Fault::NM);
    }
    let linear = memory(core, instruction, 512, write)?;
    if linear % 16 != 0 { Err(Fault::GP0) } else { Ok(linear) }
}

pub(super) fn fxsave(core: &mut Core, instruction: &Instruction) -> Executed {
    let linear = fx_address(core, instruction, true)?;
    let end = area::XMM + 16 * vector_registers(core);
    let mut image = [0; area::XMM_END];
    image.copy_from_slice(&core.fpu.0[..area::XMM_END]);
    image[..32].copy_from_slice(&x87_header(core, instruction));
    core.probe(linear, 512, Kind::Write)?;
    core.write_bytes(linear, &image[..end])
}

pub(super) fn fxrstor(core: &mut Core, instruction: &Instruction) -> Executed {
    let linear = fx_address(core, instruction, false)?;
    let end = area::XMM + 16 * vector_registers(core);
    let mut image = [0; 512];
    core.read_bytes(linear, &mut image)?;
    let mxcsr = valid_mxcsr(&image)?;
    load_x87(core, instruction, &image);
    if core.cr4 & cr4::OSFXSR != 0 {
        core.set_area32(area::MXCSR, mxcsr);
        core.fpu.0[area::XMM..end].copy_from_slice(&image[area::XMM..end]);
    }
    core.touch_components(X87 | SSE);
    Ok(())
}

/// The checks of XSAVE and XRSTOR: linear address and the components asked for.
fn x_address(core: &Core, instruction: &Instruction, write: bool) -> Result<(u64, u64), Fault> {
    if core.cr4 & cr4::OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    if core.cr0 & cr0::TS != 0 {
        return Err(Fault::NM);
    }
    let asked = (core.gpr[0] & 0xFFFF_FFFF | core.gpr[2] << 32) & core.xcr0 & (X87 | SSE | AVX);
    let size = if asked & AVX != 0 { area::YMM_HIGH + 256 } else { area::YMM_HIGH };
    let linear = memory(core, instruction, size, write)?;
    if linear % 64 != 0 { Err(Fault::GP0) } else { Ok((linear, asked)) }
}

pub(super) fn xsave(core: &mut Core, instruction: &Instruction) -> Executed {
    let (linear, asked) = x_address(core, instruction, true)?;
    let registers = vector_registers(core);
    let size = if asked & AVX != 0 { area::YMM_HIGH + 256 } else { area::YMM_HIGH };
    core.probe(linear, size as u64, Kind::Write)?;
    let present: u64 = core.read(linear + area::XSTATE_BV as u64)?;
    let header = x87_header(core, instruction);
    let image = core.fpu.clone();
    if asked & X87 != 0 {
        core.write_bytes(linear, &header[..area::MXCSR])?;
        core.write_bytes(linear + area::ST as u64, &image.0[area::ST..area::XMM])?;
    }
    if asked & (SSE | AVX) != 0 {
        core.write_bytes(linear + area::MXCSR as u64, &header[area::MXCSR..])?;
    }
    if asked & SSE != 0 {
        core.write_bytes(linear + area::XMM as u64, &image.0[area::XMM..area::XMM + 16 * registers])?;
    }
    if asked & AVX != 0 {
        core.write_bytes(linear + area::YMM_HIGH as u64, &image.0[area::YMM_HIGH..area::YMM_HIGH + 16 * registers])?;
    }
    let in_use = core.area64(area::XSTATE_BV);
    core.write(linear + area::XSTATE_BV as u64, present & !asked | in_use & asked)
}

pub(super) fn xrstor(core: &mut Core, instruction: &Instruction) -> Executed {
    let (linear, asked) = x_address(core, instruction, false)?;
    let registers = vector_registers(core);
    let mut image = [0; area::YMM_HIGH + 256];
    let size = if asked & AVX != 0 { image.len() } else { area::YMM_HIGH };
    core.read_bytes(linear, &mut image[..size])?;
    let mut present = [0; 8];
    present.copy_from_slice(&image[area::XSTATE_BV..area::XSTATE_BV + 8]);
    let present = u64::from_le_bytes(present);
    // No compaction, and everything reserved is zero.
    if present & !core.xcr0 != 0 || image[area::XSTATE_BV + 8..area::XSTATE_BV + 24].iter().any(|&byte| byte != 0) {
        return Err(Fault::GP0);
    }
    if asked & (SSE | AVX) != 0 {
        let mxcsr = valid_mxcsr(&image)?;
        core.set_area32(area::MXCSR, mxcsr);
    }
    let loaded = asked & present;
    if loaded & X87 != 0 {
        load_x87(core, instruction, &image);
    } else if asked & X87 != 0 {
        area::initialise_x87(core);
        core.fpu.0[area::ST..area::XMM].fill(0);
    }
    for (component, at) in [(SSE, area::XMM), (AVX, area::YMM_HIGH)] {
        let range = at..at + 16 * registers;
        if loaded & component != 0 {
            core.fpu.0[range.clone()].copy_from_slice(&image[range]);
        } else if asked & component != 0 {
            core.fpu.0[range].fill(0);
        }
    }
    let in_use = core.area64(area::XSTATE_BV) & !asked | loaded;
    core.set_area64(area::XSTATE_BV, in_use);
    Ok(())
}

fn check_mxcsr_access(core: &Core, instruction: &Instruction) -> Executed {
    check_unit(core, if unit(instruction) == Unit::Avx { Unit::Avx } else { Unit::Sse })
}

pub(super) fn ldmxcsr(core: &mut Core, instruction: &Instruction) -> Executed {
    check_mxcsr_access(core, instruction)?;
    let linear = memory(core, instruction, 4, false)?;
    let value = read_linear(core, linear, 4)? as u32;
    if value & !MXCSR_BITS != 0 {
        return Err(Fault::GP0);
    }
    core.set_area32(area::MXCSR, value);
    if value != MXCSR_INITIAL {
        core.touch_components(SSE);
    }
    Ok(())
}

pub(super) fn stmxcsr(core: &mut Core, instruction: &Instruction) -> Executed {
    check_mxcsr_access(core, instruction)?;
    let linear = memory(core, instruction, 4, true)?;
    write_linear(core, linear, 4, u64::from(core.area32(area::MXCSR)))
}
