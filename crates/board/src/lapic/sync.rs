//! The primitives of [`super::acceptance`], by names of this module's own: its model test puts others in their place.

pub(super) use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst};

/// Words of a set of 256 vectors.
pub(super) const WORDS: usize = 8;
