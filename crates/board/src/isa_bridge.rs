use crate::pci::{Configuration, Identity, PIRQ_GSIS, PciFunction, Pirqs};
use std::sync::Arc;

/// Offset of PIRQRC[A:D], the routes of the PCI interrupts. 82371SB (PIIX3), section 2.2.6.
const PIRQRC: u8 = 0x60;
/// Bit 7 of a route: routed nowhere.
const ROUTE_DISABLED: u8 = 0x80;

/// The 82371SB ISA bridge (8086:7000) at 00:01.0: it routes PCI interrupts to ISA interrupts.
pub struct IsaBridge {
    pirqs: Arc<Pirqs>,
}

impl IsaBridge {
    /// A bridge that sets the routes of `pirqs`.
    pub fn new(pirqs: Arc<Pirqs>) -> Arc<Self> {
        Arc::new(IsaBridge { pirqs })
    }
}

impl PciFunction for IsaBridge {
    fn name(&self) -> &str {
        "isa-bridge"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x7000,
            revision: 0,
            class: [0x06, 0x01, 0x00],
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        configuration.set(0x4C, &[0x4D, 0x03]);
        configuration.set_writable(0x4C, &[0xFF; 4]);
        configuration.set(PIRQRC, &[ROUTE_DISABLED; 4]);
        configuration.set_writable(PIRQRC, &[0x8F; 4]);
        // TOM, MSTAT, the motherboard device routes and the APIC base hold what firmware writes.
        configuration.set(0x69, &[0x02]);
        configuration.set_writable(0x69, &[0xFE]);
        configuration.set_writable(0x70, &[0xEF]);
        configuration.set_writable(0x80, &[0x7F]);
        configuration.set_writable(0x82, &[0x0F]);
        configuration
    }

    fn assign(&self, configuration: &mut Configuration) {
        configuration.write(PIRQRC, &PIRQ_GSIS.map(|gsi| gsi as u8));
    }

    fn config_changed(&self, configuration: &Configuration) {
        for pirq in 0..4 {
            let route = configuration.u8(PIRQRC + pirq);
            let gsi = (route & ROUTE_DISABLED == 0).then_some(u32::from(route & 0x0F));
            self.pirqs.route(usize::from(pirq), gsi);
        }
    }
}
