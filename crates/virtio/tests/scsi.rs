//! virtio-scsi seen by a driver, good and bad.

mod driver;

use block::{Disk, Medium, RawFile};
use driver::{DATA, Driver, READ, WRITE, eventually};
use scsi::{Cdrom, DirectAccess, Interface};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use virtio::{Scsi, ScsiOptions, Target, feature, layout};

const SIZE: u64 = 4 << 20;
const CONTROL: usize = 0;
const EVENT: usize = 1;
const REQUEST: usize = 2;
const HOTPLUG: u64 = 1 << 1;
const CHANGE: u64 = 1 << 2;

/// Where things of a request lie.
const STATUS: u64 = DATA + 0x1000;
const BUFFER: u64 = 0x40_0000;
const STATUS_SIZE: u32 = 12 + 96;
const HEADER_SIZE: u32 = 19 + 32;

const OVERRUN: u8 = 1;
const ABORTED: u8 = 2;
const BAD_TARGET: u8 = 3;
const RESET: u8 = 4;
const FAILURE: u8 = 9;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

/// A file whose block `n` is full of the byte `n`.
fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 512) as u8).collect();
    file.write_all_at(&content, 0).unwrap();
    file
}

fn raw(file: &File) -> Arc<dyn Disk> {
    Arc::new(RawFile::new(file.try_clone().unwrap(), false).unwrap())
}

fn disk(id: u8, file: &File) -> Target {
    Target { id, unit: Box::new(DirectAccess::new(raw(file), String::new()).unwrap()) }
}

fn cdrom(id: u8, medium: &Arc<Medium>) -> Target {
    Target { id, unit: Box::new(Cdrom::new(medium.clone(), String::new(), Interface::Scsi)) }
}

fn host(targets: Vec<Target>) -> Arc<Scsi> {
    Arc::new(Scsi::new("scsi0", targets, ScsiOptions::default()).unwrap())
}

fn started(targets: Vec<Target>) -> Driver {
    let mut driver = Driver::new(host(targets));
    driver.start(HOTPLUG | CHANGE | feature::RING_INDIRECT_DESC);
    driver
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    response: u8,
    status: u8,
    /// Key, code, qualifier.
    sense: Option<(u8, u8, u8)>,
    residual: u32,
    written: u32,
}

fn lun(target: u8, unit: u8) -> [u8; 8] {
    [1, target, 0, unit, 0, 0, 0, 0]
}

fn put_header(driver: &Driver, at: u64, lun: [u8; 8], tag: u64, cdb: &[u8]) {
    let mut bytes = [0; HEADER_SIZE as usize];
    bytes[..8].copy_from_slice(&lun);
    bytes[8..16].copy_from_slice(&tag.to_le_bytes());
    bytes[19..19 + cdb.len()].copy_from_slice(cdb);
    driver.memory.write(at, &bytes).unwrap();
    driver.memory.write(STATUS, &[0xEE; 200]).unwrap();
}

/// Sends a request in these buffers behind header and status.
fn send(driver: &mut Driver, lun: [u8; 8], cdb: &[u8], out: &[(u64, u32)], room: &[(u64, u32)]) -> Outcome {
    put_header(driver, DATA, lun, 1, cdb);
    let mut chain = vec![(DATA, HEADER_SIZE, READ)];
    chain.extend(out.iter().map(|(address, size)| (*address, *size, READ)));
    chain.push((STATUS, STATUS_SIZE, WRITE));
    chain.extend(room.iter().map(|(address, size)| (*address, *size, WRITE)));
    driver.submit(REQUEST, &chain);
    let (_, written) = driver.wait(REQUEST);
    outcome(driver, written)
}

fn outcome(driver: &Driver, written: u32) -> Outcome {
    let bytes = driver.bytes(STATUS, STATUS_SIZE as usize);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes[8..10], [0, 0]);
    let sense = (word(0) > 0).then(|| {
        assert_eq!((word(0), bytes[12] & 0x7F), (18, 0x70));
        (bytes[14], bytes[24], bytes[25])
    });
    Outcome { status: bytes[10], response: bytes[11], sense, residual: word(4), written }
}

fn good(written: u32, residual: u32) -> Outcome {
    Outcome { response: 0, status: 0, sense: None, residual, written: STATUS_SIZE + written }
}

fn check(sense: (u8, u8, u8), residual: u32) -> Outcome {
    Outcome { response: 0, status: 2, sense: Some(sense), residual, written: STATUS_SIZE }
}

