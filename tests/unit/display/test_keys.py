"""From RFB's key events to the guest's keys."""

import pytest

from unit.display.fakes import FakeKeyboard
from wirt.display.keymaps import LAYOUTS
from wirt.display.keys import Keys
from wirt.display.keysyms import CODES, character_of

SHIFT_L, SHIFT_R, CONTROL_L, CAPS, ALT_R, LEVEL3, RETURN = (
    0xFFE1,
    0xFFE2,
    0xFFE3,
    0xFFE5,
    0xFFEA,
    0xFE03,
    0xFF0D,
)
SHIFT, RIGHT_SHIFT, CTRL, ALTGR, A, Q, TWO, SEVEN = 0x2A, 0x36, 0x1D, 0xB8, 0x1E, 0x10, 0x03, 0x08


def typed(*events: tuple[int | str, bool], layout: str = "us") -> list[tuple[int, ...]]:
    """Return what the guest sees of key symbols (or characters) that go down and up."""
    keyboard = FakeKeyboard()
    keys = Keys(keyboard, LAYOUTS[layout])
    for keysym, down in events:
        keys.event(ord(keysym) if isinstance(keysym, str) else keysym, 0, down)
    return keyboard.events


def both(keysym: int | str) -> list[tuple[int | str, bool]]:
    return [(keysym, True), (keysym, False)]


def test_keys_that_need_nothing_go_through() -> None:
    assert typed(*both("a"), *both(RETURN)) == [(A, True), (A, False), (0x1C, True), (0x1C, False)]


def test_a_viewer_that_holds_shift_is_not_helped() -> None:
    events = typed((SHIFT_L, True), *both("A"), (SHIFT_L, False))
    assert events == [(SHIFT, True), (A, True), (A, False), (SHIFT, False)]
    assert typed((SHIFT_R, True), ("A", True))[-1] == (A, True)


def test_shift_is_pressed_around_a_key_that_needs_it() -> None:
    assert typed(*both("A")) == [(SHIFT, True), (A, True), (SHIFT, False), (A, False)]


def test_shift_is_released_around_a_key_that_must_not_have_it() -> None:
    # A German viewer's Shift and 7 give a slash, which has a key of its own on the guest's keyboard.
    events = typed((SHIFT_R, True), *both("/"))
    assert events == [
        (RIGHT_SHIFT, True),
        (RIGHT_SHIFT, False),
        (0x35, True),
        (RIGHT_SHIFT, True),
        (0x35, False),
    ]


def test_altgr_is_pressed_and_released_as_the_guests_layout_needs() -> None:
    assert typed(*both("@"), layout="de") == [(ALTGR, True), (Q, True), (ALTGR, False), (Q, False)]
    assert typed((LEVEL3, True), *both("@"), layout="de") == [(ALTGR, True), (Q, True), (Q, False)]
    assert typed((LEVEL3, True), *both("@")) == [
        (ALTGR, True),
        (SHIFT, True),
        (ALTGR, False),
        (TWO, True),
        (ALTGR, True),
        (SHIFT, False),
        (TWO, False),
    ]


def test_the_right_alt_stays_with_a_plain_key() -> None:
    assert typed((ALT_R, True), *both("a")) == [(ALTGR, True), (A, True), (A, False)]


def test_control_stays_with_a_letter() -> None:
    assert typed((CONTROL_L, True), *both("a"), (CONTROL_L, False)) == [
        (CTRL, True),
        (A, True),
        (A, False),
        (CTRL, False),
    ]


def test_caps_lock_makes_capitals_without_shift() -> None:
    lock = [(0x3A, True), (0x3A, False)]
    assert typed(*both(CAPS), *both("A")) == [*lock, (A, True), (A, False)]
    assert typed(*both(CAPS), *both("a")) == [*lock, (SHIFT, True), (A, True), (SHIFT, False), (A, False)]
    assert typed(*both(CAPS), *both("7"))[2:] == [(SEVEN, True), (SEVEN, False)]
    assert typed(*both(CAPS), *both(CAPS), *both("a"))[4:] == [(A, True), (A, False)]


def test_accents_are_typed_with_dead_keys() -> None:
    assert typed(*both("ê"), layout="de") == [(0x29, True), (0x29, False), (0x12, True), (0x12, False)]
    assert typed(*both(0xFE52), *both("e"), layout="de") == typed(*both("ê"), layout="de")
    assert typed(*both(0x0100_00EA), layout="de") == typed(*both("ê"), layout="de")


def test_a_key_is_released_whatever_shift_does_meanwhile() -> None:
    events = typed((SHIFT_L, True), ("A", True), (SHIFT_L, False), ("a", False))
    assert events == [(SHIFT, True), (A, True), (SHIFT, False), (A, False)]
    assert typed(("a", False)) == []


def test_keycodes_go_through_and_unknown_keys_nowhere() -> None:
    keyboard = FakeKeyboard()
    keys = Keys(keyboard, LAYOUTS["de"])
    for code, down in (
        (0xC6, True),
        (0xC6, False),
        (0x100, True),
        (0x80, True),
        (0xFFFFFFFF, True),
        (0x2C, True),
    ):
        keys.event(0, code, down)
    keys.event(0xFFFF_FFFF, 0, True)
    keys.event(0x0110_FFFF, 0, True)
    keys.event(0x0100_D800, 0, True)
    assert keyboard.events == [(0xC6, True), (0xC6, False), (0x2C, True)]


def test_what_was_held_is_released_at_the_end() -> None:
    keyboard = FakeKeyboard()
    keys = Keys(keyboard, LAYOUTS["us"])
    keys.event(SHIFT_L, 0, True)
    keys.event(0, CTRL, True)
    keys.event(ord("X"), 0, True)
    keys.event(ord("X"), 0, True)
    keys.release_all()
    keys.release_all()
    assert keyboard.events[-3:] == [(0x2D, False), (CTRL, False), (SHIFT, False)]


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_whatever_symbols_come_nothing_stays_pressed(layout: str) -> None:
    keyboard = FakeKeyboard()
    keys = Keys(keyboard, LAYOUTS[layout])
    symbols = [*CODES, *range(0x20, 0x100), *range(0xFE50, 0xFE60), *range(0x0100_0100, 0x0100_0180)]
    for step in range(4000):
        keysym = symbols[step * 2654435761 % 2**32 % len(symbols)]
        keys.event(keysym, 0, step * 40503 % 7 < 4)
    keys.release_all()
    down: set[int] = set()
    for code, pressed in keyboard.events:
        assert pressed or code in down
        (down.add if pressed else down.discard)(code)
    assert not down


def test_key_symbols_are_characters_where_x11_says_so() -> None:
    assert character_of(0x41) == "A"
    assert character_of(0xE4) == "ä"
    assert character_of(0x20AC) == character_of(0x0100_20AC) == "€"
    assert character_of(0x7F) is None and character_of(0x0100_001F) is None and character_of(0xFF0D) is None
