use crate::pci::Configuration;
use hv::{Interrupts, Msi as Message};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// Capability ID of MSI.
const CAPABILITY_ID: u8 = 0x05;
/// Message control: interrupts go out as messages.
const CONTROL_ENABLE: u16 = 1 << 0;
/// Message control: addresses have 64 bits.
const CONTROL_64_BIT: u16 = 1 << 7;
/// Offsets in the capability: message control, address, its upper half, data.
const CONTROL: u8 = 2;
const ADDRESS: u8 = 4;
const UPPER_ADDRESS: u8 = 8;
const DATA: u8 = 12;

/// A function's MSI: a capability for one message, with a 64-bit address and without mask bits. PCI Local Bus 3.0, section
/// 6.8.1.
///
/// Lock order: `message` is a leaf; messages are sent after it is released.
#[derive(Default)]
pub struct Msi {
    interrupts: OnceLock<Arc<dyn Interrupts>>,
    /// What to send; `None` while interrupts do not go out as messages.
    message: Mutex<Option<Message>>,
}

impl Msi {
    /// MSI that is disabled.
    pub fn new() -> Self {
        Msi::default()
    }

    /// Adds the capability.
    pub fn add_capability(&self, configuration: &mut Configuration) {
        let mut body = [0; 12];
        body[..2].copy_from_slice(&CONTROL_64_BIT.to_le_bytes());
        let writable = [CONTROL_ENABLE as u8, 0, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        configuration.add_capability(CAPABILITY_ID, &body, &writable);
    }

    /// Sets where messages go. Once.
    pub fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        let _ = self.interrupts.set(interrupts);
    }

    /// Follows the capability's registers.
    pub fn config_changed(&self, configuration: &Configuration) {
        let Some(at) = configuration.capability(CAPABILITY_ID) else { return };
        let enabled = configuration.u16(at + CONTROL) & CONTROL_ENABLE != 0;
        let address =
            u64::from(configuration.u32(at + ADDRESS)) | u64::from(configuration.u32(at + UPPER_ADDRESS)) << 32;
        let data = configuration.u16(at + DATA).into();
        *self.message.lock() = enabled.then_some(Message { address, data });
    }

    /// Whether interrupts go out as messages; otherwise the function uses INTx.
    pub fn enabled(&self) -> bool {
        self.message.lock().is_some()
    }

    /// Sends the message; nothing happens while they are disabled.
    pub fn signal(&self) {
        let message = *self.message.lock();
        if let (Some(message), Some(interrupts)) = (message, self.interrupts.get()) {
            interrupts.signal_msi(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Identity;

    #[derive(Default)]
    struct Messages(Mutex<Vec<Message>>);

    impl Interrupts for Messages {
        fn set_line(&self, _: u32, _: bool) {}
        fn signal_msi(&self, message: Message) {
            self.0.lock().push(message);
        }
    }

    #[test]
    fn the_message_is_sent_as_the_guest_wrote_it_while_it_is_enabled() {
        let identity = Identity { vendor: 1, device: 2, revision: 0, class: [0; 3], subsystem_vendor: 0, subsystem: 0 };
        let mut configuration = Configuration::new(identity);
        let (msi, messages) = (Msi::new(), Arc::new(Messages::default()));
        msi.connect(messages.clone());
        msi.add_capability(&mut configuration);
        let at = configuration.capability(CAPABILITY_ID).unwrap();
        configuration.write(at, &[0xFF; 14]);
        // One message, 64 bits, and of the address the two lowest bits stay clear.
        assert_eq!((configuration.u16(at + 2), configuration.u32(at + 4)), (0x0081, 0xFFFF_FFFC));
        configuration.write(at + 4, &0x1_FEE0_1004_u64.to_le_bytes());
        configuration.write(at + 12, &0x4041u16.to_le_bytes());
        msi.config_changed(&configuration);
        msi.signal();
        assert_eq!(*messages.0.lock(), [Message { address: 0x1_FEE0_1004, data: 0x4041 }]);
        configuration.write(at + 2, &[0]);
        msi.config_changed(&configuration);
        msi.signal();
        assert!(!msi.enabled() && messages.0.lock().len() == 1);
    }
}
