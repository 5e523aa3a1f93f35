use super::registers::{ICR_WRITABLE, LVT_WRITABLE, SVR_WRITABLE, index};
use super::{BASE_BSP, BASE_EN, BASE_EXTD, LAPIC_ADDRESS, LVT_MASKED, Lapic};
use std::sync::atomic::Ordering::SeqCst;

/// The bits of IA32_APIC_BASE that mean something, with a 52-bit address.
const BASE_VALID: u64 = 0x000F_FFFF_FFFF_F000 | BASE_BSP | BASE_EN | BASE_EXTD;

/// Registers of `kvm_lapic_state` that [`Lapic::save`] fills.
const SAVED: [(u8, u8); 8] = [
    (index::ID, index::VERSION),
    (index::TPR, index::PPR),
    (index::LDR, index::IRR_LAST),
    (index::ESR, index::ESR),
    (index::ICR, index::ICR_HIGH),
    (index::LVT, index::LVT_LAST),
    (index::INITIAL_COUNT, index::CURRENT_COUNT),
    (index::DIVIDE, index::DIVIDE),
];

impl Lapic {
    pub(super) fn save(&self) -> Box<[u8; 1024]> {
        let mut page = Box::new([0; 1024]);
        for register in SAVED.into_iter().flat_map(|(first, last)| first..=last) {
            let mut value = self.read_register(register).unwrap_or(0);
            if register == index::ID && self.x2apic() {
                // KVM keeps the ID in the place of xAPIC mode unless KVM_CAP_X2APIC_API is enabled.
                value = self.id << 24;
            }
            let offset = usize::from(register) << 4;
            page[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        page
    }

    pub(super) fn load(&self, page: &[u8; 1024], apic_base: u64, tsc_deadline: u64) {
        let get = |register: u8| {
            let offset = usize::from(register) << 4;
            u32::from_le_bytes([page[offset], page[offset + 1], page[offset + 2], page[offset + 3]])
        };
        let mut base = apic_base & BASE_VALID;
        if base & BASE_EN == 0 {
            base &= !BASE_EXTD;
        }
        if base & !0xFFF == 0 {
            base |= LAPIC_ADDRESS;
        }
        self.base.store(base, SeqCst);
        self.xapic_id.store(if self.x2apic() { self.id & 0xFF } else { get(index::ID) >> 24 }, SeqCst);
        self.acceptance.set_tpr(get(index::TPR) as u8);
        self.ldr.store(get(index::LDR) & 0xFF00_0000, SeqCst);
        self.dfr.store(get(index::DFR) | 0x0FFF_FFFF, SeqCst);
        self.svr.store(get(index::SVR) & SVR_WRITABLE, SeqCst);
        let accepted = &self.acceptance;
        for (vectors, first) in [(&accepted.isr, index::ISR), (&accepted.tmr, index::TMR), (&accepted.irr, index::IRR)]
        {
            for (word, register) in vectors.0.iter().zip(first..) {
                // Vectors below 16 cannot be pending or in service.
                let legal = if register == first { !0xFFFF } else { !0 };
                word.store(get(register) & legal, SeqCst);
            }
        }
        self.esr.store(get(index::ESR) & 0xFF, SeqCst);
        self.errors.store(0, SeqCst);
        let destination = if self.x2apic() { u32::MAX } else { 0xFF00_0000 };
        let icr = u64::from(get(index::ICR_HIGH) & destination) << 32 | u64::from(get(index::ICR) & ICR_WRITABLE);
        self.icr.store(icr, SeqCst);
        for ((entry, writable), register) in self.lvt.iter().zip(LVT_WRITABLE).zip(index::LVT..) {
            entry.store(get(register) & (writable | LVT_MASKED), SeqCst);
        }
        self.extint.store(false, SeqCst);
        self.priority_changed();
        self.load_timer(get(index::DIVIDE), get(index::INITIAL_COUNT), get(index::CURRENT_COUNT), tsc_deadline);
    }
}
