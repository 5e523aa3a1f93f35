//! The legacy interface, as drivers from before virtio 1.0 use it.

mod driver;

use block::RawFile;
use driver::{DATA, Driver, READ, Ring, WRITE, eventually};
use hv::{Bus, Error, GuestMemory, Interrupts, IoAddress, LocalApic, Msi, Vcpu, Vm};
use net::NullBackend;
use proptest::prelude::*;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use virtio::{
    Balloon, BalloonOptions, Blk, BlkOptions, Interfaces, Net, NetOptions, PciOptions, Rng, VirtioDevice, VirtioPci,
    feature, layout, status,
};

const DEVICE_FEATURES: u16 = 0;
const DRIVER_FEATURES: u16 = 4;
const QUEUE_ADDRESS: u16 = 8;
const QUEUE_SIZE: u16 = 12;
const QUEUE_SELECT: u16 = 14;
const QUEUE_NOTIFY: u16 = 16;
const DEVICE_STATUS: u16 = 18;
const ISR_STATUS: u16 = 19;
const CONFIG_VECTOR: u16 = 20;
const QUEUE_VECTOR: u16 = 22;
const CONFIG: u16 = 20;

const FLUSH: u32 = 1 << 9;
const NO_VECTOR: u32 = 0xFFFF;
/// Guest page number of the first queue; the others follow at 64 KiB each.
const QUEUES: u32 = 0x10;

/// A machine whose driver uses ports; queues are worked by the modern driver's helpers.
struct Legacy {
    driver: Driver,
    ports: u16,
}

impl Legacy {
    fn new(device: Arc<dyn VirtioDevice>) -> Self {
        Self::around(Driver::new(device))
    }

    fn around(driver: Driver) -> Self {
        let ports = driver.config(0x10, 4) as u16 & !3;
        Legacy { driver, ports }
    }

    fn read(&self, register: u16, size: u8) -> u32 {
        self.driver.buses.pio_read(self.ports + register, size)
    }

    fn write(&self, register: u16, size: u8, value: u32) {
        self.driver.buses.pio_write(self.ports + register, size, value);
    }

    /// Puts queue `index` where a legacy driver does, at its one size.
    fn place(&mut self, index: u16) -> Ring {
        self.write(QUEUE_SELECT, 2, index.into());
        let size = self.read(QUEUE_SIZE, 2) as u16;
        let page = QUEUES * u32::from(index + 1);
        let descriptors = u64::from(page) * 4096;
        let avail = descriptors + 16 * u64::from(size);
        let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4096);
        self.driver.memory.write(descriptors, &[0; 0x8000]).unwrap();
        self.write(QUEUE_ADDRESS, 4, page);
        Ring { size, descriptors, avail, used, next_descriptor: 0, avail_index: 0, used_index: 0 }
    }

    /// Everything up to DRIVER_OK, in the order of Linux.
    fn start(&mut self, features: u32) {
        self.write(DEVICE_STATUS, 1, 0);
        assert_eq!(self.read(DEVICE_STATUS, 1), 0);
        self.write(DEVICE_STATUS, 1, 1);
        self.write(DEVICE_STATUS, 1, 3);
        self.write(DRIVER_FEATURES, 4, features);
        self.place_all();
        self.write(DEVICE_STATUS, 1, 7);
        assert_eq!(self.read(DEVICE_STATUS, 1), 7);
    }

    fn place_all(&mut self) {
        self.driver.queues.clear();
        let queues = (0..).take_while(|index| {
            self.write(QUEUE_SELECT, 2, *index);
            self.read(QUEUE_SIZE, 2) != 0
        });
        for index in 0..queues.count() as u16 {
            let ring = self.place(index);
            self.driver.queues.push(ring);
        }
    }

    fn submit(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.driver.lay(queue, buffers);
        self.driver.publish(queue, head);
        self.write(QUEUE_NOTIFY, 2, queue as u32);
        head
    }
}

fn disk() -> (std::fs::File, Arc<Blk>) {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..1 << 20).map(|at| (at / 512) as u8).collect();
    file.write_all_at(&content, 0).unwrap();
    let raw = Arc::new(RawFile::new(file.try_clone().unwrap(), false).unwrap());
    (file, Arc::new(Blk::new("disk0", raw, BlkOptions::default()).unwrap()))
}

fn read_request(legacy: &mut Legacy, sector: u64) -> Vec<u8> {
    let header = [&[0; 8][..], &sector.to_le_bytes()].concat();
    legacy.driver.memory.write(DATA, &header).unwrap();
    let head = legacy.submit(0, &[(DATA, 16, READ), (0x20_0000, 512, WRITE), (DATA + 64, 1, WRITE)]);
    assert_eq!(legacy.driver.wait(0), (head, 513));
    legacy.driver.bytes(0x20_0000, 512)
}

