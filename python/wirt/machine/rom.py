"""Firmware images: found on this host, checked, and placed so that they end at 4 GiB.

Source: Intel SDM volume 3, section 10.1.4 (the first instruction is at 0xFFFFFFF0); 82441FX, section 4.1 (the
last 128 KiB answer below 1 MiB as well).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from wirt.errors import NotFoundError, UsageError
from wirt.machine.memory_map import FIRMWARE_BASE, HIGH_RAM_BASE, KIB, PAGE_SIZE

LOW_SIZE: Final = 128 * KIB
"""What is seen of a firmware below 1 MiB; also the least that one has."""
MAX_SIZE: Final = HIGH_RAM_BASE - FIRMWARE_BASE

_DIRECTORIES: Final = ("/usr/share/seabios", "/usr/share/qemu", "/usr/local/share/qemu")
"""Where distributions put it."""
_SEABIOS: Final = "bios-256k.bin"


class Firmware(NamedTuple):
    """An image as it lies in the machine."""

    path: Path
    data: bytes
    """A whole number of pages."""

    @property
    def address(self) -> int:
        return HIGH_RAM_BASE - len(self.data)


def find(name: str) -> Path:
    """Return the file of a firmware: a known name, or the path of one.

    Raises NotFoundError when the host has none of that name.
    """
    if name != "seabios":
        return Path(name)
    for directory in _DIRECTORIES:
        path = Path(directory, _SEABIOS)
        if path.is_file():
            return path
    raise NotFoundError(
        f"SeaBIOS ({_SEABIOS}) is not on this host: install the package seabios, or name a file as firmware."
    )


def read(path: Path) -> Firmware:
    """Read an image. Raises NotFoundError or UsageError with a sentence for the user."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"The firmware {path} does not exist.") from None
    except OSError as error:
        raise NotFoundError(f"The firmware {path} cannot be read: {error.strerror}.") from None
    if len(data) % PAGE_SIZE or not LOW_SIZE <= len(data) <= MAX_SIZE:
        size = f"more than {MAX_SIZE} bytes" if len(data) > MAX_SIZE else f"{len(data)} bytes"
        raise UsageError(f"The firmware {path} has {size}: an image has 128 KiB to 4 MiB, in steps of 4 KiB.")
    return Firmware(path, data)
