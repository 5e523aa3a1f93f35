"""What events cost that only systems cause, in ticks of the time-stamp counter: timed by a bare guest itself.

The guest takes the least of many short runs, so that a busy host hardly shows; of several machines the least
counts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import packages, peers
from bench.console import Stopped, started
from bench.report import Section

_SOURCE: Final = Path(__file__).parent / "guest" / "events.c"
_CFLAGS: Final = (
    *("-O2", "-Wall", "-Wextra", "-ffreestanding", "-fno-pic", "-no-pie", "-mgeneral-regs-only"),
    *("-mno-red-zone", "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
    *("-static", "-nostdlib", "-Wl,-Ttext=0x100000,-e,start,-n,--build-id=none,-z,noexecstack"),
    "-Wl,--no-warn-rwx-segments",
)
_DEBUG_EXIT_OF_0: Final = 1
_LIMIT: Final = 60.0


def measure(quick: bool) -> Section:
    """Run the guest by turns under Wirt and under each QEMU."""
    packages.cache().mkdir(parents=True, exist_ok=True)
    kernel = packages.cache() / "events.elf"
    subprocess.run(["gcc", *_CFLAGS, "-o", kernel, _SOURCE], check=True)
    run = [*peers.wirt_program(), "run", "--quiet", "--accel", "recompiler", "-m", "512M"]
    commands: dict[str, Sequence[str]] = {
        "wirt": [*run, "--kernel", str(kernel), "--device", "isa-debug-exit"]
    }
    for qemu in peers.qemus():
        commands[qemu.name] = [
            *(*qemu.program, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            *("-accel", "tcg", "-cpu", "max", "-m", "512", "-device", "isa-debug-exit,iobase=0xf4"),
            *("-kernel", str(kernel)),
        ]
    least: dict[str, dict[str, int]] = {}
    for _ in range(2 if quick else 5):
        for name, command in commands.items():
            for event, ticks in _ticks(command).items():
                of_event = least.setdefault(event, {})
                of_event[name] = min(ticks, of_event.get(name, ticks))
    section = Section(
        "events",
        "What events of a system cost, in ticks of the time-stamp counter.",
        ("", *commands, "cheaper than TCG"),
        notes=["A TLB miss is a first touch behind a write of CR3, less the write and a touch that hits."],
        commands=list(commands.values()),
        versions=peers.versions(),
        data=least,
    )
    for event, of_event in least.items():
        fastest = min((ticks for name, ticks in of_event.items() if name != "wirt"), default=0)
        ratio = f"{fastest / max(of_event['wirt'], 1):.1f}x"
        section.rows.append((event, *(str(of_event[name]) for name in commands), ratio))
    return section


def _ticks(command: Sequence[str]) -> dict[str, int]:
    """Run the guest once and return the ticks of each event."""
    ticks = {}
    with started(command) as console:
        for line in console.lines(_LIMIT):
            if match := re.fullmatch(r"(.+): (\d+)", line.text.strip()):
                ticks[match[1]] = int(match[2])
            elif line.text.strip() == "end":
                break
        status = console.wait(_LIMIT)
    if status != _DEBUG_EXIT_OF_0:
        raise Stopped(f"{command[0]} ended with status {status}: {console.last_words()}")
    return ticks
