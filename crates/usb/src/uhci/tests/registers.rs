use super::rig::*;
use crate::{Keyboard, Tablet, UsbDevice};
use std::sync::Arc;

#[test]
fn registers_after_reset_are_those_of_the_specification() {
    let rig = controller([Arc::new(Tablet::new()), Arc::new(Keyboard::new())]);
    let registers = rig.registers();
    let word = |at: usize| u16::from_le_bytes([registers[at], registers[at + 1]]);
    assert_eq!([0, 2, 4, 6, 8, 10, 12].map(word), [0, HALTED, 0, 0, 0, 0, 0x40]);
    // Plugged in, idle; the keyboard of low speed. Then there are no more ports: bit 7 reads 0.
    assert_eq!([0x10, 0x12, 0x14, 0x1E].map(word), [0x0093, 0x01A3, 0, 0]);
    assert_eq!(rig.frame_length(), 1_000_000);
}

#[test]
fn a_port_is_reset_enabled_and_forgets_changes() {
    let mut controller = controller([Arc::new(Tablet::new())]);
    let mut step = |port: usize, value: u16| {
        controller.write(port, value, 0xFFFF);
        let registers = controller.registers();
        u16::from_le_bytes([registers[port], registers[port + 1]])
    };
    assert_eq!(step(0x10, PORT_RESET | PORT_ENABLE), 0x0283, "no idle lines, not enabled");
    assert_eq!(step(0x10, 0), 0x0093);
    assert_eq!(step(0x10, PORT_ENABLE | 2), 0x0095);
    assert_eq!(step(0x10, PORT_ENABLE | PORT_SUSPEND | 0x40), 0x10C5);
    assert_eq!(step(0x10, PORT_ENABLE), 0x0095);
    assert_eq!(step(0x10, 0xEFBB & !PORT_ENABLE & !PORT_RESET & !0x40), 0x0091, "what is read-only stays");
    assert_eq!(step(0x12, PORT_ENABLE | PORT_SUSPEND), 0x1080, "nothing to enable");
    // The controller's reset is a disconnect and a connect.
    step(0x10, PORT_ENABLE);
    step(0x00, 2);
    assert_eq!(step(0x06, 0), 0);
    assert_eq!(step(0x10, 0), 0x009B);
}

#[test]
fn a_device_that_may_wakes_the_suspended_bus() {
    let keyboard = Arc::new(Keyboard::new());
    let mut rig = Rig::new([keyboard.clone()]);
    rig.request(0, LOW, SET_CONFIGURATION_1, &[]).unwrap();
    for allowed in [false, true] {
        if allowed {
            rig.request(0, LOW, [0, 3, 1, 0, 0, 0, 0, 0], &[]).unwrap();
        }
        rig.write(0x10, PORT_ENABLE | PORT_SUSPEND);
        rig.write(0x00, 8);
        rig.controller.wake(0);
        assert_eq!(rig.controller.interrupt(), allowed);
        let expected = if allowed { (0x18, 4 | HALTED, 0x11C5) } else { (8, HALTED, 0x11A5) };
        assert_eq!((rig.read(0), rig.read(2), rig.read(0x10)), expected);
        rig.write(0x10, PORT_ENABLE);
        rig.write(0x00, RUN);
        assert_eq!((rig.read(0), rig.read(0x10)), (RUN, 0x01A5));
    }
    rig.controller.wake(0);
    assert_eq!(rig.read(0), RUN, "nobody is asleep");
    rig.controller.wake(7);
}

#[test]
fn a_device_is_plugged_into_a_free_port_and_wakes_the_bus() {
    let mut rig = Rig::new([]);
    rig.write(0x00, 8);
    let tablet: Arc<dyn UsbDevice> = Arc::new(Tablet::new());
    assert_eq!([(); 3].map(|()| rig.controller.plug(&tablet)), [Some(0), Some(1), None]);
    assert_eq!((rig.read(0x00), rig.read(0x02), rig.read(0x10), rig.read(0x12)), (0x18, 4 | HALTED, 0x93, 0x93));
    assert!(rig.controller.interrupt());
}
