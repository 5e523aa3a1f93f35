use crate::bus::{Response, Speed, Token, Transaction, UsbDevice, Wake};
use crate::control::{ControlPipe, Refused, Setup};
use crate::descriptors::{CONFIGURATION, Description, INTERRUPT_IN, kind};
use board::{StateReader, StateWriter};
use parking_lot::Mutex;
use std::sync::OnceLock;

/// Standard requests. USB 2.0, table 9-4.
const GET_STATUS: u8 = 0;
const CLEAR_FEATURE: u8 = 1;
const SET_FEATURE: u8 = 3;
const SET_ADDRESS: u8 = 5;
const GET_DESCRIPTOR: u8 = 6;
const GET_CONFIGURATION: u8 = 8;
const SET_CONFIGURATION: u8 = 9;
const GET_INTERFACE: u8 = 10;
const SET_INTERFACE: u8 = 11;
/// Requests of the class. HID, section 7.2.
const GET_REPORT: u8 = 1;
const GET_IDLE: u8 = 2;
const GET_PROTOCOL: u8 = 3;
const SET_REPORT: u8 = 9;
const SET_IDLE: u8 = 10;
const SET_PROTOCOL: u8 = 11;

/// bmRequestType. USB 2.0, table 9-2.
const TO_DEVICE: u8 = 0x00;
const TO_INTERFACE: u8 = 0x01;
const TO_ENDPOINT: u8 = 0x02;
const FROM_DEVICE: u8 = 0x80;
const FROM_INTERFACE: u8 = 0x81;
const FROM_ENDPOINT: u8 = 0x82;
const CLASS_TO_INTERFACE: u8 = 0x21;
const CLASS_FROM_INTERFACE: u8 = 0xA1;

/// Features. USB 2.0, table 9-6.
const ENDPOINT_HALT: u16 = 0;
const DEVICE_REMOTE_WAKEUP: u16 = 1;
/// Report types, in the high byte of wValue.
const INPUT_REPORT: u16 = 1 << 8;
const OUTPUT_REPORT: u16 = 2 << 8;
/// Protocols.
const REPORT_PROTOCOL: u8 = 1;

const INTERRUPT_ENDPOINT: u8 = INTERRUPT_IN & 0x0F;
/// Milliseconds in a unit of the idle rate.
const IDLE_UNIT: u64 = 4;

/// What a HID device reports. Reports have no IDs.
pub trait Source: Default + Send {
    /// For error messages.
    const NAME: &'static str;
    const SPEED: Speed;
    const DESCRIPTION: Description;
    /// The idle rate after a reset, in units of 4 ms; 0: it reports changes alone. HID, section 7.2.4.
    const IDLE: u8;

    /// The next report that waits.
    fn next(&mut self) -> Option<Vec<u8>>;

    /// Whether there is one.
    fn has_next(&self) -> bool;

    /// The report of how things are.
    fn current(&self) -> Vec<u8>;

    /// Forgets the reports that wait.
    fn clear(&mut self);

    /// Takes an output report.
    fn output(&mut self, _report: &[u8]) -> Result<(), Refused> {
        Err(Refused)
    }

    fn save(&self, writer: &mut StateWriter);

    fn load(reader: &mut StateReader) -> Result<Self, String>;
}

/// A device for people: one HID interface with one interrupt endpoint, 1. Both protocols have the same reports.
///
/// Lock order: `state` comes behind the controller's lock, and is not held when the controller is woken.
pub struct Hid<S> {
    wake: OnceLock<Wake>,
    state: Mutex<State<S>>,
}

struct State<S> {
    address: u8,
    pipe: ControlPipe,
    source: S,
    remote_wakeup: bool,
    settings: Settings,
}

/// What SET_CONFIGURATION begins anew.
#[derive(Default)]
struct Settings {
    configured: bool,
    /// The host has asked the interrupt endpoint.
    polled: bool,
    halted: bool,
    /// The sequence bit of the next report.
    toggle: bool,
    protocol: u8,
    /// In units of 4 ms; 0: never without a change.
    idle: u8,
    /// The frame of the last report.
    reported: u64,
}

impl Settings {
    fn new(configured: bool, idle: u8) -> Self {
        Settings { configured, protocol: REPORT_PROTOCOL, idle, ..Settings::default() }
    }

    /// The frame in which the last report is repeated.
    fn repeats(&self) -> Option<u64> {
        let period = IDLE_UNIT * u64::from(self.idle);
        (self.configured && period != 0).then(|| self.reported.saturating_add(period))
    }
}

