use crate::pci::{Configuration, Identity, PciFunction, register};

/// First of the ACPI power management ports that the function claims (64 of them).
pub const PM_BASE: u16 = 0x600;

/// The 82371AB power management function (8086:7113) at 00:01.3. Its ports are fixed at [`PM_BASE`] and always
/// decoded; whoever models them answers there.
pub struct PowerManagement;

impl PciFunction for PowerManagement {
    fn name(&self) -> &str {
        "power-management"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x7113,
            revision: 3,
            class: [0x06, 0x80, 0x00],
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        configuration.set_interrupt_pin(1);
        // The system control interrupt is wired to ISA interrupt 9.
        configuration.set(register::INTERRUPT_LINE, &[9]);
        // 82371AB, section 7.1: PMBA with its I/O flag, and PMREGMISC with decoding enabled.
        configuration.set(0x40, &u32::from(PM_BASE | 1).to_le_bytes());
        configuration.set(0x80, &[0x01]);
        // APMC enabled in DEVACTB, SMM already set up: firmware must not wait for a system management interrupt.
        configuration.set(0x5B, &[0x02]);
        configuration
    }
}
