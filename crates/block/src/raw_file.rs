use crate::{BlockError, Disk};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, Ordering};

/// Vectors the kernel takes at once (IOV_MAX).
const MAX_VECTORS: usize = 1024;

/// `preadv` or `pwritev`.
type Transfer = unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t;

/// A disk whose bytes are those of a file or block device.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    size: u64,
    readonly: bool,
    /// The errno of a flush that failed; 0 before that. The kernel takes the pages it could not write for clean, so the
    /// next fdatasync would succeed without them.
    lost: AtomicI32,
}

impl RawFile {
    /// A disk of the size that `file` has now, which must be open for writing unless `readonly`.
    ///
    /// # Errors
    /// When the size cannot be found out: `file` is no file or block device.
    pub fn new(file: File, readonly: bool) -> io::Result<Self> {
        // Seeking tells the size of block devices as well, which the file's metadata does not.
        let size = (&file).seek(SeekFrom::End(0))?;
        Ok(RawFile { file, size, readonly, lost: AtomicI32::new(0) })
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(BlockError::BeyondEnd),
        }
    }

    fn check_write(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        if self.readonly { Err(BlockError::Readonly) } else { self.check(offset, length) }
    }

    /// Moves all of `vectors`, in or out, at `offset`, which was checked.
    ///
    /// # Safety
    /// As for [`Disk::read_vectored`], or [`Disk::write_vectored`].
    unsafe fn transfer(&self, vectors: &mut [libc::iovec], offset: u64, call: Transfer) -> Result<(), BlockError> {
        let mut rest = vectors;
        let mut at = offset;
        while !rest.is_empty() {
            let count = rest.len().min(MAX_VECTORS);
            // SAFETY: the vectors are of guest memory, which the caller keeps mapped; it is no Rust object that the
            // kernel could disturb.
            let moved = unsafe { call(self.file.as_raw_fd(), rest.as_ptr(), count as libc::c_int, at as libc::off_t) };
            let Ok(mut moved) = usize::try_from(moved) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error.into());
            };
            if moved == 0 && rest[..count].iter().any(|vector| vector.iov_len > 0) {
                // The file is shorter than it was.
                return Err(BlockError::Io(libc::EIO));
            }
            at += moved as u64;
            while let Some(first) = rest.first_mut().filter(|first| moved > 0 || first.iov_len == 0) {
                let part = moved.min(first.iov_len);
                first.iov_base = first.iov_base.wrapping_byte_add(part);
                first.iov_len -= part;
                moved -= part;
                if first.iov_len == 0 {
                    rest = &mut rest[1..];
                }
            }
        }
        Ok(())
    }

    fn allocate(&self, mode: libc::c_int, offset: u64, length: u64) -> io::Result<()> {
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the call takes no pointers.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as libc::off_t, length as libc::off_t) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn length(vectors: &[libc::iovec]) -> u64 {
    vectors.iter().fold(0, |sum: u64, vector| sum.saturating_add(vector.iov_len as u64))
}

