"""A terminal's modes, on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import sys
import termios
from collections.abc import Iterator

import pytest

from pty_process import PtyProcess
from wirt.cli.terminal import RawTerminal


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the program's end, and the other one."""
    master, slave = pty.openpty()
    yield slave, master
    os.close(slave)
    try:
        os.fstat(master)
    except OSError:
        return
    os.close(master)


def test_raw_inside_and_as_before_after(terminal: tuple[int, int]) -> None:
    slave, master = terminal
    before = termios.tcgetattr(slave)
    with RawTerminal(slave):
        os.write(master, b"\x03\r")
        assert os.read(slave, 10) == b"\x03\r"
        os.write(slave, b"\n")
        assert os.read(master, 10) == b"\n"
    assert termios.tcgetattr(slave) == before


def test_restored_after_an_exception(terminal: tuple[int, int]) -> None:
    slave, _ = terminal
    before = termios.tcgetattr(slave)
    with pytest.raises(ZeroDivisionError), RawTerminal(slave):
        assert termios.tcgetattr(slave) != before
        raise ZeroDivisionError
    assert termios.tcgetattr(slave) == before


def test_what_was_typed_before_is_kept(terminal: tuple[int, int]) -> None:
    slave, master = terminal
    os.write(master, b"ls")
    with RawTerminal(slave):
        assert os.read(slave, 10) == b"ls"


def test_suspended_and_resumed(terminal: tuple[int, int]) -> None:
    slave, _ = terminal
    before = termios.tcgetattr(slave)
    with RawTerminal(slave) as raw:
        inside = termios.tcgetattr(slave)
        raw.suspend()
        assert termios.tcgetattr(slave) == before
        # As a shell that sets its own modes meanwhile.
        other = termios.tcgetattr(slave)
        other[3] ^= termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, other)
        raw.resume()
        assert termios.tcgetattr(slave) == inside
    assert termios.tcgetattr(slave) == before


def test_a_terminal_that_went_away_is_no_error(terminal: tuple[int, int]) -> None:
    slave, master = terminal
    with RawTerminal(slave):
        os.close(master)


def test_output_that_nobody_takes_does_not_hold_up_the_end(terminal: tuple[int, int]) -> None:
    slave, _ = terminal
    before = termios.tcgetattr(slave)
    with RawTerminal(slave):
        os.set_blocking(slave, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(slave, b"x" * 4096)
    assert termios.tcgetattr(slave) == before


def test_restored_after_kill() -> None:
    program = "import time; from wirt.cli.terminal import RawTerminal\nwith RawTerminal(0): time.sleep(60)"
    with PtyProcess([sys.executable, "-c", program]) as process:
        process.wait_until_raw()
        process.process.kill()
        process.wait_until_raw(False)
        assert process.modes() == process.modes_before


def test_nothing_stays_behind(terminal: tuple[int, int]) -> None:
    slave, _ = terminal
    descriptors = os.listdir("/proc/self/fd")
    with RawTerminal(slave) as raw:
        raw.resume()
        raw.suspend()
        raw.resume()
    assert os.listdir("/proc/self/fd") == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
