"""The frame around a command's output on a guest's console.

\\x1e@@WIRT-BEGIN NONCE\\n  output, byte for byte  \\x1e@@WIRT-END NONCE STATUS\\n
"""

from __future__ import annotations

import re
from typing import Final

END_MAX: Final = 128
"""Bytes that are held back because an end could begin in them."""


class FrameReader:
    """Finds one command's output in a console's. `begun` tells whether the frame's beginning was
    seen, and `status` is None until its end was; `rest` is what came behind the end with it."""

    def __init__(self, nonce: str) -> None:
        self._begin = re.compile(rb"\x1e@@WIRT-BEGIN %s\r?\n" % nonce.encode())
        self._end = re.compile(rb"\x1e@@WIRT-END %s ([0-9]{1,3})\r?\n" % nonce.encode())
        self._pending = b""
        self.begun = False
        self.status: int | None = None
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take more of the console's output and return what of it is the command's."""
        if self.status is not None:
            return b""
        self._pending += data
        if not self.begun:
            match = self._begin.search(self._pending)
            if match is None:
                self._pending = self._pending[-END_MAX:]
                return b""
            self.begun = True
            self._pending = self._pending[match.end() :]
        match = self._end.search(self._pending)
        if match is not None:
            self.status = int(match[1])
            output, self.rest = self._pending[: match.start()], self._pending[match.end() :]
            self._pending = b""
            return output
        mark = self._pending.rfind(b"\x1e", -END_MAX) if self._pending else -1
        keep = len(self._pending) if mark < 0 else mark
        output, self._pending = self._pending[:keep], self._pending[keep:]
        return output
