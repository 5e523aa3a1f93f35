"""Small systems that boot from CD-ROMs, on the screen and by the keyboard: Memtest86+, iPXE, GRUB, isolinux
and Debian's installer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import wirt
from boot_images import ALL_GUESTS, NEEDS_OVMF, NEEDS_SEABIOS, disc, packaged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PATIENCE = 600.0
"""Seconds in which a guest on a busy machine shows what it is to show."""
MEMTEST_BLUE = b"\xaa\0\0"
WHOLE_PASS = 1500.0
RESCUE_CD = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"


@contextmanager
def booted(
    *, cdrom: Path | None = None, disk: Path | None = None, firmware: str = "seabios", memory: str = "64M"
) -> Iterator[wirt.VM]:
    with wirt.VM(
        firmware=firmware,
        cdroms=[] if cdrom is None else [cdrom],
        disks=[] if disk is None else [wirt.Disk(disk, readonly=True)],
        memory=memory,
        accel="recompiler",
    ) as vm:
        yield vm


def picture(vm: wirt.VM) -> bytes:
    """The pixels, 4 bytes each: blue, green, red, and one that means nothing."""
    frame = vm.screen.open_frame()
    frame.update()
    return frame.pixels


def share(vm: wirt.VM, colour: bytes) -> float:
    """How much of the screen has this colour (blue, green, red)."""
    pixels = picture(vm)
    same = sum(pixels[at : at + 3] == colour for at in range(0, len(pixels), 4))
    return same / max(1, len(pixels) // 4)


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a picture: a program in a graphics mode says nothing."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(1)


@NEEDS_SEABIOS
def test_ipxe_takes_commands() -> None:
    with booted(cdrom=packaged("/usr/lib/ipxe/ipxe.iso", "ipxe")) as vm:
        vm.screen.wait_for("Press Ctrl-B|iPXE initialising", PATIENCE)
        # It looks for the key during two seconds, and the machine may be busy: more than once does no harm.
        while "iPXE>" not in (vm.screen.text() or ""):
            vm.keyboard.press("ctrl-b", interval=0.1)
        vm.keyboard.type("show version\n")
        vm.screen.wait_for(r"builtin/version:string = 1\.", PATIENCE)


@NEEDS_SEABIOS
@pytest.mark.parametrize(("medium", "itself"), [("cdrom", r"\(cd0?\)|\(cd\)"), ("disk", r"\(hd0\)")])
def test_grubs_rescue_medium(medium: str, itself: str) -> None:
    """One image is a CD-ROM and a disk; its menu is empty, so it shows the command line at once."""
    image = packaged(RESCUE_CD, "grub-rescue-pc")
    with booted(**{medium: image}) as vm:  # type: ignore[arg-type]
        vm.screen.wait_for("GNU GRUB", PATIENCE)
        vm.keyboard.press("c")
        vm.screen.wait_for("grub> *\n", PATIENCE)
        vm.keyboard.type("ls\n")
        vm.screen.wait_for(itself, PATIENCE)


@NEEDS_SEABIOS
@ALL_GUESTS
def test_isolinux_asks_and_starts_a_kernel(tmp_path: Path) -> None:
    with booted(cdrom=disc("isolinux", tmp_path), memory="1G") as vm:
        vm.screen.wait_for("boot:", PATIENCE)
        vm.keyboard.type("nothing\n")
        vm.screen.wait_for(r"(?s)failed: No such file or directory.*boot:", PATIENCE)
        vm.keyboard.type("linux console=ttyS0\n")
        vm.console.expect(r"Linux version 6\.1", PATIENCE)


@NEEDS_SEABIOS
@ALL_GUESTS
def test_isolinux_starts_the_installer(tmp_path: Path) -> None:
    with booted(cdrom=disc("isolinux", tmp_path), memory="1G") as vm:
        vm.screen.wait_for("boot:", PATIENCE)
        vm.keyboard.type("linux\n")
        vm.screen.wait_for("Select a language", PATIENCE)


class TestMemtest:
    @NEEDS_SEABIOS
    @ALL_GUESTS
    @pytest.mark.parametrize("kind", ["memtest", "memtest32"])
    def test_a_pass_finds_no_errors(self, tmp_path: Path, kind: str) -> None:
        """All tests once. The bit fade test alone waits for five minutes."""
        with booted(cdrom=disc(kind, tmp_path), memory="16M") as vm:
            vm.screen.wait_for("<Enter> to start testing", PATIENCE)
            vm.keyboard.press("ret")
            vm.screen.wait_for(r"Testing: *\S", PATIENCE)
            status = vm.screen.wait_for(r"Status: (Pass|Failed)", WHOLE_PASS).group(1)
            assert status == "Pass"

    @NEEDS_OVMF
    @ALL_GUESTS
    def test_it_runs_by_uefi(self, tmp_path: Path) -> None:
        with booted(cdrom=disc("memtest", tmp_path), firmware="ovmf", memory="128M") as vm:
            wait_until(lambda: share(vm, MEMTEST_BLUE) > 0.4, "Memtest86+ did not paint its screen.")
            vm.keyboard.press("ret")
            # The clock, the progress and the pattern on the screen change as long as it tests.
            before = picture(vm)
            wait_until(lambda: picture(vm) != before, "Memtest86+ stands still.")
            assert share(vm, MEMTEST_BLUE) > 0.4


class TestInstaller:
    @NEEDS_SEABIOS
    @ALL_GUESTS
    @pytest.mark.parametrize("kind", ["installer", "installer32"])
    def test_in_text_on_the_screen(self, tmp_path: Path, kind: str) -> None:
        with booted(cdrom=disc(kind, tmp_path), memory="1G") as vm:
            vm.screen.wait_for("GNU GRUB", PATIENCE)
            vm.keyboard.press("t")
            vm.screen.wait_for("Select a language", PATIENCE)
            vm.keyboard.press("ret")
            vm.screen.wait_for("Select your location", PATIENCE)

    @NEEDS_SEABIOS
    @ALL_GUESTS
    @pytest.mark.parametrize("kind", ["installer", "installer32"])
    def test_on_the_serial_port(self, tmp_path: Path, kind: str) -> None:
        with booted(cdrom=disc(kind, tmp_path), memory="1G") as vm:
            vm.screen.wait_for("GNU GRUB", PATIENCE)
            vm.keyboard.press("s")
            vm.console.expect("Select a language", PATIENCE)
            vm.console.send("\r")
            vm.console.expect("Select your location", PATIENCE)
