//! Which arithmetic flags are still wanted at each point of a block.

use crate::blocks::Decoded;
use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

/// A set of arithmetic flags, as [`RflagsBits`].
pub type Flags = u32;

/// CF, PF, AF, ZF, SF and OF.
pub const ALL: Flags =
    RflagsBits::CF | RflagsBits::PF | RflagsBits::AF | RflagsBits::ZF | RflagsBits::SF | RflagsBits::OF;

/// What one instruction does with the flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct Use {
    /// Flags whose old value matters to the instruction.
    pub reads: Flags,
    /// Flags that have a new value afterwards (undefined ones included).
    pub writes: Flags,
    /// Wanted before the instruction.
    pub live_in: Flags,
    /// Wanted after the instruction.
    pub live_out: Flags,
}

/// The flags read and written by one instruction.
pub fn of(instruction: &Instruction) -> Use {
    let mut writes = instruction.rflags_modified() & ALL;
    let mut reads = instruction.rflags_read() & ALL;
    if shifts_by_variable(instruction) {
        // A count of zero leaves the flags alone.
        reads |= writes;
    } else if let Some(count) = shift_count(instruction) {
        if count == 0 {
            writes = 0;
        }
    }
    match instruction.mnemonic() {
        // They end up in R11.
        Mnemonic::Syscall => reads = ALL,
        // To and from control and debug registers: undefined by the manual, kept by processors.
        Mnemonic::Mov => writes = 0,
        _ => {}
    }
    Use { reads, writes, ..Use::default() }
}

fn is_shift(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(instruction.mnemonic(), Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd)
}

fn shifts_by_variable(instruction: &Instruction) -> bool {
    is_shift(instruction) && instruction.op_kind(instruction.op_count() - 1) == OpKind::Register
}

/// The masked count of a shift by an immediate.
fn shift_count(instruction: &Instruction) -> Option<u8> {
    if !is_shift(instruction) || instruction.op_count() < 2 {
        return None;
    }
    let last = instruction.op_count() - 1;
    match instruction.op_kind(last) {
        OpKind::Immediate8 | OpKind::Immediate8_2nd => {
            let wide = instruction.code().op_code().operand_size() == 64;
            Some(instruction.immediate(last) as u8 & if wide { 63 } else { 31 })
        }
        _ => None,
    }
}

/// Backward liveness over code. `wanted`: what is wanted where an instruction leads by branching, and behind the last one. An
/// interpreted instruction wants all flags: it may push them.
pub fn liveness(code: &[Decoded], wanted: impl Fn(usize) -> Flags, interpreted: impl Fn(usize) -> bool) -> Vec<Use> {
    let mut live = 0;
    let mut uses: Vec<Use> = code.iter().map(|decoded| of(&decoded.instruction)).collect();
    for (index, flags) in uses.iter_mut().enumerate() {
        if interpreted(index) {
            flags.reads = ALL;
        }
    }
    for (index, flags) in uses.iter_mut().enumerate().rev() {
        live |= wanted(index);
        flags.live_out = live;
        live = live & !flags.writes | flags.reads;
        flags.live_in = live;
    }
    uses
}
