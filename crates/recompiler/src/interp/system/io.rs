//! Port input and output. Intel SDM volume 1, chapter 19.

use crate::fault::Fault;
use crate::interp::integer::operand;
use crate::state::{Core, Executed, flag};
use hv::{Gpr, Segment, SegmentRegister};
use iced_x86::{Code, Instruction, OpKind, Register};

/// Repetitions of INS and OUTS that run before interrupts are looked at.
const CHUNK: u64 = 512;

impl Core {
    /// The offset of the I/O permission map in the TSS; `None` when the TSS has none.
    pub(super) fn io_map_base(&mut self) -> Result<Option<u32>, Fault> {
        let wide = matches!(self.tr.access & 0x9F, 0x89 | 0x8B);
        if !wide || self.tr.access & Segment::P == 0 || self.tr.limit < 0x67 {
            return Ok(None);
        }
        let base: u16 = self.read_system(self.system_address(self.tr.base, 0x66))?;
        Ok(Some(u32::from(base)))
    }

    /// Whether the program may use `size` ports from `port` on.
    ///
    /// # Errors
    /// #GP(0) when it may not; page faults on the TSS.
    fn check_port(&mut self, port: u16, size: u8) -> Executed {
        let iopl = (self.rflags >> 12 & 3) as u8;
        if !self.protected() || !self.vm86() && self.cpl() <= iopl {
            return Ok(());
        }
        let offset = match self.io_map_base()? {
            Some(base) => base + u32::from(port / 8),
            None => return Err(Fault::GP0),
        };
        // The processor always reads two bytes.
        if offset + 1 > self.tr.limit {
            return Err(Fault::GP0);
        }
        let bits: u16 = self.read_system(self.system_address(self.tr.base, u64::from(offset)))?;
        let mask = (1u16 << size) - 1;
        if bits >> (port & 7) & mask == 0 { Ok(()) } else { Err(Fault::GP0) }
    }
}

fn port_and_size(core: &Core, instruction: &Instruction, port_operand: u32) -> (u16, u8) {
    let port = match instruction.op_kind(port_operand) {
        OpKind::Immediate8 => u16::from(instruction.immediate8()),
        _ => core.gpr[Gpr::Rdx as usize] as u16,
    };
    let size = match instruction.op_register(1 - port_operand) {
        Register::AL => 1,
        Register::AX => 2,
        _ => 4,
    };
    (port, size)
}

/// IN.
pub(super) fn input(core: &mut Core, instruction: &Instruction) -> Executed {
    let (port, size) = port_and_size(core, instruction, 1);
    core.check_port(port, size)?;
    core.note_port_access(port, size);
    let value = u64::from(core.port_read(port, size));
    let rax = &mut core.gpr[Gpr::Rax as usize];
    *rax = match size {
        1 => *rax & !0xFF | value & 0xFF,
        2 => *rax & !0xFFFF | value & 0xFFFF,
        _ => value & 0xFFFF_FFFF,
    };
    Ok(())
}

/// OUT.
pub(super) fn output(core: &mut Core, instruction: &Instruction) -> Executed {
    let (port, size) = port_and_size(core, instruction, 0);
    core.check_port(port, size)?;
    core.note_port_access(port, size);
    let value = core.gpr[Gpr::Rax as usize] as u32;
    core.port_write(port, size, value & (u32::MAX >> (32 - 8 * u32::from(size))));
    Ok(())
}

/// The registers of a string instruction at its address size.
struct StringRegisters {
    index: Register,
    counter: Register,
}

fn string_registers(index_operand: OpKind) -> StringRegisters {
    let (index, counter) = match index_operand {
        OpKind::MemoryESDI => (Register::DI, Register::CX),
        OpKind::MemoryESEDI => (Register::EDI, Register::ECX),
        OpKind::MemoryESRDI => (Register::RDI, Register::RCX),
        OpKind::MemorySegSI => (Register::SI, Register::CX),
        OpKind::MemorySegESI => (Register::ESI, Register::ECX),
        _ => (Register::RSI, Register::RCX),
    };
    StringRegisters { index, counter }
}

/// Runs one string instruction: `element` moves one element at an offset. A repeated one that is not done after a
/// chunk continues at itself, so that interrupts come through.
fn repeat(
    core: &mut Core,
    instruction: &Instruction,
    operand: u32,
    size: u64,
    mut element: impl FnMut(&mut Core, u64) -> Executed,
) -> Executed {
    let registers = string_registers(instruction.op_kind(operand));
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let total = if repeated { operand::read_register(core, registers.counter) } else { 1 };
    let chunk = if core.stops_at_each_element() { 1 } else { CHUNK };
    for done in 0..total.min(chunk) {
        let index = operand::read_register(core, registers.index);
        element(core, index)?;
        let step = if core.rflags & flag::DF != 0 { size.wrapping_neg() } else { size };
        operand::write_register(core, registers.index, index.wrapping_add(step));
        if repeated {
            operand::write_register(core, registers.counter, total - done - 1);
        }
    }
    if total > chunk {
        core.next_rip = core.rip;
    }
    Ok(())
}

/// INS. The element's page is checked before the port is read, whose reading may not be undone.
pub(super) fn input_string(core: &mut Core, instruction: &Instruction) -> Executed {
    let size = match instruction.code() {
        Code::Insb_m8_DX => 1,
        Code::Insw_m16_DX => 2,
        _ => 4,
    };
    let port = core.gpr[Gpr::Rdx as usize] as u16;
    core.check_port(port, size)?;
    repeat(core, instruction, 0, u64::from(size), |core, offset| {
        let address = operand::linear_address(core, SegmentRegister::Es, offset, usize::from(size), true)?;
        core.target(address, u64::from(size))?;
        core.note_port_access(port, size);
        let value = core.port_read(port, size);
        match size {
            1 => core.write(address, value as u8),
            2 => core.write(address, value as u16),
            _ => core.write(address, value),
        }
    })
}

/// OUTS.
pub(super) fn output_string(core: &mut Core, instruction: &Instruction) -> Executed {
    let size = match instruction.code() {
        Code::Outsb_DX_m8 => 1,
        Code::Outsw_DX_m16 => 2,
        _ => 4,
    };
    let port = core.gpr[Gpr::Rdx as usize] as u16;
    let segment = operand::segment_index(instruction.memory_segment());
    core.check_port(port, size)?;
    repeat(core, instruction, 1, u64::from(size), |core, offset| {
        let address = operand::linear_address(core, segment, offset, usize::from(size), false)?;
        let value = match size {
            1 => u32::from(core.read::<u8>(address)?),
            2 => u32::from(core.read::<u16>(address)?),
            _ => core.read(address)?,
        };
        core.note_port_access(port, size);
        core.port_write(port, size, value);
        Ok(())
    })
}
