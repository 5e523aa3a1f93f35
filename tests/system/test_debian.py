"""Debian's unmodified kernel in the built-in guest, driven from Python: what it sees of the machine, what
it does to disks, and how it ends. Disks are judged from outside, byte for byte and by e2fsprogs.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

import wirt
from linux_guest import LINUX_GUEST
from wirt import _core

pytestmark = [*LINUX_GUEST, pytest.mark.timeout(90)]

MIB = 1 << 20
PATIENCE = 40.0
"""Seconds in which a guest on a busy machine boots or ends."""


@pytest.fixture(scope="module", params=["recompiler", "kvm"])
def accel(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "kvm":
        probe = _core.probe()
        if probe.verdict != "hardware":
            pytest.skip(f"Linux does not run in the KVM of this host: {probe.text}")
    return name


@pytest.fixture(scope="module")
def guest(accel: str) -> Iterator[wirt.VM]:
    """A machine with 2 vCPUs for tests that only look."""
    with wirt.VM("tiny", cpus=2, memory="384M", accel=accel) as vm:
        yield vm


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A raw image of 8 MiB, no two sectors of which are the same."""
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(8 * MIB))
    return path


def output(vm: wirt.VM, command: str) -> str:
    """The output of a command that succeeds."""
    done = vm.exec(command, PATIENCE)
    assert done.returncode == 0, done
    return done.stdout


def cpu_numbers(cpuinfo: str) -> list[int]:
    return [int(number) for number in re.findall(r"^processor\s*: (\d+)$", cpuinfo, re.MULTILINE)]


@pytest.mark.parametrize("cpus", [1, 2])
def test_it_boots_and_powers_off(accel: str, cpus: int) -> None:
    with wirt.VM("tiny", cpus=cpus, accel=accel) as vm:
        assert re.match(r"Linux version 6\.\S+-cloud-amd64 .*Debian", output(vm, "cat /proc/version"))
        assert cpu_numbers(output(vm, "cat /proc/cpuinfo")) == list(range(cpus))
        vm.console.send("poweroff -f\n")
        result = vm.wait(PATIENCE)
    assert (result.reason, result.exit_status) == ("shutdown", 0)


def test_the_kernel_complains_of_nothing(guest: wirt.VM) -> None:
    """No oops, no warning with a trace, no stall; of the rest, only what the machine has on purpose."""
    log = output(guest, "dmesg")
    assert "Linux version" in log
    assert not re.search(
        r"BUG:|WARNING:|Oops|Call Trace|rcu_.*stall|soft lockup|nobody cared|clocksource: .*unstable", log
    )
    # The first line of the firmware's tables the kernel found, and no table it refused.
    assert "ACPI: RSDP" in log
    assert not re.search(r"ACPI (BIOS )?Error|\[Firmware (Bug|Warn)\]", log)


@pytest.mark.parametrize("command, stdout, status", [
    ("echo to stdout; echo to stderr >&2; exit 3", "to stdout\nto stderr\n", 3),
    ("false", "", 1),
    ("kill -9 $$", "Killed\n", 137),
    ("no-such-command 2>/dev/null", "", 127),
    ("cat", "", 0),
    ("seq 3000", "".join(f"{number}\n" for number in range(1, 3001)), 0),
    ("echo 'quotes \" and $dollars and \\backslashes and Gäste'",
     "quotes \" and $dollars and \\backslashes and Gäste\n", 0),
])  # fmt: skip
def test_exec(guest: wirt.VM, command: str, stdout: str, status: int) -> None:
    done = guest.exec(command, PATIENCE)
    assert (done.stdout, done.returncode) == (stdout, status)


def test_a_command_that_takes_too_long_is_interrupted(guest: wirt.VM) -> None:
    guest.exec("true", PATIENCE)
    with pytest.raises(wirt.WaitTimeout, match="'sleep 1000' took longer than 1 s and was interrupted"):
        guest.exec("sleep 1000", timeout=1)
    assert output(guest, "pidof sleep || echo none") == "none\n"
    guest.exec("true", PATIENCE)
    assert output(guest, "ls /run/exec.* | wc -l") == "2\n"


