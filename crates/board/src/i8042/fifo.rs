use crate::state::{StateReader, StateWriter};
use std::collections::VecDeque;

/// Bytes on their way from a device to the controller, at most `N`.
#[derive(Debug, Default)]
pub(super) struct Fifo<const N: usize>(VecDeque<u8>);

impl<const N: usize> Fifo<N> {
    /// Appends all of `bytes`, or none where they do not fit.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if bytes.len() <= N - self.0.len() {
            self.0.extend(bytes);
        }
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        self.0.pop_front()
    }

    pub(super) fn last(&self) -> Option<u8> {
        self.0.back().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn save(&self, writer: &mut StateWriter) {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        writer.blob(&bytes);
    }

    pub(super) fn load(reader: &mut StateReader) -> Result<Self, String> {
        let bytes = reader.blob()?;
        if bytes.len() > N {
            return Err(reader.invalid(&format!("{} bytes in a queue of {N}", bytes.len())));
        }
        Ok(Fifo(bytes.iter().copied().collect()))
    }
}
