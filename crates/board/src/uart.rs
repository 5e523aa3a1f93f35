use crate::{AccessSizes, Action, Device, IrqLine, StateReader, StateWriter, Terminal, TerminalDevice};
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// Bytes in each of the two FIFOs.
const FIFO: usize = 16;

/// Offsets of the registers. National Semiconductor PC16550D, section 8.
mod register {
    /// RBR, THR; with DLAB the divisor's low byte.
    pub const DATA: u64 = 0;
    /// IER; with DLAB the divisor's high byte.
    pub const IER: u64 = 1;
    /// IIR when read, FCR when written.
    pub const IIR_FCR: u64 = 2;
    pub const LCR: u64 = 3;
    pub const MCR: u64 = 4;
    pub const LSR: u64 = 5;
    pub const MSR: u64 = 6;
    pub const SCR: u64 = 7;
}

const IER_RECEIVED: u8 = 1 << 0;
const IER_THR_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MODEM_STATUS: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0C;
const IIR_FIFOS: u8 = 0xC0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const FCR_CLEAR_TRANSMITTER: u8 = 1 << 2;

const LCR_DLAB: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_THR_EMPTY: u8 = 1 << 5;
const LSR_IDLE: u8 = 1 << 6;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// A 16550A serial port. National Semiconductor PC16550D data sheet.
///
/// The line has no speed: a byte written is at the far end at once, unless the far end is full; then it waits in the
/// transmitter and THRE stays clear. Bytes received below the trigger level raise the character timeout at once.
/// Parity, framing and break cannot occur.
///
/// Lock order: `state`, then the terminal's and the interrupt controller's. The line is set under `state`, so that
/// it follows the state in order.
pub struct Uart {
    name: String,
    line: IrqLine,
    terminal: Arc<Terminal>,
    state: Mutex<State>,
}

struct State {
    divisor: [u8; 2],
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    overrun: bool,
    /// Bits 0..=3 of MSR.
    modem_changes: u8,
    /// THRE became set and nobody has looked at IIR since.
    thr_empty_pending: bool,
    received: VecDeque<u8>,
    transmitted: VecDeque<u8>,
    /// The level of the interrupt line.
    line: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            divisor: [0x0C, 0],
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            overrun: false,
            modem_changes: 0,
            thr_empty_pending: false,
            received: VecDeque::new(),
            transmitted: VecDeque::new(),
            line: false,
        }
    }
}

