//! What [`super::super::sync`] gives, from loom, which takes sequentially consistent accesses for weaker ones. Here they
//! are what x86 makes of them: a store or a read-modify-write is a fence, a load is none. Two words of vectors are enough:
//! three priority classes.

pub(super) use loom::sync::atomic::Ordering::SeqCst;
use loom::sync::atomic::{Ordering, fence};

pub(super) const WORDS: usize = 2;

fn fenced<T>(access: impl FnOnce() -> T) -> T {
    fence(SeqCst);
    let result = access();
    fence(SeqCst);
    result
}

macro_rules! atomics {
    ($($name:ident: $type:ty),*) => {$(
        pub(super) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub(super) fn new(value: $type) -> Self {
                $name(loom::sync::atomic::$name::new(value))
            }

            pub(super) fn load(&self, ordering: Ordering) -> $type {
                self.0.load(ordering)
            }

            pub(super) fn store(&self, value: $type, ordering: Ordering) {
                fenced(|| self.0.store(value, ordering));
            }

            pub(super) fn swap(&self, value: $type, ordering: Ordering) -> $type {
                fenced(|| self.0.swap(value, ordering))
            }

            pub(super) fn fetch_or(&self, value: $type, ordering: Ordering) -> $type {
                fenced(|| self.0.fetch_or(value, ordering))
            }

            pub(super) fn fetch_and(&self, value: $type, ordering: Ordering) -> $type {
                fenced(|| self.0.fetch_and(value, ordering))
            }
        }
    )*};
}
atomics!(AtomicU8: u8, AtomicU32: u32);
