"""A machine's keyboard and mouse, as a program uses them; viewers use the same."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from wirt import _core
from wirt.errors import UsageError

_STROKE: Final = 0.02
"""Seconds between two keys: a guest's keyboard holds 16 bytes, and some programs poll theirs."""
_BUTTONS: Final = {"left": 1, "right": 2, "middle": 4}
"""As the PS/2 mouse has them."""
_WHEEL_UP: Final = 1 << 3
_WHEEL_DOWN: Final = 1 << 4


class Keyboard:
    """The PS/2 keyboard. Keys are lost on a machine that has ended."""

    def __init__(self, machine: Callable[[], _core.Machine | None]) -> None:
        self._machine = machine

    def key(self, code: int, down: bool) -> None:
        """Press or release the key with this scan code of set 1, plus 0x80 where 0xE0 precedes it."""
        machine = self._machine()
        if machine is not None:
            with contextlib.suppress(_core.CoreError):
                machine.key(code, down)

    def type(self, text: str, layout: str = "us", interval: float = _STROKE) -> None:
        """Type `text` as the keys of the guest's layout give it, `interval` seconds from key to key.

        A newline is Return. Raises UsageError for a character that is on no key, before anything is typed.
        """
        from wirt.display.keymaps import keys_for

        for events in [keys_for(character, layout) for character in text]:
            self._play(events, interval)

    def press(self, *names: str, interval: float = _STROKE) -> None:
        """Press keys one after another: "ret", "f12", "ctrl-alt-delete" (held together).

        The names are QEMU's. Raises UsageError for a name that is none, before anything is pressed.
        """
        from wirt.display.keymaps import keys_named

        for events in [keys_named(name) for name in names]:
            self._play(events, interval)

    def _play(self, events: list[tuple[int, bool]], interval: float) -> None:
        for (code, down), (_, next_down) in zip(events, [*events[1:], (0, True)], strict=True):
            self.key(code, down)
            if down != next_down:
                time.sleep(interval)


class Mouse:
    """The PS/2 mouse, which knows movements only: a place on the screen is what the guest makes of them."""

    def __init__(self, machine: Callable[[], _core.Machine | None]) -> None:
        self._machine = machine
        self._place: tuple[int, int] | None = None
        self._buttons = 0
        self._wheel = 0

    def move_by(self, right: int, down: int) -> None:
        """Move it; movements count in the guest's own steps."""
        self._send(right, down, 0)

    def click(self, button: str = "left") -> None:
        """Press a button (left, middle, right) and let it go."""
        bit = _BUTTONS.get(button)
        if bit is None:
            raise UsageError(f"There is no mouse button {button!r}: use {', '.join(_BUTTONS)}.")
        for buttons in (self._buttons | bit, self._buttons & ~bit):
            self._buttons = buttons
            self._send(0, 0, 0)
            time.sleep(_STROKE)

    def scroll(self, notches: int) -> None:
        """Turn the wheel towards the user, or with a negative number away."""
        self._send(0, 0, notches)

    def move(self, x: int, y: int, width: int, height: int, buttons: int) -> None:
        """As `wirt.display.screen.Pointer` has it, for viewers: the way from the last place is what
        counts.
        """
        last_x, last_y = self._place or (x, y)
        self._place = (x, y)
        pressed = buttons & ~self._wheel
        self._wheel = buttons & (_WHEEL_UP | _WHEEL_DOWN)
        # RFB has the middle button second, the PS/2 mouse third.
        self._buttons = buttons & 1 | (buttons & 4) >> 1 | (buttons & 2) << 1
        self._send(x - last_x, y - last_y, bool(pressed & _WHEEL_DOWN) - bool(pressed & _WHEEL_UP))

    def _send(self, dx: int, dy: int, dz: int) -> None:
        machine = self._machine()
        if machine is not None:
            with contextlib.suppress(_core.CoreError):
                machine.mouse(dx, dy, dz, self._buttons)
