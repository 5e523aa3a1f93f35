//! Keys' usages on the keyboard page. *HID Usage Tables* 1.12, section 10; Microsoft, "Keyboard Scan Code Specification"
//! 1.3a, appendix C.

/// The usage of left Ctrl. Behind it: left Shift, Alt and GUI, then the four on the right.
pub(crate) const LEFT_CTRL: u8 = 0xE0;
/// The last of them.
pub(crate) const RIGHT_GUI: u8 = 0xE7;

/// Usages by the keys' codes as [`board::I8042::key`] takes them; 0 where there is no key.
const USAGES: [u8; 256] = {
    let mut table = [0; 256];
    let mut row = 0;
    while row < ROWS.len() {
        let (first, usages) = ROWS[row];
        let mut index = 0;
        while index < usages.len() {
            table[first as usize + index] = usages[index];
            index += 1;
        }
        row += 1;
    }
    table
};

/// Keys in a row, from the first on.
const ROWS: &[(u8, &[u8])] = &[
    // Esc, the digits, - = Backspace.
    (0x01, &[0x29, 0x1E, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2D, 0x2E, 0x2A]),
    // Tab, Q to ], Enter, left Ctrl.
    (0x0F, &[0x2B, 0x14, 0x1A, 0x08, 0x15, 0x17, 0x1C, 0x18, 0x0C, 0x12, 0x13, 0x2F, 0x30, 0x28, LEFT_CTRL]),
    // A to ', `, left Shift, \.
    (0x1E, &[0x04, 0x16, 0x07, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F, 0x33, 0x34, 0x35, 0xE1, 0x31]),
    // Z to /, right Shift, keypad *, left Alt, space, Caps Lock.
    (0x2C, &[0x1D, 0x1B, 0x06, 0x19, 0x05, 0x11, 0x10, 0x36, 0x37, 0x38, 0xE5, 0x55, 0xE2, 0x2C, 0x39]),
    // F1 to F10, Num Lock, Scroll Lock.
    (0x3B, &[0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F, 0x40, 0x41, 0x42, 0x43, 0x53, 0x47]),
    // The keypad from 7 to the point.
    (0x47, &[0x5F, 0x60, 0x61, 0x56, 0x5C, 0x5D, 0x5E, 0x57, 0x59, 0x5A, 0x5B, 0x62, 0x63]),
    // SysRq is Print Screen's key; behind a gap the key beside the left Shift, F11, F12, keypad =.
    (0x54, &[0x46, 0x00, 0x64, 0x44, 0x45, 0x67]),
    // F13 to F15.
    (0x5D, &[0x68, 0x69, 0x6A]),
    // Japanese and Korean: Katakana, Hanja, Hangul, Ro, Henkan, Muhenkan, Yen, keypad comma.
    (0x70, &[0x88, 0x91, 0x90, 0x87]),
    (0x79, &[0x8A]),
    (0x7B, &[0x8B]),
    (0x7D, &[0x89, 0x85]),
    // Keypad Enter, right Ctrl.
    (0x9C, &[0x58, 0xE4]),
    // Mute, volume down, volume up.
    (0xA0, &[0x7F]),
    (0xAE, &[0x81]),
    (0xB0, &[0x80]),
    // Keypad /, Print Screen, right Alt.
    (0xB5, &[0x54]),
    (0xB7, &[0x46, 0xE6]),
    // Pause, Home, up, Page Up.
    (0xC6, &[0x48, 0x4A, 0x52, 0x4B]),
    // Left, right, End, down, Page Down, Insert, Delete.
    (0xCB, &[0x50]),
    (0xCD, &[0x4F]),
    (0xCF, &[0x4D, 0x51, 0x4E, 0x49, 0x4C]),
    // The Windows keys, the menu key, power.
    (0xDB, &[0xE3, 0xE7, 0x65, 0x66]),
];

/// The usage of a key by its code in scan code set 1, with 0x80 for those behind E0.
pub(crate) fn usage(code: u8) -> Option<u8> {
    match USAGES[usize::from(code)] {
        0 => None,
        usage => Some(usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn usages_are_those_of_the_specification() {
        // A, Z, 1, 0, Enter, F7, keypad 5, the key beside the left Shift, right Alt, up, Pause, the menu key.
        let keys = [0x1E, 0x2C, 0x02, 0x0B, 0x1C, 0x41, 0x4C, 0x56, 0xB8, 0xC8, 0xC6, 0xDD];
        let usages = [0x04, 0x1D, 0x1E, 0x27, 0x28, 0x40, 0x5D, 0x64, 0xE6, 0x52, 0x48, 0x65];
        assert_eq!(keys.map(usage), usages.map(Some));
        assert_eq!([0x00, 0x80, 0xFF].map(usage), [None; 3]);
    }

    #[test]
    fn no_two_keys_share_a_usage_but_print_screen_and_sysrq() {
        let mut codes: HashMap<u8, Vec<u8>> = HashMap::new();
        for code in 0..=0xFF {
            if let Some(usage) = usage(code) {
                codes.entry(usage).or_default().push(code);
            }
        }
        codes.retain(|_, codes| codes.len() > 1);
        assert_eq!(codes, HashMap::from([(0x46, vec![0x54, 0xB7])]));
    }

    #[test]
    fn every_key_of_a_105_key_keyboard_has_a_usage() {
        let codes: Vec<u8> = (0..=0xFF).filter_map(usage).collect();
        for expected in (0x04..=0x31).chain(0x33..=0x65).chain(LEFT_CTRL..=RIGHT_GUI) {
            assert!(codes.contains(&expected), "{expected:#x}");
        }
    }
}
