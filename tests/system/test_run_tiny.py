"""`wirt run` with the built-in guest: a real Linux from its start to its power-off."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from linux_guest import LINUX_GUEST
from pty_process import PtyProcess

pytestmark = LINUX_GUEST

WIRT = (sys.executable, "-m", "wirt.cli", "run", "tiny")
BOOT = 100.0
"""Seconds in which the guest surely boots on a busy machine."""
PROMPT = b":~# "
SECTOR = 512


def execute(command: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    line = [*WIRT, "-q", "--timeout", str(BOOT), *options, "--exec", command]
    return subprocess.run(line, capture_output=True, timeout=BOOT + 20, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw image of 8 MiB whose sectors hold their numbers."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(number.to_bytes(4, "big") * (SECTOR // 4) for number in range(16384)))
    return path


def sector(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek(number * SECTOR)
        return file.read(SECTOR)


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_it_boots_to_a_shell_and_powers_off(cpus: str) -> None:
    with PtyProcess([*WIRT, "-c", cpus]) as terminal:
        terminal.expect(PROMPT, BOOT)
        terminal.send(b"echo cpus=$(nproc) kernel=$(uname -s)\r")
        terminal.expect(f"\r\ncpus={cpus} kernel=Linux\r\n".encode())
        terminal.expect(PROMPT)
        terminal.send(b"exit\r")
        assert terminal.wait() == 0
        assert terminal.modes() == terminal.modes_before


def test_the_guest_knows_the_windows_size() -> None:
    with PtyProcess(WIRT, window=(50, 132)) as terminal:
        terminal.expect(PROMPT, BOOT)
        terminal.send(b"stty size; echo lines=$LINES\r")
        terminal.expect(b"\r\n50 132\r\nlines=\r\n")
        terminal.expect(PROMPT)
        terminal.send(b"\x01x")
        assert terminal.wait() == 0
        # What Wirt says has a line of its own, behind the guest's prompt.
        assert terminal.output.endswith(b"\r\nwirt: The machine was switched off.\r\n")


def test_ctrl_c_is_the_guests_and_ctrl_a_x_leaves() -> None:
    with PtyProcess(WIRT) as terminal:
        terminal.expect(PROMPT, BOOT)
        terminal.send(b"sleep 1000\r")
        terminal.expect(b"sleep 1000")
        time.sleep(0.5)
        terminal.send(b"\x03")
        terminal.expect(PROMPT)
        terminal.send(b"\x01x")
        assert terminal.wait() == 0
        assert terminal.modes() == terminal.modes_before


@pytest.mark.parametrize(("options", "boots"), [((), 2), (("--no-reboot",), 1)])
def test_a_reboot_starts_again_unless_it_may_not(options: Sequence[str], boots: int) -> None:
    with PtyProcess([*WIRT, *options]) as terminal:
        for _ in range(boots - 1):
            terminal.expect(PROMPT, BOOT)
            terminal.send(b"reboot\r")
        terminal.expect(PROMPT, BOOT)
        terminal.send(b"poweroff\r" if boots == 2 else b"reboot\r")
        assert terminal.wait() == 0


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_exec_prints_the_output_only_and_gives_the_status(cpus: str) -> None:
    done = execute("echo $(nproc); seq 20000; printf '\\377\\0\\r\\n\\n'; echo bad >&2; exit 7", "-c", cpus)
    numbers = "".join(f"{number}\n" for number in range(1, 20001)).encode()
    assert done.stdout == f"{cpus}\n".encode() + numbers + b"\xff\0\r\n\nbad\n"
    assert (done.returncode, done.stderr) == (7, b"")


def test_exec_without_output() -> None:
    done = execute("true")
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)


def test_memory_and_command_line_are_what_was_asked() -> None:
    done = execute(
        "awk '/MemTotal/ { print $2 }' /proc/meminfo; cat /proc/cmdline", "-m", "1G", "--append", "a=b"
    )
    memory, cmdline = done.stdout.decode().splitlines()
    assert 900 << 10 < int(memory) < 1 << 20
    assert "a=b" in cmdline.split()
    assert "console=ttyS0" in cmdline.split()


def test_a_disk_is_read_and_written(disk: Path) -> None:
    done = execute(
        "dd if=/dev/vda bs=512 skip=5 count=1 2>/dev/null | od -An -tx1 -N4;"
        "dd if=/dev/vda of=/dev/vda bs=512 skip=5 seek=16383 count=1 2>/dev/null; sync",
        "--disk",
        str(disk),
    )
    assert (done.stdout.split(), done.returncode) == ([b"00", b"00", b"00", b"05"], 0)
    assert sector(disk, 16383) == sector(disk, 5) == (5).to_bytes(4, "big") * 128
    assert sector(disk, 16382) == (16382).to_bytes(4, "big") * 128
    assert disk.stat().st_size == 16384 * SECTOR


def test_two_disks_one_of_them_read_only(disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    before = disk.read_bytes()
    done = execute(
        "cat /sys/block/vda/ro /sys/block/vdb/ro; dd if=/dev/zero of=/dev/vda count=1 2>/dev/null;"
        "dd if=/dev/vda of=/dev/vdb count=3 2>/dev/null; sync",
        *("--disk", f"{disk},ro", "--disk", str(other)),
    )
    assert done.stdout.split() == [b"1", b"0"]
    assert disk.read_bytes() == before
    assert sector(other, 2) == sector(disk, 2)
    assert sector(other, 3) == bytes(SECTOR)


def test_what_was_synced_survives_kill_9_and_the_disk_is_free_again(disk: Path) -> None:
    command = (
        "dd if=/dev/vda of=/dev/vda bs=512 skip=9 seek=100 count=1 2>/dev/null; sync; echo synced; sleep 1000"
    )
    line = [*WIRT, "-q", "--disk", str(disk), "--exec", command]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"synced\n"
            busy = execute("true", "--disk", str(disk))
        finally:
            process.kill()
    assert sector(disk, 100) == sector(disk, 9)
    assert busy.returncode == 1
    assert b"is in use by another machine" in busy.stderr
    assert execute("true", "--disk", str(disk)).returncode == 0


def test_the_time_ends_a_command() -> None:
    line = [*WIRT, "-q", "--timeout", "3", "--exec", "sleep 1000"]
    done = subprocess.run(line, capture_output=True, timeout=BOOT, check=False)
    assert done.returncode == 1
    assert re.match(
        rb"wirt: The (command 'sleep 1000' still runs|guest still boots) after 3 s\.", done.stderr
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command(signum: signal.Signals) -> None:
    line = [*WIRT, "-q", "--exec", "echo started; sleep 1000"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline() == b"started\n"
            process.send_signal(signum)
            assert process.wait(20) == -signum
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_reader_that_leaves_ends_a_command() -> None:
    read, write = os.pipe()
    line = [*WIRT, "-q", "--exec", "echo started; seq 100000000"]
    with subprocess.Popen(line, stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        try:
            with open(read, "rb") as output:
                assert output.readline() == b"started\n"
            assert process.wait(20) == -signal.SIGPIPE
        finally:
            process.kill()


def test_a_halted_guest_sleeps() -> None:
    """An idle guest costs next to no processor time."""
    with PtyProcess(WIRT) as terminal:
        terminal.expect(PROMPT, BOOT)
        time.sleep(1)
        before = processor_seconds(terminal.process.pid)
        time.sleep(2)
        assert processor_seconds(terminal.process.pid) - before < 0.5
        terminal.send(b"\x01x")
        assert terminal.wait() == 0


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
