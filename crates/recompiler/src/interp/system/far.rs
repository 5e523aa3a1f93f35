//! Far jumps, calls and returns. Intel SDM volume 3A, sections 5.8 and 7.3.

use super::descriptor::{Descriptor, is_null, kind, not_present};
use super::segment::{load_real, null_segment, stack_segment_for};
use super::stack::Stack;
use super::task::Switch;
use crate::fault::{Fault, vector};
use crate::interp::integer::operand::{self, canonical};
use crate::state::{Core, Executed};
use hv::{Gpr, SegmentRegister};
use iced_x86::{Code, Instruction, OpKind};

/// A far pointer and the size of its offset in bytes, which is also the operand size.
struct FarPointer {
    selector: u16,
    offset: u64,
    size: u64,
}

fn far_pointer(core: &mut Core, instruction: &Instruction) -> Result<FarPointer, Fault> {
    match instruction.op0_kind() {
        OpKind::FarBranch16 => {
            let offset = u64::from(instruction.far_branch16());
            return Ok(FarPointer { selector: instruction.far_branch_selector(), offset, size: 2 });
        }
        OpKind::FarBranch32 => {
            let offset = u64::from(instruction.far_branch32());
            return Ok(FarPointer { selector: instruction.far_branch_selector(), offset, size: 4 });
        }
        _ => {}
    }
    let size = match instruction.code() {
        Code::Jmp_m1616 | Code::Call_m1616 => 2,
        Code::Jmp_m1632 | Code::Call_m1632 => 4,
        _ => 8,
    };
    let address = operand::memory(core, instruction, size as usize + 2, false)?;
    let mut bytes = [0; 10];
    core.read_bytes(address, &mut bytes[..size as usize + 2])?;
    let mut offset = [0; 8];
    offset[..size as usize].copy_from_slice(&bytes[..size as usize]);
    let selector = u16::from_le_bytes([bytes[size as usize], bytes[size as usize + 1]]);
    Ok(FarPointer { selector, offset: u64::from_le_bytes(offset), size })
}

/// JMP far.
pub(super) fn jmp(core: &mut Core, instruction: &Instruction) -> Executed {
    let target = far_pointer(core, instruction)?;
    if !core.protected() || core.vm86() {
        return core.jump_real(target.selector, target.offset);
    }
    let Some(descriptor) = core.transfer_descriptor(target.selector)? else {
        return Err(Fault::GP0);
    };
    if descriptor.is_segment() {
        let code = core.direct_code(target.selector, descriptor)?;
        return core.continue_at(target.selector, code, target.offset, core.cpl());
    }
    core.check_gate(target.selector, descriptor)?;
    match core.gate_kind(target.selector, descriptor)? {
        Gate::Call => {
            let gate = core.call_gate(target.selector, descriptor)?;
            let conforming = gate.code.is_conforming();
            if gate.code.dpl() > core.cpl() || !conforming && gate.code.dpl() != core.cpl() {
                return Err(Fault::gp(gate.selector));
            }
            core.continue_at(gate.selector, gate.code, gate.offset, core.cpl())
        }
        Gate::Task => core.switch_through_gate(target.selector, descriptor, Switch::Jump),
        Gate::Tss => core.switch_to(target.selector, Switch::Jump),
    }
}

/// CALL far.
pub(super) fn call(core: &mut Core, instruction: &Instruction) -> Executed {
    let target = far_pointer(core, instruction)?;
    let return_rip = core.next_rip;
    if !core.protected() || core.vm86() {
        let stack = core.pushed_return(core.stack(), target.size, return_rip)?;
        core.jump_real(target.selector, target.offset)?;
        core.commit_stack(&stack);
        return Ok(());
    }
    let Some(descriptor) = core.transfer_descriptor(target.selector)? else {
        return Err(Fault::GP0);
    };
    if descriptor.is_segment() {
        let code = core.direct_code(target.selector, descriptor)?;
        let stack = core.pushed_return(core.stack(), target.size, return_rip)?;
        core.continue_at(target.selector, code, target.offset, core.cpl())?;
        core.commit_stack(&stack);
        return Ok(());
    }
    core.check_gate(target.selector, descriptor)?;
    match core.gate_kind(target.selector, descriptor)? {
        Gate::Call => core.call_through_gate(target.selector, descriptor, return_rip),
        Gate::Task => core.switch_through_gate(target.selector, descriptor, Switch::Call),
        Gate::Tss => core.switch_to(target.selector, Switch::Call),
    }
}

