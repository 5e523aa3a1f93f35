use board::{StateReader, StateWriter};
use std::collections::VecDeque;

/// Bytes of a message without what follows some kinds: port, event, value.
pub(super) const MESSAGE_SIZE: usize = 8;

/// Events. virtio 1.2, section 5.3.6.2.
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// Bytes of the longest message: one with a name and the zero behind it.
const LONGEST: usize = MESSAGE_SIZE + super::MAX_NAME + 1;

/// What driver and device have said to each other about the ports. virtio 1.2, section 5.3.6.2.
///
/// Port 0 is the console; the others have names.
pub(super) struct Control {
    ports: Vec<PortState>,
    /// The size of the console, once it was set. Drivers are told as late as that, since Linux has rows and columns the
    /// other way round.
    size: Option<(u16, u16)>,
    /// For each port and event at most one, so a driver that never takes any fills no memory.
    waiting: VecDeque<Vec<u8>>,
}

struct PortState {
    name: String,
    /// The driver has made the port.
    ready: bool,
    /// A program of the guest has opened it.
    open: bool,
    /// Somebody is at the host's end.
    connected: bool,
}

impl Control {
    pub fn new(names: Vec<String>) -> Self {
        let port = |name| PortState { name, ready: false, open: false, connected: true };
        Control { ports: names.into_iter().map(port).collect(), size: None, waiting: VecDeque::new() }
    }

    /// Back to the state before any driver.
    pub fn reset(&mut self) {
        self.waiting.clear();
        for port in &mut self.ports {
            (port.ready, port.open) = (false, false);
        }
    }

    pub fn is_open(&self, port: usize) -> bool {
        self.ports[port].open
    }

    pub fn is_connected(&self, port: usize) -> bool {
        self.ports[port].connected
    }

    /// Whether there is nothing to tell the driver.
    pub fn is_silent(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next message for the driver.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front()
    }

    /// Takes what the driver says.
    pub fn hear(&mut self, message: &[u8; MESSAGE_SIZE]) {
        let [i0, i1, i2, i3, e0, e1, v0, v1] = *message;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let yes = u16::from_le_bytes([v0, v1]) == 1;
        let event = u16::from_le_bytes([e0, e1]);
        if event == event::DEVICE_READY && yes {
            for port in 0..self.ports.len() as u32 {
                self.say(port, event::PORT_ADD, 1, &[]);
            }
            return;
        }
        let Some(port) = self.ports.get_mut(id as usize) else { return };
        match event {
            event::PORT_READY => {
                port.ready = yes;
                if yes {
                    self.introduce(id);
                }
            }
            event::PORT_OPEN => port.open = yes,
            _ => {}
        }
    }

    /// Tells the driver what there is to know of a port that it has made.
    fn introduce(&mut self, id: u32) {
        let port = &self.ports[id as usize];
        let (connected, name) = (port.connected, port.name.clone());
        if id == 0 {
            self.say(id, event::CONSOLE_PORT, 1, &[]);
            self.say_size();
        } else {
            let name = [name.as_bytes(), &[0]].concat();
            self.say(id, event::PORT_NAME, 1, &name);
        }
        self.say(id, event::PORT_OPEN, u16::from(connected), &[]);
    }

    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.size = Some((columns, rows));
        if self.ports[0].ready {
            self.say_size();
        }
    }

    pub fn set_connected(&mut self, port: usize, connected: bool) {
        let state = &mut self.ports[port];
        if std::mem::replace(&mut state.connected, connected) != connected && state.ready {
            self.say(port as u32, event::PORT_OPEN, u16::from(connected), &[]);
        }
    }

    fn say_size(&mut self) {
        if let Some((columns, rows)) = self.size {
            let [c0, c1] = columns.to_le_bytes();
            let [r0, r1] = rows.to_le_bytes();
            self.say(0, event::RESIZE, 0, &[c0, c1, r0, r1]);
        }
    }

    /// Lets a message wait, in the place of older ones that it makes untrue.
    fn say(&mut self, port: u32, event: u16, value: u16, more: &[u8]) {
        let subject = [&port.to_le_bytes()[..], &event.to_le_bytes()].concat();
        self.waiting.retain(|message| !message.starts_with(&subject));
        self.waiting.push_back([&subject[..], &value.to_le_bytes(), more].concat());
    }

    pub fn save(&self, writer: &mut StateWriter) {
        for port in &self.ports {
            let bits = [port.ready, port.open, port.connected];
            bits.iter().for_each(|bit| writer.u8(u8::from(*bit)));
        }
        writer.u8(u8::from(self.size.is_some()));
        let (columns, rows) = self.size.unwrap_or_default();
        writer.u16(columns);
        writer.u16(rows);
        writer.u16(self.waiting.len() as u16);
        self.waiting.iter().for_each(|message| writer.blob(message));
    }

    /// What [`Control::save`] wrote, for the same ports.
    pub fn load(&self, reader: &mut StateReader<'_>) -> Result<Self, String> {
        let mut control = Control::new(self.ports.iter().map(|port| port.name.clone()).collect());
        for port in &mut control.ports {
            (port.ready, port.open, port.connected) = (reader.bool()?, reader.bool()?, reader.bool()?);
        }
        let sized = reader.bool()?;
        control.size = Some((reader.u16()?, reader.u16()?)).filter(|_| sized);
        for _ in 0..reader.u16()? {
            let message = reader.blob()?;
            // A port has few events, of which one each waits.
            let full = control.waiting.len() == 8 * control.ports.len();
            if full || !(MESSAGE_SIZE..=LONGEST).contains(&message.len()) {
                return Err(reader.invalid("a message to its driver that none ever got"));
            }
            control.waiting.push_back(message.to_vec());
        }
        Ok(control)
    }
}