impl State {
    fn fifos(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    /// Bytes in the receiver FIFO from which on the received data interrupt is raised.
    fn trigger(&self) -> usize {
        if self.fifos() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    /// The highest-priority interrupt. Data sheet, table 4.
    fn interrupt(&self) -> u8 {
        if self.ier & IER_LINE_STATUS != 0 && self.overrun {
            IIR_LINE_STATUS
        } else if self.ier & IER_RECEIVED != 0 && self.received.len() >= self.trigger() {
            IIR_RECEIVED
        } else if self.ier & IER_RECEIVED != 0 && !self.received.is_empty() {
            IIR_TIMEOUT
        } else if self.ier & IER_THR_EMPTY != 0 && self.thr_empty_pending {
            IIR_THR_EMPTY
        } else if self.ier & IER_MODEM_STATUS != 0 && self.modem_changes != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Bits 4..=7 of MSR: a terminal that is always there, or the looped outputs.
    fn modem(&self) -> u8 {
        if !self.looped() {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        let wires = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)];
        wires.iter().filter(|wire| self.mcr & wire.0 != 0).map(|wire| wire.1).sum()
    }

    fn set_mcr(&mut self, value: u8) {
        let before = self.modem();
        self.mcr = value & 0x1F;
        let after = self.modem();
        let changed = (before ^ after) & !MSR_RI;
        // Of the ring indicator only the trailing edge counts.
        self.modem_changes |= (changed | (before & !after & MSR_RI)) >> 4;
    }

    fn set_fcr(&mut self, value: u8) {
        let switched = (self.fcr ^ value) & FCR_ENABLE != 0;
        if switched || value & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
            self.overrun = false;
        }
        if (switched || value & FCR_CLEAR_TRANSMITTER != 0) && !self.transmitted.is_empty() {
            self.transmitted.clear();
            self.thr_empty_pending = true;
        }
        // The other bits count only together with the enable bit.
        self.fcr = if value & FCR_ENABLE != 0 { value & 0xC9 } else { 0 };
    }

    fn receive(&mut self, byte: u8) {
        if self.received.len() < self.depth() {
            self.received.push_back(byte);
        } else {
            self.overrun = true;
        }
    }
}

impl Uart {
    /// A serial port between the guest's `line` and a terminal.
    pub fn new(name: &str, line: IrqLine, terminal: Arc<Terminal>) -> Arc<Self> {
        let uart = Arc::new(Uart { name: name.to_owned(), line, terminal, state: Mutex::default() });
        let device: Weak<Self> = Arc::downgrade(&uart);
        uart.terminal.connect(device);
        uart
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Moves waiting input into the receiver as far as there is room.
    fn fill(&self, state: &mut State) {
        if state.looped() {
            return;
        }
        let mut data = [0; FIFO];
        let room = state.depth().saturating_sub(state.received.len());
        let count = self.terminal.take_input(&mut data[..room]);
        state.received.extend(&data[..count]);
    }

    fn transmit(&self, state: &mut State, byte: u8) {
        state.thr_empty_pending = false;
        if state.looped() {
            state.receive(byte);
            state.thr_empty_pending = true;
            return;
        }
        if state.transmitted.len() < state.depth() {
            state.transmitted.push_back(byte);
        }
        self.drain(state);
    }

    /// Hands the transmitter's bytes to the terminal as far as it takes them.
    fn drain(&self, state: &mut State) {
        if state.transmitted.is_empty() {
            return;
        }
        let taken = self.terminal.output(state.transmitted.make_contiguous());
        state.transmitted.drain(..taken);
        state.thr_empty_pending |= state.transmitted.is_empty();
    }

    fn update(&self, state: &mut State) {
        // The PC wires the interrupt through OUT2, which loopback holds inactive.
        let gate = state.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        let line = gate && state.interrupt() != IIR_NONE;
        if line != state.line {
            state.line = line;
            self.line.set(line);
        }
    }

    fn read_register(&self, state: &mut State, offset: u64) -> u8 {
        match offset {
            register::DATA | register::IER if state.dlab() => state.divisor[offset as usize],
            register::DATA => {
                let byte = state.received.pop_front().unwrap_or(0);
                self.fill(state);
                byte
            }
            register::IER => state.ier,
            register::IIR_FCR => {
                let interrupt = state.interrupt();
                if interrupt == IIR_THR_EMPTY {
                    state.thr_empty_pending = false;
                }
                interrupt | if state.fifos() { IIR_FIFOS } else { 0 }
            }
            register::LCR => state.lcr,
            register::MCR => state.mcr,
            register::LSR => {
                let mut value = if state.received.is_empty() { 0 } else { LSR_DATA };
                if std::mem::take(&mut state.overrun) {
                    value |= LSR_OVERRUN;
                }
                if state.transmitted.is_empty() {
                    value |= LSR_THR_EMPTY | LSR_IDLE;
                }
                value
            }
            register::MSR => state.modem() | std::mem::take(&mut state.modem_changes),
            register::SCR => state.scr,
            _ => 0xFF,
        }
    }

    fn write_register(&self, state: &mut State, offset: u64, value: u8) {
        match offset {
            register::DATA | register::IER if state.dlab() => state.divisor[offset as usize] = value,
            register::DATA => self.transmit(state, value),
            register::IER => {
                let enabled = value & !state.ier & IER_THR_EMPTY != 0;
                state.ier = value & 0x0F;
                state.thr_empty_pending |= enabled && state.transmitted.is_empty();
            }
            register::IIR_FCR => {
                state.set_fcr(value);
                self.fill(state);
            }
            register::LCR => state.lcr = value,
            register::MCR => {
                state.set_mcr(value);
                self.fill(state);
            }
            register::SCR => state.scr = value,
            _ => {}
        }
    }
}

impl Device for Uart {
    fn name(&self) -> &str {
        &self.name
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state();
        data[0] = self.read_register(&mut state, offset);
        self.update(&mut state);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let mut state = self.state();
        self.write_register(&mut state, offset, data[0]);
        self.update(&mut state);
        Action::None
    }

