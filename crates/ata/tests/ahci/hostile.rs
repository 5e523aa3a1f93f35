use crate::driver::*;
use crate::harness::{RAM, cdrom, disk, eventually, image, numbered};
use block::Medium;
use proptest::prelude::*;
use std::fs::File;

fn machine(file: &File, disc: &File) -> Hba {
    let medium = Medium::new(Some(image(disc)));
    Hba::new([disk(file), cdrom(&medium), None, None, None, None])
}

/// Both drives still work, whatever was done to them.
fn check(hba: &Hba) {
    hba.set_master(true);
    hba.write(GHC, HR);
    eventually("the end of the reset", || hba.read(GHC) & HR == 0);
    for port in [hba.port(0), hba.port(1)] {
        port.write(0x04, 0);
        port.write(0x0C, 0);
        port.start();
    }
    hba.port(0).ok(&Command::new(0x42, 0, 0, 1));
    // Perhaps there is news.
    for _ in 0..3 {
        hba.port(1).run(&Command::packet(&[0x00], true));
        hba.port(1).restart();
    }
    hba.port(1).ok(&Command::packet(&[0x12, 0, 0, 0, 36], true).with(DATA, 36));
}

#[derive(Clone, Debug)]
enum Step {
    /// Offset, bytes, value.
    Write(u64, u8, u64),
    Read(u64, u8),
    /// A port's slot, and what is in it.
    Slot(u64, u8, Command, bool),
    Stop(u64),
    Reset(u64),
    Memory(u64, u64),
    Master(bool),
    Snapshot,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![8 => (0u64..2, 0u64..0x40).prop_map(|(port, at)| 0x100 + port * 0x80 + at), 1 => 0u64..0x1000]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![6 => DATA..DATA + 0x1000, 1 => Just(RAM - 4), 1 => Just(LISTS), 1 => Just(RECEIVED), 1 => any::<u64>()]
}

