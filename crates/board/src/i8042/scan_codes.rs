//! Scan codes. A key is named by its code in set 1, with bit 7 set where E0 goes before that. IBM PS/2 Hardware
//! Interface Technical Reference, "Keyboards (101- and 102-Key)"; Microsoft, "Keyboard Scan Code Specification" 1.3a.

/// Keys that are treated in a way of their own.
pub(super) mod key {
    pub const LEFT_CTRL: u8 = 0x1D;
    pub const RIGHT_CTRL: u8 = 0x9D;
    pub const LEFT_SHIFT: u8 = 0x2A;
    pub const RIGHT_SHIFT: u8 = 0x36;
    pub const LEFT_ALT: u8 = 0x38;
    pub const RIGHT_ALT: u8 = 0xB8;
    /// Print Screen while Alt is held.
    pub const SYS_RQ: u8 = 0x54;
    pub const HANJA: u8 = 0x71;
    pub const HANGUL: u8 = 0x72;
    pub const KEYPAD_DIVIDE: u8 = 0xB5;
    pub const PRINT_SCREEN: u8 = 0xB7;
    /// With Ctrl held the key is Break, which has this code; alone it sends [`super::pause`].
    pub const PAUSE: u8 = 0xC6;
    /// What stands for a shift key that is pressed or released only to make up for the keyboard's other layout.
    pub const fn fake(shift: u8) -> u8 {
        shift | 0x80
    }
}

/// F7 and SysRq have codes beyond the table's end in set 2.
const F7: (u8, u8) = (0x41, 0x83);
const SYS_RQ: (u8, u8) = (key::SYS_RQ, 0x84);

/// The controller's translation of codes from set 2 to set 1, for those below 0x80.
const TRANSLATION: [u8; 128] = [
    0xFF, 0x43, 0x41, 0x3F, 0x3D, 0x3B, 0x3C, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3E, 0x0F, 0x29, 0x59, // 0x00
    0x65, 0x38, 0x2A, 0x70, 0x1D, 0x10, 0x02, 0x5A, 0x66, 0x71, 0x2C, 0x1F, 0x1E, 0x11, 0x03, 0x5B, // 0x10
    0x67, 0x2E, 0x2D, 0x20, 0x12, 0x05, 0x04, 0x5C, 0x68, 0x39, 0x2F, 0x21, 0x14, 0x13, 0x06, 0x5D, // 0x20
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5E, 0x6A, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5F, // 0x30
    0x6B, 0x33, 0x25, 0x17, 0x18, 0x0B, 0x0A, 0x60, 0x6C, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0C, 0x61, // 0x40
    0x6D, 0x73, 0x28, 0x74, 0x1A, 0x0D, 0x62, 0x6E, 0x3A, 0x36, 0x1C, 0x1B, 0x75, 0x2B, 0x63, 0x76, // 0x50
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7A, 0x0E, 0x7B, 0x7C, 0x4F, 0x7D, 0x4B, 0x47, 0x7E, 0x7F, 0x6F, // 0x60
    0x52, 0x53, 0x50, 0x4C, 0x4D, 0x48, 0x01, 0x45, 0x57, 0x4E, 0x51, 0x4A, 0x37, 0x49, 0x46, 0x54, // 0x70
];

/// Codes of set 2 by those of set 1: the opposite of the translation.
const SET_2: [u8; 128] = {
    let mut table = [0; 128];
    let mut code = 1;
    while code < TRANSLATION.len() {
        table[TRANSLATION[code] as usize] = code as u8;
        code += 1;
    }
    table[F7.0 as usize] = F7.1;
    table[SYS_RQ.0 as usize] = SYS_RQ.1;
    table
};

/// Codes of set 3 by keys; 0 where there is none.
const SET_3: [u8; 256] = {
    let mut table = [0; 256];
    let mut row = 0;
    while row < SET_3_ROWS.len() {
        let (first, codes) = SET_3_ROWS[row];
        let mut index = 0;
        while index < codes.len() {
            table[first as usize + index] = codes[index];
            index += 1;
        }
        row += 1;
    }
    table
};

