//! Delivery of exceptions and interrupts. Intel SDM volume 3A, chapter 6.

use super::descriptor::{Descriptor, is_null, kind, not_present};
use super::segment::{load_real, null_segment, stack_segment_for};
use super::stack::Stack;
use crate::fault::{Fault, vector};
use crate::interp::integer::operand::{self, canonical};
use crate::state::{Core, Executed, cr4, flag};
use hv::{Segment, SegmentRegister};
use iced_x86::{Instruction, Register};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivered {
    /// The guest's handler is next: RIP is its first instruction.
    Ok,
    /// A fault while the double fault was delivered: the processor shuts down.
    TripleFault,
}

/// Where an event comes from, which decides privilege checks, the EXT bit and the pushed RF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// An external interrupt or NMI.
    External,
    /// A fault: the instruction did not complete.
    Fault,
    /// A trap of the processor's own: #DB after a step.
    Trap,
    /// INT n, INT3 or INTO: the gate's DPL is checked.
    Software,
    /// INT1: like a trap, but without the gate's DPL being checked.
    PrivilegedSoftware,
}

/// An event under delivery.
#[derive(Clone, Copy, Debug)]
struct Event {
    vector: u8,
    error: Option<u32>,
    source: Source,
}

impl Event {
    fn of_fault(fault: &Fault) -> Self {
        let source = if fault.trap { Source::Trap } else { Source::Fault };
        Event { vector: fault.vector, error: fault.error, source }
    }

    /// The EXT bit of error codes that its delivery causes.
    fn external(&self) -> u32 {
        u32::from(self.source != Source::Software)
    }

    /// The error code for a fault about the IDT entry.
    fn idt_error(&self) -> u32 {
        u32::from(self.vector) << 3 | 2
    }
}

/// How exceptions combine. Intel SDM volume 3A, table 6-4.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(event: &Event) -> Class {
    if event.source == Source::External || event.source == Source::Software {
        return Class::Benign;
    }
    match event.vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// The error code of a fault met during delivery, with EXT where it belongs.
fn with_external(mut fault: Fault, external: u32) -> Fault {
    if matches!(fault.vector, vector::TS | vector::NP | vector::SS | vector::GP) {
        fault.error = fault.error.map(|error| error | external);
    }
    fault
}

impl Core {
    /// Delivers an exception. `rip` is the faulting instruction, or for a trap the next one.
    pub fn deliver_fault(&mut self, fault: Fault) -> Delivered {
        self.counters.faults[usize::from(fault.vector & 31)] += 1;
        if fault.vector == vector::PF {
            self.cr2 = fault.address;
        }
        self.deliver_all(Event::of_fault(&fault))
    }

