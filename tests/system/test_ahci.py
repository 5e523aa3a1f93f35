"""SeaBIOS boots from the ports of an AHCI adapter."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import wirt
from wirt.machine.drives import Bus

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
SECTOR = 512
BLOCK = 2048


def ends_with(status: int) -> bytes:
    """Code that ends the machine with the exit status 2 * `status` + 1."""
    return bytes([0xB0, status, 0xBA, 0xF4, 0x00, 0xEE, 0xF4])


COPY = bytes.fromhex(
    "31c0 8ed8 8ec0"  # ds and es = 0
    "b83e02 b90200 ba8000 bb0080 cd13"  # int 13h, function 2: sectors 2 to 63 of drive 0x80, to 0x8000
    "b83e03 b90200 ba8001 bb0080 cd13"  # function 3: to the same sectors of head 1
) + ends_with(0x21)


def disk(path: Path, code: bytes, bus: Bus) -> wirt.Disk:
    """Make a disk of 1 MiB whose boot sector is `code`, and whose other sectors hold their numbers."""
    sectors = [code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"]
    sectors += [struct.pack("<I", number) * (SECTOR // 4) for number in range(1, 2048)]
    path.write_bytes(b"".join(sectors))
    return wirt.Disk(path, bus=bus)


def disc(path: Path, code: bytes) -> Path:
    """Make a disc that boots `code`. El Torito 1.0, sections 2 and 3."""
    blocks = [bytes(BLOCK)] * 24
    blocks[16] = b"\x01CD001\x01".ljust(BLOCK, b"\0")
    record = b"\x00CD001\x01EL TORITO SPECIFICATION".ljust(71, b"\0") + struct.pack("<I", 19)
    blocks[17] = record.ljust(BLOCK, b"\0")
    blocks[18] = b"\xffCD001\x01".ljust(BLOCK, b"\0")
    # The validation entry, whose words have the sum zero; then four sectors without emulation, from block 20.
    validation = struct.pack("<BBH24sHBB", 1, 0, 0, b"", 0x10000 - 1 - 0xAA55, 0x55, 0xAA)
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 20)
    blocks[19] = (validation + entry).ljust(BLOCK, b"\0")
    blocks[20] = code.ljust(BLOCK, b"\0")
    path.write_bytes(b"".join(blocks))
    return path


@pytest.mark.skipif(not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)")
class TestSeaBios:
    def test_a_disk_boots_is_read_and_written(self, tmp_path: Path) -> None:
        boots = disk(tmp_path / "disk.img", COPY, "ahci")
        with wirt.VM(disks=[boots], devices=["isa-debug-exit"], accel="recompiler") as vm:
            assert vm.wait(60).exit_status == 2 * 0x21 + 1
        data = boots.path.read_bytes()
        # 63 sectors are a track, as firmware counts.
        assert data[64 * SECTOR : 126 * SECTOR] == data[SECTOR : 63 * SECTOR]
        assert data[63 * SECTOR :][:4] == struct.pack("<I", 63)
        assert data[126 * SECTOR :][:4] == struct.pack("<I", 126)

    @pytest.mark.parametrize(
        "buses", [("ahci", "ahci"), ("ahci", "virtio"), ("virtio", "ahci"), ("ide", "ahci")]
    )
    def test_the_first_of_several_disks_boots(self, tmp_path: Path, buses: tuple[Bus, Bus]) -> None:
        disks = [
            disk(tmp_path / f"{number}.img", ends_with(number), bus) for number, bus in enumerate(buses, 0x10)
        ]
        with wirt.VM(disks=disks, devices=["isa-debug-exit"], accel="recompiler") as vm:
            assert vm.wait(60).exit_status == 2 * 0x10 + 1

    def test_a_disc_boots(self, tmp_path: Path) -> None:
        cdrom = wirt.Cdrom(disc(tmp_path / "disc.iso", ends_with(0x31)), "ahci")
        other = disk(tmp_path / "disk.img", ends_with(0x10), "ahci")
        with wirt.VM(
            disks=[other], cdroms=[cdrom], boot="cdrom", devices=["isa-debug-exit"], accel="recompiler"
        ) as vm:
            assert vm.wait(60).exit_status == 2 * 0x31 + 1


def test_a_seventh_drive_is_refused(tmp_path: Path) -> None:
    cdroms = [wirt.Cdrom(None, "ahci")] * 7
    with pytest.raises(wirt.UsageError, match="room for 6 drives, not 7"):
        wirt.VM(cdroms=cdroms, memory="1M")