#[test]
fn identities_say_which_interfaces_there_are() {
    let ids = |interfaces| {
        let (_, disk) = disk();
        let function =
            VirtioPci::with_options(disk, driver::memory(), None, PciOptions { interfaces, ..PciOptions::default() })
                .unwrap();
        let configuration = board::pci::PciFunction::configuration(&*function);
        let words = [0x02, 0x2C, 0x2E].map(|register| configuration.u16(register));
        (words, configuration.u8(0x08), configuration.bar(0).is_some(), configuration.capability(9).is_some())
    };
    assert_eq!(ids(Interfaces::Transitional), ([0x1001, 0x1AF4, 2], 0, true, true));
    assert_eq!(ids(Interfaces::Legacy), ([0x1001, 0x1AF4, 2], 0, true, false));
    assert_eq!(ids(Interfaces::Modern), ([0x1042, 0x1AF4, 0x1100], 1, false, true));
}

#[test]
fn a_legacy_driver_reads_a_disk() {
    let (_, disk) = disk();
    let mut legacy = Legacy::new(disk);
    let offered = legacy.read(DEVICE_FEATURES, 4);
    assert_eq!(offered & FLUSH, FLUSH);
    assert_eq!(offered >> 27, 1 | 1 << 1 | 1 << 2, "any layout, indirect descriptors, event indices");
    assert_eq!(offered & (1 << 0 | 1 << 7), 0, "no barriers, no SCSI requests");
    legacy.start(FLUSH);
    legacy.write(QUEUE_SELECT, 2, 1);
    assert_eq!((legacy.read(QUEUE_SIZE, 2), legacy.read(QUEUE_ADDRESS, 4)), (0, 0), "a queue that does not exist");
    legacy.write(QUEUE_SELECT, 2, 0);
    assert_eq!((legacy.read(QUEUE_SIZE, 2), legacy.read(QUEUE_ADDRESS, 4)), (256, QUEUES));
    // The disk's size, in sectors.
    let bytes: Vec<u32> = (0..8).map(|at| legacy.read(CONFIG + at, 1)).collect();
    assert_eq!((bytes, legacy.read(CONFIG, 4)), (vec![0, 8, 0, 0, 0, 0, 0, 0], 2048));
    assert_eq!(read_request(&mut legacy, 5), vec![5; 512]);
    // Without MSI-X the pin is asserted until ISR status is read.
    let line = legacy.driver.config(0x3C, 1) as usize;
    eventually("the line", || legacy.driver.controller.lines.lock().unwrap()[line]);
    assert_eq!((legacy.read(ISR_STATUS, 1), legacy.read(ISR_STATUS, 1)), (1, 0));
    assert!(!legacy.driver.controller.lines.lock().unwrap()[line]);
}

#[test]
fn vectors_stand_where_configuration_was_while_msix_is_on() {
    let (_, disk) = disk();
    let mut legacy = Legacy::new(disk);
    legacy.driver.enable_msix();
    legacy.driver.write(0x14, 1, 0);
    legacy.start(FLUSH);
    assert_eq!((legacy.read(CONFIG_VECTOR, 2), legacy.read(CONFIG + 4, 4)), (NO_VECTOR, 2048));
    legacy.write(QUEUE_SELECT, 2, 0);
    for (register, vector, found) in [(CONFIG_VECTOR, 0, 0), (QUEUE_VECTOR, 77, NO_VECTOR), (QUEUE_VECTOR, 1, 1)] {
        legacy.write(register, 2, vector);
        assert_eq!(legacy.read(register, 2), found);
    }
    read_request(&mut legacy, 0);
    eventually("a message", || legacy.driver.messages(1) == 1);
}

#[test]
fn a_driver_is_served_before_driver_ok_and_may_take_features_later() {
    let (_, disk) = disk();
    let mut legacy = Legacy::new(disk);
    // Nor does it set the bus master bit, as Linux before 2.6.34.
    legacy.driver.set_master(false);
    for value in [0, 1, 3] {
        legacy.write(DEVICE_STATUS, 1, value);
    }
    legacy.place_all();
    assert_eq!(read_request(&mut legacy, 7), vec![7; 512]);
    legacy.write(DRIVER_FEATURES, 4, FLUSH);
    legacy.write(DEVICE_STATUS, 1, 7);
    assert_eq!(read_request(&mut legacy, 8), vec![8; 512]);
    // A bit that is set and cleared counts.
    legacy.driver.set_master(true);
    assert_eq!(read_request(&mut legacy, 9), vec![9; 512]);
    legacy.driver.set_master(false);
    legacy.submit(0, &[(DATA, 16, READ), (0x30_0000, 512, WRITE), (DATA + 64, 1, WRITE)]);
    assert_eq!(legacy.driver.used(0), None);
    legacy.driver.set_master(true);
    assert_eq!(legacy.driver.wait(0).1, 513);
}

