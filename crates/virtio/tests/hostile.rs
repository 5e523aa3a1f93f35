//! What hostile and careless drivers do to any virtio device.

mod driver;

use block::{Medium, RawFile};
use board::Terminal;
use driver::{DATA, DEVICE_WRITES, Driver, INDIRECT, NEXT, RAM, READ, ROM, WRITE, eventually};
use net::{Backend, NullBackend};
use proptest::prelude::*;
use scsi::{Cdrom, DirectAccess, Interface};
use std::sync::{Arc, Mutex};
use virtio::{
    Balloon, BalloonOptions, Blk, BlkOptions, Console, Net, NetOptions, Port, Rng, Scsi, ScsiOptions, Target,
    VirtioDevice, feature, layout, status,
};

fn started(features: u64) -> Driver {
    let mut driver = Driver::new(Arc::new(Rng::new("rng0")));
    driver.start(features);
    driver
}

fn all_kinds() -> Vec<Arc<dyn VirtioDevice>> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let disk = Arc::new(RawFile::new(file, false).unwrap());
    let terminals = [Terminal::new(4096), Terminal::new(4096)];
    for terminal in &terminals {
        terminal.send(&[0x55; 1000], None);
    }
    let [console, agent] = terminals;
    let port = Port { name: "org.example.agent".into(), terminal: agent };
    let memory = driver::memory();
    let cdrom = Cdrom::new(Medium::new(Some(disk.clone())), String::new(), Interface::Scsi);
    let targets = vec![
        Target { id: 0, unit: Box::new(DirectAccess::new(disk.clone(), String::new()).unwrap()) },
        Target { id: 1, unit: Box::new(cdrom) },
    ];
    vec![
        Arc::new(Scsi::new("scsi0", targets, ScsiOptions::default()).unwrap()),
        Arc::new(Blk::new("disk0", disk, BlkOptions::default()).unwrap()),
        Arc::new(Net::new("net0", NetOptions { mac: [2, 0, 0, 0, 0, 1], mtu: None }, Arc::new(NullBackend))),
        Arc::new(Rng::new("rng0")),
        Console::new("console0", console.clone()),
        Console::with_ports("console1", console, vec![port]).unwrap(),
        Arc::new(Balloon::new("balloon0", memory, driver::RAM, BalloonOptions::default())),
    ]
}

/// Address, size, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// Lays descriptors from index 0 on and makes the head available.
fn offer(driver: &mut Driver, descriptors: &[Descriptor], head: u16) {
    for (index, (address, size, flags, next)) in (0..).zip(descriptors) {
        driver.set_descriptor(driver.queues[0].descriptors + 16 * index, *address, *size, *flags, *next);
    }
    driver.publish(0, head);
    driver.notify(0);
}

