"""Who is let in, in which version of the protocol, and where."""

import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unit.display.client import Client, Refused
from unit.display.conftest import Stage, drain
from unit.display.fakes import FakeKeyboard, FakePointer, FakeScreen
from wirt import _core
from wirt.display import viewer
from wirt.display.server import MOST_CONNECTIONS, Server
from wirt.errors import Error, UsageError

Make = Callable[..., Stage]
VERSIONS = [b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n"]


@pytest.fixture
def no_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "PENALTY", 0.0)


def answer(client: Client, password: bytes) -> None:
    """Go through the handshake with a password."""
    assert client.choose_security() == 2
    client.send(_core.vnc_response(password, client.receive(16)))
    if client.unpack("I") != (0,):
        raise Refused(client.reason() if client.version == VERSIONS[2] else "")
    client.initialise(True)


@pytest.mark.parametrize("version", [*VERSIONS, b"RFB 003.005\n", b"RFB 003.889\n", b"RFB 005.000\n"])
def test_every_version_is_let_in_without_a_password(stage: Make, version: bytes) -> None:
    made = stage(name="a ä b")
    client = Client(made.connect(), min(version, VERSIONS[2]))
    # What is newer speaks 3.8, and what lies between the known versions speaks 3.3.
    client.version = version
    if version > VERSIONS[2]:
        assert client.receive(12) == VERSIONS[2]
        client.send(version)
        client.send(client.receive(2)[1:])
        assert client.unpack("I") == (0,)
        client.initialise(True)
    else:
        client.handshake()
    assert (client.width, client.height, client.name) == (100, 70, "a ä b")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_password_lets_in_and_others_do_not(stage: Make, version: bytes, no_penalty: None) -> None:
    made = stage(password="secret")
    client = Client(made.connect(), version)
    answer(client, b"secret")
    assert client.name == "Wirt"
    for wrong in (b"secreT", b"", b"secret12"):
        client = Client(made.connect(), version)
        with pytest.raises(Refused, match="The password is wrong." if version == VERSIONS[2] else "^$"):
            answer(client, wrong)
        assert client.socket.recv(1) == b""
    assert made.logged(3)[0] == "The viewer at 127.0.0.1 gave a wrong password and was sent away."


def test_challenges_differ_and_repeating_one_is_no_answer(stage: Make, no_penalty: None) -> None:
    made = stage(password="secret")
    challenges = set()
    for _ in range(3):
        client = Client(made.connect())
        assert client.choose_security() == 2
        challenges.add(challenge := client.receive(16))
        client.send(challenge)
        assert client.unpack("I") == (1,)
    assert len(challenges) == 3


def test_a_wrong_password_takes_time(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "PENALTY", 0.3)
    client = Client(stage(password="secret").connect())
    client.choose_security()
    client.send(client.receive(16))
    started = time.monotonic()
    assert client.unpack("I") == (1,)
    assert time.monotonic() - started >= 0.25


def test_a_security_type_that_was_not_offered_is_refused(stage: Make) -> None:
    made = stage(password="secret")
    client = Client(made.connect())
    client.receive(12)
    client.send(client.version)
    assert client.receive(2) == b"\1\2"
    client.send(b"\1")
    assert client.unpack("I") == (1,)
    assert client.reason() == "There is no such security type here."
    assert client.socket.recv(1) == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_token_alone_keeps_viewers_out_that_have_none(stage: Make, version: bytes) -> None:
    made = stage(token="ticket")
    with pytest.raises(Refused, match="Only browsers with a token are let in"):
        Client(made.connect(), version).handshake()


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"POST / HTTP/1.1\r\n", b"RFB 003.00x\n"])
def test_who_speaks_something_else_is_sent_away(stage: Make, greeting: bytes) -> None:
    made = stage()
    connection = made.connect()
    connection.sendall(greeting)
    drain(connection)
    assert made.logged(1) == ["The viewer at 127.0.0.1 speaks something else than RFB and was sent away."]


