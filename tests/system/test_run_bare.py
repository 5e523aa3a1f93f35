"""`wirt run` from end to end, with bare guests: at a terminal, in pipes, ended in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import bare
from pty_process import PATIENCE, PtyProcess

SPIN = "cli\n spin: jmp spin"
RESET = "mov dx, 0xcf9\n mov al, 6\n out dx, al\n spin: jmp spin"
# An interrupt table without entries, and an instruction that faults.
CRASH = "mov esp, 0x8000\n push 0\n push 0\n lidt [esp]\n ud2"


@pytest.fixture
def command(tmp_path: Path, accelerator: str) -> Any:
    """A function that makes the command line which runs a bare guest."""

    def make(source: str, *options: str) -> list[str]:
        kernel = tmp_path / "kernel"
        kernel.write_bytes(bare.multiboot(source))
        return [
            *(sys.executable, "-m", "wirt.cli", "run", "--kernel", str(kernel), "--memory", "4M"),
            *("--accel", accelerator, "--device", "isa-debug-exit", *options),
        ]

    return make


def run(command: list[str], data: bytes = b"", **streams: Any) -> subprocess.CompletedProcess[bytes]:
    streams = {"input": data} | streams if "stdin" not in streams else streams
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, **streams)


def test_at_a_terminal_keys_reach_the_guest_and_its_status_comes_back(command: Any) -> None:
    with PtyProcess(command(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        assert terminal.is_raw()
        terminal.send(b"a\x03\x1a\x04b")
        terminal.expect(b"A#:$B")
        terminal.send(b"q")
        assert terminal.wait() == 5
        assert terminal.modes() == terminal.modes_before


def test_ctrl_a_x_leaves(command: Any) -> None:
    with PtyProcess(command(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        terminal.send(b"\x01x")
        assert terminal.wait() == 0
        assert b"The machine was switched off." in terminal.output
        assert terminal.modes() == terminal.modes_before


def test_ctrl_a_h_helps_and_ctrl_a_twice_sends_one(command: Any) -> None:
    with PtyProcess(command(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        terminal.send(b"\x01h")
        terminal.expect(b"send one Ctrl-a to the guest\r\n")
        terminal.send(b"\x01\x01c")
        terminal.expect(b"!C")
        terminal.send(b"\x01x")
        assert terminal.wait() == 0


def test_ctrl_a_x_is_heard_over_a_guest_that_reads_nothing(command: Any) -> None:
    with PtyProcess(command(SPIN)) as terminal:
        terminal.wait_until_raw()
        for _ in range(40):
            terminal.send(b"x" * 2048)
            time.sleep(0.002)
        terminal.send(b"\x01x")
        assert terminal.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_restores_the_terminal_and_ends_the_process(command: Any, signum: signal.Signals) -> None:
    with PtyProcess(command(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        terminal.process.send_signal(signum)
        assert terminal.wait() == -signum
        assert f"Ended by {signum.name}.".encode() in terminal.output
        assert terminal.modes() == terminal.modes_before


def test_a_closed_terminal_ends_the_process(command: Any) -> None:
    with PtyProcess(command(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        terminal.hang_up()
        assert terminal.process.wait(PATIENCE) == -signal.SIGHUP


def test_window_changes_do_no_harm(command: Any) -> None:
    with PtyProcess(command(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        for _ in range(20):
            terminal.process.send_signal(signal.SIGWINCH)
        terminal.send(b"d")
        terminal.expect(b"D")
        terminal.send(b"q")
        assert terminal.wait() == 5


def test_a_stopped_process_gives_the_terminal_back_until_it_goes_on(command: Any) -> None:
    with PtyProcess(command(bare.ECHO)) as terminal:
        terminal.expect(b"ready")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.wait_until_raw(False)
        assert terminal.modes() == terminal.modes_before
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_until_raw()
        terminal.send(b"e")
        terminal.expect(b"E")
        terminal.send(b"q")
        assert terminal.wait() == 5
        assert terminal.modes() == terminal.modes_before


def test_a_crash_gives_one_sentence_and_restores_the_terminal(command: Any, accelerator: str) -> None:
    with PtyProcess(command(CRASH)) as terminal:
        assert terminal.wait() == 1
        said = terminal.output.decode()
        assert "wirt: The guest crashed: triple fault on vCPU 0." in said or accelerator == "kvm"
        assert "Traceback" not in said
        assert terminal.modes() == terminal.modes_before


def test_in_a_pipe_input_and_output_flow(command: Any) -> None:
    done = run(command(bare.ECHO), b"hello" * 5000 + b"q")
    assert done.stdout == b"ready\r\n" + b"HELLO" * 5000
    assert done.returncode == 5


def test_input_that_ends_does_not_end_the_guest(command: Any) -> None:
    done = run(command(bare.ECHO, "--timeout", "1"), stdin=subprocess.DEVNULL)
    assert done.stdout == b"ready\r\n"
    assert done.returncode == 1
    assert b"wirt: The machine still ran after 1 s and was switched off.\n" in done.stderr


def test_closed_standard_input_is_no_input(command: Any) -> None:
    line = ["sh", "-c", '"$@" <&-', "sh", *command(bare.ECHO, "--timeout", "1")]
    done = run(line, stdin=None)
    assert (done.stdout, done.returncode) == (b"ready\r\n", 1)


def test_one_line_says_which_accelerator_runs_and_quiet_none(command: Any, accelerator: str) -> None:
    assert run(command(bare.ECHO), b"q").stderr == f"wirt: accelerator {accelerator}: as asked\n".encode()
    assert run(command(bare.ECHO, "-q"), b"q").stderr == b""


def test_ctrl_c_without_a_terminal_ends_cleanly(command: Any) -> None:
    with subprocess.Popen(
        command(bare.ECHO), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(5) == b"ready"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == -signal.SIGINT
        assert process.stderr.read().endswith(b"wirt: Ended by SIGINT.\n")


def test_a_reader_that_leaves_ends_the_machine(command: Any) -> None:
    read, write = os.pipe()
    with subprocess.Popen(command(bare.ECHO), stdin=subprocess.DEVNULL, stdout=write) as process:
        os.close(write)
        assert os.read(read, 5)
        os.close(read)
        assert process.wait(PATIENCE) == -signal.SIGPIPE


def test_serial_output_goes_to_a_file(command: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old")
    done = run(command(bare.ECHO, "--serial", f"file:{log}", "--timeout", "1"), b"q")
    assert (done.stdout, done.returncode) == (b"", 1)
    assert log.read_bytes() == b"ready\r\n"


def test_serial_output_to_nowhere(command: Any) -> None:
    done = run(
        command("mov al, 65\n mov dx, 0x3f8\n out dx, al\n mov dx, 0xf4\n out dx, al", "--serial", "none")
    )
    assert (done.stdout, done.returncode) == (b"", 131)


def test_a_full_disk_is_told(command: Any) -> None:
    done = run(command(bare.ECHO, "--serial", "file:/dev/full", "--timeout", "1"))
    assert done.returncode == 1
    assert b"wirt: The output of COM1 is incomplete: No space left on device" in done.stderr


def test_no_reboot_ends_at_a_reset(command: Any) -> None:
    done = run(command(RESET, "--no-reboot", "-q"))
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_guest_that_only_resets_is_ended_by_the_time(command: Any) -> None:
    assert run(command(RESET, "--timeout", "1")).returncode == 1


def test_counters_are_shown(command: Any) -> None:
    assert b"\nvcpu1: " in run(command(bare.ECHO, "-c", "2", "--accel-stats"), b"q").stderr


def test_a_serial_file_that_is_the_disk_is_refused_and_kept(command: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"precious" * 512)
    done = run(command(bare.ECHO, "--disk", str(disk), "--serial", f"file:{disk}"))
    assert done.returncode == 2
    assert b"the machine uses that file" in done.stderr
    assert disk.read_bytes() == b"precious" * 512