#[test]
fn one_queue_alone_can_be_given_up_and_set_up_again() {
    let options = NetOptions { mac: [2, 0, 0, 0, 0, 1], mtu: None };
    let mut legacy = Legacy::new(Arc::new(Net::new("net0", options, Arc::new(NullBackend))));
    legacy.start(0);
    legacy.submit(1, &[(DATA, 100, READ)]);
    legacy.driver.wait(1);
    legacy.submit(1, &[(DATA, 100, READ)]);
    legacy.driver.wait(1);
    legacy.write(QUEUE_SELECT, 2, 2);
    legacy.write(QUEUE_ADDRESS, 4, 0);
    assert_eq!(legacy.read(QUEUE_ADDRESS, 4), 0);
    // The others go on where they were, and the one begins anew.
    legacy.submit(1, &[(DATA, 100, READ)]);
    legacy.driver.wait(1);
    legacy.driver.queues[2] = legacy.place(2);
    legacy.submit(2, &[(DATA, 2, READ), (DATA + 64, 1, WRITE)]);
    assert_eq!(legacy.driver.wait(2).1, 1);
}

#[test]
fn features_that_are_not_offered_are_not_taken() {
    let legacy = Legacy::new(Arc::new(Rng::new("rng0")));
    legacy.write(DRIVER_FEATURES, 4, u32::MAX);
    let taken = feature::ANY_LAYOUT | feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX;
    assert_eq!(u64::from(legacy.read(DRIVER_FEATURES, 4)), taken);
}

#[test]
fn while_one_interface_is_used_the_other_changes_nothing() {
    let mut legacy = Legacy::new(Arc::new(Rng::new("rng0")));
    legacy.driver.start(0);
    legacy.write(DRIVER_FEATURES, 4, 0);
    legacy.write(QUEUE_SELECT, 2, 0);
    legacy.write(QUEUE_ADDRESS, 4, 0x700);
    legacy.submit(0, &[(DATA, 8, WRITE)]);
    assert_eq!(legacy.driver.wait(0).1, 8);

    legacy.start(0);
    for (register, size, value) in [(0x08, 4, 1), (0x0C, 4, 1), (0x20, 8, 0x70_0000), (0x1C, 2, 1), (0x14, 1, 0x0F)] {
        legacy.driver.write(register, size, value);
    }
    assert_eq!(legacy.read(DEVICE_STATUS, 1), 7);
    legacy.submit(0, &[(DATA, 8, WRITE)]);
    assert_eq!(legacy.driver.wait(0).1, 8);
    // A reset through either leaves the choice open.
    legacy.driver.write(0x14, 1, 0);
    assert_eq!(legacy.read(DEVICE_STATUS, 1), 0);
    legacy.driver.start(0);
}

#[test]
fn queues_outside_ram_need_a_reset_and_one_repairs_it() {
    let mut legacy = Legacy::new(Arc::new(Rng::new("rng0")));
    for page in [0xFFFF_FFFF, (driver::RAM >> 12) as u32 - 1, (driver::ROM >> 12) as u32, 0xFEE00] {
        legacy.start(0);
        legacy.write(QUEUE_SELECT, 2, 0);
        legacy.write(QUEUE_ADDRESS, 4, page);
        legacy.write(QUEUE_NOTIFY, 2, 0);
        legacy.driver.expect_needs_reset("a queue outside of RAM");
        // Others are as bad for a driver that begins with them.
        legacy.write(DEVICE_STATUS, 1, 0);
        legacy.write(QUEUE_ADDRESS, 4, page);
        legacy.write(DEVICE_STATUS, 1, 7);
        legacy.driver.expect_needs_reset("a queue outside of RAM");
    }
    legacy.start(0);
    legacy.submit(0, &[(DATA, 8, WRITE)]);
    assert_eq!(legacy.driver.wait(0).1, 8);
}

