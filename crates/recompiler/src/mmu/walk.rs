//! The page walk: rights, reserved bits, accessed and dirty bits, the page fault's error code.
//!
//! Intel SDM volume 3A, chapter 4: no paging, 32-bit (4.3), PAE (4.4) and 4-level (4.5); error codes 4.7, accessed and
//! dirty bits 4.8.

use super::{Kind, PHYSICAL_BITS, Translation};
use crate::fault::Fault;
use crate::state::{Core, cr0, cr4, efer};
use crate::tlb::View;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Page-fault error code bits.
mod error {
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
}

/// Page-table entry bits.
mod pte {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
}

/// The physical address bits of an entry.
const PHYSICAL_MASK: u64 = (1 << PHYSICAL_BITS) - 1;

impl Core {
    /// Walks the page tables. `touch`: set accessed and dirty bits.
    pub(super) fn walk(&self, view: View, linear: u64, kind: Kind, touch: bool) -> Result<Translation, Fault> {
        if self.cr0 & cr0::PG == 0 {
            return Ok(Translation { physical: linear & 0xFFFF_FFFF, writable: true, global: false, page_size: 4096 });
        }
        loop {
            let rights = pte::WRITE | pte::USER;
            let mut walk = Walk { core: self, view, linear, kind, touch, rights, nx: false, changed: false };
            let found = if self.efer & efer::LMA != 0 {
                let sign = (linear as i64) >> 47;
                if sign != 0 && sign != -1 {
                    return Err(Fault::GP0);
                }
                walk.long()
            } else if self.cr4 & cr4::PAE != 0 {
                walk.pae()
            } else {
                walk.legacy()
            };
            // Each turn is one in which another processor changed an entry between two instructions of this one.
            if !walk.changed {
                return found;
            }
        }
    }
}

/// A walk under way.
struct Walk<'a> {
    core: &'a Core,
    view: View,
    linear: u64,
    kind: Kind,
    touch: bool,
    /// AND of the WRITE and USER bits seen so far.
    rights: u64,
    /// OR of the NX bits seen so far.
    nx: bool,
    /// An entry was changed since it was read, and so did not get its accessed or dirty bit: walk again. Set anyway, the
    /// bit would fall into an entry that was cleared, or means something else by now.
    changed: bool,
}

