"""A port whose far end comes and goes: whoever opens a pseudoterminal, or connects to a socket.

One client is served at a time; others wait for their turn. A client gets what no client before it was sent,
at most the newest MiB. The guest waits for a slow client, so that nothing is lost, but for one that takes
nothing for `PATIENCE` seconds no longer: it then goes on, and the client misses what does not fit a MiB. For
nobody the guest does not wait at all.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import tty
from collections.abc import Callable
from typing import Final

from wirt import _core
from wirt.display import listener as listening
from wirt.errors import Error, UsageError
from wirt.threads import named_thread
from wirt.vm.far_end import LAST_OUTPUT

PATIENCE: Final = 5.0
_SLICE: Final = 0.2
"""Seconds after which somebody who waits looks whether it is still wanted."""
_PIECE: Final = 4096
_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Client:
    """Somebody at the far end. `close` waits until nobody writes to it."""

    def __init__(self, fd: int, close: Callable[[], None]) -> None:
        self.fd = fd
        self._close = close
        self._using = threading.Lock()
        self._closed = False

    def write(self, data: bytes) -> int:
        """Write what is taken within a slice; return how many bytes that were. Raises OSError when the client
        is gone.
        """
        with self._using:
            if self._closed:
                raise BrokenPipeError
            waiting = select.poll()
            waiting.register(self.fd, select.POLLOUT)
            for _, events in waiting.poll(_SLICE * 1000):
                if events & _GONE:
                    raise BrokenPipeError
                break
            else:
                return 0
            try:
                return os.write(self.fd, data[: 16 * _PIECE])
            except BlockingIOError:
                return 0

    def close(self) -> None:
        with self._using:
            if not self._closed:
                self._closed = True
                self._close()


class Source:
    """Where clients come from. `wake` is a descriptor that is readable when nobody is wanted any more."""

    place: str

    def accept(self, wake: int) -> Client | None:
        """Wait for the next client; None: nobody is wanted any more."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class ServedEnd:
    """Brings clients and a terminal together, on two threads: COM1-in for clients and what they send,
    COM1-out for what they get.
    """

    def __init__(self, port: str, terminal: _core.Terminal, source: Source) -> None:
        self._terminal = terminal
        self._source = source
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        # Guards `_client` and the terminal's holding back; `_changed` tells of a client and of the end.
        self._changed = threading.Condition()
        self._client: Client | None = None
        self._last: float | None = None
        """When output is given up; None: the machine has not ended."""
        self._threads = [named_thread(f"{port}-in", self._receive), named_thread(f"{port}-out", self._send)]
        self._started = False

    @property
    def place(self) -> str:
        return self._source.place

    def start(self) -> None:
        self._started = True
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        with self._changed:
            if self._last is not None:
                return
            self._last = time.monotonic() + LAST_OUTPUT
            self._changed.notify_all()
        receiver, sender = self._threads
        if self._started:
            sender.join()
        os.eventfd_write(self._wake, 1)
        if self._started:
            receiver.join()
        os.close(self._wake)
        self._source.close()

    def _receive(self) -> None:
        """The thread of clients, one after the other."""
        while (client := self._source.accept(self._wake)) is not None:
            with self._changed:
                self._client = client
                self._changed.notify_all()
            try:
                self._read(client)
            finally:
                with self._changed:
                    self._client = None
                    self._terminal.hold_back(None)
                client.close()

    def _read(self, client: Client) -> None:
        """Pass on what a client sends, until it leaves."""
        waiting = select.poll()
        waiting.register(client.fd, select.POLLIN | select.POLLRDHUP)
        waiting.register(self._wake, select.POLLIN)
        while True:
            ready = dict(waiting.poll())
            if self._wake in ready:
                return
            try:
                data = os.read(client.fd, _PIECE)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            progress = time.monotonic()
            while data:
                # The guest may not read: then the client waits, and nothing is lost while it is there.
                sent = self._terminal.send(data, _SLICE)
                data, progress = data[sent:], time.monotonic() if sent else progress
                gone = dict(waiting.poll(0)).get(client.fd, 0) & (_GONE | select.POLLRDHUP)
                if self._terminal.closed or (gone and time.monotonic() - progress > PATIENCE):
                    return

    def _send(self) -> None:
        """The thread of output."""
        position = 0
        while True:
            data, end, closed = self._terminal.read(position, None)
            if not data and closed:
                return
            client = self._next_client()
            if client is None:
                return
            data, end, _ = self._terminal.read(position, 0.0)
            position = self._write(client, data, end)

    def _next_client(self) -> Client | None:
        """Wait for a client; None: the machine has ended, and there is nobody."""
        with self._changed:
            while self._client is None and self._last is None:
                self._changed.wait()
            in_time = self._last is None or time.monotonic() < self._last
            return self._client if in_time else None

    def _write(self, client: Client, data: bytes, end: int) -> int:
        """Send a client output that ends at `end`, as long as it is there; return up to where it got it."""
        position = end - len(data)
        progress = time.monotonic()
        waits = True
        while position < end:
            with self._changed:
                if self._client is not client or (self._last is not None and time.monotonic() > self._last):
                    return position
                if waits:
                    self._terminal.hold_back(position)
            try:
                count = client.write(data[len(data) - (end - position) :])
            except OSError:
                # Its own thread notices that it is gone, and brings the next.
                with self._changed:
                    while self._client is client and self._last is None:
                        self._changed.wait(_SLICE)
                return position
            position += count
            if count:
                progress, waits = time.monotonic(), True
            elif waits and time.monotonic() - progress > PATIENCE:
                waits = False
                with self._changed:
                    self._terminal.hold_back(None)
        with self._changed:
            if self._client is client:
                self._terminal.hold_back(position)
        return position


