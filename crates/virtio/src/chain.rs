use crate::QueueError;
use hv::GuestMemory;
use std::sync::Arc;

/// The buffers of one request: what the device may read, then what it may write. All of it is RAM; the bytes may change
/// under the device at any time, so copy once and check the copy.
pub struct Chain {
    memory: Arc<GuestMemory>,
    readable: Part,
    writable: Part,
}

#[derive(Default)]
struct Part {
    pieces: Vec<Piece>,
    length: u64,
}

/// Bytes of the backing file of guest memory that lie together.
#[derive(Clone, Copy)]
struct Piece {
    offset: u64,
    size: u64,
}

impl Part {
    /// Calls `each` with the pieces that hold bytes `at..at + length`, as far as there are any.
    fn cut(&self, mut at: u64, mut length: u64, mut each: impl FnMut(Piece)) {
        for piece in &self.pieces {
            if length == 0 {
                return;
            }
            if at >= piece.size {
                at -= piece.size;
                continue;
            }
            let size = (piece.size - at).min(length);
            each(Piece { offset: piece.offset + at, size });
            length -= size;
            at = 0;
        }
    }
}

impl Chain {
    /// An empty chain.
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        Chain { memory, readable: Part::default(), writable: Part::default() }
    }

    /// Makes it empty again.
    pub(crate) fn clear(&mut self) {
        for part in [&mut self.readable, &mut self.writable] {
            part.pieces.clear();
            part.length = 0;
        }
    }

    /// Appends a buffer.
    ///
    /// # Errors
    /// When it is not RAM, or to be written and read-only, or readable after a writable one (virtio 1.2, section
    /// 2.7.4.2).
    pub(crate) fn add(&mut self, address: u64, size: u32, writable: bool) -> Result<(), QueueError> {
        if !writable && !self.writable.pieces.is_empty() {
            return Err(QueueError::Order);
        }
        let part = if writable { &mut self.writable } else { &mut self.readable };
        let outside = QueueError::Outside { address, size };
        let mut at = address;
        let mut left = u64::from(size);
        part.length += left;
        while left > 0 {
            let region = self.memory.region(at).filter(|region| !(writable && region.readonly)).ok_or(outside)?;
            let within = at - region.address;
            let piece = Piece { offset: region.offset + within, size: left.min(region.size - within) };
            part.pieces.push(piece);
            left -= piece.size;
            at += piece.size;
        }
        Ok(())
    }

    /// Bytes the device may read.
    pub fn readable(&self) -> u64 {
        self.readable.length
    }

    /// Bytes the device may write.
    pub fn writable(&self) -> u64 {
        self.writable.length
    }

    /// Copies readable bytes from `at` on; returns how many there were, at most `data.len()`.
    pub fn read(&self, at: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        self.readable.cut(at, data.len() as u64, |piece| {
            let size = piece.size as usize;
            // SAFETY: `piece` lies inside guest memory, `done + size <= data.len()` by `cut`, and `data` is not guest
            // memory.
            unsafe { std::ptr::copy_nonoverlapping(self.host(piece), data[done..done + size].as_mut_ptr(), size) };
            done += size;
        });
        done
    }

    /// Copies `data` into the writable bytes from `at` on; returns how many fitted.
    pub fn write(&self, at: u64, data: &[u8]) -> usize {
        let mut done = 0;
        self.writable.cut(at, data.len() as u64, |piece| {
            let size = piece.size as usize;
            // SAFETY: as in `read`.
            unsafe { std::ptr::copy_nonoverlapping(data[done..done + size].as_ptr(), self.host(piece), size) };
            self.memory.written(piece.offset, piece.size);
            done += size;
        });
        done
    }

    /// Appends to `vectors` where the `length` readable bytes from `at` on lie, as far as there are any. Valid while
    /// guest memory lives.
    pub fn readable_vectors(&self, at: u64, length: u64, vectors: &mut Vec<libc::iovec>) {
        self.readable.cut(at, length, |piece| vectors.push(self.vector(piece)));
    }

    /// The same for writable bytes. Whoever lets the kernel write them calls [`Self::written`] afterwards, also when the
    /// kernel reports an error.
    pub fn writable_vectors(&self, at: u64, length: u64, vectors: &mut Vec<libc::iovec>) {
        self.writable.cut(at, length, |piece| vectors.push(self.vector(piece)));
    }

    /// Where the writable bytes lie in the backing memory of the guest: offset and size of each piece.
    pub fn writable_pieces(&self) -> impl Iterator<Item = (u64, u64)> {
        self.writable.pieces.iter().map(|piece| (piece.offset, piece.size))
    }

    /// Announces that the `length` writable bytes from `at` on were written.
    pub fn written(&self, at: u64, length: u64) {
        self.writable.cut(at, length, |piece| self.memory.written(piece.offset, piece.size));
    }

    fn vector(&self, piece: Piece) -> libc::iovec {
        libc::iovec { iov_base: self.host(piece).cast(), iov_len: piece.size as usize }
    }

    fn host(&self, piece: Piece) -> *mut u8 {
        // SAFETY: a piece lies inside a region and a region inside the mapping.
        unsafe { self.memory.base().add(piece.offset as usize) }
    }
}
