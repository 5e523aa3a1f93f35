//! What hostile and careless drivers do, and hostile saved states.

mod driver;

use board::Device;
use board::pci::PciFunction;
use driver::*;
use e1000::register::{self, ctrl, rctl, tctl};
use hv::Bus;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Asserts that a driver can reset the card and use it, and that ROM is what it was.
fn assert_usable(driver: &Driver, what: &str) {
    driver.set_config(0x04, 2, 0x0007);
    driver.set_config(0x10, 4, driver.base as u32);
    driver.write(register::CTRL, ctrl::RST);
    driver.cable.set_plugged(true);
    driver.phy_write(0, 0x9140);
    driver.phy_write(9, 0x0300);
    driver.network.arriving.lock().unwrap().clear();
    driver.network.sent.lock().unwrap().clear();
    driver.start(rctl::SECRC);
    driver.send(&frame(99));
    assert_eq!(driver.network.sent(1), [frame(99)], "{what}");
    driver.network.deliver(&frame(98));
    assert_eq!(driver.received(0).length, 98, "{what}");
    assert_eq!(driver.buffer(0, 98), frame(98), "{what}");
    assert_eq!(driver.bytes(ROM, 4096), vec![0; 4096], "{what}");
    assert!(!PANICKED.load(Ordering::SeqCst), "{what}: its thread panicked");
}

/// Where descriptors and buffers have no business to be: the card's own registers, ROM, nowhere, the end of addresses.
fn bad_addresses(driver: &Driver) -> [u64; 6] {
    [driver.base, driver.base + 0x2800, ROM, RAM - 8, 0xFEE0_0000, u64::MAX - 15]
}

#[test]
fn rings_that_are_no_ram_stand_still() {
    for receive in [false, true] {
        let driver = Driver::started();
        for address in bad_addresses(&driver) {
            let first = if receive { register::RDBAL } else { register::TDBAL };
            driver.write(first, address as u32);
            driver.write(first + 4, (address >> 32) as u32);
            driver.network.deliver(&frame(60));
            driver.write(register::TDT, COUNT - 1);
            driver.write(register::RDT, COUNT - 2);
        }
        assert_usable(&driver, "a ring that is no RAM");
    }
}

#[test]
fn lengths_heads_and_tails_that_make_no_sense_are_harmless() {
    let values = [0, 1, 7, 15, 16, 127, 128, 0xFFFF, 0xF_FF80, u32::MAX];
    for first in [register::TDBAL, register::RDBAL] {
        let driver = Driver::started();
        for length in values {
            for head in values {
                for tail in values {
                    for (offset, value) in [(0x08, length), (0x10, head), (0x18, tail)] {
                        driver.write(first + offset, value);
                    }
                }
            }
            driver.network.deliver(&frame(60));
        }
        assert_usable(&driver, "a ring that makes no sense");
    }
}

#[test]
fn a_tail_outside_of_the_ring_sends_nothing() {
    let driver = Driver::started();
    driver.memory.write(TX_RING, &legacy(DATA, 60, EOP | RS)).unwrap();
    driver.write(register::TDT, COUNT);
    // Between two frames the thread has looked at the ring.
    for index in 0..2 {
        driver.network.deliver(&frame(60));
        driver.received(index);
    }
    assert_eq!(driver.network.sent.lock().unwrap().len(), 0);
    driver.write(register::TDT, 1);
    driver.wait_sent(0);
    assert_usable(&driver, "a tail outside");
}

#[test]
fn buffers_that_are_no_ram_lose_their_packet_alone() {
    let driver = Driver::started();
    for (index, address) in (0..).zip(bad_addresses(&driver)) {
        driver.submit(&[legacy(address, 2000, EOP | RS), legacy(DATA, 60, 0), legacy(address, 60, EOP)]);
        driver.send(&frame(70));
        if address != ROM {
            assert_eq!(driver.network.sent(1), [frame(70)], "{address:#x}");
        }
        driver.network.sent.lock().unwrap().clear();
        driver.set_receive_descriptor(index, address);
    }
    for _ in 0..=6 {
        driver.network.deliver(&frame(1500));
    }
    assert_eq!(driver.received(6).length, 1500);
    assert_usable(&driver, "a buffer that is no RAM");
}

