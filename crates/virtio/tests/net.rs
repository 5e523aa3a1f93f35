//! virtio-net seen by a driver and by its network.

mod driver;

use driver::{DATA, Driver, READ, WRITE};
use net::Backend;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use virtio::{Net, NetOptions, feature, layout};

const MAC: u64 = 1 << 5;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;
const CTRL_VQ: u64 = 1 << 17;
const CTRL_RX: u64 = 1 << 18;
const CTRL_VLAN: u64 = 1 << 19;
const CTRL_RX_EXTRA: u64 = 1 << 20;
const MQ: u64 = 1 << 22;
const CTRL_MAC_ADDR: u64 = 1 << 23;
const ORDERS: u64 = CTRL_VQ | CTRL_RX | CTRL_VLAN | CTRL_RX_EXTRA | CTRL_MAC_ADDR;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GROUP: [u8; 6] = [1, 0, 0x5E, 0, 0, 1];
const ALL: [u8; 6] = [0xFF; 6];

/// Frames that have arrived.
#[derive(Default)]
struct Wire {
    arriving: Mutex<VecDeque<Vec<u8>>>,
}

impl Backend for Wire {
    fn send(&self, _frame: &[u8]) {}
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let frame = self.arriving.lock().unwrap().pop_front()?;
        let size = frame.len().min(buffer.len());
        buffer[..size].copy_from_slice(&frame[..size]);
        Some(frame.len())
    }
}

struct Card {
    wire: Arc<Wire>,
    driver: Driver,
}

impl Card {
    fn new(features: u64) -> Self {
        let wire = Arc::new(Wire::default());
        let net = Arc::new(Net::new("net0", NetOptions { mac: OURS, mtu: None }, wire.clone()));
        let mut driver = Driver::new(net);
        driver.start(features);
        Card { wire, driver }
    }

    fn order(&mut self, class: u8, command: u8, data: &[u8]) -> u8 {
        self.driver.memory.write(DATA, &[&[class, command], data].concat()).unwrap();
        self.driver.memory.write(0x50_0000, &[0xEE]).unwrap();
        let size = data.len() as u32;
        self.driver.submit(CONTROL, &[(DATA, 2, READ), (DATA + 2, size, READ), (0x50_0000, 1, WRITE)]);
        assert_eq!(self.driver.wait(CONTROL).1, 1);
        self.driver.bytes(0x50_0000, 1)[0]
    }

    /// Lets frames arrive, and one more behind them that always passes; returns which of the frames did, by index.
    fn passing(&mut self, frames: &[Vec<u8>]) -> Vec<usize> {
        {
            let mut arriving = self.wire.arriving.lock().unwrap();
            let marked = |(index, frame): (u8, &Vec<u8>)| [&frame[..], &[index]].concat();
            arriving.extend((0..).zip(frames).map(marked));
            arriving.push_back([&self.mac()[..], &[8, 0, 0xFF]].concat());
        }
        let mut passed = Vec::new();
        loop {
            self.driver.submit(RECEIVE, &[(0x20_0000, 2048, WRITE)]);
            let size = self.driver.wait(RECEIVE).1;
            match self.driver.bytes(0x20_0000 + u64::from(size) - 1, 1)[0] {
                0xFF => return passed,
                index => passed.push(usize::from(index)),
            }
        }
    }

    fn mac(&self) -> Vec<u8> {
        (0..6).map(|at| self.driver.read(layout::DEVICE + at, 1) as u8).collect()
    }
}

fn frame(destination: [u8; 6]) -> Vec<u8> {
    [&destination[..], &OTHER, &[8, 0], &[0; 46]].concat()
}

fn tagged(vlan: u16) -> Vec<u8> {
    [&OURS[..], &OTHER, &[0x81, 0], &vlan.to_be_bytes(), &[0; 46]].concat()
}

#[test]
fn what_is_offered_is_what_there_is() {
    let card = Card::new(0);
    let offered = card.driver.read(4, 4);
    assert_eq!(offered & (MAC | MRG_RXBUF | STATUS | ORDERS), MAC | MRG_RXBUF | STATUS | ORDERS);
    let offloads = 0x7F83 & !(MAC | 1 << 3);
    assert_eq!(offered & (offloads | MQ), 0, "no checksums, no segmentation, one pair of queues");
    assert_eq!(card.driver.read(0x12, 2), 3);
}

