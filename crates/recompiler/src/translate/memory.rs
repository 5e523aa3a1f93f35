//! Executable memory that is never writable and executable in one mapping: shared memory mapped twice.

use hv::Error;
use std::ptr::null_mut;

/// A code buffer with a writable and an executable view.
pub struct CodeMemory {
    writable: *mut u8,
    executable: *mut u8,
    size: usize,
    used: usize,
}

// SAFETY: the mappings belong to this value alone; nothing in it is tied to a thread.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Reserves `size` bytes; memory is taken only where code is written.
    ///
    /// # Errors
    /// [`Error::Os`] when the host refuses, for instance because it forbids executable memory.
    pub fn new(size: usize) -> Result<Self, Error> {
        let refused = || Error::last_os("map memory for translated code");
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // No file, and no memfd, which some hosts forbid to execute, and in which perf does not ask its map for names.
        // SAFETY: a new mapping at an address the kernel picks.
        let executable = unsafe { libc::mmap(null_mut(), size, libc::PROT_READ | libc::PROT_EXEC, flags, -1, 0) };
        if executable == libc::MAP_FAILED {
            return Err(refused());
        }
        // SAFETY: of a shared mapping, an old size of 0 asks for another one of the same pages; nothing else changes.
        let writable = unsafe { libc::mremap(executable, 0, size, libc::MREMAP_MAYMOVE) };
        if writable == libc::MAP_FAILED {
            let error = refused();
            // SAFETY: the first mapping was just made and nobody uses it.
            unsafe { libc::munmap(executable, size) };
            return Err(error);
        }
        let memory = CodeMemory { writable: writable.cast(), executable: executable.cast(), size, used: 0 };
        // SAFETY: the second mapping, which nobody uses yet.
        match unsafe { libc::mprotect(writable, size, libc::PROT_READ | libc::PROT_WRITE) } {
            0 => Ok(memory),
            _ => Err(refused()),
        }
    }

    /// Executable address of the first byte.
    pub fn base(&self) -> u64 {
        self.executable as u64
    }

    /// Executable address at which the next code will lie.
    pub fn next(&self) -> u64 {
        self.base() + self.used as u64
    }

    /// Bytes still free.
    pub fn room(&self) -> usize {
        self.size - self.used
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Appends code; it lies at what [`Self::next`] said. The caller has seen to the room.
    pub fn append(&mut self, code: &[u8]) {
        assert!(code.len() <= self.room());
        // SAFETY: the range is inside the writable mapping (checked above).
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(self.used), code.len()) };
        self.used = (self.used + code.len()).next_multiple_of(16).min(self.size);
    }

    /// Forgets all code behind the first `keep` bytes.
    pub fn truncate(&mut self, keep: usize) {
        self.used = keep.min(self.used);
    }

    /// Overwrites the displacement at an offset so that the jump it belongs to leads to the address `target`.
    pub fn patch_jump(&mut self, offset: u32, target: u64) {
        let offset = offset as usize;
        assert!(offset + 4 <= self.used);
        let displacement = target.wrapping_sub(self.base() + offset as u64 + 4) as u32;
        // SAFETY: inside the writable mapping (checked above). Only the owning vCPU's thread runs this code, and it is
        // here now.
        unsafe { self.writable.add(offset).cast::<u32>().write_unaligned(displacement) };
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: both mappings are ours and nothing runs in them any more.
        unsafe {
            libc::munmap(self.writable.cast(), self.size);
            libc::munmap(self.executable.cast(), self.size);
        }
    }
}