fn answered(response: u8, residual: u32) -> Outcome {
    Outcome { response, status: 0, sense: None, residual, written: STATUS_SIZE }
}

fn ready(driver: &mut Driver, target: u8) {
    assert_eq!(send(driver, lun(target, 0), &[0x00], &[], &[]), check((6, 0x29, 0), 0));
    assert_eq!(send(driver, lun(target, 0), &[0x00], &[], &[]), good(0, 0));
}

fn read10(lba: u32, count: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = count.to_be_bytes();
    [0x28, 0, a, b, c, d, 0, e, f, 0]
}

fn write10(lba: u32, count: u16) -> [u8; 10] {
    let mut cdb = read10(lba, count);
    cdb[0] = 0x2A;
    cdb
}

/// Sends a control request; returns what was written.
fn control(driver: &mut Driver, bytes: &[u8], room: u32) -> Vec<u8> {
    driver.memory.write(DATA + 0x2000, bytes).unwrap();
    driver.memory.write(STATUS + 0x800, &[0xEE; 8]).unwrap();
    driver.submit(CONTROL, &[(DATA + 0x2000, bytes.len() as u32, READ), (STATUS + 0x800, room, WRITE)]);
    let (_, written) = driver.wait(CONTROL);
    driver.bytes(STATUS + 0x800, written as usize)
}

fn manage(function: u32, lun: [u8; 8], tag: u64) -> Vec<u8> {
    [&[0; 4][..], &function.to_le_bytes(), &lun, &tag.to_le_bytes()].concat()
}

fn notifications(kind: u32, target: u8, events: u32) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &lun(target, 0), &events.to_le_bytes()].concat()
}

#[test]
fn data_moves_between_disk_and_buffers_of_any_shape() {
    let file = file();
    let mut driver = started(vec![disk(3, &file)]);
    ready(&mut driver, 3);
    let buffers = [(BUFFER + 3, 700), (0x50_0000, 836)];
    assert_eq!(send(&mut driver, lun(3, 0), &read10(5, 3), &[], &buffers), good(1536, 0));
    let read = [driver.bytes(BUFFER + 3, 700), driver.bytes(0x50_0000, 836)].concat();
    assert_eq!(read, [vec![5; 512], vec![6; 512], vec![7; 512]].concat());
    driver.memory.write(BUFFER, &[0xAB; 1024]).unwrap();
    let out = [(BUFFER, 1000), (BUFFER + 1000, 24)];
    assert_eq!(send(&mut driver, lun(3, 0), &write10(100, 2), &out, &[]), good(0, 0));
    let mut back = [0; 2048];
    file.read_exact_at(&mut back, 99 * 512).unwrap();
    assert_eq!(back.to_vec(), [vec![99; 512], vec![0xAB; 1024], vec![102; 512]].concat());
    // Buffers larger than the command's data; header and status in pieces.
    assert_eq!(send(&mut driver, lun(3, 0), &read10(9, 1), &[], &[(BUFFER, 4096)]), good(512, 3584));
    assert_eq!(send(&mut driver, lun(3, 0), &write10(9, 1), &[(BUFFER, 4096)], &[]), good(0, 3584));
    put_header(&driver, DATA, lun(3, 0), 1, &read10(11, 1));
    let chain = [
        (DATA, 5, READ),
        (DATA + 5, HEADER_SIZE - 5, READ),
        (STATUS, 1, WRITE),
        (STATUS + 1, STATUS_SIZE - 1, WRITE),
        (BUFFER, 512, WRITE),
    ];
    driver.submit(REQUEST, &chain);
    let (_, written) = driver.wait(REQUEST);
    assert_eq!((outcome(&driver, written), driver.bytes(BUFFER, 512)), (good(512, 0), vec![11; 512]));
}

