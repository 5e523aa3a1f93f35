//! virtio-console with several ports.

mod driver;

use board::Terminal;
use driver::{DATA, Driver, READ, WRITE, eventually};
use proptest::prelude::*;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use virtio::{Console, Port, layout};

const MULTIPORT: u64 = 1 << 1;
const AGENT: &str = "org.qemu.guest_agent.0";
const TELL: usize = 2;
const HEAR: usize = 3;
const NOW: Option<Duration> = Some(Duration::ZERO);

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

struct Ports {
    console: Arc<Console>,
    terminals: Vec<Arc<Terminal>>,
    driver: Driver,
}

impl Ports {
    /// A console and two ports.
    fn new(features: u64) -> Self {
        let terminals: Vec<_> = (0..3).map(|_| Terminal::new(4096)).collect();
        let names = [AGENT, "other"].into_iter().zip(&terminals[1..]);
        let ports = names.map(|(name, terminal)| Port { name: name.into(), terminal: terminal.clone() }).collect();
        let console = Console::with_ports("console0", terminals[0].clone(), ports).unwrap();
        let mut driver = Driver::new(console.clone());
        driver.start(features);
        Ports { console, terminals, driver }
    }

    /// As [`Ports::new`], after what driver and device have to say to each other. Port 1 is open.
    fn opened() -> Self {
        let mut ports = Self::new(MULTIPORT);
        ports.listen(32);
        ports.say(0, DEVICE_READY, 1);
        (0..3).for_each(|port| ports.say(port, PORT_READY, 1));
        (0..9).for_each(|_| _ = ports.heard());
        ports.say(1, PORT_OPEN, 1);
        ports
    }

    /// Makes buffers of 128 bytes available to the device's messages.
    fn listen(&mut self, count: u64) {
        for index in 0..count {
            self.driver.submit(TELL, &[(0x30_0000 + 128 * index, 128, WRITE)]);
        }
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let message = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        self.driver.memory.write(0x31_0000, &message).unwrap();
        self.driver.submit(HEAR, &[(0x31_0000, 8, READ)]);
        self.driver.wait(HEAR);
    }

    /// The next message: port, event, value, and what follows.
    fn heard(&mut self) -> (u32, u16, u16, Vec<u8>) {
        let (head, size) = self.driver.wait(TELL);
        let message = self.driver.bytes(0x30_0000 + 128 * u64::from(head), size as usize);
        let half = |at: usize| u16::from_le_bytes([message[at], message[at + 1]]);
        (u32::from(half(0)), half(4), half(6), message[8..].to_vec())
    }
}

/// The queues of a port: what it receives, and what it sends.
fn queues(port: usize) -> (usize, usize) {
    if port == 0 { (0, 1) } else { (2 * port + 2, 2 * port + 3) }
}

#[test]
fn ports_are_added_introduced_and_opened() {
    let mut ports = Ports::new(MULTIPORT | 1);
    assert_eq!((ports.driver.read(0x12, 2), ports.driver.read(layout::DEVICE + 4, 4)), (8, 3));
    ports.listen(16);
    ports.say(0, DEVICE_READY, 1);
    let added: Vec<_> = (0..3).map(|_| ports.heard()).collect();
    assert_eq!(added, [0, 1, 2].map(|port| (port, PORT_ADD, 1, vec![])));
    ports.say(0, PORT_READY, 1);
    assert_eq!(ports.heard(), (0, CONSOLE_PORT, 1, vec![]));
    assert_eq!(ports.heard(), (0, PORT_OPEN, 1, vec![]));
    ports.say(1, PORT_READY, 1);
    assert_eq!(ports.heard(), (1, PORT_NAME, 1, [AGENT.as_bytes(), &[0]].concat()));
    assert_eq!(ports.heard(), (1, PORT_OPEN, 1, vec![]));
    assert!(!ports.console.guest_open(AGENT));
    ports.say(1, PORT_OPEN, 1);
    assert!(ports.console.guest_open(AGENT) && !ports.console.guest_open("other"));
    ports.say(1, PORT_OPEN, 0);
    assert!(!ports.console.guest_open(AGENT));
    ports.console.resize(0x1234, 50);
    assert_eq!(ports.heard(), (0, RESIZE, 0, vec![0x34, 0x12, 50, 0]));
    // A port whose host's end goes before the driver is ready is introduced as it is then.
    assert!(ports.console.set_connected("other", false) && !ports.console.set_connected("none", false));
    ports.say(2, PORT_READY, 1);
    assert_eq!(ports.heard().1, PORT_NAME);
    assert_eq!(ports.heard(), (2, PORT_OPEN, 0, vec![]));
    ports.console.set_connected("other", true);
    assert_eq!(ports.heard(), (2, PORT_OPEN, 1, vec![]));
}