impl<S: Source> State<S> {
    fn new(source: S) -> Self {
        State {
            address: 0,
            pipe: ControlPipe::default(),
            source,
            remote_wakeup: false,
            settings: Settings::new(false, S::IDLE),
        }
    }

    fn transact(&mut self, endpoint: u8, transaction: Transaction, frame: u64) -> Response {
        match (endpoint, transaction) {
            (0, _) => {
                // The pipe and what it asks are both ours.
                let mut pipe = std::mem::take(&mut self.pipe);
                let response = pipe.transact(transaction, &mut |setup, data| self.request(setup, data));
                self.pipe = pipe;
                response
            }
            (INTERRUPT_ENDPOINT, Transaction::In) if self.settings.configured => self.report(frame),
            _ => Response::Silence,
        }
    }

    fn report(&mut self, frame: u64) -> Response {
        let repeats = self.settings.repeats();
        let settings = &mut self.settings;
        settings.polled = true;
        if settings.halted {
            return Response::Stall;
        }
        let idle = repeats.is_some_and(|at| at <= frame);
        let Some(data) = self.source.next().or_else(|| idle.then(|| self.source.current())) else {
            return Response::Nak;
        };
        settings.reported = frame;
        let toggle = settings.toggle;
        settings.toggle = !toggle;
        Response::Data { data, toggle }
    }

    fn request(&mut self, setup: &Setup, data: &[u8]) -> Result<Vec<u8>, Refused> {
        let Setup { request_type, request, value, index, .. } = *setup;
        match (request_type, request) {
            (FROM_DEVICE, GET_STATUS) => Ok(vec![u8::from(self.remote_wakeup) << 1, 0]),
            (TO_DEVICE, CLEAR_FEATURE | SET_FEATURE) if value == DEVICE_REMOTE_WAKEUP => {
                self.remote_wakeup = request == SET_FEATURE;
                Ok(Vec::new())
            }
            (TO_DEVICE, SET_ADDRESS) => {
                self.address = u8::try_from(value).ok().filter(|address| *address < 128).ok_or(Refused)?;
                Ok(Vec::new())
            }
            (FROM_DEVICE | FROM_INTERFACE, GET_DESCRIPTOR) => self.descriptor(request_type, value),
            (FROM_DEVICE, GET_CONFIGURATION) => Ok(vec![if self.settings.configured { CONFIGURATION } else { 0 }]),
            (TO_DEVICE, SET_CONFIGURATION) if value <= u16::from(CONFIGURATION) => {
                self.configure(value != 0);
                Ok(Vec::new())
            }
            _ if !self.settings.configured => Err(Refused),
            (FROM_INTERFACE, GET_STATUS) if index == 0 => Ok(vec![0, 0]),
            (FROM_INTERFACE, GET_INTERFACE) if index == 0 => Ok(vec![0]),
            (TO_INTERFACE, SET_INTERFACE) if (index, value) == (0, 0) => {
                (self.settings.toggle, self.settings.halted) = (false, false);
                Ok(Vec::new())
            }
            (FROM_ENDPOINT, GET_STATUS) if is_endpoint(index) => {
                Ok(vec![u8::from(self.settings.halted && index != 0), 0])
            }
            (TO_ENDPOINT, CLEAR_FEATURE | SET_FEATURE) if value == ENDPOINT_HALT && is_endpoint(index) => {
                if index != 0 {
                    (self.settings.toggle, self.settings.halted) = (false, request == SET_FEATURE);
                }
                Ok(Vec::new())
            }
            (CLASS_FROM_INTERFACE | CLASS_TO_INTERFACE, _) if index == 0 => self.class_request(setup, data),
            _ => Err(Refused),
        }
    }

    fn descriptor(&self, request_type: u8, value: u16) -> Result<Vec<u8>, Refused> {
        let of_interface = matches!((value >> 8) as u8, kind::HID | kind::REPORT);
        if of_interface != (request_type == FROM_INTERFACE) {
            return Err(Refused);
        }
        S::DESCRIPTION.get(value).ok_or(Refused)
    }

