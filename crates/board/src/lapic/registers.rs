use super::acceptance::Vectors;
use super::{ESR_ILLEGAL_REGISTER, LVT_MASKED, Lapic, Lvt, SVR_ENABLE, SVR_SUPPRESS_EOI, x2apic_ldr};
use crate::irqchip::Irqchip;
use std::sync::atomic::Ordering::SeqCst;

/// Registers by number: the offset in the page, or the MSR less 0x800, shifted right by 4 (table 11-1, 11-6).
pub(super) mod index {
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const APR: u8 = 0x09;
    pub const PPR: u8 = 0x0A;
    pub const EOI: u8 = 0x0B;
    pub const RRD: u8 = 0x0C;
    pub const LDR: u8 = 0x0D;
    pub const DFR: u8 = 0x0E;
    pub const SVR: u8 = 0x0F;
    pub const ISR: u8 = 0x10;
    pub const ISR_LAST: u8 = 0x17;
    pub const TMR: u8 = 0x18;
    pub const TMR_LAST: u8 = 0x1F;
    pub const IRR: u8 = 0x20;
    pub const IRR_LAST: u8 = 0x27;
    pub const ESR: u8 = 0x28;
    pub const ICR: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT: u8 = 0x32;
    pub const LVT_LAST: u8 = 0x37;
    pub const INITIAL_COUNT: u8 = 0x38;
    pub const CURRENT_COUNT: u8 = 0x39;
    pub const DIVIDE: u8 = 0x3E;
    pub const SELF_IPI: u8 = 0x3F;
}

/// Version 0x14, six LVT entries, EOI broadcasts can be suppressed. Figure 11-7.
const VERSION: u32 = 0x14 | 5 << 16 | 1 << 24;
/// Spurious-interrupt vector register: vector, enable, focus checking, EOI suppression.
pub(super) const SVR_WRITABLE: u32 = 0x3FF | SVR_SUPPRESS_EOI;
/// Interrupt command register: all but the reserved bits and the delivery status.
pub(super) const ICR_WRITABLE: u32 = 0x000C_CFFF;

/// The bits software may set in each entry of the local vector table. Figure 11-8.
pub(super) const LVT_WRITABLE: [u32; 6] = [0x7_00FF, 0x1_07FF, 0x1_07FF, 0x1_A7FF, 0x1_A7FF, 0x1_00FF];

impl Lapic {
    pub(super) fn mmio_read(&self, offset: u16, data: &mut [u8]) {
        if !self.hardware_enabled() || self.x2apic() {
            data.fill(0xFF);
            return;
        }
        data.fill(0);
        let within = usize::from(offset & 15);
        let value = self.read_register((offset >> 4) as u8);
        if value.is_none() || offset >= 0x400 {
            self.error(ESR_ILLEGAL_REGISTER);
        } else if let Some(bytes) = value.unwrap_or(0).to_le_bytes().get(within..) {
            let size = data.len().min(bytes.len());
            data[..size].copy_from_slice(&bytes[..size]);
        }
    }

    pub(super) fn mmio_write(&self, irqchip: &Irqchip, offset: u16, data: &[u8]) {
        // Section 11.4.1: registers are aligned to 16 bytes and written as 32 bits; the rest is undefined, ignored here.
        let Ok(data) = <[u8; 4]>::try_from(data) else { return };
        if !self.hardware_enabled() || self.x2apic() || offset & 15 != 0 {
            return;
        }
        let register = (offset >> 4) as u8;
        if offset >= 0x400
            || register == index::SELF_IPI
            || !self.write_register(irqchip, register, u32::from_le_bytes(data))
        {
            self.error(ESR_ILLEGAL_REGISTER);
        }
    }

