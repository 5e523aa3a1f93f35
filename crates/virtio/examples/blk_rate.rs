//! Random reads of 4 KiB through a virtio-blk queue from a file in the page cache, without a guest: requests a second, and
//! processor time of the I/O thread a request. The driver makes a number of requests available at a time, notifies once
//! and waits for them all.
//!
//! `cargo run --release -p virtio --example blk_rate [requests at a time]`

#[path = "../tests/driver/mod.rs"]
mod driver;

use block::RawFile;
use driver::{DATA, Driver, READ, WRITE};
use std::sync::Arc;
use std::time::Instant;
use virtio::{Blk, BlkOptions, feature};

const FILE_SIZE: u64 = 64 << 20;
const REQUESTS: u32 = 400_000;

fn main() {
    let depth: u16 = std::env::args().nth(1).map_or(64, |text| text.parse().expect("a number of requests"));
    let file = tempfile::tempfile().expect("a temporary file");
    std::io::copy(&mut std::io::Read::take(std::io::repeat(7), FILE_SIZE), &mut &file).expect("room for 64 MiB");
    let disk = RawFile::new(file, false).expect("a file");
    let device = Blk::new("disk0", Arc::new(disk), BlkOptions::default()).expect("a disk");
    let mut driver = Driver::new(Arc::new(device));
    driver.start(feature::RING_EVENT_IDX);
    let depth = depth.clamp(1, driver.queues[0].size / 3);
    // Chain `n` has descriptors 3n.., its header, data and status at 8 KiB steps.
    let mut random = 1u64;
    let mut aim = |driver: &Driver, header: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let sector = (random >> 33) % (FILE_SIZE / 4096) * 8;
        driver.memory.write(header + 8, &sector.to_le_bytes()).expect("RAM");
    };
    let place = |chain: u16| DATA + u64::from(chain) * 8192;
    let started = Instant::now();
    let rounds = REQUESTS / u32::from(depth);
    for _ in 0..rounds {
        for chain in 0..depth {
            let at = place(chain);
            aim(&driver, at);
            let head = driver.lay(0, &[(at, 16, READ), (at + 4096, 4096, WRITE), (at + 16, 1, WRITE)]);
            driver.publish(0, head);
        }
        driver.notify(0);
        for _ in 0..depth {
            assert_eq!(driver.wait(0).1, 4097);
        }
    }
    let requests = f64::from(rounds * u32::from(depth));
    let seconds = started.elapsed().as_secs_f64();
    let cpu = thread_time("disk0");
    println!(
        "{depth} at a time: {:.0} requests/s; {:.2} us of disk0 each, that is {:.0}/s on a core of its own",
        requests / seconds,
        cpu / requests * 1e6,
        requests / cpu,
    );
}

/// Processor time in seconds of a thread of this process, by name.
fn thread_time(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc");
    for task in tasks.flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let spent = read("schedstat");
            return spent.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9;
        }
    }
    panic!("no thread {name}");
}
