use crate::{Link, Queue, VirtioDevice};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The I/O thread of a device. It owns the queues while it runs.
pub(crate) struct Worker {
    thread: JoinHandle<Vec<Queue>>,
    link: Arc<Link>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(device: Arc<dyn VirtioDevice>, link: Arc<Link>, queues: Vec<Queue>) -> io::Result<Self> {
        link.set_stop(false);
        let shared = link.clone();
        let thread = std::thread::Builder::new()
            .name(device.name().chars().filter(char::is_ascii_graphic).take(15).collect())
            .spawn(move || run(&*device, &shared, queues))?;
        Ok(Worker { thread, link })
    }

    /// Stops the thread after the request it is serving and gives the queues back: none when it died.
    pub fn stop(self) -> Vec<Queue> {
        self.link.set_stop(true);
        self.thread.join().unwrap_or_default()
    }
}

fn run(device: &dyn VirtioDevice, link: &Link, mut queues: Vec<Queue>) -> Vec<Queue> {
    while !link.stopping() {
        match device.process(&mut queues) {
            Ok(true) => {}
            Ok(false) => sleep(link, device.event_fd()),
            Err(error) => {
                link.needs_reset(format!("{}: {error}", device.name()));
                break;
            }
        }
    }
    queues
}

/// Waits for a wake-up, or until `event` is readable.
fn sleep(link: &Link, event: Option<RawFd>) {
    let waiting = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // A negative descriptor is passed over by poll.
    let mut fds = [waiting(link.wake_fd()), waiting(event.unwrap_or(-1))];
    // SAFETY: the pointer is to as many entries of our own as are given. An interrupted wait is a spurious wake-up.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
    // Cleared before the queues are looked at again: what arrives during that look ends the next wait.
    if fds[0].revents != 0 {
        link.clear_wake();
    }
}
