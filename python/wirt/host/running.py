"""Running machines by name: each has a directory with its monitor's socket, as long as it runs.

A directory is `$XDG_RUNTIME_DIR/wirt/NAME`, or `/tmp/wirt-UID/NAME` where there is no such place. Who holds
the lock on the file `lock` in it has the name; the system lets go of it with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from wirt.errors import Error, NotFoundError, UsageError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
MONITOR: Final = "monitor.sock"
_LOCK: Final = "lock"
_MACHINE: Final = "machine.json"
_LARGEST_FILE: Final = 1 << 16
_LOCK_FORMAT: Final = "hhqqi4x"
"""The system's struct flock: type, whence, start, length, process. fcntl(2)."""
_FOR_OWNER: Final = 0o700


class Running(NamedTuple):
    """A machine that runs, as its process wrote it down."""

    name: str
    pid: int
    cpus: int
    memory: int
    """Bytes."""
    accelerator: str
    started: float
    """Seconds since 1970."""
    monitor: str
    """The path of its monitor's socket."""


class Claim:
    """A name that belongs to this process until it is released.

    Raises UsageError for what is no name, Error when another machine has it, or there is no place for it.
    """

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name[:80]!r} is no name for a machine: use at most 48 letters, digits, '-', '_' and '.', "
                "and a letter or a digit first."
            )
        self.name: Final = name
        try:
            self._root = _private_root()
            self._directory, self._lock = _take(self._root, name)
            self._clean()
        except OSError as error:
            where = "" if error.filename is None else f" ({error.filename})"
            raise Error(f"The machine {name} cannot have its directory{where}: {error.strerror}.") from None

    @property
    def monitor(self) -> str:
        """The path where its monitor shall listen."""
        return str(self._directory / MONITOR)

    def describe(self, *, cpus: int, memory: int, accelerator: str) -> None:
        """Write down what others may know of the machine."""
        described = Running(
            self.name, os.getpid(), cpus, memory, accelerator, time.time(), self.monitor
        )._asdict()
        path = self._directory / _MACHINE
        new = path.with_suffix(".new")
        try:
            new.write_text(json.dumps(described))
            new.rename(path)
        except OSError as error:
            raise Error(f"The machine's file {path} cannot be written: {error.strerror}.") from None

    def release(self) -> None:
        """Give the name back, and remove the directory."""
        with contextlib.suppress(OSError):
            self._clean()
            # Whoever opened the lock meanwhile finds that it is no longer there.
            (self._directory / _LOCK).unlink(missing_ok=True)
            self._directory.rmdir()
        os.close(self._lock)

    def _clean(self) -> None:
        """Remove what is in the directory, but for the lock."""
        for name in (MONITOR, _MACHINE, Path(_MACHINE).with_suffix(".new").name):
            (self._directory / name).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def running() -> list[Running]:
    """Return the machines that run, by name."""
    root = _root()
    try:
        names = sorted(entry.name for entry in root.iterdir() if NAME.fullmatch(entry.name))
    except OSError:
        return []
    return [machine for name in names if (machine := _look(root / name)) is not None]


def find(name: str) -> Running:
    """Return the machine of that name. Raises NotFoundError."""
    machine = _look(_root() / name) if NAME.fullmatch(name) else None
    if machine is None:
        raise NotFoundError(f"There is no running machine {name[:80]!r}: 'wirt ls' lists those there are.")
    return machine


def _root() -> Path:
    """Where the directories of this user's machines are."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _is_private(Path(runtime)):
        return Path(runtime, "wirt")
    return Path(f"/tmp/wirt-{os.geteuid()}")


def _private_root() -> Path:
    """Make it, and see that nobody else can do anything there. Raises OSError."""
    root = _root()
    with contextlib.suppress(FileExistsError):
        root.mkdir(_FOR_OWNER)
    if not _is_private(root):
        raise PermissionError(errno.EPERM, "it is not a directory of this user alone", str(root))
    return root


def _is_private(path: Path) -> bool:
    """Whether it is a directory, no link to one, that this user alone can use."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _take(root: Path, name: str) -> tuple[Path, int]:
    """Make the directory of a machine and lock it; return it with the lock's descriptor."""
    directory = root / name
    while True:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(_FOR_OWNER)
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            # Whoever had the name has just removed the directory.
            continue
        try:
            fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _lock_request())
        except BlockingIOError:
            os.close(lock)
            raise _taken(directory, name) from None
        except OSError:
            os.close(lock)
            raise
        if _is_still_there(lock, directory / _LOCK):
            return directory, lock
        os.close(lock)


def _taken(directory: Path, name: str) -> Error:
    machine = _look(directory)
    who = "" if machine is None else f" (process {machine.pid})"
    return Error(f"A machine named {name} runs already{who}: stop it, or choose another name.")


def _is_still_there(lock: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    ours = os.fstat(lock)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _look(directory: Path) -> Running | None:
    """Read what a machine's process wrote down, if it runs."""
    if not (_is_private(directory.parent) and _is_locked(directory / _LOCK)):
        return None
    try:
        with open(directory / _MACHINE, "rb") as file:
            read = json.loads(file.read(_LARGEST_FILE))
        machine = Running(**read)
        kinds = (str, int, int, int, str, int | float, str)
        fits = all(isinstance(value, kind) for value, kind in zip(machine, kinds, strict=True))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return machine if fits else None


def _is_locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Asks without taking it, so that looking is in nobody's way.
        answer = fcntl.fcntl(lock, fcntl.F_OFD_GETLK, _lock_request())
    except OSError:
        return False
    finally:
        os.close(lock)
    kind: int = struct.unpack(_LOCK_FORMAT, answer)[0]
    return kind != fcntl.F_UNLCK


def _lock_request() -> bytes:
    """A lock on all of a file, for this open file alone."""
    return struct.pack(_LOCK_FORMAT, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