#[test]
fn answers_are_cut_to_what_is_allocated_and_must_fit() {
    let mut driver = started(vec![disk(0, &file())]);
    assert_eq!(send(&mut driver, lun(0, 0), &[0x12, 0, 0, 0, 36], &[], &[(BUFFER, 64)]), good(36, 28));
    assert_eq!(driver.bytes(BUFFER + 8, 8), b"WIRT    ");
    assert_eq!(send(&mut driver, lun(0, 0), &[0x12, 0, 0, 0, 5], &[], &[(BUFFER, 64)]), good(5, 59));
    assert_eq!(send(&mut driver, lun(0, 0), &[0x12, 0, 0, 0, 96], &[], &[(BUFFER, 36)]), good(36, 0));
    assert_eq!(send(&mut driver, lun(0, 0), &[0x12, 0, 0, 0, 96], &[], &[(BUFFER, 35)]), answered(OVERRUN, 35));
    // A serial number of the device's making.
    assert_eq!(send(&mut driver, lun(0, 0), &[0x12, 1, 0x80, 0, 96], &[], &[(BUFFER, 96)]), good(11, 85));
    assert_eq!(driver.bytes(BUFFER + 4, 7), b"scsi0-0");
    ready(&mut driver, 0);
    driver.memory.write(BUFFER, &[0x55; 1024]).unwrap();
    assert_eq!(send(&mut driver, lun(0, 0), &read10(0, 2), &[], &[(BUFFER, 1023)]), answered(OVERRUN, 1023));
    assert_eq!(send(&mut driver, lun(0, 0), &read10(0, 2), &[(BUFFER, 1024)], &[]), answered(OVERRUN, 1024));
    assert_eq!(send(&mut driver, lun(0, 0), &write10(0, 2), &[(BUFFER, 1023)], &[]), answered(OVERRUN, 1023));
    assert_eq!(driver.bytes(BUFFER, 1024), vec![0x55; 1024]);
    // Parameters as well.
    let select = [0x15, 0x10, 0, 0, 24];
    assert_eq!(send(&mut driver, lun(0, 0), &select, &[(BUFFER, 23)], &[]), answered(OVERRUN, 23));
    // Both ways at once.
    let both = send(&mut driver, lun(0, 0), &read10(0, 1), &[(BUFFER, 512)], &[(BUFFER, 512)]);
    assert_eq!(both, answered(FAILURE, 1024));
}

