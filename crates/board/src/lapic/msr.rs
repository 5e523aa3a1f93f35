use super::registers::{ICR_WRITABLE, LVT_WRITABLE, SVR_WRITABLE, index};
use super::{BASE_BSP, BASE_EN, BASE_EXTD, Lapic};
use crate::irqchip::Irqchip;
use hv::PHYSICAL_BITS;
use std::sync::atomic::Ordering::SeqCst;

const IA32_APIC_BASE: u32 = 0x1B;
const IA32_TSC_DEADLINE: u32 = 0x6E0;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_LAST: u32 = 0x8FF;

/// Delivery status and remote IRR: read-only, and therefore not reserved in a write of what was read.
const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;
/// The delivery status does not exist in x2APIC mode, but is commonly written as it was.
const ICR_STATUS: u32 = 1 << 12;

impl Lapic {
    pub(super) fn read_msr(&self, msr: u32) -> Option<u64> {
        match msr {
            IA32_APIC_BASE => Some(self.base.load(SeqCst)),
            IA32_TSC_DEADLINE => Some(self.tsc_deadline()),
            X2APIC_FIRST..=X2APIC_LAST if self.x2apic() => {
                let register = (msr - X2APIC_FIRST) as u8;
                match register {
                    // Write-only, or only in xAPIC mode. Table 11-6.
                    index::EOI | index::SELF_IPI | index::DFR | index::ICR_HIGH | index::APR | index::RRD => None,
                    index::ICR => Some(self.icr.load(SeqCst)),
                    register => self.read_register(register).map(u64::from),
                }
            }
            _ => None,
        }
    }

    pub(super) fn write_msr(&self, irqchip: &Irqchip, msr: u32, value: u64) -> bool {
        match msr {
            IA32_APIC_BASE => self.write_base(value),
            IA32_TSC_DEADLINE => {
                self.write_tsc_deadline(value);
                true
            }
            X2APIC_FIRST..=X2APIC_LAST if self.x2apic() => {
                self.write_x2apic(irqchip, (msr - X2APIC_FIRST) as u8, value)
            }
            _ => false,
        }
    }

    fn write_x2apic(&self, irqchip: &Irqchip, register: u8, value: u64) -> bool {
        let writable = match register {
            index::ICR => u64::MAX << 32 | u64::from(ICR_WRITABLE | ICR_STATUS),
            index::TPR | index::SELF_IPI => 0xFF,
            index::EOI | index::ESR => 0,
            index::SVR => SVR_WRITABLE.into(),
            index::LVT..=index::LVT_LAST => u64::from(LVT_WRITABLE[usize::from(register - index::LVT)] | LVT_READ_ONLY),
            index::INITIAL_COUNT => u32::MAX.into(),
            index::DIVIDE => 0xB,
            _ => return false,
        };
        if value & !writable != 0 {
            return false;
        }
        if register == index::ICR {
            let icr = value & !u64::from(ICR_STATUS);
            self.icr.store(icr, SeqCst);
            self.send_ipi(irqchip, icr);
            return true;
        }
        self.write_register(irqchip, register, value as u32)
    }

    /// Moves between disabled, xAPIC and x2APIC mode. Section 11.12.5, figure 11-27.
    fn write_base(&self, value: u64) -> bool {
        let flags = BASE_BSP | BASE_EXTD | BASE_EN;
        let address = ((1 << PHYSICAL_BITS) - 1) & !0xFFF;
        if value & !(flags | address) != 0 {
            return false;
        }
        let before = self.base.load(SeqCst);
        let mode = |base: u64| (base & BASE_EN != 0, base & BASE_EXTD != 0);
        match (mode(before), mode(value)) {
            // Not a mode; x2APIC only from xAPIC; and from there only to disabled.
            (_, (false, true)) | ((false, _), (true, true)) | ((true, true), (true, false)) => return false,
            _ => {}
        }
        self.base.store(value, SeqCst);
        let enabled_changed = (before ^ value) & BASE_EN != 0;
        if enabled_changed {
            // Section 11.4.3: disabling loses the state.
            self.xapic_id.store(self.id & 0xFF, SeqCst);
            self.reset_registers();
        } else if (before ^ value) & BASE_EXTD != 0 {
            self.icr.store(self.icr.load(SeqCst) & 0xFFFF_FFFF, SeqCst);
        }
        true
    }
}
