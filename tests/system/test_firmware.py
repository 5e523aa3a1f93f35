"""Disks that firmware boots."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import pytest

import wirt

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
SECTOR = 512
WRITE = bytes.fromhex(
    "31c0 8ed8 8ec0"  # ds and es = 0
    "b80103 b90200 ba8000"  # int 13h, function 3: one sector, to sector 2 of drive 0x80
    "bb007c cd13"
    "b043 7202 b021"  # al = 0x21 when that went well, else 0x43
    "baf400 ee f4"  # the exit status is 2 * al + 1
)
"""A boot sector that copies itself to the next one by the BIOS and ends the machine."""


def image(path: Path, code: bytes) -> Path:
    """Make a disk of 1 MiB whose boot sector is `code`."""
    path.write_bytes((code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    return path


@pytest.mark.skipif(not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)")
class TestSeaBios:
    @pytest.mark.parametrize(("cpus", "bus"), [(1, "virtio"), (2, "virtio"), (1, "scsi")])
    def test_a_boot_sector_runs_and_writes_by_the_bios(
        self, tmp_path: Path, cpus: int, bus: Literal["virtio", "scsi"]
    ) -> None:
        disk = image(tmp_path / "disk.img", WRITE)
        with wirt.VM(
            disks=[wirt.Disk(disk, bus=bus)], cpus=cpus, devices=["isa-debug-exit"], accel="recompiler"
        ) as vm:
            assert vm.wait(60).exit_status == 2 * 0x21 + 1
        data = disk.read_bytes()
        assert data[SECTOR : 2 * SECTOR] == data[:SECTOR]

    def test_the_first_of_several_scsi_disks_is_booted(self, tmp_path: Path) -> None:
        disks = [image(tmp_path / f"{name}.img", WRITE) for name in ("first", "second")]
        cdrom = tmp_path / "empty.iso"
        cdrom.write_bytes(bytes(1 << 20))
        with wirt.VM(
            disks=[wirt.Disk(disk, bus="scsi") for disk in disks],
            cdroms=[wirt.Cdrom(cdrom, "scsi")],
            devices=["isa-debug-exit"],
            accel="recompiler",
        ) as vm:
            assert vm.wait(60).exit_status == 2 * 0x21 + 1
        first, second = (disk.read_bytes() for disk in disks)
        assert (first[SECTOR : 2 * SECTOR], second[SECTOR : 2 * SECTOR]) == (first[:SECTOR], bytes(SECTOR))

    def test_a_disk_without_a_boot_sector_is_told_of_on_the_console(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk.img"
        disk.write_bytes(bytes(1 << 20))
        with wirt.VM(disks=[disk], accel="recompiler") as vm:
            vm.console.expect("not a bootable disk", timeout=60)


@pytest.mark.parametrize(
    ("size", "words"),
    [(4096, "has 4096 bytes"), ((4 << 20) + 4096, "more than"), (0x2_0001, "steps of 4 KiB")],
)
def test_an_image_of_an_odd_size_is_refused(tmp_path: Path, size: int, words: str) -> None:
    firmware = tmp_path / "bios.bin"
    firmware.write_bytes(bytes(size))
    with pytest.raises(wirt.UsageError, match=words):
        wirt.VM(firmware=firmware)


def test_missing_firmware_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(wirt.NotFoundError, match="does not exist"):
        wirt.VM(firmware=tmp_path / "none.bin")


HELLO = bytes.fromhex(
    "31c0 8ed8 b80300 cd10"  # ds = 0; int 10h, function 0: mode 3
    "be 1e7c"  # si = text
    "ac 84c0 7408 b40e b307 cd10 ebf3"  # print it, int 10h, function 0Eh
    "31c0 cd16 b40e cd10 ebf6"  # int 16h: print what is typed
)
TEXT = b"Good evening\0"


@pytest.mark.skipif(not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)")
@pytest.mark.parametrize("bus", ["virtio", "ide"])
def test_a_screen_and_a_keyboard(tmp_path: Path, bus: Literal["virtio", "ide"]) -> None:
    code = HELLO.ljust(0x1E, b"\x90") + TEXT
    disk = wirt.Disk(image(tmp_path / "disk.img", code), bus=bus)
    with wirt.VM(disks=[disk], accel="recompiler") as vm:
        vm.screen.wait_for("Good evening", timeout=60)
        before = vm.screen.png()
        vm.keyboard.type("Hi {42}")
        vm.screen.wait_for(r"Good eveningHi \{42\}", timeout=20)
        assert vm.screen.png() != before
        assert struct.unpack_from(">II", before, 16) == (720, 400)


def test_cd_without_a_system_is_passed_over(tmp_path: Path) -> None:
    disc = tmp_path / "short.iso"
    disc.write_bytes(bytes(2048 * 20 + 100))
    disk = image(tmp_path / "disk.img", HELLO.ljust(0x1E, b"\x90") + TEXT)
    with wirt.VM(disks=[disk], cdroms=[disc], boot="cdrom", accel="recompiler") as vm:
        vm.screen.wait_for("Good evening", timeout=60)
        assert b"DVD/CD" in vm.console.history()
        vm.cdroms[0].eject()
        assert vm.cdroms[0].path is None
