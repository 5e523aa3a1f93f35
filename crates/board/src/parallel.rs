use crate::{AccessSizes, Action, Device, IrqLine, StateReader, StateWriter, Terminal, TerminalDevice};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Ports of a parallel port without EPP.
pub const PARALLEL_PORTS: u16 = 3;

mod register {
    pub const DATA: u64 = 0;
    pub const STATUS: u64 = 1;
    pub const CONTROL: u64 = 2;
}

const STATUS_NOT_BUSY: u8 = 1 << 7;
/// A printer that is there: nAck high, paper, selected, no error. The lowest three bits do not exist and read 1: a driver takes
/// a timeout bit that cannot be cleared for a port without EPP.
const STATUS_PRINTER: u8 = 1 << 6 | 1 << 4 | 1 << 3 | 7;

const CONTROL_STROBE: u8 = 1 << 0;
const CONTROL_NOT_INIT: u8 = 1 << 2;
const CONTROL_SELECT: u8 = 1 << 3;
const CONTROL_INTERRUPT: u8 = 1 << 4;
/// The bits there are; the others read 1. Bit 5, the direction, is not among them: the data lines are outputs.
const CONTROL_BITS: u8 = 0x1F;
const CONTROL_AFTER_RESET: u8 = CONTROL_NOT_INIT | CONTROL_SELECT;
const STATE_VERSION: u32 = 1;

/// A parallel port of the PC in compatibility mode (SPP) with a printer at its other end, whose paper is a [`Terminal`].
/// IEEE 1284 (compatibility mode); IBM PC/AT Technical Reference, "Parallel Printer Adapter". There is no EPP and no ECP: what is
/// behind the three registers is nobody's.
///
/// The printer takes a byte when it is strobed and acknowledges it when the strobe ends. While the terminal is full it is busy.
///
/// Lock order: `state`, then the terminal's and the interrupt line's.
pub struct Parallel {
    name: String,
    line: IrqLine,
    terminal: Arc<Terminal>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    data: u8,
    control: u8,
    /// A byte that the terminal has not taken yet.
    waiting: Option<u8>,
    /// A byte was taken and not acknowledged yet.
    unacknowledged: bool,
}

impl State {
    const POWER_ON: Self = State { data: 0, control: CONTROL_AFTER_RESET, waiting: None, unacknowledged: false };
}

impl Parallel {
    /// A port between the guest's `line` and a terminal, which gets what is printed. Input of the terminal goes nowhere.
    pub fn new(name: &str, line: IrqLine, terminal: Arc<Terminal>) -> Arc<Self> {
        let port = Arc::new(Parallel { name: name.to_owned(), line, terminal, state: Mutex::new(State::POWER_ON) });
        let device: Weak<Self> = Arc::downgrade(&port);
        port.terminal.connect(device);
        port
    }

    /// Hands the byte that waits to the terminal, and acknowledges it when the strobe is over.
    fn print(&self, state: &mut State) {
        if let Some(byte) = state.waiting
            && self.terminal.output(&[byte]) == 1
        {
            state.waiting = None;
            state.unacknowledged = true;
        }
        if state.unacknowledged && state.control & CONTROL_STROBE == 0 {
            state.unacknowledged = false;
            // The end of nAck is what interrupts.
            if state.control & CONTROL_INTERRUPT != 0 {
                self.line.pulse();
            }
        }
    }

    fn write_control(&self, state: &mut State, value: u8) {
        let strobed = value & !state.control & CONTROL_STROBE != 0;
        state.control = value & CONTROL_BITS;
        if value & CONTROL_NOT_INIT == 0 {
            (state.waiting, state.unacknowledged) = (None, false);
        } else if strobed && value & CONTROL_SELECT != 0 && state.waiting.is_none() {
            state.waiting = Some(state.data);
        }
        self.print(state);
    }
}

impl Device for Parallel {
    fn name(&self) -> &str {
        &self.name
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock();
        data.fill(match offset {
            register::DATA => state.data,
            register::STATUS => {
                let busy = state.waiting.is_some() || state.unacknowledged;
                STATUS_PRINTER | if busy { 0 } else { STATUS_NOT_BUSY }
            }
            register::CONTROL => state.control | !CONTROL_BITS,
            _ => 0xFF,
        });
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let &[value] = data else { return Action::None };
        let mut state = self.state.lock();
        match offset {
            register::DATA => state.data = value,
            register::CONTROL => self.write_control(&mut state, value),
            _ => {}
        }
        Action::None
    }

    fn reset(&self) {
        *self.state.lock() = State::POWER_ON;
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut writer = StateWriter::new(STATE_VERSION);
        writer.u8(state.data);
        writer.u8(state.control);
        writer.u8(state.unacknowledged.into());
        writer.blob(state.waiting.as_slice());
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, saved, STATE_VERSION)?;
        let (data, control) = (reader.u8()?, reader.u8()? & CONTROL_BITS);
        let unacknowledged = reader.bool()?;
        let waiting = match *reader.blob()? {
            [] => None,
            [byte] => Some(byte),
            _ => return Err(reader.invalid("more than one byte waits to be printed")),
        };
        reader.finish()?;
        let mut state = self.state.lock();
        *state = State { data, control, waiting, unacknowledged };
        self.print(&mut state);
        Ok(())
    }
}

impl TerminalDevice for Parallel {
    fn input_ready(&self) {}

