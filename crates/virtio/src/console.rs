//! virtio-console: `console.rs` moves bytes, `console/control.rs` is the talk about ports.

mod control;

use crate::{DeviceType, Link, Queue, QueueError, VirtioDevice};
use board::{StateReader, StateWriter, Terminal, TerminalDevice};
use control::Control;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock, Weak};

/// Device features. virtio 1.2, section 5.3.3.
const FEATURE_SIZE: u64 = 1 << 0;
const FEATURE_MULTIPORT: u64 = 1 << 1;

const QUEUE_SIZE: u16 = 64;
/// The most ports a device can have.
const MAX_PORTS: usize = 31;
/// Bytes of a port's name.
const MAX_NAME: usize = 64;
/// Output taken from one request, in bytes; the rest, which only a buffer listed many times over brings, is dropped.
const MAX_OUTPUT: u64 = 1 << 20;
/// Bytes moved at once.
const PIECE: usize = 4096;
const STATE_VERSION: u32 = 2;

/// A port besides the console: a pipe in both directions, `/dev/virtio-ports/NAME` in Linux.
pub struct Port {
    /// What the guest knows it by, for instance `org.qemu.guest_agent.0`.
    pub name: String,
    /// The host's end.
    pub terminal: Arc<Terminal>,
}

/// virtio-console with the console as port 0, and other ports behind it. virtio 1.2, section 5.3.
///
/// What a guest prints on its console while the host's end takes no more is lost, since the guest's kernel would stand
/// still; on other ports it waits. Input waits in the [`Terminal`] until the guest takes it.
///
/// Lock order: `state`, then those of [`Link`]. [`Terminal`] calls without locks, and is called without them.
pub struct Console {
    name: String,
    /// Port 0 has no name.
    ports: Vec<Port>,
    link: OnceLock<Arc<Link>>,
    state: Mutex<State>,
}

struct State {
    columns: u16,
    rows: u16,
    /// The driver knows of several ports.
    multiport: bool,
    control: Control,
    /// For each port, bytes that were taken of the request in front.
    taken: Vec<u64>,
}

impl Console {
    /// A console alone.
    pub fn new(name: &str, terminal: Arc<Terminal>) -> Arc<Self> {
        Self::make(name, vec![Port { name: String::new(), terminal }])
    }

    /// A console and up to 30 other ports. All are connected until [`Console::set_connected`] says otherwise.
    ///
    /// # Errors
    /// One sentence when there are too many ports, or two of the same name, or a name that no file can have.
    pub fn with_ports(name: &str, terminal: Arc<Terminal>, ports: Vec<Port>) -> Result<Arc<Self>, String> {
        for (index, port) in ports.iter().enumerate() {
            let plain = port.name.chars().all(|letter| letter.is_ascii_graphic() && letter != '/');
            if !(1..=MAX_NAME).contains(&port.name.len()) || !plain || port.name.starts_with('.') {
                return Err(format!(
                    "{:?} is no name for a port: use up to {MAX_NAME} letters, digits, dots and the like",
                    port.name
                ));
            }
            if ports[..index].iter().any(|other| other.name == port.name) {
                return Err(format!("there are two ports named {}", port.name));
            }
        }
        if ports.len() >= MAX_PORTS {
            return Err(format!("{name} cannot have {} ports: {} are possible", ports.len(), MAX_PORTS - 1));
        }
        let console = Port { name: String::new(), terminal };
        Ok(Self::make(name, std::iter::once(console).chain(ports).collect()))
    }

    fn make(name: &str, ports: Vec<Port>) -> Arc<Self> {
        let control = Control::new(ports.iter().map(|port| port.name.clone()).collect());
        let taken = vec![0; ports.len()];
        let state = Mutex::new(State { columns: 80, rows: 25, multiport: false, control, taken });
        let console = Arc::new(Console { name: name.to_owned(), ports, link: OnceLock::new(), state });
        for port in &console.ports {
            let device: Weak<Console> = Arc::downgrade(&console);
            port.terminal.connect(device);
        }
        console
    }

    /// Sets the size of the screen, in characters.
    pub fn resize(&self, columns: u16, rows: u16) {
        {
            let state = &mut *self.state.lock();
            (state.columns, state.rows) = (columns, rows);
            state.control.resize(columns, rows);
        }
        if let Some(link) = self.link.get() {
            link.config_changed();
            link.wake();
        }
    }

    /// Says whether somebody is at the host's end of a port. What a guest sends to a port where nobody is gets lost. False
    /// when there is no port of this name.
    pub fn set_connected(&self, port: &str, connected: bool) -> bool {
        let Some(index) = self.index(port) else { return false };
        self.state.lock().control.set_connected(index, connected);
        self.wake();
        true
    }

    /// Whether the guest has opened the port of this name.
    pub fn guest_open(&self, port: &str) -> bool {
        let index = self.index(port);
        let state = self.state.lock();
        index.is_some_and(|index| state.multiport && state.control.is_open(index))
    }

    fn index(&self, port: &str) -> Option<usize> {
        self.ports.iter().skip(1).position(|other| other.name == port).map(|index| index + 1)
    }

    fn wake(&self) {
        if let Some(link) = self.link.get() {
            link.wake();
        }
    }