#[test]
fn units_that_are_not_there_are_told_from_targets_that_are_not() {
    let mut driver = started(vec![disk(7, &file()), disk(255, &file())]);
    assert_eq!(send(&mut driver, lun(6, 0), &[0x00], &[], &[]), answered(BAD_TARGET, 0));
    for field in [[0; 8], [1, 7, 0x80, 0, 0, 0, 0, 0], [1, 7, 0, 0, 0, 0, 0, 1], [0xC1, 1, 0, 0, 0, 0, 0, 0], [0xFF; 8]]
    {
        assert_eq!(send(&mut driver, field, &[0x00], &[], &[]), answered(BAD_TARGET, 0), "{field:x?}");
    }
    ready(&mut driver, 255);
    assert_eq!(send(&mut driver, [1, 255, 0x40, 0, 0, 0, 0, 0], &[0x00], &[], &[]), good(0, 0));
    // Another unit of a target: nothing is there, but it says which there are.
    assert_eq!(send(&mut driver, lun(7, 1), &[0x00], &[], &[]), check((5, 0x25, 0), 0));
    assert_eq!(
        send(&mut driver, [1, 7, 0x7F, 0xFF, 0, 0, 0, 0], &read10(0, 1), &[], &[(BUFFER, 512)]),
        check((5, 0x25, 0), 512)
    );
    assert_eq!(send(&mut driver, lun(7, 1), &[0x12, 0, 0, 0, 36], &[], &[(BUFFER, 36)]), good(36, 0));
    assert_eq!(driver.bytes(BUFFER, 1), [0x7F]);
    assert_eq!(send(&mut driver, lun(7, 1), &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16], &[], &[(BUFFER, 16)]), good(16, 0));
    assert_eq!(driver.bytes(BUFFER, 16), [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(send(&mut driver, lun(7, 1), &[0x03, 0, 0, 0, 18], &[], &[(BUFFER, 18)]), good(18, 0));
    assert_eq!(driver.bytes(BUFFER, 14)[12..], [0x25, 0]);
    ready(&mut driver, 7);
}

#[test]
fn commands_that_cannot_be_are_refused_and_harmless() {
    let file = file();
    let mut driver = started(vec![disk(0, &file)]);
    ready(&mut driver, 0);
    for cdb in [&[0x7F, 0, 0, 0, 0, 0, 0, 0x18][..], &[0xC0], &[0xFF; 32], &[0x5F, 0]] {
        assert_eq!(send(&mut driver, lun(0, 0), cdb, &[], &[]), check((5, 0x20, 0), 0), "{cdb:x?}");
    }
    let last = (SIZE / 512) as u32;
    assert_eq!(send(&mut driver, lun(0, 0), &read10(last, 1), &[], &[(BUFFER, 512)]), check((5, 0x21, 0), 512));
    assert_eq!(send(&mut driver, lun(0, 0), &write10(last - 1, 2), &[(BUFFER, 1024)], &[]), check((5, 0x21, 0), 1024));
    // A command that is longer than those the driver gives.
    let at = layout::DEVICE + 24;
    driver.write(at, 4, 6);
    put_header(&driver, DATA, lun(0, 0), 1, &read10(0, 1));
    driver.submit(REQUEST, &[(DATA, 19 + 6, READ), (STATUS, STATUS_SIZE, WRITE), (BUFFER, 512, WRITE)]);
    let (_, written) = driver.wait(REQUEST);
    assert_eq!(outcome(&driver, written), check((5, 0x20, 0), 512));
    put_header(&driver, DATA, lun(0, 0), 1, &[0x08, 0, 0, 77, 1]);
    driver.submit(REQUEST, &[(DATA, 19 + 6, READ), (STATUS, STATUS_SIZE, WRITE), (BUFFER, 512, WRITE)]);
    let (_, written) = driver.wait(REQUEST);
    assert_eq!((outcome(&driver, written), driver.bytes(BUFFER, 512)), (good(512, 0), vec![77; 512]));
    assert_eq!(file.metadata().unwrap().len(), SIZE);
}

#[test]
fn the_driver_chooses_how_much_sense_it_takes() {
    let mut driver = started(vec![disk(0, &file())]);
    let config = |at: u64| layout::DEVICE + at;
    let words: Vec<u64> = (0..36).step_by(4).map(|at| driver.read(config(at), 4)).collect();
    assert_eq!(words, [1, 254, 0xFFFF, 128, 16, 96, 32, 255 << 16, 0]);
    for (sense_size, told) in [(0, 0), (5, 5), (18, 18), (252, 18), (0xFFFF, 18)] {
        driver.write(config(20), 4, sense_size.into());
        put_header(&driver, DATA, lun(0, 0), 1, &[0xFF]);
        driver.submit(REQUEST, &[(DATA, HEADER_SIZE, READ), (STATUS, 12 + sense_size, WRITE)]);
        assert_eq!(driver.wait(REQUEST).1, 12 + sense_size);
        let bytes = driver.bytes(STATUS, 12 + sense_size as usize);
        assert_eq!((bytes[0], bytes[10], bytes[11]), (told, 2, 0));
        let sense = &bytes[12..];
        assert_eq!(sense.iter().any(|byte| *byte != 0), told > 0);
        assert!(sense.iter().skip(18).all(|byte| *byte == 0));
    }
    // Sizes out of range and other fields stay as they are; a reset brings the defaults.
    for (at, size, value) in [(20, 4, 0x1_0000), (24, 4, 0x100), (26, 1, 1), (0, 4, 9), (8, 4, 1), (32, 4, 5)] {
        driver.write(config(at), size, value);
    }
    let words: Vec<u64> = (0..36).step_by(4).map(|at| driver.read(config(at), 4)).collect();
    assert_eq!(words, [1, 254, 0xFFFF, 128, 16, 0xFFFF, 32, 255 << 16, 0]);
    driver.write(config(20), 2, 7);
    driver.write(config(24), 1, 16);
    assert_eq!((driver.read(config(20), 4), driver.read(config(24), 4)), (7, 16));
    driver.write(0x14, 1, 0);
    assert_eq!(driver.read(config(20), 4), 96);
}

#[test]
fn requests_without_room_for_their_status_need_a_reset() {
    let broken: [&[(u64, u32, bool)]; 5] = [
        &[(DATA, HEADER_SIZE - 1, READ), (STATUS, STATUS_SIZE, WRITE)],
        &[(DATA, HEADER_SIZE, READ), (STATUS, STATUS_SIZE - 1, WRITE)],
        &[(DATA, HEADER_SIZE, READ)],
        &[(STATUS, STATUS_SIZE, WRITE)],
        &[(DATA, HEADER_SIZE, READ), (layout_bar(), STATUS_SIZE, WRITE)],
    ];
    for chain in broken {
        let mut driver = started(vec![disk(0, &file())]);
        driver.submit(REQUEST, chain);
        driver.expect_needs_reset("a broken request");
        driver.start(0);
        ready(&mut driver, 0);
    }
    for (queue, chain) in [
        (CONTROL, &[(DATA, 24, READ)][..]),
        (CONTROL, &[(DATA, 23, READ), (STATUS, 1, WRITE)]),
        (CONTROL, &[(DATA + 0x100, 24, READ), (STATUS, 8, WRITE)]),
    ] {
        let mut driver = started(vec![disk(0, &file())]);
        driver.memory.write(DATA + 0x100, &[3]).unwrap();
        driver.submit(queue, chain);
        driver.expect_needs_reset("a broken control request");
    }
}

/// An address in the device's own registers.
fn layout_bar() -> u64 {
    0xC000_0000
}

#[test]
fn mode_select_unmap_and_write_same_reach_the_file() {
    let file = file();
    let mut driver = started(vec![disk(0, &file)]);
    ready(&mut driver, 0);
    let mut unmap = [0; 24];
    unmap[..4].copy_from_slice(&[0, 22, 0, 16]);
    unmap[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 8]);
    driver.memory.write(BUFFER, &unmap).unwrap();
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    assert_eq!(send(&mut driver, lun(0, 0), &cdb, &[(BUFFER, 24)], &[]), good(0, 0));
    driver.memory.write(BUFFER, &[0x77; 512]).unwrap();
    let mut cdb = [0; 16];
    (cdb[0], cdb[9], cdb[13]) = (0x93, 100, 4);
    assert_eq!(send(&mut driver, lun(0, 0), &cdb, &[(BUFFER, 512)], &[]), good(0, 0));
    let mut back = vec![0; 128 * 512];
    file.read_exact_at(&mut back, 0).unwrap();
    for (block, expected) in [(63, 63), (64, 0), (71, 0), (72, 72), (99, 99), (100, 0x77), (103, 0x77), (104, 104)] {
        assert_eq!(back[block * 512..][..512], [expected; 512], "block {block}");
    }
    // VERIFY with the initiator's bytes.
    let mut verify = write10(100, 4);
    (verify[0], verify[1]) = (0x2F, 2);
    let out = [(BUFFER, 512), (BUFFER, 512), (BUFFER, 512), (BUFFER, 512)];
    assert_eq!(send(&mut driver, lun(0, 0), &verify, &out, &[]), good(0, 0));
    driver.memory.write(BUFFER + 511, &[0x78]).unwrap();
    assert_eq!(send(&mut driver, lun(0, 0), &verify, &out, &[]), check((0xE, 0x1D, 0), 2048));
}

