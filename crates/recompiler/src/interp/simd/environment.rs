//! FNSTENV, FLDENV, FNSAVE, FRSTOR: the x87 environment in its four memory formats. Intel SDM volume 1, section 8.1.10.

use super::area::{self, EXCEPTIONS};
use super::{Unit, check_unit, ferr_follows, held_by_exception};
use crate::interp::integer::operand::memory;
use crate::state::{Core, Executed};
use iced_x86::{Instruction, MemorySize};

/// How the environment lies in memory.
#[derive(Clone, Copy)]
struct Format {
    /// 32-bit fields (28 bytes) instead of 16-bit ones (14 bytes).
    wide: bool,
    /// Linear pointers of real and virtual-8086 mode instead of selectors and offsets.
    linear: bool,
}

impl Format {
    fn of(core: &Core, instruction: &Instruction) -> Self {
        let wide = matches!(instruction.memory_size(), MemorySize::FpuEnv28 | MemorySize::FpuState108);
        Format { wide, linear: !core.protected() || core.vm86() }
    }

    fn size(self) -> usize {
        if self.wide { 28 } else { 14 }
    }
}

/// Two bits a register: 0 valid, 1 zero, 2 special, 3 empty. The area keeps only whether it is empty.
fn full_tags(core: &Core) -> u16 {
    let top = area::top(core);
    let mut tags = 0;
    for physical in 0..8 {
        let at = area::ST + 16 * ((physical + 8 - top) % 8);
        let mantissa = core.area64(at);
        let exponent = core.area16(at + 8) & 0x7FFF;
        let tag = if core.fpu.0[area::FTW] >> physical & 1 == 0 {
            3
        } else if exponent == 0 && mantissa == 0 {
            1
        } else if exponent == 0 || exponent == 0x7FFF || mantissa >> 63 == 0 {
            2
        } else {
            0
        };
        tags |= tag << (2 * physical);
    }
    tags
}

