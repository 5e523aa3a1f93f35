"""Firmware and option ROMs: found on this host and checked.

Source: Intel SDM volume 3, section 10.1.4 (the first instruction is at 0xFFFFFFF0); 82441FX, section 4.1 (the
last 128 KiB answer below 1 MiB as well).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wirt.errors import NotFoundError, UsageError
from wirt.machine.memory_map import FIRMWARE_BASE, HIGH_RAM_BASE, KIB, PAGE_SIZE

LOW_SIZE: Final = 128 * KIB
"""What is seen of a firmware below 1 MiB; also the least that one has."""
MAX_SIZE: Final = HIGH_RAM_BASE - FIRMWARE_BASE
MAX_ROM_SIZE: Final = 256 * KIB

_SEABIOS: Final = ("seabios/bios-256k.bin", "qemu/bios-256k.bin")
_VGA_BIOS: Final = ("seabios/vgabios-stdvga.bin", "qemu/vgabios-stdvga.bin")
_OVMF: Final = (
    ("OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"),
    ("edk2/x64/OVMF_CODE.4m.fd", "edk2/x64/OVMF_VARS.4m.fd"),
    ("edk2/ovmf/OVMF_CODE.fd", "edk2/ovmf/OVMF_VARS.fd"),
)
"""Code, and the empty variables that belong to it."""
_ROOTS: Final = (Path("/usr/share"), Path("/usr/local/share"))
"""Where distributions put all of that."""
NAMED: Final = ("seabios", "ovmf")


class Firmware(NamedTuple):
    """What a machine boots by: an image, or flash with the code and a file of variables.

    `variables` is the template of a machine that has none yet; None: the image is ROM.
    """

    code: Path
    variables: Path | None = None


class Image(NamedTuple):
    """An image as it lies in the machine."""

    path: Path
    data: bytes
    """A whole number of pages."""


def find(name: str) -> Firmware:
    """Return the files of a firmware: one with a known name, or the file of an image.

    Raises NotFoundError when the host has none of that name.
    """
    match name:
        case "seabios":
            found = _first(*([path] for path in _SEABIOS))
            missing, package = f"SeaBIOS ({Path(_SEABIOS[0]).name})", "seabios"
        case "ovmf":
            found = _first(*_OVMF)
            missing, package = f"OVMF ({Path(_OVMF[0][0]).name})", "ovmf"
        case _:
            return Firmware(Path(name))
    if found is None:
        raise NotFoundError(
            f"{missing} is not on this host: install the package {package}, or name a file as firmware."
        )
    return Firmware(*found)


def vga_bios() -> Path:
    """Return the file of the VGA card's BIOS. Raises NotFoundError."""
    found = _first(*([path] for path in _VGA_BIOS))
    if found is None:
        raise NotFoundError(
            f"The VGA card's BIOS ({Path(_VGA_BIOS[0]).name}) is not on this host: install the package "
            "seabios, or "
            "do without a screen."
        )
    return found[0]


def _first(*choices: Sequence[str]) -> list[Path] | None:
    """The first choice of which all files are there."""
    for root in _ROOTS:
        for choice in choices:
            paths = [root / name for name in choice]
            if all(path.is_file() for path in paths):
                return paths
    return None


def read(path: Path) -> Image:
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
    return Image(path, data)


def read_rom(path: Path) -> bytes:
    """Read an option ROM. Raises NotFoundError or UsageError with a sentence for the user."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ROM_SIZE + 1)
    except OSError as error:
        raise NotFoundError(f"The option ROM {path} cannot be read: {error.strerror}.") from None
    if data[:2] != b"\x55\xaa" or len(data) > MAX_ROM_SIZE:
        raise UsageError(f"{path} is no option ROM: one begins with the bytes 55 AA and has at most 256 KiB.")
    return data
