//! Finds a vCPU that an emulating KVM will never get past an instruction.
//!
//! An emulator that cannot do an instruction may begin it again and again inside `KVM_RUN` (VMCALL, INT n), where
//! neither user space nor the guest sees anything but time going by. A kick ends that `KVM_RUN` (measured: 0.2 to 9 ms,
//! as for any other guest), so nothing hangs; but nobody would be told why the guest stands still.
//!
//! A timer on the processor time of the vCPU's thread interrupts `KVM_RUN` every [`INTERVAL`]; a halted guest uses none
//! and is left alone. A guest found at one place [`PATIENCE`] times running is single-stepped, unless the instruction
//! there is a jump, which may well lead to itself. When the step ends where it began, or does not end for as many looks
//! again, the guest is stuck.
//! KVM that runs guests on the processor gets no watchdog and costs nothing.

use crate::kick::kick_signal;
use hv::Error;
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug, kvm_regs};
use kvm_ioctls::VcpuFd;

/// Processor time between two looks, in milliseconds.
const INTERVAL: i64 = 100;
/// Looks that must find the guest at the same place before it is single-stepped.
const PATIENCE: u32 = 3;

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing to complain about.
    Fine,
    /// The guest cannot get past its instruction.
    Stuck,
}

/// Watches one vCPU.
#[derive(Default)]
pub(crate) struct Watchdog {
    timer: Option<Timer>,
    /// Where the guest was at the last look, and how often in a row.
    place: Option<(kvm_regs, u32)>,
    stepping: bool,
}

impl Watchdog {
    /// Begins to watch the calling thread, which is about to run the vCPU.
    pub fn start(&mut self) -> Result<(), Error> {
        // SAFETY: no arguments, cannot fail.
        let thread = unsafe { libc::gettid() };
        let timer = match self.timer.take() {
            Some(timer) if timer.thread == thread => timer,
            _ => Timer::new(thread)?,
        };
        self.place = None;
        self.timer.insert(timer).set(INTERVAL)
    }

    /// Ends watching.
    pub fn stop(&mut self, vcpu: &VcpuFd) -> Result<(), Error> {
        self.step(vcpu, false)?;
        self.timer.as_ref().map_or(Ok(()), |timer| timer.set(0))
    }

    /// `KVM_RUN` was interrupted. `is_jump` says whether the instruction at the guest's place is a jump.
    pub fn look(&mut self, vcpu: &VcpuFd, is_jump: impl FnOnce(&kvm_regs) -> bool) -> Result<Finding, Error> {
        let now = registers(vcpu)?;
        let times = match &self.place {
            Some((place, times)) if *place == now => times + 1,
            _ => 1,
        };
        if times >= 2 * PATIENCE && self.stepping {
            return Ok(Finding::Stuck);
        }
        self.place = Some((now, times));
        self.step(vcpu, times >= PATIENCE && !is_jump(&now))?;
        Ok(Finding::Fine)
    }

    /// A single step has ended.
    pub fn stepped(&mut self, vcpu: &VcpuFd) -> Result<Finding, Error> {
        let stuck = self.place.is_some_and(|(place, _)| registers(vcpu).is_ok_and(|now| now == place));
        self.place = None;
        self.step(vcpu, false)?;
        Ok(if stuck { Finding::Stuck } else { Finding::Fine })
    }

    fn step(&mut self, vcpu: &VcpuFd, on: bool) -> Result<(), Error> {
        if self.stepping == on {
            return Ok(());
        }
        self.stepping = on;
        let control = if on { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
        let request = kvm_guest_debug { control, ..Default::default() };
        vcpu.set_guest_debug(&request).map_err(crate::vm::failed("single-step a virtual CPU"))
    }
}

fn registers(vcpu: &VcpuFd) -> Result<kvm_regs, Error> {
    vcpu.get_regs().map_err(crate::vm::failed("read the general registers"))
}

/// Whether an instruction is a relative or indirect jump or call. `code64`: 64-bit code, where 0x40..=0x4F are prefixes.
pub(crate) fn is_jump(instruction: &[u8], code64: bool) -> bool {
    let prefix = |byte: &u8| {
        matches!(byte, 0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3)
            || code64 && matches!(byte, 0x40..=0x4F)
    };
    let mut opcode = instruction.iter().copied().skip_while(prefix);
    match (opcode.next(), opcode.next()) {
        (Some(0x70..=0x7F | 0xE0..=0xE3 | 0xE8..=0xEB), _) => true,
        (Some(0x0F), Some(0x80..=0x8F)) => true,
        (Some(0xFF), Some(operand)) => matches!(operand >> 3 & 7, 2..=5),
        _ => false,
    }
}

/// Sends the kick signal to a thread by that thread's processor time.
struct Timer {
    id: libc::timer_t,
    thread: libc::pid_t,
}

// SAFETY: the identifier is only a name for the kernel's timer, which any thread may use.
unsafe impl Send for Timer {}

impl Timer {
    /// For the calling thread, whose identifier is `thread`.
    fn new(thread: libc::pid_t) -> Result<Self, Error> {
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick_signal();
        event.sigev_notify_thread_id = thread;
        let mut id = std::ptr::null_mut();
        // SAFETY: both pointers are to live locals of the right types.
        if unsafe { libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &mut event, &mut id) } != 0 {
            return Err(Error::last_os("create the watchdog's timer"));
        }
        Ok(Timer { id, thread })
    }

    /// Fires every `milliseconds` (below 1000) of processor time; never with 0.
    fn set(&self, milliseconds: i64) -> Result<(), Error> {
        let time = libc::timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        let times = libc::itimerspec { it_interval: time, it_value: time };
        // SAFETY: the timer exists while `self` does; the old setting is not wanted.
        if unsafe { libc::timer_settime(self.id, 0, &times, std::ptr::null_mut()) } != 0 {
            return Err(Error::last_os("set the watchdog's timer"));
        }
        Ok(())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by `new` and deleted once.
        unsafe { libc::timer_delete(self.id) };
    }
}

#[cfg(test)]
mod tests {
    use super::is_jump;

    #[test]
    fn jumps_are_told_from_other_instructions() {
        assert!(is_jump(&[0xEB, 0xFE], true));
        assert!(is_jump(&[0x48, 0xFF, 0xE0], true), "jmp rax");
        assert!(!is_jump(&[0x48, 0xEB], false), "dec eax in 32-bit code");
        assert!(is_jump(&[0x0F, 0x84, 0, 0, 0, 0], false));
        assert!(!is_jump(&[0x0F, 0x01, 0xC1], true), "vmcall");
        assert!(!is_jump(&[0xCD, 0x80], false), "int 0x80");
        assert!(!is_jump(&[0xFF, 0xC1], true), "inc ecx");
        assert!(!is_jump(&[0x66], true) && !is_jump(&[], true));
    }
}