#[test]
fn bytes_go_both_ways_through_the_port_they_belong_to() {
    let mut ports = Ports::opened();
    let (receive, transmit) = queues(1);
    ports.driver.memory.write(DATA, b"{\"return\": {}}\n").unwrap();
    ports.driver.submit(transmit, &[(DATA, 9, READ), (DATA + 9, 6, READ)]);
    ports.driver.wait(transmit);
    assert_eq!(ports.terminals[1].read(0, None).bytes, b"{\"return\": {}}\n");
    assert!(ports.terminals[0].read(0, NOW).bytes.is_empty());
    ports.terminals[1].send(b"{\"execute\": \"guest-ping\"}", None);
    ports.driver.submit(receive, &[(0x20_0000, 10, WRITE)]);
    ports.driver.submit(receive, &[(0x20_0010, 100, WRITE)]);
    assert_eq!((ports.driver.wait(receive).1, ports.driver.wait(receive).1), (10, 15));
    assert_eq!(ports.driver.bytes(0x20_0010, 15), b": \"guest-ping\"}");
}

#[test]
fn input_waits_for_a_port_to_be_opened_on_both_sides() {
    let mut ports = Ports::opened();
    let (receive, _) = queues(2);
    ports.driver.submit(receive, &[(0x20_0000, 100, WRITE)]);
    ports.terminals[2].send(b"early", None);
    // The other port answers, so this one has been looked at.
    let others = queues(1).0;
    ports.terminals[1].send(b"x", None);
    ports.driver.submit(others, &[(0x21_0000, 1, WRITE)]);
    ports.driver.wait(others);
    assert_eq!(ports.driver.used(receive), None);
    ports.say(2, PORT_OPEN, 1);
    assert_eq!(ports.driver.wait(receive).1, 5);
    ports.console.set_connected("other", false);
    assert_eq!(ports.heard(), (2, PORT_OPEN, 0, vec![]));
    ports.terminals[2].send(b"late", None);
    ports.driver.submit(receive, &[(0x20_0000, 100, WRITE)]);
    ports.console.set_connected("other", true);
    assert_eq!(ports.driver.wait(receive).1, 4);
}

#[test]
fn a_port_waits_for_a_slow_reader_and_the_console_does_not() {
    let mut ports = Ports::opened();
    let (mut pipe, write) = std::io::pipe().unwrap();
    ports.terminals[1].copy_to(OwnedFd::from(write)).unwrap();
    let data: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
    ports.driver.memory.write(0x40_0000, &data).unwrap();
    // Pipe and terminal hold some 70 KB.
    let (_, transmit) = queues(1);
    for half in 0..2 {
        ports.driver.submit(transmit, &[(0x40_0000 + half * 50_000, 50_000, READ)]);
    }
    ports.driver.wait(transmit);
    assert_eq!(ports.driver.used(transmit), None);
    ports.driver.pci.pause();
    ports.driver.pci.resume();
    let mut back = vec![0; data.len()];
    pipe.read_exact(&mut back).unwrap();
    assert!(back == data);
    ports.driver.wait(transmit);
    // What nobody reads goes on.
    let (slow, write) = std::io::pipe().unwrap();
    ports.terminals[0].copy_to(OwnedFd::from(write)).unwrap();
    for _ in 0..4 {
        ports.driver.submit(1, &[(0x40_0000, 100_000, READ)]);
        ports.driver.wait(1);
    }
    drop(slow);
}

#[test]
fn output_to_a_port_with_nobody_there_is_dropped() {
    let mut ports = Ports::opened();
    ports.console.set_connected(AGENT, false);
    let (_, transmit) = queues(1);
    ports.driver.submit(transmit, &[(DATA, 100, READ)]);
    ports.driver.wait(transmit);
    assert!(ports.terminals[1].read(0, NOW).bytes.is_empty());
}

#[test]
fn a_driver_without_ports_has_the_console() {
    let mut ports = Ports::new(0);
    ports.driver.memory.write(DATA, b"hello").unwrap();
    ports.driver.submit(1, &[(DATA, 5, READ)]);
    ports.driver.wait(1);
    assert_eq!(ports.terminals[0].read(0, None).bytes, b"hello");
    ports.terminals[0].send(b"ls\n", None);
    ports.driver.submit(0, &[(0x20_0000, 100, WRITE)]);
    assert_eq!(ports.driver.wait(0).1, 3);
    assert!(!ports.console.guest_open(AGENT));
}

