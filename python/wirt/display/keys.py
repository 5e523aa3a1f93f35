"""One viewer's keys: from RFB's key events to the guest's keyboard."""

from __future__ import annotations

from wirt.display.keymaps import ALTGR, SHIFT, SHIFT_R, Layout, Stroke
from wirt.display.keysyms import CAPS_LOCK, CODES, LEVEL3, character_of
from wirt.display.screen import Keyboard


class Keys:
    """The keys that a viewer holds.

    Events with a keycode (QEMU's extension) go through as they are. A key symbol is looked up in the guest's
    layout; where the guest would need other modifiers for it than the viewer holds, they are pressed or
    released around it.
    """

    def __init__(self, keyboard: Keyboard, layout: Layout) -> None:
        self._keyboard = keyboard
        self._layout = layout
        self._pressed: dict[int, None] = {}
        """Codes of keys that are down, in the order in which they were pressed."""
        self._held: dict[int, int] = {}
        """The code that each key symbol which is down was translated to."""
        self._caps = False

    def event(self, keysym: int, code: int, down: bool) -> None:
        """Take a key event. What is no key is ignored; a `code` that is none, as 0, is not used."""
        if code < 0x100 and code & 0x7F:
            self._set(code, down)
        elif down:
            self._press(keysym)
        else:
            self._release(keysym)

    def release_all(self) -> None:
        """Release what the viewer holds, since it has gone."""
        for code in reversed(list(self._pressed)):
            self._set(code, False)
        self._held.clear()

    def _set(self, code: int, down: bool) -> None:
        if down:
            self._pressed[code] = None
        elif code in self._pressed:
            del self._pressed[code]
        else:
            return
        self._keyboard.key(code, down)

    def _press(self, keysym: int) -> None:
        if (code := CODES.get(keysym)) is not None:
            if keysym == CAPS_LOCK and keysym not in self._held:
                self._caps = not self._caps
            self._held[keysym] = code
            self._set(code, True)
            return
        strokes = self._strokes(keysym)
        for stroke in strokes:
            around = self._modifiers(stroke)
            for code, down in around:
                self._set(code, down)
            self._set(stroke.code, True)
            if stroke is not strokes[-1]:
                self._set(stroke.code, False)
            for code, down in reversed(around):
                self._set(code, not down)
            self._held[keysym] = stroke.code

    def _release(self, keysym: int) -> None:
        # With Shift released meanwhile, what was pressed as "A" is released as "a".
        code = self._held.get(keysym, CODES.get(keysym))
        if code is None and (strokes := self._strokes(keysym)):
            code = strokes[-1].code
        if code is not None:
            self._held = {symbol: held for symbol, held in self._held.items() if held != code}
            self._set(code, False)

    def _strokes(self, keysym: int) -> list[Stroke]:
        character = character_of(keysym)
        return self._layout.strokes(character) if character else []

    def _modifiers(self, stroke: Stroke) -> list[tuple[int, bool]]:
        """Return what has to be pressed and released before the stroke, and undone behind it."""
        changes = []
        shift = stroke.shift != (stroke.letter and self._caps)
        shifts = [code for code in (SHIFT, SHIFT_R) if code in self._pressed]
        if shift and not shifts:
            changes.append((SHIFT, True))
        elif not shift:
            changes += [(code, False) for code in shifts]
        # The right Alt of a layout without AltGr is an Alt like the left one, and stays.
        if stroke.altgr and ALTGR not in self._pressed:
            changes.append((ALTGR, True))
        elif not stroke.altgr and ALTGR in self._pressed and not LEVEL3.isdisjoint(self._held):
            changes.append((ALTGR, False))
        return changes
