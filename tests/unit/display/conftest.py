"""A VNC server over a screen, a keyboard and a pointer of the tests, and clients for it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unit.display.client import Client
from unit.display.fakes import FakeKeyboard, FakePointer, FakeScreen, Recorder
from wirt.display.server import Server


class Stage:
    """A server with what is behind it and what is connected to it."""

    def __init__(self, **settings: Any) -> None:
        self.screen = settings.pop("screen", None) or FakeScreen()
        self.keyboard = FakeKeyboard()
        self.pointer = FakePointer()
        self._logged = Recorder()
        self.server = Server(
            self.screen, self.keyboard, self.pointer, **{"listen": ":0", "log": self._log} | settings
        )
        self.sockets: list[socket.socket] = []

    def _log(self, sentence: str) -> None:
        self._logged.record(sentence)

    def logged(self, count: int = 0) -> list[object]:
        """Return the sentences that were logged, once there are `count`."""
        return [sentence for (sentence,) in self._logged.wait(lambda events: len(events) >= count)]

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a connection to the server with nothing said yet; whatever takes ten seconds fails."""
        where = self.server.address
        if where.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX)
            self.sockets.append(connection)
            connection.connect(where.removeprefix("unix:"))
        else:
            host, _, port = where.rpartition(":")
            connection = socket.socket()
            self.sockets.append(connection)
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.connect((host, int(port)))
        connection.settimeout(10)
        return connection

    def client(self, *encodings: int) -> Client:
        """Return a viewer that has been let in without a password."""
        client = Client(self.connect())
        client.handshake()
        if encodings:
            client.set_encodings(*encodings)
        return client

    def close(self) -> None:
        self.server.close()
        for connection in self.sockets:
            connection.close()


def drain(connection: socket.socket) -> None:
    """Read what the server still says; it has to end the connection then."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    """A maker of stages, which takes what Server takes, and a `screen`."""
    stages: list[Stage] = []

    def make(**settings: Any) -> Stage:
        stages.append(Stage(**settings))
        return stages[-1]

    yield make
    for made in stages:
        made.close()
