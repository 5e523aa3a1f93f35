"""A viewer's connection: a socket that never blocks for longer than it is told."""

from __future__ import annotations

import math
import select
import socket
import time
from typing import Final

_PIECE: Final = 1 << 16
"""Bytes received at once."""
_CHATTER: Final = 1 << 16
"""Bytes beside an update that may wait for a viewer who does not read. Then nothing is read from it
either."""


class Disconnected(Exception):
    """The other side has gone."""


class ProtocolError(Exception):
    """The other side broke the protocol. The text goes on from "The viewer ..."."""


class Stream:
    """Bytes in both directions. One thread uses it; others may shut the socket down."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, 0)
        self.received = bytearray()
        """What has come; the user takes it off the front."""
        self._unsent = bytearray()
        self._patience = _CHATTER
        """How much may be unsent for more to be read."""

    @property
    def unsent(self) -> int:
        """Bytes that the other side has not taken yet."""
        return len(self._unsent)

    def send(self, data: bytes | bytearray) -> None:
        """Send as much as there is room for, and the rest in later calls of `pump`."""
        if not self._unsent:
            self._patience = len(data) + _CHATTER
        self._queue(data)
        self._flush()

    def pump(self, timeout: float | None) -> None:
        """Wait until something can be sent or received, do it, and return; at most `timeout` seconds.

        Raises Disconnected when the other side has gone.
        """
        reading = len(self._unsent) <= self._patience
        self._poll.modify(self._socket, select.POLLIN * reading | select.POLLOUT * bool(self._unsent))
        ready = self._poll.poll(None if timeout is None else math.ceil(max(0.0, timeout) * 1000))
        flags = ready[0][1] if ready else 0
        if flags & select.POLLOUT:
            self._flush()
        if flags & select.POLLIN:
            self._receive()
        elif flags & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise Disconnected

    def take(self, size: int, deadline: float) -> bytes:
        """Wait until `size` bytes have come, and return them.

        Raises Disconnected, and ProtocolError when the time, by the monotonic clock, is past `deadline`
        before.
        """
        while len(self.received) < size:
            self._pump_until(deadline)
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def drain(self, deadline: float) -> None:
        """Wait until everything is sent. Raises as `take` does."""
        while self._unsent:
            self._pump_until(deadline)

    def _pump_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ProtocolError("took too long to begin")
        self.pump(left)

    def _queue(self, data: bytes | bytearray) -> None:
        self._unsent += data

    def _arrived(self, data: bytes) -> None:
        self.received += data

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            raise Disconnected from None
        if not data:
            raise Disconnected
        self._arrived(data)

    def _flush(self) -> None:
        while self._unsent:
            try:
                with memoryview(self._unsent) as view:
                    sent = self._socket.send(view)
            except BlockingIOError:
                return
            except OSError:
                raise Disconnected from None
            del self._unsent[:sent]
