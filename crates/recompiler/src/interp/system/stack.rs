//! A stack under work: control transfers push and pop on it and commit the pointer only when nothing can fault any more.

use crate::fault::{Fault, vector};
use crate::interp::integer::operand::{canonical, within_limit};
use crate::state::{Bits, Core, cr4, flag};
use crate::tlb::View;
use hv::{Gpr, Segment, SegmentRegister};

/// A stack segment with a pointer of its own.
#[derive(Clone, Copy)]
pub(super) struct Stack {
    segment: Segment,
    /// The stack pointer; bits beyond the stack's width are kept.
    pub pointer: u64,
    mask: u64,
    view: View,
    /// Error code of #SS.
    error: u32,
}

impl Core {
    /// The view of stack accesses at a privilege level.
    fn view_at(&self, cpl: u8) -> View {
        if cpl == 3 {
            View::User
        } else if self.cr4 & cr4::SMAP != 0 && self.rflags & flag::AC != 0 {
            View::SupervisorAc
        } else {
            View::Supervisor
        }
    }

    /// The stack in use.
    pub(super) fn stack(&self) -> Stack {
        let segment = self.segments[SegmentRegister::Ss as usize];
        let pointer = self.gpr[Gpr::Rsp as usize];
        if self.bits() == Bits::B64 {
            return self.long_stack(pointer, self.cpl());
        }
        self.legacy_stack(segment, pointer, self.cpl(), 0)
    }

    /// A stack of 64-bit code.
    pub(super) fn long_stack(&self, pointer: u64, cpl: u8) -> Stack {
        Stack { segment: Segment::default(), pointer, mask: u64::MAX, view: self.view_at(cpl), error: 0 }
    }

    /// A stack of 16- or 32-bit code; `error` is what #SS reports (0 for the stack in use).
    pub(super) fn legacy_stack(&self, segment: Segment, pointer: u64, cpl: u8, error: u16) -> Stack {
        let mask = if segment.access & Segment::DB != 0 { 0xFFFF_FFFF } else { 0xFFFF };
        Stack { segment, pointer, mask, view: self.view_at(cpl), error: u32::from(error) & 0xFFFC }
    }

    /// Makes the stack's pointer RSP.
    pub(super) fn commit_stack(&mut self, stack: &Stack) {
        let rsp = &mut self.gpr[Gpr::Rsp as usize];
        *rsp = match stack.mask {
            0xFFFF => *rsp & !0xFFFF | stack.pointer & 0xFFFF,
            mask => stack.pointer & mask,
        };
    }
}

impl Stack {
    /// Accesses as an implicit part of an event's delivery: RFLAGS.AC does not suspend SMAP.
    pub fn use_implicit_view(&mut self, cpl: u8) {
        self.view = if cpl == 3 { View::User } else { View::Supervisor };
    }

    /// Moves the pointer by `delta` bytes within the stack's width.
    pub fn advance(&mut self, delta: u64) {
        self.pointer = self.pointer & !self.mask | self.pointer.wrapping_add(delta) & self.mask;
    }

    fn address(&self, size: u64) -> Result<u64, Fault> {
        let fault = Fault::with_error(vector::SS, self.error);
        let offset = self.pointer & self.mask;
        if self.mask == u64::MAX {
            let canonical = canonical(offset) && canonical(offset.wrapping_add(size - 1));
            return if canonical { Ok(offset) } else { Err(fault) };
        }
        if !within_limit(&self.segment, offset, size) {
            return Err(fault);
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xFFFF_FFFF)
    }

    /// Pushes the low `size` (2, 4 or 8) bytes of `value`.
    pub fn push(&mut self, core: &mut Core, size: u64, value: u64) -> Result<(), Fault> {
        let mut next = *self;
        next.advance(size.wrapping_neg());
        let address = next.address(size)?;
        match size {
            2 => core.write_view(self.view, address, value as u16)?,
            4 => core.write_view(self.view, address, value as u32)?,
            _ => core.write_view(self.view, address, value)?,
        }
        *self = next;
        Ok(())
    }

    /// Pops `size` (2, 4 or 8) bytes, zero-extended.
    pub fn pop(&mut self, core: &mut Core, size: u64) -> Result<u64, Fault> {
        let address = self.address(size)?;
        let value = match size {
            2 => u64::from(core.read_view::<u16>(self.view, address)?),
            4 => u64::from(core.read_view::<u32>(self.view, address)?),
            _ => core.read_view(self.view, address)?,
        };
        self.advance(size);
        Ok(value)
    }
}
