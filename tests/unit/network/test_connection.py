"""Sockets to networks, as users write where one is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import wirt
from wirt.network.connection import connect


def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "net,work:1"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with connect(f"unix:{path}") as ours, listener.accept()[0] as peer:
            ours.send(b"x")
            assert peer.recv(2) == b"x"
            assert ours.gettimeout() is None
    with pytest.raises(wirt.Error, match="Nobody answers at the network unix:"):
        connect(f"unix:{path}")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")])
def test_tcp_sends_without_delay(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((host.strip("[]"), 0))
        except OSError as error:
            pytest.skip(f"this host has no {family.name}: {error}")
        listener.listen()
        with connect(f"tcp:{host}:{listener.getsockname()[1]}") as ours:
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_udp_has_a_port_of_its_own_and_hears_its_peer_alone() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as peer,
        socket.socket(type=socket.SOCK_DGRAM) as other,
        socket.socket(type=socket.SOCK_DGRAM) as free,
    ):
        for bound in (peer, free):
            bound.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
        free.close()
        with connect(f"udp:{own}:127.0.0.1:{peer.getsockname()[1]}") as ours:
            other.sendto(b"no", ("127.0.0.1", own))
            ours.send(b"x")
            assert peer.recvfrom(2) == (b"x", ("127.0.0.1", own))
            peer.sendto(b"y", ("127.0.0.1", own))
            ours.settimeout(10)
            assert ours.recv(2) == b"y"


def test_an_inherited_descriptor_stays_with_who_has_it() -> None:
    one, other = socket.socketpair()
    with one, other:
        connect(f"fd:{one.fileno()}").close()
        one.send(b"x")
        assert other.recv(1) == b"x"


@pytest.mark.parametrize(
    ("where", "kind", "says"),
    [
        ("", wirt.UsageError, "is no network: use isolated, unix:PATH"),
        ("user", wirt.UsageError, "'user' is no network"),
        ("unix:", wirt.UsageError, "is no network"),
        ("tcp:1234", wirt.UsageError, "is no network"),
        ("tcp:localhost:0", wirt.UsageError, "'0' is no port"),
        ("tcp:localhost:65536", wirt.UsageError, "is no port"),
        ("udp:1:2", wirt.UsageError, "is no network"),
        ("udp:x:localhost:2", wirt.UsageError, "'x' is no port"),
        ("fd:-1", wirt.UsageError, "is no file descriptor"),
        ("fd:999999", wirt.UsageError, "is no open socket"),
        (f"fd:{os.devnull}", wirt.UsageError, "is no file descriptor"),
        ("unix:/nowhere/socket", wirt.NotFoundError, "/nowhere/socket of the network cannot be found"),
        ("unix:a\0b", wirt.NotFoundError, "cannot be found"),
        ("unix:/" + "x" * 200, wirt.NotFoundError, "cannot be found"),
        ("unix:/dev/null", wirt.Error, "Nobody answers"),
        ("tcp:127.0.0.1:1", wirt.Error, "Nobody answers"),
        ("tcp:host.invalid:1", wirt.NotFoundError, "host host.invalid of the network"),
    ],
)
def test_what_cannot_be_reached_is_told_in_a_sentence(where: str, kind: type[wirt.Error], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        connect(where)
    assert type(caught.value) is kind
    assert str(caught.value).endswith(".")


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    path.touch()
    with pytest.raises(wirt.Error, match="cannot be reached: AF_UNIX path too long"):
        connect(f"unix:{path}")
