"""A machine's serial console, as a program talks to it."""

from __future__ import annotations

import re
import time
from typing import Final

from wirt import _core
from wirt.errors import ClosedError, WaitTimeout

HISTORY: Final = 1 << 20
"""Bytes of output that are kept for a reader who comes later; older output is lost."""
_SHOWN: Final = 200


class Console:
    """What the guest prints and what it is sent.

    `read` and `expect` go through the output once, from the machine's start on; `history` looks back.
    """

    def __init__(self, terminal: _core.Terminal) -> None:
        self._terminal = terminal
        self._position = 0
        self._unread = b""
        self._closed = False

    def send(self, data: str | bytes, timeout: float | None = 10.0) -> None:
        """Type `data` (UTF-8). Waits at most `timeout` seconds for a guest that does not read: 64 KiB wait
        for it.

        Raises WaitTimeout when the time is up, ClosedError when the machine has ended.
        """
        data = data.encode() if isinstance(data, str) else data
        sent = self._terminal.send(data, timeout)
        if sent == len(data):
            return
        if self._terminal.closed:
            raise ClosedError("The machine has ended and takes no input.")
        raise WaitTimeout(f"The guest took only {sent} of {len(data)} bytes of input in {timeout:g} s.")

    def offer(self, data: bytes) -> int:
        """Type as much of `data` as there is room for now, and return how many bytes that was."""
        return self._terminal.send(data, 0.0)

    def read(self, timeout: float | None = 0.0) -> bytes:
        """Return the output that nobody has read, waiting at most `timeout` seconds for some (None: for
        ever).

        Empty when there is none in time, or the machine has ended.
        """
        if not self._unread:
            self._receive(timeout)
        unread, self._unread = self._unread, b""
        return unread

    def unread(self, data: bytes) -> None:
        """Put back what was read too far: the next `read` or `expect` begins with it."""
        self._unread = data + self._unread

    def expect(
        self, pattern: str | bytes | re.Pattern[bytes], timeout: float | None = 60.0
    ) -> re.Match[bytes]:
        """Wait until the unread output matches the regular expression, and return the match on bytes.

        Everything up to the end of the match counts as read. Raises WaitTimeout after `timeout` seconds and
        ClosedError when the machine ends before; both show the end of the output.
        """
        if isinstance(pattern, str):
            pattern = pattern.encode()
        compiled = re.compile(pattern)
        shown = repr(compiled.pattern.decode(errors="replace"))
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            match = compiled.search(self._unread)
            if match is not None:
                self._unread = self._unread[match.end() :]
                return match
            if self._closed:
                raise ClosedError(f"The machine ended before its console showed {shown}; {self._tail()}")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(f"The console did not show {shown} in {timeout:g} s; {self._tail()}")
            self._receive(left)

    @property
    def closed(self) -> bool:
        """Whether the machine has ended and all output was received; `read` gives what is left."""
        return self._closed

    def history(self) -> bytes:
        """Return the newest MiB of all output, read or not."""
        return self._terminal.read(0, 0.0)[0]

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the descriptor that output goes to has all of it; False when the time is up before."""
        return self._terminal.flush(timeout)

    @property
    def output_error(self) -> str | None:
        """Why output no longer reaches the descriptor it goes to, or None."""
        return self._terminal.copy_error

    def _receive(self, timeout: float | None) -> None:
        data, self._position, self._closed = self._terminal.read(self._position, timeout)
        self._unread = (self._unread + data)[-HISTORY:]

    def _tail(self) -> str:
        return f"its last output: {self._unread[-_SHOWN:].decode(errors='replace')!r}."
