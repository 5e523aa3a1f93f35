//! Arithmetic flags. Operand sizes are in bytes: 1, 2, 4 or 8. Where the architecture leaves a flag undefined, it is
//! what the formula for the defined case gives, or cleared.

use crate::state::{Core, flag};
use iced_x86::ConditionCode;

/// All bits of an operand.
#[inline]
pub(crate) fn mask(size: usize) -> u64 {
    u64::MAX >> (64 - 8 * size.clamp(1, 8))
}

/// The sign bit of an operand.
#[inline]
pub(crate) fn sign(size: usize) -> u64 {
    1 << (8 * size.clamp(1, 8) - 1)
}

/// Sign-extends an operand to 64 bits.
#[inline]
pub(crate) fn sign_extend(value: u64, size: usize) -> u64 {
    let unused = 64 - 8 * size.clamp(1, 8);
    ((value << unused) as i64 >> unused) as u64
}

/// Replaces the flags in `affected`.
#[inline]
pub(crate) fn set(core: &mut Core, affected: u64, value: u64) {
    core.rflags = core.rflags & !affected | value & affected;
}

/// `bit` when `condition`.
#[inline]
pub(crate) fn when(condition: bool, bit: u64) -> u64 {
    if condition { bit } else { 0 }
}

/// SF, ZF and PF of a result already truncated to `size`.
#[inline]
pub(crate) fn of_result(result: u64, size: usize) -> u64 {
    when(result & sign(size) != 0, flag::SF)
        | when(result == 0, flag::ZF)
        | when((result as u8).count_ones() & 1 == 0, flag::PF)
}

/// `a + b + carry` and all six flags; the operands may have bits above `size`.
#[inline]
pub(crate) fn add(a: u64, b: u64, carry: bool, size: usize) -> (u64, u64) {
    let (a, b) = (a & mask(size), b & mask(size));
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = sum as u64 & mask(size);
    let flags = when(sum > u128::from(mask(size)), flag::CF)
        | when((a ^ b ^ result) & 0x10 != 0, flag::AF)
        | when((a ^ result) & (b ^ result) & sign(size) != 0, flag::OF);
    (result, flags | of_result(result, size))
}

/// `a - b - borrow` and all six flags; the operands may have bits above `size`.
#[inline]
pub(crate) fn subtract(a: u64, b: u64, borrow: bool, size: usize) -> (u64, u64) {
    let (a, b) = (a & mask(size), b & mask(size));
    let result = a.wrapping_sub(b).wrapping_sub(u64::from(borrow)) & mask(size);
    let flags = when(u128::from(a) < u128::from(b) + u128::from(borrow), flag::CF)
        | when((a ^ b ^ result) & 0x10 != 0, flag::AF)
        | when((a ^ b) & (a ^ result) & sign(size) != 0, flag::OF);
    (result, flags | of_result(result, size))
}

/// The flags of AND, OR, XOR and TEST: CF, OF and AF clear.
#[inline]
pub(crate) fn logic(result: u64, size: usize) -> u64 {
    of_result(result & mask(size), size)
}

/// Whether a condition code holds.
#[inline]
pub(crate) fn holds(rflags: u64, condition: ConditionCode) -> bool {
    let any = |bits: u64| rflags & bits != 0;
    let less = any(flag::SF) != any(flag::OF);
    match condition {
        ConditionCode::None => true,
        ConditionCode::o => any(flag::OF),
        ConditionCode::no => !any(flag::OF),
        ConditionCode::b => any(flag::CF),
        ConditionCode::ae => !any(flag::CF),
        ConditionCode::e => any(flag::ZF),
        ConditionCode::ne => !any(flag::ZF),
        ConditionCode::be => any(flag::CF | flag::ZF),
        ConditionCode::a => !any(flag::CF | flag::ZF),
        ConditionCode::s => any(flag::SF),
        ConditionCode::ns => !any(flag::SF),
        ConditionCode::p => any(flag::PF),
        ConditionCode::np => !any(flag::PF),
        ConditionCode::l => less,
        ConditionCode::ge => !less,
        ConditionCode::le => less || any(flag::ZF),
        ConditionCode::g => !less && !any(flag::ZF),
    }
}
