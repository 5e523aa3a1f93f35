"""The "newc" cpio archive, the form in which Linux takes an initramfs.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst. An archive made here is a pure
function of its entries: owner root, time 0, inodes numbered in order.
"""

import stat
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_ALIGNMENT = 4


class Entry(NamedTuple):
    """One file of an archive.

    `name` is relative, without a leading slash. `mode` holds type and permissions (`st_mode`). `data` is a
    regular file's content or a symbolic link's target. `device` is the (major, minor) of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, permissions: int = 0o755) -> Entry:
    """Return the entry of a directory; it has to come before what lies in it."""
    return Entry(name, stat.S_IFDIR | permissions)


def file(name: str, data: bytes, permissions: int = 0o644) -> Entry:
    """Return the entry of a regular file."""
    return Entry(name, stat.S_IFREG | permissions, data)


def symlink(name: str, target: str) -> Entry:
    """Return the entry of a symbolic link to `target`."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """Return the entry of a character device's node."""
    return Entry(name, stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Pack `entries` in their order. The length is a multiple of 4, so that another archive may follow.

    Raises ValueError for a name that is absolute, empty, or leads upwards, and for a file of 4 GiB or more.
    """
    packed = bytearray()
    for inode, entry in enumerate(entries, start=1):
        if any(part in ("", ".", "..") for part in entry.name.split("/")):
            raise ValueError(f"{entry.name!r} cannot be a name in a cpio archive")
        if len(entry.data) > 0xFFFF_FFFF:
            raise ValueError(f"{entry.name!r} is too large for a cpio archive")
        packed += _record(entry, inode)
    packed += _record(Entry(_TRAILER, 0), 0)
    return bytes(packed)


def append_files(initrd: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return `initrd` with a second archive behind it, from which the kernel adds `files` to the first one's.

    `files` maps names without a leading slash to contents. Directories they lie in are made.
    """
    entries = [*map(directory, parents(files)), *(file(*item) for item in sorted(files.items()))]
    return _padded(initrd) + archive(entries)


def parents(names: Iterable[str]) -> list[str]:
    """Return all directories above `names`, each after the one it lies in."""
    return sorted({parent.as_posix() for name in names for parent in PurePosixPath(name).parents} - {"."})


def _record(entry: Entry, inode: int) -> bytes:
    name = entry.name.encode() + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        2 if stat.S_ISDIR(entry.mode) else 1,  # nlink
        0,  # mtime
        len(entry.data),
        0,  # major and minor of the device that holds the file
        0,
        *entry.device,
        len(name),
        0,  # checksum, of the "crc" form only
    )
    header = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
