use super::rig::*;
use crate::{Keyboard, Tablet, UsbDevice};
use board::{StateReader, StateWriter};
use std::sync::Arc;

#[test]
fn a_tablet_is_enumerated_and_points() {
    let tablet = Arc::new(Tablet::new());
    let mut rig = Rig::new([tablet.clone()]);
    let device = rig.request(0, 0, get_descriptor(1, 0, 64), &[]).unwrap();
    assert_eq!(device, [18, 1, 0x10, 1, 0, 0, 0, 8, 0x27, 6, 1, 0, 0, 1, 1, 2, 0, 1]);
    assert_eq!(rig.request(0, 0, SET_ADDRESS_5, &[]), Ok(vec![]));
    assert_eq!(rig.request(0, 0, get_descriptor(1, 0, 18), &[]), Err(STALLED | TIMEOUT), "it has moved");
    let head = rig.request(5, 0, get_descriptor(2, 0, 9), &[]).unwrap();
    let whole = rig.request(5, 0, get_descriptor(2, 0, u16::from_le_bytes([head[2], head[3]])), &[]).unwrap();
    assert_eq!((head.len(), whole.len(), whole[7]), (9, 34, 0xA0));
    let report = rig.request(5, 0, get_descriptor(0x22, 0, u16::from(whole[25])), &[]).unwrap();
    assert_eq!((report.len(), &report[..4]), (usize::from(whole[25]), &[5, 1, 9, 2][..]));
    let name = rig.request(5, 0, get_descriptor(3, 2, 255), &[]).unwrap();
    let name: Vec<u16> = name[2..].chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    assert_eq!(String::from_utf16(&name).unwrap(), "USB Tablet");
    tablet.set(1, 1, 1, 0);
    assert_eq!(rig.request(5, 0, [0xA1, 1, 0, 1, 0, 0, 6, 0], &[]), Err(STALLED), "not configured");
    assert_eq!(rig.request(5, 0, SET_CONFIGURATION_1, &[]), Ok(vec![]));
    assert_eq!(rig.request(5, 0, [0x80, 8, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![1]));
    assert!(!tablet.in_use());
    assert_eq!(rig.poll(5, 0, 0), None, "what was before does not matter");
    assert!(tablet.in_use());
    tablet.set(0x7FFF, 0x1234, 5, -1);
    assert_eq!(rig.poll(5, 0, 0), Some(vec![5, 0xFF, 0x7F, 0x34, 0x12, 1]));
    assert_eq!(rig.poll(5, 0, 1), None);
    assert_eq!(rig.request(5, 0, [0xA1, 1, 0, 1, 0, 0, 6, 0], &[]), Ok(vec![5, 0xFF, 0x7F, 0x34, 0x12, 0]));
    // Halted, and the sequence begins anew where that ends.
    assert_eq!(rig.request(5, 0, [2, 3, 0, 0, 0x81, 0, 0, 0], &[]), Ok(vec![]));
    assert_eq!(rig.request(5, 0, [0x82, 0, 0, 0, 0x81, 0, 2, 0], &[]), Ok(vec![1, 0]));
    assert_eq!(rig.request(5, 0, [2, 1, 0, 0, 0x81, 0, 0, 0], &[]), Ok(vec![]));
    tablet.set(0, 0, 0, 0);
    assert_eq!(rig.poll(5, 0, 0), Some(vec![0; 6]));
    rig.write(0x10, PORT_RESET);
    assert!(!tablet.in_use());
}

#[test]
fn a_keyboard_types_and_shines() {
    let keyboard = Arc::new(Keyboard::new());
    let mut rig = Rig::new([keyboard.clone()]);
    assert_eq!(rig.request(0, 0, SET_ADDRESS_5, &[]), Err(STALLED | TIMEOUT), "full speed");
    assert_eq!(rig.request(0, LOW, SET_ADDRESS_5, &[]), Ok(vec![]));
    assert_eq!(rig.request(5, LOW, SET_CONFIGURATION_1, &[]), Ok(vec![]));
    assert_eq!(rig.request(5, LOW, [0x21, 11, 0, 0, 0, 0, 0, 0], &[]), Ok(vec![]), "boot protocol");
    assert_eq!(rig.request(5, LOW, [0xA1, 3, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![0]));
    assert_eq!(rig.request(5, LOW, [0x21, 10, 0, 0, 0, 0, 0, 0], &[]), Ok(vec![]), "reports of changes alone");
    keyboard.key(0x2A, true);
    keyboard.key(0x1E, true);
    assert_eq!(rig.poll(5, LOW, 0), Some(vec![2, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(rig.poll(5, LOW, 1), Some(vec![2, 0, 4, 0, 0, 0, 0, 0]));
    assert_eq!((0..1000).filter(|_| rig.poll(5, LOW, 0).is_some()).count(), 0);
    // Lights: Num Lock, Caps Lock.
    assert_eq!(rig.request(5, LOW, [0x21, 9, 0, 2, 0, 0, 1, 0], &[3]), Ok(vec![]));
    assert_eq!(keyboard.leds(), 6);
}

#[test]
fn announced_lengths_are_checked_before_they_are_believed() {
    let keyboard = Arc::new(Keyboard::new());
    let mut rig = Rig::new([keyboard.clone()]);
    rig.request(0, LOW, SET_CONFIGURATION_1, &[]).unwrap();
    let set_report = |length: u16| [0x21, 9, 0, 2, 0, 0, length as u8, (length >> 8) as u8];
    // Announced: 65535 bytes; none is taken.
    for length in [65, 0x1000, u16::MAX] {
        rig.memory.write(DATA.into(), &set_report(length)).unwrap();
        rig.td(0, TDS + 0x20, ACTIVE | LOW, token(SETUP, 0, 0, 0, 8));
        rig.td(1, END, ACTIVE | LOW | errors(3), token(OUT, 0, 0, 1, 8));
        rig.put(QUEUE, &[END, TDS]);
        rig.frame();
        rig.frame();
        assert_eq!(rig.control(1) & (ACTIVE | STALLED), STALLED, "{length}");
    }
    // Announced: 1 byte; 8 come.
    rig.memory.write(DATA.into(), &set_report(1)).unwrap();
    rig.td(0, TDS + 0x20, ACTIVE | LOW, token(SETUP, 0, 0, 0, 8));
    rig.td(1, END, ACTIVE | LOW | errors(3), token(OUT, 0, 0, 1, 8));
    rig.put(QUEUE, &[END, TDS]);
    rig.frame();
    rig.frame();
    assert_eq!(rig.control(1) & (ACTIVE | STALLED), STALLED);
    // A report that has not a byte.
    assert_eq!(rig.request(0, LOW, set_report(2), &[7, 7]), Err(STALLED));
    assert_eq!(rig.request(0, LOW, set_report(0), &[]), Err(STALLED));
    assert_eq!(keyboard.leds(), 0);
    // An answer is no longer than asked for, however long that is.
    assert_eq!(rig.request(0, LOW, get_descriptor(1, 0, 3), &[]).unwrap().len(), 3);
    assert_eq!(rig.request(0, LOW, get_descriptor(2, 0, 300), &[]).unwrap().len(), 34);
}

#[test]
fn the_idle_rate_repeats_reports() {
    let keyboard = Arc::new(Keyboard::new());
    let mut rig = Rig::new([keyboard.clone()]);
    rig.request(0, LOW, SET_CONFIGURATION_1, &[]).unwrap();
    rig.request(0, LOW, [0x21, 10, 0, 9, 0, 0, 0, 0], &[]).unwrap();
    keyboard.key(0x1E, true);
    let (mut toggle, mut times) = (0, Vec::new());
    for _ in 0..100 {
        if let Some(report) = rig.poll(0, LOW, toggle) {
            assert_eq!(report, [0, 0, 4, 0, 0, 0, 0, 0]);
            times.push(rig.controller.frames);
            toggle ^= 1;
        }
    }
    assert_eq!(times.iter().map(|time| time - times[0]).collect::<Vec<_>>(), [0, 36, 72]);
}

#[test]
fn the_controller_sleeps_while_nothing_is_going_on_and_devices_end_it() {
    let keyboard = Arc::new(Keyboard::new());
    let mut rig = Rig::new([keyboard.clone()]);
    rig.request(0, LOW, SET_CONFIGURATION_1, &[]).unwrap();
    rig.request(0, LOW, [0x21, 10, 0, 0, 0, 0, 0, 0], &[]).unwrap();
    assert_eq!(rig.controller.next_look(), 1, "a transfer may be followed by another");
    let rest = |rig: &mut Rig| {
        (0..1000).for_each(|_| rig.frame());
        rig.controller.next_look()
    };
    let ask = |rig: &mut Rig, toggle| {
        let at = rig.td(0, END, ACTIVE | IOC | LOW, token(IN, 0, 1, toggle, 8));
        rig.put(QUEUE, &[END, at]);
    };
    ask(&mut rig, 0);
    assert_eq!(rest(&mut rig), 64);
    // Two reports: asked for in each frame until both are taken. The interrupt's acknowledgement changes nothing.
    keyboard.key(0x1E, true);
    keyboard.key(0x1E, false);
    rig.controller.wake(0);
    assert_eq!(rig.controller.next_look(), 1);
    rig.frame();
    rig.write(2, 1);
    assert_eq!(rig.controller.next_look(), 1);
    ask(&mut rig, 1);
    rig.frame();
    rig.write(2, 1);
    assert_eq!(rig.controller.next_look(), 64);
    // Nobody asks: not for ever.
    keyboard.key(0x1E, true);
    rig.controller.wake(0);
    assert_eq!(rest(&mut rig), 64);
    ask(&mut rig, 0);
    rig.frame();
    // Any other register ends it, and reports that are repeated shorten it.
    rig.write(4, 0xF);
    assert_eq!(rig.controller.next_look(), 1);
    rig.request(0, LOW, [0x21, 10, 0, 9, 0, 0, 0, 0], &[]).unwrap();
    ask(&mut rig, 1);
    assert_eq!(rest(&mut rig), 64, "it is due for long, and nobody asks again");
    ask(&mut rig, 0);
    rig.frame();
    assert_eq!(rig.controller.next_look(), 35);
    (0..35).for_each(|_| rig.frame());
    assert_eq!(rig.controller.next_look(), 1);
}

#[test]
fn a_snapshot_in_the_middle_of_a_transfer_goes_on() {
    let keyboard = Arc::new(Keyboard::new());
    let mut rig = Rig::new([keyboard.clone()]);
    rig.request(0, LOW, SET_CONFIGURATION_1, &[]).unwrap();
    keyboard.key(0x1E, true);
    rig.memory.write(DATA.into(), &get_descriptor(2, 0, 34)).unwrap();
    rig.td(0, TDS + 0x20, ACTIVE | LOW, token(SETUP, 0, 0, 0, 8));
    rig.td(1, TDS + 0x40, ACTIVE | LOW, token(IN, 0, 0, 1, 8));
    rig.td(2, END, ACTIVE | LOW, token(IN, 0, 0, 0, 8));
    rig.put(QUEUE, &[END, TDS]);
    rig.frame();
    rig.frame();
    let mut writer = StateWriter::new(1);
    rig.controller.save(&mut writer);
    let saved = writer.finish();
    let mut other = Rig { controller: controller([Arc::new(Keyboard::new())]), ..rig };
    let mut reader = StateReader::new("x", &saved, 1).unwrap();
    other.controller.load(&mut reader).unwrap();
    reader.finish().unwrap();
    other.frame();
    assert_eq!(other.bytes(DATA + 0x1000), [50, 9, 4, 0, 0, 1, 3, 1], "the second 8 bytes");
    assert_eq!(other.poll(0, LOW, 0), Some(vec![0, 0, 4, 0, 0, 0, 0, 0]));
    let keyboard = || -> Arc<dyn UsbDevice> { Arc::new(Keyboard::new()) };
    assert!(load([], &saved).is_err());
    for end in 0..saved.len() {
        assert!(load([keyboard()], &saved[..end]).is_err());
    }
}

fn load<const N: usize>(devices: [Arc<dyn UsbDevice>; N], state: &[u8]) -> Result<(), String> {
    let mut reader = StateReader::new("x", state, 1)?;
    controller(devices).load(&mut reader)?;
    reader.finish()
}
