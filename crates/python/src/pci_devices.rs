use crate::errors::core_error;
use crate::machine::Machine;
use pyo3::PyResult;
use std::sync::Arc;
use virtio::{PciOptions, VirtioDevice, VirtioPci};

/// Puts a virtio device into a PCI slot.
pub fn add(machine: &Machine, slot: u8, device: Arc<dyn VirtioDevice>) -> PyResult<()> {
    add_with_rom(machine, slot, device, Vec::new())
}

/// As [`add`], with an expansion ROM.
pub fn add_with_rom(machine: &Machine, slot: u8, device: Arc<dyn VirtioDevice>, rom: Vec<u8>) -> PyResult<()> {
    let board = machine.board();
    let vm = Some(Arc::downgrade(board.vm()));
    let options = PciOptions { interfaces: machine.interfaces(), rom };
    let function = VirtioPci::with_options(device, board.memory().clone(), vm, options)
        .map_err(|error| core_error(format!("cannot make a virtio device: {error}")))?;
    machine.chipset()?.pci().add(slot, 0, function).map_err(core_error)
}
