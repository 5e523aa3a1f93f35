"""A VNC server over a screen, a keyboard and a pointer of the tests, and clients for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unit.display.client import Client
from unit.display.fakes import FakeKeyboard, FakePointer, FakeScreen
from wirt.display.server import Server


class Stage:
    """A server with what is behind it and what is connected to it."""

    def __init__(self, **settings: Any) -> None:
        self.screen = settings.pop("screen", None) or FakeScreen()
        self.keyboard = FakeKeyboard()
        self.pointer = FakePointer()
        self.logged: list[str] = []
        self.server = Server(
            self.screen, self.keyboard, self.pointer, **{"listen": ":0", "log": self.logged.append} | settings
        )
        self.sockets: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """Return a connection to the server with nothing said yet; whatever takes ten seconds fails."""
        where = self.server.address
        if where.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(where.removeprefix("unix:"))
        else:
            host, _, port = where.rpartition(":")
            connection = socket.create_connection((host.strip("[]"), int(port)))
        connection.settimeout(10)
        self.sockets.append(connection)
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
