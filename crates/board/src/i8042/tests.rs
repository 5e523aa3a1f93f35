use super::controller::{STATUS_MOUSE_FULL, STATUS_OUTPUT_FULL, STATUS_SYSTEM};
use super::*;
use crate::line::IrqLines;
use hv::{Interrupts, Msi};
use proptest::prelude::*;

const A: u8 = 0x1E;
const UP_ARROW: u8 = 0xC8;
/// Longer than the keyboard's bytes are apart.
const PAUSE: u64 = 2 * MILLISECOND;

/// A controller whose clock is ours.
struct Guest {
    controller: Controller,
    now: u64,
}

impl Guest {
    fn new() -> Self {
        Guest { controller: Controller::new(), now: 0 }
    }

    /// As whoever uses the controller does: before and after it is brought to now.
    fn step<R>(&mut self, using: impl FnOnce(&mut Controller, u64) -> R) -> R {
        self.controller.advance(self.now);
        let result = using(&mut self.controller, self.now);
        self.controller.advance(self.now);
        assert!(self.controller.next_event().is_none_or(|at| at > self.now), "a timer without an end");
        result
    }

    fn status(&mut self) -> u8 {
        self.step(|controller, _| controller.status())
    }

    fn read(&mut self) -> u8 {
        self.step(|controller, now| controller.read_data(now))
    }

    /// All that comes without new events, with the mouse's bytes marked by 0x100.
    fn drain(&mut self) -> Vec<u16> {
        let mut bytes = Vec::new();
        while self.status() & STATUS_OUTPUT_FULL != 0 {
            let mark = if self.status() & STATUS_MOUSE_FULL != 0 { 0x100 } else { 0 };
            bytes.push(mark | u16::from(self.read()));
            self.now += PAUSE;
        }
        bytes
    }

    fn write_command(&mut self, value: u8) {
        assert_eq!(self.step(|controller, _| controller.write_command(value)), Action::None);
    }

    fn write_data(&mut self, value: u8) {
        assert_eq!(self.step(|controller, _| controller.write_data(value)), Action::None);
    }

    fn command(&mut self, value: u8) -> Vec<u16> {
        self.write_command(value);
        self.drain()
    }

    fn data(&mut self, value: u8) -> Vec<u16> {
        self.write_data(value);
        self.drain()
    }

    fn configure(&mut self, config: u8) {
        self.command(0x60);
        self.data(config);
    }

    fn mouse(&mut self, value: u8) -> Vec<u16> {
        self.command(0xD4);
        self.data(value)
    }

    fn key(&mut self, code: u8, down: bool) {
        self.step(|controller, now| controller.keyboard.key(code, down, now));
    }

    fn move_by(&mut self, dx: i32, buttons: u8) {
        self.step(|controller, _| controller.mouse.move_by(dx, 0, 0, buttons));
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new(STATE_VERSION);
        self.controller.save(&mut writer);
        writer.finish()
    }

    fn load(state: &[u8]) -> Result<Self, String> {
        let mut reader = StateReader::new("i8042", state, STATE_VERSION)?;
        let controller = Controller::load(&mut reader)?;
        reader.finish()?;
        Ok(Guest { controller, now: 0 })
    }
}

#[test]
fn the_controller_tests_itself_and_its_interfaces() {
    let mut guest = Guest::new();
    assert_eq!(guest.status() & STATUS_SYSTEM, 0);
    guest.key(A, true);
    guest.write_command(0xAA);
    assert_eq!(guest.read(), 0x55, "what waited is forgotten");
    assert_ne!(guest.status() & STATUS_SYSTEM, 0);
    assert_eq!([guest.command(0xAB), guest.command(0xA9)], [[0], [0]]);
    assert_eq!(guest.command(0xA4), [0xF1]);
    assert_eq!(guest.command(0xC0), [0xB0]);
}

#[test]
fn memory_and_configuration_are_kept() {
    let mut guest = Guest::new();
    assert_eq!(guest.command(0x20), [0x43]);
    guest.configure(0x30);
    guest.command(0x7F);
    guest.data(0x99);
    assert_eq!([guest.command(0x20), guest.command(0x3F), guest.command(0x21)], [[0x30], [0x99], [0]]);
    for (command, config) in [(0xA8, 0x10), (0xAE, 0x00), (0xA7, 0x20), (0xAD, 0x30)] {
        guest.command(command);
        assert_eq!(guest.command(0x20), [config]);
        assert_eq!(guest.command(0xE0), [3 & !(config >> 4)], "the clocks");
    }
}

#[test]
fn a_password_is_swallowed() {
    let mut guest = Guest::new();
    guest.command(0xA5);
    for byte in [0x1C, 0xFF, 0x32, 0] {
        assert_eq!(guest.data(byte), []);
    }
    guest.command(0xA6);
    assert_eq!(guest.data(0xEE), [0xEE], "the keyboard hears again");
}