#[test]
fn packets_that_never_end_or_are_too_long_are_dropped() {
    let driver = Driver::started();
    for _ in 0..4 {
        let last = driver.submit(&[legacy(DATA, 0xFFFF, RS); COUNT as usize - 1]);
        driver.wait_sent(last);
        driver.memory.write(TX_RING, &[0; 16 * COUNT as usize]).unwrap();
    }
    driver.submit(&[legacy(DATA, 1, EOP)]);
    driver.submit(&[data(DATA, 0xF_FFFF, EOP, 3, 0)]);
    driver.submit(&[legacy(DATA, 16289, EOP)]);
    driver.submit(&[legacy(DATA, 13, EOP), legacy(DATA, 0, EOP), legacy(0, 100, EOP)]);
    driver.submit(&[legacy(DATA, 16288, EOP)]);
    assert_eq!(driver.network.sent(1)[0].len(), 16288);
    assert_usable(&driver, "a packet that is too long");
}

#[test]
fn segmentation_by_nonsense_is_dropped_and_counted() {
    let sound =
        Context { ip: (14, 24, 33), tcp: (34, 50, 0), payload: 1000, command: TSE | 3, header: 54, segment: 100 };
    let cases = [
        ("no payload in a segment", Context { segment: 0, ..sound }),
        ("no headers", Context { header: 0, ..sound }),
        ("headers that end in TCP's", Context { header: 53, ..sound }),
        ("an IP header behind all", Context { ip: (255, 255, 0), ..sound }),
        ("an IPv6 header that does not fit", Context { command: TSE | 1, ip: (15, 0, 0), ..sound }),
        ("a TCP header behind all", Context { tcp: (255, 255, 0), header: 255, ..sound }),
        ("segments larger than a frame", Context { segment: 0xFFFF, ..sound }),
        ("segments a byte too large", Context { segment: 16288 - 53, ..sound }),
    ];
    let driver = Driver::started();
    for (what, context) in cases {
        let last = driver.submit(&[context.bytes(), data(DATA, 1054, TSE | EOP | RS, 3, 0)]);
        driver.wait_sent(last);
        assert_eq!((driver.network.sent.lock().unwrap().len(), driver.read(0x40FC)), (0, 1), "{what}");
    }
    // The data ends within the headers, or with them; a checksum that lies outside is left out.
    let last = driver.submit(&[sound.bytes(), data(DATA, 53, TSE | EOP | RS, 3, 0)]);
    driver.wait_sent(last);
    assert_eq!(driver.read(0x40FC), 1);
    let odd = Context { ip: (14, 255, 3), tcp: (34, 255, 0), ..sound };
    driver.submit(&[odd.bytes(), data(DATA, 54, TSE | EOP | RS, 3, 0)]);
    assert_eq!(driver.network.sent(1)[0].len(), 54);
    assert_usable(&driver, "segmentation");
}

#[test]
fn a_context_that_changes_within_a_packet_counts_from_the_next_on() {
    let driver = Driver::started();
    let context =
        Context { ip: (14, 24, 33), tcp: (34, 50, 0), payload: 300, command: TSE | 3, header: 54, segment: 100 };
    let other = Context { segment: 1, header: 54, ..context };
    driver.submit(&[context.bytes(), data(DATA, 120, TSE, 3, 0), other.bytes(), data(DATA, 234, EOP, 3, 0)]);
    assert_eq!(driver.network.sent(3).iter().map(Vec::len).collect::<Vec<_>>(), [154; 3]);
    assert_usable(&driver, "a context within a packet");
}

#[test]
fn a_reset_ends_what_is_in_flight() {
    let driver = Driver::started();
    let context =
        Context { ip: (14, 24, 33), tcp: (34, 50, 0), payload: 0xF_FFFF, command: TSE | 3, header: 54, segment: 1 };
    for round in 0..8 {
        let large = data(DATA, 0xF_FFFF, TSE | EOP, 3, 0);
        driver.submit(&[context.bytes(), large, large, large, large]);
        driver.network.sent(1 + round * 50);
        match round % 4 {
            0 => driver.write(register::CTRL, ctrl::RST),
            1 => driver.write(register::TCTL, 0),
            2 => driver.set_master(false),
            _ => driver.card.reset(),
        }
        let sent = driver.network.sent.lock().unwrap().len();
        std::thread::yield_now();
        assert_eq!(driver.network.sent.lock().unwrap().len(), sent);
        assert!(driver.read(register::TDT) == 0 || driver.read(register::TDH) <= 5);
        assert_usable(&driver, "a reset in flight");
    }
}

