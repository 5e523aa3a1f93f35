"""Where viewers and other clients connect: HOST:PORT, or unix:PATH."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from wirt import unix_socket
from wirt.errors import Error, UsageError

_UNIX: Final = "unix:"
_BACKLOG: Final = 16


def listen(where: str, whom: str = "Viewers") -> socket.socket:
    """Return a socket that listens at `where`: HOST:PORT, or unix:PATH.

    Without HOST it is for this machine alone; an IPv6 address has brackets. Port 0 is any free one. A unix
    socket is its owner's alone; one that nobody listens at any more is replaced. Raises UsageError for what
    is no address, Error when the system refuses to let `whom` in.
    """
    if where.startswith(_UNIX):
        return _listen_unix(where.removeprefix(_UNIX), whom)
    host, colon, port = where.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 0xFFFF:
        raise UsageError(f"{where!r} is no place to listen: write HOST:PORT (127.0.0.1:5900) or unix:PATH.")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or "127.0.0.1", int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _listening(listener, address)
    except OSError as error:
        raise Error(f"{whom} cannot be let in at {where}: {error.strerror or error}.") from None


def name_of(listener: socket.socket) -> str:
    """Return where a socket listens, as `listen` takes it."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{_UNIX}{address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_private(listener: socket.socket) -> bool:
    """Whether only programs of this machine reach it."""
    if listener.family == socket.AF_UNIX:
        return True
    host = listener.getsockname()[0]
    return bool(host == "::1" or host.startswith("127."))


def close(listener: socket.socket) -> None:
    """Stop listening; whoever waits in `accept` is woken. A unix socket's file is removed."""
    if listener.family == socket.AF_UNIX:
        unix_socket.close(listener)
        return
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _listen_unix(path: str, whom: str) -> socket.socket:
    if not path:
        raise UsageError("A unix socket has a path: write unix:PATH.")
    try:
        return unix_socket.listen(path)
    except OSError as error:
        raise Error(f"{whom} cannot be let in at {_UNIX}{path}: {error.strerror or error}.") from None


def _listening(listener: socket.socket, address: object) -> socket.socket:
    try:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