#[test]
fn the_loop_commands_show_where_a_byte_comes_from() {
    let mut guest = Guest::new();
    guest.command(0xD2);
    assert_eq!(guest.data(0xA5), [0xA5]);
    // What Linux asks an active multiplexer, and an answer that says there is none.
    for byte in [0x5A, 0xF0, 0x56, 0xA4] {
        guest.command(0xD3);
        assert_eq!(guest.data(byte), [0x100 | u16::from(byte)]);
    }
}

#[test]
fn keyboard_and_mouse_are_reset_and_identified() {
    let mut guest = Guest::new();
    assert_eq!(guest.data(0xFF), [0xFA, 0xAA]);
    assert_eq!(guest.data(0xF2), [0xFA, 0xAB, 0x41]);
    guest.data(0xF0);
    assert_eq!(guest.data(0), [0xFA, 0x41], "set 2, translated");
    guest.configure(0);
    assert_eq!(guest.data(0xF2), [0xFA, 0xAB, 0x83]);
    assert_eq!(guest.mouse(0xFF), [0x1FA, 0x1AA, 0x100]);
    assert_eq!(guest.mouse(0xF2), [0x1FA, 0x100]);
    assert_eq!([guest.mouse(0xF3), guest.mouse(40), guest.mouse(0xF4)], [[0x1FA], [0x1FA], [0x1FA]]);
    assert_eq!(guest.mouse(0xE9), [0x1FA, 0x120, 0x102, 0x128]);
}

#[test]
fn keys_are_translated_unless_the_guest_wants_them_raw() {
    let mut guest = Guest::new();
    let keys = |guest: &mut Guest| {
        for (code, down) in [(A, true), (A, false), (UP_ARROW, true), (UP_ARROW, false), (0x41, true), (0x41, false)] {
            guest.key(code, down);
        }
        guest.drain()
    };
    assert_eq!(keys(&mut guest), [0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8, 0x41, 0xC1]);
    guest.configure(0x03);
    let raw = [0x1C, 0xF0, 0x1C, 0xE0, 0x75, 0xE0, 0xF0, 0x75, 0x83, 0xF0, 0x83];
    assert_eq!(keys(&mut guest), raw);
}

#[test]
fn a_byte_of_the_keyboard_can_be_read_again_for_a_while() {
    let mut guest = Guest::new();
    guest.key(A, true);
    guest.key(A, false);
    guest.move_by(1, 0);
    assert_eq!([guest.read(), guest.read(), guest.read()], [0x1E; 3]);
    assert_eq!(guest.status() & STATUS_OUTPUT_FULL, 0);
    assert_eq!(guest.controller.next_event(), Some(MILLISECOND));
    guest.now = MILLISECOND - 1;
    assert_eq!(guest.read(), 0x1E);
    // Reading all the time does not put the next byte off.
    guest.now = MILLISECOND;
    assert_eq!([guest.read(), guest.read()], [0x9E; 2]);
}

#[test]
fn the_controllers_answers_do_not_wait() {
    let mut guest = Guest::new();
    guest.key(A, true);
    guest.key(A, false);
    guest.read();
    guest.write_command(0x20);
    assert_eq!(guest.read(), 0x43);
}

#[test]
fn an_answer_comes_before_scan_codes_that_wait() {
    let mut guest = Guest::new();
    guest.key(A, true);
    guest.key(A, false);
    assert_eq!(guest.data(0xED), [0x1E, 0xFA, 0x9E]);
    assert_eq!(guest.data(0x02), [0xFA]);
    assert_eq!(guest.controller.keyboard.leds(), 2);
}

#[test]
fn a_disabled_interface_holds_its_bytes_back() {
    let mut guest = Guest::new();
    guest.write_data(0xFF);
    assert_eq!(guest.command(0xAD), [0xFA], "what is in the output buffer stays there");
    guest.key(A, true);
    guest.key(A, false);
    guest.now += SECOND;
    assert_eq!(guest.drain(), []);
    assert_eq!(guest.controller.next_event(), None);
    assert_eq!(guest.command(0xAE), [0xAA, 0x1E, 0x9E]);
    guest.mouse(0xF4);
    guest.command(0xA7);
    guest.move_by(1, 0);
    guest.now += SECOND;
    assert_eq!(guest.status() & STATUS_OUTPUT_FULL, 0);
    assert_eq!(guest.command(0xA8), [0x108, 0x101, 0x100]);
}

#[test]
fn keyboard_and_mouse_take_turns() {
    let mut guest = Guest::new();
    guest.mouse(0xF4);
    for n in 0..6 {
        guest.key(A, n % 2 == 0);
        guest.move_by(1, n & 1);
    }
    let bytes: Vec<u16> = guest.drain().into_iter().take(6).collect();
    assert_eq!(bytes, [0x1E, 0x108, 0x9E, 0x101, 0x1E, 0x100]);
}

