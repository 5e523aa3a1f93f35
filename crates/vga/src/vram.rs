use hv::GuestMemory;
use std::sync::Arc;

/// What is written where memory is cleared.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// The card's memory: a part of what is behind the guest's RAM. The guest may change it at any time.
///
/// Planes lie side by side: byte `a` of plane `p` is byte `4 * a + p`, as guests that write planes through the linear
/// frame buffer expect.
pub(crate) struct Vram {
    memory: Arc<GuestMemory>,
    offset: u64,
    size: u32,
}

impl Vram {
    /// `size` bytes, a power of two from 1 MiB to 256 MiB, at `offset` of what is behind `memory`.
    ///
    /// # Errors
    /// One sentence when there is no such memory.
    pub fn new(memory: Arc<GuestMemory>, offset: u64, size: u64) -> Result<Self, String> {
        if !size.is_power_of_two() || !(1 << 20..=1 << 28).contains(&size) {
            return Err(format!("{size:#x} bytes of video memory are no power of two from 1 MiB to 256 MiB"));
        }
        if offset % hv::PAGE_SIZE != 0 || offset.checked_add(size).is_none_or(|end| end > memory.size()) {
            return Err(format!("guest memory has no {size:#x} bytes at {offset:#x} for the screen"));
        }
        Ok(Vram { memory, offset, size: size as u32 })
    }

    /// Bytes.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Where it lies in the backing memory.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Copies out from `at` on; bytes behind the end are zero.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        let (inside, behind) = data.split_at_mut(self.length(at, data.len()));
        if !inside.is_empty() {
            // Cannot fail: the bytes lie inside, which `new` has checked.
            let _ = self.memory.read_backing(self.offset + at, inside);
        }
        behind.fill(0);
    }

    /// Copies in from `at` on; bytes behind the end are dropped.
    pub fn write(&self, at: u64, data: &[u8]) {
        let inside = &data[..self.length(at, data.len())];
        if !inside.is_empty() {
            // As in `read`.
            let _ = self.memory.write_backing(self.offset + at, inside);
        }
    }

    /// Clears `size` bytes from the beginning.
    pub fn clear(&self, size: u64) {
        let mut at = 0;
        while at < size.min(u64::from(self.size)) {
            let piece = (size - at).min(ZEROS.len() as u64);
            self.write(at, &ZEROS[..piece as usize]);
            at += piece;
        }
    }

    /// The bytes at `address` of all planes, plane 0 lowest. Addresses wrap.
    pub fn planes(&self, address: u32) -> u32 {
        let mut data = [0; 4];
        self.read(self.wrapped(address), &mut data);
        u32::from_le_bytes(data)
    }

    /// Sets the bytes at `address` of all planes.
    pub fn set_planes(&self, address: u32, value: u32) {
        self.write(self.wrapped(address), &value.to_le_bytes());
    }

    fn wrapped(&self, address: u32) -> u64 {
        (u64::from(address) * 4) & u64::from(self.size - 1)
    }

    /// How many of `wanted` bytes from `at` on there are.
    fn length(&self, at: u64, wanted: usize) -> usize {
        u64::from(self.size).saturating_sub(at).min(wanted as u64) as usize
    }
}