/// Keys in a row, from the first on.
const SET_3_ROWS: &[(u8, &[u8])] = &[
    // Esc, the digits, - = Backspace.
    (0x01, &[0x08, 0x16, 0x1E, 0x26, 0x25, 0x2E, 0x36, 0x3D, 0x3E, 0x46, 0x45, 0x4E, 0x55, 0x66]),
    // Tab, Q to ], Enter, left Ctrl.
    (0x0F, &[0x0D, 0x15, 0x1D, 0x24, 0x2D, 0x2C, 0x35, 0x3C, 0x43, 0x44, 0x4D, 0x54, 0x5B, 0x5A, 0x11]),
    // A to ', `, left Shift, \.
    (0x1E, &[0x1C, 0x1B, 0x23, 0x2B, 0x34, 0x33, 0x3B, 0x42, 0x4B, 0x4C, 0x52, 0x0E, 0x12, 0x5C]),
    // Z to /, right Shift, keypad *, left Alt, space, Caps Lock.
    (0x2C, &[0x1A, 0x22, 0x21, 0x2A, 0x32, 0x31, 0x3A, 0x41, 0x49, 0x4A, 0x59, 0x7E, 0x19, 0x29, 0x14]),
    // F1 to F10, Num Lock, Scroll Lock.
    (0x3B, &[0x07, 0x0F, 0x17, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x47, 0x4F, 0x76, 0x5F]),
    // The keypad from 7 to the point.
    (0x47, &[0x6C, 0x75, 0x7D, 0x84, 0x6B, 0x73, 0x74, 0x7C, 0x69, 0x72, 0x7A, 0x70, 0x71]),
    // SysRq, and behind a gap the key beside the left Shift, F11, F12.
    (key::SYS_RQ, &[0x57, 0x00, 0x13, 0x56, 0x5E]),
    // Japanese: Katakana, Ro, Henkan, Muhenkan, Yen.
    (0x70, &[0x87]),
    (0x73, &[0x51]),
    (0x79, &[0x86]),
    (0x7B, &[0x85]),
    (0x7D, &[0x5D]),
    // Keypad Enter, right Ctrl, keypad /, Print Screen, right Alt.
    (0x9C, &[0x79, 0x58]),
    (key::KEYPAD_DIVIDE, &[0x77]),
    (key::PRINT_SCREEN, &[0x57, 0x39]),
    // Pause, Home, up, Page Up.
    (key::PAUSE, &[0x62, 0x6E, 0x63, 0x6F]),
    // Left, right, End, down, Page Down, Insert, Delete.
    (0xCB, &[0x61]),
    (0xCD, &[0x6A]),
    (0xCF, &[0x65, 0x60, 0x6D, 0x67, 0x64]),
    // The Windows keys, the menu key.
    (0xDB, &[0x8B, 0x8C, 0x8D]),
    // Previous and next track, mute, calculator, stop, volume down, volume up, home page.
    (0x90, &[0x94]),
    (0x99, &[0x93]),
    (0xA0, &[0x9C, 0xA3]),
    (0xA4, &[0x98]),
    (0xAE, &[0x9D]),
    (0xB0, &[0x95]),
    (0xB2, &[0x97]),
    // F13 to F15.
    (0x5D, &[0x7F, 0x80, 0x81]),
];

/// Codes of set 3 whose keys repeat and have no break code after a reset.
pub(super) const SET_3_TYPEMATIC: &[u8] = &[
    0x0D, 0x0E, 0x13, 0x15, 0x16, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x29, 0x2A, 0x2B,
    0x2C, 0x2D, 0x2E, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x41, 0x42, 0x43, 0x44, 0x45,
    0x46, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x51, 0x52, 0x54, 0x55, 0x5A, 0x5B, 0x5C, 0x5D, 0x60, 0x61, 0x63, 0x64,
    0x66, 0x6A, 0x7C,
];
/// Codes of set 3 whose keys have a break code and do not repeat after a reset: Ctrl, Shift, Alt, Caps Lock.
pub(super) const SET_3_MAKE_BREAK: &[u8] = &[0x11, 0x12, 0x14, 0x19, 0x59];

