"""Key symbols of X11, which RFB clients send: RFC 6143, section 7.5.4, and X11's keysymdef.h."""

from __future__ import annotations

from typing import Final

from wirt.display.keymaps import KEYS

CAPS_LOCK: Final = 0xFFE5
LEVEL3: Final = frozenset({0xFE03, 0xFF7E})
"""ISO_Level3_Shift and Mode_switch: AltGr, as opposed to the right Alt."""

_NAMES: Final = {
    0xFE03: "alt_r",  # ISO_Level3_Shift
    0xFE20: "tab",  # ISO_Left_Tab, with Shift
    0xFF08: "backspace",
    0xFF09: "tab",
    0xFF0A: "ret",  # Linefeed
    0xFF0D: "ret",
    0xFF13: "pause",
    0xFF14: "scroll_lock",
    0xFF15: "sysrq",
    0xFF1B: "esc",
    0xFF50: "home",
    0xFF51: "left",
    0xFF52: "up",
    0xFF53: "right",
    0xFF54: "down",
    0xFF55: "pgup",
    0xFF56: "pgdn",
    0xFF57: "end",
    0xFF61: "print",
    0xFF63: "insert",
    0xFF67: "menu",
    0xFF6B: "pause",  # Break
    0xFF7E: "alt_r",  # Mode_switch
    0xFF7F: "num_lock",
    # The keypad with Num Lock off: the grey keys mean the same whatever the guest's Num Lock is.
    0xFF8D: "kp_enter",
    0xFF95: "home",
    0xFF96: "left",
    0xFF97: "up",
    0xFF98: "right",
    0xFF99: "down",
    0xFF9A: "pgup",
    0xFF9B: "pgdn",
    0xFF9C: "end",
    0xFF9D: "kp_5",  # KP_Begin
    0xFF9E: "insert",
    0xFF9F: "delete",
    0xFFAA: "kp_multiply",
    0xFFAB: "kp_add",
    0xFFAC: "kp_decimal",  # KP_Separator
    0xFFAD: "kp_subtract",
    0xFFAE: "kp_decimal",
    0xFFAF: "kp_divide",
    **{0xFFB0 + digit: f"kp_{digit}" for digit in range(10)},
    **{0xFFBD + number: f"f{number}" for number in range(1, 13)},
    0xFFE1: "shift",
    0xFFE2: "shift_r",
    0xFFE3: "ctrl",
    0xFFE4: "ctrl_r",
    CAPS_LOCK: "caps_lock",
    0xFFE7: "meta_l",
    0xFFE8: "meta_r",
    0xFFE9: "alt",
    0xFFEA: "alt_r",
    0xFFEB: "meta_l",  # Super_L
    0xFFEC: "meta_r",  # Super_R
    0xFFFF: "delete",
}
CODES: Final = {keysym: KEYS[name] for keysym, name in _NAMES.items()}
"""Keys that are the same in every layout."""

_CHARACTERS: Final = {
    0x20AC: "€",
    0xFE50: "\u0300",  # dead_grave
    0xFE51: "\u0301",  # dead_acute
    0xFE52: "\u0302",  # dead_circumflex
    0xFE53: "\u0303",  # dead_tilde
    0xFE57: "\u0308",  # dead_diaeresis
}


def character_of(keysym: int) -> str | None:
    """Return the character that a key symbol stands for, a combining one for a dead key; None: for none."""
    if 0x20 <= keysym <= 0x7E or 0xA0 <= keysym <= 0xFF:
        return chr(keysym)
    if 0x0100_0020 <= keysym <= 0x0110_FFFF:
        return chr(keysym - 0x0100_0000)
    return _CHARACTERS.get(keysym)