#[test]
fn interrupts_follow_the_output_buffer() {
    let mut guest = Guest::new();
    let lines = |guest: &Guest| [Source::Keyboard, Source::Mouse].map(|source| guest.controller.interrupt(source));
    guest.key(A, true);
    assert_eq!(lines(&guest), [true, false]);
    guest.read();
    assert_eq!(lines(&guest), [false, false]);
    guest.command(0xD3);
    guest.write_data(0);
    assert_eq!(lines(&guest), [false, true]);
    guest.write_command(0x60);
    guest.write_data(0x41);
    assert_eq!(lines(&guest), [false, false], "not enabled");
}

#[test]
fn the_reset_line_resets_by_pulse_and_by_output_port() {
    let mut guest = Guest::new();
    let mut pulse = |value| guest.step(|controller, _| controller.write_command(value));
    assert_eq!([pulse(0xFE), pulse(0xF0), pulse(0xFF)], [Action::Reset, Action::Reset, Action::None]);
    guest.command(0xD1);
    assert_eq!(guest.step(|controller, _| controller.write_data(0xDE)), Action::Reset);
}

#[test]
fn the_output_port_shows_a20_and_the_output_buffer() {
    let mut guest = Guest::new();
    assert_eq!(guest.command(0xD0), [0xCF]);
    guest.command(0xDD);
    assert_eq!(guest.command(0xD0), [0xCD]);
    guest.command(0xDF);
    assert_eq!(guest.command(0xD0), [0xCF]);
    guest.command(0xD1);
    guest.data(0x01);
    guest.command(0xD3);
    guest.write_data(7);
    assert_eq!(guest.command(0xD0), [0x107, 0x21]);
}

#[test]
fn the_input_port_is_polled_until_the_next_write() {
    let mut guest = Guest::new();
    let plain = guest.status();
    guest.command(0xC2);
    assert_eq!(guest.status() >> 4, 0xB);
    guest.command(0xC1);
    assert_eq!(guest.status() >> 4, 0);
    guest.data(0xF4);
    assert_eq!(guest.status(), plain);
}

#[test]
fn a_guest_that_never_reads_fills_nothing_up() {
    let mut guest = Guest::new();
    for n in 0..1000 {
        for value in [0xFF, 0xD4, 0x20] {
            guest.write_data(value);
            guest.write_command(value);
        }
        guest.key(A, n % 2 == 0);
    }
    assert!(guest.drain().len() <= 310);
    assert!(guest.save().len() < 1000);
}

#[derive(Clone, Debug)]
enum Step {
    Read,
    Status,
    Command(u8),
    Data(u8),
    Key(u8, bool),
    Move(i32, i32, i32, u8),
    Wait(u64),
    Reload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let interesting =
        prop::sample::select(vec![0xED, 0xF0, 0xF3, 0xF4, 0xFB, 0xFD, 0xFF, 0xE7, 0xEE, 0xEB, 3, 80, 100, 200]);
    let byte = prop_oneof![any::<u8>(), interesting];
    let counts = || prop_oneof![any::<i32>(), -9..9];
    let step = prop_oneof![
        4 => Just(Step::Read),
        1 => Just(Step::Status),
        1 => any::<u8>().prop_map(Step::Command),
        1 => Just(Step::Command(0xD4)),
        4 => byte.prop_map(Step::Data),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(code, down)| Step::Key(code, down)),
        3 => (counts(), counts(), counts(), any::<u8>()).prop_map(|(dx, dy, dz, buttons)| Step::Move(dx, dy, dz, buttons)),
        3 => prop_oneof![0..PAUSE, 0..2 * SECOND].prop_map(Step::Wait),
        1 => Just(Step::Reload),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    /// [`Guest::step`] checks that work and timers come to an end.
    #[test]
    fn nothing_panics_and_states_survive_saving(steps in steps()) {
        let mut guest = Guest::new();
        for step in steps {
            match step {
                Step::Read => _ = guest.read(),
                Step::Status => _ = guest.status(),
                Step::Command(value) => _ = guest.step(|controller, _| controller.write_command(value)),
                Step::Data(value) => _ = guest.step(|controller, _| controller.write_data(value)),
                Step::Key(code, down) => guest.key(code, down),
                Step::Move(dx, dy, dz, buttons) => guest.step(|controller, _| controller.mouse.move_by(dx, dy, dz, buttons)),
                Step::Wait(time) => guest.now += time,
                Step::Reload => {
                    let state = guest.save();
                    let mut copy = Guest::load(&state).unwrap();
                    prop_assert_eq!(copy.save(), state);
                    copy.now = guest.now;
                    guest = copy;
                }
            }
        }
    }