/// RET far, with the bytes of parameters to drop.
pub(super) fn ret(core: &mut Core, instruction: &Instruction) -> Executed {
    let size = match instruction.code() {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    };
    let parameters = match instruction.op_count() {
        0 => 0,
        _ => u64::from(instruction.immediate16()),
    };
    let mut stack = core.stack();
    let offset = stack.pop(core, size)?;
    let selector = stack.pop(core, size)? as u16;
    if !core.protected() || core.vm86() {
        core.jump_real(selector, offset)?;
        stack.advance(parameters);
        core.commit_stack(&stack);
        return Ok(());
    }
    let code = core.return_code(selector)?;
    let rpl = (selector & 3) as u8;
    stack.advance(parameters);
    if rpl == core.cpl() {
        core.continue_at(selector, code, offset, rpl)?;
        core.commit_stack(&stack);
        return Ok(());
    }
    let pointer = stack.pop(core, size)?;
    let ss = stack.pop(core, size)? as u16;
    core.return_outer(OuterReturn { selector, code, offset, ss, pointer, parameters })
}

/// What a far return or IRET to a less privileged level loads.
pub(super) struct OuterReturn {
    pub selector: u16,
    pub code: Descriptor,
    pub offset: u64,
    pub ss: u16,
    pub pointer: u64,
    /// Bytes to drop from the outer stack.
    pub parameters: u64,
}

/// What a system descriptor leads to.
enum Gate {
    Call,
    Task,
    Tss,
}

/// A call gate that was checked, as far as both JMP and CALL check it.
struct CallGate {
    selector: u16,
    code: Descriptor,
    offset: u64,
    /// Operand size of the gate in bytes.
    size: u64,
    /// Parameters to copy, in units of `size`.
    parameters: u64,
}

impl Core {
    fn jump_real(&mut self, selector: u16, offset: u64) -> Executed {
        if offset > u64::from(self.segments[SegmentRegister::Cs as usize].limit) {
            return Err(Fault::GP0);
        }
        load_real(self, SegmentRegister::Cs, selector);
        self.next_rip = offset;
        Ok(())
    }

