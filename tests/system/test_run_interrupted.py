"""Ctrl-C, a closed terminal and a closed standard output, in every phase of `wirt run`: never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import bare
from linux_guest import LINUX_GUEST
from pty_process import PATIENCE, PtyProcess

CLOSED = "wirt: Standard output is closed: open it, or redirect it to /dev/null.\n"
# Fills the pipe or terminal that it prints to.
FLOOD = "mov dx, 0x3f8\n mov al, 'x'\n again: out dx, al\n jmp again"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[str]]:
    """A function that makes the command line which runs a bare guest, with options for Python in front."""

    def make(source: str, *python_options: str) -> list[str]:
        kernel = tmp_path / "kernel"
        kernel.write_bytes(bare.multiboot(source))
        return [
            *(sys.executable, *python_options, "-m", "wirt.cli", "run", "--kernel", str(kernel)),
            *("--memory", "4M", "--quiet", "--device", "isa-debug-exit"),
        ]

    return make


@pytest.mark.parametrize(
    "module", ["argparse", "wirt.cli.entry", "wirt._core", "wirt.vm.spec", "wirt.cli.session"]
)
def test_ctrl_c_while_it_starts(run: Callable[..., list[str]], module: str) -> None:
    """When `module` was just imported, which -X importtime shows."""
    command = run(bare.ECHO, "-X", "importtime")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        imported = None
        while imported != module:
            line = process.stderr.readline()
            assert line, f"{module} was not imported"
            imported = line.split("|")[-1].strip()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(PATIENCE) == -signal.SIGINT
    assert "Traceback" not in rest
    assert "KeyboardInterrupt" not in rest


def test_ctrl_c_at_any_time(run: Callable[..., list[str]]) -> None:
    """From the first import of ours to the end of the process; the guest ends by itself after a while."""
    ends = "mov ecx, 3000000\n again: dec ecx\n jnz again\n" + "mov dx, 0xf4\n mov al, 3\n out dx, al"
    for step in range(10):
        with subprocess.Popen(
            run(ends, "-X", "importtime"), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            while not process.stderr.readline().endswith("wirt.cli.session\n"):
                pass
            time.sleep(0.02 * step)
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(PATIENCE) in (-signal.SIGINT, 7)
        assert "Traceback" not in rest
        assert "KeyboardInterrupt" not in rest


def test_a_terminal_closed_in_the_middle_of_output(run: Callable[..., list[str]]) -> None:
    with PtyProcess(run(FLOOD)) as terminal:
        terminal.expect(b"xxxx")
        # Nobody reads any more: the output stands still, half written.
        time.sleep(0.2)
        terminal.hang_up()
        assert terminal.process.wait(PATIENCE) == -signal.SIGHUP


def test_a_terminal_closed_while_suspended(run: Callable[..., list[str]]) -> None:
    with PtyProcess(run(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        terminal.process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
        terminal.hang_up()
        terminal.process.send_signal(signal.SIGCONT)
        assert terminal.process.wait(PATIENCE) == -signal.SIGHUP


def test_a_closed_standard_output_is_told_before_anything_runs(run: Callable[..., list[str]]) -> None:
    for line in (run(bare.ECHO), [*run(bare.ECHO)[:4], "tiny", "--exec", "echo hi"]):
        closed = ["sh", "-c", '"$@" >&-', "sh", *line]
        done = subprocess.run(closed, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, CLOSED)


def test_a_closed_standard_output_is_no_matter_where_nothing_goes_there(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for place in ("none", f"file:{log}"):
        closed = ["sh", "-c", '"$@" >&-', "sh", *run(bare.ECHO), "--serial", place, "--timeout", "1"]
        done = subprocess.run(closed, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "switched off" in done.stderr) == (1, True)
    assert log.read_bytes() == b"ready\r\n"


class TestWithLinux:
    pytestmark = LINUX_GUEST

    def test_a_terminal_closed_while_the_guest_writes_to_its_disk(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(32 << 20)
        command = [sys.executable, "-m", "wirt.cli", "run", "tiny", "--quiet", "--disk", str(disk)]
        with PtyProcess(command) as terminal:
            terminal.expect(b"tiny:", 60)
            terminal.send(b"i=1; while printf %04d $i | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null; ")
            terminal.send(b"do echo done $i; i=$((i + 1)); done\n")
            terminal.expect(b"done 5", 60)
            terminal.hang_up()
            assert terminal.process.wait(PATIENCE) == -signal.SIGHUP
        assert int(disk.read_bytes()[:4]) >= 5
        assert os.stat(disk).st_size == 32 << 20
