"""USB devices in the hands of guests."""

from __future__ import annotations

from pathlib import Path

import pytest

import wirt

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
SECTOR = 512
TYPE = bytes.fromhex(
    "b0ad e664"  # the PS/2 keyboard is disabled
    "b83f0e bb0700 cd10"  # int 10h, function 0Eh: print a question mark
    "b400 cd16"  # int 16h, function 0: wait for a key
    "baf400 ee f4"  # the exit status is 2 * its character + 1
)


@pytest.mark.skipif(not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)")
def test_the_bios_reads_the_usb_keyboard(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes((TYPE.ljust(SECTOR - 2, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    with wirt.VM(disks=[disk], devices=["usb-kbd", "isa-debug-exit"], accel="recompiler") as vm:
        vm.console.expect(r"(?s)Booting from Hard Disk.*\?", timeout=60)
        vm.keyboard.type("Z")
        assert vm.wait(60).exit_status == 2 * ord("Z") + 1