    fn reset(&self) {
        let mut state = self.state();
        *state = State { line: state.line, ..State::default() };
        self.update(&mut state);
    }

    fn save(&self) -> Vec<u8> {
        let state = self.state();
        let mut writer = StateWriter::new(1);
        let bytes = [state.divisor[0], state.divisor[1], state.ier, state.fcr, state.lcr, state.mcr, state.scr];
        bytes.into_iter().for_each(|byte| writer.u8(byte));
        writer.u8(u8::from(state.overrun));
        writer.u8(state.modem_changes);
        writer.u8(u8::from(state.thr_empty_pending));
        writer.blob(&Vec::from_iter(state.received.iter().copied()));
        writer.blob(&Vec::from_iter(state.transmitted.iter().copied()));
        writer.finish()
    }

    fn load(&self, saved: &[u8]) -> Result<(), String> {
        let mut reader = StateReader::new(&self.name, saved, 1)?;
        let mut loaded = State {
            divisor: [reader.u8()?, reader.u8()?],
            ier: reader.u8()? & 0x0F,
            fcr: reader.u8()? & 0xC9,
            lcr: reader.u8()?,
            mcr: reader.u8()? & 0x1F,
            scr: reader.u8()?,
            overrun: reader.bool()?,
            modem_changes: reader.u8()? & 0x0F,
            thr_empty_pending: reader.bool()?,
            ..State::default()
        };
        for fifo in [&mut loaded.received, &mut loaded.transmitted] {
            let bytes = reader.blob()?;
            if bytes.len() > FIFO {
                return Err(reader.invalid(&format!("{} bytes in a FIFO of {FIFO}", bytes.len())));
            }
            fifo.extend(bytes);
        }
        reader.finish()?;
        let mut state = self.state();
        *state = State { line: state.line, ..loaded };
        self.drain(&mut state);
        self.fill(&mut state);
        self.update(&mut state);
        Ok(())
    }
}

impl TerminalDevice for Uart {
    fn input_ready(&self) {
        let mut state = self.state();
        self.fill(&mut state);
        self.update(&mut state);
    }

