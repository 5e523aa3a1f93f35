use board::{Chipset, Machine, Terminal, TerminalDevice};
use std::sync::{Arc, Weak};
use virtio::{Console, VirtioDevice, VirtioPci};

/// Puts a virtio device into a PCI slot.
pub fn add(machine: &Machine, chipset: &Chipset, slot: u8, device: Arc<dyn VirtioDevice>) -> Result<(), String> {
    add_with_rom(machine, chipset, slot, device, Vec::new())
}

/// As [`add`], with an expansion ROM.
pub fn add_with_rom(
    machine: &Machine,
    chipset: &Chipset,
    slot: u8,
    device: Arc<dyn VirtioDevice>,
    rom: Vec<u8>,
) -> Result<(), String> {
    let function = VirtioPci::with_rom(device, machine.memory().clone(), Some(Arc::downgrade(machine.vm())), rom)
        .map_err(|error| format!("cannot make a virtio device: {error}"))?;
    chipset.pci().add(slot, 0, function).map_err(|error| error.to_string())
}

/// A virtio console whose far end is a terminal. Input beyond what both queues hold (64 KiB each) is lost.
pub fn console(terminal: &Arc<Terminal>) -> Arc<Console> {
    Arc::new_cyclic(|console: &Weak<Console>| {
        let far_end = Arc::new(FarEnd { terminal: terminal.clone(), console: console.clone() });
        let device: Weak<FarEnd> = Arc::downgrade(&far_end);
        terminal.connect(device);
        Console::new("console0", Box::new(move |data| _ = far_end.terminal.output(data)))
    })
}

/// Owned by the console's sink.
struct FarEnd {
    terminal: Arc<Terminal>,
    console: Weak<Console>,
}

impl TerminalDevice for FarEnd {
    fn input_ready(&self) {
        let Some(console) = self.console.upgrade() else { return };
        let mut data = [0; 256];
        loop {
            match self.terminal.take_input(&mut data) {
                0 => return,
                count => _ = console.input(&data[..count]),
            }
        }
    }

    fn output_ready(&self) {}
}
