//! Segment and gate descriptors, and where they are found. Intel SDM volume 3A, sections 3.4.5 and 3.5.

use crate::fault::{Fault, vector};
use crate::state::Core;
use hv::Segment;

/// Types of system descriptors (S = 0). Intel SDM volume 3A, table 3-2.
#[allow(missing_docs)]
pub mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    pub const INTERRUPT_GATE: u8 = 14;
    pub const TRAP_GATE: u8 = 15;
}

/// Bits of a descriptor's type.
const ACCESSED: u8 = 1;
const WRITABLE_OR_READABLE: u8 = 2;
const EXPANDS_DOWN_OR_CONFORMS: u8 = 4;
const CODE: u8 = 8;

/// Eight bytes of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Type field, 0..=15.
    pub fn kind(self) -> u8 {
        (self.0 >> 40 & 0xF) as u8
    }

    /// Descriptor privilege level, 0..=3.
    pub fn dpl(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    /// Present.
    pub fn present(self) -> bool {
        self.0 & 1 << 47 != 0
    }

    /// Code or data, as against a system segment or gate.
    pub fn is_segment(self) -> bool {
        self.0 & 1 << 44 != 0
    }

    /// A code segment.
    pub fn is_code(self) -> bool {
        self.is_segment() && self.kind() & CODE != 0
    }

    /// A conforming code segment.
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & EXPANDS_DOWN_OR_CONFORMS != 0
    }

    /// A segment that can be read: data, or readable code.
    pub fn is_readable(self) -> bool {
        self.is_segment() && (self.kind() & CODE == 0 || self.kind() & WRITABLE_OR_READABLE != 0)
    }

    /// A data segment that can be written.
    pub fn is_writable(self) -> bool {
        self.is_segment() && self.kind() & (CODE | WRITABLE_OR_READABLE) == WRITABLE_OR_READABLE
    }

    /// 64-bit code.
    pub fn is_long(self) -> bool {
        self.0 & 1 << 53 != 0
    }

    /// 32-bit default operation size.
    pub fn is_big(self) -> bool {
        self.0 & 1 << 54 != 0
    }

    /// The accessed bit of a segment is set.
    pub fn is_accessed(self) -> bool {
        self.kind() & ACCESSED != 0
    }

    /// A TSS that is available (not busy), of any width.
    pub fn is_available_tss(self) -> bool {
        !self.is_segment() && matches!(self.kind(), kind::TSS | kind::TSS16)
    }

    /// Last valid offset in bytes.
    pub fn limit(self) -> u32 {
        let raw = (self.0 & 0xFFFF | self.0 >> 32 & 0xF_0000) as u32;
        if self.0 & 1 << 55 != 0 { raw << 12 | 0xFFF } else { raw }
    }

    /// The low 32 bits of the base.
    pub fn base(self) -> u64 {
        self.0 >> 16 & 0xFF_FFFF | self.0 >> 32 & 0xFF00_0000
    }

    /// Access rights as [`Segment::access`] has them.
    pub fn access(self) -> u16 {
        (self.0 >> 40 & 0xF0FF) as u16
    }

    /// The hidden part that loading `selector` with this descriptor gives.
    pub fn segment(self, selector: u16) -> Segment {
        Segment { base: self.base(), limit: self.limit(), selector, access: self.access() }
    }

    /// The selector in a gate.
    pub fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The entry point in a gate; 16-bit gates use the low half.
    pub fn gate_offset(self) -> u32 {
        (self.0 & 0xFFFF | self.0 >> 32 & 0xFFFF_0000) as u32
    }
}

/// Whether a selector is null: index 0 in the GDT, any RPL.
pub fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// An exception with a selector as its error code.
pub fn selector_fault(vector: u8, selector: u16) -> Fault {
    Fault::with_error(vector, u32::from(selector) & 0xFFFC)
}

/// #TS with a selector.
pub fn invalid_tss(selector: u16) -> Fault {
    selector_fault(vector::TS, selector)
}

/// #NP with a selector.
pub fn not_present(selector: u16) -> Fault {
    selector_fault(vector::NP, selector)
}

impl Core {
    /// An address in a system structure: 32 bits wide outside IA-32e mode.
    pub(super) fn system_address(&self, base: u64, offset: u64) -> u64 {
        let address = base.wrapping_add(offset);
        if self.long_mode() { address } else { address & 0xFFFF_FFFF }
    }

    /// The linear address of `size` bytes that a selector names in the GDT or LDT; `None` beyond the table's limit.
    fn descriptor_address(&self, selector: u16, size: u32) -> Option<u64> {
        let (base, limit) = if selector & 4 != 0 {
            if self.ldtr.access & Segment::P == 0 {
                return None;
            }
            (self.ldtr.base, self.ldtr.limit)
        } else {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        };
        let offset = u32::from(selector & !7);
        (offset + size - 1 <= limit).then(|| self.system_address(base, u64::from(offset)))
    }

    /// Reads a descriptor; `Ok(None)` when the selector is beyond the limit of its table.
    ///
    /// # Errors
    /// Page faults on the table.
    pub(super) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        match self.descriptor_address(selector, 8) {
            Some(address) => Ok(Some(Descriptor(self.read_system(address)?))),
            None => Ok(None),
        }
    }

    /// Reads a descriptor; beyond the limit of its table `vector`(selector) is raised.
    pub(super) fn descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Fault> {
        self.find_descriptor(selector)?.ok_or(selector_fault(vector, selector))
    }

    /// Reads the upper half of a 16-byte system descriptor of IA-32e mode: bits 32..=63 of its base or offset.
    pub(super) fn descriptor_high(&mut self, selector: u16, vector: u8) -> Result<u64, Fault> {
        let error = selector_fault(vector, selector);
        let address = self.descriptor_address(selector, 16).ok_or(error)?;
        let upper: u64 = self.read_system(self.system_address(address, 8))?;
        // The type field of the second half has to be 0. Intel SDM volume 3A, section 5.8.3.1.
        if upper >> 40 & 0x1F != 0 {
            return Err(error);
        }
        Ok(upper << 32)
    }

    /// Sets the accessed bit of a code or data descriptor in its table.
    pub(super) fn mark_accessed(&mut self, selector: u16, descriptor: Descriptor) -> Result<Descriptor, Fault> {
        if descriptor.is_accessed() {
            return Ok(descriptor);
        }
        self.change_type(selector, descriptor, descriptor.kind() | ACCESSED)
    }

    /// Writes the type field of a descriptor back to its table.
    pub(super) fn change_type(&mut self, selector: u16, old: Descriptor, kind: u8) -> Result<Descriptor, Fault> {
        let new = Descriptor(old.0 & !(0xF << 40) | u64::from(kind & 0xF) << 40);
        if let Some(address) = self.descriptor_address(selector, 8) {
            self.write_system(self.system_address(address, 5), (new.0 >> 40) as u8)?;
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_descriptor_is_read_field_by_field() {
        let flat = Descriptor(0x00CF_9B00_0000_FFFF);
        assert_eq!(flat.limit(), 0xFFFF_FFFF);
        assert_eq!(flat.base(), 0);
        assert_eq!(flat.access(), 0xC09B);
        assert!(flat.is_code() && flat.present() && flat.is_big() && !flat.is_long() && flat.is_readable());
        assert!(!flat.is_writable() && !flat.is_conforming());
        let odd = Descriptor(0x1200_7334_5678_9ABC);
        assert_eq!(odd.base(), 0x1234_5678);
        assert_eq!(odd.limit(), 0x9ABC);
        assert_eq!(odd.dpl(), 3);
        assert!(!odd.present());
    }
}