@pytest.mark.parametrize(
    "said", [b"", b"RFB 003.008\n", b"RFB 003.008\n\1", b"GET / HTTP/1.1\r\nHost: x\r\n"]
)
def test_who_does_not_finish_the_handshake_is_sent_away(
    stage: Make, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "HANDSHAKE_TIMEOUT", 0.3)
    monkeypatch.setattr("wirt.display.server.HANDSHAKE_TIMEOUT", 0.3)
    made = stage()
    connection = made.connect()
    connection.sendall(said)
    drain(connection)
    assert made.logged(1) == ["The viewer at 127.0.0.1 took too long to begin and was sent away."]


def test_there_is_a_limit_of_connections(stage: Make) -> None:
    made = stage()
    connections = [made.connect() for _ in range(MOST_CONNECTIONS + 1)]
    assert connections[-1].recv(100) == b""
    assert made.server.connections == MOST_CONNECTIONS
    assert made.logged(1) == [f"A viewer was sent away: there are {MOST_CONNECTIONS} already."]


def test_a_viewer_that_does_not_share_sends_others_away(stage: Make) -> None:
    made = stage()
    first, second = made.client(), made.client()
    third = Client(made.connect())
    third.handshake(shared=False)
    for client in (first, second):
        assert client.socket.recv(1) == b""
    third.request()
    assert third.update()


def test_a_unix_socket_is_its_owners_and_replaces_a_dead_one(stage: Make, tmp_path: Path) -> None:
    path = tmp_path / "vnc"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    made = stage(listen=f"unix:{path}")
    assert made.server.address == f"unix:{path}"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    client = made.client()
    client.request()
    assert client.update()
    with pytest.raises(Error, match="somebody listens there already"):
        stage(listen=f"unix:{path}")
    made.server.close()
    assert not path.exists()


def test_a_file_is_not_replaced_by_a_socket(stage: Make, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(Error, match="there is a file already"):
        stage(listen=f"unix:{path}")
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    "where", ["5900", "localhost", "localhost:", ":65536", ":-1", ":0x10", "", "unix:", "a:b"]
)
def test_what_is_no_address_is_a_wrong_use(where: str) -> None:
    with pytest.raises(UsageError):
        Server(FakeScreen(), FakeKeyboard(), FakePointer(), listen=where)


def test_a_port_in_use_is_an_error(stage: Make) -> None:
    made = stage()
    with pytest.raises(Error, match=r"Viewers cannot be let in at 127.0.0.1:\d+: Address already in use\."):
        stage(listen=made.server.address)


@pytest.mark.parametrize(
    "settings", [{"password": ""}, {"password": "123456789"}, {"password": "ä"}, {"token": ""}]
)
def test_bad_secrets_are_a_wrong_use(settings: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Server(FakeScreen(), FakeKeyboard(), FakePointer(), listen=":0", **settings)  # type: ignore[arg-type]


def test_a_screen_for_everybody_is_said_once(stage: Make) -> None:
    made = stage(listen="0.0.0.0:0")
    assert made.logged(1) == [
        f"Anybody who reaches {made.server.address} can use this screen: it has no password."
    ]
    assert stage(listen="0.0.0.0:0", password="x").logged() == []


def test_the_end_sends_everybody_away(stage: Make) -> None:
    made = stage()
    viewer, half_open = made.client(), made.connect()
    viewer.request()
    viewer.update()
    viewer.request(incremental=True)
    made.server.close()
    assert viewer.socket.recv(1) == b""
    drain(half_open)
    assert made.server.connections == 0
    with pytest.raises(ConnectionRefusedError):
        made.connect()
    assert made.logged() == []


def test_a_screen_that_fails_ends_its_viewer_with_a_sentence(stage: Make) -> None:
    class Broken(FakeScreen):
        def open_frame(self) -> None:  # type: ignore[override]
            raise OSError("no frame")

    made = stage(screen=Broken())
    client = Client(made.connect())
    with pytest.raises((EOFError, ConnectionResetError, struct.error)):
        client.handshake()
    assert made.logged(1) == ["The viewer at 127.0.0.1 was sent away after an error: OSError('no frame')."]