    /// Delivers an external interrupt that the local APIC or PIC gave. `rip` is the next instruction.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Delivered {
        self.counters.interrupts += 1;
        self.deliver_all(Event { vector, error: None, source: Source::External })
    }

    /// Delivers a non-maskable interrupt and masks further ones until IRET.
    pub fn deliver_nmi(&mut self) -> Delivered {
        self.nmi_masked = true;
        self.deliver_all(Event { vector: vector::NMI, error: None, source: Source::External })
    }

    /// Delivers the next event that came with a loaded state ([`Core::load_state`]), if it can be delivered now.
    pub fn deliver_loaded_events(&mut self) -> Delivered {
        if let Some((vector, error)) = self.events.exception.take() {
            return self.deliver_all(Event { vector, error, source: Source::Fault });
        }
        if let Some(vector) = self.events.interrupt.take() {
            return self.deliver_interrupt(vector);
        }
        if self.events.nmi_pending && !self.nmi_masked && !self.interrupt_shadow {
            self.events.nmi_pending = false;
            return self.deliver_nmi();
        }
        Delivered::Ok
    }

    /// Delivers an event and whatever its delivery raises. Each round is more severe than the last or a benign one's
    /// successor, so that the loop ends.
    fn deliver_all(&mut self, mut event: Event) -> Delivered {
        self.halted = false;
        self.interrupt_shadow = false;
        self.stack_shadow = false;
        loop {
            self.next_rip = self.rip;
            let Err(fault) = self.enter(&event, self.rip) else {
                self.rip = self.next_rip;
                return Delivered::Ok;
            };
            if fault.vector == vector::PF {
                self.cr2 = fault.address;
            }
            let second = Event::of_fault(&fault);
            let double = match (class(&event), class(&second)) {
                (Class::DoubleFault, Class::Contributory | Class::PageFault) => return Delivered::TripleFault,
                (Class::Contributory, Class::Contributory) => true,
                (Class::PageFault, Class::Contributory | Class::PageFault) => true,
                _ => false,
            };
            event = match double {
                true => Event { vector: vector::DF, error: Some(0), source: Source::Fault },
                false => second,
            };
        }
    }

    /// A software interrupt: continues at the handler.
    fn software_interrupt(&mut self, vector: u8, source: Source) -> Executed {
        let return_rip = self.next_rip;
        self.enter(&Event { vector, error: None, source }, return_rip)
    }

    /// Transfers control to the handler of an event: sets `next_rip` and the rest, or changes nothing.
    fn enter(&mut self, event: &Event, return_rip: u64) -> Executed {
        let entered = if !self.protected() {
            self.enter_real(event.vector, return_rip)
        } else if self.long_mode() {
            self.enter_long(event, return_rip)
        } else {
            self.enter_protected(event, return_rip)
        };
        entered.map_err(|fault| with_external(fault, event.external()))
    }

    /// The flags image that an event pushes.
    fn pushed_flags(&self, event: &Event) -> u64 {
        match event.source {
            // An instruction that faulted runs again: its own breakpoints have been taken already. A code breakpoint
            // itself is left to its handler, which sets RF.
            Source::Fault if event.vector != vector::DB => self.rflags | flag::RF,
            _ => self.rflags & !flag::RF,
        }
    }

    fn enter_real(&mut self, vector: u8, return_rip: u64) -> Executed {
        let offset = u64::from(vector) * 4;
        if offset + 3 > u64::from(self.idtr.limit) {
            return Err(Fault::with_error(vector::GP, u32::from(vector) << 3 | 2));
        }
        let entry: u32 = self.read_system(self.system_address(self.idtr.base, offset))?;
        let flags = self.rflags;
        self.push_real_frame(flags, return_rip)?;
        self.rflags &= !(flag::IF | flag::TF | flag::AC | flag::RF);
        self.enter_real_code(entry);
        Ok(())
    }

    /// Pushes FLAGS, CS and IP as 16-bit values.
    fn push_real_frame(&mut self, flags: u64, return_rip: u64) -> Executed {
        let cs = self.segments[SegmentRegister::Cs as usize].selector;
        let mut stack = self.stack();
        stack.push(self, 2, flags)?;
        stack.push(self, 2, u64::from(cs))?;
        stack.push(self, 2, return_rip)?;
        self.commit_stack(&stack);
        Ok(())
    }

    /// Continues at segment:offset of an entry of a real-mode vector table.
    fn enter_real_code(&mut self, entry: u32) {
        load_real(self, SegmentRegister::Cs, (entry >> 16) as u16);
        self.next_rip = u64::from(entry & 0xFFFF);
    }

    /// Reads and checks an IDT entry: its low half and, in IA-32e mode, bits 32..=63 of its offset.
    fn gate(&mut self, event: &Event) -> Result<(Descriptor, u64), Fault> {
        let bad = Fault::with_error(vector::GP, event.idt_error());
        let long = self.long_mode();
        let size = if long { 16 } else { 8 };
        let offset = u64::from(event.vector) * size;
        if offset + size - 1 > u64::from(self.idtr.limit) {
            return Err(bad);
        }
        let gate = Descriptor(self.read_system(self.system_address(self.idtr.base, offset))?);
        let known = !gate.is_segment()
            && match gate.kind() {
                kind::INTERRUPT_GATE | kind::TRAP_GATE => true,
                kind::TASK_GATE | kind::INTERRUPT_GATE16 | kind::TRAP_GATE16 => !long,
                _ => false,
            };
        if !known || event.source == Source::Software && gate.dpl() < self.cpl() {
            return Err(bad);
        }
        if !gate.present() {
            return Err(Fault::with_error(vector::NP, event.idt_error()));
        }
        let high = match long {
            true => u64::from(self.read_system::<u32>(self.system_address(self.idtr.base, offset + 8))?) << 32,
            false => 0,
        };
        Ok((gate, high))
    }

    /// The code segment of a gate: selector, descriptor and the privilege level that its handler runs at.
    fn gate_code(&mut self, gate: Descriptor) -> Result<(u16, Descriptor, u8), Fault> {
        let selector = gate.gate_selector();
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        let code = self.descriptor(selector, vector::GP)?;
        let cpl = self.cpl();
        let width_fits = !self.long_mode() || code.is_long() && !code.is_big();
        if !code.is_code() || code.dpl() > cpl || !width_fits {
            return Err(Fault::gp(selector));
        }
        if !code.present() {
            return Err(not_present(selector));
        }
        let new_cpl = if code.is_conforming() { cpl } else { code.dpl() };
        if self.vm86() && new_cpl != 0 {
            return Err(Fault::gp(selector));
        }
        Ok((selector, code, new_cpl))
    }

    fn enter_long(&mut self, event: &Event, return_rip: u64) -> Executed {
        let (gate, high) = self.gate(event)?;
        let (selector, code, new_cpl) = self.gate_code(gate)?;
        let entry = u64::from(gate.gate_offset()) | high;
        let inner = new_cpl != self.cpl();
        let ist = (gate.0 >> 32 & 7) as u32;
        let old_ss = self.segments[SegmentRegister::Ss as usize];
        let old_cs = self.segments[SegmentRegister::Cs as usize];
        let old_rsp = self.gpr[hv::Gpr::Rsp as usize];
        let rsp = if ist != 0 {
            self.tss64(36 + 8 * (ist - 1))?
        } else if inner {
            self.tss_stack64(new_cpl)?
        } else {
            old_rsp
        };
        let mut stack = self.long_stack(rsp & !15, new_cpl);
        if inner {
            // The new stack is the handler's: SMAP is not suspended by the interrupted program's AC.
            stack.use_implicit_view(new_cpl);
        }
        stack.push(self, 8, u64::from(old_ss.selector))?;
        stack.push(self, 8, old_rsp)?;
        stack.push(self, 8, self.pushed_flags(event))?;
        stack.push(self, 8, u64::from(old_cs.selector))?;
        stack.push(self, 8, return_rip)?;
        if let Some(error) = event.error {
            stack.push(self, 8, u64::from(error))?;
        }
        if !canonical(entry) {
            return Err(Fault::GP0);
        }
        let code = self.mark_accessed(selector, code)?;
        if inner {
            self.segments[SegmentRegister::Ss as usize] = null_segment(u16::from(new_cpl), new_cpl);
        }
        self.segments[SegmentRegister::Cs as usize] = code.segment(selector & !3 | u16::from(new_cpl));
        self.commit_stack(&stack);
        self.clear_flags(gate);
        self.next_rip = entry;
        Ok(())
    }

    /// The stack pointer for a more privileged level in the 64-bit TSS.
    pub(super) fn tss_stack64(&mut self, cpl: u8) -> Result<u64, Fault> {
        self.tss64(4 + 8 * u32::from(cpl))
    }

    /// A stack pointer in the 64-bit TSS.
    fn tss64(&mut self, offset: u32) -> Result<u64, Fault> {
        if self.tr.access & Segment::P == 0 || offset + 7 > self.tr.limit {
            return Err(super::descriptor::invalid_tss(self.tr.selector));
        }
        let pointer: u64 = self.read_system(self.tr.base.wrapping_add(u64::from(offset)))?;
        if canonical(pointer) { Ok(pointer) } else { Err(Fault::SS0) }
    }

    /// Clears what entering through a gate clears.
    fn clear_flags(&mut self, gate: Descriptor) {
        let interrupt = matches!(gate.kind(), kind::INTERRUPT_GATE | kind::INTERRUPT_GATE16);
        let masked = if interrupt { flag::IF } else { 0 };
        self.rflags &= !(flag::TF | flag::NT | flag::RF | flag::VM | masked);
    }

    /// The stack for a more privileged level, from the TSS in use, and its segment.
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Result<(Segment, Stack), Fault> {
        let narrow = matches!(self.tr.access & 0xF, 1 | 3);
        let offset = if narrow { 2 + 4 * u32::from(cpl) } else { 4 + 8 * u32::from(cpl) };
        let size = if narrow { 4 } else { 6 };
        let bad_tss = super::descriptor::invalid_tss(self.tr.selector);
        if self.tr.access & Segment::P == 0 || offset + size - 1 > self.tr.limit {
            return Err(bad_tss);
        }
        let address = self.system_address(self.tr.base, u64::from(offset));
        let second = self.system_address(address, if narrow { 2 } else { 4 });
        let pointer = match narrow {
            true => u64::from(self.read_system::<u16>(address)?),
            false => u64::from(self.read_system::<u32>(address)?),
        };
        let selector: u16 = self.read_system(second)?;
        if is_null(selector) {
            return Err(Fault::with_error(vector::TS, 0));
        }
        let segment = stack_segment_for(self, selector, cpl, vector::TS)?;
        let mut stack = self.legacy_stack(segment, pointer, cpl, selector);
        stack.use_implicit_view(cpl);
        Ok((segment, stack))
    }

    fn enter_protected(&mut self, event: &Event, return_rip: u64) -> Executed {
        let (gate, _) = self.gate(event)?;
        if gate.kind() == kind::TASK_GATE {
            return self.enter_task_gate(gate.gate_selector(), event.error, return_rip);
        }
        let (selector, code, new_cpl) = self.gate_code(gate)?;
        let size = if matches!(gate.kind(), kind::INTERRUPT_GATE | kind::TRAP_GATE) { 4 } else { 2 };
        let entry = gate.gate_offset() & if size == 4 { u32::MAX } else { 0xFFFF };
        let was_vm86 = self.vm86();
        let flags = self.pushed_flags(event);
        let old = self.segments;
        let old_esp = self.gpr[hv::Gpr::Rsp as usize];
        let selector_of = |name: SegmentRegister| u64::from(old[name as usize].selector);
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};

        let inner = if new_cpl < self.cpl() { Some(self.inner_stack(new_cpl)?) } else { None };
        let mut stack = match &inner {
            Some((_, stack)) => *stack,
            None => self.stack(),
        };
        if inner.is_some() {
            if was_vm86 {
                for name in [Gs, Fs, Ds, Es] {
                    stack.push(self, size, selector_of(name))?;
                }
            }
            stack.push(self, size, selector_of(Ss))?;
            stack.push(self, size, old_esp)?;
        }
        stack.push(self, size, flags)?;
        stack.push(self, size, selector_of(Cs))?;
        stack.push(self, size, return_rip)?;
        if let Some(error) = event.error {
            stack.push(self, size, u64::from(error))?;
        }
        if entry > code.limit() {
            return Err(Fault::GP0);
        }
        let code = self.mark_accessed(selector, code)?;
        if let Some((segment, _)) = inner {
            if was_vm86 {
                for name in [Gs, Fs, Ds, Es] {
                    self.segments[name as usize] = null_segment(0, 0);
                }
            }
            self.segments[Ss as usize] = segment;
        }
        self.segments[Cs as usize] = code.segment(selector & !3 | u16::from(new_cpl));
        self.commit_stack(&stack);
        self.clear_flags(gate);
        self.next_rip = u64::from(entry);
        Ok(())
    }

    /// INT n in virtual-8086 mode with CR4.VME: whether the program's own handler gets it.
    /// Intel SDM volume 3B, section 20.3.
    fn redirected(&mut self, vector: u8) -> Result<bool, Fault> {
        let Some(map) = self.io_map_base()? else {
            return Ok(false);
        };
        let Some(offset) = map.checked_sub(32).map(|start| start + u32::from(vector) / 8) else {
            return Ok(false);
        };
        if offset > self.tr.limit {
            return Ok(false);
        }
        let byte: u8 = self.read_system(self.system_address(self.tr.base, u64::from(offset)))?;
        Ok(byte >> (vector & 7) & 1 == 0)
    }

    /// INT n of a virtual-8086 program through the vector table at linear address 0.
    fn enter_vm86(&mut self, vector: u8) -> Executed {
        let entry: u32 = self.read(u64::from(vector) * 4)?;
        let full = self.rflags & flag::IOPL == flag::IOPL;
        let mut flags = self.rflags;
        if !full {
            // The program sees its virtual interrupt flag, and IOPL 3.
            flags = flags & !flag::IF | flag::IOPL;
            if flags & flag::VIF != 0 {
                flags |= flag::IF;
            }
        }
        let return_rip = self.next_rip;
        self.push_real_frame(flags, return_rip)?;
        self.rflags &= !(flag::TF | flag::RF | flag::NT | if full { flag::IF } else { flag::VIF });
        self.enter_real_code(entry);
        Ok(())
    }
}

