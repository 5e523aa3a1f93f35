"""Raw disk images: byte n of the file is byte n of the disk."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from wirt.errors import Error


def open_raw(path: Path, *, readonly: bool) -> int:
    """Open an image or block device for a guest and return its descriptor, which the caller closes.

    It is locked (flock) as long as the descriptor or a duplicate is open: writers alone, readers together.
    Raises Error when it cannot be opened or another machine has it.
    """
    flags = os.O_CLOEXEC | (os.O_RDONLY if readonly else os.O_RDWR)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise Error(f"The disk {path} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Error(f"The disk {path} is in use by another machine: stop that one first.") from None
    except OSError as error:
        os.close(fd)
        raise Error(f"The disk {path} cannot be locked: {error.strerror}.") from error
    return fd
