use crate::{DeviceType, Link, Queue, QueueError, VirtioDevice};
use board::{StateReader, StateWriter};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// The device configuration holds the size of the screen.
const FEATURE_SIZE: u64 = 1 << 0;
/// Input that may wait for the guest, in bytes.
const MAX_INPUT: usize = 64 * 1024;
/// Output taken from one request, in bytes; the rest, which only a buffer listed many times over brings, is dropped.
const MAX_OUTPUT: u64 = 1 << 20;
/// Output handed on at once, in bytes.
const OUTPUT_PIECE: usize = 4096;
const STATE_VERSION: u32 = 1;

/// Who takes what a guest prints. Called on the console's I/O thread, with at most 4 KiB at a time.
pub type ConsoleSink = Box<dyn Fn(&[u8]) + Send + Sync>;

/// virtio-console with one port. virtio 1.2, section 5.3.
///
/// Lock order: `state` is a leaf.
pub struct Console {
    name: String,
    output: ConsoleSink,
    link: OnceLock<Arc<Link>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    columns: u16,
    rows: u16,
    input: VecDeque<u8>,
}

impl Console {
    /// A console that prints to `output`.
    pub fn new(name: &str, output: ConsoleSink) -> Self {
        let state = Mutex::new(State { columns: 80, rows: 25, input: VecDeque::new() });
        Console { name: name.to_owned(), output, link: OnceLock::new(), state }
    }

    /// Types at the guest; returns how many bytes were taken, fewer than given when 64 KiB wait already.
    pub fn input(&self, data: &[u8]) -> usize {
        let taken = {
            let mut state = self.state.lock();
            let taken = data.len().min(MAX_INPUT - state.input.len());
            state.input.extend(&data[..taken]);
            taken
        };
        if let Some(link) = self.link.get() {
            link.wake();
        }
        taken
    }

    /// Sets the size of the screen, in characters.
    pub fn resize(&self, columns: u16, rows: u16) {
        {
            let mut state = self.state.lock();
            (state.columns, state.rows) = (columns, rows);
        }
        if let Some(link) = self.link.get() {
            link.config_changed();
        }
    }

    fn receive(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let mut more = false;
        for _ in 0..queue.size() {
            if self.state.lock().input.is_empty() {
                more = false;
                break;
            }
            if !queue.pop()? {
                more = queue.arm()?;
                break;
            }
            let mut state = self.state.lock();
            let written = queue.chain().write(0, state.input.make_contiguous());
            state.input.drain(..written);
            drop(state);
            queue.push(written as u32);
            more = true;
        }
        queue.signal();
        Ok(more)
    }

    fn transmit(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        queue.serve(|chain| {
            let mut piece = [0; OUTPUT_PIECE];
            let mut at = 0;
            while at < chain.readable().min(MAX_OUTPUT) {
                let size = chain.read(at, &mut piece);
                (self.output)(&piece[..size]);
                at += size as u64;
            }
            Ok(0)
        })
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        FEATURE_SIZE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64, 64]
    }

    fn config(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut config = vec![0; 12];
        config[0..2].copy_from_slice(&state.columns.to_le_bytes());
        config[2..4].copy_from_slice(&state.rows.to_le_bytes());
        config[4..8].copy_from_slice(&1u32.to_le_bytes());
        config
    }

    fn connect(&self, link: Arc<Link>) {
        let _ = self.link.set(link);
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let [receive, transmit] = queues else { return Ok(false) };
        Ok(self.receive(receive)? | self.transmit(transmit)?)
    }

    fn reset(&self) {
        self.state.lock().input.clear();
    }

    fn save(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u16(state.columns);
        writer.u16(state.rows);
        writer.blob(state.input.make_contiguous());
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, saved, STATE_VERSION)?;
        let (columns, rows) = (reader.u16()?, reader.u16()?);
        let input = reader.blob()?;
        if input.len() > MAX_INPUT {
            return Err(reader.invalid("more input waits than can"));
        }
        *self.state.lock() = State { columns, rows, input: input.iter().copied().collect() };
        reader.finish()
    }
}
