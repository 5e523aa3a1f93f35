//! A network card on a network with another side: a socket.

mod driver;

use board::pci::PciBus;
use board::{Buses, IrqLines};
use driver::{Controller, DATA, Driver, READ, WRITE, eventually};
use hv::Bus;
use net::{Cable, NullBackend, StreamBackend};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use virtio::{Net, NetOptions, PciOptions, VirtioPci, layout};

const OPTIONS: NetOptions = NetOptions { mac: [2, 0, 0, 1, 2, 3], mtu: None };
/// Feature bits: hardware address, status.
const FEATURES: u64 = 1 << 5 | 1 << 16;
const HEADER: u32 = 12;

fn link_is_up(driver: &Driver) -> bool {
    driver.read(layout::DEVICE + 6, 2) & 1 != 0
}

#[test]
fn frames_go_through_a_socket_until_its_peer_leaves() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let net = Net::new("net0", OPTIONS, Arc::new(StreamBackend::new(ours.into()).unwrap()));
    let mut driver = Driver::new(Arc::new(net));
    driver.start(FEATURES);
    driver.memory.write(DATA + u64::from(HEADER), &[0x5A; 60]).unwrap();
    driver.submit(1, &[(DATA, HEADER + 60, READ)]);
    driver.wait(1);
    let mut sent = [0; 64];
    peer.read_exact(&mut sent).unwrap();
    assert_eq!((&sent[..4], &sent[4..]), (&[0, 0, 0, 60][..], &[0x5A; 60][..]));
    driver.submit(0, &[(0x20_0000, 2000, WRITE)]);
    // The first is longer than any on this network, and is not delivered in part.
    for length in [1519u32, 77] {
        peer.write_all(&[&length.to_be_bytes()[..], &vec![0xA5; length as usize]].concat()).unwrap();
    }
    assert_eq!(driver.wait(0).1, HEADER + 77);
    assert_eq!(driver.bytes(0x20_0000 + u64::from(HEADER), 77), [0xA5; 77]);
    assert!(link_is_up(&driver));
    let before = driver.messages(0);
    drop(peer);
    eventually("the link's end", || driver.messages(0) > before);
    assert!(!link_is_up(&driver));
    driver.submit(1, &[(DATA, HEADER + 60, READ)]);
    driver.wait(1);
}

#[test]
fn a_cable_that_is_pulled_out_is_announced_and_nothing_is_sent() {
    let (ours, peer) = UnixStream::pair().unwrap();
    let cable = Arc::new(Cable::new(Arc::new(StreamBackend::new(ours.into()).unwrap())));
    cable.set_plugged(false);
    let mut driver = Driver::new(Arc::new(Net::new("net0", OPTIONS, cable.clone())));
    driver.start(FEATURES);
    assert!(!link_is_up(&driver));
    driver.submit(1, &[(DATA, HEADER + 60, READ)]);
    driver.wait(1);
    cable.set_plugged(true);
    eventually("the link", || driver.messages(0) == 1);
    assert!(link_is_up(&driver));
    driver.submit(1, &[(DATA, HEADER + 61, READ)]);
    driver.wait(1);
    let mut length = [0; 4];
    (&peer).read_exact(&mut length).unwrap();
    assert_eq!(length, [0, 0, 0, 61]);
    // The thread waits for the socket again.
    driver.submit(0, &[(0x20_0000, 2000, WRITE)]);
    (&peer).write_all(&[&[0, 0, 0, 60][..], &[1; 60]].concat()).unwrap();
    assert_eq!(driver.wait(0).1, HEADER + 60);
}

#[test]
fn its_rom_is_in_its_own_base_address_register() {
    let buses = Arc::new(Buses::new());
    let controller = Arc::new(Controller::default());
    let pci = PciBus::new(&buses, controller.clone(), &IrqLines::new(controller)).unwrap();
    let net = Arc::new(Net::new("net0", OPTIONS, Arc::new(NullBackend)));
    let mut image = vec![0x11; 5000];
    image[..2].copy_from_slice(&[0x55, 0xAA]);
    let options = PciOptions { rom: image, ..PciOptions::default() };
    pci.add(3, 0, VirtioPci::with_options(net, driver::memory(), None, options).unwrap()).unwrap();
    let access = |register: u32, value: Option<u32>| {
        buses.pio_write(0xCF8, 4, 0x8000_1800 | register);
        if let Some(value) = value {
            buses.pio_write(0xCFC, 4, value);
        }
        buses.pio_read(0xCFC, 4)
    };
    assert_eq!(access(0x30, Some(0xFFFF_FFFE)), 0xFFFF_E000);
    access(0x30, Some(0xE800_0001));
    access(0x04, Some(2));
    let mut data = [0; 8];
    buses.mmio_write(0xE800_0000, &[0; 4]);
    buses.mmio_read(0xE800_0000, &mut data);
    assert_eq!(data, [0x55, 0xAA, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11]);
    buses.mmio_read(0xE800_0000 + 4996, &mut data);
    assert_eq!(data, [0x11, 0x11, 0x11, 0x11, 0xFF, 0xFF, 0xFF, 0xFF]);
}
