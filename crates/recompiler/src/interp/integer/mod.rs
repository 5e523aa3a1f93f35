//! Integer instructions that need no privilege.

mod arith;
mod atomic;
mod bcd;
mod bits;
pub(crate) mod control;
mod data;
pub(crate) mod flags;
#[cfg(test)]
mod lockstep;
mod logic;
mod muldiv;
pub(crate) mod operand;
mod random;
mod shift;
pub(crate) mod stack;
mod string;

use super::Handler;
use crate::fault::Fault;
use crate::state::{Core, Executed};
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

/// VEX encodings do not exist in real and virtual-8086 mode.
pub(crate) fn require_vex(core: &Core) -> Executed {
    if core.protected() && !core.vm86() { Ok(()) } else { Err(Fault::UD) }
}

fn segment_operand(instruction: &Instruction) -> bool {
    let register = instruction.op0_register();
    instruction.op0_kind() == OpKind::Register && (Register::ES..=Register::GS).contains(&register)
}

/// MOV between general registers, memory and immediates; the others are system instructions.
fn mov(instruction: &Instruction) -> Option<Handler> {
    let special = |operand| {
        let register: Register = instruction.op_register(operand);
        register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr()
    };
    if special(0) || special(1) { None } else { Some(data::mov) }
}

/// Jcc, SETcc and CMOVcc, told apart by their operands.
fn conditional(instruction: &Instruction) -> Option<Handler> {
    match (instruction.condition_code(), instruction.op_count()) {
        (ConditionCode::None, _) => None,
        (_, 1) if instruction.is_jcc_short_or_near() => Some(control::jcc),
        (_, 1) => Some(data::setcc),
        (_, 2) => Some(data::cmov),
        _ => None,
    }
}

