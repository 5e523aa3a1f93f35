use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who is told that a link went up or down.
pub type LinkListener = Arc<dyn Fn() + Send + Sync>;

/// Whether a link is up, and who wants to know.
pub(crate) struct Link {
    up: AtomicBool,
    listener: Mutex<Option<LinkListener>>,
}

impl Link {
    pub fn new() -> Self {
        Link { up: AtomicBool::new(true), listener: Mutex::default() }
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    pub fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::AcqRel) != up {
            self.tell();
        }
    }

    pub fn watch(&self, listener: LinkListener) {
        *self.listener.lock() = Some(listener);
    }

    fn tell(&self) {
        // Told without the lock, as who is told may come back to ask.
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener();
        }
    }
}
