//! The threading primitives of [`crate::smp`], by names of this crate's own: its model test puts others in their place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Zeros that take memory only where they are changed.
pub(crate) fn zeros(count: usize) -> Box<[AtomicU64]> {
    let zeroed = vec![0u64; count].into_boxed_slice();
    // SAFETY: AtomicU64 has the size, alignment and bit validity of u64. The zeroed allocation stays untouched.
    unsafe { Box::from_raw(Box::into_raw(zeroed) as *mut [AtomicU64]) }
}