#[test]
fn no_buffer_changes_once_the_receiver_is_disabled() {
    let driver = Driver::started();
    for round in 0..50 {
        for _ in 0..COUNT {
            driver.network.deliver(&frame(1500));
        }
        match round % 3 {
            0 => driver.write(register::RCTL, 0),
            1 => driver.write(register::CTRL, ctrl::RST),
            _ => driver.set_master(false),
        }
        (0..COUNT).for_each(|index| driver.offer(index));
        driver.write(register::TCTL, tctl::EN);
        driver.write(register::ICS, u32::MAX);
        for index in 0..COUNT {
            assert_eq!(driver.buffer(index, 1500), vec![0xEE; 1500]);
        }
        assert_usable(&driver, "a receiver that was disabled");
        driver.start(rctl::SECRC);
    }
}

#[test]
fn whoever_stops_the_card_waits_for_the_frame_in_flight() {
    type Stop = fn(&Driver);
    let stops: [(&str, Stop); 4] = [
        ("disabling", |driver| driver.write(register::TCTL, 0)),
        ("a reset", |driver| driver.write(register::CTRL, ctrl::RST)),
        ("losing the bus", |driver| driver.set_master(false)),
        ("a pause", |driver| driver.card.pause()),
    ];
    for (what, stop) in stops {
        let driver = Driver::started();
        let returned = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let gate = driver.network.gate.lock().unwrap();
            driver.submit(&[legacy(DATA, 60, EOP)]);
            eventually("sending", || driver.network.sending.load(Ordering::SeqCst));
            scope.spawn(|| {
                stop(&driver);
                returned.store(true, Ordering::SeqCst);
            });
            // Time for a stop that does not wait to return in; one that waits cannot.
            std::thread::sleep(Duration::from_millis(20));
            assert!(!returned.load(Ordering::SeqCst), "{what}");
            drop(gate);
        });
        assert!(returned.load(Ordering::SeqCst), "{what}");
        driver.card.resume();
        assert_usable(&driver, what);
    }
}

#[test]
fn what_was_begun_is_forgotten_when_its_half_is_disabled() {
    let driver = Driver::started();
    driver.write(register::RCTL, 0);
    driver.write(register::RDH, 0);
    driver.write(register::RDT, 1);
    let control = rctl::EN | rctl::SECRC | rctl::LPE;
    driver.write(register::RCTL, control);
    driver.network.deliver(&frame(5000));
    driver.received(0);
    let last = driver.submit(&[legacy(DATA, 1000, RS)]);
    driver.wait_sent(last);
    driver.write(register::RCTL, 0);
    driver.write(register::TCTL, 0);
    driver.offer(1);
    driver.write(register::RDT, 8);
    driver.write(register::TCTL, tctl::EN);
    driver.write(register::RCTL, control);
    driver.send(&frame(61));
    driver.network.deliver(&frame(77));
    assert_eq!((driver.network.sent(1), driver.received(1).length), (vec![frame(61)], 77));
}

#[test]
fn no_doorbell_is_lost() {
    let driver = Driver::started();
    for _ in 0..20_000 {
        driver.send(&frame(60));
    }
    assert_eq!(driver.network.sent(20_000).len(), 20_000);
}

#[test]
fn a_ring_without_buffers_loses_frames() {
    let driver = Driver::started();
    (0..COUNT).for_each(|index| driver.set_receive_descriptor(index, 0));
    driver.write(register::RDT, u32::MAX);
    driver.network.deliver(&frame(60));
    driver.network.deliver(&frame(60));
    eventually("an end", || driver.network.arriving.lock().unwrap().is_empty());
    driver.send(&frame(61));
    assert_usable(&driver, "a ring without buffers");
}

#[test]
fn a_ring_over_its_own_buffers_spoils_only_itself() {
    let driver = Driver::started();
    for index in 0..COUNT {
        driver.set_receive_descriptor(index, RX_RING + 8);
    }
    for _ in 0..COUNT {
        driver.network.deliver(&frame(1500));
    }
    driver.submit(&[legacy(TX_RING, 256, EOP | RS); 8]);
    assert_usable(&driver, "a ring over its buffers");
}

