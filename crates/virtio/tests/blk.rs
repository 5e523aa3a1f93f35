//! virtio-blk seen by a driver, good and bad.

mod driver;

use block::RawFile;
use driver::{DATA, Driver, INDIRECT, READ, WRITE, eventually};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use virtio::{Blk, BlkOptions, feature};

const SIZE: u64 = 4 << 20;
const STATUS: u64 = DATA + 0x800;
const FLUSH_FEATURE: u64 = 1 << 9;

/// A file whose sector `n` is full of the byte `n`.
fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 512) as u8).collect();
    file.write_all_at(&content, 0).unwrap();
    file
}

fn raw(file: &File, readonly: bool) -> Arc<RawFile> {
    Arc::new(RawFile::new(file.try_clone().unwrap(), readonly).unwrap())
}

fn disk(file: &File, options: BlkOptions) -> Arc<Blk> {
    Arc::new(Blk::new("disk0", raw(file, false), options).unwrap())
}

fn started(file: &File, options: BlkOptions) -> Driver {
    let mut driver = Driver::new(disk(file, options));
    driver.start(FLUSH_FEATURE | feature::RING_INDIRECT_DESC);
    driver
}

fn header(driver: &Driver, kind: u32, sector: u64) {
    let mut bytes = [0; 16];
    bytes[0..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&sector.to_le_bytes());
    driver.memory.write(DATA, &bytes).unwrap();
}

/// Sends a request with these data buffers; returns its status and the bytes written.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
    header(driver, kind, sector);
    driver.memory.write(STATUS, &[0xEE]).unwrap();
    let chain = [&[(DATA, 16, READ)], data, &[(STATUS, 1, WRITE)]].concat();
    let head = driver.submit(0, &chain);
    let (used, written) = driver.wait(0);
    assert_eq!(used, head);
    (driver.bytes(STATUS, 1)[0], written)
}

#[test]
fn reads_and_writes_move_the_right_bytes() {
    let file = file();
    let mut driver = started(&file, BlkOptions::default());
    let buffers = [(0x20_0003, 700, WRITE), (0x30_0000, 836, WRITE)];
    assert_eq!(request(&mut driver, 0, 5, &buffers), (0, 1537));
    let read = [driver.bytes(0x20_0003, 700), driver.bytes(0x30_0000, 836)].concat();
    assert_eq!(read, [vec![5; 512], vec![6; 512], vec![7; 512]].concat());
    driver.memory.write(0x20_0000, &[0xAB; 1024]).unwrap();
    assert_eq!(request(&mut driver, 1, 100, &[(0x20_0000, 1000, READ), (0x20_03E8, 24, READ)]), (0, 1));
    let mut back = [0; 2048];
    file.read_exact_at(&mut back, 99 * 512).unwrap();
    assert_eq!(back.to_vec(), [vec![99; 512], vec![0xAB; 1024], vec![102; 512]].concat());
    eventually("an interrupt for each", || driver.messages(1) == 2);
}

