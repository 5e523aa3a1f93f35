use crate::BlockError;

/// An array of bytes that can be read and written at any offset. Called by several threads at a time.
///
/// All offsets and lengths are in bytes and may be any; callers think in sectors. An error says nothing about how much
/// was done. Nothing is written on a read-only disk, and nothing beyond the end.
pub trait Disk: Send + Sync {
    /// Bytes, the same for as long as the disk lives.
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn readonly(&self) -> bool;

    /// Reads all of `data`.
    ///
    /// # Errors
    /// As all that follow: [`BlockError`].
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BlockError>;

    /// Writes all of `data`. It is durable after the next [`Disk::flush`].
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError>;

    /// Reads into all of `vectors`, one after the other. They are used up: what stands in them afterwards means nothing.
    ///
    /// # Safety
    /// Each vector must name memory that stays mapped and writable during the call, and in which nobody relies on
    /// Rust's rules for references: guest memory.
    unsafe fn read_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError>;

    /// Writes out of all of `vectors`, as [`Disk::read_vectored`] reads. Their bytes may change meanwhile.
    ///
    /// # Safety
    /// As for [`Disk::read_vectored`]; the memory may be read-only.
    unsafe fn write_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError>;

    /// Makes everything durable whose writing was completed before. Once it has failed it may fail for ever: what was
    /// lost cannot be known.
    fn flush(&self) -> Result<(), BlockError>;

    /// Says that these bytes are not needed any more: they may keep their value or become zero. Where nothing can be
    /// given back, nothing is done.
    fn discard(&self, offset: u64, length: u64) -> Result<(), BlockError>;

    /// Makes these bytes zero; with `discard` their room is given back where that can be.
    fn write_zeroes(&self, offset: u64, length: u64, discard: bool) -> Result<(), BlockError>;
}
