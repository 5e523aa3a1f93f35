/// Where accesses go that RAM does not answer: port I/O and memory-mapped I/O.
///
/// Called on vCPU threads, several at a time. An implementation decides who answers; unclaimed reads return all
/// ones. A device that ends or resets the machine does so through the machine, which kicks the vCPUs: the calling
/// vCPU finishes its instruction first and then returns [`crate::Exit::Kicked`].
///
/// MXCSR and the x87 unit may be a guest's, with exceptions masked: a device that computes with floating point, or calls
/// others who may, does so within [`crate::with_own_floats`].
pub trait Bus: Send + Sync {
    /// Reads `size` bytes (1, 2 or 4) from an I/O port; the value is zero-extended.
    fn pio_read(&self, port: u16, size: u8) -> u32;

    /// Writes the low `size` bytes (1, 2 or 4) of `value` to an I/O port.
    fn pio_write(&self, port: u16, size: u8, value: u32);

    /// What does the same as [`Self::pio_read`] and [`Self::pio_write`] do with this port and size, as long as
    /// [`Self::version`] stays; `None` where no one device does.
    fn port(&self, _port: u16, _size: u8) -> Option<Box<dyn Port>> {
        None
    }

    /// A number that is another one after every change of what answers where.
    fn version(&self) -> u64 {
        0
    }

    /// Reads 1 to 64 bytes at a guest physical address. Does not cross a page.
    fn mmio_read(&self, address: u64, data: &mut [u8]);

    /// Writes 1 to 64 bytes at a guest physical address. Does not cross a page.
    fn mmio_write(&self, address: u64, data: &[u8]);
}

/// A device's answer to accesses of one size at one port. Called like [`Bus`].
pub trait Port: Send + Sync {
    /// Reads; the value is zero-extended.
    fn read(&self) -> u32;

    /// Writes the low bytes of `value`.
    fn write(&self, value: u32);
}
