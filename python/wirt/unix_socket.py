"""Listening at a path, for this user alone."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Final

_BACKLOG: Final = 16
LONGEST_PATH: Final = 107
"""Bytes of a path that fit an address: unix(7)."""


def listen(path: str) -> socket.socket:
    """Return a socket that listens at `path`, which only its owner may connect to.

    One that nobody listens at any more is replaced. Raises OSError.
    """
    try:
        fits = len(os.fsencode(path)) <= LONGEST_PATH and "\0" not in path
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {LONGEST_PATH} bytes and no NUL")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        listener.bind(path)
        # Nobody can connect before it listens.
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def close(listener: socket.socket) -> None:
    """Stop listening and remove the file; whoever waits in `accept` is woken."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        os.unlink(listener.getsockname())
    listener.close()


def _remove_dead(path: str) -> None:
    """Remove a socket that nobody listens at any more. Raises OSError when somebody does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file already")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # One whose queue is full is alive: it is not waited for.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "somebody listens there already")
