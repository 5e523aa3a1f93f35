use super::*;

const LEFT: u8 = 1;
const RIGHT: u8 = 2;
const MIDDLE: u8 = 4;

fn drain(mouse: &mut Mouse) -> Vec<u8> {
    std::iter::from_fn(|| mouse.pop()).collect()
}

fn command(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().for_each(|&byte| mouse.command(byte));
    drain(mouse)
}

/// All packets that come, each at its time.
fn packets(mouse: &mut Mouse) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some(at) = mouse.next_event() {
        mouse.advance(at);
        packets.push(drain(mouse));
    }
    packets
}

fn streaming(knocks: &[u8]) -> Mouse {
    let mut mouse = Mouse::default();
    knocks.iter().for_each(|&rate| assert_eq!(command(&mut mouse, &[0xF3, rate]), [0xFA, 0xFA]));
    assert_eq!(command(&mut mouse, &[0xF4]), [0xFA]);
    mouse
}

#[test]
fn packets_tell_movements_and_buttons() {
    let mut mouse = streaming(&[]);
    mouse.move_by(5, -3, 0, LEFT);
    assert_eq!(packets(&mut mouse), [[0x09, 5, 3]]);
    mouse.move_by(-1, 2, 0, RIGHT | MIDDLE);
    assert_eq!(packets(&mut mouse), [[0x3E, 0xFF, 0xFE]]);
    mouse.move_by(0, 0, 0, RIGHT | MIDDLE);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new(), "nothing changed");
    mouse.move_by(0, 0, 0, 0);
    assert_eq!(packets(&mut mouse), [[0x08, 0, 0]]);
}

#[test]
fn a_mouse_that_was_not_enabled_is_silent() {
    let mut mouse = Mouse::default();
    mouse.move_by(5, 5, 0, LEFT);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new());
    assert_eq!(command(&mut mouse, &[0xF4]), [0xFA]);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new(), "old movements are forgotten");
    mouse.move_by(1, 0, 0, LEFT);
    assert_eq!(packets(&mut mouse), [[0x09, 1, 0]]);
    assert_eq!(command(&mut mouse, &[0xF5]), [0xFA]);
    mouse.move_by(1, 0, 0, 0);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new());
}

#[test]
fn large_movements_come_in_pieces_that_fit() {
    let mut mouse = streaming(&[]);
    mouse.move_by(600, 256, 0, 0);
    assert_eq!(packets(&mut mouse), [[0x28, 255, 1], [0x28, 255, 0xFF], [0x08, 90, 0]]);
    (0..1000).for_each(|_| mouse.move_by(i32::MIN, i32::MIN, i32::MAX, 0));
    let packets = packets(&mut mouse);
    assert_eq!(packets.len(), 33);
    assert!(packets.iter().all(|packet| packet[0] & 0xC0 == 0), "no overflow");
}

#[test]
fn the_sample_rate_limits_packets_and_movements_add_up_meanwhile() {
    let mut mouse = streaming(&[20]);
    mouse.move_by(1, 0, 0, 0);
    mouse.advance(7);
    assert_eq!(drain(&mut mouse), [0x08, 1, 0]);
    mouse.move_by(2, 0, 0, 0);
    mouse.move_by(3, 0, 0, 0);
    assert_eq!(mouse.next_event(), Some(7 + SECOND / 20));
    mouse.advance(6 + SECOND / 20);
    assert!(mouse.is_empty());
    mouse.advance(7 + SECOND / 20);
    // Nor does the next one begin before this is gone.
    mouse.move_by(4, 0, 0, 0);
    assert_eq!(mouse.next_event(), None);
    mouse.advance(SECOND);
    assert_eq!(drain(&mut mouse), [0x08, 5, 0]);
    mouse.advance(SECOND);
    assert_eq!(drain(&mut mouse), [0x08, 4, 0]);
}

#[test]
fn clicks_are_not_lost_while_the_guest_is_busy() {
    let mut mouse = streaming(&[]);
    for (dx, buttons) in [(1, 0), (1, 0), (0, LEFT), (0, 0), (2, 0), (0, LEFT)] {
        mouse.move_by(dx, 0, 0, buttons);
    }
    assert_eq!(packets(&mut mouse), [[0x08, 2, 0], [0x09, 0, 0], [0x08, 2, 0], [0x09, 0, 0]]);
    (0..1001).for_each(|n| mouse.move_by(1, 0, 0, (n % 2) as u8));
    let packets = packets(&mut mouse);
    assert_eq!(packets.len(), MOST_REPORTS - 1 + 994usize.div_ceil(255));
    assert_eq!(packets.iter().map(|packet| u32::from(packet[1])).sum::<u32>(), 1001);
    assert_eq!(packets.last().unwrap()[0], 0x08, "the buttons as they are now");
}

#[test]
fn three_sample_rates_open_the_wheel_and_three_others_the_buttons() {
    let mut mouse = Mouse::default();
    assert_eq!(command(&mut mouse, &[0xF2]), [0xFA, 0]);
    let mut mouse = streaming(&[200, 100, 80]);
    assert_eq!(command(&mut mouse, &[0xF2]), [0xFA, 3]);
    mouse.move_by(1, 0, -20, 0x18 | LEFT);
    assert_eq!(packets(&mut mouse), [[0x09, 1, 0, 0xF8], [0x09, 0, 0, 0xF8], [0x09, 0, 0, 0xFC]]);
    let mut mouse = streaming(&[200, 100, 80, 200, 200, 80]);
    assert_eq!(command(&mut mouse, &[0xF2]), [0xFA, 4]);
    mouse.move_by(0, 0, 1, 0x08);
    mouse.move_by(0, 0, -1, 0x10);
    assert_eq!(packets(&mut mouse), [[0x08, 0, 0, 0x11], [0x08, 0, 0, 0x2F]]);
    assert_eq!(command(&mut mouse, &[0xF6, 0xF2]), [0xFA, 0xFA, 4], "defaults keep the format");
    assert_eq!(command(&mut mouse, &[0xFF, 0xF2]), [0xFA, 0xAA, 0, 0xFA, 0], "a reset does not");
}

