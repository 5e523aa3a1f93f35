"""The VNC server: a machine's screen for RFB viewers and, in WebSockets, for browsers.

Every viewer has a thread of its own, and the listener has one. That is the simplest thing in which a slow
viewer holds up nobody: pixels are encoded and compressed without the interpreter's lock, so viewers share
nothing but the cores. Without viewers the listener sleeps in `accept`, and nothing looks at the screen.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from wirt.display import listener
from wirt.display.keymaps import layout_named
from wirt.display.screen import Keyboard, Pointer, Screen
from wirt.display.stream import Disconnected, ProtocolError, Stream
from wirt.display.viewer import HANDSHAKE_TIMEOUT, Guarded, Viewer
from wirt.errors import CapacityError, UsageError
from wirt.threads import named_thread

MOST_CONNECTIONS: Final = 32
"""Connections at a time, those included that have not proved themselves."""
LONGEST_PASSWORD: Final = 8

_SNIFF: Final = 0.2
"""Seconds in which a browser says something. Other viewers wait for the server to begin."""
_RETRY: Final = 0.5
"""Seconds until a listener that has run out of something tries again."""
_ENDING: Final = 5.0
"""Seconds that a viewer's thread has for its end."""
_KEEP_ALIVE: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 6}
"""After two minutes without an answer, a viewer has gone."""


class Server:
    """Shows `screen` to viewers at `listen`, and hands their keys and pointers on.

    `listen` is HOST:PORT, :PORT for this machine alone, or unix:PATH. `password` (1 to 8 ASCII characters, as
    VNC has it) lets every viewer in, `token` only browsers, which bring it in their request:
    ws://HOST:PORT/?token=TOKEN. With neither, whoever reaches `listen` is let in. `layout` is the guest's
    keyboard layout, for viewers that send no keycodes. `log` is given sentences, from any thread.

    Raises UsageError for values that make no sense, Error when the system does not let it listen.
    """

    def __init__(
        self,
        screen: Screen,
        keyboard: Keyboard,
        pointer: Pointer,
        *,
        listen: str = ":5900",
        password: str | None = None,
        token: str | None = None,
        layout: str = "us",
        name: str = "Wirt",
        log: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        secret = None if password is None else _checked(password)
        if token == "":
            raise UsageError("An empty token keeps nobody out: give a longer one, or none.")
        self._guarded = Guarded(screen, keyboard, pointer, layout_named(layout), name, secret, token)
        self._log = log
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        """Open connections with their threads; the lock is theirs."""
        self._ended = threading.Event()
        self._listener = listener.listen(listen)
        self._address = listener.name_of(self._listener)
        if self._guarded.open_to_all and not listener.is_private(self._listener):
            log(f"Anybody who reaches {self._address} can use this screen: it has no password.")
        self._thread = named_thread("vnc", self._accept)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens: HOST:PORT or unix:PATH."""
        return self._address

    @property
    def connections(self) -> int:
        """Viewers, and those who want to become one."""
        with self._lock:
            return len(self._connections)

    def close(self) -> None:
        """Stop listening and send everybody away."""
        self._ended.set()
        listener.close(self._listener)
        self._thread.join(_ENDING)
        for thread in self._send_away(None):
            thread.join(_ENDING)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                # The server has ended; or the connection has, or there are no descriptors.
                if self._ended.wait(_RETRY):
                    return
                self._log(f"A viewer could not be let in: {error.strerror or error}.")
                continue
            try:
                self._begin(connection, f"vnc{number}")
            except CapacityError as error:
                connection.close()
                self._log(str(error))

    def _begin(self, connection: socket.socket, name: str) -> None:
        """Make a thread for a connection. Raises CapacityError when it cannot have one."""
        thread = named_thread(name, lambda: self._attend(connection))
        with self._lock:
            if len(self._connections) >= MOST_CONNECTIONS:
                raise CapacityError(f"A viewer was sent away: there are {MOST_CONNECTIONS} already.")
            self._connections[connection] = thread
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                del self._connections[connection]
            raise CapacityError("A viewer was sent away: the host has no thread for it.") from None

    def _attend(self, connection: socket.socket) -> None:
        """Serve a connection to its end."""
        who = _peer(connection)
        try:
            self._serve(connection)
        except Disconnected:
            pass
        except ProtocolError as error:
            self._log(f"The viewer {who}{error} and was sent away.")
        except Exception as error:
            self._log(f"The viewer {who}was sent away after an error: {error!r}.")
        finally:
            with self._lock:
                del self._connections[connection]
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        proved = False
        if _is_browser(connection):
            from wirt.display.websocket import WebSocket  # A start without browsers does not pay for it.

            stream: Stream = (browser := WebSocket(connection))
            deadline = time.monotonic() + HANDSHAKE_TIMEOUT
            proved = browser.accept(self._guarded.token, self._guarded.open_to_all, deadline)
        else:
            stream = Stream(connection)

        def shown(shared: bool) -> None:
            if not shared:
                self._send_away(connection)

        Viewer(stream, self._guarded, proved, self._ended.wait).run(shown)

    def _send_away(self, exempt: socket.socket | None) -> list[threading.Thread]:
        """End all connections but one; return the threads that are about to end."""
        with self._lock:
            threads = []
            for connection, thread in self._connections.items():
                if connection is not exempt:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                    threads.append(thread)
            return threads


def _checked(password: str) -> bytes:
    if not (password.isascii() and password.isprintable() and 1 <= len(password) <= LONGEST_PASSWORD):
        raise UsageError(f"A VNC password has 1 to {LONGEST_PASSWORD} ASCII characters: give such a one.")
    return password.encode()


def _peer(connection: socket.socket) -> str:
    """Return who connected, as a part of a sentence; nothing for a unix socket."""
    try:
        peer = connection.getpeername()
    except OSError:
        return ""
    return f"at {peer[0]} " if connection.family != socket.AF_UNIX else ""


def _is_browser(connection: socket.socket) -> bool:
    """Prepare a connection, and wait for what a browser says first: "GET /". Other viewers listen first."""
    if connection.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEP_ALIVE.items():
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(_SNIFF * 1000):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"G"
    except OSError:
        raise Disconnected from None
