# ruff: noqa: RUF001 -- accents are what this file is about.
"""Which keys give a character on a keyboard with a given layout, and keys by their names.

Codes are those of `wirt.display.screen.Keyboard`. What is on the keys was taken from XKB's layouts
(xkeyboard-config), as far as it is printed on common keyboards. Another layout is an entry in LAYOUTS.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from wirt.errors import UsageError

SHIFT: Final = 0x2A
SHIFT_R: Final = 0x36
ALTGR: Final = 0xB8
SPACE: Final = 0x39

_NOTHING: Final = "□"
_DEAD: Final = {"ˋ": "\u0300", "ˊ": "\u0301", "ˆ": "\u0302", "˜": "\u0303", "¨": "\u0308"}
"""How a dead key is drawn below, and the combining character it stands for."""
_ACCENTS: Final = {"`": "\u0300", "´": "\u0301", "^": "\u0302", "~": "\u0303", "¨": "\u0308"}
"""What a dead key gives when Space follows."""
_CODES: Final = (
    *(0x29, *range(0x02, 0x0E)),
    *range(0x10, 0x1C),
    *(*range(0x1E, 0x29), 0x2B),
    *(0x56, *range(0x2C, 0x36)),
)
"""The keys of the tables: digits, and three rows of letters. 0x2B is left of Return, 0x56 right of Shift."""
_WHITE: Final = {" ": SPACE, "\t": 0x0F, "\n": 0x1C, "\r": 0x1C}


class Stroke(NamedTuple):
    """A key with what has to be held for a character."""

    code: int
    shift: bool
    altgr: bool
    letter: bool
    """Whether Caps Lock does what Shift does."""


class Layout:
    """A keyboard layout: what the keys give alone, with Shift and with AltGr.

    Each table is four rows, of 13, 12, 12 and 11 keys, with spaces between.
    """

    def __init__(self, plain: str, shift: str, altgr: str = _NOTHING * 48) -> None:
        self._strokes: dict[str, Stroke] = {
            white: Stroke(code, False, False, False) for white, code in _WHITE.items()
        }
        plain, shift, altgr = (table.replace(" ", "") for table in (plain, shift, altgr))
        for level, table in enumerate((plain, shift, altgr)):
            for code, character, lower, upper in zip(_CODES, table, plain, shift, strict=True):
                letter = level < 2 and lower != upper and lower.upper() == upper
                stroke = Stroke(code, level == 1, level == 2, letter)
                if character != _NOTHING:
                    self._strokes.setdefault(_DEAD.get(character, character), stroke)

    def strokes(self, character: str) -> list[Stroke]:
        """Return the strokes that give `character`; none: it is on no key.

        There are two where a dead key is the first. A combining character stands for the dead key alone.
        """
        if stroke := self._strokes.get(character):
            return [stroke]
        base, accent = " ", _ACCENTS.get(character, "")
        parts = unicodedata.normalize("NFD", character) if len(character) == 1 else ""
        if len(parts) == 2:
            base, accent = parts[0], parts[1]
        dead, key = self._strokes.get(accent), self._strokes.get(base)
        return [dead, key] if dead and key else []


LAYOUTS: Final = {
    "us": Layout(
        "`1234567890-= qwertyuiop[] asdfghjkl;'\\ □zxcvbnm,./",
        '~!@#$%^&*()_+ QWERTYUIOP{} ASDFGHJKL:"| □ZXCVBNM<>?',
    ),
    "gb": Layout(
        "`1234567890-= qwertyuiop[] asdfghjkl;'# \\zxcvbnm,./",
        '¬!"£$%^&*()_+ QWERTYUIOP{} ASDFGHJKL:@~ |ZXCVBNM<>?',
        "□□□□€□□□□□□□□ □□□□□□□□□□□□ □□□□□□□□□□□□ □□□□□□□□□□□",
    ),
    "de": Layout(
        "ˆ1234567890ßˊ qwertzuiopü+ asdfghjklöä# <yxcvbnm,.-",
        "°!\"§$%&/()=?ˋ QWERTZUIOPÜ* ASDFGHJKLÖÄ' >YXCVBNM;:_",
        "□□²³□□□{[]}\\□ @□€□□□□□□□□~ □□□□□□□□□□□□ |□□□□□□µ□□□",
    ),
    "ch": Layout(
        "§1234567890'ˆ qwertzuiopü¨ asdfghjklöä$ <yxcvbnm,.-",
        '°+"*ç%&/()=?ˋ QWERTZUIOPè! ASDFGHJKLéà£ >YXCVBNM;:_',
        "□□@#□□¬|¢□□ˊ˜ □□€□□□□□□□[] □□□□□□□□□□{} \\□□□□□□□□□□",
    ),
    "fr": Layout(
        "²&é\"'(-è_çà)= azertyuiopˆ$ qsdfghjklmù* <wxcvbn,;:!",
        "□1234567890°+ AZERTYUIOP¨£ QSDFGHJKLM%µ >WXCVBN?./§",
        "□□~#{[|`\\^@]} □□€□□□□□□□□¤ □□□□□□□□□□□□ □□□□□□□□□□□",
    ),
    "es": Layout(
        "º1234567890'¡ qwertyuiopˋ+ asdfghjklñˊç <zxcvbnm,.-",
        'ª!"·$%&/()=?¿ QWERTYUIOPˆ* ASDFGHJKLÑ¨Ç >ZXCVBNM;:_',
        "\\|@#~□¬□□□□□□ □□€□□□□□□□[] □□□□□□□□□□{} □□□□□□□□□□□",
    ),
    "it": Layout(
        "\\1234567890'ì qwertyuiopè+ asdfghjklòàù <zxcvbnm,.-",
        '|!"£$%&/()=?^ QWERTYUIOPé* ASDFGHJKLç°§ >ZXCVBNM;:_',
        "□□□□□□□{[]}`~ □□€□□□□□□□[] □□□□□□□□□@#□ □□□□□□□□□□□",
    ),
}
"""The layouts by name: the two letters that XKB and others use."""

_ROW_NAMES: Final = (
    "esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab q w e r t y u i o p bracket_left bracket_right ret "
    "ctrl a s d f g h j k l semicolon apostrophe grave_accent shift backslash z x c v b n m comma dot slash "
    "shift_r kp_multiply alt spc caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock kp_7 kp_8 "
    "kp_9 kp_subtract kp_4 kp_5 kp_6 kp_add kp_1 kp_2 kp_3 kp_0 kp_decimal sysrq"
)
KEYS: Final = dict(zip(_ROW_NAMES.split(), range(0x01, 0x55), strict=True)) | {
    "less": 0x56,
    "f11": 0x57,
    "f12": 0x58,
    "kp_enter": 0x9C,
    "ctrl_r": 0x9D,
    "kp_divide": 0xB5,
    "print": 0xB7,
    "alt_r": ALTGR,
    "pause": 0xC6,
    "home": 0xC7,
    "up": 0xC8,
    "pgup": 0xC9,
    "left": 0xCB,
    "right": 0xCD,
    "end": 0xCF,
    "down": 0xD0,
    "pgdn": 0xD1,
    "insert": 0xD2,
    "delete": 0xD3,
    "meta_l": 0xDB,
    "meta_r": 0xDC,
    "menu": 0xDD,
    "altgr": ALTGR,
    "enter": 0x1C,
    "escape": 0x01,
    "space": SPACE,
}
"""Keys by the names of QEMU's `sendkey`, which are those of the US layout; the last four are also common."""