#[test]
fn headers_of_frames_are_as_long_as_was_agreed() {
    struct Loop(Mutex<Vec<Vec<u8>>>);
    impl net::Backend for Loop {
        fn send(&self, frame: &[u8]) {
            self.0.lock().unwrap().push(frame.to_vec());
        }
        fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
            let frame = self.0.lock().unwrap().pop()?;
            buffer[..frame.len()].copy_from_slice(&frame);
            Some(frame.len())
        }
    }
    for (features, header) in [(0, 10), (1 << 15, 12)] {
        let options = NetOptions { mac: [2, 0, 0, 0, 0, 1], mtu: None };
        let net = Net::new("net0", options, Arc::new(Loop(Mutex::default())));
        let mut legacy = Legacy::new(Arc::new(net));
        legacy.start(features);
        legacy.driver.memory.write(DATA + u64::from(header), b"a frame of some bytes").unwrap();
        legacy.submit(1, &[(DATA, header + 21, READ)]);
        legacy.driver.wait(1);
        legacy.submit(0, &[(0x20_0000, 100, WRITE)]);
        assert_eq!(legacy.driver.wait(0).1, header + 21);
        assert_eq!(legacy.driver.bytes(0x20_0000 + u64::from(header), 21), b"a frame of some bytes");
        // Such a driver sets the card's address in the configuration.
        for (at, byte) in (0..).zip([2, 9, 8, 7, 6, 5]) {
            legacy.write(CONFIG + at, 1, byte);
        }
        assert_eq!((legacy.read(CONFIG, 4), legacy.read(CONFIG + 4, 2)), (0x0708_0902, 0x0506));
        legacy.write(DEVICE_STATUS, 1, 0);
        assert_eq!(legacy.read(CONFIG, 4), 2);
    }
}

#[test]
fn a_snapshot_goes_on_before_and_after_driver_ok() {
    for ready in [false, true] {
        let mut legacy = Legacy::new(Arc::new(Rng::new("rng0")));
        legacy.write(DEVICE_STATUS, 1, 3);
        legacy.place_all();
        legacy.submit(0, &[(DATA, 8, WRITE)]);
        legacy.driver.wait(0);
        if ready {
            legacy.write(DEVICE_STATUS, 1, 7);
        }
        let state = legacy.driver.snapshot();
        let other = Driver::with_memory(Arc::new(Rng::new("rng0")), legacy.driver.memory.clone());
        other.pci.pause();
        board::Device::load(&*other.pci, &state).unwrap();
        other.pci.resume();
        let mut other = Legacy::around(Driver { queues: legacy.driver.queues.clone(), ..other });
        other.submit(0, &[(DATA, 16, WRITE)]);
        assert_eq!(other.driver.wait(0).1, 16);
    }
}

#[test]
fn damaged_snapshots_are_refused_or_harmless() {
    let mut legacy = Legacy::new(Arc::new(Rng::new("rng0")));
    legacy.start(0);
    let state = legacy.driver.snapshot();
    let load = |state: &[u8]| board::Device::load(&*legacy.driver.pci, state);
    for at in 0..state.len() {
        assert!(load(&state[..at]).is_err(), "{at} bytes");
        for flip in [1, 2, 0xFF] {
            let mut damaged = state.clone();
            damaged[at] ^= flip;
            // Some bytes may have any value; the machine must stay usable with all of them.
            let _ = load(&damaged);
            legacy.driver.pci.resume();
            legacy.driver.pci.pause();
        }
    }
    load(&state).unwrap();
}

fn kinds(memory: &Arc<GuestMemory>) -> Vec<Arc<dyn VirtioDevice>> {
    let options = NetOptions { mac: [2, 0, 0, 0, 0, 1], mtu: None };
    vec![
        disk().1,
        Arc::new(Net::new("net0", options, Arc::new(NullBackend))),
        Arc::new(Balloon::new("balloon0", memory.clone(), driver::RAM, BalloonOptions::default())),
    ]
}

/// An accelerator that notes where it is to signal notifications.
#[derive(Default)]
struct Signals(Mutex<Vec<IoAddress>>);

impl Vm for Signals {
    fn accelerator(&self) -> &'static str {
        "none"
    }
    fn interrupts(&self) -> Option<Arc<dyn Interrupts>> {
        None
    }
    fn create_vcpu(&self, _id: u32, _lapic: Option<Arc<dyn LocalApic>>) -> Result<Box<dyn Vcpu>, Error> {
        Err(Error::Unavailable("there are no processors".into()))
    }
    fn register_ioeventfd(&self, address: IoAddress, _size: u8, _eventfd: RawFd) -> Result<bool, Error> {
        let mut registered = self.0.lock().unwrap();
        assert!(!registered.contains(&address));
        registered.push(address);
        Ok(true)
    }
    fn unregister_ioeventfd(&self, address: IoAddress, _size: u8, _eventfd: RawFd) -> Result<(), Error> {
        let mut registered = self.0.lock().unwrap();
        let at = registered.iter().position(|other| *other == address).unwrap();
        registered.remove(at);
        Ok(())
    }
    fn register_irqfd(&self, _eventfd: RawFd, _msi: Msi) -> Result<bool, Error> {
        Ok(false)
    }
}

