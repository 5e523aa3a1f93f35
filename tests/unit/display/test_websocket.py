"""Viewers in browsers: RFB in WebSockets, tokens and pages of others."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from unit.display.client import TIGHT, Client, Refused
from unit.display.conftest import Stage, drain
from wirt import _core
from wirt.display import server

Make = Callable[..., Stage]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Browsers here may take their time to say what they are: the host may be busy."""
    monkeypatch.setattr(server, "_SNIFF", 10.0)


class Socket:
    """A WebSocket with the methods of a socket that the client uses. It sends fragments of three bytes and an
    empty last one, or, where the server may leave before that one, everything as a `whole`.
    """

    def __init__(self, connection: ClientConnection, whole: bool) -> None:
        self._connection = connection
        self._whole = whole
        self._received = b""

    def sendall(self, data: bytes) -> None:
        fragments = (data[start : start + 3] for start in range(0, len(data), 3))
        self._connection.send(bytes(data) if self._whole else fragments)

    def recv(self, size: int) -> bytes:
        while not self._received:
            message = self._connection.recv(10)
            assert isinstance(message, bytes)
            self._received = message
        data, self._received = self._received[:size], self._received[size:]
        return data

    def close(self) -> None:
        self._connection.close()


def browser(made: Stage, path: str = "/", **headers: Any) -> ClientConnection:
    return connect(f"ws://{made.server.address}{path}", **headers)


def client(connection: ClientConnection, whole: bool = False) -> Client:
    return Client(Socket(connection, whole))  # type: ignore[arg-type]


@pytest.mark.parametrize("subprotocols", [None, ["binary"], ["base64", "binary"]])
def test_a_browser_sees_the_screen(stage: Make, subprotocols: list[Subprotocol] | None) -> None:
    made = stage()
    with browser(made, subprotocols=subprotocols) as connection:
        assert connection.subprotocol == ("binary" if subprotocols else None)
        viewer = client(connection)
        viewer.handshake()
        viewer.set_encodings(TIGHT)
        viewer.request()
        viewer.update()
        assert viewer.canvas == made.screen.colours()
        viewer.key(0x61, True)
        made.keyboard.wait(lambda events: bool(events))
        assert connection.ping().wait(10)
    made.keyboard.wait(lambda events: len(events) == 2)
    assert made.logged() == []


def test_a_token_lets_in_without_the_password(stage: Make) -> None:
    made = stage(token="a/b+c", password="secret")
    with browser(
        made, "/some/path?x=1&token=a%2Fb%2Bc", origin=Origin("https://anywhere.example")
    ) as connection:
        viewer = client(connection)
        viewer.handshake()
        assert viewer.width == 100


def test_without_the_token_a_browser_gives_the_password(stage: Make) -> None:
    made = stage(token="ticket", password="secret")
    with browser(made) as connection:
        viewer = client(connection)
        assert viewer.choose_security() == 2
        viewer.send(_core.vnc_response(b"secret", viewer.receive(16)))
        assert viewer.unpack("I") == (0,)
        viewer.initialise(True)


@pytest.mark.parametrize("path", ["/?token=wrong", "/?token=ticke", "/?token=ticket2", "/?token=%ff"])
@pytest.mark.parametrize("settings", [{"token": "ticket"}, {"token": "ticket", "password": "secret"}])
def test_a_wrong_token_is_forbidden(stage: Make, path: str, settings: dict[str, str]) -> None:
    made = stage(**settings)
    with pytest.raises(InvalidStatus, match="403"), browser(made, path):
        pass
    assert made.logged(1) == ["The viewer at 127.0.0.1 brought a wrong token and was sent away."]


def test_a_browser_without_the_only_token_is_told_so(stage: Make) -> None:
    made = stage(token="ticket")
    with browser(made) as connection, pytest.raises(Refused, match="Only browsers with a token"):
        client(connection, whole=True).handshake()


@pytest.mark.parametrize(
    "page", ["http://evil.example", "null", "http://localhost.evil.example", "http://[", "x"]
)
def test_pages_of_others_are_kept_out_of_a_screen_for_everybody(stage: Make, page: str) -> None:
    made = stage()
    with pytest.raises(InvalidStatus, match="403"), browser(made, origin=Origin(page)):
        pass
    # A password keeps them out as well as anybody else.
    with browser(stage(password="secret"), origin=Origin(page)):
        pass


@pytest.mark.parametrize("page", ["http://localhost:8000", "http://127.0.0.1", "https://[::1]:6080"])
def test_pages_of_this_machine_are_let_in(stage: Make, page: str) -> None:
    with browser(stage(), origin=Origin(page)) as connection:
        client(connection).handshake()


def test_text_is_refused(stage: Make) -> None:
    made = stage()
    with browser(made) as connection:
        connection.send("RFB 003.008\n")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                connection.recv(10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1003


def open_socket(made: Stage) -> socket.socket:
    """Return a socket behind a WebSocket's handshake."""
    connection = made.connect()
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return connection


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"GET //[?token=\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"G\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /" + b"x" * 100_000,
    ],
)
def test_requests_that_are_none_are_answered_and_ended(stage: Make, request_text: bytes) -> None:
    made = stage()
    connection = made.connect()
    connection.sendall(request_text)
    drain(connection)
    with browser(made):
        pass


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\x05hello",
        b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
        b"\x82\xfe\xff\xff\0\0\0\0" + bytes(65535) * 20,
        b"\x80\x80\0\0\0\0",
        b"\xf2\x80\0\0\0\0",
        b"\x8b\xfe\x01\0\0\0\0\0",
    ],
    ids=["not masked", "endless", "nonsense", "continues nothing", "reserved bits", "long control frame"],
)
def test_frames_that_break_the_protocol_end_the_connection(stage: Make, frame: bytes) -> None:
    made = stage()
    connection = open_socket(made)
    with contextlib.suppress(ConnectionError):
        connection.sendall(frame)
    drain(connection)


def test_a_flood_of_pings_that_nobody_reads_the_answers_of_is_not_read(stage: Make) -> None:
    made = stage()
    connection = open_socket(made)
    connection.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 28:
            sent += connection.send((b"\x89\xfd\0\0\0\0" + bytes(125)) * 500)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(begin=st.booleans(), data=st.binary(min_size=1, max_size=300))
def test_any_bytes_leave_the_server_alive(stage: Make, begin: bool, data: bytes) -> None:
    made = stage()
    connection = open_socket(made) if begin else made.connect()
    connection.sendall(data if begin else b"G" + data)
    connection.shutdown(socket.SHUT_WR)
    drain(connection)
    assert not [sentence for sentence in made.logged() if "error" in str(sentence)]
    made.close()
