//! Masked moves and gathers: only the elements that the mask selects touch memory.

use super::area::{self, set_ymm, ymm};
use super::{Unit, check_unit, held_by_exception};
use crate::fault::Fault;
use crate::interp::integer::flags::mask;
use crate::interp::integer::operand::{
    address_size, effective_offset, linear_address, read_linear, read_register, segment_index, write_linear,
};
use crate::mmu::Kind;
use crate::state::{Core, Executed};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

fn vector_index(register: Register) -> usize {
    register.number() & 15
}

/// One element of a vector.
fn element(vector: &[u8; 32], index: usize, size: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&vector[index * size..][..size]);
    u64::from_le_bytes(bytes)
}

fn set_element(vector: &mut [u8; 32], index: usize, size: usize, value: u64) {
    vector[index * size..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// Whether a mask element's sign bit is set.
fn selected(masks: &[u8; 32], index: usize, size: usize) -> bool {
    masks[index * size + size - 1] & 0x80 != 0
}

/// The linear address of an element `offset` bytes behind the start of the memory operand.
fn element_address(
    core: &Core,
    instruction: &Instruction,
    offset: u64,
    size: usize,
    write: bool,
) -> Result<u64, Fault> {
    let segment = segment_index(instruction.memory_segment());
    linear_address(core, segment, offset & mask(address_size(instruction)), size, write)
}

/// Writes selected elements; every page is checked before any byte is written.
fn store_selected(
    core: &mut Core,
    count: usize,
    size: usize,
    select: impl Fn(usize) -> bool,
    address: impl Fn(&Core, usize) -> Result<u64, Fault>,
    value: &[u8; 32],
) -> Executed {
    for index in (0..count).filter(|&index| select(index)) {
        let linear = address(core, index)?;
        core.probe(linear, size as u64, Kind::Write)?;
    }
    for index in (0..count).filter(|&index| select(index)) {
        let linear = address(core, index)?;
        write_linear(core, linear, size, element(value, index, size))?;
    }
    Ok(())
}

/// MASKMOVQ, MASKMOVDQU, VMASKMOVDQU: bytes to DS:DI or a segment override.
pub(super) fn maskmov(core: &mut Core, instruction: &Instruction) -> Executed {
    let (unit, count) = match instruction.mnemonic() {
        Mnemonic::Maskmovq => (Unit::Mmx, 8),
        Mnemonic::Maskmovdqu => (Unit::Sse, 16),
        _ => (Unit::Avx, 16),
    };
    check_unit(core, unit)?;
    if unit == Unit::Mmx && held_by_exception(core)? {
        return Ok(());
    }
    let register = |core: &Core, operand: u32| {
        let register = instruction.op_register(operand);
        if register.is_mm() {
            let mut value = [0; 32];
            let at = area::ST + 16 * ((register.number() + 8 - area::top(core)) & 7);
            value[..8].copy_from_slice(&core.fpu.0[at..][..8]);
            value
        } else {
            ymm(core, vector_index(register))
        }
    };
    let (value, masks) = (register(core, 1), register(core, 2));
    let (pointer, width) = match instruction.op0_kind() {
        OpKind::MemorySegDI => (Register::DI, 2),
        OpKind::MemorySegEDI => (Register::EDI, 4),
        _ => (Register::RDI, 8),
    };
    let start = read_register(core, pointer);
    let segment = segment_index(instruction.memory_segment());
    let address = |core: &Core, index: usize| {
        linear_address(core, segment, start.wrapping_add(index as u64) & mask(width), 1, true)
    };
    store_selected(core, count, 1, |index| selected(&masks, index, 1), address, &value)?;
    if unit == Unit::Mmx {
        area::enter_mmx(core);
    }
    Ok(())
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ in both directions.
pub(super) fn vmaskmov(core: &mut Core, instruction: &Instruction) -> Executed {
    check_unit(core, Unit::Avx)?;
    let size = match instruction.mnemonic() {
        Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd => 4,
        _ => 8,
    };
    let masks = ymm(core, vector_index(instruction.op1_register()));
    let start = effective_offset(core, instruction);
    let address = |core: &Core, index: usize, write: bool| {
        element_address(core, instruction, start.wrapping_add((index * size) as u64), size, write)
    };
    if instruction.op0_kind() == OpKind::Memory {
        let source = instruction.op2_register();
        let value = ymm(core, vector_index(source));
        let select = |index| selected(&masks, index, size);
        return store_selected(
            core,
            source.size() / size,
            size,
            select,
            |core, index| address(core, index, true),
            &value,
        );
    }
    let destination = instruction.op0_register();
    let mut value = [0; 32];
    for index in (0..destination.size() / size).filter(|&index| selected(&masks, index, size)) {
        let linear = address(core, index, false)?;
        let loaded = read_linear(core, linear, size)?;
        set_element(&mut value, index, size, loaded);
    }
    set_ymm(core, vector_index(destination), &value);
    Ok(())
}

/// The AVX2 gathers. Elements done before a fault stay done, with their mask elements cleared.
pub(super) fn gather(core: &mut Core, instruction: &Instruction) -> Executed {
    check_unit(core, Unit::Avx)?;
    let (index_size, size) = match instruction.mnemonic() {
        Mnemonic::Vgatherdps | Mnemonic::Vpgatherdd => (4, 4),
        Mnemonic::Vgatherdpd | Mnemonic::Vpgatherdq => (4, 8),
        Mnemonic::Vgatherqps | Mnemonic::Vpgatherqd => (8, 4),
        _ => (8, 8),
    };
    let (destination, masking) = (instruction.op0_register(), instruction.op2_register());
    let indices = instruction.memory_index();
    let numbers = [destination, masking, indices].map(vector_index);
    if numbers[0] == numbers[1] || numbers[0] == numbers[2] || numbers[1] == numbers[2] {
        return Err(Fault::UD);
    }
    // As many elements as both the destination and the indices have room for.
    let count = (destination.size() / size).min(indices.size() / index_size);
    let offsets = ymm(core, numbers[2]);
    let start = effective_offset(core, instruction);
    let scale = u64::from(instruction.memory_index_scale());
    let mut value = ymm(core, numbers[0]);
    let mut masks = ymm(core, numbers[1]);
    let mut outcome = Ok(());
    let asked = masks;
    for index in (0..count).filter(|&index| selected(&asked, index, size)) {
        let offset = crate::interp::integer::flags::sign_extend(element(&offsets, index, index_size), index_size);
        let loaded = element_address(core, instruction, start.wrapping_add(offset.wrapping_mul(scale)), size, false)
            .and_then(|linear| read_linear(core, linear, size));
        match loaded {
            Ok(loaded) => {
                set_element(&mut value, index, size, loaded);
                set_element(&mut masks, index, size, 0);
            }
            Err(fault) => {
                outcome = Err(fault);
                break;
            }
        }
    }
    if outcome.is_ok() {
        masks = [0; 32];
        // What the elements do not cover is cleared.
        value[count * size..].fill(0);
    }
    set_ymm(core, numbers[0], &value);
    set_ymm(core, numbers[1], &masks);
    outcome
}