/// The environment as bytes; the first [`Format::size`] count. Selectors read as zero, as on processors that no longer keep
/// them.
fn encode(core: &Core, format: Format) -> [u8; 28] {
    let (fip, fdp) = (core.area64(area::FIP), core.area64(area::FDP));
    let opcode = core.area16(area::FOP) & 0x7FF;
    let control = [core.area16(area::FCW), core.area16(area::FSW), full_tags(core)];
    let mut bytes = [0; 28];
    if format.wide {
        let high = |pointer: u64| (pointer as u32 >> 16) << 12;
        let pointers: [u32; 4] = if format.linear {
            [fip as u32 & 0xFFFF, high(fip) | u32::from(opcode), fdp as u32 & 0xFFFF, high(fdp)]
        } else {
            [fip as u32, u32::from(opcode) << 16, fdp as u32, 0]
        };
        for (index, value) in control.iter().enumerate() {
            // The upper halves are reserved and read as ones.
            bytes[4 * index..][..4].copy_from_slice(&(u32::from(*value) | 0xFFFF_0000).to_le_bytes());
        }
        for (index, value) in pointers.iter().enumerate() {
            bytes[12 + 4 * index..][..4].copy_from_slice(&value.to_le_bytes());
        }
    } else {
        let high = |pointer: u64| (pointer >> 16 & 0xF) as u16;
        let pointers: [u16; 4] = if format.linear {
            [fip as u16, high(fip) << 12 | opcode, fdp as u16, high(fdp) << 12]
        } else {
            [fip as u16, 0, fdp as u16, 0]
        };
        for (index, value) in control.iter().chain(&pointers).enumerate() {
            bytes[2 * index..][..2].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// Loads an environment of [`Format::size`] bytes.
fn decode(core: &mut Core, format: Format, bytes: &[u8]) {
    let step = if format.wide { 4 } else { 2 };
    let field = |index: usize| u16::from_le_bytes([bytes[step * index], bytes[step * index + 1]]);
    let (fcw, fsw, tags) = (field(0), field(1), field(2));
    let not_empty = (0..8).fold(0u8, |set, register| set | u8::from(tags >> (2 * register) & 3 != 3) << register);
    let upper = |index: usize| {
        if format.wide { u64::from(bytes[step * index + 2]) | u64::from(bytes[step * index + 3]) << 8 } else { 0 }
    };
    let whole = |index: usize| u64::from(field(index)) | upper(index) << 16;
    let high = |index: usize| (whole(index) >> 12 & 0xFFFF) << 16;
    let (fip, fdp, opcode) = if format.linear {
        (u64::from(field(3)) | high(4), u64::from(field(5)) | high(6), field(4) & 0x7FF)
    } else {
        (whole(3), whole(5), upper(4) as u16 & 0x7FF)
    };
    core.set_area16(area::FCW, fcw & 0x1F3F | 0x40);
    area::set_status(core, area::summarised(fsw, fcw));
    core.set_area16(area::FTW, u16::from(not_empty));
    core.set_area16(area::FOP, opcode);
    core.set_area64(area::FIP, fip);
    core.set_area64(area::FDP, fdp);
    core.touch_components(area::X87);
    ferr_follows(core);
}

/// Stores the environment and masks all exceptions.
pub(super) fn fnstenv(core: &mut Core, instruction: &Instruction) -> Executed {
    check_unit(core, Unit::X87)?;
    let format = Format::of(core, instruction);
    let linear = memory(core, instruction, format.size(), true)?;
    let bytes = encode(core, format);
    core.write_bytes(linear, &bytes[..format.size()])?;
    let fcw = core.area16(area::FCW) | EXCEPTIONS;
    core.set_area16(area::FCW, fcw);
    core.set_area16(area::FSW, area::summarised(core.area16(area::FSW), fcw));
    core.touch_components(area::X87);
    ferr_follows(core);
    Ok(())
}

pub(super) fn fldenv(core: &mut Core, instruction: &Instruction) -> Executed {
    check_unit(core, Unit::X87)?;
    if held_by_exception(core)? {
        return Ok(());
    }
    let format = Format::of(core, instruction);
    let linear = memory(core, instruction, format.size(), false)?;
    let mut bytes = [0; 28];
    core.read_bytes(linear, &mut bytes[..format.size()])?;
    decode(core, format, &bytes[..format.size()]);
    Ok(())
}

/// Stores the environment and the eight registers of 10 bytes, then initialises.
pub(super) fn fnsave(core: &mut Core, instruction: &Instruction) -> Executed {
    check_unit(core, Unit::X87)?;
    let format = Format::of(core, instruction);
    let size = format.size();
    let linear = memory(core, instruction, size + 80, true)?;
    let mut bytes = [0; 108];
    bytes[..size].copy_from_slice(&encode(core, format)[..size]);
    for register in 0..8 {
        bytes[size + 10 * register..][..10].copy_from_slice(&core.fpu.0[area::ST + 16 * register..][..10]);
    }
    core.write_bytes(linear, &bytes[..size + 80])?;
    area::initialise_x87(core);
    core.touch_components(area::X87);
    ferr_follows(core);
    Ok(())
}

pub(super) fn frstor(core: &mut Core, instruction: &Instruction) -> Executed {
    check_unit(core, Unit::X87)?;
    if held_by_exception(core)? {
        return Ok(());
    }
    let format = Format::of(core, instruction);
    let size = format.size();
    let linear = memory(core, instruction, size + 80, false)?;
    let mut bytes = [0; 108];
    core.read_bytes(linear, &mut bytes[..size + 80])?;
    decode(core, format, &bytes[..size]);
    for register in 0..8 {
        let at = area::ST + 16 * register;
        core.fpu.0[at..at + 10].copy_from_slice(&bytes[size + 10 * register..][..10]);
        core.fpu.0[at + 10..at + 16].fill(0);
    }
    Ok(())
}
