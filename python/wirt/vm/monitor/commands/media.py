"""Commands about disks, and about what lies in drives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wirt.vm.monitor.messages import QmpError

if TYPE_CHECKING:
    from wirt.vm import CdromDrive
    from wirt.vm.monitor.monitor import Monitor


def query_block(monitor: Monitor) -> list[dict[str, object]]:
    """The disks in their order, and the drives."""
    spec = monitor.vm.spec
    disks = [
        _block(f"disk{index}") | {"inserted": _inserted(f"disk{index}", disk.path, disk.readonly)}
        for index, disk in enumerate(spec.disks)
    ]
    return disks + [_drive(name, drive) for name, drive in _drives(monitor).items()]


def eject(monitor: Monitor, device: str | None = None, id: str | None = None, force: bool = False) -> None:
    """Take out what is in a drive. The tray is closed again, which QEMU leaves open."""
    _drive_of(monitor, device, id).eject(force=force)


def open_tray(
    monitor: Monitor, device: str | None = None, id: str | None = None, force: bool = False
) -> None:
    """Open the tray; one that the guest has locked is the guest's to open, which is asked for it."""
    _drive_of(monitor, device, id).open_tray(force=force)


def close_tray(monitor: Monitor, device: str | None = None, id: str | None = None) -> None:
    """Close it."""
    _drive_of(monitor, device, id).close_tray()


def change_medium(
    monitor: Monitor,
    filename: str,
    device: str | None = None,
    id: str | None = None,
    format: Literal["raw"] = "raw",
    force: bool = False,
    read_only_mode: Literal["retain", "read-only"] = "retain",
) -> None:
    """Put an image in a drive instead of what is there, and close the tray. CD-ROMs are raw and read-only."""
    _drive_of(monitor, device, id).insert(filename, force=force)


def _drives(monitor: Monitor) -> dict[str, CdromDrive]:
    """The drives by the names that commands and events have for them."""
    return {drive.name: drive for drive in monitor.vm.cdroms}


def _drive_of(monitor: Monitor, device: str | None, id: str | None) -> CdromDrive:
    """The drive that a command is about. Raises QmpError."""
    name = id if device is None else device
    if name is None or (device is not None and id is not None):
        raise QmpError("GenericError", "Say which drive is meant by one of 'id' and 'device'.")
    drives = _drives(monitor)
    if name not in drives:
        known = ", ".join(drives) or "none"
        raise QmpError("DeviceNotFound", f"There is no drive {name[:80]!r}; there are: {known}.")
    return drives[name]


def _drive(name: str, drive: CdromDrive) -> dict[str, object]:
    block = _block(name) | {"removable": True, "locked": drive.locked, "tray_open": drive.open}
    if (path := drive.path) is not None:
        block["inserted"] = _inserted(name, path, True)
    return block


def _block(name: str) -> dict[str, object]:
    """QMP's BlockInfo, as far as it is the same for all."""
    return {"device": name, "qdev": name, "type": "unknown", "removable": False, "locked": False}


def _inserted(name: str, path: Path, readonly: bool) -> dict[str, object]:
    """QMP's BlockDeviceInfo, with all the members that clients rely on. Nothing is throttled."""
    size, actual = _sizes(path)
    image = {"filename": str(path), "format": "raw", "virtual-size": size, "actual-size": actual}
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    return {
        "file": str(path),
        "node-name": name,
        "drv": "raw",
        "ro": readonly,
        "encrypted": False,
        "backing_file_depth": 0,
        "detect_zeroes": "off",
        "write_threshold": 0,
        "cache": {"writeback": True, "direct": False, "no-flush": False},
        "image": image,
        **limits,
    }


def _sizes(path: Path) -> tuple[int, int]:
    """The bytes of an image, and how many of them are on the host's disk."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # It was removed meanwhile, and the guest has it still.
        return 0, 0
    try:
        return os.lseek(fd, 0, os.SEEK_END), os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)
