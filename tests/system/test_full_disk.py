"""The host's file system is full: the guest hears of it, or waits until there is room."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import wirt

MIB = 1 << 20
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 4 MiB, with a disk of 16 MiB on it of which nothing is written yet."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", directory], check=True)
    try:
        disk = directory / "disk.img"
        disk.touch()
        os.truncate(disk, 16 * MIB)
        yield disk
    finally:
        subprocess.run(["umount", directory], check=True)


WRITE = "dd if=/dev/urandom of=/tmp/d bs=1M count=8 2>/dev/null; dd if=/tmp/d of=/dev/vda oflag=direct bs=64k"


def test_the_guest_sees_an_io_error(small: Path) -> None:
    with wirt.VM("tiny", disks=[small], accel="recompiler") as vm:
        done = vm.exec(WRITE + " 2>&1; sync", timeout=120)
        assert "I/O error" in done.stdout or "No space" in done.stdout
        assert vm.exec("echo alive").stdout == "alive\n"


def test_or_waits_until_there_is_room(small: Path) -> None:
    with wirt.VM("tiny", disks=[small], accel="recompiler", on_io_error="pause") as vm:
        vm.exec("true")
        vm.console.send(WRITE + " && cmp -n 8388608 /tmp/d /dev/vda && echo sa''me\n")
        deadline = time.monotonic() + 120
        while vm.state != "paused" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert vm.state == "paused"
        vm.resume()
        while vm.state != "paused" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert vm.state == "paused", "it went on although there was no room"
        subprocess.run(["mount", "-o", "remount,size=32m", small.parent], check=True)
        vm.resume()
        vm.console.expect("same", timeout=120)