impl Walk<'_> {
    fn fault(&self, present: u32) -> Fault {
        let mut error = present;
        if self.kind == Kind::Write {
            error |= error::WRITE;
        }
        if self.view == View::User {
            error |= error::USER;
        }
        let smep = self.core.cr4 & cr4::SMEP != 0;
        if self.kind == Kind::Fetch && (self.nx_enabled() || smep) {
            error |= error::FETCH;
        }
        Fault::page(self.linear, error)
    }

    fn nx_enabled(&self) -> bool {
        self.core.efer & efer::NXE != 0 && (self.core.cr4 & cr4::PAE != 0)
    }

    fn entry64(&self, address: u64) -> Option<&AtomicU64> {
        let host = self.core.host(address & !7, 8)?;
        // SAFETY: `host` is aligned RAM that stays mapped; guest RAM is accessed with atomics.
        Some(unsafe { AtomicU64::from_ptr(host.cast()) })
    }

    fn entry32(&self, address: u64) -> Option<&AtomicU32> {
        let host = self.core.host(address & !3, 4)?;
        // SAFETY: as in `entry64`.
        Some(unsafe { AtomicU32::from_ptr(host.cast()) })
    }

    /// Reads a 64-bit entry, checks present and reserved bits, and collects rights.
    fn step64(&mut self, address: u64, reserved: u64) -> Result<u64, Fault> {
        let entry = self.entry64(address).map_or(0, |entry| entry.load(Ordering::Acquire));
        if entry & pte::PRESENT == 0 {
            return Err(self.fault(0));
        }
        // With 4-level paging bits 52..=62 are ignored, with PAE paging they are reserved.
        let width = if self.core.efer & efer::LMA != 0 { 52 } else { 63 };
        let mut reserved = reserved | (((1 << width) - 1) & !PHYSICAL_MASK);
        if !self.nx_enabled() {
            reserved |= pte::NX;
        }
        if entry & reserved != 0 {
            return Err(self.fault(error::PRESENT | error::RESERVED));
        }
        self.rights &= entry;
        self.nx |= entry & pte::NX != 0;
        Ok(entry)
    }

    /// Sets bits of an entry that was read as `value`.
    fn accessed64(&mut self, (address, value): (u64, u64), bits: u64) {
        if self.touch && value & bits != bits {
            let exchange = |entry: &AtomicU64| {
                entry.compare_exchange(value, value | bits, Ordering::AcqRel, Ordering::Relaxed).is_err()
            };
            self.changed |= self.entry64(address).is_some_and(exchange);
        }
    }

    fn long(&mut self) -> Result<Translation, Fault> {
        let pml4e_at = (self.core.cr3 & PHYSICAL_MASK & !0xFFF) + (self.linear >> 39 & 0x1FF) * 8;
        let pml4e = self.step64(pml4e_at, pte::LARGE)?;
        let pdpte_at = (pml4e & PHYSICAL_MASK & !0xFFF) + (self.linear >> 30 & 0x1FF) * 8;
        let pdpte = self.step64(pdpte_at, 0)?;
        if pdpte & pte::LARGE != 0 {
            if pdpte & 0x3FFF_E000 != 0 {
                return Err(self.fault(error::PRESENT | error::RESERVED));
            }
            self.permitted()?;
            self.accessed64((pml4e_at, pml4e), pte::ACCESSED);
            return self.leaf64(pdpte_at, pdpte, 1 << 30);
        }
        self.lower_levels(pdpte, &[(pml4e_at, pml4e), (pdpte_at, pdpte)])
    }

    fn pae(&mut self) -> Result<Translation, Fault> {
        let pdpte = self.core.pdpte[(self.linear >> 30 & 3) as usize];
        if pdpte & pte::PRESENT == 0 {
            return Err(self.fault(0));
        }
        self.lower_levels(pdpte, &[])
    }

    /// The page directory and page table of PAE and 4-level paging.
    fn lower_levels(&mut self, pdpte: u64, above: &[(u64, u64)]) -> Result<Translation, Fault> {
        let pde_at = (pdpte & PHYSICAL_MASK & !0xFFF) + (self.linear >> 21 & 0x1FF) * 8;
        let pde = self.step64(pde_at, 0)?;
        if pde & pte::LARGE != 0 {
            if pde & 0x1F_E000 != 0 {
                return Err(self.fault(error::PRESENT | error::RESERVED));
            }
            self.permitted()?;
            above.iter().for_each(|&at| self.accessed64(at, pte::ACCESSED));
            return self.leaf64(pde_at, pde, 1 << 21);
        }
        let pte_at = (pde & PHYSICAL_MASK & !0xFFF) + (self.linear >> 12 & 0x1FF) * 8;
        let pte = self.step64(pte_at, 0)?;
        self.permitted()?;
        above.iter().for_each(|&at| self.accessed64(at, pte::ACCESSED));
        self.accessed64((pde_at, pde), pte::ACCESSED);
        self.leaf64(pte_at, pte, 1 << 12)
    }

    fn leaf64(&mut self, at: u64, entry: u64, page_size: u64) -> Result<Translation, Fault> {
        let dirty = if self.kind == Kind::Write { pte::DIRTY } else { 0 };
        self.accessed64((at, entry), pte::ACCESSED | dirty);
        let physical = (entry & PHYSICAL_MASK & !0xFFF & !(page_size - 1)) | self.linear & (page_size - 1);
        Ok(self.translation(physical, entry | dirty, page_size))
    }

    fn legacy(&mut self) -> Result<Translation, Fault> {
        let pde_at = (self.core.cr3 & 0xFFFF_F000) + (self.linear >> 22 & 0x3FF) * 4;
        let pde = self.entry32(pde_at).map_or(0, |entry| u64::from(entry.load(Ordering::Acquire)));
        if pde & pte::PRESENT == 0 {
            return Err(self.fault(0));
        }
        self.rights &= pde;
        if pde & pte::LARGE != 0 && self.core.cr4 & cr4::PSE != 0 {
            // PSE-36: bits 13..=20 hold physical address bits 32..=39; bit 21 is reserved.
            if pde & 1 << 21 != 0 {
                return Err(self.fault(error::PRESENT | error::RESERVED));
            }
            self.permitted()?;
            let physical = pde & 0xFFC0_0000 | (pde >> 13 & 0xFF) << 32 | self.linear & 0x3F_FFFF;
            return self.leaf32(pde_at, pde, physical, 1 << 22);
        }
        let pte_at = (pde & 0xFFFF_F000) + (self.linear >> 12 & 0x3FF) * 4;
        let pte = self.entry32(pte_at).map_or(0, |entry| u64::from(entry.load(Ordering::Acquire)));
        if pte & pte::PRESENT == 0 {
            return Err(self.fault(0));
        }
        self.rights &= pte;
        self.permitted()?;
        self.accessed32((pde_at, pde), pte::ACCESSED);
        self.leaf32(pte_at, pte, pte & 0xFFFF_F000 | self.linear & 0xFFF, 1 << 12)
    }

    fn accessed32(&mut self, (address, value): (u64, u64), bits: u64) {
        if self.touch && value & bits != bits {
            let (old, new) = (value as u32, (value | bits) as u32);
            let exchange =
                |entry: &AtomicU32| entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_err();
            self.changed |= self.entry32(address).is_some_and(exchange);
        }
    }

    fn leaf32(&mut self, at: u64, entry: u64, physical: u64, page_size: u64) -> Result<Translation, Fault> {
        let dirty = if self.kind == Kind::Write { pte::DIRTY } else { 0 };
        self.accessed32((at, entry), pte::ACCESSED | dirty);
        Ok(self.translation(physical, entry | dirty, page_size))
    }

    fn translation(&self, physical: u64, entry: u64, page_size: u64) -> Translation {
        Translation {
            physical,
            writable: entry & pte::DIRTY != 0 && self.may_write(),
            global: entry & pte::GLOBAL != 0 && self.core.cr4 & cr4::PGE != 0,
            page_size,
        }
    }

    fn may_write(&self) -> bool {
        self.rights & pte::WRITE != 0 || (self.view != View::User && self.core.cr0 & cr0::WP == 0)
    }

    /// Checks the collected rights. Intel SDM volume 3A, section 4.6.
    fn permitted(&self) -> Result<(), Fault> {
        let user_page = self.rights & pte::USER != 0;
        let allowed = match self.view {
            View::User => user_page,
            View::Supervisor if user_page => match self.kind {
                Kind::Fetch => self.core.cr4 & cr4::SMEP == 0,
                _ => self.core.cr4 & cr4::SMAP == 0,
            },
            View::SupervisorAc if user_page && self.kind == Kind::Fetch => self.core.cr4 & cr4::SMEP == 0,
            _ => true,
        };
        let kind_allowed = match self.kind {
            Kind::Read => true,
            Kind::Write => self.may_write(),
            Kind::Fetch => !(self.nx && self.nx_enabled()),
        };
        if allowed && kind_allowed { Ok(()) } else { Err(self.fault(error::PRESENT)) }
    }
}
