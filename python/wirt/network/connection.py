"""Sockets to networks: how users write where one is, and how it is reached.

A network speaks Ethernet frames: on a stream socket each with its length in 4 bytes, big-endian, before it;
on a datagram socket each in a datagram. passt and QEMU's `-netdev stream` and `-netdev dgram` do the same.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from wirt.errors import Error, NotFoundError, UsageError

_PATIENCE: Final = 10.0
"""Seconds in which a connection over TCP is made or refused."""
_Address: TypeAlias = tuple[Any, ...] | str
_FORMS: Final = "isolated, unix:PATH, tcp:HOST:PORT, udp:PORT:HOST:PORT or fd:NUMBER"


def connect(where: str) -> socket.socket:
    """Connect to a network, as it is written: see `_FORMS`. The caller closes the socket.

    Raises UsageError, NotFoundError or Error with a sentence for the user.
    """
    kind, _, address = where.partition(":")
    connecting = _KINDS.get(kind)
    if connecting is None or not address:
        raise UsageError(f"{where!r} is no network: use {_FORMS}.")
    return connecting(where, address)


def _unix(where: str, path: str) -> socket.socket:
    try:
        Path(path).stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(f"The socket {path} of the network cannot be found: {reason}.") from None
    return _connected(socket.AF_UNIX, socket.SOCK_STREAM, path, where)


def _tcp(where: str, address: str) -> socket.socket:
    family, peer = _resolve(where, address, socket.SOCK_STREAM)
    connection = _connected(family, socket.SOCK_STREAM, peer, where)
    # Frames are to go when they are sent.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _udp(where: str, address: str) -> socket.socket:
    own, _, remote = address.partition(":")
    family, peer = _resolve(where, remote, socket.SOCK_DGRAM)
    return _connected(family, socket.SOCK_DGRAM, peer, where, own_port=_port(where, own))


def _inherited(where: str, number: str) -> socket.socket:
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise UsageError(f"{number!r} is no file descriptor: write fd:NUMBER.")
    try:
        return socket.socket(fileno=os.dup(int(number)))
    except OSError as error:
        raise UsageError(f"File descriptor {number} is no open socket ({error.strerror}).") from None


_KINDS: Final[dict[str, Callable[[str, str], socket.socket]]] = {
    "unix": _unix,
    "tcp": _tcp,
    "udp": _udp,
    "fd": _inherited,
}


def _resolve(where: str, address: str, kind: socket.SocketKind) -> tuple[socket.AddressFamily, _Address]:
    """The family and the address of HOST:PORT; an IPv6 address stands in brackets."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise UsageError(f"{where!r} is no network: use {_FORMS}.")
    number = _port(where, port)
    try:
        family, _, _, _, peer = socket.getaddrinfo(host.strip("[]"), number, type=kind)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(f"The host {host} of the network {where} cannot be found: {reason}.") from None
    return family, peer


def _port(where: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 1 << 16):
        raise UsageError(f"{where!r} is no network, as {text!r} is no port: use {_FORMS}.")
    return int(text)


def _connected(
    family: socket.AddressFamily,
    kind: socket.SocketKind,
    peer: _Address,
    where: str,
    *,
    own_port: int | None = None,
) -> socket.socket:
    connection = socket.socket(family, kind)
    try:
        if own_port is not None:
            connection.bind(("", own_port))
        connection.settimeout(_PATIENCE)
        connection.connect(peer)
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        _refuse(where, error)
    return connection


def _refuse(where: str, error: OSError) -> NoReturn:
    if isinstance(error, ConnectionRefusedError):
        raise Error(f"Nobody answers at the network {where}: start what is there first.") from error
    raise Error(f"The network {where} cannot be reached: {error.strerror or error}.") from error
