use crate::layout::{Layout, Region};
use arc_swap::ArcSwap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Bytes in a page of guest memory, the unit of [`PageFlags`].
pub const PAGE_SIZE: u64 = 4096;

/// Size and alignment of the host's huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// What went wrong with guest memory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MemoryError {
    /// The size or the regions make no sense.
    #[error("guest memory: {0}")]
    Layout(String),
    /// The host would not give the memory.
    #[error("cannot allocate {size} bytes of guest memory: {reason}")]
    Allocation {
        /// Bytes asked for.
        size: u64,
        /// The system's answer.
        reason: String,
    },
    /// A write by a device to memory that only the machine's maker fills.
    #[error("guest memory at {address:#x} is read-only")]
    Readonly {
        /// Guest physical address.
        address: u64,
    },
    /// The accelerator could not follow a change.
    #[error("the layout of guest memory cannot be changed: {reason}")]
    Refused {
        /// The accelerator's words.
        reason: String,
    },
    /// An access outside RAM.
    #[error("no guest memory at {address:#x}, {size} bytes")]
    Unmapped {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
}

bitflags::bitflags! {
    /// What is known of a page of RAM.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PageFlags: u8 {
        /// An accelerator holds translations of code on this page: tell it of writes.
        const CODE = 1 << 0;
    }
}

/// Who keeps what follows from guest memory: an accelerator.
pub trait MemoryWatcher: Send + Sync {
    /// Bytes `offset..offset + size` of the backing memory were changed, and some lie in pages with [`PageFlags::CODE`]:
    /// translations of guest code there are to be dropped.
    fn code_written(&self, _offset: u64, _size: u64) {}

    /// Memory answers as `layout` says from now on. When this returns no vCPU accesses memory as before. Called for one
    /// change at a time.
    ///
    /// # Errors
    /// When the accelerator cannot do it. It then cannot go on with the guest.
    fn layout_changed(&self, layout: &Arc<Layout>) -> Result<(), crate::Error>;
}

/// The guest's RAM: one piece of memory, seen through regions of guest physical addresses, which can change while the
/// guest runs (ROM that is shadowed by RAM, a screen's memory that moves).
///
/// All accesses are bounds-checked and tear-free only where they say so: a guest can write concurrently to anything
/// in here, so copy once, then check the copy.
pub struct GuestMemory {
    /// What is mapped, where it is shared.
    file: Option<File>,
    base: NonNull<u8>,
    size: u64,
    layout: ArcSwap<Layout>,
    /// Makes changes of the layout one at a time. The watcher is called under it.
    changes: Mutex<()>,
    flags: Box<[AtomicU8]>,
    watcher: OnceLock<Box<dyn MemoryWatcher>>,
}

