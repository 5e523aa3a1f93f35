//! A whole machine's devices, saved and loaded into a machine made anew.
#![allow(missing_docs)]

use block::{Medium, RawFile};
use board::{Buses, Chipset, CmosConfig, Machine, Terminal, Uart};
use hv::{Bus, Error, GuestMemory, Interrupts, IoAddress, LocalApic, Msi, Region, Vcpu, Vm};
use net::NullBackend;
use proptest::prelude::*;
use scsi::{Cdrom, DirectAccess, Interface};
use std::os::fd::RawFd;
use std::sync::Arc;
use virtio::{
    Balloon, BalloonOptions, Blk, BlkOptions, Console, Net, NetOptions, Port, Rng, Scsi, ScsiOptions, Target,
    VirtioDevice, VirtioPci,
};

const RAM: u64 = 4 << 20;
const COM1: u16 = 0x3F8;

/// An accelerator without interrupt controllers of its own; no processor runs here.
struct NoProcessors;

impl Vm for NoProcessors {
    fn accelerator(&self) -> &'static str {
        "none"
    }
    fn interrupts(&self) -> Option<Arc<dyn Interrupts>> {
        None
    }
    fn create_vcpu(&self, _id: u32, _lapic: Option<Arc<dyn LocalApic>>) -> Result<Box<dyn Vcpu>, Error> {
        Err(Error::Unavailable("there are no processors".into()))
    }
    fn register_ioeventfd(&self, _address: IoAddress, _size: u8, _eventfd: RawFd) -> Result<bool, Error> {
        Ok(false)
    }
    fn unregister_ioeventfd(&self, _address: IoAddress, _size: u8, _eventfd: RawFd) -> Result<(), Error> {
        Ok(())
    }
    fn register_irqfd(&self, _eventfd: RawFd, _msi: Msi) -> Result<bool, Error> {
        Ok(false)
    }
}

/// What `wirt run` puts into a machine, without processors. RAM is shared by both machines, as after a copy.
struct Board {
    buses: Arc<Buses>,
    chipset: Chipset,
    _machine: Arc<Machine>,
}

impl Board {
    fn new(memory: &Arc<GuestMemory>) -> Self {
        let vm: Arc<dyn Vm> = Arc::new(NoProcessors);
        let machine = Machine::new(memory.clone(), Arc::new(Buses::new()), vm.clone());
        let buses = machine.buses().clone();
        let cmos = CmosConfig { memory_below_4g: RAM, memory_above_4g: 0, cpus: 2 };
        let chipset = Chipset::new(&vm, memory, &buses, &cmos, None).unwrap();
        let uart = Uart::new("COM1", chipset.lines().line(4).unwrap(), Terminal::new(4096));
        buses.insert_port(COM1..=COM1 + 7, uart).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let disk = Arc::new(RawFile::new(file, false).unwrap());
        let options = NetOptions { mac: [2, 0, 0, 0, 0, 1], mtu: None };
        let port = Port { name: "org.example.port".into(), terminal: Terminal::new(4096) };
        let targets = vec![
            Target { id: 4, unit: Box::new(DirectAccess::new(disk.clone(), String::new()).unwrap()) },
            Target { id: 9, unit: Box::new(Cdrom::new(Medium::new(None), String::new(), Interface::Scsi)) },
        ];
        let devices: [Arc<dyn VirtioDevice>; 6] = [
            Arc::new(Rng::new("rng0")),
            Arc::new(Balloon::new("balloon0", memory.clone(), RAM, BalloonOptions::default())),
            Console::with_ports("console0", Terminal::new(4096), vec![port]).unwrap(),
            Arc::new(Net::new("net0", options, Arc::new(NullBackend))),
            Arc::new(Scsi::new("scsi0", targets, ScsiOptions::default()).unwrap()),
            Arc::new(Blk::new("disk0", disk, BlkOptions::default()).unwrap()),
        ];
        for (slot, device) in (2..).zip(devices) {
            let function = VirtioPci::new(device, memory.clone(), None).unwrap();
            chipset.pci().add(slot, 0, function).unwrap();
        }
        chipset.pci().assign_resources().unwrap();
        Board { buses, chipset, _machine: machine }
    }

    fn save(&self) -> Vec<(String, Vec<u8>)> {
        self.chipset.pci().pause();
        self.buses.devices().iter().map(|device| (device.name().to_owned(), device.save())).collect()
    }

    fn load(&self, states: &[(String, Vec<u8>)]) {
        self.chipset.pci().pause();
        for device in self.buses.devices() {
            // Ranges of PCI functions come and go with their registers, which the PCI bus has.
            if let Some((_, state)) = states.iter().find(|(name, _)| name == device.name()) {
                device.load(state).unwrap();
            }
        }
    }
}

fn memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::new(&[Region { address: 0, size: RAM, offset: 0, readonly: false }]).unwrap())
}

/// Devices whose state goes on with the clock: of these it is compared that a saved state is taken, and their own
/// tests compare the values.
const TICKING: [&str; 3] = ["cmos", "pit", "pm"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a guest wrote to whichever registers: a new machine that has loaded the state has the same state, and
    /// its devices answer at the same places.
    #[test]
    fn the_state_of_all_devices_survives(
        writes in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>(), 0u8..3, any::<u32>()), 0..120),
        configuration in prop::collection::vec((1u32..6, 0u32..64, any::<u32>()), 0..12),
    ) {
        let memory = memory();
        let one = Board::new(&memory);
        for (slot, register, value) in configuration {
            one.buses.pio_write(0xCF8, 4, 1 << 31 | slot << 11 | register << 2);
            one.buses.pio_write(0xCFC, 4, value);
        }
        for (index, offset, size, value) in writes {
            let map = one.buses.map();
            let (bus, first, last, _) = &map[index.index(map.len())];
            let address = first + u64::from(offset) % (last - first + 1);
            match *bus {
                "port" => one.buses.pio_write(address as u16, 1 << size, value),
                _ => one.buses.mmio_write(address, &value.to_le_bytes()[..1 << size]),
            }
        }
        let saved = one.save();
        let other = Board::new(&memory);
        other.load(&saved);
        prop_assert_eq!(other.buses.map(), one.buses.map());
        for ((name, before), (_, after)) in saved.iter().zip(other.save()) {
            prop_assert!(*before == after || TICKING.contains(&name.as_str()), "{}: {:x?} {:x?}", name, before, after);
        }
    }
}

#[test]
fn a_state_cut_short_is_refused_by_whoever_has_one() {
    let board = Board::new(&memory());
    for (name, state) in board.save().into_iter().filter(|(_, state)| !state.is_empty()) {
        let device = board.buses.devices().into_iter().find(|device| device.name() == name).unwrap();
        assert!(device.load(&state[..state.len() - 1]).is_err(), "{name}");
        assert!(device.load(&state).is_ok(), "{name}");
    }
}
