//! Executable memory that is never writable and executable in one mapping: a memfd mapped twice.

use hv::Error;
use std::os::fd::{AsRawFd, FromRawFd};

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
    /// [`Error::Os`] when the host refuses, for instance because it forbids executable memfds.
    pub fn new(size: usize) -> Result<Self, Error> {
        // SAFETY: the name is a literal; no other effects on memory.
        let fd = unsafe { libc::memfd_create(c"wirt-translated-code".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(Error::last_os("create memory for translated code"));
        }
        // SAFETY: the descriptor is new and ours.
        let file = unsafe { std::fs::File::from_raw_fd(fd) };
        file.set_len(size as u64)
            .map_err(|source| Error::Os { action: "size the memory for translated code", source })?;
        let map = |protection| {
            // SAFETY: a new mapping at an address the kernel picks.
            let address =
                unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
            (address != libc::MAP_FAILED).then_some(address.cast::<u8>())
        };
        let refused = || Error::last_os("map the memory for translated code");
        let writable = map(libc::PROT_READ | libc::PROT_WRITE).ok_or_else(refused)?;
        let executable = match map(libc::PROT_READ | libc::PROT_EXEC) {
            Some(executable) => executable,
            None => {
                let error = refused();
                // SAFETY: the mapping was just made and nobody uses it.
                unsafe { libc::munmap(writable.cast(), size) };
                return Err(error);
            }
        };
        Ok(CodeMemory { writable, executable, size, used: 0 })
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