#[test]
fn a_frame_fills_as_many_buffers_as_it_needs() {
    let mut card = Card::new(MRG_RXBUF);
    let content: Vec<u8> = (0..1000u32).map(|at| (at % 251) as u8).collect();
    // Too little room at first: nothing is given to the driver.
    card.driver.submit(RECEIVE, &[(0x20_0000, 5, WRITE)]);
    card.driver.submit(RECEIVE, &[(0x20_1000, 300, WRITE), (0x20_2000, 100, WRITE)]);
    card.wire.arriving.lock().unwrap().push_back(content.clone());
    card.driver.notify(RECEIVE);
    card.driver.submit(TRANSMIT, &[(DATA, 12, READ)]);
    card.driver.wait(TRANSMIT);
    assert_eq!(card.driver.used(RECEIVE), None);
    card.driver.submit(RECEIVE, &[(0x20_3000, 700, WRITE)]);
    let sizes: Vec<u32> = (0..3).map(|_| card.driver.wait(RECEIVE).1).collect();
    assert_eq!(sizes, [5, 400, 607]);
    let pieces = [(0x20_0000, 5), (0x20_1000, 300), (0x20_2000, 100), (0x20_3000, 607)];
    let packet = pieces.map(|(address, size)| card.driver.bytes(address, size)).concat();
    assert_eq!((&packet[..12], packet[12..] == content[..]), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0][..], true));
    // A small one takes one, and says so.
    card.wire.arriving.lock().unwrap().push_back(content[..50].to_vec());
    card.driver.submit(RECEIVE, &[(0x20_4000, 700, WRITE)]);
    assert_eq!(card.driver.wait(RECEIVE).1, 62);
    assert_eq!(card.driver.bytes(0x20_400A, 2), [1, 0]);
}

#[test]
fn waiting_for_room_ends_with_the_buffer_that_makes_it() {
    for more in [0, feature::RING_EVENT_IDX] {
        let mut card = Card::new(MRG_RXBUF | more);
        card.wire.arriving.lock().unwrap().push_back(vec![7; 1000]);
        for index in 0..6 {
            assert_eq!(card.driver.used(RECEIVE), None);
            card.driver.submit(RECEIVE, &[(0x20_0000 + 0x1000 * index, 200, WRITE)]);
        }
        let sizes: Vec<u32> = (0..6).map(|_| card.driver.wait(RECEIVE).1).collect();
        assert_eq!(sizes, [200, 200, 200, 200, 200, 12]);
    }
}

#[test]
fn a_frame_for_which_all_buffers_together_are_too_small_is_dropped() {
    let mut card = Card::new(MRG_RXBUF);
    for _ in 0..256 {
        let head = card.driver.lay(RECEIVE, &[(0x20_0000, 3, WRITE)]);
        card.driver.publish(RECEIVE, head);
    }
    card.wire.arriving.lock().unwrap().extend([vec![7; 1000], vec![8; 50]]);
    card.driver.notify(RECEIVE);
    for _ in 0..256 {
        assert_eq!(card.driver.wait(RECEIVE).1, 0);
    }
    card.driver.submit(RECEIVE, &[(0x20_0000, 100, WRITE)]);
    assert_eq!(card.driver.wait(RECEIVE).1, 62);
}

#[test]
fn the_driver_chooses_which_frames_it_gets() {
    let mut card = Card::new(ORDERS);
    let frames = [frame(OURS), frame(OTHER), frame(GROUP), frame(ALL)];
    assert_eq!(card.passing(&frames), [0, 1, 2, 3], "all before it says anything");
    assert_eq!(card.order(0, 0, &[0]), 0);
    assert_eq!(card.passing(&frames), [0, 3]);
    for (mode, passing) in [(1, vec![0, 2, 3]), (2, vec![0, 1, 3]), (5, vec![0])] {
        assert_eq!(card.order(0, mode, &[1]), 0);
        assert_eq!(card.passing(&frames), passing, "mode {mode}");
        assert_eq!(card.order(0, mode, &[0]), 0);
    }
    let table = |unicast: &[[u8; 6]], multicast: &[[u8; 6]]| {
        let one = |table: &[[u8; 6]]| [&(table.len() as u32).to_le_bytes()[..], &table.concat()].concat();
        [one(unicast), one(multicast)].concat()
    };
    assert_eq!(card.order(1, 0, &table(&[OTHER], &[])), 0);
    assert_eq!(card.passing(&frames), [0, 1, 3]);
    assert_eq!(card.order(1, 0, &table(&[], &[[3; 6], GROUP])), 0);
    assert_eq!(card.passing(&frames), [0, 2, 3]);
    assert_eq!(card.order(0, 3, &[1]), 0);
    assert_eq!(card.passing(&frames), [0, 3], "no groups, whichever are known");
    assert_eq!(card.order(0, 3, &[0]), 0);
    assert_eq!(card.order(1, 0, &table(&[], &[[5; 6]; 65])), 0);
    assert_eq!(card.passing(&frames), [0, 2, 3], "more than are remembered");
    assert_eq!(card.order(1, 1, &OTHER), 0);
    assert_eq!((card.passing(&frames), card.mac()), (vec![1, 2, 3], OTHER.to_vec()));
    card.driver.start(0);
    assert_eq!((card.passing(&frames), card.mac()), (vec![0, 1, 2, 3], OURS.to_vec()));
}