    #[test]
    fn a_hostile_state_is_refused_or_harmless(at in any::<prop::sample::Index>(), byte in any::<u8>(), noise in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut guest = Guest::new();
        guest.mouse(0xF4);
        guest.key(A, true);
        guest.move_by(5, 1);
        let mut state = guest.save();
        let at = at.index(state.len());
        state[at] = byte;
        let mut noisy = STATE_VERSION.to_le_bytes().to_vec();
        noisy.extend(noise);
        for state in [state, noisy] {
            if let Ok(mut guest) = Guest::load(&state) {
                for _ in 0..20 {
                    guest.now += SECOND;
                    guest.read();
                    guest.data(0xFF);
                    guest.move_by(1, 1);
                    guest.key(A, false);
                }
            }
        }
    }
}

#[test]
fn states_that_cannot_be_are_refused() {
    let state = Guest::new().save();
    assert!(Guest::load(&state).is_ok());
    assert!(Guest::load(&state[..state.len() - 1]).is_err());
    assert!(Guest::load(&[&state[..], &[0]].concat()).is_err());
    // The command that waits for data: behind the version, the memory with its length, and the output port.
    let mut damaged = state.clone();
    damaged[4 + 4 + 32 + 1] = 0xFE;
    assert!(Guest::load(&damaged).err().unwrap().contains("0xfe"));
}

/// The levels that reached the interrupt controllers.
#[derive(Default)]
struct Edges(Mutex<Vec<u32>>);

impl Interrupts for Edges {
    fn set_line(&self, gsi: u32, high: bool) {
        if high {
            self.0.lock().push(gsi);
        }
    }
    fn signal_msi(&self, _: Msi) {}
}

struct Ports {
    i8042: Arc<I8042>,
    data: Arc<dyn Device>,
    command: Arc<dyn Device>,
    edges: Arc<Edges>,
    _timers: Arc<Timers>,
}

impl Ports {
    fn new() -> Self {
        let edges = Arc::new(Edges::default());
        let lines = IrqLines::new(edges.clone());
        let timers = Timers::new().unwrap();
        let i8042 = I8042::new(&timers, lines.line(KEYBOARD_IRQ).unwrap(), lines.line(MOUSE_IRQ).unwrap());
        Ports { data: i8042.data_port(), command: i8042.command_port(), i8042, edges, _timers: timers }
    }

    fn read(device: &Arc<dyn Device>) -> u8 {
        let mut data = [0];
        device.read(0, &mut data);
        data[0]
    }

    /// Waits for an interrupt, and reads the byte that it announces.
    fn interrupted(&self) -> (u32, u8) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let edge = self.edges.0.lock().pop();
            if let Some(gsi) = edge {
                return (gsi, Self::read(&self.data));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        panic!("no interrupt within 10 s");
    }
}

#[test]
fn each_byte_is_an_interrupt_also_when_nobody_touches_the_ports() {
    let ports = Ports::new();
    ports.i8042.key(UP_ARROW, true);
    assert_eq!([ports.interrupted(), ports.interrupted()], [(1, 0xE0), (1, 0x48)]);
    // It repeats.
    assert_eq!([ports.interrupted(), ports.interrupted()], [(1, 0xE0), (1, 0x48)]);
    ports.i8042.key(UP_ARROW, false);
    assert_eq!([ports.interrupted(), ports.interrupted()], [(1, 0xE0), (1, 0xC8)]);
    assert_eq!(ports.command.write(0, &[0xD4]), Action::None);
    assert_eq!(ports.data.write(0, &[0xF4]), Action::None);
    assert_eq!(ports.interrupted(), (12, 0xFA));
    ports.i8042.mouse_move(1, 0, 0, 1);
    ports.i8042.mouse_move(0, 0, 0, 0);
    assert_eq!([(); 6].map(|()| ports.interrupted()), [0x09, 1, 0, 0x08, 0, 0].map(|byte| (12, byte)));
}

#[test]
fn the_ports_are_saved_loaded_and_reset_together() {
    let ports = Ports::new();
    assert_eq!(ports.data.write(0, &[0xED]), Action::None);
    assert_eq!(Ports::read(&ports.data), 0xFA);
    assert_eq!(ports.data.write(0, &[0x04]), Action::None);
    assert_eq!(ports.i8042.keyboard_leds(), 4);
    let copy = Ports::new();
    copy.data.load(&ports.data.save()).unwrap();
    copy.command.load(&ports.command.save()).unwrap();
    assert_eq!(copy.i8042.keyboard_leds(), 4);
    assert_eq!(copy.interrupted(), (1, 0xFA), "what was not read is announced");
    ports.i8042.key(A, true);
    ports.data.reset();
    ports.command.reset();
    assert_eq!(ports.i8042.keyboard_leds(), 0);
    assert_eq!(Ports::read(&ports.command) & STATUS_OUTPUT_FULL, 0);
}
