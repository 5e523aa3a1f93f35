//! virtio-balloon seen by a driver and by the host.

mod driver;

use driver::{DATA, Driver, RAM, READ, ROM, WRITE, eventually};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use virtio::{Balloon, BalloonOptions, layout, status};

const STATS: u64 = 1 << 1;
const OOM: u64 = 1 << 2;
const POISON: u64 = 1 << 4;
const REPORTING: u64 = 1 << 5;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

fn balloon() -> (Arc<Balloon>, Driver) {
    let memory = driver::memory();
    // The last MiB of the first region is as little RAM as a screen's memory is.
    let balloon = Arc::new(Balloon::new("balloon0", memory.clone(), RAM - (1 << 20), BalloonOptions::default()));
    (balloon.clone(), Driver::with_memory(balloon, memory))
}

fn started(features: u64) -> (Arc<Balloon>, Driver) {
    let (balloon, mut driver) = balloon();
    driver.start(features);
    (balloon, driver)
}

fn fill(driver: &Driver, address: u64, size: usize) {
    driver.memory.write(address, &vec![0xAA; size]).unwrap();
}

fn is_full(driver: &Driver, address: u64, size: usize) -> bool {
    driver.bytes(address, size).iter().all(|byte| *byte == 0xAA)
}

fn is_zero(driver: &Driver, address: u64, size: usize) -> bool {
    driver.bytes(address, size).iter().all(|byte| *byte == 0)
}

fn hand_in(driver: &mut Driver, queue: usize, pages: &[u32]) {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    driver.memory.write(DATA, &bytes).unwrap();
    driver.submit(queue, &[(DATA, bytes.len() as u32, READ)]);
    driver.wait(queue);
}

/// Host memory that stands behind guest pages.
fn resident(driver: &Driver, address: u64, pages: usize) -> usize {
    let mut present = vec![0u8; pages];
    let host = driver.memory.host(address, pages as u64 * 4096).unwrap();
    // SAFETY: the range is mapped, and there is a byte of ours for each page.
    let outcome = unsafe { libc::mincore(host.cast(), pages * 4096, present.as_mut_ptr()) };
    assert_eq!(outcome, 0);
    present.iter().filter(|page| **page & 1 != 0).count()
}

#[test]
fn the_target_is_told_and_the_size_believed() {
    let (balloon, driver) = started(0);
    let ram = RAM - (1 << 20);
    let offered = driver.read(4, 4);
    assert_eq!(offered & 0x3F, STATS | OOM | POISON | REPORTING);
    balloon.set_target(ram - 5 * 4096 - 1).unwrap();
    assert_eq!(driver.read(layout::DEVICE, 4), 5);
    eventually("the configuration interrupt", || driver.messages(0) == 1);
    assert_eq!((balloon.target(), balloon.size()), (ram - 5 * 4096, ram));
    driver.write(layout::DEVICE + 4, 4, 3);
    assert_eq!((driver.read(layout::DEVICE + 4, 4), balloon.size()), (3, ram - 3 * 4096));
    driver.write(layout::DEVICE, 4, 77);
    assert_eq!(driver.read(layout::DEVICE, 4), 5, "the target is the host's");
    driver.write(layout::DEVICE + 4, 4, 0xFFFF_FFFF);
    assert_eq!(balloon.size(), 0);
    assert!(balloon.set_target(ram + 4096).unwrap_err().contains("cannot be given"));
    driver.write(0x14, 1, 0);
    assert_eq!((balloon.size(), driver.read(layout::DEVICE, 4)), (ram, 5), "a reset lets go, and the wish stays");
}

#[test]
fn pages_in_the_balloon_take_no_host_memory() {
    let (_, mut driver) = started(0);
    fill(&driver, 0x40_0000, 64 * 4096);
    assert_eq!(resident(&driver, 0x40_0000, 64), 64);
    // Up, down, alone and twice.
    let pages: Vec<u32> = (0x400..0x420).chain((0x421..0x43F).rev()).chain([0x400, 0x410]).collect();
    hand_in(&mut driver, INFLATE, &pages);
    assert_eq!(resident(&driver, 0x40_0000, 64), 2);
    assert!(is_zero(&driver, 0x40_0000, 0x2_0000) && is_full(&driver, 0x42_0000, 4096));
    assert!(is_zero(&driver, 0x42_1000, 0x1_E000) && is_full(&driver, 0x43_F000, 4096));
    hand_in(&mut driver, DEFLATE, &pages);
    fill(&driver, 0x40_0000, 64 * 4096);
    assert!(is_full(&driver, 0x40_0000, 64 * 4096));
}