@pytest.mark.parametrize("cpus", [1, 2])
def test_run(accel: str, cpus: int) -> None:
    done = wirt.run("nproc; exit 42", cpus=cpus, accel=accel, timeout=PATIENCE)
    assert (done.stdout, done.returncode) == (f"{cpus}\n", 42)


@pytest.mark.parametrize("memory, mib", [("128M", 128), ("1GiB", 1024), (700 * MIB, 700)])
def test_memory_is_as_asked(accel: str, memory: str | int, mib: int) -> None:
    done = wirt.run(
        "grep 'System RAM' /proc/iomem; awk '/MemTotal/ { print $2 }' /proc/meminfo",
        memory=memory,
        accel=accel,
        timeout=PATIENCE,
    )
    *ranges, total = done.stdout.splitlines()
    # All but the first page, which Linux keeps from itself, and the legacy hole.
    assert mib * MIB - ram_size(ranges) <= 0x1000 + (0x10_0000 - 0x9_0000)
    # The kernel, the initramfs and 1/64 for page descriptors.
    assert mib * 1024 * 63 / 64 - 40 * 1024 < int(total) < mib * 1024


def test_memory_lies_on_both_sides_of_the_hole_below_4_gib(accel: str) -> None:
    done = wirt.run("grep 'System RAM' /proc/iomem", memory="5G", accel=accel, timeout=PATIENCE)
    ranges = done.stdout.splitlines()
    assert 5 * 1024 * MIB - ram_size(ranges) < MIB
    assert any(line.startswith("100000000-") for line in ranges)


def ram_size(iomem: list[str]) -> int:
    """The bytes in the lines of /proc/iomem."""
    bounds = (line.split()[0].split("-") for line in iomem)
    return sum(int(last, 16) - int(first, 16) + 1 for first, last in bounds)


def test_more_vcpus_than_processors_make_progress(accel: str) -> None:
    """Six processors count to the same number at once, each on a processor of its own."""
    count = (
        "for cpu in 0 1 2 3 4 5; do taskset -c $cpu sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done;"
    )
    done = wirt.run(f"{count} echo $i' & done; wait; nproc", cpus=6, accel=accel, timeout=60)
    assert done.stdout.split() == ["3000"] * 6 + ["6"]


def test_both_processors_take_interrupts(guest: wirt.VM) -> None:
    """Local timers on each, and each gets the other's reschedule or call interrupts."""
    output(guest, "for cpu in 0 1; do taskset -c $cpu sleep 0.1; done")
    interrupts = output(guest, "cat /proc/interrupts")
    for name in ("LOC", "RES", "CAL"):
        counts = re.search(rf"^ *{name}: +(\d+) +(\d+) ", interrupts, re.MULTILINE)
        assert counts is not None, interrupts
        assert sum(map(int, counts.groups())) > 0
    local = re.search(r"^ *LOC: +(\d+) +(\d+) ", interrupts, re.MULTILINE)
    assert local is not None and all(int(count) > 0 for count in local.groups())


def test_time_passes_as_outside(guest: wirt.VM) -> None:
    """A sleep takes its time by the guest's clock and by the host's, and the clock was set from the RTC."""
    start = time.monotonic()
    before, after = output(guest, "date +%s; sleep 2; date +%s").split()
    assert time.monotonic() - start >= 2
    assert 2 <= int(after) - int(before) <= 12
    assert abs(int(after) - time.time()) < 12


