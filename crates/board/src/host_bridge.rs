use crate::pci::{Configuration, Identity, PciFunction};

/// The 82441FX host bridge (8086:1237) at 00:00.0: what guests recognise the board by. Its registers hold what is
/// written; the shadowing of ROM that PAM asks for is not done.
pub struct HostBridge;

impl PciFunction for HostBridge {
    fn name(&self) -> &str {
        "host-bridge"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: [0x06, 0x00, 0x00],
            // SeaBIOS reads fw_cfg files only on a board with this subsystem.
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        // 82441FX, section 3.2: PMC configuration, DRAM timing and control; PAM0..PAM6 (0x59..=0x5F); SMRAM (0x72).
        configuration.set_writable(0x50, &[0xFF; 9]);
        configuration.set_writable(0x59, &[0xF0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        configuration.set_writable(0x60, &[0xFF; 8]);
        configuration.set(0x72, &[0x02]);
        configuration.set_writable(0x72, &[0x78]);
        configuration
    }
}
