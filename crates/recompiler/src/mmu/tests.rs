use crate::state::Bits;
use crate::testing;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Accessed and dirty bits go into the entry they were found missing in, or nowhere: an operating system that takes an entry
/// out by an exchange finds it empty until it puts another one in.
#[test]
fn accessed_and_dirty_bits_never_fall_into_an_entry_that_was_cleared() {
    const TABLE: u64 = 0x4000;
    const LINEAR: u64 = 0x2020_0000;
    const PRESENT_WRITABLE: u64 = 3;
    let mut core = testing::core(Bits::B64, 0);
    // The page directory of `testing::core`.
    core.memory.write(0x3000 + (LINEAR >> 21) * 8, &(TABLE | 0x67).to_le_bytes()).unwrap();
    let memory = core.memory.clone();
    // SAFETY: aligned RAM that `memory` keeps mapped; both threads access it by atomics.
    let entry = unsafe { AtomicU64::from_ptr(memory.host(TABLE, 8).unwrap().cast()) };
    let done = AtomicBool::new(false);
    let (mut taken, mut marked) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                core.tlb.flush(false);
                // Refused or not: the entry comes and goes.
                let _ = core.write(LINEAR, 1u8);
            }
        });
        let start = std::time::Instant::now();
        while start.elapsed() < std::time::Duration::from_millis(300) {
            entry.store(testing::DATA | PRESENT_WRITABLE, Ordering::SeqCst);
            (0..taken % 61).for_each(|_| std::hint::spin_loop());
            marked += u32::from(entry.swap(0, Ordering::SeqCst) & 0x60 == 0x60);
            (0..taken % 59).for_each(|_| std::hint::spin_loop());
            if entry.load(Ordering::SeqCst) != 0 {
                break;
            }
            taken += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(entry.load(Ordering::SeqCst), 0, "bits in an entry that was cleared, after {taken} times");
    assert!(marked > 0, "the processor never got to the entry");
}
