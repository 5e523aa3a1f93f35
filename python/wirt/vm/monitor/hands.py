"""What the commands of keyboard and mouse do with a machine's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from wirt.errors import Error
from wirt.vm.monitor.messages import QmpError

if TYPE_CHECKING:
    from wirt.vm import VM

Later = Callable[[float, Callable[[], None]], None]
"""Has something done after so many seconds, on the monitor's thread."""

MOST_STROKES: Final = 1024
"""That may wait for those before them."""
_STROKE: Final = 0.02
"""Seconds between two strokes: some guests poll their keyboards."""
_SCREEN: Final = 0x8000
"""How wide and high the screen is in the units of absolute events."""


class Typist:
    """Presses keys, holds them, and lets them go, while others do something else."""

    def __init__(self, vm: VM, later: Later) -> None:
        self._vm = vm
        self._later = later
        self._strokes: deque[tuple[int, bool, float]] = deque()
        """Code, whether the key goes down, and the seconds until the next stroke."""
        self._busy = False

    def play(self, codes: Sequence[int], hold: float) -> None:
        """Press keys in order, hold all of them for `hold` seconds, and let them go, the last one first.

        Raises QmpError when too many wait already.
        """
        if len(self._strokes) + 2 * len(codes) > MOST_STROKES:
            raise QmpError("GenericError", "Too many keys wait to be pressed: send these later.")
        self._strokes += [(code, True, _STROKE) for code in codes[:-1]]
        self._strokes += [(code, True, hold) for code in codes[-1:]]
        self._strokes += [(code, False, _STROKE) for code in reversed(codes)]
        if not self._busy:
            self._next()

    def finish(self) -> None:
        """Let go of the keys that are held, at once, and press no more."""
        for code, down, _ in self._strokes:
            if not down:
                self._vm.keyboard.key(code, False)
        self._strokes.clear()

    def _next(self) -> None:
        self._busy = bool(self._strokes)
        if self._strokes:
            code, down, pause = self._strokes.popleft()
            self._vm.keyboard.key(code, down)
            self._later(pause, self._next)


class Hand:
    """A hand on the mouse: what it holds, and where it is on the screen, in 32,768ths of it."""

    def __init__(self, vm: VM) -> None:
        self._vm = vm
        self._place = {"x": _SCREEN // 2, "y": _SCREEN // 2}
        self._buttons = 0
        self._steps = {"x": 0, "y": 0}
        self._unsent = False

    def press(self, button: int, down: bool) -> None:
        """Press a button, or let it go."""
        # A movement that came before is one of its own.
        self._move()
        self._buttons = self._buttons | button if down else self._buttons & ~button
        self._set()

    def move_by(self, axis: str, steps: int) -> None:
        """Move, together with what comes before the next button or `finish`."""
        self._steps[axis] += steps

    def move_to(self, axis: str, place: int) -> None:
        """Move to a place, as `move_by` does."""
        self._place[axis] = place
        self._unsent = True

    def finish(self) -> None:
        """Do what is left to do."""
        self._move()

    def _move(self) -> None:
        if any(self._steps.values()):
            self._vm.mouse.move_by(self._steps["x"], self._steps["y"])
            self._steps = {"x": 0, "y": 0}
        if self._unsent:
            self._set()

    def _set(self) -> None:
        self._unsent = False
        width, height = self._size()
        x, y = self._place["x"] * width // _SCREEN, self._place["y"] * height // _SCREEN
        self._vm.mouse.move(x, y, width, height, self._buttons)

    def _size(self) -> tuple[int, int]:
        """The screen's, in pixels; without a screen any will do."""
        try:
            frame = self._vm.screen.open_frame()
            frame.update()
        except Error:
            return _SCREEN, _SCREEN
        return (frame.width, frame.height) if frame.width and frame.height else (_SCREEN, _SCREEN)
