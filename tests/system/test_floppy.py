"""Floppy disks: SeaBIOS boots them and reads and writes them for a boot sector."""

from __future__ import annotations

from pathlib import Path

import pytest

import bare
import wirt

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
BOOT = """
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    mov ax, {read:#x}
    mov bx, 0x8000
    mov cx, 0x0002
    mov dx, 0x0000
    int 0x13
    jc failed
    mov ax, 0x0301
    mov cx, {last:#x}
    mov dh, {head}
    int 0x13
    jc failed
    mov ah, 0x08
    int 0x13
    mov al, bl
    jmp end
failed:
    mov al, 0x40
end:
    mov dx, 0xf4
    out dx, al
    hlt
"""
"""Reads the rest of the first track, writes the sector behind it to the last one of the disk, and ends the
machine with the kind of drive.
"""


@pytest.mark.skipif(not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)")
@pytest.mark.parametrize(
    ("kib", "cylinders", "heads", "sectors", "drive"),
    [
        (160, 40, 1, 8, 1),
        (360, 40, 2, 9, 1),
        (720, 80, 2, 9, 4),
        (1200, 80, 2, 15, 2),
        (1440, 80, 2, 18, 4),
        (2880, 80, 2, 36, 5),
    ],
)
def test_a_floppy_boots_and_is_written_by_the_bios(
    tmp_path: Path, kib: int, cylinders: int, heads: int, sectors: int, drive: int
) -> None:
    code = bare.assemble(
        BOOT.format(read=0x200 + sectors - 1, last=cylinders - 1 << 8 | sectors, head=heads - 1),
        address=0x7C00,
    )
    path = tmp_path / "floppy.img"
    content = bytearray(bytes(range(256)) * (kib * 4))
    content[: len(code)] = code
    content[510:512] = b"\x55\xaa"
    content[512:1024] = b"behind the boot sector".ljust(512, b"!")
    path.write_bytes(content)
    with wirt.VM(floppies=[path], devices=["isa-debug-exit"], accel="recompiler", reboot=False) as vm:
        assert vm.wait(60).exit_status == 2 * drive + 1
    content[-512:] = content[512:1024]
    assert path.read_bytes() == content


@pytest.mark.skipif(not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)")
def test_a_disk_put_in_instead_is_there_after_a_reset(tmp_path: Path) -> None:
    again = """
        mov dx, 0x3fd
    wait:
        in al, dx
        test al, 1
        jz wait
        mov al, 1
        out 0x92, al
        hlt
    """
    images = {"first": again, "second": "mov al, 3\n mov dx, 0xf4\n out dx, al\n hlt"}
    for name, source in images.items():
        code = bare.assemble(source, address=0x7C00).ljust(510, b"\0") + b"\x55\xaa"
        (tmp_path / name).write_bytes(code.ljust(720 << 10, b"\0"))
    first = wirt.Floppy(tmp_path / "first", readonly=True)
    with wirt.VM(floppies=[first, None], devices=["isa-debug-exit"], accel="recompiler") as vm:
        vm.console.expect("Booting from Floppy", timeout=60)
        with pytest.raises(wirt.Error, match="cannot be opened"):
            vm.floppies[1].insert(tmp_path / "none")
        vm.floppies[0].insert(tmp_path / "second")
        assert (vm.floppies[0].path, vm.floppies[1].path) == (tmp_path / "second", None)
        vm.console.send("x")
        assert vm.wait(60).exit_status == 7


def test_images_that_are_no_floppies_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes((2880 << 10) + 1))
    with pytest.raises(wirt.Error, match="has 2949121 bytes"):
        wirt.VM(floppies=[large])
    with pytest.raises(wirt.NotFoundError, match=r"The floppy image .* does not exist"):
        wirt.VM(floppies=[tmp_path / "none"])
    with pytest.raises(wirt.UsageError, match="at most 2 floppy drives, not 3"):
        wirt.VM(floppies=[None] * 3)
