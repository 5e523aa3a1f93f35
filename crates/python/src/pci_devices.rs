use board::{Chipset, Machine};
use std::sync::Arc;
use virtio::{VirtioDevice, VirtioPci};

/// Puts a virtio device into a PCI slot.
pub fn add(machine: &Machine, chipset: &Chipset, slot: u8, device: Arc<dyn VirtioDevice>) -> Result<(), String> {
    let function = VirtioPci::new(device, machine.memory().clone(), Some(Arc::downgrade(machine.vm())))
        .map_err(|error| format!("cannot make a virtio device: {error}"))?;
    chipset.pci().add(slot, 0, function).map_err(|error| error.to_string())
}