// SAFETY: `base` points at a mapping that lives as long as the struct. It is only read and written through raw
// copies and atomics, never through references to plain data, as guest vCPUs race with every access anyway.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Makes guest memory of the given regions; their offsets decide its size. The memory is zero and takes no host memory
    /// until touched; it is this process's alone, and in huge pages where the host has them.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] when regions overlap, are empty, unaligned or reach above 2^46;
    /// [`MemoryError::Allocation`] when the host refuses.
    pub fn new(regions: &[Region]) -> Result<Self, MemoryError> {
        Self::make(regions, 0, false)
    }

    /// As [`GuestMemory::new`], with at least `size` bytes behind it: what no region shows yet can be shown later
    /// ([`GuestMemory::remap`]).
    ///
    /// # Errors
    /// As [`GuestMemory::new`].
    pub fn with_size(regions: &[Region], size: u64) -> Result<Self, MemoryError> {
        Self::make(regions, size, false)
    }

    /// As [`GuestMemory::new`], in a [`file`](GuestMemory::file) without a name that others can map. Hosts seldom give
    /// such memory huge pages, which guests with much memory notice.
    ///
    /// # Errors
    /// As [`GuestMemory::new`].
    pub fn shared(regions: &[Region]) -> Result<Self, MemoryError> {
        Self::make(regions, 0, true)
    }

    fn make(regions: &[Region], at_least: u64, shared: bool) -> Result<Self, MemoryError> {
        let layout = Layout::new(regions)?;
        let size = layout.backing().max(at_least);
        if size == 0 || size % PAGE_SIZE != 0 || size > 1 << 47 {
            return Err(MemoryError::Layout(format!("{size:#x} bytes of memory are no number of pages")));
        }
        let refused = |error: std::io::Error| MemoryError::Allocation { size, reason: error.to_string() };
        let file = if shared { Some(unnamed_file(size).map_err(refused)?) } else { None };
        let base = map(size as usize, file.as_ref()).map_err(refused)?;
        let flags = (0..size / PAGE_SIZE).map(|_| AtomicU8::new(0)).collect();
        let layout = ArcSwap::from_pointee(layout);
        Ok(GuestMemory { file, base, size, layout, changes: Mutex::new(()), flags, watcher: OnceLock::new() })
    }

    /// Bytes of the backing memory: all RAM and ROM.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What answers where now.
    pub fn layout(&self) -> Arc<Layout> {
        self.layout.load_full()
    }

    /// Changes what answers where: regions that lie in one of the ranges `cleared` go, and `placed` come. When this
    /// returns no vCPU accesses memory as before. Devices may finish what they began.
    ///
    /// # Errors
    /// [`MemoryError::Layout`], with nothing changed, when a region would be cut, overlap another, or show what is not in
    /// the backing memory; [`MemoryError::Refused`] when the accelerator cannot follow.
    pub fn remap(&self, cleared: &[Range<u64>], placed: &[Region]) -> Result<(), MemoryError> {
        let _one_at_a_time = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = self.layout.load().changed(cleared, placed)?;
        if layout.backing() > self.size {
            return Err(MemoryError::Layout(format!("a region shows bytes behind the {:#x} there are", self.size)));
        }
        if layout == **self.layout.load() {
            return Ok(());
        }
        let layout = Arc::new(layout);
        self.layout.store(layout.clone());
        match self.watcher.get() {
            Some(watcher) => {
                watcher.layout_changed(&layout).map_err(|error| MemoryError::Refused { reason: error.to_string() })
            }
            None => Ok(()),
        }
    }

    /// The file behind [shared](GuestMemory::shared) memory.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// The host address of byte 0 of the backing memory. Valid for [`GuestMemory::size`] bytes while `self` lives.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The region that holds `address`, if any. See [`Layout::region`].
    pub fn region(&self, address: u64) -> Option<Region> {
        self.layout.load().region(address).copied()
    }

    /// Where `address` lies in the backing memory, when `size` bytes from there are within one region.
    pub fn offset(&self, address: u64, size: u64) -> Option<u64> {
        self.layout.load().offset(address, size)
    }

    /// The host address of `size` bytes at a guest physical address, when one region holds them all. The bytes may
    /// change under the caller at any time.
    pub fn host(&self, address: u64, size: u64) -> Option<*mut u8> {
        let offset = self.offset(address, size)?;
        // SAFETY: `offset` was found inside the mapping by `offset()`.
        Some(unsafe { self.base.as_ptr().add(offset as usize) })
    }

    /// Copies guest memory out. The range may span regions that touch.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when any byte is not RAM; `data` may then be partly written.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.pieces(address, data.len(), false, |host, _, range| {
            // SAFETY: `pieces` gives `host` valid for `range.len()` bytes; source and destination cannot overlap as
            // `data` is not guest memory.
            unsafe { std::ptr::copy_nonoverlapping(host, data[range.clone()].as_mut_ptr(), range.len()) };
        })
    }

    /// Copies into guest memory. Translations of code that is overwritten are dropped. What a read-only region holds
    /// is put there by [`GuestMemory::write_backing`]: nothing that a guest can make a device do changes it.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when any byte is no memory, [`MemoryError::Readonly`] when it is read-only; nothing
    /// or a first part may then be written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.pieces(address, data.len(), true, |host, offset, range| {
            // SAFETY: as in `read`.
            unsafe { std::ptr::copy_nonoverlapping(data[range.clone()].as_ptr(), host, range.len()) };
            self.written(offset, range.len() as u64);
        })
    }

    /// Copies into the backing memory at `offset`, read-only regions or not, as whoever makes the machine does.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when it has no such bytes; then nothing is written.
    pub fn write_backing(&self, offset: u64, data: &[u8]) -> Result<(), MemoryError> {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(MemoryError::Unmapped { address: offset, size: data.len() as u64 });
        }
        // SAFETY: the bytes lie inside the mapping, and `data` is not guest memory.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.base.as_ptr().add(offset as usize), data.len()) };
        self.written(offset, data.len() as u64);
        Ok(())
    }

    /// Copies out of the backing memory from `offset` on, whatever region shows it.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when it has no such bytes; then nothing is read.
    pub fn read_backing(&self, offset: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(MemoryError::Unmapped { address: offset, size: data.len() as u64 });
        }
        // SAFETY: the bytes lie inside the mapping, and `data` is not guest memory.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset as usize), data.as_mut_ptr(), data.len())
        };
        Ok(())
    }

    /// Gives the host's memory behind `offset..offset + size` of the backing memory back: it reads zero from now on, and
    /// takes host memory again when touched. Translations of code there are dropped.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`], with nothing changed, when these are not whole pages of it.
    pub fn discard(&self, offset: u64, size: u64) -> Result<(), MemoryError> {
        let end = offset.checked_add(size);
        if (offset | size) % PAGE_SIZE != 0 || end.is_none_or(|end| end > self.size) {
            return Err(MemoryError::Unmapped { address: offset, size });
        }
        let advice = if self.file.is_some() { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
        // SAFETY: the pages lie inside the mapping, where bytes may change at any time. A host that refuses (pages that
        // are locked) keeps them as they are.
        unsafe { libc::madvise(self.base.as_ptr().add(offset as usize).cast(), size as usize, advice) };
        self.written(offset, size);
        Ok(())
    }

    /// Announces a write by something other than a vCPU (a device's DMA, a system call into the mapping) to
    /// `offset..offset + size` of the backing memory, so that translations of code there are dropped.
    pub fn written(&self, offset: u64, size: u64) {
        if size == 0 {
            return;
        }
        let first = offset / PAGE_SIZE;
        let last = (offset + size - 1) / PAGE_SIZE;
        // The bytes before the flags, as the translator sets the flag before it reads the bytes.
        fence(Ordering::SeqCst);
        if (first..=last).any(|page| self.page_flags(page).contains(PageFlags::CODE)) {
            if let Some(watcher) = self.watcher.get() {
                watcher.code_written(offset, size);
            }
        }
    }

    /// Sets who is told of writes to code and of changes of the layout. Once; false when somebody already is.
    pub fn set_watcher(&self, watcher: Box<dyn MemoryWatcher>) -> bool {
        self.watcher.set(watcher).is_ok()
    }

    /// The flags of page number `page` of the backing memory; empty beyond its end.
    pub fn page_flags(&self, page: u64) -> PageFlags {
        match self.flags.get(page as usize) {
            Some(flags) => PageFlags::from_bits_truncate(flags.load(Ordering::SeqCst)),
            None => PageFlags::empty(),
        }
    }

    /// Sets flags of a page and returns what they were.
    pub fn set_page_flags(&self, page: u64, set: PageFlags) -> PageFlags {
        match self.flags.get(page as usize) {
            Some(flags) => PageFlags::from_bits_truncate(flags.fetch_or(set.bits(), Ordering::SeqCst)),
            None => PageFlags::empty(),
        }
    }

    /// Clears flags of a page and returns what they were.
    pub fn clear_page_flags(&self, page: u64, clear: PageFlags) -> PageFlags {
        match self.flags.get(page as usize) {
            Some(flags) => PageFlags::from_bits_truncate(flags.fetch_and(!clear.bits(), Ordering::SeqCst)),
            None => PageFlags::empty(),
        }
    }

    /// Reads a naturally aligned little-endian 16-bit value in one access, with acquire ordering.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when it is not RAM or not aligned.
    pub fn load_u16(&self, address: u64) -> Result<u16, MemoryError> {
        let host = self.aligned(address, 2)?;
        // SAFETY: `aligned` gives a valid, aligned pointer; atomics are how racing guest memory may be accessed.
        Ok(u16::from_le(unsafe { AtomicU16::from_ptr(host.cast()) }.load(Ordering::Acquire)))
    }

    /// Writes a naturally aligned little-endian 16-bit value in one access, with release ordering.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when it is no memory or not aligned, [`MemoryError::Readonly`].
    pub fn store_u16(&self, address: u64, value: u16) -> Result<(), MemoryError> {
        let host = self.aligned(address, 2)?;
        if self.region(address).is_some_and(|region| region.readonly) {
            return Err(MemoryError::Readonly { address });
        }
        // SAFETY: as in `load_u16`.
        unsafe { AtomicU16::from_ptr(host.cast()) }.store(value.to_le(), Ordering::Release);
        self.written(host as u64 - self.base.as_ptr() as u64, 2);
        Ok(())
    }

    /// Reads a naturally aligned little-endian 32-bit value in one access, with acquire ordering.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when it is not RAM or not aligned.
    pub fn load_u32(&self, address: u64) -> Result<u32, MemoryError> {
        let host = self.aligned(address, 4)?;
        // SAFETY: as in `load_u16`.
        Ok(u32::from_le(unsafe { AtomicU32::from_ptr(host.cast()) }.load(Ordering::Acquire)))
    }

    /// Writes a naturally aligned little-endian 32-bit value in one access, with release ordering.
    ///
    /// # Errors
    /// As [`GuestMemory::store_u16`].
    pub fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryError> {
        let host = self.aligned(address, 4)?;
        if self.region(address).is_some_and(|region| region.readonly) {
            return Err(MemoryError::Readonly { address });
        }
        // SAFETY: as in `load_u16`.
        unsafe { AtomicU32::from_ptr(host.cast()) }.store(value.to_le(), Ordering::Release);
        self.written(host as u64 - self.base.as_ptr() as u64, 4);
        Ok(())
    }

    /// Reads a naturally aligned little-endian 64-bit value in one access, with acquire ordering.
    ///
    /// # Errors
    /// [`MemoryError::Unmapped`] when it is not RAM or not aligned.
    pub fn load_u64(&self, address: u64) -> Result<u64, MemoryError> {
        let host = self.aligned(address, 8)?;
        // SAFETY: as in `load_u16`.
        Ok(u64::from_le(unsafe { AtomicU64::from_ptr(host.cast()) }.load(Ordering::Acquire)))
    }

    fn aligned(&self, address: u64, size: u64) -> Result<*mut u8, MemoryError> {
        match self.host(address, size) {
            Some(host) if address % size == 0 => Ok(host),
            _ => Err(MemoryError::Unmapped { address, size }),
        }
    }

    /// Calls `each(host pointer, file offset, range of the caller's buffer)` for every piece of a range that lies in
    /// one region.
    fn pieces(
        &self,
        address: u64,
        size: usize,
        write: bool,
        mut each: impl FnMut(*mut u8, u64, std::ops::Range<usize>),
    ) -> Result<(), MemoryError> {
        let unmapped = || MemoryError::Unmapped { address, size: size as u64 };
        let layout = self.layout.load();
        let mut done = 0;
        while done < size {
            let at = address.checked_add(done as u64).ok_or_else(unmapped)?;
            let region = layout.region(at).ok_or_else(unmapped)?;
            if write && region.readonly {
                return Err(MemoryError::Readonly { address: at });
            }
            let within = at - region.address;
            let length = (region.size - within).min((size - done) as u64);
            let offset = region.offset + within;
            // SAFETY: a region's bytes lie inside the mapping (checked in `make` and `remap`).
            let host = unsafe { self.base.as_ptr().add(offset as usize) };
            each(host, offset, done..done + length as usize);
            done += length as usize;
        }
        Ok(())
    }
}