def test_the_pci_devices(guest: wirt.VM) -> None:
    """Vendor, device and class (PCI Code and ID Assignment) of each function, and the driver that took it."""
    listed = output(
        guest,
        "cd /sys/bus/pci/devices; for slot in *; do driver=$(readlink $slot/driver);"
        "echo $slot $(cat $slot/vendor $slot/device $slot/class) ${driver##*/}; done",
    )
    assert listed.splitlines() == [
        "0000:00:00.0 0x8086 0x1237 0x060000",
        "0000:00:01.0 0x8086 0x7000 0x060100",
        "0000:00:01.3 0x8086 0x7113 0x068000",
        "0000:00:02.0 0x1af4 0x1005 0xff0000 virtio-pci",
        "0000:00:03.0 0x1af4 0x1003 0x078000 virtio-pci",
        "0000:00:04.0 0x1af4 0x1000 0x020000 virtio-pci",
    ]


def test_the_network_card_sends(guest: wirt.VM) -> None:
    driver, address = output(
        guest,
        "cd /sys/class/net/eth0; basename $(readlink device/driver); cat address;"
        "arping -c 2 -w 3 -I eth0 10.0.2.2 >/dev/null; [ $(cat statistics/tx_packets) -ge 2 ]",
    ).split()
    assert driver == "virtio_net"
    # Unicast, locally administered (IEEE 802, section 8.2.2).
    assert int(address[:2], 16) & 3 == 2


def test_the_random_number_generator_is_the_hardware_generator(guest: wirt.VM) -> None:
    assert output(guest, "cat /sys/class/misc/hw_random/rng_current") == "virtio_rng.0\n"
    first, second = output(
        guest, "for i in 1 2; do dd if=/dev/hwrng bs=64 count=1 2>/dev/null | sha256sum; done"
    ).splitlines()
    assert first != second
    assert f"{sha256(b'').hexdigest()}  -" not in (first, second)


def test_the_virtio_console_carries_both_ways(guest: wirt.VM) -> None:
    output(guest, "echo from the guest >/dev/hvc0")
    guest.virtio_console.expect(rb"from the guest\r?\n", 10)
    guest.virtio_console.send("from the host\n")
    assert output(guest, "read -r line </dev/hvc0; echo $line") == "from the host\n"


def test_a_disk_is_read_and_written_byte_for_byte(accel: str, image: Path) -> None:
    before = image.read_bytes()
    text = (b"Wirt writes here\n" * 20000)[: 50 * 4096 + 512]
    done = wirt.run(
        "cat /sys/block/vda/size; sha256sum </dev/vda;"
        "yes 'Wirt writes here' | head -c 205312 >/run/text;"
        "dd if=/run/text of=/dev/vda bs=512 seek=801 conv=fsync 2>/dev/null;"
        "dd if=/dev/vda of=/dev/vda bs=64k skip=1 seek=127 count=1 conv=fsync 2>/dev/null;"
        "sha256sum </dev/vda",
        disks=[image],
        accel=accel,
        timeout=PATIENCE,
    )
    expected = bytearray(before)
    expected[801 * 512 : 801 * 512 + len(text)] = text
    expected[127 << 16 :] = expected[1 << 16 : 2 << 16]
    size, read, read_again = done.stdout.splitlines()
    assert int(size) == len(before) // 512
    assert read == f"{sha256(before).hexdigest()}  -"
    assert read_again == f"{sha256(expected).hexdigest()}  -"
    assert image.read_bytes() == expected


def test_a_read_only_disk_stays_as_it_is(accel: str, image: Path) -> None:
    before = image.read_bytes()
    done = wirt.run(
        "cat /sys/block/vda/ro; echo >/dev/vda",
        disks=[wirt.Disk(image, readonly=True)],
        accel=accel,
        timeout=PATIENCE,
    )
    assert done.stdout.startswith("1\n")
    assert done.returncode != 0
    assert image.read_bytes() == before


