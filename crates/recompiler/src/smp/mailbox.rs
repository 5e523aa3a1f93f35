//! How others reach a vCPU: requests, kicks, and stopping it.

use super::super::sync::{AtomicBool, AtomicU32, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, zeros};

/// The poll word of a vCPU that nobody wants anything of. Translated code tests the word with JRCXZ, which takes no
/// flags and, when nothing is wanted, no branch.
pub const QUIET: u32 = 1;

/// The poll word of a vCPU that is to look at its mailbox, its APIC and its state.
pub const WANTED: u32 = 0;

/// What one vCPU or device asks of another vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Drop translations of code in these bytes of the RAM file, before translated code runs again.
    Invalidate {
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Stop writing to this page of the RAM file by way of the TLB, before guest memory is accessed again.
    Protect {
        /// Page number in the RAM file.
        page: u64,
    },
    /// Both for all pages, and all accesses: memory answers elsewhere now, or more was asked than is worth remembering.
    Everything,
}

/// Requests that are kept one by one.
const MOST_REQUESTS: usize = 64;

/// Bits of [`Mailbox::attention`].
mod attention {
    /// There are requests.
    pub const REQUESTS: u32 = 1 << 0;
    /// `run` shall return.
    pub const KICKED: u32 = 1 << 1;
    /// The vCPU must not come inside.
    pub const HELD: u32 = 1 << 2;
    /// Somebody waits for the vCPU to go outside or to take its requests.
    pub const WATCHED: u32 = 1 << 3;
}

#[derive(Default)]
struct Inbox {
    requests: Vec<Request>,
    /// Requests posted so far, and how many of these were taken.
    posted: u64,
    taken: u64,
    /// Threads in [`Mailbox::wait`].
    watchers: u32,
    asleep: bool,
    /// The vCPU's poll word, while the vCPU lives.
    poll: Option<PollWord>,
}

/// Points at the poll word of a living vCPU; taken out of the inbox before the word goes away.
struct PollWord(*const AtomicU32);

// SAFETY: the word is an atomic; the pointer is valid while it is in the inbox (see `Mailbox::detach`).
unsafe impl Send for PollWord {}

/// What the others know of a vCPU. Its own thread calls `enter`, `leave`, `come_back` and `sleep`.
///
/// `outside` and `attention` are for those who pass by without the lock: one side writes `outside` and reads `attention`,
/// the other writes `attention` and reads `outside`, all sequentially consistent, so that at least one of them sees both.
pub struct Mailbox {
    /// The vCPU runs no guest code, and reads its attention before it does.
    outside: AtomicBool,
    attention: AtomicU32,
    /// Page of the RAM file, plus 1, that the vCPU may be storing to beside code; 0 for none.
    pub(super) beside: AtomicU64,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    /// Per page of the RAM file: which 64-byte granules hold code this vCPU has translated.
    pub(super) granules: Box<[AtomicU64]>,
}

