//! The guest's x87, SSE and AVX registers in their XSAVE area. Intel SDM volume 1, sections 10.5.1 and 13.4.
//!
//! All data in the area is valid at all times, also of components that XSTATE_BV calls initial.

use crate::state::{Bits, Core, cr0};
use iced_x86::{Instruction, Mnemonic};

pub(super) const FCW: usize = 0;
pub(super) const FSW: usize = 2;
/// One bit a register: not empty.
pub(super) const FTW: usize = 4;
pub(super) const FOP: usize = 6;
pub(super) const FIP: usize = 8;
pub(super) const FDP: usize = 16;
pub(super) const MXCSR: usize = 24;
pub(super) const MXCSR_MASK: usize = 28;
/// ST0 to ST7, 16 bytes each.
pub(super) const ST: usize = 32;
/// XMM0 to XMM15.
pub(super) const XMM: usize = 160;
pub(super) const XMM_END: usize = 416;
/// Header: which components are not initial.
pub(super) const XSTATE_BV: usize = 512;
/// Upper halves of YMM0 to YMM15.
pub(super) const YMM_HIGH: usize = 576;

/// Components in XCR0 and XSTATE_BV.
pub(super) const X87: u64 = 1;
pub(super) const SSE: u64 = 2;
pub(super) const AVX: u64 = 4;

/// MXCSR bits that exist; also the value of MXCSR_MASK.
pub(super) const MXCSR_BITS: u32 = 0xFFFF;
/// MXCSR after reset: all exceptions masked.
pub(super) const MXCSR_INITIAL: u32 = 0x1F80;
/// FCW after FNINIT.
pub(super) const FCW_INITIAL: u16 = 0x37F;

/// FSW: the exception summary and its old twin, busy.
pub(super) const FSW_ES: u16 = 1 << 7;
pub(super) const FSW_BUSY: u16 = 1 << 15;
/// FSW: the six exceptions; FCW has their masks in the same places.
pub(super) const EXCEPTIONS: u16 = 0x3F;

impl Core {
    pub(super) fn area16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.fpu.0[at], self.fpu.0[at + 1]])
    }

    pub(super) fn set_area16(&mut self, at: usize, value: u16) {
        self.fpu.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn area32(&self, at: usize) -> u32 {
        u32::from(self.area16(at)) | u32::from(self.area16(at + 2)) << 16
    }

    pub(super) fn set_area32(&mut self, at: usize, value: u32) {
        self.fpu.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn area64(&self, at: usize) -> u64 {
        u64::from(self.area32(at)) | u64::from(self.area32(at + 4)) << 32
    }

    pub(super) fn set_area64(&mut self, at: usize, value: u64) {
        self.fpu.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Makes a state that came from elsewhere keep this module's rule: what XSTATE_BV calls initial has its initial data.
    pub(crate) fn settle_vector_state(&mut self) {
        let present = self.area64(XSTATE_BV);
        if present & X87 == 0 {
            initialise_x87(self);
            self.fpu.0[ST..XMM].fill(0);
        }
        if present & SSE == 0 {
            self.fpu.0[XMM..XMM_END].fill(0);
        }
        if present & AVX == 0 {
            self.fpu.0[YMM_HIGH..YMM_HIGH + 256].fill(0);
        }
        let fsw = summarised(self.area16(FSW), self.area16(FCW));
        self.set_area16(FSW, fsw);
        self.set_area32(MXCSR_MASK, MXCSR_BITS);
    }

    /// Marks components as no longer initial.
    pub(super) fn touch_components(&mut self, components: u64) {
        let present = self.area64(XSTATE_BV) | components;
        self.set_area64(XSTATE_BV, present);
    }
}

/// An unmasked x87 exception waits to be reported.
pub(super) fn x87_pending(core: &Core) -> bool {
    core.area16(FSW) & FSW_ES != 0
}

/// All x87 exceptions are masked.
pub(super) fn x87_all_masked(core: &Core) -> bool {
    core.area16(FCW) & EXCEPTIONS == EXCEPTIONS
}

/// FSW with its summary bits as the exceptions and masks say.
pub(super) fn summarised(fsw: u16, fcw: u16) -> u16 {
    let unmasked = fsw & !fcw & EXCEPTIONS != 0;
    fsw & !(FSW_ES | FSW_BUSY) | if unmasked { FSW_ES | FSW_BUSY } else { 0 }
}

/// The physical register that is ST0.
pub(super) fn top(core: &Core) -> usize {
    usize::from(core.area16(FSW) >> 11 & 7)
}

/// Replaces FSW. The registers stay where they are: the area holds ST0 first, which is the physical register that TOP names.
pub(super) fn set_status(core: &mut Core, fsw: u16) {
    let before = top(core);
    core.set_area16(FSW, fsw);
    let moved = (top(core) + 8 - before) % 8;
    core.fpu.0[ST..XMM].rotate_left(16 * moved);
}

/// What every MMX instruction does: all registers are in use, and the physical order becomes the stack's.
pub(super) fn enter_mmx(core: &mut Core) {
    core.fpu.0[FTW] = 0xFF;
    set_status(core, core.area16(FSW) & !(7 << 11));
    core.touch_components(X87);
}

/// The x87 control registers after FNINIT, and the data registers as they were.
pub(super) fn initialise_x87(core: &mut Core) {
    set_status(core, 0);
    core.fpu.0[..MXCSR].fill(0);
    core.set_area16(FCW, FCW_INITIAL);
}

/// Remembers where the last x87 instruction that was not a control instruction lies, and its operand.
pub(super) fn note_instruction(core: &mut Core, instruction: &Instruction, data: u64) {
    match instruction.mnemonic() {
        Mnemonic::Fninit => {
            core.set_area64(FIP, 0);
            core.set_area64(FDP, 0);
        }
        Mnemonic::Fnclex | Mnemonic::Fnstcw | Mnemonic::Fldcw | Mnemonic::Fnstsw => {}
        _ => {
            // Without protection the pointers are linear.
            let real = core.cr0 & cr0::PE == 0 || core.vm86();
            let (rip, data) = if real {
                let base = core.segments[1].base;
                let segment = crate::interp::integer::operand::segment_index(instruction.memory_segment());
                (core.rip.wrapping_add(base), data.wrapping_add(core.segments[segment as usize].base))
            } else {
                (core.rip, data)
            };
            let width = if core.bits() == Bits::B64 { u64::MAX } else { 0xFFFF_FFFF };
            core.set_area64(FIP, rip & width);
            if instruction.op_count() > 0
                && (0..instruction.op_count()).any(|i| crate::interp::integer::operand::in_memory(instruction, i))
            {
                core.set_area64(FDP, data & width);
            }
        }
    }
}

/// The 32 bytes of a YMM register.
pub(super) fn ymm(core: &Core, index: usize) -> [u8; 32] {
    let mut value = [0; 32];
    value[..16].copy_from_slice(&core.fpu.0[XMM + 16 * (index & 15)..][..16]);
    value[16..].copy_from_slice(&core.fpu.0[YMM_HIGH + 16 * (index & 15)..][..16]);
    value
}

/// Replaces a YMM register.
pub(super) fn set_ymm(core: &mut Core, index: usize, value: &[u8; 32]) {
    core.fpu.0[XMM + 16 * (index & 15)..][..16].copy_from_slice(&value[..16]);
    core.fpu.0[YMM_HIGH + 16 * (index & 15)..][..16].copy_from_slice(&value[16..]);
    core.touch_components(SSE | AVX);
}