    fn output_ready(&self) {
        let mut state = self.state();
        self.drain(&mut state);
        self.update(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IrqLines;
    use hv::{Interrupts, Msi};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[derive(Default)]
    struct Pin(AtomicBool);
    impl Interrupts for Pin {
        fn set_line(&self, _: u32, high: bool) {
            self.0.store(high, Ordering::SeqCst);
        }
        fn signal_msi(&self, _: Msi) {}
    }

    struct Bench {
        uart: Arc<Uart>,
        terminal: Arc<Terminal>,
        pin: Arc<Pin>,
    }

    impl Bench {
        fn new() -> Self {
            let pin = Arc::new(Pin::default());
            let terminal = Terminal::new(4096);
            let line = IrqLines::new(pin.clone()).line(4).unwrap();
            Bench { uart: Uart::new("COM1", line, terminal.clone()), terminal, pin }
        }
        fn read(&self, offset: u64) -> u8 {
            let mut data = [0];
            self.uart.read(offset, &mut data);
            data[0]
        }
        fn write(&self, offset: u64, value: u8) {
            assert_eq!(self.uart.write(offset, &[value]), Action::None);
        }
        fn send(&self, data: &[u8]) {
            assert_eq!(self.terminal.send(data, Some(Duration::ZERO)), data.len());
        }
        fn interrupt(&self) -> bool {
            self.pin.0.load(Ordering::SeqCst)
        }
        fn printed(&self) -> Vec<u8> {
            self.terminal.read(0, Some(Duration::ZERO)).bytes
        }
    }

    #[test]
    fn output_and_the_transmitter_interrupt() {
        let bench = Bench::new();
        assert_eq!(bench.read(register::LSR), LSR_THR_EMPTY | LSR_IDLE);
        bench.write(register::IER, IER_THR_EMPTY);
        assert!(!bench.interrupt(), "OUT2 gates the interrupt");
        bench.write(register::MCR, MCR_OUT2);
        assert!(bench.interrupt());
        assert_eq!(bench.read(register::IIR_FCR), IIR_THR_EMPTY);
        assert!(!bench.interrupt(), "reading IIR acknowledges");
        assert_eq!(bench.read(register::IIR_FCR), IIR_NONE);
        bench.write(register::DATA, b'A');
        assert!(bench.interrupt());
        assert_eq!(bench.printed(), b"A");
    }

    #[test]
    fn input_with_fifos_trigger_and_timeout() {
        let bench = Bench::new();
        bench.write(register::MCR, MCR_OUT2);
        bench.write(register::IIR_FCR, FCR_ENABLE | 0x80);
        bench.write(register::IER, IER_RECEIVED);
        bench.send(b"abc");
        assert!(bench.interrupt());
        assert_eq!(bench.read(register::IIR_FCR), IIR_TIMEOUT | IIR_FIFOS);
        bench.send(b"defghijklmnopqrstuvwxyz");
        assert_eq!(bench.read(register::IIR_FCR), IIR_RECEIVED | IIR_FIFOS);
        let mut all = Vec::new();
        while bench.read(register::LSR) & LSR_DATA != 0 {
            all.push(bench.read(register::DATA));
        }
        assert_eq!(all, b"abcdefghijklmnopqrstuvwxyz");
        assert!(!bench.interrupt());
    }

    #[test]
    fn loopback_receives_overruns_and_mirrors_the_modem_lines() {
        let bench = Bench::new();
        bench.write(register::IER, IER_LINE_STATUS | IER_MODEM_STATUS);
        bench.write(register::MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS);
        assert_eq!(bench.read(register::MSR), MSR_CTS | MSR_DCD | 0x02, "DSR dropped");
        assert_eq!(bench.read(register::MSR), MSR_CTS | MSR_DCD);
        bench.send(b"outside");
        bench.write(register::DATA, 0x55);
        bench.write(register::DATA, 0x66);
        assert_eq!(bench.read(register::IIR_FCR), IIR_LINE_STATUS);
        assert!(!bench.interrupt(), "loopback holds OUT2 inactive");
        assert_eq!(bench.read(register::LSR) & (LSR_OVERRUN | LSR_DATA), LSR_OVERRUN | LSR_DATA);
        assert_eq!(bench.read(register::LSR) & LSR_OVERRUN, 0);
        assert_eq!(bench.read(register::DATA), 0x55);
        assert!(bench.printed().is_empty());
        bench.write(register::MCR, 0);
        assert_eq!(bench.read(register::DATA), b'o');
    }

    #[test]
    fn divisor_scratch_and_fifo_detection() {
        let bench = Bench::new();
        bench.write(register::LCR, LCR_DLAB | 3);
        bench.write(register::DATA, 0x34);
        bench.write(register::IER, 0x12);
        assert_eq!((bench.read(register::DATA), bench.read(register::IER)), (0x34, 0x12));
        bench.write(register::LCR, 3);
        assert_eq!(bench.read(register::IER), 0);
        bench.write(register::SCR, 0xA5);
        assert_eq!(bench.read(register::SCR), 0xA5);
        bench.write(register::IER, 0xFF);
        assert_eq!(bench.read(register::IER), 0x0F);
        assert_eq!(bench.read(register::IIR_FCR) & IIR_FIFOS, 0);
        bench.write(register::IIR_FCR, FCR_ENABLE);
        assert_eq!(bench.read(register::IIR_FCR) & IIR_FIFOS, IIR_FIFOS);
    }

    #[test]
    fn four_ports_share_two_interrupts() {
        use crate::Buses;
        use hv::Bus;
        struct Levels(parking_lot::Mutex<[bool; 24]>);
        impl Interrupts for Levels {
            fn set_line(&self, gsi: u32, high: bool) {
                self.0.lock()[gsi as usize] = high;
            }
            fn signal_msi(&self, _: Msi) {}
        }
        let levels = Arc::new(Levels(parking_lot::Mutex::new([false; 24])));
        let (lines, buses) = (IrqLines::new(levels.clone()), Buses::new());
        let ports = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)];
        let terminals = ports.map(|(port, irq)| {
            let terminal = Terminal::new(4096);
            let uart = Uart::new("COM", lines.line(irq).unwrap(), terminal.clone());
            buses.insert_port(port..=port + 7, uart).unwrap();
            buses.pio_write(port + register::MCR as u16, 1, MCR_OUT2.into());
            buses.pio_write(port + register::IER as u16, 1, IER_RECEIVED.into());
            terminal
        });
        let high = || [4, 3].map(|irq: usize| levels.0.lock()[irq]);
        let send = |index: usize, byte| assert_eq!(terminals[index].send(&[byte], Some(Duration::ZERO)), 1);
        let interrupt = |index: usize| buses.pio_read(ports[index].0 + register::IIR_FCR as u16, 1) as u8;
        let receive = |index: usize| buses.pio_read(ports[index].0, 1) as u8;
        send(2, b'c');
        assert_eq!(high(), [true, false]);
        send(0, b'a');
        send(1, b'b');
        assert_eq!((high(), [0, 1, 2, 3].map(interrupt)), ([true; 2], [4, 4, 4, 1]));
        // The line falls when the last of its ports is served, in whatever order.
        assert_eq!((receive(2), high()), (b'c', [true; 2]));
        assert_eq!((receive(0), high()), (b'a', [false, true]));
        send(3, b'd');
        assert_eq!((receive(1), high(), interrupt(3)), (b'b', [false, true], 4));
        assert_eq!((receive(3), high()), (b'd', [false; 2]));
    }