#[test]
fn broken_chains_need_a_reset_and_one_repairs_it() {
    let both = DEVICE_WRITES | NEXT;
    let table = 0x40_0000u64;
    let bar = 0xC000_0000u64;
    let cases: &[(&str, &[Descriptor], u16)] = &[
        ("a chain that loops on itself", &[(DATA, 1, both, 0)], 0),
        ("a chain that loops", &[(DATA, 1, both, 1), (DATA, 1, both, 0)], 0),
        ("a head beyond the table", &[], 64),
        ("a next beyond the table", &[(DATA, 1, both, 0xFFFF)], 0),
        ("a buffer beyond RAM", &[(RAM - 1, 2, DEVICE_WRITES, 0)], 0),
        ("a buffer at the end of addresses", &[(u64::MAX, 2, DEVICE_WRITES, 0)], 0),
        ("a buffer in the device's own registers", &[(bar, 16, DEVICE_WRITES, 0)], 0),
        ("a buffer in the local APIC", &[(0xFEE0_0000, 4, DEVICE_WRITES, 0)], 0),
        ("a buffer in ROM", &[(ROM, 16, DEVICE_WRITES, 0)], 0),
        ("a readable buffer after a writable one", &[(DATA, 1, both, 1), (DATA, 1, 0, 0)], 0),
        ("an indirect table of odd size", &[(table, 17, INDIRECT, 0)], 0),
        ("an empty indirect table", &[(table, 0, INDIRECT, 0)], 0),
        ("an indirect table with a next", &[(table, 16, INDIRECT | NEXT, 1)], 0),
        ("an indirect table in the registers", &[(bar, 16, INDIRECT, 0)], 0),
        ("an indirect table at the end of addresses", &[(u64::MAX - 15, 32, INDIRECT, 0)], 0),
        ("an indirect table within another", &[(table, 16, INDIRECT, 0)], 0),
    ];
    for (what, descriptors, head) in cases {
        let mut driver = started(feature::RING_INDIRECT_DESC);
        driver.set_descriptor(table, table, 16, INDIRECT, 0);
        offer(&mut driver, descriptors, *head);
        driver.expect_needs_reset(what);
        eventually("the configuration interrupt", || driver.messages(0) == 1);
        assert!(driver.function.failure().unwrap().contains("rng0"), "{what}");
        assert_eq!(driver.bytes(ROM, 16), vec![0; 16]);
        driver.start(0);
        driver.submit(0, &[(DATA, 32, WRITE)]);
        assert_eq!(driver.wait(0).1, 32, "{what}");
    }
}

#[test]
fn an_indirect_loop_and_one_not_negotiated_need_a_reset() {
    for features in [feature::RING_INDIRECT_DESC, 0] {
        let mut driver = started(features);
        driver.set_descriptor(0x40_0000, DATA, 1, NEXT | DEVICE_WRITES, 0);
        offer(&mut driver, &[(0x40_0000, 16, INDIRECT, 0)], 0);
        driver.expect_needs_reset("a loop");
    }
}

#[test]
fn an_avail_index_that_leaps_needs_a_reset() {
    let driver = started(0);
    driver.memory.store_u16(driver.queues[0].avail + 2, 65).unwrap();
    driver.notify(0);
    driver.expect_needs_reset("a leap");
}

#[test]
fn a_chain_over_its_own_rings_only_spoils_them() {
    let mut driver = started(0);
    let ring = driver.queues[0];
    driver.submit(0, &[(ring.descriptors, 0xC000, WRITE)]);
    eventually("an answer", || {
        driver.status() & status::DEVICE_NEEDS_RESET != 0 || driver.memory.load_u16(ring.used + 2).unwrap() != 0
    });
    driver.start(0);
    driver.submit(0, &[(DATA, 8, WRITE)]);
    assert_eq!(driver.wait(0).1, 8);
}

#[test]
fn rings_outside_ram_need_a_reset() {
    let mut driver = Driver::new(Arc::new(Rng::new("rng0")));
    for (register, address) in [(0x20, 0xFEE0_0000u64), (0x28, 0x1_4001), (0x30, u64::MAX - 7)] {
        driver.prepare(0);
        driver.write(0x14, 1, 0);
        for value in [1, 3] {
            driver.write(0x14, 1, value);
        }
        driver.write(0x08, 4, 1);
        driver.write(0x0C, 4, 1);
        driver.write(0x14, 1, 0x0B);
        for (register, address) in [(0x20, 0x1_0000u64), (0x28, 0x1_4000), (0x30, 0x1_8000), (register, address)] {
            driver.write(register, 8, address);
        }
        driver.write(0x1C, 2, 1);
        driver.write(0x14, 1, 0x0F);
        assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, status::DEVICE_NEEDS_RESET);
    }
}

