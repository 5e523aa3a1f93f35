use crate::pci::Configuration;
use crate::{StateReader, StateWriter};
use hv::{Interrupts, Msi};
use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, OnceLock};

/// Capability ID of MSI-X.
const CAPABILITY_ID: u8 = 0x11;
/// Message control: interrupts go out as messages.
const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
const CONTROL_MASK: u16 = 1 << 14;
/// Bytes of a table entry: address, data, vector control.
const ENTRY_SIZE: u64 = 16;
/// Vector control: this vector is masked.
const VECTOR_MASKED: u32 = 1;

/// A function's MSI-X: capability, table and pending bits. PCI Local Bus 3.0, section 6.8.2.
///
/// Lock order: `state` is a leaf; messages are sent after it is released.
pub struct Msix {
    vectors: u16,
    interrupts: OnceLock<Arc<dyn Interrupts>>,
    state: Mutex<State>,
}

struct State {
    enabled: bool,
    masked: bool,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
}

impl Entry {
    /// After reset: masked, no message.
    const RESET: Entry = Entry { address: 0, data: 0, control: VECTOR_MASKED, pending: false };
}

impl State {
    /// Takes what is pending and no longer held back.
    fn due(&mut self) -> Vec<Msi> {
        if !self.enabled || self.masked {
            return Vec::new();
        }
        let due = self.entries.iter_mut().filter(|entry| entry.pending && entry.control & VECTOR_MASKED == 0);
        due.map(|entry| {
            entry.pending = false;
            Msi { address: entry.address, data: entry.data }
        })
        .collect()
    }
}

impl Msix {
    /// A table of `vectors` masked vectors, 1..=2048.
    ///
    /// # Panics
    /// When there are fewer or more.
    pub fn new(vectors: u16) -> Self {
        assert!((1..=2048).contains(&vectors), "MSI-X has 1 to 2048 vectors");
        let entries = vec![Entry::RESET; usize::from(vectors)];
        let state = Mutex::new(State { enabled: false, masked: false, entries });
        Msix { vectors, interrupts: OnceLock::new(), state }
    }