#[test]
fn a_file_that_has_shrunk_is_an_error_for_the_guest_alone() {
    let file = file();
    let mut driver = started(vec![disk(0, &file)]);
    ready(&mut driver, 0);
    file.set_len(1024).unwrap();
    assert_eq!(send(&mut driver, lun(0, 0), &read10(1, 2), &[], &[(BUFFER, 1024)]), check((3, 0x11, 0), 1024));
    assert_eq!(driver.bytes(STATUS + 12, 1), [0x70]);
    assert_eq!(send(&mut driver, lun(0, 0), &read10(2, 1), &[], &[(BUFFER, 512)]), check((3, 0x11, 0), 512));
    // The block, where there is but one.
    assert_eq!(driver.bytes(STATUS + 12, 7), [0xF0, 0, 3, 0, 0, 0, 2]);
    assert_eq!(send(&mut driver, lun(0, 0), &read10(1, 1), &[], &[(BUFFER, 512)]), good(512, 0));
}

#[test]
fn a_cd_gives_user_data_and_what_is_around_them() {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..400 * 2048).map(|at| (at / 2048) as u8).collect();
    file.write_all_at(&content, 0).unwrap();
    let medium = Medium::new(Some(raw(&file)));
    let mut driver = started(vec![cdrom(1, &medium)]);
    ready(&mut driver, 1);
    assert_eq!(send(&mut driver, lun(1, 0), &read10(5, 2), &[], &[(BUFFER, 4096)]), good(4096, 0));
    assert_eq!(driver.bytes(BUFFER, 4096), [[5; 2048], [6; 2048]].concat());
    // More than is wrapped at once.
    let read_cd = [0xBE, 0, 0, 0, 0, 9, 0, 0, 100, 0xF8, 0, 0];
    assert_eq!(send(&mut driver, lun(1, 0), &read_cd, &[], &[(BUFFER, 100 * 2352 + 8)]), good(100 * 2352, 8));
    let last = driver.bytes(BUFFER + 99 * 2352, 2352);
    // Block 108 is at 3 seconds and 33 frames.
    assert_eq!((&last[12..16], &last[16..2064]), (&[0, 3, 0x33, 1][..], &[108; 2048][..]));
    assert_eq!(send(&mut driver, lun(1, 0), &read_cd, &[], &[(BUFFER, 2352)]), answered(OVERRUN, 2352));
    assert_eq!(send(&mut driver, lun(1, 0), &write10(0, 1), &[(BUFFER, 2048)], &[]), check((5, 0x20, 0), 2048));
    file.set_len(50 * 2048).unwrap();
    assert_eq!(send(&mut driver, lun(1, 0), &read_cd, &[], &[(BUFFER, 100 * 2352)]), check((3, 0x11, 0), 100 * 2352));
    assert_eq!(driver.bytes(STATUS + 12, 7), [0xF0, 0, 3, 0, 0, 0, 50]);
}

