"""Keyboard layouts and names of keys, against XKB's own layouts where they are installed."""

import re
from pathlib import Path

import pytest

from wirt.display.keymaps import KEYS, LAYOUTS, keys_for, keys_named
from wirt.errors import UsageError

XKB = Path("/usr/share/X11/xkb/symbols")


def tap(*codes: int) -> list[tuple[int, bool]]:
    return [(code, True) for code in codes] + [(code, False) for code in reversed(codes)]


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_types_all_of_ascii(layout: str) -> None:
    for code in [*range(0x20, 0x7F), 0x09, 0x0A]:
        keys = keys_for(chr(code), layout)
        down = set()
        for key, pressed in keys:
            assert (key in down) is not pressed
            (down.add if pressed else down.remove)(key)
        assert not down


@pytest.mark.parametrize(
    ("character", "layout", "keys"),
    [
        ("a", "us", tap(0x1E)),
        ("A", "us", tap(0x2A, 0x1E)),
        ("y", "de", tap(0x2C)),
        ("@", "de", tap(0xB8, 0x10)),
        ("a", "fr", tap(0x10)),
        ("1", "fr", tap(0x2A, 0x02)),
        ("|", "gb", tap(0x2A, 0x56)),
        ("ñ", "es", tap(0x27)),
        ("ê", "de", tap(0x29) + tap(0x12)),
        ("È", "de", tap(0x2A, 0x0D) + tap(0x2A, 0x12)),
        ("ü", "fr", tap(0x2A, 0x1A) + tap(0x16)),
        ("^", "fr", tap(0xB8, 0x0A)),
        ("^", "de", tap(0x29) + tap(0x39)),
        ("~", "ch", tap(0xB8, 0x0D) + tap(0x39)),
        ("\n", "us", tap(0x1C)),
    ],
)
def test_characters_are_where_their_layouts_have_them(
    character: str, layout: str, keys: list[tuple[int, bool]]
) -> None:
    assert keys_for(character, layout) == keys


@pytest.mark.parametrize(
    ("character", "layout"), [("ß", "us"), ("€", "us"), ("", "us"), ("ab", "us"), ("\ud800", "de")]
)
def test_what_is_on_no_key_is_refused(character: str, layout: str) -> None:
    with pytest.raises(UsageError, match="is not on a keyboard"):
        keys_for(character, layout)


def test_a_layout_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="choose one of ch, de, es, fr, gb, it, us"):
        keys_for("a", "klingon")


def test_keys_have_names_and_can_be_held_together() -> None:
    assert keys_named("f12") == tap(0x58)
    assert keys_named("ctrl-alt-delete") == tap(0x1D, 0x38, 0xD3)
    assert keys_named("pause") == tap(0xC6)
    assert len(KEYS) == 110
    for wrong in ("", "ctrl-", "F12", "ctrl-x-nothing"):
        with pytest.raises(UsageError, match="There is no key"):
            keys_named(wrong)


ROWS = {"AE": range(0x02, 0x0E), "AD": range(0x10, 0x1C), "AC": range(0x1E, 0x29), "AB": range(0x2C, 0x36)}
SINGLE = {"TLDE": 0x29, "BKSL": 0x2B, "LSGT": 0x56}
SYMBOLS = """
exclam ! quotedbl " numbersign # dollar $ percent % ampersand & parenleft ( parenright ) asterisk *
plus + comma , minus - period . slash / colon : semicolon ; less < equal = greater > question ? at @
bracketleft [ backslash \\
bracketright ] asciicircum ^ underscore _ grave ` braceleft { bar | braceright } asciitilde ~ apostrophe '
exclamdown ¡ cent ¢ sterling £ currency ¤ section § notsign ¬ degree ° twosuperior ² threesuperior ³ mu µ
periodcentered · questiondown ¿ ordfeminine ª masculine º EuroSign € ssharp ß ntilde ñ Ntilde Ñ udiaeresis ü
Udiaeresis Ü odiaeresis ö Odiaeresis Ö adiaeresis ä Adiaeresis Ä agrave à egrave è igrave ì ograve ò ugrave ù
eacute é ccedilla ç Ccedilla Ç
"""
WORDS = SYMBOLS.split()
KEYSYMS = dict(zip(WORDS[::2], WORDS[1::2], strict=True)) | {
    "dead_grave": "\u0300",
    "dead_acute": "\u0301",
    "dead_circumflex": "\u0302",
    "dead_tilde": "\u0303",
    "dead_diaeresis": "\u0308",
}
KEY = r'include "([\w()]+)"|key\s*<(\w+)>\s*{(?:[^{}]*Group1\]\s*=)?\s*\[([^\]]*)\]'


def xkb(name: str, variant: str = "basic") -> dict[int, list[str]]:
    """Return what XKB has on the keys of a layout: key symbols for each level."""
    text = (XKB / name).read_text()
    body = text[text.index(f'xkb_symbols "{variant}"') :]
    body = re.sub(r"//[^\n]*", "", body[: body.index("\n};")])
    keys: dict[int, list[str]] = {}
    for include, key, symbols in re.findall(KEY, body):
        if include.startswith(("latin", "us")):
            base, _, inner = include.partition("(")
            keys |= xkb(base, inner.rstrip(")") or "basic")
        elif key in SINGLE or (key[:2] in ROWS and key[2:].isdigit()):
            code = SINGLE.get(key) or ROWS[key[:2]][int(key[2:]) - 1]
            keys[code] = [symbol.strip() for symbol in symbols.split(",")]
    return keys


@pytest.mark.skipif(not XKB.is_dir(), reason="needs XKB's layouts (package xkb-data)")
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layouts_are_those_of_xkb(name: str) -> None:
    keys = xkb(name)
    strokes = LAYOUTS[name]._strokes
    compared = 0
    for character, stroke in strokes.items():
        # The key right of the left Shift is in XKB's "pc" as well.
        if stroke.code in (0x39, 0x0F, 0x1C) or stroke.code not in keys:
            continue
        symbols = [KEYSYMS.get(symbol, symbol) for symbol in keys[stroke.code]]
        level = 2 if stroke.altgr else int(stroke.shift)
        assert symbols[level] == character, f"{stroke} gives {symbols}"
        compared += 1
    assert compared > 85
