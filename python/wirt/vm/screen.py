"""A machine's screen, as a program looks at it."""

from __future__ import annotations

import re
import struct
import time
import zlib
from collections.abc import Callable
from typing import Final

from wirt import _core
from wirt.errors import Error, WaitTimeout

_LOOK: Final = 0.1
"""Seconds between two looks at a screen that somebody waits for."""
_SHOWN: Final = 200


class Screen:
    """The picture that a guest's VGA card makes, also what viewers are shown.

    The methods raise Error when the machine has no card.
    """

    arrow: bool
    """Whether viewers draw an arrow where their mouse is."""

    def __init__(self, screen: _core.Screen | None, ended: Callable[[], bool]) -> None:
        self._screen = screen
        self._ended = ended
        self.arrow = False

    @property
    def present(self) -> bool:
        """Whether the machine has a screen."""
        return self._screen is not None

    def open_frame(self) -> _core.Frame:
        """Return a picture of the screen that can be brought up to date, for a viewer."""
        return self._card.open_frame()

    def png(self) -> bytes:
        """Return a picture of the screen as a PNG file."""
        frame = self.open_frame()
        frame.update()
        return png(frame.width, frame.height, frame.pixels)

    def text(self) -> str | None:
        """Return what is written on the screen, a line for each row without its trailing blanks; None in a
        graphics mode.
        """
        return self._card.text()

    def wait_for(self, pattern: str | re.Pattern[str], timeout: float | None = 60.0) -> re.Match[str]:
        """Wait until the screen, in a text mode, shows what the regular expression matches; return the match.

        Raises WaitTimeout after `timeout` seconds and Error when the machine ends before.
        """
        compiled = re.compile(pattern)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            ended = self._ended()
            text = self.text()
            match = compiled.search(text or "")
            if match is not None:
                return match
            shown = f"its last text: {text[-_SHOWN:]!r}" if text is not None else "it is in a graphics mode"
            if ended:
                raise Error(f"The machine ended before its screen showed {compiled.pattern!r}; {shown}.")
            left = _LOOK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeout(f"The screen did not show {compiled.pattern!r} in {timeout:g} s; {shown}.")
            time.sleep(min(left, _LOOK))

    @property
    def _card(self) -> _core.Screen:
        if self._screen is None:
            raise Error("This machine has no screen: make it with vga=True.")
        return self._screen


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Make a PNG file of rows of pixels, 4 bytes each: blue, green, red and one that means nothing.

    W3C, Portable Network Graphics (third edition), sections 5 and 11: eight bits for each of red, green and
    blue, no filter.
    """
    row = 1 + 3 * width
    data = bytearray(row * height)
    for column in range(3):
        plane = pixels[2 - column :: 4]
        if width:
            for y in range(height):
                data[y * row + 1 + column : (y + 1) * row : 3] = plane[y * width : (y + 1) * width]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