/// INT n.
pub(super) fn int(core: &mut Core, instruction: &Instruction) -> Executed {
    let vector = instruction.immediate8();
    if core.vm86() {
        if core.cr4 & cr4::VME != 0 && core.redirected(vector)? {
            return core.enter_vm86(vector);
        }
        if core.rflags & flag::IOPL != flag::IOPL {
            return Err(Fault::GP0);
        }
    }
    core.software_interrupt(vector, Source::Software)
}

/// INT3.
pub(super) fn int3(core: &mut Core, _: &Instruction) -> Executed {
    core.software_interrupt(vector::BP, Source::Software)
}

/// INT1.
pub(super) fn int1(core: &mut Core, _: &Instruction) -> Executed {
    core.software_interrupt(vector::DB, Source::PrivilegedSoftware)
}

/// INTO.
pub(super) fn into(core: &mut Core, _: &Instruction) -> Executed {
    match core.rflags & flag::OF {
        0 => Ok(()),
        _ => core.software_interrupt(vector::OF, Source::Software),
    }
}

/// BOUND.
pub(super) fn bound(core: &mut Core, instruction: &Instruction) -> Executed {
    let register = instruction.op0_register();
    let size = register.size() as u64;
    let address = operand::memory(core, instruction, size as usize * 2, false)?;
    let second = address.wrapping_add(size) & 0xFFFF_FFFF;
    let index = operand::read_register(core, register);
    let (index, low, high) = if is_wide(register) {
        let low = core.read::<u32>(address)? as i32;
        (index as i32, low, core.read::<u32>(second)? as i32)
    } else {
        let low = i32::from(core.read::<u16>(address)? as i16);
        (i32::from(index as i16), low, i32::from(core.read::<u16>(second)? as i16))
    };
    if index < low || index > high { Err(Fault::plain(vector::BR)) } else { Ok(()) }
}

fn is_wide(register: Register) -> bool {
    register.size() == 4
}