/// A file of `size` bytes that is gone with the last who has it open.
fn unnamed_file(size: u64) -> std::io::Result<File> {
    // SAFETY: the name is a NUL-terminated literal; the call has no other memory effects.
    let fd = unsafe { libc::memfd_create(c"wirt-guest-memory".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `fd` was just returned to us and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    Ok(file)
}

/// Maps a file, or memory without one, of `size` bytes, where huge pages can begin.
fn map(size: usize, file: Option<&File>) -> std::io::Result<NonNull<u8>> {
    let (kind, fd) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let room = size.checked_add(HUGE_PAGE).ok_or(std::io::ErrorKind::OutOfMemory)?;
    // SAFETY: fresh address space, at an address the kernel picks.
    let start = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0)
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let base = (start as usize).next_multiple_of(HUGE_PAGE);
    let (before, after) = (base - start as usize, start as usize + room - base - size);
    // SAFETY: all of it lies in the address space just got, which nobody else uses; what is cut off is not used either.
    let mapped = unsafe {
        if before != 0 {
            libc::munmap(start, before);
        }
        if after != 0 {
            libc::munmap((base + size) as *mut _, after);
        }
        libc::mmap(base as *mut _, size, rights, kind | libc::MAP_NORESERVE | libc::MAP_FIXED, fd, 0)
    };
    if mapped == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        // SAFETY: what is left of our address space.
        unsafe { libc::munmap(base as *mut _, size) };
        return Err(error);
    }
    // Advice, which kernels may ignore. Children have no use for a guest's memory, and would have it copied.
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTFORK] {
        // SAFETY: about our own mapping.
        unsafe { libc::madvise(mapped, size, advice) };
    }
    NonNull::new(mapped.cast()).ok_or(std::io::ErrorKind::OutOfMemory.into())
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing can reach it after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes where code was written.
    struct Log(Arc<Mutex<Vec<(u64, u64)>>>);
    impl MemoryWatcher for Log {
        fn code_written(&self, offset: u64, size: u64) {
            self.0.lock().unwrap().push((offset, size));
        }

        fn layout_changed(&self, _layout: &Arc<Layout>) -> Result<(), crate::Error> {
            Ok(())
        }
    }

    fn two_regions() -> GuestMemory {
        let ram = |address, size, offset| Region { address, size, offset, readonly: false };
        GuestMemory::new(&[ram(0, 0x2000, 0), ram(0x2000, 0x1000, 0x2000), ram(0x10_0000, 0x1000, 0x3000)]).unwrap()
    }

    #[test]
    fn a_write_across_touching_regions_reads_back() {
        let memory = two_regions();
        let data: Vec<u8> = (0..64).collect();
        memory.write(0x1FE0, &data).unwrap();
        let mut back = vec![0; 64];
        memory.read(0x1FE0, &mut back).unwrap();
        assert_eq!(back, data);
    }

    #[test]
    fn an_access_that_leaves_ram_is_refused() {
        let memory = two_regions();
        assert!(memory.write(0x2FFF, &[1, 2]).is_err());
        assert!(memory.read(u64::MAX, &mut [0, 0]).is_err());
        assert!(memory.host(0x10_0FFF, 2).is_none());
        assert!(memory.load_u16(0x1001).is_err());
        assert!(memory.store_u32(0x1002, 0).is_err() && memory.store_u32(0x3000, 0).is_err());
        memory.store_u32(0x2FFC, 0x1234_5678).unwrap();
        assert_eq!(memory.load_u32(0x2FFC), Ok(0x1234_5678));
    }

    #[test]
    fn read_only_memory_is_written_behind_its_back_alone() {
        let region = |address, readonly| Region { address, size: 0x1000, offset: address, readonly };
        let memory = GuestMemory::new(&[region(0, false), region(0x1000, true)]).unwrap();
        assert_eq!(memory.write(0x1010, &[1]), Err(MemoryError::Readonly { address: 0x1010 }));
        assert_eq!(memory.write(0xFFF, &[1, 2]), Err(MemoryError::Readonly { address: 0x1000 }));
        assert_eq!(memory.store_u16(0x1020, 1), Err(MemoryError::Readonly { address: 0x1020 }));
        assert_eq!(memory.store_u32(0x1020, 1), Err(MemoryError::Readonly { address: 0x1020 }));
        memory.write_backing(0x1000, &[7; 4096]).unwrap();
        let mut back = [0; 4096];
        memory.read(0x1000, &mut back).unwrap();
        assert_eq!(back, [7; 4096]);
        let mut behind = [0; 3];
        memory.read_backing(0x1FFD, &mut behind).unwrap();
        assert_eq!(behind, [7; 3]);
        assert!(memory.read_backing(0x1FFE, &mut behind).is_err());
        assert!(memory.read_backing(u64::MAX, &mut behind).is_err());
        assert!(memory.write_backing(0x1001, &[7; 4096]).is_err());
        assert!(memory.write_backing(u64::MAX, &[7]).is_err());
    }

    #[test]
    fn shared_memory_is_its_file() {
        let region = Region { address: 0x10_0000, size: 0x3000, offset: 0, readonly: false };
        let memory = GuestMemory::shared(&[region]).unwrap();
        memory.write(0x10_1002, &[1, 2, 3]).unwrap();
        let mut back = [0; 3];
        std::os::unix::fs::FileExt::read_exact_at(memory.file().unwrap(), &mut back, 0x1002).unwrap();
        assert_eq!(back, [1, 2, 3]);
        assert!(GuestMemory::new(&[region]).unwrap().file().is_none());
    }

    #[test]
    fn what_is_discarded_reads_zero_and_nothing_beside_it() {
        let region = Region { address: 0x10_0000, size: 0x4000, offset: 0, readonly: false };
        for memory in [GuestMemory::new(&[region]).unwrap(), GuestMemory::shared(&[region]).unwrap()] {
            let log = Arc::new(Mutex::new(Vec::new()));
            assert!(memory.set_watcher(Box::new(Log(log.clone()))));
            memory.write_backing(0, &[7; 0x4000]).unwrap();
            memory.set_page_flags(2, PageFlags::CODE);
            memory.discard(0x1000, 0x2000).unwrap();
            for (offset, size) in [(0x1000, 0x1001), (0x800, 0x1000), (0x3000, 0x2000), (!0xFFF, 0x1000)] {
                assert!(memory.discard(offset, size).is_err(), "{offset:#x} {size:#x}");
            }
            let mut back = vec![0; 0x4000];
            memory.read_backing(0, &mut back).unwrap();
            assert!(back == [vec![7; 0x1000], vec![0; 0x2000], vec![7; 0x1000]].concat());
            assert_eq!(*log.lock().unwrap(), [(0x1000, 0x2000)]);
        }
    }

    #[test]
    fn memory_begins_where_a_huge_page_can() {
        for size in [0x1000, 0x20_0000, 0x30_1000] {
            let region = Region { address: 0, size, offset: 0, readonly: false };
            for memory in [GuestMemory::new(&[region]).unwrap(), GuestMemory::shared(&[region]).unwrap()] {
                assert_eq!(memory.base() as usize % HUGE_PAGE, 0);
                memory.write(size - 1, &[1]).unwrap();
            }
        }
    }

    #[test]
    fn overlapping_and_unaligned_regions_are_refused() {
        let region = |address, size| Region { address, size, offset: 0, readonly: false };
        assert!(GuestMemory::new(&[region(0, 0x2000), region(0x1000, 0x1000)]).is_err());
        assert!(GuestMemory::new(&[region(0x10, 0x1000)]).is_err());
        assert!(GuestMemory::new(&[]).is_err());
    }

    #[test]
    fn only_writes_to_code_pages_reach_the_watcher() {
        let memory = two_regions();
        let log = Arc::new(Mutex::new(Vec::new()));
        assert!(memory.set_watcher(Box::new(Log(log.clone()))));
        memory.set_page_flags(3, PageFlags::CODE);
        memory.write(0x100, &[1]).unwrap();
        memory.write(0x10_0004, &[1, 2]).unwrap();
        assert_eq!(*log.lock().unwrap(), [(0x3004, 2)]);
    }

    #[test]
    fn what_is_remapped_answers_at_once_and_the_watcher_hears_of_it() {
        struct Count(Arc<Mutex<Vec<usize>>>);
        impl MemoryWatcher for Count {
            fn layout_changed(&self, layout: &Arc<Layout>) -> Result<(), crate::Error> {
                self.0.lock().unwrap().push(layout.regions().len());
                Ok(())
            }
        }
        let region = |address, offset, readonly| Region { address, size: 0x1000, offset, readonly };
        let memory = GuestMemory::with_size(&[region(0, 0, false), region(0x1000, 0x2000, true)], 0x3000).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        assert!(memory.set_watcher(Box::new(Count(heard.clone()))));
        memory.write_backing(0x2000, b"rom").unwrap();
        memory.write_backing(0x1000, b"ram").unwrap();
        let shows = |memory: &GuestMemory| {
            let mut data = [0; 3];
            memory.read(0x1000, &mut data).map(|()| data)
        };
        assert_eq!(shows(&memory), Ok(*b"rom"));
        let shown = [Range { start: 0x1000, end: 0x2000 }];
        memory.remap(&shown, &[region(0x1000, 0x1000, false)]).unwrap();
        assert_eq!(shows(&memory), Ok(*b"ram"));
        memory.write(0x1000, b"RAM").unwrap();
        // The same again is no change.
        memory.remap(&shown, &[region(0x1000, 0x1000, false)]).unwrap();
        memory.remap(&shown, &[]).unwrap();
        assert!(shows(&memory).is_err());
        assert_eq!(*heard.lock().unwrap(), [2, 1]);
        let refused = |cleared: &[Range<u64>], placed: &[Region]| memory.remap(cleared, placed).is_err();
        assert!(refused(&[], &[region(0, 0x1000, false)]), "over another");
        assert!(refused(&[], &[region(0x1000, 0x3000, false)]), "behind the backing memory");
        assert!(refused(&[Range { start: 0x800, end: 0x1000 }], &[]), "a cut");
        assert_eq!(memory.layout().regions(), [region(0, 0, false)]);
    }
}
