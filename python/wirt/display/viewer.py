"""One viewer: its handshake, then messages in and updates out. RFC 6143, section 7."""

from __future__ import annotations

import hmac
import os
import re
import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from wirt import _core
from wirt.display.keymaps import Layout
from wirt.display.keys import Keys
from wirt.display.messages import (
    CutText,
    KeyEvent,
    Message,
    PointerEvent,
    SetDesktopSize,
    SetEncodings,
    SetPixelFormat,
    UpdateRequest,
    take_message,
)
from wirt.display.screen import Keyboard, Pointer, Screen
from wirt.display.stream import ProtocolError, Stream
from wirt.display.updates import NATIVE_FORMAT, Updates

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds from a connection to a viewer that has proved itself and wants to see something."""
PENALTY: Final = 1.0
"""Seconds that a wrong password costs."""

_NONE: Final = 1
_VNC_AUTHENTICATION: Final = 2
_CHALLENGE: Final = 16


class Guarded(NamedTuple):
    """What viewers see and do, and what they have to know for it."""

    screen: Screen
    keyboard: Keyboard
    pointer: Pointer
    layout: Layout
    name: str
    """What viewers put into the titles of their windows."""
    password: bytes | None
    token: str | None
    """What browsers may bring in place of the password."""

    @property
    def open_to_all(self) -> bool:
        return self.password is None and self.token is None


class Viewer:
    """A viewer's side of a connection. `run` is called on a thread of its own."""

    def __init__(
        self, stream: Stream, guarded: Guarded, proved: bool, pause: Callable[[float], object]
    ) -> None:
        """`proved`: it has brought the token. `pause` waits for some seconds, less when the server ends."""
        self._stream = stream
        self._guarded = guarded
        self._proved = proved or guarded.open_to_all
        self._pause = pause
        self._keys = Keys(guarded.keyboard, guarded.layout)
        self._pointer = (0, 0, 1, 1)
        self._buttons = 0
        self._to_skip = 0
        """Bytes of a clipboard that are still to come."""

    def run(self, shown: Callable[[bool], object]) -> None:
        """Serve until the viewer leaves.

        `shown` is told whether it shares the screen with others, once it is let in.
        Raises Disconnected when it leaves, ProtocolError when it breaks the protocol.
        """
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        minor = self._agree(deadline)
        self._authenticate(minor, deadline)
        shared = self._stream.take(1, deadline)[0] != 0
        shown(shared)
        updates = Updates(self._guarded.screen)
        name = self._guarded.name.encode()
        size = struct.pack(">2H", updates.width, updates.height)
        self._stream.send(size + NATIVE_FORMAT + struct.pack(">I", len(name)) + name)
        try:
            self._serve(updates)
        finally:
            self._keys.release_all()
            if self._buttons:
                self._guarded.pointer.move(*self._pointer, 0)

    def _agree(self, deadline: float) -> int:
        """Return the minor version that both speak: 3, 7 or 8. Section 7.1.1."""
        self._stream.send(b"RFB 003.008\n")
        match = re.fullmatch(rb"RFB (\d{3})\.(\d{3})\n", self._stream.take(12, deadline))
        if match is None:
            raise ProtocolError("speaks something else than RFB")
        version = int(match[1]), int(match[2])
        return 8 if version >= (3, 8) else 7 if version == (3, 7) else 3

    def _authenticate(self, minor: int, deadline: float) -> None:
        """Let the viewer in, or raise ProtocolError. Sections 7.1.2, 7.1.3 and 7.2."""
        password = self._guarded.password
        if not self._proved and password is None:
            self._stream.send(_count(0, minor) + _reason("Only browsers with a token are let in."))
            self._stream.drain(deadline)
            raise ProtocolError("has no token, and there is no password")
        kind = _NONE if self._proved else _VNC_AUTHENTICATION
        if minor == 3:
            self._stream.send(struct.pack(">I", kind))
        else:
            self._stream.send(bytes((1, kind)))
            if self._stream.take(1, deadline)[0] != kind:
                self._refuse(minor, "There is no such security type here.", deadline)
                raise ProtocolError("chose a security type that was not offered")
        if kind == _VNC_AUTHENTICATION:
            challenge = os.urandom(_CHALLENGE)
            self._stream.send(challenge)
            response = self._stream.take(_CHALLENGE, deadline)
            if not hmac.compare_digest(response, _core.vnc_response(password or b"", challenge)):
                self._pause(PENALTY)
                self._refuse(minor, "The password is wrong.", deadline)
                raise ProtocolError("gave a wrong password")
        if kind == _VNC_AUTHENTICATION or minor == 8:
            self._stream.send(struct.pack(">I", 0))

    def _refuse(self, minor: int, reason: str, deadline: float) -> None:
        self._stream.send(struct.pack(">I", 1) + (_reason(reason) if minor == 8 else b""))
        self._stream.drain(deadline)

    def _serve(self, updates: Updates) -> None:
        while True:
            wait = None
            if not self._stream.unsent:
                now = time.monotonic()
                wait = updates.wait(now)
                if wait == 0.0 and (update := updates.next(now)):
                    self._stream.send(update)
                if wait == 0.0:
                    wait = None if self._stream.unsent else updates.wait(time.monotonic())
            self._stream.pump(wait)
            self._listen(updates)

    def _listen(self, updates: Updates) -> None:
        """Do what the messages say that have come."""
        received = self._stream.received
        while True:
            skipped = min(self._to_skip, len(received))
            del received[:skipped]
            self._to_skip -= skipped
            message = take_message(received)
            if message is None:
                return
            self._obey(message, updates)

    def _obey(self, message: Message, updates: Updates) -> None:
        match message:
            case UpdateRequest(incremental, area):
                updates.request(incremental, area, time.monotonic())
            case KeyEvent(down, keysym, code):
                self._keys.event(keysym, code, down)
                updates.hurry(time.monotonic())
            case PointerEvent(buttons, x, y):
                width, height = updates.screen_size
                self._pointer = min(x, width - 1), min(y, height - 1), width, height
                self._buttons = buttons
                self._guarded.pointer.move(*self._pointer, buttons)
                updates.hurry(time.monotonic())
            case SetPixelFormat(data):
                try:
                    answer = updates.set_format(data)
                except ValueError as error:
                    raise ProtocolError(f"wants {error}") from None
                if answer:
                    self._stream.send(answer)
            case SetEncodings(encodings):
                updates.set_encodings(encodings)
            case CutText(size):
                self._to_skip = size
            case SetDesktopSize():
                self._stream.send(updates.refuse_size())


def _count(types: int, minor: int) -> bytes:
    """Return the number of security types, or version 3.3's security type."""
    return struct.pack(">I", types) if minor == 3 else bytes((types,))


def _reason(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode()
