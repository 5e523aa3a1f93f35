//! Parallel flash: the firmware's memory, which keeps its variables. Intel AP-646 and JEDEC JESD68.01 (Common Flash
//! Interface), 28F400BL data sheet (commands); what OVMF expects of it: the driver QemuFlashFvbServices.

mod chip;

use crate::{AccessSizes, Action, Device, StateReader, StateWriter};
use chip::{BLOCK, Chip, Operation, Reads};
use hv::{GuestMemory, Region};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the guest must leave the flash alone before its file is made durable, and how long that waits at most.
const SYNC_AFTER: Duration = Duration::from_millis(50);
const SYNC_WITHIN: Duration = Duration::from_secs(1);
/// How long the guest must leave flash that can be written alone in array mode before it is memory again. Each change costs
/// every processor what it has translated, and firmware that stores a variable goes back and forth many times.
const SHOW_AFTER: Duration = Duration::from_secs(2);
const STATE_VERSION: u32 = 1;

/// An 8-bit flash chip with blocks of 4 KiB.
///
/// In array mode its contents are a read-only region of guest memory, from which the guest reads, and runs, at full speed. A
/// write comes to the device; when it leaves array mode the region goes away and reads come to the device, too. Back in array
/// mode the device goes on answering reads, and a thread brings the region back when the guest has left the chip alone for
/// 2 s. Flash that cannot be written brings it back at once.
///
/// What the guest programs is in the file when its write ends, and durable soon after: the thread calls fdatasync when no
/// write has come for 50 ms, and after a second at the latest. One write to the file is a part of one block.
///
/// The contents are no part of the saved state, as those of a disk are none.
///
/// Lock order: `state`, then the changes of [`GuestMemory`].
pub struct Pflash {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    memory: Arc<GuestMemory>,
    region: Region,
    file: File,
    readonly: bool,
    /// [`SHOW_AFTER`].
    show_after: Duration,
    state: Mutex<State>,
    /// For the thread.
    wake: Condvar,
}

struct State {
    chip: Chip,
    /// The region is there.
    shown: bool,
    last_write: Instant,
    /// Since when the file holds something that may not be durable.
    unsynced: Option<Instant>,
    failure: Option<String>,
    /// The thread waits for something to do.
    idle: bool,
    stopped: bool,
}

impl Pflash {
    /// Flash at `region` (its `offset` is where in the backing memory the contents lie), filled from `file`, which is exactly
    /// as large. What the guest programs goes there, unless the flash is `readonly`.
    ///
    /// # Errors
    /// One sentence when the file is of another size or cannot be read, the region is not one of guest memory or is in use,
    /// or there can be no thread.
    pub fn new(
        name: &str,
        memory: Arc<GuestMemory>,
        region: Region,
        file: File,
        readonly: bool,
    ) -> Result<Arc<Self>, String> {
        Self::with_delay(name, memory, region, file, readonly, SHOW_AFTER)
    }

    fn with_delay(
        name: &str,
        memory: Arc<GuestMemory>,
        region: Region,
        file: File,
        readonly: bool,
        show_after: Duration,
    ) -> Result<Arc<Self>, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what} the flash {name}: {error}");
        let found = file.metadata().map_err(|error| failed("look at the file of", &error))?.len();
        if found != region.size {
            return Err(format!("the file of the flash {name} has {found} bytes, the flash {}", region.size));
        }
        let region = Region { readonly: true, ..region };
        let state = State {
            chip: Chip::new(region.size),
            shown: true,
            last_write: Instant::now(),
            unsynced: None,
            failure: None,
            idle: false,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            memory,
            region,
            file,
            readonly,
            show_after,
            state: Mutex::new(state),
            wake: Condvar::new(),
        });
        shared.fill().map_err(|error| failed("fill", &error))?;
        let range = region.address..region.address + region.size;
        shared.memory.remap(&[range], &[region]).map_err(|error| failed("map", &error))?;
        let for_thread = shared.clone();
        let thread = match readonly {
            true => None,
            false => {
                let run = move || for_thread.run();
                let spawned = std::thread::Builder::new().name("flash".into()).spawn(run);
                Some(spawned.map_err(|error| failed("start the thread of", &error))?)
            }
        };
        Ok(Arc::new(Pflash { shared, thread }))
    }

    /// Why what the guest has programmed may not be durable, if it may not.
    pub fn failure(&self) -> Option<String> {
        self.shared.state.lock().failure.clone()
    }
}