#[test]
fn a_driver_that_talks_and_never_listens_costs_nothing() {
    let mut ports = Ports::new(MULTIPORT);
    for round in 0..3000 {
        ports.say(0, DEVICE_READY, 1);
        ports.say(round % 4, PORT_READY, 1);
    }
    let before = ports.driver.snapshot().len();
    ports.driver.pci.resume();
    for round in 0..3000 {
        ports.say(round % 3, PORT_READY, 1);
        ports.console.resize(80, 25);
    }
    assert!(ports.driver.snapshot().len() < before + 256);
    ports.driver.pci.resume();
    // Nonsense is no message.
    for (port, event, value) in [(3, PORT_READY, 1), (u32::MAX, PORT_OPEN, 1), (0, 0xFFFF, 0xFFFF), (0, PORT_ADD, 1)] {
        ports.say(port, event, value);
    }
    ports.driver.submit(HEAR, &[(DATA, 7, READ)]);
    ports.driver.submit(HEAR, &[(DATA, 8, WRITE)]);
    ports.driver.wait(HEAR);
    ports.driver.wait(HEAR);
    // Buffers that are too small take what fits.
    ports.driver.submit(TELL, &[(0x30_0000, 3, WRITE)]);
    assert_eq!(ports.driver.wait(TELL).1, 3);
}

#[test]
fn ports_go_on_after_a_snapshot_and_begin_anew_after_a_reset() {
    let ports = Ports::opened();
    let state = ports.driver.snapshot();
    let other = Ports::new(0);
    let driver = Driver::with_memory(other.console.clone(), ports.driver.memory.clone());
    driver.pci.pause();
    board::Device::load(&*driver.pci, &state).unwrap();
    driver.pci.resume();
    assert!(other.console.guest_open(AGENT));
    let mut driver = Driver { queues: ports.driver.queues.clone(), ..driver };
    let (receive, _) = queues(1);
    other.terminals[1].send(b"on", None);
    driver.submit(receive, &[(0x20_0000, 100, WRITE)]);
    assert_eq!(driver.wait(receive).1, 2);
    driver.write(0x14, 1, 0);
    assert!(!other.console.guest_open(AGENT));
    // A machine with other ports does not take it.
    let alone = Driver::with_memory(Console::new("console0", Terminal::new(4096)), driver::memory());
    alone.pci.pause();
    assert!(board::Device::load(&*alone.pci, &state).is_err());
    for at in 0..state.len() {
        let mut damaged = state.clone();
        damaged[at] ^= 0xFF;
        driver.pci.pause();
        let _ = board::Device::load(&*driver.pci, &damaged);
        assert!(board::Device::load(&*driver.pci, &state[..at]).is_err());
        driver.pci.resume();
    }
}

#[test]
fn names_that_no_port_can_have_are_refused() {
    let with = |names: &[&str]| {
        let port = |name: &&str| Port { name: (*name).into(), terminal: Terminal::new(4096) };
        Console::with_ports("console0", Terminal::new(4096), names.iter().map(port).collect()).err()
    };
    for name in ["", ".", "..", "a/b", "a b", "ä", "\n", &"x".repeat(65)] {
        assert!(with(&[name]).unwrap().contains("no name"), "{name:?}");
    }
    assert!(with(&["a", "a"]).unwrap().contains("two ports"));
    let many: Vec<String> = (0..31).map(|index| format!("port{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(with(&many).unwrap().contains("30 are possible"));
    assert!(with(&many[..30]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the driver says, in whichever order: the device answers, and still does as it should after a reset.
    #[test]
    fn random_talk_breaks_nothing(
        talk in prop::collection::vec((0u32..5, 0u16..9, 0u16..3, 0u8..4), 0..200)
    ) {
        let mut ports = Ports::new(MULTIPORT);
        for (port, event, value, then) in talk {
            ports.say(port, event, value);
            match then {
                0 => ports.listen(1),
                1 => ports.console.resize(value, event),
                2 => _ = ports.console.set_connected(AGENT, value == 1),
                _ => while ports.driver.used(TELL).is_some() {},
            }
        }
        ports.driver.start(MULTIPORT);
        ports.listen(1);
        ports.say(0, DEVICE_READY, 1);
        prop_assert_eq!(ports.heard(), (0, PORT_ADD, 1, vec![]));
        eventually("silence", || ports.driver.used(TELL).is_none());
    }
}
