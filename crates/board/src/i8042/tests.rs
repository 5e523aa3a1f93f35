use super::*;
use crate::line::IrqLines;
use hv::{Interrupts, Msi};
use proptest::prelude::*;

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
    data: Arc<dyn Device>,
    command: Arc<dyn Device>,
    edges: Arc<Edges>,
}

impl Ports {
    fn new() -> Self {
        let edges = Arc::new(Edges::default());
        let lines = IrqLines::new(edges.clone());
        let controller = I8042::new(lines.line(KEYBOARD_IRQ).unwrap(), lines.line(MOUSE_IRQ).unwrap());
        Ports { data: controller.data_port(), command: controller.command_port(), edges }
    }

    fn status(&self) -> u8 {
        let mut data = [0];
        self.command.read(0, &mut data);
        data[0]
    }

    /// All that waits, with the mouse's bytes marked by 0x100.
    fn drain(&self) -> Vec<u16> {
        let mut bytes = Vec::new();
        while self.status() & STATUS_OUTPUT_FULL != 0 {
            let mark = if self.status() & STATUS_AUX_FULL != 0 { 0x100 } else { 0 };
            let mut data = [0];
            self.data.read(0, &mut data);
            bytes.push(mark | u16::from(data[0]));
        }
        bytes
    }

    fn command(&self, value: u8) -> Vec<u16> {
        assert_eq!(self.command.write(0, &[value]), Action::None);
        self.drain()
    }

    fn data(&self, value: u8) -> Vec<u16> {
        assert_eq!(self.data.write(0, &[value]), Action::None);
        self.drain()
    }

    fn mouse(&self, value: u8) -> Vec<u16> {
        self.command(0xD4);
        self.data(value)
    }
}

#[test]
fn the_controller_tests_itself_and_its_interfaces() {
    let ports = Ports::new();
    assert_eq!(ports.status() & STATUS_SYSTEM, 0);
    assert_eq!(ports.command(0xAA), [0x55]);
    assert_ne!(ports.status() & STATUS_SYSTEM, 0);
    assert_eq!([ports.command(0xAB), ports.command(0xA9)], [[0], [0]]);
    ports.command(0x60);
    ports.data(0x30);
    assert_eq!(ports.command(0x20), [0x30]);
}

#[test]
fn the_loop_commands_show_where_a_byte_comes_from() {
    let ports = Ports::new();
    ports.command(0xD2);
    assert_eq!(ports.data(0xA5), [0xA5]);
    ports.command(0xD3);
    assert_eq!(ports.data(0x5A), [0x15A]);
}

#[test]
fn keyboard_and_mouse_are_reset_and_identified() {
    let ports = Ports::new();
    assert_eq!(ports.data(0xFF), [0xFA, 0xAA]);
    assert_eq!(ports.data(0xF2), [0xFA, 0xAB, 0x41]);
    ports.command(0x60);
    ports.data(0);
    assert_eq!(ports.data(0xF2), [0xFA, 0xAB, 0x83]);
    assert_eq!(ports.data(0xED), [0xFA]);
    assert_eq!(ports.data(0x07), [0xFA]);
    assert_eq!(ports.mouse(0xFF), [0x1FA, 0x1AA, 0x100]);
    assert_eq!(ports.mouse(0xF2), [0x1FA, 0x100]);
    assert_eq!([ports.mouse(0xF3), ports.mouse(40), ports.mouse(0xF4)], [[0x1FA], [0x1FA], [0x1FA]]);
    assert_eq!(ports.mouse(0xE9), [0x1FA, 0x120, 0x102, 0x128]);
}

#[test]
fn a_disabled_interface_holds_its_bytes_back() {
    let ports = Ports::new();
    assert_eq!(ports.data.write(0, &[0xFF]), Action::None);
    assert_eq!(ports.command(0xAD), [0xFA], "what is in the output buffer stays there");
    assert_eq!(ports.command(0xAE), [0xAA]);
}

#[test]
fn each_byte_is_an_edge_where_interrupts_are_enabled() {
    let ports = Ports::new();
    ports.data(0xFF);
    ports.mouse(0xF2);
    assert_eq!(*ports.edges.0.lock(), [1, 1, 12, 12]);
    ports.command(0x60);
    ports.data(0);
    ports.edges.0.lock().clear();
    ports.data(0xFF);
    ports.mouse(0xF2);
    assert!(ports.edges.0.lock().is_empty());
}

#[test]
fn the_reset_line_resets_by_pulse_and_by_output_port() {
    let ports = Ports::new();
    assert_eq!(ports.command.write(0, &[0xFE]), Action::Reset);
    assert_eq!(ports.command.write(0, &[0xFF]), Action::None);
    assert_eq!(ports.command.write(0, &[0xD1]), Action::None);
    assert_eq!(ports.data.write(0, &[0xDF]), Action::None);
    assert_eq!(ports.command(0xD0), [0xDF]);
    ports.command(0xD1);
    assert_eq!(ports.data.write(0, &[0xDE]), Action::Reset);
}

#[test]
fn a_guest_that_never_reads_fills_nothing_up() {
    let ports = Ports::new();
    for _ in 0..1000 {
        assert_eq!(ports.data.write(0, &[0xFF]), Action::None);
        assert_eq!(ports.command.write(0, &[0x20]), Action::None);
    }
    assert!(ports.drain().len() <= 2 * QUEUE_SIZE + 1);
}

proptest! {
    #[test]
    fn no_access_panics_and_states_survive_saving(steps in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u8>()), 0..200)) {
        let ports = Ports::new();
        for (command, write, value) in steps {
            let port = if command { &ports.command } else { &ports.data };
            if write { let _ = port.write(0, &[value]); } else { port.read(0, &mut [0]) }
        }
        let copy = Ports::new();
        copy.data.load(&ports.data.save()).unwrap();
        prop_assert_eq!(copy.status(), ports.status());
        prop_assert_eq!(copy.drain(), ports.drain());
    }

    #[test]
    fn a_hostile_state_is_refused_or_harmless(mut state in prop::collection::vec(any::<u8>(), 4..80)) {
        state[..4].copy_from_slice(&STATE_VERSION.to_le_bytes());
        let ports = Ports::new();
        let _ = ports.data.load(&state);
        ports.drain();
    }
}
