"""Disks and CD-ROM drives: what a user asks for, which controller it hangs on, and where firmware finds it.

Paths are Open Firmware's, as SeaBIOS matches them (SeaBIOS src/boot.c) and QEMU's `bootorder` has them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from wirt import _core
from wirt.errors import UsageError
from wirt.storage.raw import open_raw

Bus = Literal["virtio", "ide"]
DISK_BUSES: Final[tuple[Bus, ...]] = ("virtio", "ide")
IDE_PLACES: Final = 4
BootKind = Literal["disk", "cdrom"]
BOOT_ORDER: Final[tuple[BootKind, ...]] = ("disk", "cdrom")
_CDROM_ORDER: Final = (2, 3, 0, 1)
"""Where a CD-ROM drive goes first: the secondary channel, as is usual."""


class Disk(NamedTuple):
    """A raw disk image on a bus. Writes reach the file unless `readonly`."""

    path: Path
    readonly: bool = False
    bus: Bus = "virtio"


class IdePlaces(NamedTuple):
    """Which place of the IDE channels (primary 0 and 1, secondary 2 and 3) each drive has."""

    disks: tuple[int, ...]
    cdroms: tuple[int, ...]


def ide_places(disks: int, cdroms: int) -> IdePlaces:
    """Share out the places of the two channels. Raises UsageError when there are not enough."""
    if disks + cdroms > IDE_PLACES:
        raise UsageError(
            f"IDE has room for {IDE_PLACES} drives, not {disks + cdroms}: put disks on another bus "
            "(bus=virtio)."
        )
    places = [place for place in _CDROM_ORDER if place >= disks][:cdroms]
    return IdePlaces(tuple(range(disks)), tuple(sorted(places)))


def add_ide(
    machine: _core.Machine, disks: Sequence[Disk], cdroms: Sequence[_core.Medium]
) -> tuple[list[str], list[str]]:
    """Add the IDE controller with its drives; return the paths of disks and CD-ROM drives for firmware."""
    places = ide_places(len(disks), len(cdroms))
    drives: list[tuple[int, bool, str] | tuple[_core.Medium, str] | None] = [None] * IDE_PLACES
    with contextlib.ExitStack() as stack:
        for place, disk in zip(places.disks, disks, strict=True):
            fd = open_raw(disk.path, readonly=disk.readonly)
            stack.callback(os.close, fd)
            drives[place] = (fd, disk.readonly, f"wirt-ide{place}")
        for place, medium in zip(places.cdroms, cdroms, strict=True):
            drives[place] = (medium, f"wirt-cd{place}")
        machine.add_ide(drives)
    return [_ide_path(place) for place in places.disks], [_ide_path(place) for place in places.cdroms]


def _ide_path(place: int) -> str:
    return f"/pci@i0cf8/ide@1,1/drive@{place // 2}/disk@{place % 2}"


def add_virtio_disk(machine: _core.Machine, slot: int, index: int, disk: Disk) -> str:
    """Add a virtio disk in a PCI slot; return its path for firmware."""
    fd = open_raw(disk.path, readonly=disk.readonly)
    try:
        machine.add_disk(slot, f"disk{index}", fd, disk.readonly, f"wirt-disk{index}")
    finally:
        os.close(fd)
    return f"/pci@i0cf8/scsi@{slot:x}/disk@0,0"