impl Mailbox {
    pub(super) fn new(pages: usize) -> Self {
        Mailbox {
            outside: AtomicBool::new(true),
            attention: AtomicU32::new(0),
            beside: AtomicU64::new(0),
            inbox: Mutex::new(Inbox::default()),
            changed: Condvar::new(),
            granules: zeros(pages),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn until_changed<'a>(&self, inbox: MutexGuard<'a, Inbox>) -> MutexGuard<'a, Inbox> {
        self.changed.wait(inbox).unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[inline]
    fn has(&self, what: u32) -> bool {
        self.attention.load(Ordering::SeqCst) & what != 0
    }

    fn raise(inbox: &Inbox) {
        if let Some(poll) = &inbox.poll {
            // SAFETY: the word lives while it is registered.
            unsafe { &*poll.0 }.store(WANTED, Ordering::SeqCst);
        }
    }

    fn tell_watchers(&self, inbox: &Inbox) {
        if inbox.watchers != 0 {
            self.changed.notify_all();
        }
    }

    /// Registers the poll word of a vCPU, which must call [`Self::detach`] before the word goes away.
    pub(crate) fn attach(&self, poll: *const AtomicU32) {
        self.lock().poll = Some(PollWord(poll));
    }

    /// Forgets the poll word.
    pub(crate) fn detach(&self) {
        let mut inbox = self.lock();
        inbox.poll = None;
        self.outside.store(true, Ordering::SeqCst);
        self.tell_watchers(&inbox);
    }

    /// Whether anything is asked of the vCPU but to look at its APIC. Its poll word must have been made [`QUIET`] before: who
    /// asks later makes it [`WANTED`] again.
    pub(crate) fn asks(&self) -> bool {
        self.has(attention::REQUESTS | attention::KICKED | attention::HELD)
    }

    /// Takes all requests and whether a kick came. Inside from here on.
    pub(crate) fn enter(&self) -> (Vec<Request>, bool) {
        self.beside.store(0, Ordering::Release);
        self.come_inside();
        if !self.has(attention::REQUESTS | attention::KICKED) {
            return (Vec::new(), false);
        }
        let mut inbox = self.lock();
        let taken = self.attention.fetch_and(!(attention::REQUESTS | attention::KICKED), Ordering::SeqCst);
        inbox.taken = inbox.posted;
        self.tell_watchers(&inbox);
        (std::mem::take(&mut inbox.requests), taken & attention::KICKED != 0)
    }

    /// Outside of guest code from here on: nobody waits for this vCPU.
    #[inline]
    pub(crate) fn leave(&self) {
        self.outside.store(true, Ordering::SeqCst);
        if self.has(attention::WATCHED) {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        let inbox = self.lock();
        self.tell_watchers(&inbox);
    }

    /// Inside again in the middle of an instruction. `None`: nothing was asked. Otherwise the caller's poll word is to say [`WANTED`], and
    /// does at once what is given here; the rest can wait until the instruction's end.
    #[inline]
    pub(crate) fn come_back(&self) -> Option<Vec<Request>> {
        self.come_inside();
        if self.has(attention::REQUESTS | attention::KICKED) { Some(self.urgent()) } else { None }
    }

    #[cold]
    fn urgent(&self) -> Vec<Request> {
        let urgent = |request: &Request| !matches!(request, Request::Invalidate { .. });
        let mut inbox = self.lock();
        let now = inbox.requests.iter().copied().filter(urgent).collect();
        inbox.requests.retain(|request| !matches!(request, Request::Protect { .. }));
        now
    }

    #[inline]
    fn come_inside(&self) {
        loop {
            self.outside.store(false, Ordering::SeqCst);
            if !self.has(attention::HELD) {
                return;
            }
            self.stay_outside();
        }
    }

    /// Until nobody holds the vCPU there.
    #[cold]
    fn stay_outside(&self) {
        let mut inbox = self.lock();
        self.outside.store(true, Ordering::SeqCst);
        self.tell_watchers(&inbox);
        while self.has(attention::HELD) {
            inbox = self.until_changed(inbox);
        }
    }

    /// Sleeps outside until the poll word says [`WANTED`].
    pub(crate) fn sleep(&self, poll: &AtomicU32) {
        let mut inbox = self.lock();
        self.outside.store(true, Ordering::SeqCst);
        self.tell_watchers(&inbox);
        inbox.asleep = true;
        while poll.load(Ordering::SeqCst) == QUIET {
            inbox = self.until_changed(inbox);
        }
        inbox.asleep = false;
    }

    /// Asks something of the vCPU. The number is for [`Self::wait_taken`].
    pub(crate) fn post(&self, request: Request) -> u64 {
        let mut inbox = self.lock();
        inbox.posted += 1;
        if inbox.requests.len() == MOST_REQUESTS {
            inbox.requests.clear();
            inbox.requests.push(Request::Everything);
        } else if inbox.requests.first() != Some(&Request::Everything) && inbox.requests.last() != Some(&request) {
            inbox.requests.push(request);
        }
        self.attention.fetch_or(attention::REQUESTS, Ordering::SeqCst);
        // From outside it comes by here anyway, and may go on sleeping until it does.
        if !self.outside.load(Ordering::SeqCst) {
            Self::raise(&inbox);
        }
        inbox.posted
    }

    /// Waits until the vCPU has taken a request, or is outside.
    pub(super) fn wait_taken(&self, number: u64) {
        self.wait(|inbox| inbox.taken >= number);
    }

    /// Waits until the vCPU is outside, which after [`Self::hold`] it stays.
    pub(super) fn wait_outside(&self) {
        self.wait(|_| false);
    }

    fn wait(&self, done: impl Fn(&Inbox) -> bool) {
        if self.outside.load(Ordering::SeqCst) {
            return;
        }
        let mut inbox = self.lock();
        inbox.watchers += 1;
        self.attention.fetch_or(attention::WATCHED, Ordering::SeqCst);
        while !(self.outside.load(Ordering::SeqCst) || done(&inbox)) {
            inbox = self.until_changed(inbox);
        }
        inbox.watchers -= 1;
        if inbox.watchers == 0 {
            self.attention.fetch_and(!attention::WATCHED, Ordering::SeqCst);
        }
    }

    /// Keeps the vCPU from coming inside, until [`Self::release`]; one holder at a time.
    pub(super) fn hold(&self) {
        let inbox = self.lock();
        self.attention.fetch_or(attention::HELD, Ordering::SeqCst);
        if !self.outside.load(Ordering::SeqCst) {
            Self::raise(&inbox);
        }
    }

    /// Ends [`Self::hold`].
    pub(super) fn release(&self) {
        let _inbox = self.lock();
        self.attention.fetch_and(!attention::HELD, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Makes `run` return.
    pub(crate) fn kick(&self) {
        let inbox = self.lock();
        self.attention.fetch_or(attention::KICKED, Ordering::SeqCst);
        self.wake(&inbox);
    }

    /// Makes the vCPU look at its APIC.
    pub(crate) fn interrupt(&self) {
        let inbox = self.lock();
        self.wake(&inbox);
    }

    fn wake(&self, inbox: &Inbox) {
        Self::raise(inbox);
        if inbox.asleep {
            self.changed.notify_all();
        }
    }
}
