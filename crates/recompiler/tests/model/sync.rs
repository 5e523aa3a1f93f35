//! What [`crate::sync`] gives, from loom.
//!
//! Loom takes sequentially consistent accesses for weaker ones. Here they are what x86 makes of them: a store or a
//! read-modify-write is a fence, a load is none.

pub(crate) use loom::sync::atomic::{Ordering, fence};
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

fn fenced<T>(ordering: Ordering, access: impl FnOnce() -> T) -> T {
    if ordering == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
    let result = access();
    if ordering == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
    result
}

macro_rules! atomics {
    ($($name:ident: $type:ty),*) => {$(
        pub(crate) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(value: $type) -> Self {
                $name(loom::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $type {
                self.0.load(ordering)
            }

            pub(crate) fn store(&self, value: $type, ordering: Ordering) {
                fenced(ordering, || self.0.store(value, ordering));
            }

            pub(crate) fn fetch_or(&self, value: $type, ordering: Ordering) -> $type {
                fenced(ordering, || self.0.fetch_or(value, ordering))
            }

            pub(crate) fn fetch_and(&self, value: $type, ordering: Ordering) -> $type {
                fenced(ordering, || self.0.fetch_and(value, ordering))
            }
        }
    )*};
}
atomics!(AtomicBool: bool, AtomicU32: u32, AtomicU64: u64);

pub(crate) fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}
