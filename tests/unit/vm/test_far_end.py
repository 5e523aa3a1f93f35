"""What users want of serial and parallel ports, and the files that output goes to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wirt import _core
from wirt.errors import Error, NotFoundError, UsageError
from wirt.vm.far_end import PARALLEL_KINDS, SERIAL_KINDS, Wish, connect, parse


@pytest.mark.parametrize(
    ("wish", "kinds", "expected"),
    [
        (None, SERIAL_KINDS, Wish("none")),
        ("none", PARALLEL_KINDS, Wish("none")),
        ("file:a:b", PARALLEL_KINDS, Wish("file", "a:b")),
        ("pty", SERIAL_KINDS, Wish("pty")),
        ("tcp:[::1]:5", SERIAL_KINDS, Wish("tcp", "[::1]:5")),
        ("unix:x", SERIAL_KINDS, Wish("unix", "x")),
    ],
)
def test_wishes_are_read(wish: str | None, kinds: tuple[str, ...], expected: Wish) -> None:
    assert parse("LPT1", wish, kinds) == expected


@pytest.mark.parametrize(
    "wish", ["", "file", "file:", "pty:x", "none:", "stdio", "telnet:5", "unix:", True, 9999, -1]
)
def test_what_is_no_place_is_refused(wish: int | str) -> None:
    with pytest.raises(UsageError, match="COM2"):
        parse("COM2", wish, SERIAL_KINDS)


def test_a_printer_is_no_terminal() -> None:
    with pytest.raises(UsageError, match=r"LPT1: use none, file:PATH\."):
        parse("LPT1", "pty", PARALLEL_KINDS)


def test_a_file_is_emptied_at_the_start_and_not_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old")
    refused = connect("COM1", Wish("file", str(log)), _core.Terminal(), [])
    assert refused is not None
    refused.close()
    assert log.read_text() == "old"
    terminal = _core.Terminal()
    end = connect("COM1", Wish("file", str(log)), terminal, [])
    assert end is not None
    end.start()
    assert log.read_text() == ""
    terminal.close()


def test_a_file_that_the_machine_uses_is_refused(tmp_path: Path) -> None:
    used, alias = tmp_path / "used", tmp_path / "alias"
    used.write_text("precious")
    alias.symlink_to(used)
    with pytest.raises(UsageError, match="the machine uses that file"):
        connect("COM1", Wish("file", str(alias)), _core.Terminal(), [tmp_path / "other", used])
    assert used.read_text() == "precious"


def test_files_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be opened: No such file or directory"):
        connect("COM1", Wish("file", f"{tmp_path}/none/log"), _core.Terminal(), [])
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Error, match="nobody reads this named pipe"):
        connect("COM1", Wish("file", f"{tmp_path}/fifo"), _core.Terminal(), [])


@pytest.mark.parametrize("wish", ["tcp:x", "tcp:1.2.3.4:70000"])
def test_what_is_no_address_is_refused(wish: str) -> None:
    with pytest.raises(UsageError, match=r"use tcp:HOST:PORT\."):
        connect("COM1", parse("COM1", wish, SERIAL_KINDS), _core.Terminal(), [])
