"""Recordings of a real processor, as the judge reads and runs them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from bench.judges import __main__ as judges
from bench.judges import single_step

NAMES = ("ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags")
BEFORE = dict.fromkeys(NAMES, 0) | {"ax": 5, "cs": 0x100, "ss": 0x800, "sp": 0x80, "ip": 0x10, "flags": 2}
CODE = 0x1010


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(data)) + data


def registers(kind: bytes, values: Mapping[str, int]) -> bytes:
    present = sum(1 << NAMES.index(name) for name in values)
    ordered = [values[name] for name in NAMES if name in values]
    return chunk(kind, struct.pack(f"<H{len(ordered)}H", present, *ordered))


def memory(values: Mapping[int, int]) -> bytes:
    cells = b"".join(struct.pack("<IB", address, value) for address, value in values.items())
    return chunk(b"RAM ", struct.pack("<I", len(values)) + cells)


def recording(code: bytes, after: Mapping[str, int]) -> bytes:
    """A file of one test: `code` at CODE, and the registers that it changes."""
    ram = {CODE + at: byte for at, byte in enumerate(code)}
    test = (
        struct.pack("<I", 7)
        + chunk(b"NAME", struct.pack("<I", 4) + b"test")
        + chunk(b"BYTS", struct.pack("<I", len(code)) + code)
        + chunk(b"INIT", registers(b"REGS", BEFORE) + memory(ram))
        + chunk(b"FINA", registers(b"REGS", after) + memory({}))
    )
    return chunk(b"MOO ", bytes(12)) + chunk(b"TEST", test)


def test_a_recording_is_read() -> None:
    (test,) = single_step.moo(recording(b"\x40\xf4", {"ax": 6, "ip": 0x12, "flags": 6}))
    assert (test.index, test.name, test.code, test.exception) == (7, "test", b"\x40\xf4", None)
    assert test.before.registers == BEFORE
    assert test.before.memory == {CODE: 0x40, CODE + 1: 0xF4}
    assert test.after.registers == {"ax": 6, "ip": 0x12, "flags": 6}


@pytest.mark.parametrize(
    ("after", "status"), [({"ax": 6, "ip": 0x12, "flags": 6}, 0), ({"ax": 7, "ip": 0x12, "flags": 6}, 1)]
)
def test_a_recording_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], after: Mapping[str, int], status: int
) -> None:
    (tmp_path / "40.MOO").write_bytes(recording(b"\x40\xf4", after))
    assert single_step.main([str(tmp_path)]) == status
    output = capsys.readouterr().out
    assert ("passed: 1" in output) == (status == 0)
    assert ("ax 0x6 instead of 0x7" in output) == (status == 1)


def test_locks_that_newer_processors_refuse_are_left_out() -> None:
    (locked,) = single_step.moo(recording(b"\xf0\x06\xf4", {}))
    assert single_step.unfit(locked, []) is not None
    (locked,) = single_step.moo(recording(b"\xf0\x00\x07\xf4", {}))
    assert single_step.unfit(locked, []) is None


def test_ports_of_devices_are_left_out() -> None:
    (test,) = single_step.moo(recording(b"\xe4\x1f\xf4", {}))
    assert single_step.unfit(test, [range(0x20, 0x22)]) is not None
    assert single_step.unfit(test, [range(0x21, 0x22)]) is None


def test_what_is_no_recording_is_a_sentence_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["judges", "single-step", str(tmp_path)])
    assert judges.main() == 3
    assert "no recordings" in capsys.readouterr().err
    (tmp_path / "00.MOO.gz").write_bytes(b"nothing")
    assert judges.main() == 3
    assert "is no file of recordings" in capsys.readouterr().err


def test_the_machine_has_memory_where_a_pc_has_none() -> None:
    with contextlib.closing(single_step.Machine("recompiler")) as machine:
        machine.write(0xA0010, b"abc")
        assert machine.read(0xA0010, 3) == b"abc"
