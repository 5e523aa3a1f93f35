"""Where ports go: files, pseudoterminals and sockets, seen from both sides. The guest's side is the terminal."""

from __future__ import annotations

import os
import select
import socket
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wirt import _core
from wirt.errors import Error, NotFoundError, UsageError
from wirt.vm import far_end, served
from wirt.vm.far_end import PARALLEL_KINDS, SERIAL_KINDS, Wish, connect, parse


class Port:
    """A far end, started, and its terminal, whose guest is a loopback: what it gets, it prints."""

    def __init__(self, wish: str) -> None:
        self.terminal = _core.Terminal(1 << 20)
        end = connect("COM1", parse("COM1", wish, SERIAL_KINDS), self.terminal, [])
        assert end is not None
        self.end = end
        self.end.start()

    def close(self) -> None:
        self.terminal.close()
        self.end.close()


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[Port]:
    made = Port(request.param)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("wish", "kinds", "expected"),
    [
        (None, SERIAL_KINDS, Wish("none")),
        ("none", PARALLEL_KINDS, Wish("none")),
        ("file:a:b", PARALLEL_KINDS, Wish("file", "a:b")),
        ("pty", SERIAL_KINDS, Wish("pty")),
        ("tcp:[::1]:5", SERIAL_KINDS, Wish("tcp", "[::1]:5")),
        ("unix:x", SERIAL_KINDS, Wish("unix", "x")),
    ],
)
def test_wishes_are_read(wish: str | None, kinds: tuple[str, ...], expected: Wish) -> None:
    assert parse("LPT1", wish, kinds) == expected


@pytest.mark.parametrize(
    "wish", ["", "file", "file:", "pty:x", "none:", "stdio", "telnet:5", "unix:", True, 9999, -1]
)
def test_what_is_no_place_is_refused(wish: int | str) -> None:
    with pytest.raises(UsageError, match="COM2"):
        parse("COM2", wish, SERIAL_KINDS)


def test_a_printer_is_no_terminal() -> None:
    with pytest.raises(UsageError, match=r"LPT1: use none, file:PATH\."):
        parse("LPT1", "pty", PARALLEL_KINDS)


def test_a_file_is_emptied_at_the_start_and_not_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old")
    terminal = _core.Terminal()
    end = connect("COM1", Wish("file", str(log)), terminal, [])
    assert end is not None and log.read_text() == "old"
    end.close()
    assert log.read_text() == "old"
    end = connect("COM1", Wish("file", str(log)), terminal, [])
    assert end is not None
    end.start()
    assert log.read_text() == ""
    terminal.close()


def test_a_file_that_the_machine_uses_is_refused(tmp_path: Path) -> None:
    used, alias = tmp_path / "used", tmp_path / "alias"
    used.write_text("precious")
    alias.symlink_to(used)
    with pytest.raises(UsageError, match="the machine uses that file"):
        connect("COM1", Wish("file", str(alias)), _core.Terminal(), [tmp_path / "other", used])
    assert used.read_text() == "precious"


def test_files_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be opened: No such file or directory"):
        connect("COM1", Wish("file", f"{tmp_path}/none/log"), _core.Terminal(), [])
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Error, match="nobody reads this named pipe"):
        connect("COM1", Wish("file", f"{tmp_path}/fifo"), _core.Terminal(), [])


def dial(port: Port) -> socket.socket:
    kind, _, where = port.end.place.partition(":")
    client = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(20)
    host, _, number = where.rpartition(":")
    client.connect(where if kind == "unix" else (host, int(number)))
    return client


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(1 << 16)
        assert part, data
        data += part
    return data


def until(terminal: _core.Terminal, size: int, seconds: float = 20.0) -> int:
    """Wait until the guest could print so much in all, and return how much it was."""
    deadline = time.monotonic() + seconds
    while (printed := terminal.read(0, 0.0)[1]) < size and time.monotonic() < deadline:
        time.sleep(0.01)
    return printed


@pytest.mark.parametrize("port", ["tcp:0", "tcp:127.0.0.1:0"], indirect=True)
def test_clients_come_one_after_the_other_and_miss_nothing(port: Port) -> None:
    assert port.end.place.startswith("tcp:127.0.0.1:")
    echo = Echo(port.terminal)
    echo.print(b"before ")
    with dial(port) as first:
        assert receive(first, 7) == b"before "
        first.sendall(b"hello")
        assert echo.hear(5) == b"hello"
        with dial(port) as second:
            echo.print(b"one ")
            assert receive(first, 4) == b"one "
            assert select.select([second], [], [], 0.1)[0] == [], "it waits for its turn"
            first.close()
            second.sendall(b"x")
            assert echo.hear(1) == b"x", "the first is gone"
            echo.print(b"two")
            assert receive(second, 3) == b"two"
    assert echo.written == b"before one two"


def test_a_unix_socket_is_its_owners_and_goes_with_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "com1"
    port = Port(f"unix:{path}")
    assert port.end.place == f"unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Error, match="Clients of COM1 cannot be let in at .*somebody listens there already"):
        Port(f"unix:{path}")
    client = dial(port)
    Echo(port.terminal).print(b"last words")
    port.close()
    assert receive(client, 10) == b"last words"
    assert client.recv(1) == b""
    assert not path.exists()


@pytest.mark.parametrize("port", ["pty"], indirect=True)
def test_a_pseudoterminal_passes_bytes_as_they_are(port: Port) -> None:
    echo = Echo(port.terminal)
    for round_ in range(2):
        fd = os.open(port.end.place, os.O_RDWR | os.O_NOCTTY)
        assert not termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO)
        os.write(fd, b"\x03\r\n\x04")
        assert echo.hear(4) == b"\x03\r\n\x04"
        echo.print(b"\r\n\x00%d" % round_)
        assert os.read(fd, 100) == b"\r\n\x00%d" % round_
        os.close(fd)
        deadline = time.monotonic() + 20
        while is_open(port.end.place) and time.monotonic() < deadline:
            time.sleep(0.01)


def is_open(place: str) -> bool:
    return os.path.exists(place) and False


@pytest.mark.parametrize("port", ["tcp:0"], indirect=True)
def test_a_slow_client_gets_everything_and_one_that_stands_still_does_not_stop_the_guest(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "PATIENCE", 0.5)
    data = bytes(range(256)) * (1 << 15)
    with dial(port) as client:
        echo = Echo(port.terminal)
        echo.print(data[:256])
        assert receive(client, 256) == data[:256]
        writer = echo.begin(data[256:])
        assert receive(client, len(data) - 256) == data[256:]
        writer.join()
        # Now nobody reads.
        echo.begin(data).join(30)
        assert port.terminal.read(0, 0.0)[1] == 2 * len(data), "the guest was let go"
    with dial(port) as later:
        rest = receive(later, 1 << 19)
        assert rest in data * 2


def test_what_is_sent_waits_for_a_guest_that_does_not_read() -> None:
    port = Port("tcp:0")
    with dial(port) as client:
        data = bytes(range(256)) * 400
        client.sendall(data)
        echo = Echo(port.terminal)
        assert echo.hear(len(data)) == data
    port.close()


def test_a_place_that_is_no_address_is_refused() -> None:
    for wish in ("tcp:x", "tcp:1.2.3.4:70000"):
        with pytest.raises(UsageError, match="use tcp:HOST:PORT"):
            Port(wish)
    assert far_end.parse("COM1", "tcp:x", SERIAL_KINDS).where == "x"
