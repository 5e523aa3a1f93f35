use crate::{Chain, DeviceType, Link, Queue, QueueError, VirtioDevice};
use board::{StateReader, StateWriter};
use hv::{GuestMemory, PAGE_SIZE};
use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Device features. virtio 1.2, section 5.5.3.
const FEATURE_STATS_VQ: u64 = 1 << 1;
const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;
const FEATURE_PAGE_POISON: u64 = 1 << 4;
const FEATURE_PAGE_REPORTING: u64 = 1 << 5;

/// Bytes of the device configuration: `num_pages`, `actual`, `free_page_hint_cmd_id`, `poison_val`.
const CONFIG_SIZE: usize = 16;
const CONFIG_ACTUAL: usize = 4;
const CONFIG_POISON: usize = 12;

const QUEUE_SIZE: u16 = 128;
/// The unit of the protocol, whatever the guest's pages are.
const BALLOON_PAGE: u64 = 4096;
/// Pages taken from one request; drivers hand in a few hundred. More are left as they are.
const MAX_PAGES: u64 = 16 * 1024;
/// Bytes of free memory taken from one report; drivers report up to 128 MiB.
const MAX_REPORT: u64 = 1 << 30;
/// Bytes of a statistic: tag and value.
const STATISTIC_SIZE: usize = 10;
const STATE_VERSION: u32 = 1;

/// Names of the statistics, by tag. virtio 1.2, section 5.5.6.4; Linux, `virtio_balloon.h`, from 10 on.
const STATISTICS: [&str; 16] = [
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free_memory",
    "total_memory",
    "available_memory",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
    "oom_kills",
    "allocation_stalls",
    "background_scans",
    "direct_scans",
    "background_reclaims",
    "direct_reclaims",
];

/// What a balloon offers its guest.
#[derive(Clone, Copy, Debug)]
pub struct BalloonOptions {
    /// The guest may take memory back rather than kill a process.
    pub deflate_on_oom: bool,
    /// The guest may report memory that it does not use at the moment, without being asked.
    pub free_page_reporting: bool,
}

impl Default for BalloonOptions {
    fn default() -> Self {
        BalloonOptions { deflate_on_oom: true, free_page_reporting: true }
    }
}

/// virtio-balloon: takes memory from a guest, and gives it back to the host. virtio 1.2, section 5.5.
///
/// Pages in the balloon, and those reported free, take no host memory until the guest touches them again, which it may
/// do at any time: they then read zero.
///
/// Lock order: `state`, then those of [`Link`].
pub struct Balloon {
    name: String,
    memory: Arc<GuestMemory>,
    ram: u64,
    options: BalloonOptions,
    link: OnceLock<Arc<Link>>,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    features: u64,
    /// Pages that shall be in the balloon.
    pages: u32,
    /// Pages that the driver says are.
    actual: u32,
    /// What the driver fills free memory with.
    poison: u32,
    statistics: Statistics,
}

/// The driver leaves a buffer with statistics here. Giving it back asks for newer ones.
#[derive(Default)]
struct Statistics {
    values: Vec<(&'static str, u64)>,
    /// Somebody wants newer ones.
    wanted: bool,
    /// The buffer was given back: the next is an answer.
    asked: bool,
    /// How many answers came.
    answers: u64,
}

impl Balloon {
    /// An empty balloon. The guest's RAM is the first `ram` bytes of the backing memory; nothing else is ever given up.
    pub fn new(name: &str, memory: Arc<GuestMemory>, ram: u64, options: BalloonOptions) -> Self {
        let (link, state, answered) = (OnceLock::new(), Mutex::default(), Condvar::new());
        Balloon { name: name.to_owned(), memory, ram, options, link, state, answered }
    }

    /// Asks the guest to make do with so many bytes of its memory, rounded up to pages. It follows when it can, or never:
    /// see [`Balloon::size`].
    ///
    /// # Errors
    /// One sentence when the guest does not have as many.
    pub fn set_target(&self, bytes: u64) -> Result<(), String> {
        let Some(excess) = self.ram.checked_sub(bytes) else {
            return Err(format!("a guest with {} bytes of memory cannot be given {bytes}", self.ram));
        };
        self.state.lock().pages = u32::try_from(excess / BALLOON_PAGE).unwrap_or(u32::MAX);
        if let Some(link) = self.link.get() {
            link.config_changed();
        }
        Ok(())
    }

