"""`wirt run` to the guest's first instructions, measured from outside: a byte comes from the serial port."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Sequence
from statistics import median

from bench import packages, peers
from bench.console import Stopped, started
from bench.report import Section

_BASE = 0x10_0000
# mov dx, 0x3f8; mov al, '!'; out dx, al; mov dx, 0xf4; xor al, al; out dx, al; again: jmp again
_CODE = bytes.fromhex("66baf803 b021 ee 66baf400 30c0 ee ebfe")
_DEBUG_EXIT_OF_0 = 1
_LIMIT = 60.0


def measure(quick: bool) -> Section:
    """Start the smallest guest by turns."""
    packages.cache().mkdir(parents=True, exist_ok=True)
    kernel = packages.cache() / "first.elf"
    kernel.write_bytes(_multiboot())
    run = [*peers.wirt_program(), "run", "--quiet", "--kernel", str(kernel), "--device", "isa-debug-exit"]
    commands: dict[str, Sequence[str]] = {
        f"wirt, {name}": [*run, "--accel", name] for name in ("recompiler", "kvm") if _works(run, name)
    }
    for qemu in peers.qemus():
        commands[qemu.name] = [
            *(*qemu.program, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            *("-accel", "tcg", "-m", "512", "-device", "isa-debug-exit,iobase=0xf4"),
            *("-kernel", str(kernel)),
        ]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(5 if quick else 21):
        for name, command in commands.items():
            times[name].append(_first_byte(command))
    section = Section(
        "start",
        "Start of the process to the guest's first output, and to the end of the process, in seconds.",
        ("", "first output", "end"),
        notes=["The guest is a Multiboot kernel of seven instructions, with 512 MiB of memory."],
        commands=list(commands.values()),
        versions=peers.versions(),
        data={},
    )
    for name, runs in times.items():
        first, end = (median(column) for column in zip(*runs, strict=True))
        section.rows.append((name, f"{first:.3f}", f"{end:.3f}"))
        section.data[name] = {"first_output": first, "end": end}
    return section


def _works(run: Sequence[str], accelerator: str) -> bool:
    done = subprocess.run(
        [*run, "--accel", accelerator], stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT
    )
    return done.returncode == _DEBUG_EXIT_OF_0


def _first_byte(command: Sequence[str]) -> tuple[float, float]:
    begin = time.monotonic()
    with started(command) as console:
        first = console.wait_for("!", _LIMIT)
        status = console.wait(_LIMIT)
        end = time.monotonic() - begin
    if status != _DEBUG_EXIT_OF_0:
        raise Stopped(f"{command[0]} ended with status {status}: {console.last_words()}")
    return first.wall, end


def _multiboot() -> bytes:
    """Return a Multiboot kernel with its addresses in the header. Multiboot 0.6.96, section 3.1."""
    magic, flags = 0x1BAD_B002, 1 << 16
    start = _BASE + 32
    end = start + len(_CODE)
    checksum = -(magic + flags) & 0xFFFF_FFFF
    return struct.pack("<8I", magic, flags, checksum, _BASE, _BASE, end, end, start) + _CODE
