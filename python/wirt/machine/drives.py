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

Bus = Literal["virtio", "ide", "ahci", "scsi"]
DISK_BUSES: Final[tuple[Bus, ...]] = ("virtio", "ide", "ahci", "scsi")
CdromBus = Literal["ide", "ahci", "scsi"]
CDROM_BUSES: Final[tuple[CdromBus, ...]] = ("ide", "ahci", "scsi")
IDE_PLACES: Final = 4
AHCI_PORTS: Final = 6
SCSI_TARGETS: Final = 256
BootKind = Literal["disk", "cdrom"]
BOOT_ORDER: Final[tuple[BootKind, ...]] = ("disk", "cdrom")
_CDROM_ORDER: Final = (2, 3, 0, 1)
"""Where a CD-ROM drive goes first: the secondary channel, as is usual."""


class Disk(NamedTuple):
    """A raw disk image on a bus. Writes reach the file unless `readonly`."""

    path: Path
    readonly: bool = False
    bus: Bus = "virtio"


class Cdrom(NamedTuple):
    """A CD-ROM drive on a bus, with an image in it or empty."""

    path: Path | None
    bus: CdromBus = "ide"


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


def ahci_ports(drives: int) -> None:
    """Check that an AHCI adapter has ports for all. Raises UsageError when it has not."""
    if drives > AHCI_PORTS:
        raise UsageError(
            f"AHCI has room for {AHCI_PORTS} drives, not {drives}: put disks on another bus (bus=virtio)."
        )


def add_ahci(
    machine: _core.Machine, slot: int, disks: Sequence[Disk], cdroms: Sequence[_core.Medium]
) -> tuple[list[str], list[str]]:
    """Add an AHCI adapter in a PCI slot, on its ports disks and then CD-ROM drives; return their paths for
    firmware.
    """
    drives: list[tuple[int, bool, str] | tuple[_core.Medium, str] | None] = [None] * AHCI_PORTS
    with contextlib.ExitStack() as stack:
        for port, disk in enumerate(disks):
            fd = open_raw(disk.path, readonly=disk.readonly)
            stack.callback(os.close, fd)
            drives[port] = (fd, disk.readonly, f"wirt-sata{port}")
        for port, medium in enumerate(cdroms, len(disks)):
            drives[port] = (medium, f"wirt-cd{port}")
        machine.add_ahci(slot, "ahci0", drives)
    paths = [f"/pci@i0cf8/pci8086,2922@{slot:x}/drive@{port:x}/disk@0" for port in range(AHCI_PORTS)]
    return paths[: len(disks)], paths[len(disks) : len(disks) + len(cdroms)]


def scsi_targets(drives: int) -> None:
    """Check that a SCSI host has targets for all. Raises UsageError when it has not."""
    if drives > SCSI_TARGETS:
        raise UsageError(f"A SCSI host has room for {SCSI_TARGETS} drives, not {drives}: leave some out.")


def add_scsi(
    machine: _core.Machine, slot: int, disks: Sequence[Disk], cdroms: Sequence[_core.Medium]
) -> tuple[list[str], list[str]]:
    """Add a virtio SCSI host in a PCI slot, its targets disks and then CD-ROM drives; return their paths for
    firmware.
    """
    targets: list[tuple[int, tuple[int, bool, str] | tuple[_core.Medium, str]]] = []
    with contextlib.ExitStack() as stack:
        for disk in disks:
            fd = open_raw(disk.path, readonly=disk.readonly)
            stack.callback(os.close, fd)
            targets.append((len(targets), (fd, disk.readonly, f"wirt-scsi{len(targets)}")))
        targets += [
            (target, (medium, f"wirt-scsi{target}")) for target, medium in enumerate(cdroms, len(disks))
        ]
        machine.add_scsi(slot, "scsi0", targets)
    paths = [f"/pci@i0cf8/scsi@{slot:x}/channel@0/disk@{target:x},0" for target, _ in targets]
    return paths[: len(disks)], paths[len(disks) :]


def add_virtio_disk(machine: _core.Machine, slot: int, index: int, disk: Disk) -> str:
    """Add a virtio disk in a PCI slot; return its path for firmware."""
    fd = open_raw(disk.path, readonly=disk.readonly)
    try:
        machine.add_disk(slot, f"disk{index}", fd, disk.readonly, f"wirt-disk{index}")
    finally:
        os.close(fd)
    return f"/pci@i0cf8/scsi@{slot:x}/disk@0,0"
