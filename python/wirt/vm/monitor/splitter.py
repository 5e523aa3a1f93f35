"""From a stream of bytes to JSON texts, with bounds on what anybody may send."""

from __future__ import annotations

import re
from typing import Final

MOST_BYTES: Final = 1 << 16
"""Of one text; none of QMP's commands comes near."""
MOST_DEPTH: Final = 32
"""Of arrays and objects in each other; QMP's commands have five."""

_STRUCTURE: Final = re.compile(rb'["{}\[\]\x00-\x08\x0b\x0c\x0e-\x1f\xff]')
_IN_STRING: Final = re.compile(rb'["\\\x00-\x1f\xff]')
_BEGIN: Final = re.compile(rb"[^ \t\r\n]")
_RESYNC: Final = re.compile(rb"[\x00-\x08\x0a-\x0c\x0e-\x1f\xff]")


class Malformed(Exception):
    """What was sent is no JSON text. The exception's own text says why, in a sentence."""


class Splitter:
    """Cuts objects and arrays out of a stream, wherever its pieces end.

    They need no lines of their own. Behind what is malformed it goes on with the next line, or after the
    control character (or byte 0xFF) by which a client asks for that: QMP specification, section "Forcing the
    JSON parser into known-good state".
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._at = 0
        """What is before was looked at."""
        self._depth = 0
        self._in_string = False
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream. What is kept is bounded when texts are taken out before more are fed."""
        self._bytes += data

    def take(self) -> bytes | None:
        """Return the next text; None: it has not come in whole. Raises Malformed, and goes on when called
        again.
        """
        while True:
            if self._depth == 0 and not self._find_begin():
                return None
            pattern = _IN_STRING if self._in_string else _STRUCTURE
            found = pattern.search(self._bytes, self._at)
            if found is None:
                self._at = max(self._at, len(self._bytes))
            if (len(self._bytes) if found is None else found.end()) > MOST_BYTES:
                raise self._give_up(f"A command has at most {MOST_BYTES} bytes.", skip=True)
            if found is None:
                return None
            self._at = found.end()
            text = self._step(found[0])
            if text is not None:
                return text

    def _find_begin(self) -> bool:
        """Drop what is before the next text; false when none has begun."""
        if self._skipping:
            found = _RESYNC.search(self._bytes)
            self._drop(len(self._bytes) if found is None else found.end())
            if found is None:
                return False
            self._skipping = False
        found = _BEGIN.search(self._bytes)
        if found is None:
            self._drop(len(self._bytes))
            return False
        first = bytes(found[0])
        self._drop(found.start())
        if first not in (b"{", b"["):
            # A control character ends the trouble itself.
            control = _RESYNC.match(first) is not None
            self._drop(1)
            raise self._give_up("A command is a JSON object.", skip=not control)
        return True

    def _step(self, byte: bytes | bytearray) -> bytes | None:
        """Look at a byte that may change something; return the text that ends with it."""
        if self._in_string and byte == b"\\":
            self._at += 1
        elif byte == b'"':
            self._in_string = not self._in_string
        elif byte in (b"{", b"["):
            self._depth += 1
            if self._depth > MOST_DEPTH:
                raise self._give_up(f"A command has at most {MOST_DEPTH} levels.", skip=True)
        elif byte in (b"}", b"]"):
            self._depth -= 1
            if self._depth == 0:
                text = bytes(self._bytes[: self._at])
                self._drop(self._at)
                return text
        else:
            raise self._give_up("There is a control character or a byte 0xff in the command.", skip=False)
        return None

    def _give_up(self, reason: str, *, skip: bool) -> Malformed:
        """Forget the text that has begun, and with `skip` all up to the end of its line."""
        self._drop(min(self._at, len(self._bytes)))
        self._depth, self._in_string, self._skipping = 0, False, skip
        return Malformed(reason)

    def _drop(self, count: int) -> None:
        del self._bytes[:count]
        self._at = 0