#[test]
fn what_is_not_the_guests_memory_is_never_given_up() {
    let (_, mut driver) = started(0);
    let last = RAM - (1 << 20);
    fill(&driver, last - 4096, 8192);
    driver.memory.write_backing(RAM, &[0xAA; 4096]).unwrap();
    let pages = [
        (last >> 12) as u32,
        (RAM >> 12) as u32,
        (RAM >> 12) as u32 - 1,
        (ROM >> 12) as u32,
        0xFEE00,
        u32::MAX,
        u32::MAX - 1,
        0xC_0000,
    ];
    hand_in(&mut driver, INFLATE, &pages);
    assert!(is_full(&driver, last - 4096, 8192) && is_full(&driver, ROM, 4096));
    // A run that begins inside and ends outside.
    hand_in(&mut driver, INFLATE, &[(last >> 12) as u32 - 1, (last >> 12) as u32]);
    assert!(is_zero(&driver, last - 4096, 4096) && is_full(&driver, last, 4096));
    // Requests without a whole number, or with none, or that the device should write.
    for buffer in [(DATA, 3, READ), (DATA, 0, READ), (DATA, 4096, WRITE)] {
        driver.submit(INFLATE, &[buffer]);
        driver.wait(INFLATE);
    }
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
}

#[test]
fn a_request_is_bounded() {
    let (_, mut driver) = started(0);
    fill(&driver, 0x40_0000, 4096);
    // 16 Ki pages are taken, which are all zero here; what comes behind is left alone.
    driver.memory.write(0x80_0000, &vec![0xFF; 0x1_0000]).unwrap();
    driver.memory.write(0x81_0000, &0x400u32.to_le_bytes()).unwrap();
    driver.submit(INFLATE, &[(0x80_0000, 0x1_0004, READ)]);
    driver.wait(INFLATE);
    assert!(is_full(&driver, 0x40_0000, 4096));
}

#[test]
fn reported_pages_are_given_back_whole_ones_alone() {
    // Drivers disagree on which queue it is.
    for queue in [3, 4] {
        let (_, mut driver) = started(REPORTING);
        fill(&driver, 0x40_0000, 0x1_0000);
        driver.submit(queue, &[(0x40_0800, 0x2000, WRITE), (0x40_8000, 0x4000, WRITE), (0x40_0100, 16, WRITE)]);
        driver.wait(queue);
        assert!(is_full(&driver, 0x40_0000, 0x1000) && is_zero(&driver, 0x40_1000, 0x1000));
        assert!(is_full(&driver, 0x40_2000, 0x6000) && is_zero(&driver, 0x40_8000, 0x4000));
        assert!(is_full(&driver, 0x40_C000, 0x4000));
        let outside = RAM - (1 << 20);
        fill(&driver, outside, 0x1000);
        driver.submit(queue, &[(outside - 0x1000, 0x2000, WRITE)]);
        driver.wait(queue);
        assert!(is_full(&driver, outside, 0x1000));
    }
}

#[test]
fn reports_without_the_feature_or_of_filled_pages_change_nothing() {
    for (features, poison) in [(0, 0), (REPORTING | POISON, 0xAAAA_AAAA)] {
        let (_, mut driver) = started(features);
        driver.write(layout::DEVICE + 12, 4, poison);
        assert_eq!(driver.read(layout::DEVICE + 12, 4), poison);
        fill(&driver, 0x40_0000, 0x1000);
        driver.submit(4, &[(0x40_0000, 0x1000, WRITE)]);
        driver.wait(4);
        assert!(is_full(&driver, 0x40_0000, 0x1000));
    }
}

