"""What tests of real systems boot: Debian's disks, made once and kept in the cache, and CD-ROMs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tools import boot_disc, debian_disk

from wirt.machine.tiny.cache import default_directory

ALL_GUESTS: Final = pytest.mark.skipif(
    "WIRT_GUESTS" not in os.environ, reason="takes minutes: `make guests` or WIRT_GUESTS=1"
)
SEABIOS: Final = Path("/usr/share/seabios/bios-256k.bin")
OVMF: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
NEEDS_SEABIOS: Final = pytest.mark.skipif(
    not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)"
)
NEEDS_OVMF: Final = pytest.mark.skipif(
    not OVMF.is_file(), reason="OVMF is not installed (Debian package ovmf)"
)


def debian_image(arch: str, kernel: str) -> Path:
    """The cached disk of a Debian, which nobody may write to; the first time it takes minutes.

    The test is skipped, with the reason, where none can be made.
    """
    recipe = hashlib.sha256(Path(debian_disk.__file__).read_bytes()).hexdigest()[:16]
    directory = default_directory() / "guests"
    name = f"debian-{arch}-{kernel}"
    image = directory / f"{name}-{recipe}.img"
    directory.mkdir(parents=True, exist_ok=True)
    # One process makes it, others wait for that.
    with (directory / f"{name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.is_file():
            if os.geteuid() != 0:
                pytest.skip("a disk with Debian is made by root")
            if missing := debian_disk.missing_packages():
                pytest.skip(f"Debian packages are not installed: {' '.join(missing)}")
            for older in directory.glob(f"{name}-*.img*"):
                older.unlink()
            debian_disk.build(image, arch, kernel, print)
    return image


def copy_of(image: Path, directory: Path) -> Path:
    """A disk of one's own, which takes no more room than its data."""
    copy = directory / "disk.img"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, copy], check=True)
    return copy


def disc(kind: str, directory: Path) -> Path:
    """A CD-ROM as `tools.boot_disc` makes it; the test is skipped where packages are missing."""
    if missing := debian_disk.missing_packages(boot_disc.tools(kind)):
        pytest.skip(f"Debian packages are not installed: {' '.join(missing)}")
    image = directory / f"{kind}.iso"
    boot_disc.make(kind, image)
    return image


def packaged(path: str, package: str) -> Path:
    """A file of a Debian package; the test is skipped where it is not installed."""
    file = Path(path)
    if not file.is_file():
        pytest.skip(f"{file} is not there (Debian package {package})")
    return file