#[test]
fn vlans_are_filtered_once_one_is_named() {
    let mut card = Card::new(ORDERS);
    card.order(0, 0, &[0]);
    let frames = [tagged(5), tagged(0xE006), tagged(0), frame(OURS)];
    assert_eq!(card.passing(&frames), [0, 1, 2, 3]);
    assert_eq!(card.order(2, 0, &[6, 0]), 0);
    assert_eq!(card.passing(&frames), [1, 2, 3]);
    assert_eq!(card.order(2, 1, &[6, 0]), 0);
    assert_eq!(card.passing(&frames), [2, 3]);
    for id in [[0, 0x10], [0xFF, 0xFF]] {
        assert_eq!(card.order(2, 0, &id), 1);
    }
}

#[test]
fn orders_that_make_no_sense_are_refused_and_change_nothing() {
    let mut card = Card::new(ORDERS);
    card.order(0, 0, &[0]);
    let huge = [&u32::MAX.to_le_bytes()[..], &[0; 64]].concat();
    let orders: &[(u8, u8, &[u8])] = &[
        (0, 1, &[]),
        (0, 6, &[1]),
        (1, 0, &[]),
        (1, 0, &[1, 0, 0, 0, 1, 2, 3, 4, 5]),
        (1, 0, &[0, 0, 0, 0, 1, 0, 0, 0]),
        (1, 0, &huge),
        (1, 1, &[1, 2, 3, 4, 5]),
        (1, 2, &OTHER),
        (2, 0, &[5]),
        (2, 2, &[5, 0]),
        (3, 0, &[]),
        (4, 0, &[2, 0]),
        (5, 0, &[0; 8]),
        (255, 255, &[1]),
    ];
    for (class, command, data) in orders {
        assert_eq!(card.order(*class, *command, data), 1, "{class} {command}");
    }
    assert_eq!(card.passing(&[frame(OURS), frame(OTHER), frame(GROUP), tagged(9)]), [0, 3]);
    // No command at all, and no room for the answer.
    card.driver.submit(CONTROL, &[(DATA, 1, READ), (0x50_0000, 1, WRITE)]);
    assert_eq!((card.driver.wait(CONTROL).1, card.driver.bytes(0x50_0000, 1)), (1, vec![1]));
    card.driver.submit(CONTROL, &[(DATA, 3, READ)]);
    assert_eq!(card.driver.wait(CONTROL).1, 0);
    // What was not negotiated is refused too.
    card.driver.start(0);
    assert_eq!((card.order(0, 0, &[0]), card.order(1, 1, &OTHER), card.order(2, 0, &[5, 0])), (1, 1, 1));
}

#[test]
fn the_filter_survives_a_snapshot() {
    let mut card = Card::new(ORDERS);
    card.order(0, 0, &[0]);
    card.order(1, 1, &OTHER);
    card.order(2, 0, &[6, 0]);
    let state = card.driver.snapshot();
    let mut other = Card::new(0);
    other.driver.pci.pause();
    board::Device::load(&*other.driver.pci, &state).unwrap();
    other.driver.memory = card.driver.memory.clone();
    assert_eq!(other.mac(), OTHER);
    // Cut short at the end, which is the filter's.
    assert!(board::Device::load(&*other.driver.pci, &state[..state.len() - 1]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random orders are answered, and frames of any size with buffers of any size come through or are dropped.
    #[test]
    fn random_orders_frames_and_buffers_break_nothing(
        orders in prop::collection::vec((0u8..6, 0u8..7, prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        frames in prop::collection::vec((0usize..2000, any::<u8>()), 0..60),
        buffers in prop::collection::vec(0u32..700, 1..200),
        merges in any::<bool>(),
    ) {
        let mut card = Card::new(ORDERS | if merges { MRG_RXBUF } else { 0 });
        card.wire.arriving.lock().unwrap().extend(frames.iter().map(|(size, byte)| vec![*byte; *size]));
        for (index, size) in buffers.iter().enumerate() {
            card.driver.submit(RECEIVE, &[(0x20_0000, *size, WRITE)]);
            if let Some((class, command, data)) = orders.get(index) {
                prop_assert!(card.order(*class, *command, data) <= 1);
            }
            while card.driver.used(RECEIVE).is_some() {}
        }
        card.driver.start(0);
        prop_assert_eq!(card.mac(), OURS);
        card.wire.arriving.lock().unwrap().clear();
        prop_assert_eq!(card.passing(&[frame(OTHER)]), vec![0]);
    }
}