impl Disk for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn readonly(&self) -> bool {
        self.readonly
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, data.len() as u64)?;
        Ok(self.file.read_exact_at(data, offset)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.check_write(offset, data.len() as u64)?;
        Ok(self.file.write_all_at(data, offset)?)
    }

    unsafe fn read_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        self.check(offset, length(vectors))?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.transfer(vectors, offset, libc::preadv) }
    }

    unsafe fn write_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        self.check_write(offset, length(vectors))?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.transfer(vectors, offset, libc::pwritev) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        let lost = self.lost.load(Ordering::Acquire);
        if lost != 0 {
            return Err(io::Error::from_raw_os_error(lost).into());
        }
        self.file.sync_data().map_err(|error| {
            self.lost.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Release);
            error.into()
        })
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        self.check_write(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        match self.allocate(libc::FALLOC_FL_PUNCH_HOLE, offset, length) {
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, discard: bool) -> Result<(), BlockError> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        self.check_write(offset, length)?;
        if length == 0
            || discard && self.allocate(libc::FALLOC_FL_PUNCH_HOLE, offset, length).is_ok()
            || self.allocate(libc::FALLOC_FL_ZERO_RANGE, offset, length).is_ok()
        {
            return Ok(());
        }
        let end = offset + length;
        for at in (offset..end).step_by(ZEROS.len()) {
            let size = (end - at).min(ZEROS.len() as u64) as usize;
            self.file.write_all_at(&ZEROS[..size], at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    const SIZE: u64 = 1 << 20;

    /// A disk whose byte at `n` is `n / 512`, and its file.
    fn disk() -> (RawFile, File) {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 512) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        (RawFile::new(file.try_clone().unwrap(), false).unwrap(), file)
    }

    fn vectors(parts: &mut [Vec<u8>]) -> Vec<libc::iovec> {
        parts.iter_mut().map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() }).collect()
    }

    #[test]
    fn vectors_are_filled_in_their_order_however_many_there_are() {
        let (disk, _) = disk();
        // Empty ones in between, and more than the kernel takes at once.
        let mut parts: Vec<Vec<u8>> = (0..3000).map(|index| vec![0xEE; index % 7]).collect();
        let total: usize = parts.iter().map(Vec::len).sum();
        let mut pointers = vectors(&mut parts);
        // SAFETY: the vectors are of `parts`, which nobody touches meanwhile.
        unsafe { disk.read_vectored(510, &mut pointers) }.unwrap();
        let mut expected = vec![0; total];
        disk.read(510, &mut expected).unwrap();
        assert_eq!(parts.concat(), expected);

        let mut parts = vec![vec![1; 3], vec![], vec![2; 600]];
        let mut pointers = vectors(&mut parts);
        // SAFETY: as above.
        unsafe { disk.write_vectored(1000, &mut pointers) }.unwrap();
        let mut back = [0; 605];
        disk.read(999, &mut back).unwrap();
        assert_eq!(back.to_vec(), [vec![1], parts.concat(), vec![3]].concat());
    }

    #[test]
    fn nothing_is_moved_beyond_the_end() {
        let (disk, file) = disk();
        for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX, 2), (1 << 63, 512)] {
            let mut parts = vec![vec![0; length as usize]];
            assert_eq!(disk.read(offset, &mut parts[0]), Err(BlockError::BeyondEnd));
            assert_eq!(disk.write(offset, &parts[0]), Err(BlockError::BeyondEnd));
            assert_eq!(disk.discard(offset, length), Err(BlockError::BeyondEnd));
            assert_eq!(disk.write_zeroes(offset, length, true), Err(BlockError::BeyondEnd));
            let mut pointers = vectors(&mut parts);
            // SAFETY: the vectors are of `parts`, which nobody touches meanwhile.
            unsafe {
                assert_eq!(disk.read_vectored(offset, &mut pointers), Err(BlockError::BeyondEnd));
                assert_eq!(disk.write_vectored(offset, &mut pointers), Err(BlockError::BeyondEnd));
            }
        }
        assert_eq!(disk.read(SIZE, &mut []), Ok(()));
        assert_eq!(file.metadata().unwrap().len(), SIZE);
    }

    #[test]
    fn a_file_that_has_shrunk_is_an_error_where_it_is_missing() {
        let (disk, file) = disk();
        file.set_len(1024).unwrap();
        let mut parts = vec![vec![0; 512], vec![0; 512]];
        assert_eq!(disk.read(1000, &mut parts[0]), Err(BlockError::Io(libc::EIO)));
        let mut pointers = vectors(&mut parts);
        // SAFETY: the vectors are of `parts`, which nobody touches meanwhile.
        assert_eq!(unsafe { disk.read_vectored(512, &mut pointers) }, Err(BlockError::Io(libc::EIO)));
        assert_eq!(disk.read(512, &mut parts[0]), Ok(()));
        assert_eq!(parts[0], [1; 512]);
    }

    #[test]
    fn a_read_only_disk_is_not_written() {
        let (_, file) = disk();
        let disk = RawFile::new(file, true).unwrap();
        let mut parts = vec![vec![9; 512]];
        assert_eq!(disk.write(0, &parts[0]), Err(BlockError::Readonly));
        assert_eq!(disk.discard(0, 4096), Err(BlockError::Readonly));
        assert_eq!(disk.write_zeroes(4096, 512, false), Err(BlockError::Readonly));
        let mut pointers = vectors(&mut parts);
        // SAFETY: the vectors are of `parts`, which nobody touches meanwhile.
        assert_eq!(unsafe { disk.write_vectored(0, &mut pointers) }, Err(BlockError::Readonly));
        let mut back = [1; 8704];
        disk.read(0, &mut back).unwrap();
        assert!(back.iter().zip(0..).all(|(byte, at)| *byte == (at / 512) as u8));
    }

    #[test]
    fn zeroes_are_zeroes_and_the_file_keeps_its_size() {
        let (disk, file) = disk();
        disk.write_zeroes(513, 100_000, false).unwrap();
        disk.write_zeroes(SIZE - 4096, 4096, true).unwrap();
        disk.discard(SIZE / 2, 65536).unwrap();
        disk.write_zeroes(3, 0, true).unwrap();
        let mut back = vec![1; SIZE as usize];
        disk.read(0, &mut back).unwrap();
        assert_eq!((back[512], back[100_513]), (1, 196));
        assert_eq!(back[513..100_513], [0; 100_000]);
        assert_eq!(back[SIZE as usize - 4096..], [0; 4096]);
        assert_eq!(file.metadata().unwrap().len(), SIZE);
    }

    #[test]
    fn what_the_system_says_is_kept() {
        let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let disk = RawFile { file: full, size: 4096, readonly: false, lost: AtomicI32::new(0) };
        assert_eq!(disk.write(0, &[1; 512]), Err(BlockError::NoSpace(libc::ENOSPC)));
        assert!(BlockError::NoSpace(libc::ENOSPC).to_string().contains("space"));
        // A device without durability refuses fdatasync; from then on no flush succeeds.
        let first = disk.flush().unwrap_err();
        let (_, file) = self::disk();
        let disk = RawFile { file, ..disk };
        assert_eq!(disk.flush(), Err(first));
    }

    #[test]
    fn what_has_no_size_is_no_disk() {
        let (socket, _other) = UnixStream::pair().unwrap();
        assert!(RawFile::new(File::from(OwnedFd::from(socket)), true).is_err());
    }
}