/// Puts statistics into guest memory and makes them available.
fn answer(driver: &mut Driver, statistics: &[(u16, u64)]) {
    let entry = |(tag, value): &(u16, u64)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let bytes: Vec<u8> = statistics.iter().flat_map(entry).collect();
    driver.memory.write(0x50_0000, &bytes).unwrap();
    driver.submit(STATISTICS, &[(0x50_0000, bytes.len() as u32, READ)]);
}

#[test]
fn statistics_are_asked_anew() {
    let (balloon, mut driver) = started(STATS);
    answer(&mut driver, &[(4, 1)]);
    for free in [1000, 2000] {
        let asking = std::thread::spawn({
            let balloon = balloon.clone();
            move || balloon.statistics(MINUTE)
        });
        // The buffer comes back only when somebody asks.
        driver.wait(STATISTICS);
        answer(&mut driver, &[(4, free), (5, 7000), (999, 1), (0xFFFF, 2)]);
        assert_eq!(asking.join().unwrap(), Some(vec![("free_memory", free), ("total_memory", 7000)]));
        assert_eq!(driver.used(STATISTICS), None);
    }
}

#[test]
fn a_driver_without_statistics_gives_none() {
    let (balloon, mut driver) = started(0);
    assert_eq!(balloon.statistics(Duration::ZERO), None);
    driver.start(STATS);
    assert_eq!(balloon.statistics(Duration::from_millis(1)), None);
    // The question still stands when the driver comes to it, and a reset in between ends it.
    answer(&mut driver, &[]);
    driver.wait(STATISTICS);
    driver.start(STATS);
    answer(&mut driver, &[]);
    let state = driver.snapshot();
    driver.pci.resume();
    assert!(!state.is_empty());
    assert_eq!(driver.used(STATISTICS), None);
}

#[test]
fn a_buffer_with_statistics_survives_a_snapshot() {
    let (_, mut driver) = started(STATS);
    answer(&mut driver, &[(4, 1)]);
    let state = driver.snapshot();
    let memory = driver.memory.clone();
    let balloon = Arc::new(Balloon::new("balloon0", memory.clone(), RAM, BalloonOptions::default()));
    let other = Driver::with_memory(balloon.clone(), memory);
    other.pci.pause();
    board::Device::load(&*other.pci, &state).unwrap();
    other.pci.resume();
    let mut other = Driver { queues: driver.queues.clone(), ..other };
    let asking = std::thread::spawn(move || balloon.statistics(MINUTE));
    other.wait(STATISTICS);
    answer(&mut other, &[(5, 9)]);
    assert_eq!(asking.join().unwrap(), Some(vec![("total_memory", 9)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever pages are named, and whatever is reported: memory that is not the guest's stays as it is.
    #[test]
    fn random_requests_spare_what_is_not_the_guests(
        pages in prop::collection::vec(any::<u32>().prop_map(|page| if page % 2 == 0 { page % 0x1100 } else { page }), 1..600),
        reports in prop::collection::vec((0..RAM, 0u32..0x10_0000), 1..20),
        poison in any::<u32>(),
    ) {
        let (balloon, mut driver) = started(REPORTING | STATS);
        fill(&driver, RAM - (1 << 20), 1 << 20);
        driver.memory.write_backing(RAM, &[0xAA; 4096]).unwrap();
        // Pages that hold the queues themselves are the guest's own loss; then nothing may come back.
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        driver.memory.write(DATA, &bytes).unwrap();
        driver.submit(INFLATE, &[(DATA, bytes.len() as u32, READ)]);
        let buffers: Vec<_> = reports.iter().map(|(address, size)| (*address, *size, WRITE)).collect();
        driver.submit(4, &buffers);
        driver.write(layout::DEVICE + 12, 4, poison.into());
        driver.pci.pause();
        prop_assert!(is_full(&driver, RAM - (1 << 20), 1 << 20) && is_full(&driver, ROM, 4096));
        driver.pci.resume();
        driver.start(STATS);
        hand_in(&mut driver, INFLATE, &[0x400]);
        prop_assert_eq!(balloon.size(), RAM - (1 << 20));
    }
}
