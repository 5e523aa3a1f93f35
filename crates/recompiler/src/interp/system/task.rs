//! Hardware task switches with 16- and 32-bit TSSs. Intel SDM volume 3A, chapter 7.

use super::debug::DR6_BT;
use super::descriptor::{Descriptor, invalid_tss, is_null, kind, not_present, selector_fault};
use super::segment::{ldt, load_real, null_segment};
use crate::fault::{Fault, vector};
use crate::state::{Core, Executed, cr0, cr4, flag};
use hv::{Segment, SegmentRegister};

/// What causes a task switch, which decides about busy flags, NT and the back link. SDM table 7-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// An interrupt or exception through a task gate.
    Event,
    /// IRET with NT set.
    Return,
}

/// Segment registers in the order of the TSS.
const ORDER: [SegmentRegister; 6] = [
    SegmentRegister::Es,
    SegmentRegister::Cs,
    SegmentRegister::Ss,
    SegmentRegister::Ds,
    SegmentRegister::Fs,
    SegmentRegister::Gs,
];

/// Where a TSS keeps things: offsets of EIP, and sizes.
struct Layout {
    wide: bool,
    /// Offset of (E)IP; (E)FLAGS, the registers and the selectors follow.
    ip: usize,
    /// Offset of ES's selector.
    selectors: usize,
    /// Selectors are 4 bytes apart in a 32-bit TSS, 2 in a 16-bit one, which has no FS and GS.
    selector_count: usize,
    ldt: usize,
    /// Bytes that have to be there.
    size: usize,
}

const WIDE: Layout = Layout { wide: true, ip: 0x20, selectors: 0x48, selector_count: 6, ldt: 0x60, size: 0x68 };
const NARROW: Layout = Layout { wide: false, ip: 0x0E, selectors: 0x22, selector_count: 4, ldt: 0x2A, size: 0x2C };

impl Layout {
    fn of(kind: u8) -> &'static Layout {
        if matches!(kind, kind::TSS | kind::TSS_BUSY) { &WIDE } else { &NARROW }
    }

    /// Bytes of a register.
    fn width(&self) -> usize {
        if self.wide { 4 } else { 2 }
    }

    fn register(&self, image: &[u8; 0x68], at: usize) -> u64 {
        let low = u64::from(u16::from_le_bytes([image[at], image[at + 1]]));
        match self.wide {
            true => low | u64::from(u16::from_le_bytes([image[at + 2], image[at + 3]])) << 16,
            false => low,
        }
    }

    fn set_register(&self, image: &mut [u8; 0x68], at: usize, value: u64) {
        image[at..at + self.width()].copy_from_slice(&value.to_le_bytes()[..self.width()]);
    }

    fn selector(&self, image: &[u8; 0x68], at: usize) -> u16 {
        u16::from_le_bytes([image[at], image[at + 1]])
    }
}

impl Core {
    /// A task gate met by an event: switches and pushes the error code on the new task's stack.
    pub(super) fn enter_task_gate(&mut self, selector: u16, error: Option<u32>, return_rip: u64) -> Executed {
        self.next_rip = return_rip;
        self.task_gate_target(selector)?;
        self.switch_task(selector, Switch::Event, error)
    }

    /// JMP or CALL to a task gate.
    pub(super) fn switch_through_gate(&mut self, selector: u16, gate: Descriptor, cause: Switch) -> Executed {
        if !gate.present() {
            return Err(not_present(selector));
        }
        let target = gate.gate_selector();
        self.task_gate_target(target)?;
        self.switch_task(target, cause, None)
    }