    /// Bytes of memory that the guest was asked to make do with.
    pub fn target(&self) -> u64 {
        self.without(self.state.lock().pages)
    }

    /// Bytes of memory that the guest says it uses, or could.
    pub fn size(&self) -> u64 {
        self.without(self.state.lock().actual)
    }

    fn without(&self, pages: u32) -> u64 {
        self.ram.saturating_sub(u64::from(pages) * BALLOON_PAGE)
    }

    /// What the guest says of its memory, by name, asked anew: bytes, and for the rest counts of events. What a guest does
    /// not know is missing. `None` when no driver answers within `timeout`.
    pub fn statistics(&self, timeout: Duration) -> Option<Vec<(&'static str, u64)>> {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.state.lock();
        let before = state.statistics.answers;
        state.statistics.wanted = true;
        self.link.get()?.wake();
        while state.statistics.answers == before {
            match deadline {
                None => self.answered.wait(&mut state),
                Some(deadline) if self.answered.wait_until(&mut state, deadline).timed_out() => return None,
                Some(_) => {}
            }
        }
        Some(state.statistics.values.clone())
    }

    /// Takes the pages that a request names by number.
    fn inflate(&self, chain: &Chain) {
        let mut numbers = [0; 4 * 256];
        let end = (chain.readable() & !3).min(4 * MAX_PAGES);
        let mut run = 0..0;
        let mut at = 0;
        while at < end {
            let wanted = (end - at).min(numbers.len() as u64) as usize;
            chain.read(at, &mut numbers[..wanted]);
            at += wanted as u64;
            for number in numbers[..wanted].chunks_exact(4) {
                let page = u64::from(u32::from_le_bytes([number[0], number[1], number[2], number[3]]));
                // Drivers name neighbours after each other, in either direction: one system call for many pages.
                if page == run.end {
                    run.end += 1;
                } else if page + 1 == run.start {
                    run.start = page;
                } else {
                    self.take(&run);
                    run = page..page + 1;
                }
            }
        }
        self.take(&run);
    }

    /// Gives up a range of guest pages, as far as they are RAM.
    fn take(&self, pages: &std::ops::Range<u64>) {
        let (mut at, end) = (pages.start * BALLOON_PAGE, pages.end * BALLOON_PAGE);
        while at < end {
            let Some(region) = self.memory.region(at) else {
                // Nothing answers here. Ranges are short, so page by page is quick enough.
                at += BALLOON_PAGE;
                continue;
            };
            let within = at - region.address;
            let size = (end - at).min(region.size - within);
            if !region.readonly {
                self.discard(region.offset + within, size);
            }
            at += size;
        }
    }

    /// Gives up the whole pages of a part of the backing memory, as far as they are RAM.
    fn discard(&self, offset: u64, size: u64) {
        let start = offset.next_multiple_of(PAGE_SIZE);
        let end = (offset + size).min(self.ram) / PAGE_SIZE * PAGE_SIZE;
        if start < end {
            // Whole pages inside of the memory are never refused.
            let _ = self.memory.discard(start, end - start);
        }
    }

    /// Takes free memory, which is the guest's again when the report is given back.
    fn report(&self, chain: &Chain) {
        let mut left = MAX_REPORT;
        for (offset, size) in chain.writable_pieces() {
            let size = size.min(left);
            self.discard(offset, size);
            left -= size;
        }
    }