class _Pseudoterminal(Source):
    """The master's side; a client is there while somebody has the other side open."""

    def __init__(self, master: int, place: str) -> None:
        self._master = master
        self.place = place

    def accept(self, wake: int) -> Client | None:
        there, wanted = select.poll(), select.poll()
        there.register(self._master, 0)
        wanted.register(wake, select.POLLIN)
        # No event tells of an opening: it is looked for.
        while any(events & select.POLLHUP for _, events in there.poll(0)):
            if wanted.poll(_SLICE * 500):
                return None
        return None if wanted.poll(0) else Client(self._master, lambda: None)

    def close(self) -> None:
        os.close(self._master)


class _Socket(Source):
    def __init__(self, listener: socket.socket, place: str) -> None:
        self._listener = listener
        self.place = place

    def accept(self, wake: int) -> Client | None:
        waiting = select.poll()
        waiting.register(self._listener, select.POLLIN)
        waiting.register(wake, select.POLLIN)
        while wake not in dict(waiting.poll()):
            with contextlib.suppress(OSError):
                return self._client(self._listener.accept()[0])
        return None

    def close(self) -> None:
        listening.close(self._listener)

    @staticmethod
    def _client(connection: socket.socket) -> Client:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            # One that vanished without a word would keep others out for ever.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (
                (socket.TCP_KEEPIDLE, 30),
                (socket.TCP_KEEPINTVL, 10),
                (socket.TCP_KEEPCNT, 3),
            ):
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Client(connection.fileno(), connection.close)


def pseudoterminal(port: str) -> Source:
    """Make a pseudoterminal in raw mode. Raises Error when the system has none."""
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise Error(f"There is no pseudoterminal for {port}: {error.strerror}.") from error
    place = os.ttyname(slave)
    # The modes stay as long as the master is open.
    tty.setraw(slave)
    os.close(slave)
    os.set_blocking(master, False)
    return _Pseudoterminal(master, place)


def socket_of(port: str, kind: str, where: str) -> Source:
    """Listen on a unix socket (`where` is its path) or for TCP (HOST:PORT, or PORT for this machine alone).

    Raises UsageError for what is no address, Error when the system refuses.
    """
    address = where if ":" in where else f":{where}"
    try:
        listener = listening.listen(f"unix:{where}" if kind == "unix" else address, f"Clients of {port}")
    except UsageError:
        raise UsageError(f"{kind}:{where} is no place for the port {port}: use tcp:HOST:PORT.") from None
    listener.setblocking(False)
    name = listening.name_of(listener)
    return _Socket(listener, name if kind == "unix" else f"tcp:{name}")