@pytest.mark.parametrize("cpus", [1, 2])
def test_an_ext4_filesystem_is_used_and_stays_sound(accel: str, tmp_path: Path, cpus: int) -> None:
    """Files made by e2fsprogs are read in the guest; what the guest makes of them, e2fsprogs reads."""
    tree, image = tmp_path / "tree", tmp_path / "ext4.img"
    content = random.Random(2).randbytes(3 * MIB + 77)
    (tree / "from-host").mkdir(parents=True)
    (tree / "from-host" / "data").write_bytes(content)
    e2fs("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image), "32M")
    done = wirt.run(
        "set -e; mount -t ext4 /dev/vda /mnt; cd /mnt; sha256sum <from-host/data; mkdir from-guest;"
        "for i in $(seq 200); do echo $i >from-guest/$i; done;"
        "cp from-host/data from-guest/copy; rm from-host/data; cd /; umount /mnt",
        disks=[image],
        cpus=cpus,
        accel=accel,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == (f"{sha256(content).hexdigest()}  -\n", 0)
    e2fs("e2fsck", "-fn", str(image))
    assert e2fs("debugfs", "-R", "cat /from-guest/copy", str(image)) == content
    assert e2fs("debugfs", "-R", "cat /from-guest/200", str(image)) == b"200\n"
    assert b"data" not in e2fs("debugfs", "-R", "ls /from-host", str(image))


def e2fs(tool: str, *arguments: str) -> bytes:
    """Run a program of e2fsprogs, which may be outside an ordinary user's PATH, and return its output."""
    program = shutil.which(tool) or f"/sbin/{tool}"
    return subprocess.run([program, *arguments], check=True, capture_output=True, timeout=30).stdout


def test_a_reboot_ends_the_machine_where_none_is_wanted(accel: str) -> None:
    with wirt.VM("tiny", accel=accel, reboot=False) as vm:
        output(vm, "true")
        vm.console.send("reboot -f\n")
        result = vm.wait(PATIENCE)
    assert (result.reason, result.exit_status) == ("reset", 0)


def test_a_reboot_starts_the_guest_again(accel: str) -> None:
    with wirt.VM("tiny", cpus=2, accel=accel) as vm:
        vm.console.expect(r"tiny:\S*# ", PATIENCE)
        vm.console.send("touch /run/before; reboot -f\n")
        vm.console.expect(r"Linux \S+-cloud-amd64, 2 CPU", PATIENCE)
        vm.console.expect(r"tiny:\S*# ", PATIENCE)
        vm.console.send("[ -e /run/before ] || echo all is new\n")
        vm.console.expect(r"\nall is new\r\n", PATIENCE)


def test_a_panic_is_a_reset_where_the_guest_asks_for_one(accel: str) -> None:
    with wirt.VM("tiny", accel=accel, append="panic=-1", reboot=False) as vm:
        output(vm, "true")
        vm.console.send("echo c >/proc/sysrq-trigger\n")
        result = vm.wait(PATIENCE)
        assert b"Kernel panic - not syncing: sysrq triggered crash" in vm.console.history()
    assert result.reason == "reset"


def test_pause_stops_the_guests_time_and_resume_lets_it_go_on(accel: str) -> None:
    with wirt.VM("tiny", cpus=2, accel=accel) as vm:
        output(vm, "true")
        vm.console.send("i=0; while true; do i=$((i+1)); echo $i; done\n")
        vm.console.expect(r"\n100\r\n", PATIENCE)
        vm.pause()
        vm.console.read()
        time.sleep(0.3)
        assert vm.console.read() == b""
        with pytest.raises(wirt.Error, match="The machine is paused: resume it"):
            vm.exec("true")
        vm.resume()
        vm.console.expect(r"\n\d+\r\n", PATIENCE)


@pytest.mark.parametrize("cpus", [1, 2])
def test_the_power_button_ends_the_guest_in_order(accel: str, cpus: int) -> None:
    with wirt.VM("tiny", cpus=cpus, accel=accel) as vm:
        output(vm, "until ls -l /proc/$(pidof acpid)/fd | grep -q /dev/input/; do sleep 0.1; done")
        # Whoever stops a paused machine does not want to wait in vain.
        vm.pause()
        start = time.monotonic()
        result = vm.stop(PATIENCE)
        assert time.monotonic() - start < PATIENCE
        assert b"reboot: Power down" in vm.console.history()
    assert (result.reason, result.exit_status) == ("shutdown", 0)