    fn task_gate_target(&mut self, selector: u16) -> Executed {
        if selector & 4 != 0 || is_null(selector) {
            return Err(Fault::gp(selector));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        if !descriptor.is_available_tss() {
            return Err(Fault::gp(selector));
        }
        Ok(())
    }

    /// JMP or CALL to a TSS.
    pub(super) fn switch_to(&mut self, selector: u16, cause: Switch) -> Executed {
        if selector & 4 != 0 {
            return Err(Fault::gp(selector));
        }
        self.switch_task(selector, cause, None)
    }

    /// IRET with NT: back to the task in the back link.
    pub(super) fn return_from_task(&mut self) -> Executed {
        let link: u16 = self.read_system(self.system_address(self.tr.base, 0))?;
        if link & 4 != 0 || is_null(link) {
            return Err(invalid_tss(link));
        }
        let descriptor = self.descriptor(link, vector::TS)?;
        if descriptor.is_segment() || !matches!(descriptor.kind(), kind::TSS_BUSY | kind::TSS16_BUSY) {
            return Err(invalid_tss(link));
        }
        self.switch_task(link, Switch::Return, None)
    }

    /// Reads `size` bytes of a TSS; what lies beyond is zero.
    fn read_tss(&mut self, base: u64, size: usize) -> Result<[u8; 0x68], Fault> {
        let mut image = [0; 0x68];
        for at in (0..size).step_by(2) {
            let word: u16 = self.read_system(self.system_address(base, at as u64))?;
            image[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        Ok(image)
    }

    /// Switches to the task of a TSS; `next_rip` is where the old task continues. A fault before the new registers are
    /// loaded leaves the old task running; a later one belongs to the new task, and `rip` points into that.
    fn switch_task(&mut self, selector: u16, cause: Switch, error: Option<u32>) -> Executed {
        let descriptor = self.descriptor(selector, vector::GP)?;
        let layout = Layout::of(descriptor.kind());
        let old_layout = Layout::of((self.tr.access & 0xF) as u8);
        if !descriptor.present() {
            return Err(not_present(selector));
        }
        if descriptor.limit() < layout.size as u32 - 1 {
            return Err(invalid_tss(selector));
        }
        if self.tr.access & Segment::P == 0 || self.tr.limit < old_layout.size as u32 - 1 {
            return Err(invalid_tss(self.tr.selector));
        }
        // Everything that can be missing is touched before anything changes.
        let new = self.read_tss(descriptor.base(), layout.size)?;
        let mut old = self.read_tss(self.tr.base, old_layout.size)?;
        let trap = layout.wide && self.read_system::<u8>(self.system_address(descriptor.base(), 0x64))? & 1 != 0;
        let mut new_flags = layout.register(&new, layout.ip + layout.width());
        if matches!(cause, Switch::Call | Switch::Event) {
            let back_link = self.tr.selector;
            self.write_system(self.system_address(descriptor.base(), 0), back_link)?;
            new_flags |= flag::NT;
        }
        self.save_task(old_layout, &mut old, cause)?;

        if matches!(cause, Switch::Jump | Switch::Return) {
            let old_selector = self.tr.selector;
            let old_descriptor = self.descriptor(old_selector, vector::TS)?;
            self.change_type(old_selector, old_descriptor, old_descriptor.kind() & !2)?;
        }
        let descriptor = match cause {
            Switch::Return => descriptor,
            _ => self.change_type(selector, descriptor, descriptor.kind() | 2)?,
        };
        self.tr = descriptor.segment(selector);
        self.load_task(layout, &new, new_flags, error, trap)
    }

    /// Writes the registers into the old task's TSS.
    fn save_task(&mut self, layout: &Layout, image: &mut [u8; 0x68], cause: Switch) -> Executed {
        let width = layout.width();
        let flags = if cause == Switch::Return { self.rflags & !flag::NT } else { self.rflags };
        layout.set_register(image, layout.ip, self.next_rip);
        layout.set_register(image, layout.ip + width, flags);
        for (index, value) in self.gpr[..8].iter().enumerate() {
            layout.set_register(image, layout.ip + (2 + index) * width, *value);
        }
        for (index, name) in ORDER.iter().enumerate().take(layout.selector_count) {
            let at = layout.selectors + index * width;
            image[at..at + 2].copy_from_slice(&self.segments[*name as usize].selector.to_le_bytes());
        }
        let base = self.tr.base;
        let end = layout.selectors + layout.selector_count * width;
        for at in (layout.ip..end).step_by(2) {
            let word = u16::from_le_bytes([image[at], image[at + 1]]);
            self.write_system(self.system_address(base, at as u64), word)?;
        }
        Ok(())
    }

    /// Loads the new task. From here on faults are the new task's.
    fn load_task(
        &mut self,
        layout: &Layout,
        image: &[u8; 0x68],
        flags: u64,
        error: Option<u32>,
        trap: bool,
    ) -> Executed {
        let width = layout.width();
        self.cr0 |= cr0::TS;
        // The old task's local breakpoints end with it.
        self.dr7 &= !0x155;
        self.rip = layout.register(image, layout.ip);
        self.next_rip = self.rip;
        const FLAGS: u64 = flag::ARITHMETIC
            | flag::TF
            | flag::IF
            | flag::DF
            | flag::IOPL
            | flag::NT
            | flag::RF
            | flag::VM
            | flag::AC
            | flag::VIF
            | flag::VIP
            | flag::ID;
        self.rflags = flags & FLAGS | flag::FIXED;
        for index in 0..8 {
            let value = layout.register(image, layout.ip + (2 + index) * width);
            // The manual leaves the upper halves open; this is what processors do.
            self.gpr[index] = if layout.wide { value } else { value | 0xFFFF_0000 };
        }
        let selectors: [u16; 6] = std::array::from_fn(|index| match index < layout.selector_count {
            true => layout.selector(image, layout.selectors + index * width),
            false => 0,
        });
        let vm86 = self.vm86();
        let cpl = if vm86 { 3 } else { (selectors[1] & 3) as u8 };
        for (name, selector) in ORDER.into_iter().zip(selectors) {
            self.segments[name as usize] = null_segment(selector, if name == SegmentRegister::Ss { cpl } else { 0 });
        }
        let ldt_selector = layout.selector(image, layout.ldt);
        self.ldtr = null_segment(ldt_selector, 0);
        if layout.wide && self.cr0 & cr0::PG != 0 {
            let cr3 = layout.register(image, 0x1C);
            if self.cr4 & cr4::PAE != 0 {
                self.pdpte = self.read_pdptes(cr3).map_err(|_| invalid_tss(self.tr.selector))?;
            }
            self.cr3 = cr3;
            self.flush_tlb(true);
        }
        self.ldtr = ldt(self, ldt_selector, vector::TS)?;
        if vm86 {
            for (name, selector) in ORDER.into_iter().zip(selectors) {
                load_real(self, name, selector);
            }
        } else {
            self.load_task_segments(selectors, cpl)?;
        }
        if let Some(error) = error {
            let mut stack = self.stack();
            stack.push(self, width as u64, u64::from(error))?;
            self.commit_stack(&stack);
        }
        if self.rip > u64::from(self.segments[SegmentRegister::Cs as usize].limit) {
            return Err(Fault::GP0);
        }
        if trap {
            self.dr6 |= DR6_BT;
            return Err(Fault { trap: true, ..Fault::plain(vector::DB) });
        }
        Ok(())
    }

    fn load_task_segments(&mut self, selectors: [u16; 6], cpl: u8) -> Executed {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let [es, cs, ss, ds, fs, gs] = selectors;
        if is_null(cs) {
            return Err(invalid_tss(cs));
        }
        let code = self.descriptor(cs, vector::TS)?;
        let level = if code.is_conforming() { code.dpl() <= cpl } else { code.dpl() == cpl };
        if !code.is_code() || !level {
            return Err(invalid_tss(cs));
        }
        if !code.present() {
            return Err(not_present(cs));
        }
        if is_null(ss) {
            return Err(invalid_tss(ss));
        }
        self.segments[Ss as usize] = super::segment::stack_segment_for(self, ss, cpl, vector::TS)?;
        self.segments[Cs as usize] = self.mark_accessed(cs, code)?.segment(cs);
        for (name, selector) in [(Es, es), (Ds, ds), (Fs, fs), (Gs, gs)] {
            super::segment::load(self, name, selector).map_err(|fault| match fault.vector {
                vector::GP => selector_fault(vector::TS, selector),
                _ => fault,
            })?;
        }
        Ok(())
    }
}