    fn output_ready(&self) {
        self.print(&mut self.state.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IrqLines;
    use hv::{Interrupts, Msi};
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    #[derive(Default)]
    struct Edges(AtomicU32);

    impl Interrupts for Edges {
        fn set_line(&self, _: u32, high: bool) {
            self.0.fetch_add(high.into(), Ordering::SeqCst);
        }
        fn signal_msi(&self, _: Msi) {}
    }

    struct Bench {
        port: Arc<Parallel>,
        terminal: Arc<Terminal>,
        edges: Arc<Edges>,
    }

    impl Bench {
        fn new() -> Self {
            let edges = Arc::new(Edges::default());
            let terminal = Terminal::new(4096);
            let line = IrqLines::new(edges.clone()).line(7).unwrap();
            Bench { port: Parallel::new("LPT1", line, terminal.clone()), terminal, edges }
        }

        fn read(&self, offset: u64) -> u8 {
            let mut data = [0];
            self.port.read(offset, &mut data);
            data[0]
        }

        fn write(&self, offset: u64, value: u8) {
            assert_eq!(self.port.write(offset, &[value]), Action::None);
        }

        /// As Linux's lp and a BIOS do.
        fn print(&self, byte: u8, control: u8) {
            self.write(register::DATA, byte);
            self.write(register::CONTROL, control | CONTROL_STROBE);
            self.write(register::CONTROL, control);
        }

        fn printed(&self) -> Vec<u8> {
            self.terminal.read(0, Some(Duration::ZERO)).bytes
        }

        fn interrupts(&self) -> u32 {
            self.edges.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn strobed_bytes_are_printed_and_acknowledged() {
        let bench = Bench::new();
        assert_eq!(bench.read(register::STATUS), 0xDF);
        bench.print(b'a', 0x0C);
        assert_eq!((bench.printed(), bench.interrupts()), (b"a".to_vec(), 0));
        bench.write(register::DATA, b'b');
        bench.write(register::CONTROL, 0x1D);
        assert_eq!((bench.read(register::STATUS), bench.interrupts()), (0x5F, 0), "busy while strobed");
        // Nothing new: the strobe goes on.
        bench.write(register::CONTROL, 0x1D);
        bench.write(register::CONTROL, 0x1C);
        assert_eq!((bench.read(register::STATUS), bench.interrupts()), (0xDF, 1));
        assert_eq!(bench.printed(), b"ab");
        // A printer that is not selected, and one that is being reset.
        bench.print(b'c', 0x14);
        bench.print(b'd', 0x18);
        assert_eq!((bench.printed(), bench.interrupts()), (b"ab".to_vec(), 1));
    }

    #[test]
    fn a_driver_finds_a_port_without_epp_and_with_one_direction() {
        let bench = Bench::new();
        for value in [0x0C, 0x0E] {
            bench.write(register::CONTROL, value);
            assert_eq!(bench.read(register::CONTROL) & 0x0F, value);
        }
        // The timeout of EPP cannot be cleared.
        let status = bench.read(register::STATUS);
        bench.write(register::STATUS, status | 1);
        bench.write(register::STATUS, status & !1);
        assert_eq!(bench.read(register::STATUS) & 1, 1);
        // The data lines stay outputs.
        bench.write(register::CONTROL, 0x2C);
        for value in [0x55, 0xAA] {
            bench.write(register::DATA, value);
            assert_eq!(bench.read(register::DATA), value);
        }
        assert_eq!((bench.read(register::CONTROL), bench.read(3)), (0xEC, 0xFF));
    }

    #[test]
    fn a_full_terminal_keeps_the_printer_busy() {
        let bench = Bench::new();
        let (read, write) = std::io::pipe().unwrap();
        bench.terminal.copy_to(write.into()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while bench.read(register::STATUS) & STATUS_NOT_BUSY != 0 && Instant::now() < deadline {
            bench.print(b'x', 0x0C);
        }
        assert_eq!(bench.read(register::STATUS) & STATUS_NOT_BUSY, 0);
        // What is strobed now is lost; the interrupt comes when the waiting byte is taken.
        bench.print(b'y', 0x1C);
        assert_eq!(bench.interrupts(), 0);
        let saved = bench.port.save();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut { read }, &mut all).map(|_| all)
        });
        while bench.interrupts() == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((bench.interrupts(), bench.read(register::STATUS)), (1, 0xDF));
        bench.terminal.close();
        assert!(reader.join().unwrap().unwrap().iter().all(|&byte| byte == b'x'));
        let other = Bench::new();
        other.port.load(&saved).unwrap();
        assert_eq!((other.printed(), other.interrupts()), (b"x".to_vec(), 1));
        assert!(other.port.load(&saved[..saved.len() - 1]).is_err());
        assert!(other.port.load(&[&saved[..7], &[2, 0, 0, 0, 1, 2]].concat()).is_err());
    }

    #[test]
    fn a_reset_in_the_middle_forgets_the_byte() {
        let bench = Bench::new();
        bench.write(register::DATA, b'a');
        bench.write(register::CONTROL, 0x1D);
        bench.port.reset();
        bench.write(register::CONTROL, 0x1C);
        assert_eq!((bench.interrupts(), bench.read(register::DATA), bench.read(register::STATUS)), (0, 0, 0xDF));
    }

    proptest! {
        #[test]
        fn no_access_panics_and_a_byte_is_printed_once(
            steps in prop::collection::vec((0u64..5, any::<u8>()), 0..200),
            state in prop::collection::vec(0u8..3, 0..10),
        ) {
            let bench = Bench::new();
            let _ = bench.port.load(&[&1u32.to_le_bytes(), &state[..]].concat());
            let before = bench.printed().len();
            for &(offset, value) in &steps {
                bench.write(offset, value);
                bench.read(offset);
            }
            prop_assert!(bench.printed().len() - before <= steps.len());
            prop_assert!(bench.port.load(&bench.port.save()).is_ok());
        }
    }
}