/// What the controller makes of a byte from the keyboard while it translates; 0xF0 is its own affair.
pub(super) fn translate(byte: u8) -> u8 {
    match byte {
        _ if byte == F7.1 => F7.0,
        _ if byte == SYS_RQ.1 => SYS_RQ.0,
        0x80.. => byte,
        _ => TRANSLATION[usize::from(byte)],
    }
}

/// Appends what a key sends in set 1 or 2. [`key::PAUSE`] is taken for Break.
pub(super) fn stroke(set: u8, code: u8, down: bool, bytes: &mut Vec<u8>) {
    if let key::HANJA | key::HANGUL = code {
        // One byte in both sets, that stands for press and release.
        if down {
            bytes.push(code | 0x80);
        }
        return;
    }
    if code & 0x80 != 0 {
        bytes.push(0xE0);
    }
    let base = code & 0x7F;
    match (set, down) {
        (1, true) => bytes.push(base),
        (1, false) => bytes.push(base | 0x80),
        (_, true) => bytes.push(SET_2[usize::from(base)]),
        (_, false) => bytes.extend([0xF0, SET_2[usize::from(base)]]),
    }
}

/// What Pause sends in set 1 or 2 when it is pressed; its release sends nothing.
pub(super) fn pause(set: u8) -> &'static [u8] {
    if set == 1 { &[0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5] } else { &[0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77] }
}

/// The code of a key in set 3, if it has one.
pub(super) fn set_3(code: u8) -> Option<u8> {
    match SET_3[usize::from(code)] {
        0 => None,
        code => Some(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn sent(set: u8, code: u8, down: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        stroke(set, code, down, &mut bytes);
        bytes
    }

    #[test]
    fn translated_set_2_is_set_1_for_every_key() {
        for code in (1..=0xFF).filter(|code| code & 0x7F != 0) {
            for down in [true, false] {
                let mut translated = Vec::new();
                let mut mark = 0;
                for byte in sent(2, code, down) {
                    if byte == 0xF0 {
                        mark = 0x80;
                    } else {
                        translated.push(translate(byte) | mark);
                    }
                }
                assert_eq!(translated, sent(1, code, down), "{code:#x}");
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        // A, F7, keypad Enter, left Windows key, volume up, the key beside the left Shift.
        let keys = [0x1E, 0x41, 0x9C, 0xDB, 0xB0, 0x56];
        let set_2: [&[u8]; 6] = [&[0x1C], &[0x83], &[0xE0, 0x5A], &[0xE0, 0x1F], &[0xE0, 0x32], &[0x61]];
        assert_eq!(keys.map(|code| sent(2, code, true)), set_2);
        assert_eq!(keys.map(set_3), [0x1C, 0x37, 0x79, 0x8B, 0x95, 0x13].map(Some));
        assert_eq!(sent(2, 0x9C, false), [0xE0, 0xF0, 0x5A]);
        assert_eq!(sent(1, 0x9C, false), [0xE0, 0x9C]);
        assert_eq!(sent(2, key::HANGUL, true), [0xF2]);
    }

    #[test]
    fn no_two_keys_share_a_code_in_set_3() {
        let codes: Vec<u8> = (0..=0xFF).filter(|&code| code != key::SYS_RQ).filter_map(set_3).collect();
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
        let types: HashSet<&u8> = SET_3_TYPEMATIC.iter().chain(SET_3_MAKE_BREAK).collect();
        assert_eq!(types.len(), SET_3_TYPEMATIC.len() + SET_3_MAKE_BREAK.len());
        assert!(types.iter().all(|code| codes.contains(code)));
    }
}