impl Drop for Pflash {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Copies the file into the backing memory.
    fn fill(&self) -> Result<(), String> {
        let mut block = [0; BLOCK as usize];
        for offset in (0..self.region.size).step_by(block.len()) {
            self.file.read_exact_at(&mut block, offset).map_err(|error| error.to_string())?;
            self.memory.write_backing(self.region.offset + offset, &block).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Changes the cells. False: nothing was changed.
    fn operate(&self, operation: Operation<'_>) -> bool {
        match operation {
            _ if self.readonly => false,
            Operation::Erase(offset) => self.store(offset, &[0xFF; BLOCK as usize]),
            Operation::Program(bytes) => {
                let (Some(first), Some(last)) =
                    (bytes.iter().map(|byte| byte.0).min(), bytes.iter().map(|byte| byte.0).max())
                else {
                    return true;
                };
                let mut block = [0; BLOCK as usize];
                let Some(cells) = block.get_mut(..=(last - first) as usize) else { return false };
                if self.memory.read_backing(self.region.offset + first, cells).is_err() {
                    return false;
                }
                for &(offset, byte) in bytes {
                    cells[(offset - first) as usize] &= byte;
                }
                self.store(first, cells)
            }
        }
    }

    fn store(&self, offset: u64, cells: &[u8]) -> bool {
        let inside = offset.checked_add(cells.len() as u64).is_some_and(|end| end <= self.region.size);
        inside
            && self.file.write_all_at(cells, offset).is_ok()
            && self.memory.write_backing(self.region.offset + offset, cells).is_ok()
    }

    /// Lets reads come to the device.
    fn hide(&self, state: &mut State) {
        if state.shown {
            let range = self.region.address..self.region.address + self.region.size;
            state.shown = self.memory.remap(&[range], &[]).is_err();
        }
    }

    /// Makes the contents memory again. What has been put there meanwhile stays, and the flash hidden.
    fn show(&self, state: &mut State) {
        if !state.shown {
            state.shown = self.memory.remap(&[], &[self.region]).is_ok();
        }
    }

    /// The thread of flash that can be written.
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            let now = Instant::now();
            let sync_at = state.unsynced.map(|since| (state.last_write + SYNC_AFTER).min(since + SYNC_WITHIN));
            let show_at =
                (!state.shown && state.chip.reads() == Reads::Array).then(|| state.last_write + self.show_after);
            if sync_at.is_some_and(|at| at <= now) {
                self.sync(&mut state);
            } else if show_at.is_some_and(|at| at <= now) {
                self.show(&mut state);
                // Where it could not be, it is tried again after as long.
                state.last_write = now;
            } else if let Some(until) = [sync_at, show_at].into_iter().flatten().min() {
                self.wake.wait_until(&mut state, until);
            } else {
                state.idle = true;
                self.wake.wait(&mut state);
                state.idle = false;
            }
        }
        self.sync(&mut state);
    }

    /// Makes the file durable; the flash can be used meanwhile.
    fn sync(&self, state: &mut MutexGuard<'_, State>) {
        if state.unsynced.take().is_some() {
            let outcome = MutexGuard::unlocked(state, || self.file.sync_data());
            state.failure = outcome.err().map(|error| format!("the flash {} may not be durable: {error}", self.name));
        }
    }
}

impl Device for Pflash {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 8 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.shared.state.lock();
        if state.chip.reads() == Reads::Array {
            // The bus keeps an access within the range.
            if self.shared.memory.read_backing(self.shared.region.offset + offset, data).is_err() {
                data.fill(0xFF);
            }
        } else {
            // Wider accesses are a sequence of bytes on an 8-bit bus.
            (offset..).zip(data).for_each(|(at, byte)| *byte = state.chip.answer(at));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        let now = Instant::now();
        let mut changed = false;
        for (at, &value) in (offset..).zip(data).filter(|(at, _)| *at < shared.region.size) {
            state.chip.write(at, value, &mut |operation| {
                let done = shared.operate(operation);
                changed |= done;
                done
            });
        }
        state.last_write = now;
        // The thread may be waiting for something later.
        let sooner = state.idle || changed && state.unsynced.is_none();
        if changed {
            state.unsynced.get_or_insert(now);
        }
        if state.chip.reads() != Reads::Array {
            shared.hide(&mut state);
        } else if shared.readonly {
            shared.show(&mut state);
        }
        if sooner {
            shared.wake.notify_one();
        }
        Action::None
    }

    fn reset(&self) {
        let mut state = self.shared.state.lock();
        state.chip.reset();
        self.shared.show(&mut state);
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.shared.state.lock().chip.save(&mut writer);
        writer.finish()
    }

    /// As [`Device::load`]; the contents are read from the file again.
    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let shared = &*self.shared;
        let mut reader = StateReader::new(&shared.name, saved, STATE_VERSION)?;
        let chip = Chip::load(&mut reader, shared.region.size)?;
        reader.finish()?;
        let mut state = shared.state.lock();
        shared.fill().map_err(|error| format!("cannot fill the flash {}: {error}", shared.name))?;
        state.chip = chip;
        match state.chip.reads() {
            Reads::Array => shared.show(&mut state),
            _ => shared.hide(&mut state),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