pub(super) fn handler(instruction: &Instruction) -> Option<Handler> {
    let handler: Handler = match instruction.mnemonic() {
        Mnemonic::Mov => return mov(instruction),
        Mnemonic::Movzx | Mnemonic::Movnti => data::mov,
        Mnemonic::Movsx | Mnemonic::Movsxd => data::movsx,
        Mnemonic::Lea => data::lea,
        Mnemonic::Cbw | Mnemonic::Cwde | Mnemonic::Cdqe => data::extend_accumulator,
        Mnemonic::Cwd | Mnemonic::Cdq | Mnemonic::Cqo => data::sign_accumulator,
        Mnemonic::Xlatb => data::xlat,
        Mnemonic::Lahf => data::lahf,
        Mnemonic::Sahf => data::sahf,
        Mnemonic::Salc => data::salc,
        Mnemonic::Clc => data::clc,
        Mnemonic::Stc => data::stc,
        Mnemonic::Cmc => data::cmc,
        Mnemonic::Cld => data::cld,
        Mnemonic::Std => data::std,
        Mnemonic::Nop
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Reservednop
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Cldemote
        | Mnemonic::Rdsspd
        | Mnemonic::Rdsspq => data::nop,
        Mnemonic::Pause => data::pause,
        Mnemonic::Lfence | Mnemonic::Sfence | Mnemonic::Mfence | Mnemonic::Serialize => data::memory_fence,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => data::flush_line,

        Mnemonic::Add => arith::add,
        Mnemonic::Adc => arith::adc,
        Mnemonic::Sub => arith::sub,
        Mnemonic::Sbb => arith::sbb,
        Mnemonic::Cmp => arith::cmp,
        Mnemonic::Inc => arith::inc,
        Mnemonic::Dec => arith::dec,
        Mnemonic::Neg => arith::neg,
        Mnemonic::Adcx => arith::adcx,
        Mnemonic::Adox => arith::adox,
        Mnemonic::And => logic::and,
        Mnemonic::Or => logic::or,
        Mnemonic::Xor => logic::xor,
        Mnemonic::Not => logic::not,
        Mnemonic::Test => logic::test,
        Mnemonic::Shl | Mnemonic::Sal => shift::shl,
        Mnemonic::Shr => shift::shr,
        Mnemonic::Sar => shift::sar,
        Mnemonic::Rol => shift::rol,
        Mnemonic::Ror => shift::ror,
        Mnemonic::Rcl => shift::rcl,
        Mnemonic::Rcr => shift::rcr,
        Mnemonic::Shld => shift::shld,
        Mnemonic::Shrd => shift::shrd,
        Mnemonic::Shlx => shift::shlx,
        Mnemonic::Shrx => shift::shrx,
        Mnemonic::Sarx => shift::sarx,
        Mnemonic::Rorx => shift::rorx,
        Mnemonic::Mul => muldiv::mul,
        Mnemonic::Imul => muldiv::imul,
        Mnemonic::Mulx => muldiv::mulx,
        Mnemonic::Div => muldiv::div,
        Mnemonic::Idiv => muldiv::idiv,

        Mnemonic::Bt => bits::bt,
        Mnemonic::Bts => bits::bts,
        Mnemonic::Btr => bits::btr,
        Mnemonic::Btc => bits::btc,
        Mnemonic::Bsf => bits::bsf,
        Mnemonic::Bsr => bits::bsr,
        Mnemonic::Tzcnt => bits::tzcnt,
        Mnemonic::Lzcnt => bits::lzcnt,
        Mnemonic::Popcnt => bits::popcnt,
        Mnemonic::Andn => bits::andn,
        Mnemonic::Bextr => bits::bextr,
        Mnemonic::Blsi => bits::blsi,
        Mnemonic::Blsr => bits::blsr,
        Mnemonic::Blsmsk => bits::blsmsk,
        Mnemonic::Bzhi => bits::bzhi,
        Mnemonic::Pdep => bits::pdep,
        Mnemonic::Pext => bits::pext,
        Mnemonic::Bswap => bits::bswap,
        Mnemonic::Movbe => bits::movbe,
        Mnemonic::Crc32 => bits::crc32,
        Mnemonic::Rdrand => random::rdrand,
        Mnemonic::Rdseed => random::rdseed,

        Mnemonic::Xchg => atomic::xchg,
        Mnemonic::Xadd => atomic::xadd,
        Mnemonic::Cmpxchg => atomic::cmpxchg,
        Mnemonic::Cmpxchg8b => atomic::cmpxchg8b,
        Mnemonic::Cmpxchg16b => atomic::cmpxchg16b,

        Mnemonic::Push => stack::push_operand,
        Mnemonic::Pop if segment_operand(instruction) => stack::pop_segment,
        Mnemonic::Pop => stack::pop_operand,
        Mnemonic::Pusha | Mnemonic::Pushad => stack::pusha,
        Mnemonic::Popa | Mnemonic::Popad => stack::popa,
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => stack::pushf,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => stack::popf,
        Mnemonic::Enter => stack::enter,
        Mnemonic::Leave => stack::leave,

        Mnemonic::Jmp if instruction.is_jmp_short_or_near() || instruction.is_jmp_near_indirect() => control::jmp,
        Mnemonic::Call if instruction.is_call_near() || instruction.is_call_near_indirect() => control::call,
        Mnemonic::Ret => control::ret,
        Mnemonic::Loop => control::loop_always,
        Mnemonic::Loope => control::loope,
        Mnemonic::Loopne => control::loopne,
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => control::jcxz,

        Mnemonic::Daa => bcd::daa,
        Mnemonic::Das => bcd::das,
        Mnemonic::Aaa => bcd::aaa,
        Mnemonic::Aas => bcd::aas,
        Mnemonic::Aam => bcd::aam,
        Mnemonic::Aad => bcd::aad,
        _ => return conditional(instruction).or_else(|| string::handler(instruction)),
    };
    Some(handler)
}

#[cfg(test)]
mod tests;
