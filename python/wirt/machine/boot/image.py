"""A file to be loaded into a guest: read in pieces, every piece checked against the file's length.

Images come from strangers and change while they are read: nothing here trusts a length it was not just given,
and no file is ever held in memory as a whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHUNK: Final = 1 << 20


class BootError(Exception):
    """The guest cannot be started from what was given. The message is one sentence for the user."""


class BootUsageError(BootError):
    """It could be started with another wish beside the image: more memory, a shorter command line."""


class Image:
    """`size` bytes of a file or of a bytes object; `what` names it in messages ("kernel /boot/vmlinuz")."""

    def __init__(self, what: str, name: str, size: int, source: bytes | int) -> None:
        self.what = what
        self.name = name
        self.size = size
        self._source = source

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`. Raises BootError where the file ends before."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self.truncated(offset + size)
        if isinstance(self._source, bytes):
            return self._source[offset : offset + size]
        parts: list[bytes] = []
        while size:
            try:
                part = os.pread(self._source, size, offset)
            except OSError as error:
                raise BootError(f"The {self.what} cannot be read: {error.strerror}.") from error
            if not part:
                raise BootError(f"The {self.what} became shorter while it was read: try again.")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def prefix(self, size: int) -> bytes:
        """The first `size` bytes, or fewer where the file is shorter."""
        return self.read(0, min(size, self.size))

    def chunks(self, offset: int, size: int) -> Iterator[bytes]:
        """The same bytes as `read`, a mebibyte at a time."""
        for start in range(offset, offset + size, CHUNK):
            yield self.read(start, min(CHUNK, offset + size - start))

    def truncated(self, needed: int) -> BootError:
        """The error for a file whose own headers promise `needed` bytes or more."""
        return BootError(
            f"The {self.what} is truncated: it has {self.size} bytes, but its headers ask for {needed}; "
            "get it again."
        )


@contextmanager
def open_image(source: bytes | Path, role: str) -> Iterator[Image]:
    """Open a kernel or initrd (`role`).

    Raises BootError for what is missing, unreadable, empty or no regular file.
    """
    if isinstance(source, bytes):
        if not source:
            raise BootError(f"The {role} is empty.")
        yield Image(role, role, len(source), source)
        return
    what = f"{role} {source}"
    try:
        # A FIFO would block the open until somebody writes to it.
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BootError(f"The {what} cannot be opened: {reason}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BootError(f"The {what} is not a regular file.")
        if not status.st_size:
            raise BootError(f"The {what} is empty.")
        yield Image(what, source.name, status.st_size, descriptor)
    finally:
        os.close(descriptor)