/// The event in the next buffer that the device has used.
fn event(driver: &mut Driver) -> (u32, u8, u32) {
    let (head, written) = driver.wait(EVENT);
    assert_eq!(written, 16);
    let bytes = driver.bytes(0x30_0000 + 16 * u64::from(head), 16);
    assert_eq!((bytes[4], &bytes[6..12]), (1, &[0; 6][..]));
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    (word(0), bytes[5], word(12))
}

/// Gives the device buffers for events, each with the address that its descriptor's number tells.
fn give_event_buffers(driver: &mut Driver, count: usize) {
    for _ in 0..count {
        let index = u64::from(driver.queues[EVENT].next_descriptor);
        driver.submit(EVENT, &[(0x30_0000 + 16 * index, 16, WRITE)]);
    }
}

#[test]
fn a_drive_tells_of_its_disc_who_has_subscribed() {
    let image = file();
    let medium = Medium::new(Some(raw(&image)));
    let mut driver = started(vec![disk(0, &image), cdrom(1, &medium)]);
    give_event_buffers(&mut driver, 8);
    // Nobody has asked for it yet.
    medium.exchange(None);
    assert_eq!(control(&mut driver, &notifications(1, 1, 0xFFFF_FFFF), 5), [16, 0, 0, 0, 0]);
    assert_eq!(control(&mut driver, &notifications(2, 0, 16), 5), [0, 0, 0, 0, 0]);
    assert_eq!(control(&mut driver, &notifications(2, 9, 16), 5), [0, 0, 0, 0, BAD_TARGET]);
    assert_eq!(control(&mut driver, &notifications(2, 1, 24), 5), [16, 0, 0, 0, 0]);
    assert_eq!(driver.used(EVENT), None);
    medium.exchange(Some(raw(&image)));
    assert_eq!(event(&mut driver), (2, 1, 16));
    medium.request_eject();
    assert_eq!(event(&mut driver), (2, 1, 16));
    // GET EVENT STATUS NOTIFICATION says what it was.
    let cdb = [0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];
    assert_eq!(send(&mut driver, lun(1, 0), &cdb, &[], &[(BUFFER, 8)]), good(8, 0));
    assert_eq!(driver.bytes(BUFFER, 6), [0, 6, 4, 16, 1, 2]);
    assert_eq!(control(&mut driver, &notifications(2, 1, 0), 5), [0, 0, 0, 0, 0]);
    medium.exchange(None);
    assert_eq!(control(&mut driver, &notifications(1, 1, 16), 5), [16, 0, 0, 0, 0]);
    assert_eq!(driver.used(EVENT), None);
}

#[test]
fn targets_come_go_and_grow_while_the_guest_runs() {
    let image = file();
    let scsi = host(vec![disk(0, &image)]);
    let mut driver = Driver::new(scsi.clone());
    driver.start(HOTPLUG | CHANGE);
    ready(&mut driver, 0);
    // Events wait for buffers.
    scsi.plug(disk(5, &image)).unwrap();
    assert!(scsi.plug(disk(5, &image)).unwrap_err().contains("target 5"));
    give_event_buffers(&mut driver, 1);
    assert_eq!(event(&mut driver), (1, 5, 1));
    ready(&mut driver, 5);
    assert!(scsi.unplug(5).is_some() && scsi.unplug(5).is_none());
    give_event_buffers(&mut driver, 3);
    assert_eq!(event(&mut driver), (1, 5, 2));
    assert_eq!(send(&mut driver, lun(5, 0), &[0x00], &[], &[]), answered(BAD_TARGET, 0));
    image.set_len(2 * SIZE).unwrap();
    scsi.resize(0, raw(&image)).unwrap();
    assert_eq!(event(&mut driver), (3, 0, 0x092A));
    let last = (2 * SIZE / 512 - 1) as u32;
    assert_eq!(send(&mut driver, lun(0, 0), &read10(last, 1), &[], &[(BUFFER, 512)]), check((6, 0x2A, 9), 512));
    assert_eq!(send(&mut driver, lun(0, 0), &read10(last, 1), &[], &[(BUFFER, 512)]), good(512, 0));
    assert!(scsi.resize(1, raw(&image)).is_err());
    // More than can wait: what is left is told, and that some were lost.
    for _ in 0..40 {
        scsi.plug(disk(9, &image)).unwrap();
        scsi.unplug(9).unwrap();
    }
    give_event_buffers(&mut driver, 62);
    let mut seen = Vec::new();
    while seen.len() < 63 {
        seen.push(event(&mut driver).0);
    }
    assert_eq!(seen.iter().filter(|kind| **kind & 1 << 31 != 0).count(), 1);
    // A driver that does not know of such things is not told.
    driver.start(0);
    give_event_buffers(&mut driver, 1);
    scsi.plug(disk(9, &image)).unwrap();
    scsi.resize(0, raw(&image)).unwrap();
    send(&mut driver, lun(9, 0), &[0x00], &[], &[]);
    assert_eq!(driver.used(EVENT), None);
    driver.memory.write(STATUS, &[0; 4]).unwrap();
}