    /// Reads a register in the form of the current mode. `None`: there is none.
    pub(super) fn read_register(&self, register: u8) -> Option<u32> {
        let word = |vectors: &Vectors, first: u8| vectors.0[usize::from(register - first)].load(SeqCst);
        Some(match register {
            index::ID if self.x2apic() => self.id,
            index::ID => self.xapic_id.load(SeqCst) << 24,
            index::VERSION => VERSION,
            index::TPR => self.acceptance.tpr().into(),
            index::APR | index::PPR => self.acceptance.ppr().into(),
            index::EOI | index::RRD => 0,
            index::LDR if self.x2apic() => x2apic_ldr(self.id),
            index::LDR => self.ldr.load(SeqCst),
            index::DFR => self.dfr.load(SeqCst),
            index::SVR => self.svr.load(SeqCst),
            index::ISR..=index::ISR_LAST => word(&self.acceptance.isr, index::ISR),
            index::TMR..=index::TMR_LAST => word(&self.acceptance.tmr, index::TMR),
            index::IRR..=index::IRR_LAST => word(&self.acceptance.irr, index::IRR),
            index::ESR => self.esr.load(SeqCst),
            index::ICR => self.icr.load(SeqCst) as u32,
            index::ICR_HIGH => (self.icr.load(SeqCst) >> 32) as u32,
            index::LVT..=index::LVT_LAST => self.lvt[usize::from(register - index::LVT)].load(SeqCst),
            index::INITIAL_COUNT => self.initial_count(),
            index::CURRENT_COUNT => self.current_count(),
            index::DIVIDE => self.divide(),
            _ => return None,
        })
    }

    /// Writes a register; read-only ones and reserved bits keep their values. False: there is no such register.
    pub(super) fn write_register(&self, irqchip: &Irqchip, register: u8, value: u32) -> bool {
        match register {
            index::ID => self.xapic_id.store(value >> 24, SeqCst),
            index::TPR => self.set_tpr(value as u8),
            index::EOI => self.eoi(irqchip),
            index::LDR => self.ldr.store(value & 0xFF00_0000, SeqCst),
            index::DFR => self.dfr.store(value | 0x0FFF_FFFF, SeqCst),
            index::SVR => self.write_svr(value),
            index::ESR => self.esr.store(self.errors.swap(0, SeqCst), SeqCst),
            index::ICR => {
                let icr = self.icr.load(SeqCst) >> 32 << 32 | u64::from(value & ICR_WRITABLE);
                self.icr.store(icr, SeqCst);
                self.send_ipi(irqchip, icr);
            }
            index::ICR_HIGH => {
                let low = self.icr.load(SeqCst) & 0xFFFF_FFFF;
                self.icr.store(u64::from(value & 0xFF00_0000) << 32 | low, SeqCst);
            }
            index::LVT..=index::LVT_LAST => self.write_lvt(usize::from(register - index::LVT), value),
            index::INITIAL_COUNT => self.write_initial_count(value),
            index::DIVIDE => self.write_divide(value),
            index::SELF_IPI => self.send_ipi(irqchip, u64::from(value & 0xFF) | 1 << 18),
            _ => return self.read_register(register).is_some(),
        }
        true
    }

    pub(super) fn set_tpr(&self, value: u8) {
        if self.acceptance.set_tpr(value) != value {
            self.priority_changed();
        }
    }

    fn write_svr(&self, value: u32) {
        self.svr.store(value & SVR_WRITABLE, SeqCst);
        if value & SVR_ENABLE == 0 {
            // Section 11.4.7.2: the mask bits of the local vector table are set and stay set.
            for entry in &self.lvt {
                entry.fetch_or(LVT_MASKED, SeqCst);
            }
            self.update();
        }
    }

    fn write_lvt(&self, entry: usize, value: u32) {
        let masked = if self.software_enabled() { 0 } else { LVT_MASKED };
        let value = value & LVT_WRITABLE[entry] | masked;
        if entry == Lvt::Timer as usize {
            self.write_timer_entry(value);
        } else {
            self.lvt[entry].store(value, SeqCst);
            self.update();
        }
    }
}
