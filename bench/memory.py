"""Memory of the process beyond guest RAM, at the shell prompt of the built-in guest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from bench import peers
from bench.console import started
from bench.report import Section
from wirt.machine import tiny

_PROMPT = r":~# "
_APPEND = "console=ttyS0 quiet"
_LIMIT = 120.0
_RAM_KIB = 512 << 10


def measure(quick: bool) -> Section:
    """Boot the guest with 512 MiB under everybody, and read the process's page accounts."""
    guest = tiny.ensure()
    wirt = [*peers.wirt_program(), "run", "tiny", "--quiet", "--accel", "recompiler", "-m", "512M"]
    commands: dict[str, Sequence[str]] = {"wirt": wirt, "wirt, 2 vCPUs": [*wirt, "-c", "2"]}
    for qemu in peers.qemus():
        commands[qemu.name] = [*qemu.command(guest.kernel, guest.initrd, _APPEND), "-m", "512"]
    section = Section(
        "memory",
        "Memory of the process beyond guest RAM at the built-in guest's prompt, MiB (proportional set size).",
        ("", "beyond guest RAM", "of it private and written"),
        commands=list(commands.values()),
        versions=peers.versions(),
        data={},
    )
    for name, command in commands.items():
        runs = [_beyond_ram(command) for _ in range(1 if quick else 3)]
        proportional, private = (median(column) for column in zip(*runs, strict=True))
        section.rows.append((name, f"{proportional:.1f}", f"{private:.1f}"))
        section.data[name] = {"pss_mib": proportional, "private_dirty_mib": private}
    return section


def _beyond_ram(command: Sequence[str]) -> tuple[float, float]:
    """Return MiB of Pss and of Private_Dirty, proc_pid_smaps(5), of all mappings but the guest's RAM."""
    with started(command) as console:
        console.wait_for(_PROMPT, _LIMIT)
        smaps = Path(f"/proc/{console.pid}/smaps").read_text()
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE)[1:]
    others = [mapping for mapping in mappings if not _is_ram(mapping)]
    if len(others) != len(mappings) - 1:
        raise RuntimeError(f"{command[0]} has {len(mappings) - len(others)} mappings that look like the RAM")
    return _sum("Pss", others), _sum("Private_Dirty", others)


def _is_ram(mapping: str) -> bool:
    """Whether a mapping is the guest's RAM: as large as that, and huge pages are wanted for it."""
    size = re.search(r"^Size: +(\d+) kB", mapping, re.MULTILINE)
    huge = re.search(r"^VmFlags:.* hg", mapping, re.MULTILINE)
    return size is not None and int(size[1]) == _RAM_KIB and huge is not None


def _sum(field: str, mappings: Iterable[str]) -> float:
    """Return the sum of a field of `mappings`, MiB."""
    sizes = re.findall(rf"^{field}: +(\d+) kB", "".join(mappings), re.MULTILINE)
    return sum(map(int, sizes)) / 1024
