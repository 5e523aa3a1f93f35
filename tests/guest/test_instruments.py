"""What `wirt run` shows of translated code: listings of blocks, and the map for perf."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bare
from wirt.errors import Error, NotFoundError
from wirt.machine.symbols import read_symbols

# Runs often enough to be translated.
LOOP = """
    mov ecx, 1000
again:
    xor eax, 0x1234567
    dec ecx
    jnz again
    mov dx, 0xf4
    mov al, 3
    out dx, al
"""
START = 0x10_0020
AGAIN = START + 5


def run(tmp_path: Path, *options: str) -> tuple[int, str, str]:
    """Run the loop; return the status, what was said, and the map for perf, if there is one."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bare.multiboot(LOOP))
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "wirt.cli", "run", "-q", "--kernel", str(kernel), "-m", "4M"),
            *("--device", "isa-debug-exit", *options),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _, said = process.communicate(timeout=60)
    perf_map = Path(f"/tmp/perf-{process.pid}.map")
    text = perf_map.read_text() if perf_map.exists() else ""
    perf_map.unlink(missing_ok=True)
    return process.returncode, said, text


def test_a_block_is_listed_with_guest_and_host_code(tmp_path: Path) -> None:
    status, said, text = run(tmp_path, "--accel", "recompiler", "--dump-block", f"{AGAIN + 2:x}")
    assert (status, text) == (7, "")
    guest, _, host = said.partition("\nhost 0x")
    assert re.search(rf"^guest {AGAIN:#x}, \d+ bytes$", guest, re.MULTILINE)
    for instruction in ("xor eax,1234567h", "dec ecx", f"jne short {AGAIN:08X}h"):
        assert instruction in guest, said
    assert "xor" in host and "1234567h" in host


def test_a_block_that_never_ran_is_told(tmp_path: Path) -> None:
    status, said, _ = run(tmp_path, "--accel", "recompiler", "--dump-block", "0x200000")
    assert (status, said) == (7, "No block at 0x200000 was translated.\n")


def test_the_map_names_blocks_by_symbols(tmp_path: Path) -> None:
    symbols = tmp_path / "System.map"
    symbols.write_text(f"{START:016x} T start\n{AGAIN:016x} t the_loop\n{AGAIN + 100:016x} T behind\n")
    status, _, text = run(tmp_path, "--accel", "recompiler", "--perf-map", "--symbols", str(symbols))
    assert status == 7
    entries = [line.split() for line in text.splitlines()]
    assert "guest:the_loop" in {name for _, _, name in entries}
    assert all(int(start, 16) > 1 << 32 and int(size, 16) > 0 for start, size, _ in entries)
    _, _, text = run(tmp_path, "--accel", "recompiler", "--perf-map")
    assert f" guest:{AGAIN:x}\n" in text


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ("--accel kvm --perf-map", 2, "Only the recompiler has code to show or to map"),
        ("--symbols x", 2, "--symbols are for the map of --perf-map"),
        ("--perf-map --symbols none", 3, "The symbols none do not exist"),
        ("--dump-block main", 2, "'main' is no address: give it in hexadecimal"),
        ("--dump-block -1", 2, "'-1' is no address"),
    ],
)
def test_bad_wishes_are_refused(tmp_path: Path, options: str, status: int, sentence: str) -> None:
    got, said, _ = run(tmp_path, *options.split())
    assert (got, sentence in said, said.count("\n")) == (status, True, 1), said


def test_symbols_of_an_elf_file_and_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "code.s").write_text(".globl one, two\n.type one, @function\none: nop\ntwo: ret\n")
    for command in ("as -o code.o code.s", "ld -Ttext=0x401000 -e one -o code code.o"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    assert {(0x401000, "one"), (0x401001, "two")} <= set(read_symbols(tmp_path / "code"))
    symbols = tmp_path / "kallsyms"
    symbols.write_text("ffffffff81000000 T _text\nffffffff81000010 d data\nffffffffc0000000 t f\t[module]\n")
    assert read_symbols(symbols) == [(0xFFFF_FFFF_8100_0000, "_text"), (0xFFFF_FFFF_C000_0000, "f")]


def test_symbols_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "symbols"
    for content in (
        b"hello world\n",
        b"\x7fELF\x02\x01",
        b"\x7fELF\x02\x01" + bytes(range(256)) * 4,
        b"\xff" * 500,
    ):
        file.write_bytes(content)
        with pytest.raises(Error, match="make no sense"):
            read_symbols(file)
    file.write_text("0000000000000000 T hidden\n")
    with pytest.raises(Error, match="without root, /proc/kallsyms shows no addresses"):
        read_symbols(file)
    with pytest.raises(NotFoundError):
        read_symbols(tmp_path / "none")