#[test]
fn an_event_buffer_that_is_too_small_needs_a_reset() {
    let scsi = host(vec![]);
    let mut driver = Driver::new(scsi.clone());
    driver.start(HOTPLUG);
    driver.submit(EVENT, &[(0x30_0000, 15, WRITE)]);
    scsi.plug(disk(5, &file())).unwrap();
    driver.expect_needs_reset("an event that does not fit");
}

#[test]
fn task_management_leaves_nothing_behind() {
    let image = file();
    let mut driver = started(vec![disk(0, &image), disk(1, &image)]);
    ready(&mut driver, 0);
    ready(&mut driver, 1);
    // Requests that the device has not been told of wait in their queue.
    let place = |driver: &mut Driver, target: u8, tag: u64| {
        let base = 0x60_0000 + tag * 0x1000;
        put_header(driver, base, lun(target, 0), tag, &read10(5, 1));
        let chain = [(base, HEADER_SIZE, READ), (base + 0x100, STATUS_SIZE, WRITE), (base + 0x800, 512, WRITE)];
        let head = driver.lay(REQUEST, &chain);
        driver.publish(REQUEST, head);
        base
    };
    let response = |driver: &Driver, base: u64| driver.bytes(base + 0x100 + 11, 1)[0];
    let (aborted, other) = (place(&mut driver, 0, 10), place(&mut driver, 0, 11));
    assert_eq!(control(&mut driver, &manage(0, lun(0, 0), 10), 1), [0]);
    // Both are over when the function is.
    assert!(driver.used(REQUEST).is_some() && driver.used(REQUEST).is_some());
    assert_eq!((response(&driver, aborted), response(&driver, other)), (ABORTED, 0));
    assert_eq!((driver.bytes(aborted + 0x800, 1), driver.bytes(other + 0x800, 1)), (vec![0], vec![5]));
    for (function, expected) in [(1, ABORTED), (3, ABORTED), (4, RESET), (5, RESET)] {
        let (mine, other) = (place(&mut driver, 0, 20), place(&mut driver, 1, 21));
        assert_eq!(control(&mut driver, &manage(function, lun(0, 0), 0), 1), [0]);
        assert!(driver.used(REQUEST).is_some() && driver.used(REQUEST).is_some());
        assert_eq!((response(&driver, mine), response(&driver, other)), (expected, 0), "function {function}");
        if expected == RESET {
            ready(&mut driver, 0);
        }
    }
    // Queries: a task is not there any more.
    for function in [6, 7] {
        let base = place(&mut driver, 0, 30);
        assert_eq!(control(&mut driver, &manage(function, lun(0, 0), 30), 1), [0]);
        assert_eq!((driver.used(REQUEST).is_some(), response(&driver, base)), (true, 0));
    }
    assert_eq!(control(&mut driver, &manage(2, lun(0, 0), 0), 1), [REJECTED]);
    assert_eq!(control(&mut driver, &manage(99, lun(0, 0), 0), 1), [REJECTED]);
    assert_eq!(control(&mut driver, &manage(5, lun(7, 0), 0), 1), [BAD_TARGET]);
    assert_eq!(control(&mut driver, &manage(5, lun(1, 1), 0), 1), [INCORRECT_LUN]);
    assert_eq!(control(&mut driver, &manage(4, lun(1, 1), 0), 1), [0]);
    ready(&mut driver, 1);
}