    #[test]
    fn a_full_far_end_holds_the_transmitter() {
        let bench = Bench::new();
        let (read, write) = std::io::pipe().unwrap();
        bench.terminal.copy_to(write.into()).unwrap();
        bench.write(register::MCR, MCR_OUT2);
        bench.write(register::IIR_FCR, FCR_ENABLE);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while bench.read(register::LSR) & LSR_THR_EMPTY != 0 && std::time::Instant::now() < deadline {
            bench.write(register::DATA, b'x');
        }
        assert_eq!(bench.read(register::LSR) & (LSR_THR_EMPTY | LSR_IDLE), 0);
        bench.write(register::IER, IER_THR_EMPTY);
        assert!(!bench.interrupt());
        let reader = std::thread::spawn(move || std::io::copy(&mut { read }, &mut std::io::sink()));
        while !bench.interrupt() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(bench.interrupt(), "the transmitter empties when the far end takes bytes again");
        bench.terminal.close();
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn a_saved_state_continues_and_a_hostile_one_is_refused() {
        let bench = Bench::new();
        bench.write(register::MCR, MCR_OUT2);
        bench.write(register::IIR_FCR, FCR_ENABLE);
        bench.write(register::IER, IER_RECEIVED);
        bench.send(b"xy");
        let saved = bench.uart.save();
        let other = Bench::new();
        other.uart.load(&saved).unwrap();
        assert!(other.interrupt());
        assert_eq!((other.read(register::DATA), other.read(register::DATA)), (b'x', b'y'));
        assert!(other.uart.load(&saved[..saved.len() - 1]).is_err());
        let mut long = saved[..14].to_vec();
        long.extend(17u32.to_le_bytes());
        long.extend([0; 17]);
        long.extend(0u32.to_le_bytes());
        assert!(other.uart.load(&long).unwrap_err().contains("FIFO"));
    }
}