#[test]
fn registers_are_fixed_after_driver_ok() {
    let mut driver = started(0);
    let before: Vec<u64> = (0x18..0x38).step_by(2).map(|offset| driver.read(offset, 2)).collect();
    for (offset, size) in [(0x18, 2), (0x1C, 2), (0x20, 4), (0x24, 4), (0x20, 8), (0x28, 8), (0x30, 8), (0x0C, 4)] {
        for value in [0, 1, 2, 0x7000, u64::MAX] {
            driver.write(offset, size, value);
        }
    }
    let after: Vec<u64> = (0x18..0x38).step_by(2).map(|offset| driver.read(offset, 2)).collect();
    assert_eq!(before, after);
    driver.write(0x14, 1, 1);
    assert_eq!(driver.status(), 0x0F);
    driver.submit(0, &[(DATA, 8, WRITE)]);
    assert_eq!(driver.wait(0).1, 8);
}

#[test]
fn features_not_offered_and_legacy_drivers_are_not_accepted() {
    let driver = Driver::new(Arc::new(Rng::new("rng0")));
    for (low, high) in [(0, 0), (1, 1), (0, 3)] {
        driver.write(0x14, 1, 0);
        driver.write(0x14, 1, 3);
        for (half, value) in [(0, low), (1, high)] {
            driver.write(0x08, 4, half);
            driver.write(0x0C, 4, value);
        }
        driver.write(0x14, 1, 0x0B);
        assert_eq!(driver.status(), 3);
        driver.write(0x14, 1, 0x0F);
        assert_eq!(driver.status(), 3);
    }
}

#[test]
fn queue_sizes_that_make_no_sense_are_ignored() {
    let driver = Driver::new(Arc::new(Rng::new("rng0")));
    for wrong in [0, 3, 65, 128, 0xFFFF] {
        driver.write(0x18, 2, wrong);
        assert_eq!(driver.read(0x18, 2), 64);
    }
    driver.write(0x18, 2, 8);
    assert_eq!(driver.read(0x18, 2), 8);
    driver.write(0x16, 2, 7);
    driver.write(0x18, 2, 8);
    assert_eq!((driver.read(0x18, 2), driver.read(0x1A, 2), driver.read(0x20, 8)), (0, 0, 0));
    driver.write(0x10, 2, 2);
    assert_eq!(driver.read(0x10, 2), 0xFFFF);
}

#[test]
fn interrupts_come_only_when_asked_for() {
    let mut driver = started(0);
    driver.memory.store_u16(driver.queues[0].avail, 1).unwrap();
    driver.submit(0, &[(DATA, 8, WRITE)]);
    driver.wait(0);
    driver.write(0x14, 1, 0);
    assert_eq!(driver.messages(1), 0);

    driver.start(feature::RING_EVENT_IDX);
    let ring = driver.queues[0];
    driver.memory.store_u16(ring.avail + 4 + 2 * ring.size as u64, 1).unwrap();
    driver.submit(0, &[(DATA, 8, WRITE)]);
    driver.wait(0);
    // The device asks to be told of the next chain.
    let avail_event = ring.used + 4 + 8 * u64::from(ring.size);
    eventually("the event index", || driver.memory.load_u16(avail_event).unwrap() == 1);
    assert_eq!(driver.messages(1), 0);
    driver.submit(0, &[(DATA, 8, WRITE)]);
    driver.wait(0);
    eventually("the interrupt", || driver.messages(1) == 1);
}

#[test]
fn without_msix_the_pin_is_used_until_isr_is_read() {
    let mut driver = Driver::new(Arc::new(Rng::new("rng0")));
    driver.prepare(0);
    driver.write(0x14, 1, 0x0F);
    driver.submit(0, &[(DATA, 8, WRITE)]);
    driver.wait(0);
    let line = driver.config(0x3C, 1) as usize;
    let high = |driver: &Driver| driver.controller.lines.lock().unwrap()[line];
    eventually("the line", || high(&driver));
    assert_eq!(driver.read(layout::ISR, 1), 1);
    assert!(!high(&driver));
    assert_eq!(driver.read(layout::ISR, 1), 0);
    driver.submit(0, &[(DATA, 8, WRITE)]);
    driver.wait(0);
    eventually("the line", || high(&driver));
    driver.write(0x14, 1, 0);
    assert!(!high(&driver));
}