#[test]
fn memory_is_left_alone_without_bus_mastering() {
    let file = file();
    let mut driver = Driver::new(disk(&file, BlkOptions::default()));
    driver.set_master(false);
    driver.start(FLUSH_FEATURE);
    header(&driver, 0, 5);
    driver.memory.write(STATUS, &[0xEE]).unwrap();
    let head = driver.submit(0, &[(DATA, 16, READ), (0x20_0000, 512, WRITE), (STATUS, 1, WRITE)]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!((driver.bytes(STATUS, 1), driver.bytes(0x20_0000, 512)), (vec![0xEE], vec![0; 512]));
    assert_eq!((driver.used(0), driver.messages(1), driver.status()), (None, 0, 0x0F));
    // What waits is served as soon as it may be, and no longer.
    driver.set_master(true);
    assert_eq!(driver.wait(0), (head, 513));
    assert_eq!(driver.bytes(0x20_0000, 512), vec![5; 512]);
    driver.set_master(false);
    driver.submit(0, &[(DATA, 16, READ), (0x30_0000, 512, WRITE), (STATUS, 1, WRITE)]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(driver.bytes(0x30_0000, 512), vec![0; 512]);
}

#[test]
fn a_header_in_pieces_and_an_indirect_table_are_the_same_request() {
    let file = file();
    let mut driver = started(&file, BlkOptions::default());
    header(&driver, 0, 9);
    let table = 0x40_0000;
    let buffers = [(DATA, 3, READ), (DATA + 3, 13, READ), (0x20_0000, 512, WRITE), (STATUS, 1, WRITE)];
    for (index, (address, size, writes)) in (0..).zip(buffers) {
        let flags = if writes { 2 } else { 0 } | if index < 3 { 1 } else { 0 };
        driver.set_descriptor(table + 16 * u64::from(index), address, size, flags, index + 1);
    }
    driver.set_descriptor(driver.queues[0].descriptors, table, 64, INDIRECT, 0);
    driver.publish(0, 0);
    driver.notify(0);
    assert_eq!(driver.wait(0), (0, 513));
    assert_eq!(driver.bytes(0x20_0000, 512), vec![9; 512]);
}

#[test]
fn requests_off_the_disk_or_of_odd_size_fail_without_moving_anything() {
    let file = file();
    let mut driver = started(&file, BlkOptions::default());
    let last = SIZE / 512;
    for (sector, size) in
        [(last, 512), (last - 1, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511), (1 << 55, 512)]
    {
        assert_eq!(request(&mut driver, 0, sector, &[(0x20_0000, size, WRITE)]), (1, 1), "{sector:#x}");
        assert_eq!(request(&mut driver, 1, sector, &[(0x20_0000, size, READ)]), (1, 1), "{sector:#x}");
    }
    assert_eq!(driver.bytes(0x20_0000, 1024), vec![0; 1024]);
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    assert_eq!(request(&mut driver, 77, 0, &[]), (2, 1));
    let too_much = vec![(0x20_0000, 1 << 21, WRITE); 200];
    assert_eq!(request(&mut driver, 0, 0, &too_much), (1, 1));
    assert_eq!(driver.status(), 0x0F);
}

#[test]
fn a_file_that_has_shrunk_is_an_error_for_the_guest_alone() {
    let file = file();
    let mut driver = started(&file, BlkOptions::default());
    file.set_len(1024).unwrap();
    assert_eq!(request(&mut driver, 0, 1, &[(0x20_0000, 1024, WRITE)]), (1, 1));
    assert_eq!(request(&mut driver, 0, 1, &[(0x20_0000, 512, WRITE)]), (0, 513));
}

#[test]
fn a_read_only_disk_refuses_writes_and_says_so() {
    let file = file();
    let disk = Blk::new("disk0", raw(&file, true), BlkOptions::default()).unwrap();
    let mut driver = Driver::new(Arc::new(disk));
    assert_eq!(driver.read(0x04, 4) & (1 << 5), 1 << 5);
    driver.start(FLUSH_FEATURE | 1 << 5);
    for kind in [1, 11, 13] {
        assert_eq!(request(&mut driver, kind, 0, &[(0x20_0000, 512, READ)]).0, 1);
    }
    let mut first = [1; 512];
    file.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, [0; 512]);
}

#[test]
fn flush_id_discard_and_write_zeroes() {
    let file = file();
    let mut driver = started(&file, BlkOptions { serial: "wirt-0001".into(), ..BlkOptions::default() });
    assert_eq!(request(&mut driver, 4, 0, &[]), (0, 1));
    assert_eq!(request(&mut driver, 8, 0, &[(0x20_0000, 20, WRITE)]), (0, 21));
    assert_eq!(driver.bytes(0x20_0000, 20), b"wirt-0001\0\0\0\0\0\0\0\0\0\0\0");
    let range = |driver: &Driver, sector: u64, count: u32, flags: u32| {
        let bytes = [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat();
        driver.memory.write(0x20_0000, &bytes).unwrap();
    };
    for (kind, sector, count, flags, status) in [
        (13, 8, 2, 0, 0),
        (13, 16, 8, 1, 0),
        (11, 32, 8, 0, 0),
        (11, 32, 8, 1, 2),
        (13, 32, 8, 2, 2),
        (13, SIZE / 512 - 1, 2, 0, 1),
        (13, u64::MAX, u32::MAX, 0, 1),
    ] {
        range(&driver, sector, count, flags);
        assert_eq!(request(&mut driver, kind, 0, &[(0x20_0000, 16, READ)]).0, status, "{kind} {sector:#x} {flags}");
    }
    assert_eq!(request(&mut driver, 13, 0, &[(0x20_0000, 15, READ)]).0, 2);
    let mut back = vec![1; 64 * 512];
    file.read_exact_at(&mut back, 0).unwrap();
    for (sector, expected) in [(7, 7), (8, 0), (9, 0), (10, 10), (16, 0), (23, 0), (24, 24), (63, 63)] {
        assert_eq!(back[sector * 512..][..512], [expected; 512], "sector {sector}");
    }
}

#[test]
fn the_write_back_switch_is_a_register() {
    let driver = started(&file(), BlkOptions::default());
    let at = virtio::layout::DEVICE + 32;
    assert_eq!(driver.read(at, 1), 1);
    driver.write(at, 1, 0);
    driver.write(at - 32, 8, 0);
    assert_eq!((driver.read(at, 1), driver.read(at - 32, 8)), (0, SIZE / 512));
}

#[test]
fn unusable_files_and_options_are_refused_in_a_sentence() {
    let file = tempfile::tempfile().unwrap();
    let new = |options| Blk::new("disk7", raw(&file, false), options).err().unwrap();
    assert!(new(BlkOptions::default()).contains("disk7 has 0 bytes"));
    file.set_len(1000).unwrap();
    assert!(new(BlkOptions::default()).contains("truncate"));
    file.set_len(1024).unwrap();
    assert!(new(BlkOptions { serial: "x".repeat(21), ..BlkOptions::default() }).contains("serial"));
    assert!(new(BlkOptions { queues: 17, ..BlkOptions::default() }).contains("queues"));
}

#[test]
fn a_reset_with_requests_in_flight_ends_all_dma() {
    let file = file();
    let mut driver = started(&file, BlkOptions::default());
    for round in 0..20 {
        header(&driver, 0, 0);
        for _ in 0..80 {
            let head = driver.lay(0, &[(DATA, 16, READ), (0x20_0000, 1 << 20, WRITE), (STATUS, 1, WRITE)]);
            driver.publish(0, head);
        }
        driver.notify(0);
        if round % 2 == 1 {
            eventually("the first completion", || driver.used(0).is_some());
        }
        driver.write(0x14, 1, 0);
        driver.memory.write(0x20_0000, &vec![0x55; 1 << 20]).unwrap();
        let rings = driver.bytes(0x1_0000, 0xC000);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(driver.bytes(0x20_0000, 1 << 20) == vec![0x55; 1 << 20] && driver.bytes(0x1_0000, 0xC000) == rings);
        driver.start(FLUSH_FEATURE);
    }
    assert_eq!(request(&mut driver, 0, 3, &[(0x20_0000, 512, WRITE)]), (0, 513));
}

#[test]
fn several_queues_are_served() {
    let file = file();
    let mut driver = started(&file, BlkOptions { queues: 3, ..BlkOptions::default() });
    assert_eq!(driver.queues.len(), 3);
    header(&driver, 0, 4);
    for queue in 0..3 {
        driver.submit(queue, &[(DATA, 16, READ), (0x20_0000, 512, WRITE), (STATUS, 1, WRITE)]);
        assert_eq!(driver.wait(queue).1, 513);
        eventually("the queue's own vector", || driver.messages(queue + 1) == 1);
    }
}

#[test]
fn a_snapshot_goes_on_in_another_machine() {
    let file = file();
    let mut driver = started(&file, BlkOptions::default());
    assert_eq!(request(&mut driver, 0, 3, &[(0x20_0000, 512, WRITE)]), (0, 513));
    let state = driver.snapshot();
    let other = Driver::with_memory(disk(&file, BlkOptions::default()), driver.memory.clone());
    other.pci.pause();
    board::Device::load(&*other.pci, &state).unwrap();
    let mut other = Driver { queues: driver.queues.clone(), ..other };
    header(&other, 0, 6);
    other.submit(0, &[(DATA, 16, READ), (0x20_0000, 512, WRITE), (STATUS, 1, WRITE)]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(other.used(0), None);
    other.pci.resume();
    assert_eq!(other.wait(0).1, 513);
    assert_eq!(other.bytes(0x20_0000, 512), vec![6; 512]);
    eventually("its interrupt", || other.messages(1) == 1);
}

#[test]
fn damaged_snapshots_are_refused_or_harmless() {
    let file = file();
    let driver = started(&file, BlkOptions::default());
    driver.survives_damaged_snapshots();
}
