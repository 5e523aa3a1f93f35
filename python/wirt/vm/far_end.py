"""Where serial and parallel ports go: a descriptor, a file, a pseudoterminal, or clients of a socket."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from wirt import _core
from wirt.errors import Error, NotFoundError, UsageError

SERIAL_KINDS: Final = ("none", "file", "pty", "unix", "tcp")
PARALLEL_KINDS: Final = ("none", "file")
_FORMS: Final = {
    "none": "none",
    "file": "file:PATH",
    "pty": "pty",
    "unix": "unix:PATH",
    "tcp": "tcp:HOST:PORT",
}


LAST_OUTPUT: Final = 1.0
"""Seconds for which the output of a machine that has ended may still take."""


class Wish(NamedTuple):
    """What a user asks for: a kind, and a path or an address; or the file `descriptor`."""

    kind: str
    where: str = ""
    descriptor: int = -1


class FarEnd(Protocol):
    """The far end of a port that goes somewhere."""

    @property
    def place(self) -> str:
        """Where it is reached; empty where nobody has to be told."""

    def start(self) -> None:
        """Begin to pass output on, and input: the machine is about to run. Once."""

    def close(self) -> None:
        """Let go of everything, when the terminal is closed. Output that is left has
        `LAST_OUTPUT`.
        """


def parse(port: str, wish: int | str | None, kinds: Sequence[str]) -> Wish:
    """Read what a user wants of a port, such as COM1. Raises UsageError for what is none of `kinds`."""
    if wish is None:
        return Wish("none")
    if isinstance(wish, int):
        return Wish("descriptor", descriptor=_descriptor(port, wish))
    kind, colon, where = wish.partition(":") if isinstance(wish, str) else ("", "", "")
    form = _FORMS.get(kind, "")
    if kind not in kinds or bool(colon) != (":" in form) or bool(where) != (":" in form):
        known = ", ".join(_FORMS[kind] for kind in kinds)
        raise UsageError(f"{wish!r} is no place for the port {port}: use {known}.")
    return Wish(kind, where)


def connect(port: str, wish: Wish, terminal: _core.Terminal, used: Sequence[Path]) -> FarEnd | None:
    """Make the far end of a port; None where it goes nowhere. `used` are files that the machine uses.

    Raises Error or its kinds when there can be none.
    """
    if wish.kind == "none":
        return None
    if wish.kind == "descriptor":
        return OutputEnd(terminal, os.dup(wish.descriptor))
    if wish.kind == "file":
        return OutputEnd(terminal, _open(port, wish.where, used), empties=True)
    # Few machines need them, and sockets take their time to be imported.
    from wirt.vm.served import ServedEnd, pseudoterminal, socket_of

    if wish.kind == "pty":
        return ServedEnd(port, terminal, pseudoterminal(port))
    return ServedEnd(port, terminal, socket_of(port, wish.kind, wish.where))


class OutputEnd:
    """A descriptor, which is now this object's. The guest waits for a slow one. `empties`: a regular file is
    emptied at the start, and not before: a machine that cannot be made leaves it as it was.
    """

    place = ""

    def __init__(self, terminal: _core.Terminal, fd: int, *, empties: bool = False) -> None:
        self._terminal = terminal
        self._fd: int | None = fd
        self._empties = empties

    def start(self) -> None:
        if self._fd is None:
            return
        if self._empties and stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, 0)
        self._terminal.copy_to(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            self._terminal.flush(LAST_OUTPUT)
            os.close(self._fd)
            self._fd = None


def _descriptor(port: str, fd: int) -> int:
    if isinstance(fd, bool):
        raise UsageError(f"The port {port} goes to {fd!r}, which is no file descriptor: open one.")
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise UsageError(
            f"The port {port} goes to {fd}, which is no open file descriptor: open one."
        ) from None
    return fd


def _open(port: str, path: str, used: Sequence[Path]) -> int:
    for other in used:
        with contextlib.suppress(OSError):
            if os.path.samefile(path, other):
                raise UsageError(f"The output of {port} may not go to {path}: the machine uses that file.")
    try:
        # Without O_NONBLOCK a named pipe that nobody reads would be waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        kind = NotFoundError if isinstance(error, FileNotFoundError) else Error
        reason = (
            "nobody reads this named pipe" if number == errno.ENXIO else getattr(error, "strerror", error)
        )
        raise kind(f"The file {path}, for the output of {port}, cannot be opened: {reason}.") from error
    os.set_blocking(fd, True)
    return fd