    fn receive(&self, index: usize, queue: &mut Queue) -> Result<bool, QueueError> {
        {
            let state = self.state.lock();
            if state.multiport && !(state.control.is_open(index) && state.control.is_connected(index)) {
                return Ok(false);
            }
        }
        let mut piece = [0; PIECE];
        let mut more = true;
        for _ in 0..queue.size() {
            if !queue.pop()? {
                more = queue.arm()?;
                break;
            }
            let room = queue.chain().writable().min(PIECE as u64) as usize;
            let count = self.ports[index].terminal.take_input(&mut piece[..room]);
            if count == 0 && room != 0 {
                queue.put_back(1);
                more = false;
                break;
            }
            queue.chain().write(0, &piece[..count]);
            queue.push(count as u32);
        }
        queue.signal();
        Ok(more && queue.size() != 0)
    }

    fn transmit(&self, index: usize, queue: &mut Queue) -> Result<bool, QueueError> {
        let (mut taken, connected) = {
            let state = self.state.lock();
            (state.taken[index], !state.multiport || state.control.is_connected(index))
        };
        let mut piece = [0; PIECE];
        let mut full = false;
        queue.disarm();
        for _ in 0..queue.size() {
            if !queue.pop()? {
                break;
            }
            let end = queue.chain().readable().min(MAX_OUTPUT);
            while taken < end && connected && !full {
                let wanted = (end - taken).min(PIECE as u64) as usize;
                queue.chain().read(taken, &mut piece[..wanted]);
                let count = self.ports[index].terminal.output(&piece[..wanted]);
                taken += if index == 0 { wanted } else { count } as u64;
                full = index != 0 && count < wanted;
            }
            if full {
                queue.put_back(1);
                break;
            }
            taken = 0;
            queue.push(0);
        }
        self.state.lock().taken[index] = taken;
        queue.signal();
        // The terminal says when it takes more.
        Ok(!full && queue.arm()?)
    }

    /// What the driver says of the ports. virtio 1.2, section 5.3.2 has the order of the queues.
    fn listen(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        queue.serve(|chain| {
            let mut message = [0; control::MESSAGE_SIZE];
            if chain.read(0, &mut message) == message.len() {
                self.state.lock().control.hear(&message);
            }
            Ok(0)
        })
    }

    /// What the driver is to know of the ports.
    fn tell(&self, queue: &mut Queue) -> Result<bool, QueueError> {
        let mut more = false;
        for _ in 0..queue.size() {
            let control = &mut self.state.lock().control;
            if control.is_silent() {
                break;
            }
            if !queue.pop()? {
                more = queue.arm()?;
                break;
            }
            if let Some(message) = control.next() {
                let written = queue.chain().write(0, &message);
                queue.push(written as u32);
            }
        }
        queue.signal();
        Ok(more)
    }
}

impl TerminalDevice for Console {
    fn input_ready(&self) {
        self.wake();
    }

    fn output_ready(&self) {
        self.wake();
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
        FEATURE_SIZE | if self.ports.len() > 1 { FEATURE_MULTIPORT } else { 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let control = if self.ports.len() > 1 { 2 } else { 0 };
        vec![QUEUE_SIZE; 2 * self.ports.len() + control]
    }

    fn config(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut config = vec![0; 12];
        config[0..2].copy_from_slice(&state.columns.to_le_bytes());
        config[2..4].copy_from_slice(&state.rows.to_le_bytes());
        config[4..8].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        config
    }

    fn connect(&self, link: Arc<Link>) {
        let _ = self.link.set(link);
    }

    fn start(&self, features: u64) {
        self.state.lock().multiport = features & FEATURE_MULTIPORT != 0;
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let mut more = false;
        if self.state.lock().multiport {
            if let [_, _, control_receive, control_transmit, ..] = queues {
                more |= self.listen(control_transmit)?;
                more |= self.tell(control_receive)?;
            }
        }
        for index in 0..self.ports.len() {
            let first = if index == 0 { 0 } else { 2 * index + 2 };
            if let Some([receive, transmit]) = queues.get_mut(first..first + 2) {
                more |= self.receive(index, receive)?;
                more |= self.transmit(index, transmit)?;
            }
        }
        Ok(more)
    }

    fn reset(&self) {
        let state = &mut *self.state.lock();
        state.multiport = false;
        state.control.reset();
        state.taken.fill(0);
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u16(state.columns);
        writer.u16(state.rows);
        writer.u16(self.ports.len() as u16);
        for (port, taken) in self.ports.iter().zip(&state.taken) {
            writer.blob(port.name.as_bytes());
            writer.u32(*taken as u32);
        }
        state.control.save(&mut writer);
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, saved, STATE_VERSION)?;
        let (columns, rows) = (reader.u16()?, reader.u16()?);
        let count = usize::from(reader.u16()?);
        let mut taken = Vec::new();
        for port in &self.ports {
            if count != self.ports.len() || reader.blob()? != port.name.as_bytes() {
                return Err(reader.invalid("it has other ports"));
            }
            taken.push(u64::from(reader.u32()?));
        }
        let state = &mut *self.state.lock();
        let control = state.control.load(&mut reader)?;
        reader.finish()?;
        *state = State { columns, rows, multiport: state.multiport, control, taken };
        Ok(())
    }
}
