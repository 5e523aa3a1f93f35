//! Stopping a vCPU that runs in the kernel.

use hv::{Error, Kick};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

/// Above `SIGRTMIN`: low enough to exist everywhere, and not the first that a library would take.
const KICK_SIGNAL_OFFSET: libc::c_int = 4;

/// The signal that interrupts `KVM_RUN`.
pub(crate) fn kick_signal() -> libc::c_int {
    SIGRTMIN() + KICK_SIGNAL_OFFSET
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the handler of the kick signal, once for the process. It does nothing and restarts nothing: that the
/// signal was delivered is what makes `KVM_RUN` return `EINTR`.
fn install_handler() -> Result<(), Error> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED.get_or_init(|| register_signal_handler(kick_signal(), nothing).map_err(|error| error.errno())).map_err(
        |errno| Error::Os {
            action: "install the handler of the kick signal",
            source: io::Error::from_raw_os_error(errno),
        },
    )
}

/// Where a kick goes.
struct Target {
    /// `kvm_run.immediate_exit`; `None` once the vCPU is gone.
    immediate_exit: Option<NonNull<u8>>,
    /// The thread inside [`hv::Vcpu::run`], if there is one.
    thread: Option<libc::pid_t>,
}

/// The handle of one vCPU by which any thread ends its [`hv::Vcpu::run`].
///
/// A kick sets `requested`, then `immediate_exit`, then signals the thread inside `run`. The kernel looks at
/// `immediate_exit` when `KVM_RUN` begins, and at signals from then on, so the kick is seen wherever the thread is:
///
/// ```text
///   before KVM_RUN    the signal finds nothing to interrupt, but immediate_exit is set: KVM_RUN returns EINTR
///   inside KVM_RUN    the signal ends it: EINTR, also out of HLT
///   in a bus access   as before KVM_RUN; the next KVM_RUN first completes the instruction of the access
///   outside run       nobody is signalled; the first KVM_RUN of the next run returns EINTR
///   vCPU dropped      nothing happens
/// ```
///
/// The vCPU answers `EINTR` by clearing `immediate_exit` and then taking `requested`, the other way round: a kick that
/// comes in between leaves at worst one `immediate_exit` without a request, which costs one more round of the loop.
///
/// The lock is held while signalling and never while running, so that the thread exists whenever it is signalled.
pub(crate) struct VcpuKick {
    requested: AtomicBool,
    target: Mutex<Target>,
}

// SAFETY: the pointer is only used under the lock, through atomics, and is removed before what it points at goes away.
unsafe impl Send for VcpuKick {}
// SAFETY: as above.
unsafe impl Sync for VcpuKick {}

impl VcpuKick {
    /// For the vCPU whose `kvm_run.immediate_exit` is given.
    ///
    /// # Safety
    /// `immediate_exit` stays valid until [`VcpuKick::detach`].
    pub unsafe fn new(immediate_exit: NonNull<u8>) -> Result<Self, Error> {
        install_handler()?;
        let target = Target { immediate_exit: Some(immediate_exit), thread: None };
        Ok(VcpuKick { requested: AtomicBool::new(false), target: Mutex::new(target) })
    }

    /// The calling thread is inside `run` until the guard goes.
    pub fn enter(self: &Arc<Self>) -> Result<Running, Error> {
        // A thread inherits its signal mask from the one that made it, and some mask everything.
        unblock_signal(kick_signal())
            .map_err(|_| Error::Os { action: "unblock the kick signal", source: io::Error::last_os_error() })?;
        // SAFETY: no arguments, cannot fail.
        self.target().thread = Some(unsafe { libc::gettid() });
        Ok(Running(self.clone()))
    }

    /// Answers an `EINTR`: whether somebody kicked.
    pub fn take(&self) -> bool {
        self.set_immediate_exit(&self.target(), 0);
        self.requested.swap(false, Ordering::SeqCst)
    }

    /// The vCPU goes away; later kicks do nothing.
    pub fn detach(&self) {
        self.target().immediate_exit = None;
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_immediate_exit(&self, target: &Target, value: u8) {
        if let Some(immediate_exit) = target.immediate_exit {
            // SAFETY: valid until `detach` by the contract of `new`; shared with the kernel, hence atomic.
            unsafe { AtomicU8::from_ptr(immediate_exit.as_ptr()) }.store(value, Ordering::SeqCst);
        }
    }
}

impl Kick for VcpuKick {
    fn kick(&self) {
        self.requested.store(true, Ordering::SeqCst);
        let target = self.target();
        self.set_immediate_exit(&target, 1);
        if let Some(thread) = target.thread {
            // SAFETY: signals a thread of our own process that is inside `run`, as the lock is held.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
        }
    }

    /// Nothing to do: KVM's local APICs are in the kernel, which wakes the vCPU by itself.
    fn interrupt(&self) {}
}

/// A thread is inside `run`.
pub(crate) struct Running(Arc<VcpuKick>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.target().thread = None;
    }
}
