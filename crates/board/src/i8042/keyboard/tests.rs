use super::*;

const MS: u64 = SECOND / 1000;
const A: u8 = 0x1E;
const DOWN_ARROW: u8 = 0xD0;
const HOME: u8 = 0xC7;

fn drain(keyboard: &mut Keyboard) -> Vec<u8> {
    std::iter::from_fn(|| keyboard.pop()).collect()
}

fn command(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().for_each(|&byte| keyboard.command(byte));
    drain(keyboard)
}

fn in_set(set: u8) -> Keyboard {
    let mut keyboard = Keyboard::default();
    assert_eq!(command(&mut keyboard, &[0xF0, set]), [0xFA, 0xFA]);
    keyboard
}

/// What pressing the keys in this order and releasing them in the opposite one sends, from the last press on.
fn chord(keyboard: &mut Keyboard, held: &[u8], code: u8) -> (Vec<u8>, Vec<u8>) {
    held.iter().for_each(|&code| keyboard.key(code, true, 0));
    drain(keyboard);
    keyboard.key(code, true, 0);
    let make = drain(keyboard);
    keyboard.key(code, false, 0);
    let brk = drain(keyboard);
    held.iter().for_each(|&code| keyboard.key(code, false, 0));
    drain(keyboard);
    (make, brk)
}

#[test]
fn keys_are_reported_in_the_set_that_was_chosen() {
    let sent = |set, code| chord(&mut in_set(set), &[], code);
    assert_eq!(sent(1, A), (vec![0x1E], vec![0x9E]));
    assert_eq!(sent(2, A), (vec![0x1C], vec![0xF0, 0x1C]));
    assert_eq!(sent(1, key::RIGHT_CTRL), (vec![0xE0, 0x1D], vec![0xE0, 0x9D]));
    assert_eq!(sent(2, key::RIGHT_CTRL), (vec![0xE0, 0x14], vec![0xE0, 0xF0, 0x14]));
    // By their types after a reset: typematic, make/break, make.
    assert_eq!(sent(3, A), (vec![0x1C], vec![]));
    assert_eq!(sent(3, key::LEFT_SHIFT), (vec![0x12], vec![0xF0, 0x12]));
    assert_eq!(sent(3, key::RIGHT_CTRL), (vec![0x58], vec![]));
    assert_eq!(sent(3, key::PAUSE), (vec![0x62], vec![]));
}

#[test]
fn pause_and_print_screen_depend_on_what_is_held() {
    let first = |set, held: &[u8], code| chord(&mut in_set(set), held, code);
    assert_eq!(first(1, &[], key::PAUSE), (vec![0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5], vec![]));
    assert_eq!(first(2, &[], key::PAUSE), (vec![0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77], vec![]));
    assert_eq!(first(1, &[key::LEFT_CTRL], key::PAUSE), (vec![0xE0, 0x46, 0xE0, 0xC6], vec![]));
    assert_eq!(first(2, &[key::RIGHT_CTRL], key::PAUSE), (vec![0xE0, 0x7E, 0xE0, 0xF0, 0x7E], vec![]));
    assert_eq!(first(1, &[], key::PRINT_SCREEN), (vec![0xE0, 0x2A, 0xE0, 0x37], vec![0xE0, 0xB7, 0xE0, 0xAA]));
    let set_2 = (vec![0xE0, 0x12, 0xE0, 0x7C], vec![0xE0, 0xF0, 0x7C, 0xE0, 0xF0, 0x12]);
    assert_eq!(first(2, &[], key::PRINT_SCREEN), set_2);
    for held in [key::LEFT_CTRL, key::RIGHT_SHIFT] {
        assert_eq!(first(1, &[held], key::PRINT_SCREEN), (vec![0xE0, 0x37], vec![0xE0, 0xB7]));
    }
    assert_eq!(first(1, &[key::LEFT_ALT], key::PRINT_SCREEN), (vec![0x54], vec![0xD4]));
    assert_eq!(first(2, &[key::RIGHT_ALT], key::PRINT_SCREEN), (vec![0x84], vec![0xF0, 0x84]));
}

