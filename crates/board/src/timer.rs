use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread sleeps when nothing is armed.
const IDLE: Duration = Duration::from_secs(3600);

type Callback = Arc<dyn Fn() + Send + Sync>;

/// The machine's timers: one thread, named `timers`, that calls back at instants of the monotonic clock.
///
/// The thread ends when the last handle (this or a [`Timer`]'s owner) lets go of `Timers`.
pub struct Timers {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Lock order: a device's own lock, then `queue`. Callbacks run with no lock held.
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Deadline and slot, earliest first.
    armed: BTreeSet<(Instant, usize)>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// When the sleeping thread will look again; `None` while it is awake.
    asleep_until: Option<Instant>,
    stopped: bool,
}

#[derive(Default)]
struct Slot {
    deadline: Option<Instant>,
    callback: Option<Callback>,
}

/// One timer: armed for at most one instant at a time. Dropping it cancels it.
pub struct Timer {
    shared: Arc<Shared>,
    slot: usize,
}

impl Timers {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host's error when it gives no thread.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::default()), changed: Condvar::new() });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new().name("timers".into()).spawn(move || for_thread.run())?;
        Ok(Arc::new(Timers { shared, thread: Some(thread) }))
    }

    /// Makes a timer, not armed. `callback` runs on the thread `timers`: it must be short and must not wait for
    /// long-held locks. It may arm timers. It should hold weak references to what owns the timer.
    pub fn create(&self, callback: impl Fn() + Send + Sync + 'static) -> Timer {
        let mut queue = self.shared.queue.lock();
        let slot = queue.free.pop().unwrap_or_else(|| {
            queue.slots.push(Slot::default());
            queue.slots.len() - 1
        });
        queue.slots[slot] = Slot { deadline: None, callback: Some(Arc::new(callback)) };
        drop(queue);
        Timer { shared: self.shared.clone(), slot }
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            // A callback may hold the last reference to the machine: the thread cannot wait for itself.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Timer {
    /// Calls back once at `deadline`, or at once when it has passed. Replaces an earlier deadline.
    ///
    /// A callback already on its way is not held up: it has to look at the clock itself.
    pub fn arm(&self, deadline: Instant) {
        let mut queue = self.shared.queue.lock();
        queue.disarm(self.slot);
        queue.slots[self.slot].deadline = Some(deadline);
        queue.armed.insert((deadline, self.slot));
        // A sleeper that wakes too early goes back to sleep; only one that would wake too late is woken.
        if queue.asleep_until.is_some_and(|until| deadline < until) {
            queue.asleep_until = None;
            drop(queue);
            self.shared.changed.notify_one();
        }
    }

    /// Forgets the deadline. A callback already on its way still comes.
    pub fn cancel(&self) {
        self.shared.queue.lock().disarm(self.slot);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.disarm(self.slot);
        // Dropped after the lock: it may own other timers.
        let callback = queue.slots[self.slot].callback.take();
        queue.free.push(self.slot);
        drop(queue);
        drop(callback);
    }
}

impl Queue {
    fn disarm(&mut self, slot: usize) {
        if let Some(deadline) = self.slots[slot].deadline.take() {
            self.armed.remove(&(deadline, slot));
        }
    }

    /// Takes the callback of a timer that is due.
    fn due(&mut self, now: Instant) -> Option<Callback> {
        let &(deadline, slot) = self.armed.first()?;
        if deadline > now {
            return None;
        }
        self.disarm(slot);
        self.slots[slot].callback.clone()
    }
}

impl Shared {
    fn run(&self) {
        // SAFETY: this prctl takes an integer and changes only this thread's timer slack, from 50 us to 1 ns.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
        let mut queue = self.queue.lock();
        while !queue.stopped {
            let now = Instant::now();
            if let Some(callback) = queue.due(now) {
                drop(queue);
                callback();
                drop(callback);
                queue = self.queue.lock();
                continue;
            }
            let until = queue.armed.first().map_or(now + IDLE, |&(deadline, _)| deadline);
            queue.asleep_until = Some(until);
            self.changed.wait_until(&mut queue, until);
            queue.asleep_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};

    const SOON: Duration = Duration::from_millis(5);
    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_timer_fires_once_and_not_early() {
        let timers = Timers::new().unwrap();
        let (sender, receiver) = channel();
        let timer = timers.create(move || sender.send(Instant::now()).unwrap());
        let deadline = Instant::now() + SOON;
        timer.arm(deadline);
        assert!(receiver.recv_timeout(PATIENCE).unwrap() >= deadline);
        assert_eq!(receiver.recv_timeout(SOON * 4), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn rearming_to_an_earlier_time_wakes_the_thread() {
        let timers = Timers::new().unwrap();
        let (sender, receiver) = channel();
        let timer = timers.create(move || sender.send(()).unwrap());
        timer.arm(Instant::now() + Duration::from_secs(600));
        std::thread::sleep(SOON);
        timer.arm(Instant::now() + SOON);
        receiver.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn a_cancelled_or_dropped_timer_stays_silent() {
        let timers = Timers::new().unwrap();
        let (sender, receiver) = channel();
        let [first, second] = [sender.clone(), sender].map(|sender| timers.create(move || sender.send(()).unwrap()));
        first.arm(Instant::now() + SOON);
        second.arm(Instant::now() + SOON);
        first.cancel();
        drop(second);
        assert_eq!(
            receiver.recv_timeout(SOON * 4),
            Err(RecvTimeoutError::Disconnected).or(Err(RecvTimeoutError::Timeout))
        );
    }

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines() {
        let timers = Timers::new().unwrap();
        let (sender, receiver) = channel();
        let start = Instant::now() + SOON;
        let made: Vec<_> = [3u32, 1, 2]
            .into_iter()
            .map(|n| {
                let sender = sender.clone();
                let timer = timers.create(move || sender.send(n).unwrap());
                timer.arm(start + n * SOON);
                timer
            })
            .collect();
        let order: Vec<u32> = (0..3).map(|_| receiver.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!(order, [1, 2, 3]);
        drop(made);
    }

    #[test]
    fn the_last_owner_may_let_go_inside_a_callback() {
        let timers = Timers::new().unwrap();
        let (sender, receiver) = channel();
        let held = Mutex::new(Some(timers.clone()));
        let timer = timers.create(move || {
            drop(held.lock().take());
            sender.send(()).unwrap();
        });
        drop(timers);
        timer.arm(Instant::now());
        receiver.recv_timeout(PATIENCE).unwrap();
    }
}