    fn serve_statistics(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let mut state = self.state.lock();
        for _ in 0..queue.size() {
            if !queue.pop()? {
                return queue.arm();
            }
            let statistics = &mut state.statistics;
            if std::mem::take(&mut statistics.asked) {
                statistics.values = parse(queue.chain());
                statistics.answers += 1;
                self.answered.notify_all();
            }
            if !std::mem::take(&mut statistics.wanted) {
                queue.put_back(1);
                break;
            }
            statistics.asked = true;
            queue.push(0);
            queue.signal();
        }
        Ok(false)
    }
}

/// The statistics in a buffer; those of unknown kinds are left out.
fn parse(chain: &Chain) -> Vec<(&'static str, u64)> {
    let mut bytes = [0; STATISTIC_SIZE * STATISTICS.len() * 2];
    let size = chain.read(0, &mut bytes);
    let entries = bytes[..size].chunks_exact(STATISTIC_SIZE).filter_map(|entry| {
        let (tag, value) = entry.split_first_chunk::<2>()?;
        let name = STATISTICS.get(usize::from(u16::from_le_bytes(*tag)))?;
        Some((*name, u64::from_le_bytes(value.try_into().ok()?)))
    });
    entries.collect()
}

impl VirtioDevice for Balloon {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        let oom = if self.options.deflate_on_oom { FEATURE_DEFLATE_ON_OOM } else { 0 };
        let reporting = if self.options.free_page_reporting { FEATURE_PAGE_REPORTING | FEATURE_PAGE_POISON } else { 0 };
        FEATURE_STATS_VQ | oom | reporting
    }

    /// inflateq, deflateq, statsq, free_page_vq, reporting_vq. Linux counts only queues that it uses, so that its
    /// reporting_vq is the one before the last (virtio 1.2, section 5.5.2, has it as the last): without
    /// VIRTIO_BALLOON_F_FREE_PAGE_HINT both are for reports.
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 5]
    }

    fn config(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut config = vec![0; CONFIG_SIZE];
        config[0..4].copy_from_slice(&state.pages.to_le_bytes());
        config[CONFIG_ACTUAL..CONFIG_ACTUAL + 4].copy_from_slice(&state.actual.to_le_bytes());
        config[CONFIG_POISON..CONFIG_POISON + 4].copy_from_slice(&state.poison.to_le_bytes());
        config
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let state = &mut *self.state.lock();
        for (register, value) in [(CONFIG_ACTUAL, &mut state.actual), (CONFIG_POISON, &mut state.poison)] {
            let mut bytes = value.to_le_bytes();
            for (at, byte) in (offset..).zip(data) {
                // Legacy drivers write byte by byte.
                if let Some(place) = at.checked_sub(register).and_then(|index| bytes.get_mut(index)) {
                    *place = *byte;
                }
            }
            *value = u32::from_le_bytes(bytes);
        }
    }

    fn connect(&self, link: Arc<Link>) {
        let _ = self.link.set(link);
    }

    fn start(&self, features: u64) {
        self.state.lock().features = features;
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let [inflate, deflate, statistics, reports @ ..] = queues else { return Ok(false) };
        let mut more = inflate.serve(|chain| {
            self.inflate(chain);
            Ok(0)
        })?;
        // The guest has them back as soon as it touches them.
        more |= deflate.serve(|_| Ok(0))?;
        more |= self.serve_statistics(statistics)?;
        let reporting = {
            let state = self.state.lock();
            // Memory that is filled with something reads zero afterwards, which such a driver does not expect.
            state.features & FEATURE_PAGE_REPORTING != 0 && state.poison == 0
        };
        for queue in reports {
            more |= queue.serve(|chain| {
                if reporting {
                    self.report(chain);
                }
                Ok(0)
            })?;
        }
        Ok(more)
    }

    fn reset(&self) {
        let state = &mut *self.state.lock();
        let statistics = Statistics { answers: state.statistics.answers, ..Statistics::default() };
        *state = State { pages: state.pages, statistics, ..State::default() };
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u32(state.pages);
        writer.u32(state.actual);
        writer.u32(state.poison);
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, saved, STATE_VERSION)?;
        let (pages, actual, poison) = (reader.u32()?, reader.u32()?, reader.u32()?);
        reader.finish()?;
        let state = &mut *self.state.lock();
        (state.pages, state.actual, state.poison) = (pages, actual, poison);
        Ok(())
    }
}