def layout_named(name: str) -> Layout:
    """Return the layout of that name. Raises UsageError when there is none."""
    try:
        return LAYOUTS[name]
    except KeyError:
        known = ", ".join(sorted(LAYOUTS))
        raise UsageError(f"There is no keyboard layout {name!r}: choose one of {known}.") from None


def keys_for(character: str, layout: str = "us") -> list[tuple[int, bool]]:
    """Return what to press (True) and release (False), in order, to type `character`.

    `layout` is the guest's. Raises UsageError for a character that is on no key of it, and for a layout that
    is not known.
    """
    strokes = layout_named(layout).strokes(character)
    if not strokes:
        raise UsageError(f"{character!r} is not on a keyboard with the layout {layout!r}.")
    keys = []
    for stroke in strokes:
        held = [SHIFT] * stroke.shift + [ALTGR] * stroke.altgr + [stroke.code]
        keys += [(code, True) for code in held] + [(code, False) for code in reversed(held)]
    return keys


def keys_named(name: str) -> list[tuple[int, bool]]:
    """Return what to press and release for a key of KEYS, or several held together: "f12", "ctrl-alt-delete".

    Raises UsageError for a name that is no key's.
    """
    try:
        held = [KEYS[part] for part in name.split("-")]
    except KeyError as error:
        raise UsageError(
            f"There is no key {error.args[0]!r}: write ret, f1, ctrl-alt-delete, kp_5."
        ) from None
    return [(code, True) for code in held] + [(code, False) for code in reversed(held)]