    /// The descriptor that a far transfer names; `None` for a null selector.
    fn transfer_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        if is_null(selector) {
            return Ok(None);
        }
        self.descriptor(selector, vector::GP).map(Some)
    }

    /// L and D/B may not both be set in IA-32e mode.
    fn code_width_allowed(&self, code: Descriptor) -> bool {
        !(self.long_mode() && code.is_long() && code.is_big())
    }

    /// Checks the code segment of a direct JMP or CALL.
    fn direct_code(&mut self, selector: u16, code: Descriptor) -> Result<Descriptor, Fault> {
        let cpl = self.cpl();
        let rpl = (selector & 3) as u8;
        let allowed = match code.is_conforming() {
            true => code.dpl() <= cpl,
            false => rpl <= cpl && code.dpl() == cpl,
        };
        if !code.is_code() || !allowed || !self.code_width_allowed(code) {
            return Err(Fault::gp(selector));
        }
        if !code.present() {
            return Err(not_present(selector));
        }
        Ok(code)
    }

    /// Checks the code segment that RET far or IRET returns to.
    pub(super) fn return_code(&mut self, selector: u16) -> Result<Descriptor, Fault> {
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        let code = self.descriptor(selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        let level = if code.is_conforming() { code.dpl() <= rpl } else { code.dpl() == rpl };
        if !code.is_code() || rpl < self.cpl() || !level || !self.code_width_allowed(code) {
            return Err(Fault::gp(selector));
        }
        if !code.present() {
            return Err(not_present(selector));
        }
        Ok(code)
    }

    /// Whether an offset is one that a code segment has.
    fn check_entry(&self, code: Descriptor, offset: u64) -> Executed {
        let valid = match self.long_mode() && code.is_long() {
            true => canonical(offset),
            false => offset <= u64::from(code.limit()),
        };
        if valid { Ok(()) } else { Err(Fault::GP0) }
    }

    /// Loads CS with a checked descriptor and continues at `offset` with privilege level `cpl`.
    pub(super) fn continue_at(&mut self, selector: u16, code: Descriptor, offset: u64, cpl: u8) -> Executed {
        self.check_entry(code, offset)?;
        let code = self.mark_accessed(selector, code)?;
        self.segments[SegmentRegister::Cs as usize] = code.segment(selector & !3 | u16::from(cpl));
        self.next_rip = offset;
        Ok(())
    }

    /// Pushes CS and the return address.
    fn pushed_return(&mut self, mut stack: Stack, size: u64, return_rip: u64) -> Result<Stack, Fault> {
        let cs = self.segments[SegmentRegister::Cs as usize].selector;
        stack.push(self, size, u64::from(cs))?;
        stack.push(self, size, return_rip)?;
        Ok(stack)
    }

    fn gate_kind(&self, selector: u16, descriptor: Descriptor) -> Result<Gate, Fault> {
        let long = self.long_mode();
        match descriptor.kind() {
            kind::CALL_GATE => Ok(Gate::Call),
            kind::CALL_GATE16 if !long => Ok(Gate::Call),
            kind::TASK_GATE if !long => Ok(Gate::Task),
            kind::TSS | kind::TSS16 if !long => Ok(Gate::Tss),
            _ => Err(Fault::gp(selector)),
        }
    }

    /// Gates and TSSs are for callers at their DPL or above.
    fn check_gate(&self, selector: u16, gate: Descriptor) -> Executed {
        let rpl = (selector & 3) as u8;
        if gate.dpl() < self.cpl().max(rpl) { Err(Fault::gp(selector)) } else { Ok(()) }
    }

    fn call_gate(&mut self, selector: u16, gate: Descriptor) -> Result<CallGate, Fault> {
        if !gate.present() {
            return Err(not_present(selector));
        }
        let long = self.long_mode();
        let high = if long { self.descriptor_high(selector, vector::GP)? } else { 0 };
        let narrow = gate.kind() == kind::CALL_GATE16;
        let mask = if narrow { 0xFFFF } else { u64::MAX };
        let target = gate.gate_selector();
        if is_null(target) {
            return Err(Fault::GP0);
        }
        let code = self.descriptor(target, vector::GP)?;
        let width_fits = !long || code.is_long() && !code.is_big();
        if !code.is_code() || code.dpl() > self.cpl() || !width_fits {
            return Err(Fault::gp(target));
        }
        if !code.present() {
            return Err(not_present(target));
        }
        Ok(CallGate {
            selector: target,
            code,
            offset: (u64::from(gate.gate_offset()) | high) & mask,
            size: if long {
                8
            } else if narrow {
                2
            } else {
                4
            },
            parameters: if long { 0 } else { gate.0 >> 32 & 0x1F },
        })
    }

    fn call_through_gate(&mut self, selector: u16, descriptor: Descriptor, return_rip: u64) -> Executed {
        let gate = self.call_gate(selector, descriptor)?;
        let cpl = self.cpl();
        if gate.code.is_conforming() || gate.code.dpl() == cpl {
            let stack = self.pushed_return(self.stack(), gate.size, return_rip)?;
            self.continue_at(gate.selector, gate.code, gate.offset, cpl)?;
            self.commit_stack(&stack);
            return Ok(());
        }
        let new_cpl = gate.code.dpl();
        let old_ss = self.segments[SegmentRegister::Ss as usize];
        let old_rsp = self.gpr[Gpr::Rsp as usize];
        let (new_ss, mut stack) = if self.long_mode() {
            let pointer = self.tss_stack64(new_cpl)?;
            (null_segment(u16::from(new_cpl), new_cpl), self.long_stack(pointer, new_cpl))
        } else {
            self.inner_stack(new_cpl)?
        };
        let mut outer = self.stack();
        let mut parameters = [0; 31];
        let count = gate.parameters as usize;
        for parameter in &mut parameters[..count] {
            *parameter = outer.pop(self, gate.size)?;
        }
        stack.push(self, gate.size, u64::from(old_ss.selector))?;
        stack.push(self, gate.size, old_rsp)?;
        for parameter in parameters[..count].iter().rev() {
            stack.push(self, gate.size, *parameter)?;
        }
        let stack = self.pushed_return(stack, gate.size, return_rip)?;
        self.continue_at(gate.selector, gate.code, gate.offset, new_cpl)?;
        self.segments[SegmentRegister::Ss as usize] = new_ss;
        self.commit_stack(&stack);
        Ok(())
    }

    /// Returns to a less privileged level, or with the stack to the same. Changes nothing when it faults.
    pub(super) fn return_outer(&mut self, to: OuterReturn) -> Executed {
        let cpl = (to.selector & 3) as u8;
        let outwards = cpl > self.cpl();
        let long_code = self.long_mode() && to.code.is_long();
        let ss = if is_null(to.ss) {
            let allowed = long_code && cpl < 3 && to.ss == u16::from(cpl);
            if !allowed {
                return Err(Fault::GP0);
            }
            null_segment(to.ss, cpl)
        } else {
            stack_segment_for(self, to.ss, cpl, vector::GP)?
        };
        self.continue_at(to.selector, to.code, to.offset, cpl)?;
        self.segments[SegmentRegister::Ss as usize] = ss;
        let mut stack = match long_code {
            true => self.long_stack(to.pointer, cpl),
            false => self.legacy_stack(ss, to.pointer, cpl, 0),
        };
        stack.advance(to.parameters);
        self.commit_stack(&stack);
        if outwards {
            self.drop_privileged_segments(cpl);
        }
        Ok(())
    }
}