#[test]
fn sysrq_is_released_as_what_it_was_pressed_as() {
    let mut keyboard = in_set(1);
    for (code, down) in [(key::LEFT_ALT, true), (key::PRINT_SCREEN, true), (key::LEFT_ALT, false)] {
        keyboard.key(code, down, 0);
        keyboard.key(key::PRINT_SCREEN, true, 0);
    }
    keyboard.key(key::PRINT_SCREEN, false, 0);
    assert_eq!(drain(&mut keyboard), [0x38, 0x54, 0xB8, 0xD4]);
    assert_eq!(keyboard.next_event(), None);
}

#[test]
fn keys_beside_the_keypad_make_up_for_shift_and_num_lock() {
    let mut keyboard = in_set(1);
    assert_eq!(chord(&mut keyboard, &[], DOWN_ARROW), (vec![0xE0, 0x50], vec![0xE0, 0xD0]));
    let both = [key::LEFT_SHIFT, key::RIGHT_SHIFT];
    let shifted = (vec![0xE0, 0xAA, 0xE0, 0xB6, 0xE0, 0x50], vec![0xE0, 0xD0, 0xE0, 0x2A, 0xE0, 0x36]);
    assert_eq!(chord(&mut keyboard, &both, DOWN_ARROW), shifted);
    let divide = (vec![0xE0, 0xB6, 0xE0, 0x35], vec![0xE0, 0xB5, 0xE0, 0x36]);
    assert_eq!(chord(&mut keyboard, &[key::RIGHT_SHIFT], key::KEYPAD_DIVIDE), divide);
    command(&mut keyboard, &[0xED, NUM_LOCK]);
    assert_eq!(chord(&mut keyboard, &both, HOME), (vec![0xE0, 0x47], vec![0xE0, 0xC7]));
    assert_eq!(chord(&mut keyboard, &[], HOME), (vec![0xE0, 0x2A, 0xE0, 0x47], vec![0xE0, 0xC7, 0xE0, 0xAA]));
    // The shift it pressed is released also when Num Lock is off by then.
    keyboard.key(HOME, true, 0);
    command(&mut keyboard, &[0xED, 0]);
    keyboard.key(HOME, false, 0);
    assert_eq!(drain(&mut keyboard), [0xE0, 0xC7, 0xE0, 0xAA]);
}

#[test]
fn what_changes_nothing_or_is_no_key_sends_nothing() {
    let mut keyboard = Keyboard::default();
    for (code, down) in [(A, false), (0, true), (0x80, true)] {
        keyboard.key(code, down, 0);
    }
    assert_eq!(drain(&mut keyboard), []);
    keyboard.key(A, true, 0);
    keyboard.key(A, true, 0);
    assert_eq!(drain(&mut keyboard), [0x1C]);
}

#[test]
fn commands_are_answered() {
    let mut keyboard = Keyboard::default();
    assert_eq!(command(&mut keyboard, &[0xFF]), [0xFA, 0xAA]);
    assert_eq!(command(&mut keyboard, &[0xEE]), [0xEE]);
    assert_eq!(command(&mut keyboard, &[0xF2]), [0xFA, 0xAB, 0x83]);
    assert_eq!(command(&mut keyboard, &[0xF0, 0]), [0xFA, 0xFA, 2]);
    assert_eq!(command(&mut keyboard, &[0xF0, 3, 0xF0, 0]), [0xFA, 0xFA, 0xFA, 0xFA, 3]);
    assert_eq!(command(&mut keyboard, &[0xED, 5]), [0xFA, 0xFA]);
    assert_eq!(keyboard.leds(), 5);
    // A command in place of a parameter is a command, and what is neither is refused.
    assert_eq!(command(&mut keyboard, &[0xED, 0xF4]), [0xFA, 0xFA]);
    assert_eq!(command(&mut keyboard, &[0xED, 0x80]), [0xFA, 0xFE]);
    assert_eq!(command(&mut keyboard, &[0xF0, 4]), [0xFA, 0xFE]);
    assert_eq!(command(&mut keyboard, &[0x00, 0xEF, 0xF1]), [0xFE, 0xFE, 0xFE]);
    assert_eq!(keyboard.leds(), 5);
    assert_eq!(command(&mut keyboard, &[0xF6, 0xF0, 0]), [0xFA, 0xFA, 0xFA, 2]);
    assert_eq!(keyboard.leds(), 0);
}