/// A card in the middle of a segmented packet and of a long frame.
fn halfway(driver: &Driver) {
    driver.start(rctl::SECRC | rctl::LPE);
    driver.write(register::RCTL, 0);
    driver.write(register::RDH, 0);
    driver.write(register::RDT, 1);
    driver.write(register::RCTL, rctl::EN | rctl::SECRC | rctl::LPE);
    driver.network.deliver(&frame(3000));
    driver.received(0);
    driver.memory.write(DATA, &frame(500)).unwrap();
    let context =
        Context { ip: (14, 24, 33), tcp: (34, 50, 0), payload: 300, command: TSE | 3, header: 54, segment: 100 };
    let last = driver.submit(&[context.bytes(), data(DATA, 200, TSE | RS, 3, 0)]);
    driver.wait_sent(last);
    driver.write(register::IMS, u32::MAX);
    driver.pci.pause();
}

#[test]
fn a_saved_card_goes_on_in_another_machine() {
    let one = Driver::new();
    halfway(&one);
    let saved = one.pci.save();
    let other = Driver::with_memory(one.memory.clone());
    other.pci.pause();
    other.pci.load(&saved).unwrap();
    assert_eq!(other.pci.save(), saved);
    assert!(other.line());
    other.pci.resume();
    other.write(register::RDT, 3);
    assert_eq!((other.received(1).length, other.received(1).status & 2), (952, 2));
    assert_eq!([other.buffer(0, 2048), other.buffer(1, 952)].concat(), frame(3000));
    other.submit(&[data(DATA + 200, 154, TSE | EOP, 0, 0)]);
    let sizes: Vec<usize> = other.network.sent(2).iter().map(Vec::len).collect();
    assert_eq!((one.network.sent(1).len(), sizes), (1, vec![154, 154]));
    assert_usable(&other, "a loaded card");
}

#[test]
fn a_pause_stops_everything_and_a_resume_goes_on() {
    let driver = Driver::started();
    driver.pci.pause();
    driver.submit(&[legacy(DATA, 60, EOP | RS)]);
    driver.network.deliver(&frame(60));
    driver.write(register::RCTL, rctl::EN | rctl::SECRC | rctl::UPE);
    assert_eq!((driver.read(register::TDH), driver.read(register::RDH)), (0, 0));
    driver.pci.resume();
    driver.wait_sent(0);
    assert_eq!(driver.received(0).length, 60);
}

#[test]
fn states_cut_short_or_too_long_are_refused() {
    let driver = Driver::new();
    halfway(&driver);
    let saved = driver.card.save();
    for length in 0..saved.len() {
        assert!(driver.card.load(&saved[..length]).unwrap_err().contains("net0"), "{length}");
    }
    assert!(driver.card.load(&[&saved[..], &[0]].concat()).is_err());
    driver.card.load(&saved).unwrap();
    assert_eq!(driver.card.save(), saved);
}