#[test]
fn notifications_are_signalled_where_a_driver_is_served() {
    let signals = Arc::new(Signals::default());
    let vm: Arc<dyn Vm> = signals.clone();
    let memory = driver::memory();
    let function = VirtioPci::new(Arc::new(Rng::new("rng0")), memory.clone(), Some(Arc::downgrade(&vm))).unwrap();
    let mut legacy = Legacy::around(Driver::with_function(function, memory));
    let registered = || signals.0.lock().unwrap().clone();
    let modern = IoAddress::Mmio(legacy.driver.base + layout::NOTIFY);
    let port = |legacy: &Legacy| IoAddress::Port(legacy.ports + QUEUE_NOTIFY);
    assert_eq!(registered(), [modern]);
    // The first notification may begin the service, so it has to be seen.
    legacy.write(DEVICE_STATUS, 1, 3);
    legacy.place_all();
    assert_eq!(registered(), [modern]);
    legacy.submit(0, &[(DATA, 8, WRITE)]);
    assert_eq!(registered(), [modern, port(&legacy)]);
    legacy.driver.set_config(0x10, 4, 0xD000);
    legacy.ports = 0xD000;
    assert_eq!(registered(), [modern, IoAddress::Port(0xD000 + QUEUE_NOTIFY)]);
    legacy.driver.write(0x14, 1, 0);
    assert_eq!(registered(), [modern]);
    legacy.start(0);
    assert_eq!(registered(), [modern, port(&legacy)]);
    let state = legacy.driver.snapshot();
    board::Device::reset(&*legacy.driver.pci);
    assert!(registered().is_empty());
    board::Device::load(&*legacy.driver.pci, &state).unwrap();
    assert_eq!(registered(), [port(&legacy), modern]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random accesses through both interfaces at once break nothing: afterwards a driver of either kind can reset the
    /// device and use it.
    #[test]
    fn random_accesses_break_nothing(
        accesses in prop::collection::vec((any::<u16>(), 0u32..3, any::<u32>(), 0u8..8), 0..300)
    ) {
        let memory = driver::memory();
        for device in kinds(&memory) {
            let mut legacy = Legacy::around(Driver::with_memory(device, memory.clone()));
            legacy.driver.enable_msix();
            legacy.start(0);
            let ports = legacy.driver.buses.map().iter().filter(|(bus, ..)| *bus == "port").count();
            assert!(ports > 1);
            for (register, size, value, kind) in &accesses {
                let size = 1 << size;
                // Small values are likelier to mean something, and pages in RAM to be taken.
                let value = match value % 3 { 0 => value & 0xF, 1 => value & 0xFFF, _ => *value };
                match kind {
                    0 => _ = legacy.read(register % 0x80, size),
                    1 => legacy.driver.write(u64::from(register % 0x40), size.into(), value.into()),
                    2 => legacy.driver.write(layout::NOTIFY, 2, 0),
                    3 => {
                        let at = legacy.driver.capability(0x11, None);
                        legacy.driver.set_config(at + 2, 2, value << 14 & 0xC000);
                    }
                    4 => legacy.write(DEVICE_STATUS, 1, value & 0x8F),
                    5 => legacy.write(register % 0x80, size, value),
                    _ => legacy.write(register % 0x18, size, value),
                }
            }
            let at = legacy.driver.capability(0x11, None);
            legacy.driver.set_config(at + 2, 2, 0);
            legacy.driver.set_master(true);
            legacy.start(0);
            let last = legacy.driver.queues.len() - 1;
            legacy.driver.memory.write(DATA, &[0; 64]).unwrap();
            legacy.submit(last, &[(DATA, 16, READ), (DATA + 64, 513, WRITE)]);
            legacy.driver.wait(last);
            legacy.driver.start(0);
            legacy.driver.submit(last, &[(DATA, 16, READ), (DATA + 64, 513, WRITE)]);
            legacy.driver.wait(last);
            assert_eq!(legacy.driver.status() & status::DEVICE_NEEDS_RESET, 0);
        }
    }
}
