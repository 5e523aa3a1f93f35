//! Random reads of 4 KiB through a virtio-blk queue from a file in the page cache, without a guest: requests a second, and
//! processor time of the I/O thread a request.
//!
//! `cargo run --release -p virtio --example blk_rate [requests in flight]`

#[path = "../tests/driver/mod.rs"]
mod driver;

use driver::{DATA, Driver, READ, WRITE};
use std::sync::Arc;
use std::time::Instant;
use virtio::{Blk, BlkOptions, feature};

const FILE_SIZE: u64 = 64 << 20;
const REQUESTS: u32 = 1_000_000;

fn main() {
    let depth: u16 = std::env::args().nth(1).map_or(64, |text| text.parse().expect("a number of requests"));
    let file = tempfile::tempfile().expect("a temporary file");
    std::io::copy(&mut std::io::Read::take(std::io::repeat(7), FILE_SIZE), &mut &file).expect("room for 64 MiB");
    let disk = Blk::new("disk0", file, BlkOptions::default()).expect("a disk");
    let mut driver = Driver::new(Arc::new(disk));
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
    let cpu = thread_time("disk0");
    for chain in 0..depth {
        let at = place(chain);
        aim(&driver, at);
        driver.submit(0, &[(at, 16, READ), (at + 4096, 4096, WRITE), (at + 16, 1, WRITE)]);
    }
    let (mut sent, mut done) = (u32::from(depth), 0);
    let mut notifications = 0u32;
    while done < REQUESTS {
        let mut event = None;
        while let Some((head, written)) = driver.used(0) {
            assert_eq!(written, 4097);
            done += 1;
            if sent < REQUESTS {
                let before = *event.get_or_insert(driver.queues[0].avail_index);
                aim(&driver, place(head / 3));
                driver.publish(0, head);
                sent += 1;
                let ring = driver.queues[0];
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                let wanted = driver.memory.load_u16(ring.used + 4 + 8 * u64::from(ring.size)).expect("RAM");
                if ring.avail_index.wrapping_sub(wanted).wrapping_sub(1) < ring.avail_index.wrapping_sub(before) {
                    driver.notify(0);
                    notifications += 1;
                    event = None;
                }
            }
        }
        std::hint::spin_loop();
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = thread_time("disk0") - cpu;
    println!(
        "{depth} in flight: {:.0} requests/s, {:.2} us of disk0 each ({:.0}/s on a core), {notifications} notifications, \
         {} interrupts",
        f64::from(REQUESTS) / seconds,
        cpu / f64::from(REQUESTS) * 1e6,
        f64::from(REQUESTS) / cpu,
        driver.messages(1),
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
