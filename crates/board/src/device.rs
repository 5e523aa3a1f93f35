/// What a device's write asks of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// Reset the machine.
    Reset,
    /// Power the machine off.
    Shutdown,
    /// End the machine with this exit status.
    Exit(u8),
}

/// The access sizes that a device takes, in bytes. The bus checks them: reads of other sizes return all ones, writes
/// of other sizes are ignored. Accesses are naturally aligned unless the device says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSizes {
    /// The smallest.
    pub min: u8,
    /// The largest.
    pub max: u8,
}

/// One device model behind a range of ports or of guest physical addresses. Called on several threads at a time, so
/// its state lies behind a mutex or in atomics.
pub trait Device: Send + Sync {
    /// A short name for error messages.
    fn name(&self) -> &str;

    /// The access sizes taken.
    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }

    /// Reads `data.len()` bytes at `offset` within the device's range; the size is checked already.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes at `offset` within the device's range; the size is checked already.
    fn write(&self, offset: u64, data: &[u8]) -> Action;

    /// Puts the device into its state after a machine reset.
    fn reset(&self) {}

    /// The state for a snapshot.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Loads what [`Device::save`] gave. The bytes may be hostile.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the state.
    fn load(&self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}
