"""Raw disk images: byte n of the file is byte n of the disk."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from wirt.errors import Error

SECTOR_SIZE: Final = 512
"""Bytes in a sector as virtio-blk counts them (Virtual I/O Device 1.2, section 5.2)."""
CD_SECTOR_SIZE: Final = 2048


def open_raw(path: Path, *, readonly: bool) -> int:
    """Open an image or block device for a guest and return its descriptor, which the caller closes.

    It is locked (flock) as long as the descriptor or a duplicate is open: writers alone, readers together.
    Raises Error when it cannot be opened, another machine has it, or its size is none of a disk.
    """
    fd, size = _open("disk", path, readonly)
    if not size or size % SECTOR_SIZE:
        os.close(fd)
        sectors = size // SECTOR_SIZE + 1
        raise Error(
            f"The disk {path} has {size} bytes, which is no multiple of {SECTOR_SIZE}: "
            f"make it larger, for instance by 'truncate -s {sectors * SECTOR_SIZE} {path}'."
            if size
            else f"The disk {path} is empty: give it a size, for instance by 'truncate -s 1G {path}'."
        )
    return fd


def open_cdrom(path: Path) -> int:
    """Open the image of a CD-ROM, which may end in the middle of a sector, as `open_raw` opens a disk."""
    fd, size = _open("CD-ROM image", path, readonly=True)
    if size < CD_SECTOR_SIZE:
        os.close(fd)
        raise Error(
            f"The CD-ROM image {path} has {size} bytes, not even a sector of {CD_SECTOR_SIZE}: take another."
        )
    return fd


def _open(role: str, path: Path, readonly: bool) -> tuple[int, int]:
    """The locked descriptor, and how many bytes there are."""
    flags = os.O_CLOEXEC | (os.O_RDONLY if readonly else os.O_RDWR)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise Error(f"The {role} {path} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Error(f"The {role} {path} is in use by another machine: stop that one first.") from None
    except OSError as error:
        os.close(fd)
        raise Error(f"The {role} {path} cannot be locked: {error.strerror}.") from error
    return fd, os.lseek(fd, 0, os.SEEK_END)