fn command() -> impl Strategy<Value = Command> {
    let commands = [
        0x20, 0x24, 0x25, 0x2F, 0x30, 0x35, 0x42, 0x47, 0x60, 0x61, 0xA0, 0xA1, 0xC6, 0xC8, 0xCA, 0xEC, 0xEF, 0x08,
        0x90, 6,
    ];
    let code = prop_oneof![9 => proptest::sample::select(commands.to_vec()), 1 => any::<u8>()];
    let small = prop_oneof![4 => 0u16..16, 1 => any::<u16>()];
    let lba = prop_oneof![4 => 0u64..256, 1 => any::<u64>()];
    let packet = prop_oneof![2 => Just(None), 3 => any::<[u8; 16]>().prop_map(|mut bytes| {
        let operations = [0x03, 0x12, 0x25, 0x28, 0x43, 0x46, 0x4A, 0x5A, 0xA8, 0xBE];
        bytes[0] = operations[usize::from(bytes[0]) % operations.len()];
        bytes[2..5].fill(0);
        Some(bytes.to_vec())
    })];
    let descriptors =
        proptest::collection::vec((address(), prop_oneof![0u32..5000, any::<u32>()], any::<bool>()), 0..6);
    let kind = prop_oneof![9 => Just((0x27, 0x80)), 1 => Just((0x27, 0)), 1 => any::<(u8, u8)>()];
    (code, small.clone(), lba, small, packet, descriptors, kind).prop_map(
        |(code, features, lba, count, packet, descriptors, (kind, how))| {
            let mut command = Command::new(code, features, lba, count);
            (command.fis[0], command.fis[1]) = (kind, how);
            Command { packet, descriptors, ..command }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let size = proptest::sample::select(vec![1u8, 2, 4, 8]);
    let value = prop_oneof![any::<u64>(), 0u64..64];
    prop_oneof![
        6 => (offset(), size.clone(), value).prop_map(|(at, size, value)| Step::Write(at, size, value)),
        3 => (offset(), size).prop_map(|(at, size)| Step::Read(at, size)),
        12 => (0u64..2, 0u8..32, command(), any::<bool>())
            .prop_map(|(port, slot, command, own)| Step::Slot(port, slot, command, own)),
        2 => (0u64..2).prop_map(Step::Stop),
        1 => (0u64..2).prop_map(Step::Reset),
        1 => (address(), any::<u64>()).prop_map(|(at, value)| Step::Memory(at, value)),
        1 => any::<bool>().prop_map(Step::Master),
        1 => Just(Step::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_accesses_harms(steps in proptest::collection::vec(step(), 1..120)) {
        let (file, disc) = (numbered(512, 256), numbered(2048, 64));
        let hba = machine(&file, &disc);
        hba.started(0);
        hba.started(1);
        for step in &steps {
            match step {
                Step::Write(at, size, value) => {
                    let at = at & !u64::from(size - 1);
                    hba.write_bytes(at, &value.to_le_bytes()[..usize::from(*size)]);
                }
                Step::Read(at, size) => _ = hba.read_bytes(at & !u64::from(size - 1), usize::from(*size)),
                Step::Slot(port, slot, command, own) => {
                    let port = hba.port(*port);
                    let mut command = command.clone();
                    // A tag of its own, mostly what a driver would do.
                    if *own && matches!(command.fis[2], 0x60 | 0x61) {
                        command.fis[12] = slot << 3;
                        port.write(SACT, 1 << slot);
                    }
                    port.fill(*slot, &command);
                    port.issue(1 << slot);
                }
                Step::Stop(port) => hba.port(*port).write(CMD, FRE),
                Step::Reset(port) => {
                    let port = hba.port(*port);
                    port.write(SCTL, 0x301);
                    port.write(SCTL, 0x300);
                    port.write(CLB, port.list() as u32);
                    port.write(FB, port.received() as u32);
                    port.write(CMD, FRE | ST);
                }
                Step::Memory(at, value) => _ = hba.memory.write(*at, &value.to_le_bytes()),
                Step::Master(master) => hba.set_master(*master),
                Step::Snapshot => hba.load(&hba.snapshot()).unwrap(),
            }
        }
        check(&hba);
        prop_assert_eq!(file.metadata().unwrap().len(), 256 * 512);
        prop_assert_eq!(disc.metadata().unwrap().len(), 64 * 2048);
    }

    #[test]
    fn no_state_harms(at in any::<[u16; 4]>(), values in any::<[u8; 4]>(), busy in 0usize..4) {
        let (file, disc) = (numbered(512, 256), numbered(2048, 64));
        let hba = machine(&file, &disc);
        let [disk, cd] = [hba.started(0), hba.started(1)];
        hba.set_master(false);
        match busy {
            1 => disk.enqueue(&[(1, Command::queued(false, 1, 0, 8).with(DATA, 4096)), (2, Command::queued(true, 2, 8, 8).with(DATA, 4096))]),
            2 => {
                disk.fill(0, &Command::new(0x25, 0, 0, 8).with(DATA, 4096));
                disk.issue(1);
            }
            3 => {
                cd.fill(0, &Command::packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 60], true).with(DATA, 1 << 17));
                cd.issue(1);
            }
            _ => {}
        }
        let mut state = hba.snapshot();
        let front = state.len();
        for (at, value) in at.into_iter().zip(values) {
            state[usize::from(at) % front] = value;
        }
        let _ = hba.load(&state);
        hba.set_master(true);
        check(&hba);
        prop_assert!(hba.load(&state[..state.len() - 1]).is_err());
        check(&hba);
    }
}

#[test]
fn a_state_that_ends_early_or_late_is_refused() {
    let (file, disc) = (numbered(512, 256), numbered(2048, 64));
    let hba = machine(&file, &disc);
    hba.started(0);
    let state = hba.snapshot();
    for length in 0..state.len() {
        assert!(hba.load(&state[..length]).is_err(), "{length} bytes");
    }
    assert!(hba.load(&[&state[..], &[0]].concat()).unwrap_err().contains("too many"));
    check(&hba);
    hba.load(&state).unwrap();
}

#[test]
fn the_most_descriptors_there_can_be_are_bounded_work() {
    let hba = Hba::new([disk(&numbered(512, 256)), None, None, None, None, None]);
    let port = hba.started(0);
    // 65,535 descriptors of two bytes each, and a command that wants more.
    let table = 0x40_0000;
    hba.put(table, &Command::new(0x25, 0, 0, 256).fis);
    for index in 0..0xFFFF {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&(DATA + index * 4).to_le_bytes());
        descriptor[12] = 1;
        hba.put(table + 0x80 + 16 * index, &descriptor);
    }
    port.fill_header(3, 5, 0xFFFF, table);
    port.issue(1 << 3);
    eventually("the end", || port.read(CI) == 0);
    assert_eq!((port.byte_count(3), port.read(TFD), port.read(PXIS)), (0x1FFFE, 0x50, OFS | DHRS));
}

#[test]
fn a_command_list_that_its_own_data_overwrite_ends() {
    let hba = Hba::new([disk(&numbered(512, 256)), None, None, None, None, None]);
    let port = hba.started(0);
    for slot in 0..32 {
        port.fill(slot, &Command::new(0x25, 0, 0, 64).with(LISTS, 0x400).with(RECEIVED, 0x400).with(TABLES, 0x7800));
    }
    port.issue(u32::MAX);
    eventually("an end", || port.read(CI) == 0 || port.read(PXIS) & (TFES | HBFS | IFS) != 0);
    port.comreset();
    port.ok(&Command::new(0x42, 0, 0, 1));
}