    fn class_request(&mut self, setup: &Setup, data: &[u8]) -> Result<Vec<u8>, Refused> {
        let Setup { request_type, request, value, .. } = *setup;
        let boot = S::DESCRIPTION.subclass != 0;
        match (request_type, request) {
            (CLASS_FROM_INTERFACE, GET_REPORT) if value == INPUT_REPORT => Ok(self.source.current()),
            (CLASS_FROM_INTERFACE, GET_IDLE) if value == 0 => Ok(vec![self.settings.idle]),
            (CLASS_FROM_INTERFACE, GET_PROTOCOL) if boot => Ok(vec![self.settings.protocol]),
            (CLASS_TO_INTERFACE, SET_REPORT) if value == OUTPUT_REPORT => {
                self.source.output(data)?;
                Ok(Vec::new())
            }
            (CLASS_TO_INTERFACE, SET_IDLE) if value & 0xFF == 0 => {
                self.settings.idle = (value >> 8) as u8;
                Ok(Vec::new())
            }
            (CLASS_TO_INTERFACE, SET_PROTOCOL) if boot && value <= 1 => {
                self.settings.protocol = value as u8;
                Ok(Vec::new())
            }
            _ => Err(Refused),
        }
    }

    fn configure(&mut self, configured: bool) {
        self.settings = Settings::new(configured, S::IDLE);
        self.source.clear();
    }

    fn bus_reset(&mut self) {
        (self.address, self.remote_wakeup) = (0, false);
        self.pipe = ControlPipe::default();
        self.configure(false);
    }
}

/// Whether there is an endpoint that a request's wIndex names.
fn is_endpoint(index: u16) -> bool {
    index & 0x7F == 0 || index == u16::from(INTERRUPT_IN)
}

impl<S: Source> Hid<S> {
    /// A device that is not plugged in.
    pub(crate) fn unplugged() -> Self {
        Hid { wake: OnceLock::new(), state: Mutex::new(State::new(S::default())) }
    }

    /// Whether the guest listens: it has configured the device and has asked it for reports since.
    pub fn in_use(&self) -> bool {
        self.state.lock().settings.polled
    }

    /// Looks at the source.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.state.lock().source)
    }

    /// Something happens to the source: `change` returns whether there is a report of it. A guest that has not
    /// configured the device is told nothing of it later.
    pub(crate) fn change(&self, change: impl FnOnce(&mut S) -> bool) {
        let mut state = self.state.lock();
        let changed = change(&mut state.source);
        if !state.settings.configured {
            state.source.clear();
            return;
        }
        drop(state);
        if changed && let Some(wake) = self.wake.get() {
            wake();
        }
    }
}

impl<S: Source> UsbDevice for Hid<S> {
    fn name(&self) -> &str {
        S::NAME
    }

    fn speed(&self) -> Speed {
        S::SPEED
    }

    fn connect(&self, wake: Wake) {
        // A second port would be a mistake of the machine's maker: the first is woken.
        let _ = self.wake.set(wake);
    }

    fn transact(&self, token: Token, transaction: Transaction, frame: u64) -> Response {
        let mut state = self.state.lock();
        if token.address != state.address {
            return Response::Silence;
        }
        state.transact(token.endpoint, transaction, frame)
    }

    fn has_report(&self) -> bool {
        let state = self.state.lock();
        state.settings.configured && state.source.has_next()
    }

    fn next_report(&self) -> Option<u64> {
        self.state.lock().settings.repeats()
    }

    fn bus_reset(&self) {
        self.state.lock().bus_reset();
    }

    fn may_wake_host(&self) -> bool {
        self.state.lock().remote_wakeup
    }

    fn reset(&self) {
        *self.state.lock() = State::new(S::default());
    }

    fn save(&self, writer: &mut StateWriter) {
        let state = self.state.lock();
        let settings = &state.settings;
        for byte in [state.address, settings.protocol, settings.idle] {
            writer.u8(byte);
        }
        for flag in [state.remote_wakeup, settings.configured, settings.polled, settings.halted, settings.toggle] {
            writer.u8(flag.into());
        }
        writer.u64(settings.reported);
        state.pipe.save(writer);
        state.source.save(writer);
    }

    fn load(&self, reader: &mut StateReader) -> Result<(), String> {
        let [address, protocol, idle] = [reader.u8()?, reader.u8()?, reader.u8()?];
        let remote_wakeup = reader.bool()?;
        let [configured, polled] = [reader.bool()?, reader.bool()?];
        let [halted, toggle] = [reader.bool()?, reader.bool()?];
        let reported = reader.u64()?;
        if address > 127 || protocol > 1 {
            return Err(reader.invalid(&format!("address {address}, protocol {protocol} of {}", S::NAME)));
        }
        let settings = Settings { configured, polled, halted, toggle, protocol, idle, reported };
        let pipe = ControlPipe::load(reader)?;
        let source = S::load(reader)?;
        *self.state.lock() = State { address, pipe, source, remote_wakeup, settings };
        Ok(())
    }
}