#[test]
fn a_reset_with_requests_in_flight_ends_all_dma() {
    let image = file();
    let mut driver = started(vec![disk(0, &image)]);
    ready(&mut driver, 0);
    for round in 0..20 {
        put_header(&driver, DATA, lun(0, 0), 1, &read10(0, 2048));
        for _ in 0..80 {
            let chain = [(DATA, HEADER_SIZE, READ), (STATUS, STATUS_SIZE, WRITE), (BUFFER, 1 << 20, WRITE)];
            let head = driver.lay(REQUEST, &chain);
            driver.publish(REQUEST, head);
        }
        driver.notify(REQUEST);
        if round % 2 == 1 {
            eventually("the first completion", || driver.used(REQUEST).is_some());
        }
        driver.write(0x14, 1, 0);
        driver.memory.write(BUFFER, &vec![0x55; 1 << 20]).unwrap();
        let rings = driver.bytes(0x1_0000, 0x3_C000);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(driver.bytes(BUFFER, 1 << 20) == vec![0x55; 1 << 20] && driver.bytes(0x1_0000, 0x3_C000) == rings);
        driver.start(0);
        ready(&mut driver, 0);
    }
}

#[test]
fn several_request_queues_are_served() {
    let image = file();
    let scsi = Scsi::new("scsi0", vec![disk(0, &image)], ScsiOptions { queues: 3 }).unwrap();
    let mut driver = Driver::new(Arc::new(scsi));
    driver.start(0);
    assert_eq!((driver.queues.len(), driver.read(layout::DEVICE, 4)), (5, 3));
    ready(&mut driver, 0);
    put_header(&driver, DATA, lun(0, 0), 1, &read10(4, 1));
    for queue in 2..5 {
        driver.submit(queue, &[(DATA, HEADER_SIZE, READ), (STATUS, STATUS_SIZE, WRITE), (BUFFER, 512, WRITE)]);
        assert_eq!(driver.wait(queue).1, STATUS_SIZE + 512);
        eventually("the queue's own vector", || driver.messages(queue + 1) > 0);
    }
}

#[test]
fn unusable_options_are_refused_in_a_sentence() {
    let image = file();
    let new = |targets, options| Scsi::new("scsi7", targets, options).err().unwrap();
    assert!(new(vec![], ScsiOptions { queues: 17 }).contains("queues"));
    assert!(new(vec![disk(3, &image), disk(3, &image)], ScsiOptions::default()).contains("scsi7 has a target 3"));
    for serial in ["x".repeat(37), "\u{e9}".into(), "a\n".into()] {
        let unit = Box::new(DirectAccess::new(raw(&image), serial).unwrap());
        assert!(new(vec![Target { id: 0, unit }], ScsiOptions::default()).contains("serial"));
    }
}

#[test]
fn a_snapshot_goes_on_in_another_machine() {
    let image = file();
    let medium = Medium::new(Some(raw(&image)));
    let mut driver = started(vec![disk(2, &image), cdrom(3, &medium)]);
    driver.write(layout::DEVICE + 20, 4, 96);
    ready(&mut driver, 2);
    assert_eq!(control(&mut driver, &notifications(2, 3, 16), 5)[4], 0);
    medium.request_eject();
    // It waits for a buffer when the snapshot is taken.
    assert_eq!(send(&mut driver, lun(2, 0), &[0x1B], &[], &[]), good(0, 0));
    let state = driver.snapshot();
    let host = host(vec![disk(2, &image), cdrom(3, &Medium::new(Some(raw(&image))))]);
    let other = Driver::with_memory(host, driver.memory.clone());
    other.pci.pause();
    board::Device::load(&*other.pci, &state).unwrap();
    let mut other = Driver { queues: driver.queues.clone(), ..other };
    other.pci.resume();
    assert_eq!(send(&mut other, lun(2, 0), &read10(1, 1), &[], &[(BUFFER, 512)]), check((2, 4, 2), 512));
    give_event_buffers(&mut other, 1);
    assert_eq!(event(&mut other), (2, 3, 16));
    // Other targets, another disk.
    for targets in
        [vec![disk(2, &image)], vec![disk(2, &image), disk(3, &image)], vec![disk(2, &image), cdrom(4, &medium)]]
    {
        let other = Driver::with_memory(self::host(targets), driver.memory.clone());
        other.pci.pause();
        assert!(board::Device::load(&*other.pci, &state).is_err());
    }
}

#[test]
fn damaged_snapshots_are_refused_or_harmless() {
    let image = file();
    let driver = started(vec![disk(2, &image), cdrom(3, &Medium::new(Some(raw(&image))))]);
    driver.survives_damaged_snapshots();
}