#[test]
fn a_standard_mouse_has_no_wheel() {
    let mut mouse = streaming(&[]);
    mouse.move_by(0, 0, 3, 0x18);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new());
}

#[test]
fn scaling_doubles_in_stream_mode_alone() {
    let mut mouse = streaming(&[]);
    assert_eq!(command(&mut mouse, &[0xE7]), [0xFA]);
    let scaled: Vec<u8> = (0..8)
        .map(|count| {
            mouse.move_by(count, 0, 0, 0);
            packets(&mut mouse).first().map_or(0, |packet| packet[1])
        })
        .collect();
    assert_eq!(scaled, [0, 1, 1, 3, 6, 9, 12, 14]);
    mouse.move_by(-200, 0, 0, 0);
    assert_eq!(packets(&mut mouse), [[0x18, 2, 0], [0x18, 110, 0]]);
    mouse.move_by(5, 0, 0, 0);
    assert_eq!(command(&mut mouse, &[0xEB]), [0xFA, 0x08, 5, 0]);
}

#[test]
fn remote_mode_reports_on_request() {
    let mut mouse = streaming(&[]);
    assert_eq!(command(&mut mouse, &[0xF0]), [0xFA]);
    mouse.move_by(3, 0, 0, 0);
    mouse.move_by(4, 0, 0, RIGHT);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new());
    assert_eq!(command(&mut mouse, &[0xEB]), [0xFA, 0x0A, 7, 0]);
    assert_eq!(command(&mut mouse, &[0xEB]), [0xFA, 0x0A, 0, 0]);
    assert_eq!(command(&mut mouse, &[0xE9]), [0xFA, 0x61, 2, 100]);
    assert_eq!(command(&mut mouse, &[0xEA]), [0xFA]);
    mouse.move_by(1, 0, 0, 0);
    assert_eq!(packets(&mut mouse), [[0x08, 1, 0]]);
}

#[test]
fn wrap_mode_gives_back_all_but_its_end() {
    let mut mouse = streaming(&[]);
    assert_eq!(command(&mut mouse, &[0xEE]), [0xFA]);
    mouse.move_by(1, 0, 0, 0);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new());
    assert_eq!(command(&mut mouse, &[0xF4, 0x00, 0xEB]), [0xF4, 0x00, 0xEB]);
    assert_eq!(command(&mut mouse, &[0xEC, 0xE9]), [0xFA, 0xFA, 0x20, 2, 100]);
    assert_eq!(command(&mut mouse, &[0xEE]), [0xFA]);
    assert_eq!(command(&mut mouse, &[0xFF, 0xE9]), [0xFA, 0xAA, 0, 0xFA, 0, 2, 100]);
}

#[test]
fn settings_are_told_and_defaults_come_back() {
    let mut mouse = streaming(&[]);
    assert_eq!(command(&mut mouse, &[0xE7, 0xE8, 3, 0xF3, 40]), [0xFA; 5]);
    mouse.move_by(0, 0, 0, LEFT | MIDDLE);
    assert_eq!(command(&mut mouse, &[0xE9]), [0xFA, 0x36, 3, 40]);
    assert_eq!(command(&mut mouse, &[0xF6, 0xE9]), [0xFA, 0xFA, 0x06, 2, 100]);
}

#[test]
fn nonsense_is_refused_twice() {
    let mut mouse = Mouse::default();
    assert_eq!(command(&mut mouse, &[0xE1, 0xE1, 0x00]), [0xFE, 0xFC, 0xFE]);
    assert_eq!(command(&mut mouse, &[0xF2, 0x00]), [0xFA, 0, 0xFE]);
    // The parameter may come again, or a command in its place.
    assert_eq!(command(&mut mouse, &[0xF3, 0, 60]), [0xFA, 0xFE, 0xFA]);
    assert_eq!(command(&mut mouse, &[0xF3, 11, 11, 60]), [0xFA, 0xFE, 0xFC, 0xFE]);
    assert_eq!(command(&mut mouse, &[0xE8, 4, 0xF4]), [0xFA, 0xFE, 0xFA]);
    assert_eq!(command(&mut mouse, &[0xE9]), [0xFA, 0x20, 2, 60]);
}

#[test]
fn a_command_ends_the_packet_on_its_way_and_resend_brings_it_back() {
    let mut mouse = streaming(&[]);
    assert_eq!(command(&mut mouse, &[0xFE]), [0xFA]);
    mouse.move_by(9, 0, 0, 0);
    mouse.advance(0);
    assert_eq!(mouse.pop(), Some(0x08));
    mouse.command(0xFE);
    assert_eq!(drain(&mut mouse), [0x08, 9, 0]);
    mouse.move_by(9, 0, 0, 0);
    mouse.advance(SECOND);
    mouse.pop();
    assert_eq!(command(&mut mouse, &[0xF2]), [0xFA, 0]);
    assert_eq!(packets(&mut mouse), Vec::<Vec<u8>>::new());
}

#[test]
fn a_guest_that_does_not_read_fills_nothing_up() {
    let mut mouse = streaming(&[]);
    (0..1000).for_each(|_| mouse.command(0xEB));
    (0..1000).for_each(|n| mouse.move_by(1, 1, 0, n as u8));
    assert!(drain(&mut mouse).len() <= 16);
    assert!(mouse.reports.len() <= MOST_REPORTS);
}
