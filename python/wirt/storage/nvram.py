"""The variables of a firmware that keeps them in flash: a file for each machine, made from its empty
template.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from wirt.errors import Error


def open_variables(path: Path | None, template: Path) -> int:
    """Open a machine's variables for reading and writing, and return the descriptor, which the caller closes.

    A file that does not exist is made from `template`, whole or not at all; without a path they are in memory
    alone. The file is locked (flock) while it is open. Raises Error when it cannot be had, is another
    machine's at the moment, or has not the template's size.
    """
    try:
        empty = template.read_bytes()
    except OSError as error:
        raise Error(f"The firmware's variables {template} cannot be read: {error.strerror}.") from error
    if path is None:
        fd = os.memfd_create("wirt-variables")
        os.write(fd, empty)
        return fd
    try:
        if not path.exists():
            _make(path, empty)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Error(f"The file of variables {path} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Error(
            f"The file of variables {path} is in use by another machine: give each its own."
        ) from None
    size = os.fstat(fd).st_size
    if size != len(empty):
        os.close(fd)
        raise Error(
            f"The file of variables {path} has {size} bytes, this firmware's have {len(empty)}: give the "
            "file that "
            "belongs to it, or a name that does not exist for a new one."
        )
    return fd


def _make(path: Path, contents: bytes) -> None:
    """Write a file at once: under another name, on disk, then renamed."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(fd)
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
