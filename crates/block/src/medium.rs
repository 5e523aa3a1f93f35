use crate::Disk;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// A drive that wants to know at once what the host does to its slot.
pub trait MediumWatcher: Send + Sync {
    /// The disk was exchanged, or the button pressed. Called by the host's thread, no lock held.
    fn medium_changed(&self);
}

/// The slot of a drive with removable media. The host exchanges what is in it, the drive looks. It outlives the drive
/// when a machine is made anew, and so does what the guest did to its tray.
///
/// The host's thread and those that emulate the drive share it. Its locks are leaves.
pub struct Medium {
    state: Mutex<State>,
    watcher: Mutex<Option<Weak<dyn MediumWatcher>>>,
}

#[derive(Default)]
struct State {
    disk: Option<Arc<dyn Disk>>,
    changes: u64,
    open: bool,
    locked: bool,
    eject_wanted: bool,
}

impl Medium {
    /// A slot with a disk in it, or without.
    pub fn new(disk: Option<Arc<dyn Disk>>) -> Arc<Self> {
        Arc::new(Medium { state: Mutex::new(State { disk, ..State::default() }), watcher: Mutex::new(None) })
    }

    /// Takes out what is in the slot and puts in another disk, or none, and closes the tray; by force if the guest has
    /// locked it. What a drive is doing with the old one, it finishes.
    pub fn exchange(&self, disk: Option<Arc<dyn Disk>>) -> Option<Arc<dyn Disk>> {
        let old = {
            let mut state = self.state.lock();
            state.changes += 1;
            (state.open, state.eject_wanted) = (false, false);
            std::mem::replace(&mut state.disk, disk)
        };
        self.announce();
        old
    }

    /// Presses the button: asks the guest to let go of the disk.
    pub fn request_eject(&self) {
        self.state.lock().eject_wanted = true;
        self.announce();
    }

    fn announce(&self) {
        let watcher = self.watcher.lock().as_ref().and_then(Weak::upgrade);
        if let Some(watcher) = watcher {
            watcher.medium_changed();
        }
    }

    /// Whether the guest has asked that the medium stays in.
    pub fn locked(&self) -> bool {
        self.state.lock().locked
    }

    /// Whether the guest has opened the tray. What lies in it cannot be read.
    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// What can be read now, and how often the disk was exchanged: another number than before is the drive's sign of a
    /// change.
    pub fn current(&self) -> (u64, Option<Arc<dyn Disk>>) {
        let state = self.state.lock();
        (state.changes, state.disk.clone().filter(|_| !state.open))
    }

    /// For the drive: who is told of what the host does. There is one at a time: a slot belongs to one drive.
    pub fn watch(&self, watcher: Weak<dyn MediumWatcher>) {
        *self.watcher.lock() = Some(watcher);
    }

    /// For the drive: the guest opens or closes the tray.
    pub fn set_open(&self, open: bool) {
        self.state.lock().open = open;
    }

    /// For the drive: the guest locks the medium, or lets go.
    pub fn set_locked(&self, locked: bool) {
        self.state.lock().locked = locked;
    }

    /// For the drive: whether the button was pressed since the last time it asked.
    pub fn take_eject_request(&self) -> bool {
        std::mem::take(&mut self.state.lock().eject_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RawFile;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn disk(size: u64) -> Arc<dyn Disk> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        Arc::new(RawFile::new(file, true).unwrap())
    }

    #[test]
    fn an_exchange_shows_and_lets_go_of_the_old_disk() {
        let medium = Medium::new(None);
        assert!(matches!(medium.current(), (0, None)));
        assert!(medium.exchange(Some(disk(2048))).is_none());
        medium.set_locked(true);
        let (changes, first) = medium.current();
        let old = medium.exchange(Some(disk(4096))).unwrap();
        assert!(Arc::ptr_eq(&old, &first.unwrap()) && old.size() == 2048);
        let (after, second) = medium.current();
        assert_eq!((changes, after, second.unwrap().size()), (1, 2, 4096));
    }

    #[test]
    fn nothing_is_read_in_an_open_tray_and_an_exchange_closes_it() {
        let medium = Medium::new(Some(disk(2048)));
        medium.set_open(true);
        assert!(matches!(medium.current(), (0, None)));
        medium.set_open(false);
        assert!(medium.current().1.is_some());
        medium.set_open(true);
        assert!(medium.exchange(Some(disk(4096))).is_some());
        assert!(!medium.is_open() && medium.current().1.is_some());
    }

    #[test]
    fn a_drive_is_told_while_it_lives() {
        #[derive(Default)]
        struct Count(AtomicU32);
        impl MediumWatcher for Count {
            fn medium_changed(&self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let medium = Medium::new(None);
        let count: Arc<Count> = Arc::default();
        let watcher: Weak<Count> = Arc::downgrade(&count);
        medium.watch(watcher);
        medium.exchange(Some(disk(2048)));
        medium.request_eject();
        medium.set_open(true);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        drop(count);
        assert!(medium.exchange(None).is_some());
    }

    #[test]
    fn the_button_is_heard_once_and_an_exchange_answers_it() {
        let medium = Medium::new(Some(disk(2048)));
        medium.request_eject();
        assert!(medium.take_eject_request() && !medium.take_eject_request());
        medium.request_eject();
        medium.exchange(None);
        assert!(!medium.take_eject_request());
    }
}