#[test]
fn states_that_no_card_can_be_in_are_refused() {
    let driver = Driver::new();
    halfway(&driver);
    let saved = driver.card.save();
    let refused = |saved: &[u8], at: usize, bytes: &[u8], why: &str| {
        let mut state = saved.to_vec();
        state[at..at + bytes.len()].copy_from_slice(bytes);
        let error = driver.card.load(&state).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    // What was stored of the frame lies 8 bytes before the end.
    refused(&saved, saved.len() - 8, &3000u16.to_le_bytes(), "more was stored");
    // The packet's own context is the last one; MSS is at its end.
    let context =
        Context { ip: (14, 24, 33), tcp: (34, 50, 0), payload: 300, command: TSE | 3, header: 54, segment: 100 };
    let at = saved.windows(16).rposition(|bytes| bytes == context.bytes()).unwrap();
    refused(&saved, at + 14, &[1, 0], "longer than one can be");
    refused(&saved, at + 14, &[0, 0], "longer than one can be");
    driver.card.load(&saved).unwrap();

    // In the middle of a descriptor, what is done of it lies in front of a receiver without a frame, of 12 bytes.
    let driver = Driver::started();
    let large = data(DATA, 0xF_FFFF, TSE | EOP, 3, 0);
    driver.submit(&[Context { segment: 1, ..context }.bytes(), large, large]);
    driver.network.sent(1);
    driver.card.pause();
    let saved = driver.card.save();
    let done = saved.len() - 16;
    refused(&saved, done, &0x10_0000u32.to_le_bytes(), "more was sent");
    refused(&saved, done - 8, &[8], "more was sent");
    driver.card.load(&saved).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever stands in a saved state: it is refused, or it is harmless.
    #[test]
    fn tampered_states_are_harmless(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..40)
    ) {
        let driver = Driver::new();
        halfway(&driver);
        let mut state = driver.card.save();
        let length = state.len();
        for (index, value, place) in changes {
            // Half of them where the packet and the frame are.
            let at = if place == 0 { index.index(length) } else { length - 1 - index.index(length.min(3400)) };
            state[at] = value;
        }
        let _ = driver.card.load(&state);
        driver.pci.resume();
        driver.network.deliver(&frame(600));
        driver.write(register::TDT, COUNT - 1);
        driver.write(register::RDT, COUNT - 1);
        assert_usable(&driver, "a tampered state");
    }

    /// Random accesses of every size at every register and port break nothing.
    #[test]
    fn random_accesses_break_nothing(
        accesses in prop::collection::vec((any::<u32>(), 0usize..4, any::<u32>(), 0u8..4, 0u8..6), 0..300)
    ) {
        let driver = Driver::started();
        let likely = [
            register::CTRL, register::EECD, register::MDIC, register::RCTL, register::TCTL, register::RDH, register::RDT,
            register::RDLEN, register::TDH, register::TDT, register::TDLEN, register::IMS, register::ICS, register::ICR,
            register::TDBAL, register::RDBAL, register::RXCSUM,
        ];
        for (offset, size, value, kind, region) in accesses {
            let size = 1 << size;
            let (offset, size) = match region {
                0..3 => (likely[offset as usize % likely.len()], 4),
                3 => (offset % 0x6000, size),
                _ => (offset % register::SIZE, size),
            };
            // Small values are likelier to mean something, and enabling bits to be set.
            let value = match value % 4 {
                0 => value >> 8 & 0x1F,
                1 => value | 2,
                _ => value,
            };
            match kind {
                0 => driver.buses.mmio_write(driver.base + u64::from(offset), &u64::from(value).to_le_bytes()[..size]),
                1 => driver.buses.mmio_read(driver.base + u64::from(offset), &mut [0; 8][..size]),
                2 => driver.network.deliver(&frame(60 + offset as usize % 3000)),
                _ => {
                    driver.buses.pio_write(driver.port, 4, offset);
                    driver.buses.pio_write(driver.port + 4, 4, value);
                    driver.buses.pio_read(driver.port + (offset % 64) as u16, size.min(4) as u8);
                }
            }
        }
        assert_usable(&driver, "random accesses");
    }

    /// Random descriptors are served to their end, and no memory changes but buffers and descriptors.
    #[test]
    fn random_descriptors_break_nothing(
        words in prop::collection::vec((DATA..RAM + 0x1000, any::<u64>(), 0u8..4), COUNT as usize - 1),
        buffers in prop::collection::vec(BUFFERS..RAM + 0x1000, COUNT as usize),
        control in any::<u32>(),
    ) {
        let driver = Driver::started();
        driver.write(register::CTRL, driver.read(register::CTRL) | control & ctrl::VME);
        for (index, address) in (0..).zip(buffers) {
            driver.set_receive_descriptor(index, address);
        }
        driver.write(register::RCTL, control & 0x0603_0300 | rctl::EN | rctl::LPE | rctl::UPE);
        let descriptors: Vec<[u8; 16]> = words
            .iter()
            .map(|(address, rest, kind)| {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&address.to_le_bytes());
                bytes[8..].copy_from_slice(&rest.to_le_bytes());
                // Mostly of a kind that there is, with lengths that are not all too large, and a last one with RS.
                match kind {
                    0 => bytes[11] &= !DEXT,
                    1 => (bytes[10], bytes[11]) = (0x10 | bytes[10] & 1, bytes[11] | DEXT),
                    2 => (bytes[10], bytes[11], bytes[15]) = (0, bytes[11] | DEXT | TSE, bytes[15] & 3),
                    _ => {}
                }
                bytes
            })
            .collect();
        driver.submit(&descriptors);
        for length in [60, 1500, 9000] {
            driver.network.deliver(&frame(length));
        }
        eventually("an end", || driver.read(register::TDH) == driver.read(register::TDT));
        for frame in driver.network.sent.lock().unwrap().iter() {
            prop_assert!((14..=16292).contains(&frame.len()));
        }
        prop_assert_eq!(driver.bytes(0, 0x1_0000), vec![0; 0x1_0000]);
        assert_usable(&driver, "random descriptors");
    }
}
