use crate::errors::core_error;
use crate::machine::Machine;
use pyo3::PyResult;
use std::sync::Arc;
use virtio::{VirtioDevice, VirtioPci};

/// Puts a virtio device into a PCI slot.
pub fn add(machine: &Machine, slot: u8, device: Arc<dyn VirtioDevice>) -> PyResult<()> {
    let board = machine.board();
    let vm = Some(Arc::downgrade(board.vm()));
    let function = VirtioPci::with_interfaces(device, board.memory().clone(), vm, machine.interfaces())
        .map_err(|error| core_error(format!("cannot make a virtio device: {error}")))?;
    machine.chipset()?.pci().add(slot, 0, function).map_err(core_error)
}