    /// The number of vectors.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> u64 {
        u64::from(self.vectors) * ENTRY_SIZE
    }

    /// Bytes of the pending bit array.
    pub fn pending_size(&self) -> u64 {
        u64::from(self.vectors.div_ceil(64)) * 8
    }

    /// Adds the capability: the table and the pending bits lie at these offsets (multiples of 8) of the range of base
    /// address register `bar`.
    pub fn add_capability(&self, configuration: &mut Configuration, bar: u8, table: u32, pending: u32) {
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&(self.vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        configuration.add_capability(CAPABILITY_ID, &body, &(CONTROL_ENABLE | CONTROL_MASK).to_le_bytes());
    }

    /// Sets where messages go. Once.
    pub fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        let _ = self.interrupts.set(interrupts);
    }

    /// Follows the message control register.
    pub fn config_changed(&self, configuration: &Configuration) {
        let Some(at) = configuration.capability(CAPABILITY_ID) else { return };
        let control = configuration.u16(at + 2);
        let due = {
            let mut state = self.lock();
            state.enabled = control & CONTROL_ENABLE != 0;
            state.masked = control & CONTROL_MASK != 0;
            state.due()
        };
        self.send(&due);
    }

    /// Whether interrupts go out as messages; otherwise the function uses INTx.
    pub fn enabled(&self) -> bool {
        self.lock().enabled
    }

    /// Sends the message of a vector, or notes it as pending while that is masked. Nothing happens for a vector that
    /// does not exist or while MSI-X is off.
    pub fn signal(&self, vector: u16) {
        let message = {
            let mut state = self.lock();
            let (enabled, masked) = (state.enabled, state.masked);
            let Some(entry) = state.entries.get_mut(usize::from(vector)).filter(|_| enabled) else { return };
            if masked || entry.control & VECTOR_MASKED != 0 {
                entry.pending = true;
                return;
            }
            Msi { address: entry.address, data: entry.data }
        };
        self.send(&[message]);
    }

    /// Reads the table: 4 or 8 aligned bytes; other accesses read all ones.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        let state = self.lock();
        let aligned = matches!(data.len(), 4 | 8) && offset % data.len() as u64 == 0;
        let Some(entry) = state.entries.get((offset / ENTRY_SIZE) as usize).filter(|_| aligned) else { return };
        let mut bytes = [0; ENTRY_SIZE as usize];
        bytes[0..8].copy_from_slice(&entry.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&entry.data.to_le_bytes());
        bytes[12..16].copy_from_slice(&entry.control.to_le_bytes());
        let at = (offset % ENTRY_SIZE) as usize;
        data.copy_from_slice(&bytes[at..at + data.len()]);
    }

    /// Writes the table: 4 or 8 aligned bytes; other accesses change nothing.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || offset % data.len() as u64 != 0 {
            return;
        }
        let due = {
            let mut state = self.lock();
            let Some(entry) = state.entries.get_mut((offset / ENTRY_SIZE) as usize) else { return };
            for (half, value) in data.chunks_exact(4).enumerate() {
                let value = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
                match offset % ENTRY_SIZE / 4 + half as u64 {
                    0 => entry.address = entry.address & !0xFFFF_FFFF | u64::from(value & !3),
                    1 => entry.address = entry.address & 0xFFFF_FFFF | u64::from(value) << 32,
                    2 => entry.data = value,
                    _ => entry.control = value & VECTOR_MASKED,
                }
            }
            state.due()
        };
        self.send(&due);
    }

    /// Reads the pending bits: 4 or 8 aligned bytes; other accesses read all ones. Writes have no effect.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if !matches!(data.len(), 4 | 8) || offset % data.len() as u64 != 0 || offset >= self.pending_size() {
            return;
        }
        let state = self.lock();
        for (index, byte) in data.iter_mut().enumerate() {
            let first = (offset as usize + index) * 8;
            let pending = |bit: &usize| state.entries.get(first + bit).is_some_and(|entry| entry.pending);
            *byte = (0..8).filter(pending).fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    /// Masks and clears all vectors.
    pub fn reset(&self) {
        self.lock().entries.fill(Entry::RESET);
    }

    /// Appends the table and the pending bits to a state.
    pub fn save(&self, writer: &mut StateWriter) {
        for entry in &self.lock().entries {
            writer.u64(entry.address);
            writer.u32(entry.data);
            writer.u8(entry.control as u8);
            writer.u8(u8::from(entry.pending));
        }
    }

    /// Takes what [`Msix::save`] appended. Nothing is sent before the next change.
    ///
    /// # Errors
    /// When the state is damaged.
    pub fn load(&self, reader: &mut StateReader) -> Result<(), String> {
        let mut entries = Vec::with_capacity(usize::from(self.vectors));
        for _ in 0..self.vectors {
            entries.push(Entry {
                address: reader.u64()? & !3,
                data: reader.u32()?,
                control: u32::from(reader.bool()?),
                pending: reader.bool()?,
            });
        }
        self.lock().entries = entries;
        Ok(())
    }

    fn send(&self, messages: &[Msi]) {
        if let Some(interrupts) = self.interrupts.get() {
            messages.iter().for_each(|message| interrupts.signal_msi(*message));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Identity;

    #[derive(Default)]
    struct Messages(Mutex<Vec<Msi>>);

    impl Interrupts for Messages {
        fn set_line(&self, _: u32, _: bool) {}
        fn signal_msi(&self, msi: Msi) {
            self.0.lock().push(msi);
        }
    }

    impl Messages {
        fn take(&self) -> Vec<u32> {
            std::mem::take(&mut *self.0.lock()).iter().map(|msi| msi.data).collect()
        }
    }

    /// MSI-X with vector `n` unmasked and sending data 0x40 + n, and its configuration with MSI-X enabled.
    fn enabled(vectors: u16) -> (Msix, Configuration, Arc<Messages>) {
        let msix = Msix::new(vectors);
        let messages = Arc::new(Messages::default());
        msix.connect(messages.clone());
        let mut configuration = Configuration::new(Identity {
            vendor: 1,
            device: 2,
            revision: 0,
            class: [0; 3],
            subsystem_vendor: 0,
            subsystem: 0,
        });
        msix.add_capability(&mut configuration, 0, 0x1000, 0x2000);
        configuration.write(0x43, &[0x80]);
        msix.config_changed(&configuration);
        for vector in 0..u64::from(vectors) {
            msix.write_table(vector * 16, &0xFEE0_0000u64.to_le_bytes());
            msix.write_table(vector * 16 + 8, &(0x40 + vector).to_le_bytes());
        }
        (msix, configuration, messages)
    }

    fn pending(msix: &Msix) -> u64 {
        let mut data = [0; 8];
        msix.read_pending(0, &mut data);
        u64::from_le_bytes(data)
    }

    #[test]
    fn an_unmasked_vector_sends_and_others_do_nothing() {
        let (msix, _, messages) = enabled(3);
        msix.signal(2);
        msix.signal(3);
        msix.signal(0xFFFF);
        assert_eq!(messages.take(), [0x42]);
    }

    #[test]
    fn a_masked_vector_is_pending_and_sent_once_on_unmasking() {
        let (msix, _, messages) = enabled(2);
        msix.write_table(16 + 12, &[1, 0, 0, 0]);
        msix.signal(1);
        msix.signal(1);
        assert_eq!((messages.take(), pending(&msix)), (vec![], 2));
        msix.write_table(16 + 12, &[0xFE, 0xFF, 0xFF, 0xFF]);
        assert_eq!((messages.take(), pending(&msix)), (vec![0x41], 0));
    }

    #[test]
    fn the_function_mask_holds_everything_back() {
        let (msix, mut configuration, messages) = enabled(2);
        configuration.write(0x43, &[0xC0]);
        msix.config_changed(&configuration);
        msix.signal(0);
        msix.signal(1);
        msix.write_table(12, &[0; 4]);
        assert_eq!((messages.take(), pending(&msix)), (vec![], 3));
        configuration.write(0x43, &[0x80]);
        msix.config_changed(&configuration);
        assert_eq!((messages.take(), pending(&msix)), (vec![0x40, 0x41], 0));
    }

    #[test]
    fn nothing_is_sent_while_disabled() {
        let (msix, mut configuration, messages) = enabled(1);
        configuration.write(0x43, &[0]);
        msix.config_changed(&configuration);
        msix.signal(0);
        assert!(!msix.enabled());
        assert_eq!((messages.take(), pending(&msix)), (vec![], 0));
    }

    #[test]
    fn odd_sizes_and_offsets_read_ones_and_change_nothing() {
        let (msix, _, _) = enabled(1);
        for (offset, size) in [(0, 1), (0, 2), (2, 4), (4, 8), (16, 4), (1 << 40, 8), (u64::MAX - 7, 8)] {
            let mut data = vec![0; size];
            msix.write_table(offset, &data);
            msix.read_table(offset, &mut data);
            assert_eq!(data, vec![0xFF; size], "{offset:#x}");
            msix.read_pending(offset | 1, &mut data);
            assert_eq!(data, vec![0xFF; size]);
        }
        let mut data = [0; 8];
        msix.read_table(8, &mut data);
        assert_eq!(u64::from_le_bytes(data), 0x40);
    }

    #[test]
    fn a_saved_table_loads_and_a_damaged_one_does_not() {
        let (msix, configuration, _) = enabled(2);
        msix.write_table(12, &[1, 0, 0, 0]);
        msix.signal(0);
        let mut writer = StateWriter::new(1);
        msix.save(&mut writer);
        let state = writer.finish();
        let other = Msix::new(2);
        other.config_changed(&configuration);
        other.load(&mut StateReader::new("x", &state, 1).unwrap()).unwrap();
        assert_eq!(pending(&other), 1);
        assert!(other.load(&mut StateReader::new("x", &state[..20], 1).unwrap()).is_err());
    }
}