#[test]
fn registers_are_reached_through_configuration_space() {
    let driver = Driver::new(Arc::new(Rng::new("rng0")));
    let at = driver.capability(0x09, Some(5));
    let aim = |offset: u32, size: u32| {
        driver.set_config(at + 8, 4, offset);
        driver.set_config(at + 12, 4, size);
    };
    driver.set_config(at + 4, 1, layout::BAR as u32);
    aim(0x12, 2);
    assert_eq!(driver.config(at + 16, 2), 1);
    aim(0x14, 1);
    driver.set_config(at + 16, 1, 3);
    assert_eq!(driver.status(), 3);
    for (offset, size) in [(0x13, 2), (0, 3), (0xFFFF_FFFC, 4), (0x7FFE, 4), (0, 0), (0, u32::MAX)] {
        aim(offset, size);
        driver.config(at + 16, 4);
        driver.set_config(at + 16, 4, 0);
    }
    driver.set_config(at + 4, 1, 0);
    aim(0x14, 1);
    driver.set_config(at + 16, 1, 0);
    assert_eq!(driver.status(), 3);
}

#[test]
fn the_registers_move_with_the_bar() {
    let mut driver = started(0);
    driver.set_config(0x20, 4, 0xD000_0000);
    assert_eq!(driver.read(0x14, 1), 0xFF);
    driver.base = 0xD000_0000;
    driver.submit(0, &[(DATA, 8, WRITE)]);
    assert_eq!(driver.wait(0).1, 8);
}

#[test]
fn random_bytes_differ_and_are_bounded() {
    let mut driver = started(0);
    driver.submit(0, &[(DATA, 0x10_0000, WRITE)]);
    assert_eq!(driver.wait(0).1, 0x1_0000);
    assert_ne!(driver.bytes(DATA, 64), driver.bytes(DATA + 64, 64));
    assert_eq!(driver.bytes(DATA + 0x1_0000, 64), vec![0; 64]);
    driver.submit(0, &[(DATA, 16, READ)]);
    assert_eq!(driver.wait(0).1, 0);
}

#[test]
fn a_console_prints_reads_and_resizes() {
    let terminal = Terminal::new(4096);
    let console = Console::new("console0", terminal.clone());
    let mut driver = Driver::new(console.clone());
    driver.start(1);
    assert_eq!(terminal.send(b"ls\n", None), 3);
    driver.memory.write(DATA, b"hello, world").unwrap();
    driver.submit(1, &[(DATA, 7, READ), (DATA + 7, 5, READ)]);
    driver.wait(1);
    assert_eq!(terminal.read(0, None).bytes, b"hello, world");
    driver.submit(0, &[(0x20_0000, 2, WRITE)]);
    driver.submit(0, &[(0x20_0002, 2, WRITE)]);
    assert_eq!((driver.wait(0).1, driver.wait(0).1), (2, 1));
    assert_eq!(driver.bytes(0x20_0000, 3), b"ls\n");
    let generation = driver.read(0x15, 1);
    console.resize(132, 50);
    assert_eq!((driver.read(layout::DEVICE, 2), driver.read(layout::DEVICE + 2, 2)), (132, 50));
    assert_eq!(driver.read(0x15, 1), generation + 1);
    eventually("the configuration interrupt", || driver.messages(0) == 1);
}

/// Returns each frame to its sender.
#[derive(Default)]
struct Echo(Mutex<Vec<Vec<u8>>>);

impl Backend for Echo {
    fn send(&self, frame: &[u8]) {
        self.0.lock().unwrap().push(frame.to_vec());
    }
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let frame = self.0.lock().unwrap().pop()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
}

