"""A client's connection: bytes in both directions, none of which is waited for."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from wirt.vm.monitor.messages import QmpError, Request, failure, read_request
from wirt.vm.monitor.splitter import Malformed, Splitter

_PIECE: Final = 1 << 16
"""Bytes received at once."""
_MOST_ANSWERS: Final = 1 << 16
"""Bytes that may wait for a client who does not read, until nothing more is done for it."""
MOST_UNSENT: Final = 1 << 20
"""Bytes, events among them, that may wait for a client at all: beyond, it is sent away."""


class Connection:
    """One client. It first has to send `qmp_capabilities`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket: Final = connection
        self._splitter = Splitter()
        self._unsent = bytearray()
        self.negotiated = False
        self.gone = False
        """Whether it has left, or was sent away."""
        self._ended = False
        """Whether it sends no more."""
        self._more = False
        """Whether there may be another command in what was received."""

    def fileno(self) -> int:
        """The socket's descriptor, for poll."""
        return self._socket.fileno()

    @property
    def wants_to_send(self) -> bool:
        """Whether something waits for room."""
        return bool(self._unsent)

    @property
    def wants_to_receive(self) -> bool:
        """Whether commands are taken: not while a client has not read the answers to others."""
        return not (self._more or self._ended) and len(self._unsent) <= _MOST_ANSWERS

    @property
    def ready(self) -> bool:
        """Whether `next_request` may have something."""
        return self._more and not self.gone and len(self._unsent) <= _MOST_ANSWERS

    def next_request(self) -> Request | None:
        """Return the next command; None: it has not come in whole. What is malformed is answered here."""
        try:
            text = self._splitter.take()
        except Malformed as error:
            self.send(failure(QmpError("GenericError", str(error))))
            return None
        if text is None:
            self._more = False
            self._settle()
            return None
        try:
            return read_request(text)
        except QmpError as error:
            self.send(failure(error))
            return None

    def receive(self) -> None:
        """Take what has come."""
        try:
            data = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
            return
        self._splitter.feed(data)
        self._more = True
        self._ended = not data

    def send(self, data: bytes) -> None:
        """Send as much as there is room for, and the rest in later calls of `flush`."""
        if len(self._unsent) + len(data) > MOST_UNSENT:
            self.gone = True
            return
        self._unsent += data
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        try:
            while self._unsent:
                with memoryview(self._unsent) as view:
                    sent = self._socket.send(view, socket.MSG_NOSIGNAL)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
        self._settle()

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _settle(self) -> None:
        """A client that sends no more has gone when everything is done and answered."""
        if self._ended and not self._more and not self._unsent:
            self.gone = True
