"""A screen, a keyboard and a pointer that tests look at and draw on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Area = tuple[int, int, int, int]


class FakeFrame:
    """A viewer's picture of a FakeScreen."""

    def __init__(self, screen: FakeScreen) -> None:
        self._screen = screen
        self.changes: list[Area] = []
        self.width = self.height = 0
        self.pixels = b""
        self.looks = 0

    def update(self) -> list[Area]:
        self.looks += 1
        with self._screen.lock:
            changes, self.changes = self.changes, []
            self.width, self.height = self._screen.width, self._screen.height
            if changes:
                self.pixels = bytes(self._screen.pixels)
        return changes


class FakeScreen:
    """A screen of which tests fill rectangles. Colours are 0xRRGGBB."""

    def __init__(self, width: int = 100, height: int = 70, arrow: bool = False) -> None:
        self.lock = threading.Lock()
        self.frames: list[FakeFrame] = []
        self.arrow = arrow
        self.resize(width, height)

    def open_frame(self) -> FakeFrame:
        frame = FakeFrame(self)
        with self.lock:
            frame.changes.append((0, 0, self.width, self.height))
            self.frames.append(frame)
        return frame

    def resize(self, width: int, height: int) -> None:
        """Make it another size, with a gradient on it."""
        with self.lock:
            self.width, self.height = width, height
            self.pixels = bytearray(4 * width * height)
            for y in range(height):
                for x in range(width):
                    start = 4 * (y * width + x)
                    self.pixels[start : start + 3] = bytes((x * 7 & 255, y * 5 & 255, x * y & 255))
            self._changed((0, 0, width, height))

    def fill(self, area: Area, colour: int) -> None:
        left, top, width, height = area
        with self.lock:
            for y in range(top, top + height):
                start = 4 * (y * self.width + left)
                self.pixels[start : start + 4 * width] = colour.to_bytes(4, "little") * width
            self._changed(area)

    def colours(self) -> list[int]:
        """Return the colours, row by row."""
        with self.lock:
            return [
                int.from_bytes(self.pixels[start : start + 3], "little")
                for start in range(0, len(self.pixels), 4)
            ]

    @property
    def looks(self) -> int:
        """How often anybody has looked for changes."""
        return sum(frame.looks for frame in self.frames)

    def _changed(self, area: Area) -> None:
        for frame in self.frames:
            frame.changes.append(area)


class Recorder:
    """What happened, in order, for tests that wait for it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.events: list[tuple[Any, ...]] = []

    def record(self, *event: Any) -> None:
        with self._condition:
            self.events.append(event)
            self._condition.notify_all()

    def wait(self, done: Callable[[list[tuple[Any, ...]]], bool]) -> list[tuple[Any, ...]]:
        """Return the events once they are `done`; fail after ten seconds."""
        with self._condition:
            assert self._condition.wait_for(lambda: done(self.events), 10), self.events
            return list(self.events)


class FakeKeyboard(Recorder):
    def key(self, code: int, down: bool) -> None:
        self.record(code, down)


class FakePointer(Recorder):
    def move(self, x: int, y: int, width: int, height: int, buttons: int) -> None:
        self.record(x, y, width, height, buttons)