#[test]
fn a_network_sends_receives_and_drops_what_does_not_fit() {
    let mac = [2, 0, 0, 1, 2, 3];
    let net = Net::new("net0", NetOptions { mac, mtu: Some(1400) }, Arc::new(Echo::default()));
    let mut driver = Driver::new(Arc::new(net));
    driver.start(1 << 5 | 1 << 3);
    let config: Vec<u64> = (0..12).map(|at| driver.read(layout::DEVICE + at, 1)).collect();
    assert_eq!(config, [2, 0, 0, 1, 2, 3, 1, 0, 1, 0, 0x78, 5]);
    driver.memory.write(DATA + 12, b"an Ethernet frame").unwrap();
    driver.submit(1, &[(DATA, 12, READ), (DATA + 12, 17, READ)]);
    driver.wait(1);
    driver.submit(0, &[(0x20_0000, 20, WRITE), (0x30_0000, 100, WRITE)]);
    assert_eq!(driver.wait(0).1, 29);
    let frame = [driver.bytes(0x20_000C, 8), driver.bytes(0x30_0000, 9)].concat();
    assert_eq!((frame.as_slice(), driver.bytes(0x20_000A, 2)), (&b"an Ethernet frame"[..], vec![1, 0]));
    driver.submit(1, &[(DATA, 12 + 1419, READ)]);
    driver.submit(1, &[(DATA, 5, READ)]);
    driver.wait(1);
    driver.wait(1);
    driver.submit(1, &[(DATA, 29, READ)]);
    driver.wait(1);
    driver.submit(0, &[(0x20_0000, 28, WRITE)]);
    assert_eq!(driver.wait(0).1, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Random accesses of every size at every region, status and notifications included, break nothing: afterwards a
    /// driver can reset the device and use it.
    #[test]
    fn random_register_accesses_break_nothing(
        accesses in prop::collection::vec((any::<u64>(), 0usize..4, any::<u64>(), any::<bool>(), 0u8..4), 0..300)
    ) {
        for device in all_kinds() {
            let mut driver = Driver::new(device);
            driver.start(0);
            for (offset, size, value, write, region) in &accesses {
                let size = 1 << size;
                let offset = match region {
                    0 => offset % 0x40,
                    1 => 0x1000 * (offset % 8) + offset % 0x20,
                    2 => layout::SIZE - offset % 16 - 1,
                    _ => offset % layout::SIZE,
                };
                // Small values are likelier to mean something.
                let value = if value % 3 == 0 { value & 0xF } else { *value };
                if *write { driver.write(offset, size, value) } else { driver.read(offset, size); }
            }
            driver.start(0);
            let last = driver.queues.len() - 1;
            driver.memory.write(DATA, &[0; 64]).unwrap();
            driver.submit(last, &[(DATA, 64, READ), (DATA + 64, 513, WRITE)]);
            driver.wait(last);
        }
    }

    /// Random descriptors end in an answer or in a device that needs a reset, and leave ROM alone.
    #[test]
    fn random_descriptors_break_nothing(
        descriptors in prop::collection::vec((DATA..RAM + 0x10_0000, 0u32..0x10_0000, 0u16..8, 0u16..70), 64),
        heads in prop::collection::vec(0u16..66, 1..64),
    ) {
        for device in all_kinds() {
            let mut driver = Driver::new(device);
            driver.start(feature::RING_INDIRECT_DESC);
            for queue in 0..driver.queues.len() {
                for (index, (address, size, flags, next)) in (0..).zip(&descriptors) {
                    let at = driver.queues[queue].descriptors + 16 * index;
                    driver.set_descriptor(at, *address, *size, *flags, *next);
                }
                heads.iter().for_each(|head| driver.publish(queue, *head));
                driver.notify(queue);
            }
            // The last queue of each kind is one whose chains are served whatever they hold.
            let used = driver.queues[driver.queues.len() - 1].used + 2;
            eventually("an end", || {
                driver.status() & status::DEVICE_NEEDS_RESET != 0
                    || usize::from(driver.memory.load_u16(used).unwrap()) == heads.len()
            });
            driver.write(0x14, 1, 0);
            assert_eq!((driver.status(), driver.bytes(ROM, 64)), (0, vec![0; 64]));
        }
    }
}