#[test]
fn resend_repeats_the_last_byte_that_was_no_refusal() {
    let mut keyboard = Keyboard::default();
    assert_eq!(command(&mut keyboard, &[0xFE]), [0xAA]);
    assert_eq!(command(&mut keyboard, &[0xF2]), [0xFA, 0xAB, 0x83]);
    assert_eq!(command(&mut keyboard, &[0x01]), [0xFE]);
    assert_eq!(command(&mut keyboard, &[0xFE]), [0x83]);
    keyboard.key(A, true, 0);
    drain(&mut keyboard);
    assert_eq!(command(&mut keyboard, &[0xFE]), [0x1C]);
}

#[test]
fn answers_go_before_scan_codes_and_some_commands_drop_those() {
    let mut keyboard = Keyboard::default();
    keyboard.key(A, true, 0);
    assert_eq!(command(&mut keyboard, &[0xED, 2]), [0xFA, 0xFA, 0x1C]);
    for command_bytes in [&[0xF4][..], &[0xF5], &[0xF6], &[0xF8], &[0xF0, 1], &[0xFF]] {
        let mut keyboard = Keyboard::default();
        keyboard.key(A, true, 0);
        let answer = command(&mut keyboard, command_bytes);
        assert!(!answer.contains(&0x1C), "{command_bytes:x?}");
        assert_eq!(keyboard.next_event(), None);
    }
}

#[test]
fn a_disabled_keyboard_forgets_keys_until_it_is_enabled() {
    let mut keyboard = Keyboard::default();
    assert_eq!(command(&mut keyboard, &[0xF5]), [0xFA]);
    keyboard.key(A, true, 0);
    assert_eq!(drain(&mut keyboard), []);
    assert_eq!(command(&mut keyboard, &[0xF6]), [0xFA]);
    keyboard.key(0x30, true, 0);
    assert_eq!(drain(&mut keyboard), []);
    assert_eq!(command(&mut keyboard, &[0xF4]), [0xFA]);
    keyboard.key(A, false, 0);
    assert_eq!(drain(&mut keyboard), [0xF0, 0x1C]);
}

#[test]
fn the_last_key_repeats_after_the_delay_at_the_rate() {
    let mut keyboard = Keyboard::default();
    // 750 ms, then (8 + 2) * 2 / 240 s.
    command(&mut keyboard, &[0xF3, 2 << 5 | 1 << 3 | 2]);
    keyboard.key(0x30, true, 0);
    keyboard.key(A, true, 1000 * MS);
    drain(&mut keyboard);
    assert_eq!(keyboard.next_event(), Some(1750 * MS));
    keyboard.advance(1750 * MS - 1);
    assert_eq!(drain(&mut keyboard), []);
    keyboard.advance(1750 * MS);
    assert_eq!(drain(&mut keyboard), [0x1C]);
    assert_eq!(keyboard.next_event(), Some(1750 * MS + SECOND / 12));
    // Another key's release leaves it, its own ends it.
    keyboard.key(0x30, false, 1800 * MS);
    assert_eq!(drain(&mut keyboard), [0xF0, 0x32]);
    keyboard.advance(1900 * MS);
    assert_eq!(drain(&mut keyboard), [0x1C]);
    keyboard.key(A, false, 1950 * MS);
    assert_eq!(keyboard.next_event(), None);
}

