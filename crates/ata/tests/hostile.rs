//! What hostile drivers and damaged states do.
#![allow(missing_docs)]

mod harness;

use block::Medium;
use harness::{DATA, Pc, READY, TABLE, cdrom, disk, image, numbered};
use proptest::prelude::*;
use std::fs::File;

fn machine(file: &File, disc: &File) -> Pc {
    let medium = Medium::new(Some(image(disc)));
    Pc::new([disk(file), cdrom(&medium), None, disk(file)])
}

/// Both channels still work, whatever was done to them.
fn check(pc: &Pc) {
    for (port, drive) in [(pc.primary(), 0), (pc.secondary(), 1)] {
        port.reset();
        port.stop_master();
        port.select(drive);
        assert_eq!(port.run(0x40, 0, 0, 1), READY);
    }
    let port = pc.primary();
    port.select(1);
    // Perhaps there is news.
    let _ = port.packet_in(&[0x00], 2);
    let _ = port.packet_in(&[0x00], 2);
    port.packet_in(&[0x12, 0, 0, 0, 36], 512);
    assert_eq!(port.status() & 1, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u16, u8, u32),
    Read(u16, u8),
    /// A register of the primary channel's bus master.
    Master(u16, u8, u32),
    /// The data register several times.
    Data(bool, u16),
    Packet([u8; 12]),
    Table(u32, u32, u32),
    Snapshot,
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0x1F0u16..0x1F8, 1 => Just(0x3F6u16), 2 => 0x170u16..0x178, 1 => Just(0x376u16)]
}

fn size() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(1u8), 1 => Just(2u8), 1 => Just(4u8)]
}

/// Values that mean something more often than chance has it.
fn value() -> impl Strategy<Value = u32> {
    let commands =
        [0x20, 0x24, 0x25, 0x30, 0x35, 0x40, 0xA0, 0xA1, 0xC4, 0xC5, 0xC6, 0xC8, 0xCA, 0xEC, 0xEF, 0x08, 0x90, 6];
    prop_oneof![3 => any::<u32>(), 4 => proptest::sample::select(commands.to_vec()), 3 => 0u32..4]
}

fn packet() -> impl Strategy<Value = [u8; 12]> {
    let operations = [
        0x03, 0x12, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x42, 0x43, 0x46, 0x4A, 0x51, 0x52, 0x5A, 0xA8, 0xAD, 0xB9, 0xBD,
        0xBE,
    ];
    (proptest::sample::select(operations.to_vec()), any::<[u8; 11]>(), any::<bool>()).prop_map(
        |(operation, rest, small)| {
            let mut packet = [0; 12];
            packet[0] = operation;
            packet[1..].copy_from_slice(&rest);
            if small {
                packet[2..5].fill(0);
                packet[6..8].fill(0);
            }
            packet
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (port(), size(), value()).prop_map(|(port, size, value)| Step::Write(port, size, value)),
        6 => (port(), size()).prop_map(|(port, size)| Step::Read(port, size)),
        4 => (0u16..16, size(), value()).prop_map(|(port, size, value)| Step::Master(port, size, value)),
        1 => Just(Step::Master(4, 4, TABLE)),
        3 => (any::<bool>(), 1u16..600).prop_map(|(write, count)| Step::Data(write, count)),
        3 => packet().prop_map(Step::Packet),
        3 => (0u32..8, prop_oneof![any::<u32>(), Just(DATA)], any::<u32>()).prop_map(|(at, a, b)| Step::Table(at, a, b)),
        1 => Just(Step::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_accesses_harms(steps in proptest::collection::vec(step(), 1..200)) {
        let (file, disc) = (numbered(512, 256), numbered(2048, 64));
        let pc = machine(&file, &disc);
        use hv::Bus;
        let master = (pc.config(0x20, 4) & !3) as u16;
        for step in &steps {
            match step {
                Step::Write(port, size, value) => pc.buses.pio_write(*port, *size, *value),
                Step::Read(port, size) => _ = pc.buses.pio_read(*port, *size),
                Step::Master(port, size, value) => pc.buses.pio_write(master + port, *size, *value),
                Step::Data(true, count) => (0..*count).for_each(|value| pc.buses.pio_write(0x1F0, 2, value.into())),
                Step::Data(false, count) => (0..*count).for_each(|_| _ = pc.buses.pio_read(0x1F0, 2)),
                Step::Packet(packet) => {
                    pc.buses.pio_write(0x1F6, 1, 0xB0);
                    pc.buses.pio_write(0x1F7, 1, 0xA0);
                    for pair in packet.chunks_exact(2) {
                        pc.buses.pio_write(0x1F0, 2, u16::from_le_bytes([pair[0], pair[1]]).into());
                    }
                }
                Step::Table(at, address, word) => pc.set_table(TABLE + at * 8, &[(*address, *word, word >> 31 != 0)]),
                Step::Snapshot => pc.load(&pc.snapshot()).unwrap(),
            }
        }
        check(&pc);
        prop_assert_eq!(file.metadata().unwrap().len(), 256 * 512);
        prop_assert_eq!(disc.metadata().unwrap().len(), 64 * 2048);
    }

    #[test]
    fn no_state_harms(at in any::<[u16; 4]>(), values in any::<[u8; 4]>(), busy in 0usize..4) {
        let (file, disc) = (numbered(512, 256), numbered(2048, 64));
        let pc = machine(&file, &disc);
        let port = pc.primary();
        match busy {
            1 => port.start(0x20, 0, 3, 200),
            2 => port.start(0xC8, 0, 3, 200),
            3 => {
                port.select(1);
                port.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 60], 2000, false);
            }
            _ => {}
        }
        let mut state = pc.snapshot();
        // The front of it is what is not data.
        let front = state.len().min(300);
        for (at, value) in at.into_iter().zip(values) {
            state[usize::from(at) % front] = value;
        }
        let _ = pc.load(&state);
        for _ in 0..600 {
            port.read_block(2);
            port.status();
        }
        check(&pc);
        prop_assert!(pc.load(&state[..state.len() - 1]).is_err());
        check(&pc);
    }
}

#[test]
fn a_state_that_ends_early_or_late_is_refused() {
    let (file, disc) = (numbered(512, 256), numbered(2048, 64));
    let pc = machine(&file, &disc);
    pc.primary().start(0xC4, 0, 3, 200);
    let state = pc.snapshot();
    for length in 0..state.len() {
        assert!(pc.load(&state[..length]).is_err(), "{length} bytes");
    }
    assert!(pc.load(&[&state[..], &[0]].concat()).unwrap_err().contains("too many"));
    check(&pc);
    pc.load(&state).unwrap();
}
