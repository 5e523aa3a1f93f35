"""virtio devices under Linux's drivers: both interfaces, the balloon, and ports."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import wirt
from linux_guest import LINUX_GUEST

pytestmark = LINUX_GUEST

MIB = 1 << 20
PORT = "org.example.agent.0"
PORT_DEVICE = f"/dev/$(basename $(dirname $(grep -lx {PORT} /sys/class/virtio-ports/*/name)))"


def resident() -> int:
    """Bytes of memory that this process, which is the machine's, has."""
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Rss:"))


def eventually(condition: Callable[[], bool], timeout: float = 60.0) -> bool:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def fill(vm: wirt.VM, mebibytes: int) -> None:
    """Have the guest write to so much of its memory and free it again."""
    done = vm.exec(
        "mkdir -p /mnt && (mount | grep -q ' /mnt ' || mount -t tmpfs -o size=90% none /mnt) && "
        f"dd if=/dev/zero of=/mnt/fill bs=1M count={mebibytes} 2>&1 && rm /mnt/fill"
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("interfaces", "append", "device", "version_1"),
    [
        ("transitional", None, "0x1001", "1"),
        ("transitional", "virtio_pci.force_legacy=1", "0x1001", "0"),
        ("legacy", None, "0x1001", "0"),
        ("modern", None, "0x1042", "1"),
    ],
)
def test_linux_uses_whichever_interface_there_is(
    tmp_path: Path, interfaces: str, append: str | None, device: str, version_1: str
) -> None:
    disk = tmp_path / "disk.img"
    content = os.urandom(4 * MIB)
    disk.write_bytes(content)
    with wirt.VM("tiny", append=append, virtio=interfaces, disks=[disk], ports=[PORT]) as vm:
        bus = "/sys/bus/virtio/devices/virtio3"
        told = vm.exec(f"cat {bus}/../device; cut -c33 {bus}/features; md5sum </dev/vda").stdout.split()
        assert told == [device, version_1, hashlib.md5(content).hexdigest(), "-"]
        copied = vm.exec("dd if=/dev/vda of=/dev/vda bs=1M count=1 seek=1 conv=fsync 2>&1")
        assert copied.returncode == 0, copied.stdout
        assert disk.read_bytes()[MIB : 2 * MIB] == content[:MIB]
        vm.exec(f"echo from the guest >{PORT_DEVICE}; echo from hvc0 >/dev/hvc0")
        vm.ports[PORT].expect("from the guest\n", timeout=10)
        vm.virtio_console.expect("from hvc0", timeout=10)
        # Drivers can go and come back.
        again = vm.exec(
            "cd /sys/bus/pci/drivers/virtio-pci; echo 0000:00:05.0 >unbind; echo 0000:00:05.0 >bind; "
            "dd if=/dev/vda bs=1M count=1 2>/dev/null | md5sum"
        )
        assert again.stdout.split()[0] == hashlib.md5(content[:MIB]).hexdigest()


def test_what_a_balloon_takes_is_the_hosts_again() -> None:
    balloon = "virtio-balloon,free-page-reporting=off"
    with wirt.VM("tiny", memory="512M", devices=[balloon]) as vm:
        assert (vm.balloon.target, vm.balloon.size) == (512 * MIB, 512 * MIB)
        fill(vm, 300)
        full = resident()
        vm.balloon.target = "160M"
        assert eventually(lambda: vm.balloon.size == 160 * MIB)
        assert full - resident() > 250 * MIB
        statistics = vm.balloon.statistics()
        assert statistics is not None and 0 < statistics["free_memory"] < 160 * MIB
        assert statistics["total_memory"] > 400 * MIB
        vm.balloon.target = 512 * MIB
        assert eventually(lambda: vm.balloon.size == 512 * MIB)
        fill(vm, 300)
        with pytest.raises(wirt.UsageError, match="less than it has"):
            vm.balloon.target = "513M"


def test_what_a_guest_reports_free_is_the_hosts_again() -> None:
    with wirt.VM("tiny", memory="512M", devices=["virtio-balloon"]) as vm:
        fill(vm, 300)
        full = resident()
        assert eventually(lambda: full - resident() > 200 * MIB)
        fill(vm, 300)


def test_a_balloon_is_asked_the_same_after_a_reset() -> None:
    with wirt.VM("tiny", memory="256M", devices=["virtio-balloon"]) as vm:
        vm.console.expect("# ")
        vm.balloon.target = "128M"
        assert eventually(lambda: vm.balloon.size == 128 * MIB)
        vm.console.send("reboot\n")
        assert eventually(lambda: vm.balloon.size == 256 * MIB)
        assert eventually(lambda: vm.balloon.size == 128 * MIB)


def test_ports_carry_bytes_both_ways_and_hold_back_whoever_is_too_fast() -> None:
    data = bytes(range(256)) * 2048
    with wirt.VM("tiny", ports=[PORT, "other"]) as vm:
        vm.exec(f"head -c {len(data)} {PORT_DEVICE} >/tmp/data & sleep 1")
        vm.ports[PORT].send(data, timeout=60)
        assert eventually(lambda: vm.exec("stat -c %s /tmp/data").stdout == f"{len(data)}\n")
        assert vm.exec("md5sum /tmp/data").stdout.split()[0] == hashlib.md5(data).hexdigest()
        vm.exec(f"cat /tmp/data >{PORT_DEVICE}")
        back = b""
        while len(back) < len(data) and (part := vm.ports[PORT].read(10)):
            back += part
        assert back == data
        assert vm.ports["other"].read() == b""


def test_what_makes_no_sense_is_refused() -> None:
    for ports in (["a", "a"], ["a/b"], [""], ["x" * 65], [f"p{number}" for number in range(31)]):
        with pytest.raises(wirt.UsageError):
            wirt.VM("tiny", ports=ports)
    with pytest.raises(wirt.UsageError, match="transitional, modern, legacy"):
        wirt.VM("tiny", virtio="old")
    with wirt.VM(memory="1M") as vm, pytest.raises(wirt.Error, match="no balloon"):
        vm.balloon.target = "1M"