#[test]
fn the_programmed_rates_are_those_of_the_table() {
    for (byte, delay_ms, period_us) in
        [(0x00, 250, 33_333), (0x0B, 250, 91_666), (0x2B, 500, 91_666), (0x7F, 1000, 500_000)]
    {
        let mut keyboard = Keyboard::default();
        command(&mut keyboard, &[0xF3, byte]);
        keyboard.key(A, true, 0);
        drain(&mut keyboard);
        assert_eq!(keyboard.next_event(), Some(delay_ms * MS), "{byte:#x}");
        keyboard.advance(delay_ms * MS);
        drain(&mut keyboard);
        let period = keyboard.next_event().unwrap() - delay_ms * MS;
        assert_eq!(period / 1000, period_us, "{byte:#x}");
    }
}

#[test]
fn nothing_repeats_while_codes_wait() {
    let mut keyboard = Keyboard::default();
    keyboard.key(A, true, 0);
    assert_eq!(keyboard.next_event(), None);
    (0..100).for_each(|n| keyboard.advance(n * SECOND));
    assert_eq!(drain(&mut keyboard), [0x1C]);
    // Late as it is, it repeats once and goes on from there.
    keyboard.advance(100 * SECOND);
    assert_eq!(drain(&mut keyboard), [0x1C]);
    assert!(keyboard.next_event().unwrap() > 100 * SECOND);
}

#[test]
fn only_the_codes_proper_of_a_key_repeat() {
    let mut keyboard = in_set(2);
    command(&mut keyboard, &[0xED, NUM_LOCK]);
    keyboard.key(HOME, true, 0);
    assert_eq!(drain(&mut keyboard), [0xE0, 0x12, 0xE0, 0x6C]);
    keyboard.advance(SECOND);
    assert_eq!(drain(&mut keyboard), [0xE0, 0x6C]);
    keyboard.key(key::PAUSE, true, SECOND);
    drain(&mut keyboard);
    assert_eq!(keyboard.next_event(), None, "Pause does not repeat");
}

#[test]
fn set_3_has_types_of_keys() {
    let mut keyboard = in_set(3);
    let mut kinds = |bytes: &[u8]| {
        assert_eq!(command(&mut keyboard, bytes), vec![0xFA; bytes.len()]);
        keyboard.key(A, true, 0);
        let (make, repeats) = (drain(&mut keyboard), keyboard.next_event().is_some());
        keyboard.key(A, false, 0);
        let brk = drain(&mut keyboard);
        assert_eq!(make, [0x1C]);
        (repeats, !brk.is_empty())
    };
    assert_eq!(kinds(&[0xF7]), (true, false));
    assert_eq!(kinds(&[0xF8]), (false, true));
    assert_eq!(kinds(&[0xF9]), (false, false));
    assert_eq!(kinds(&[0xFA]), (true, true));
    assert_eq!(kinds(&[0xFC, 0x1C, 0x32]), (false, true));
    assert_eq!(kinds(&[0xFB, 0x32, 0x1C]), (true, false));
    assert_eq!(kinds(&[0xFD, 0x1C, 0xF4]), (false, false));
    assert_eq!(kinds(&[0xF6, 0xF0, 3]), (true, false), "defaults are back");
}

#[test]
fn what_does_not_fit_becomes_one_overrun_code() {
    for (set, overrun) in [(1, 0xFF), (2, 0x00), (3, 0x00)] {
        let mut keyboard = in_set(set);
        command(&mut keyboard, &[0xFA]);
        for n in 0..1000 {
            keyboard.key(A, n % 2 == 0, 0);
        }
        let codes = drain(&mut keyboard);
        assert!(codes.len() <= CODES);
        assert_eq!(codes.iter().filter(|&&code| code == overrun).count(), 1);
        assert_eq!(codes.last(), Some(&overrun));
        keyboard.key(A, true, 0);
        assert_eq!(drain(&mut keyboard), [if set == 1 { 0x1E } else { 0x1C }]);
    }
}

#[test]
fn a_guest_that_does_not_read_answers_fills_nothing_up() {
    let mut keyboard = Keyboard::default();
    (0..1000).for_each(|_| keyboard.command(0xF2));
    assert!(drain(&mut keyboard).len() <= ANSWERS);
}
