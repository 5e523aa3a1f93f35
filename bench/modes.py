"""32-bit and 16-bit code without an operating system, under Wirt's recompiler and under QEMU's TCG."""

from __future__ import annotations

import math
import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from bench import packages, peers
from bench.console import Stopped
from bench.report import Section

_GUEST: Final = Path(__file__).parent / "guest"
_FLAGS: Final = (
    *("-march=i686", "-O2", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-mgeneral-regs-only", "-nostdlib", "-static", "-no-pie", "-w"),
    *("-Wl,--build-id=none", "-Wl,--oformat=binary", "-Wl,-e,0"),
)
_LOADED, _WORK = 0x10_0000, 0x1_0000
_WIDTHS: Final = {"32-bit protected mode": (32, 20_000), "16-bit real mode": (16, 4_000)}
"""What gcc is told and how often the work is done."""


def measure(quick: bool) -> Section:
    """Run the same work in both modes by turns; what a machine costs that does it once is taken off."""
    wirt = ("run", "--quiet", "--accel", "recompiler", "-m", "64M", "--device", "isa-debug-exit", "--kernel")
    programs = {"wirt": [*peers.wirt_program(), *wirt]}
    for qemu in peers.qemus():
        programs[qemu.name] = [
            *(*qemu.program, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"),
            *("-cpu", "max", "-m", "64", "-device", "isa-debug-exit,iobase=0xf4", "-kernel"),
        ]
    section = Section(
        "modes",
        "CPU seconds of integer work in code that is not 64-bit, without an operating system.",
        ("", *programs, "faster than TCG"),
        commands=list(programs.values()),
        versions=peers.versions(),
        data={},
    )
    for name, (width, full) in _WIDTHS.items():
        rounds = full // 4 if quick else full
        kernels = [_kernel(width, 1), _kernel(width, rounds)]
        taken: dict[str, list[float]] = {program: [] for program in programs}
        sums = set()
        for _ in range(1 if quick else 5):
            for program, command in programs.items():
                (start, _), (end, checksum) = (_run([*command, str(kernel)]) for kernel in kernels)
                taken[program].append(end - start)
                sums.add(checksum)
        if len(sums) > 1:
            section.failures.append(f"The work in {name} does not give the same checksum everywhere.")
        seconds = {program: median(times) for program, times in taken.items()}
        ratio = min((seconds[qemu.name] for qemu in peers.qemus()), default=math.nan) / seconds["wirt"]
        section.rows.append((name, *(f"{seconds[program]:.2f}" for program in programs), f"{ratio:.1f}x"))
        section.data[name] = {"rounds": rounds, "cpu_seconds": seconds, "ratio": ratio}
    return section


def _run(command: Sequence[str]) -> tuple[float, int]:
    """Return the CPU time of a command and its exit status, which is odd: isa-debug-exit's."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode % 2 != 1 or process.returncode < 0:
        raise Stopped(f"{command[0]} ended with status {process.returncode}.")
    return usage.ru_utime + usage.ru_stime, process.returncode


def _kernel(width: int, rounds: int) -> Path:
    """Return a Multiboot kernel that copies the work to its address and enters it."""
    packages.cache().mkdir(parents=True, exist_ok=True)
    binary = packages.cache() / f"modes{width}.bin"
    address = 0 if width == 16 else _WORK
    choice = [f"-m{width}", f"-DROUNDS={rounds}", f"-Wl,-Ttext={address:#x}"]
    choice += ["-DREAL_MODE"] if width == 16 else []
    sources = (_GUEST / "modes.S", _GUEST / "modes.c")
    subprocess.run(["gcc", *_FLAGS, *choice, "-o", binary, *sources], check=True)
    kernel = packages.cache() / f"modes{width}-{rounds}.elf"
    kernel.write_bytes(_multiboot(binary.read_bytes(), width))
    return kernel


def _multiboot(work: bytes, width: int) -> bytes:
    """Return `work` behind a Multiboot header with addresses. Multiboot 0.6.96, section 3.1."""
    # A descriptor table with 16-bit code and data segments at the work's address, and its pointer.
    table = struct.pack("<QQQ", 0, 0x0000_9B01_0000_FFFF, 0x0000_9301_0000_FFFF)
    begin = _LOADED + 32
    head = len(table) + 6
    # lgdt [pointer]; mov esi, source; mov edi, 0x10000; mov ecx, size; rep movsb; and away
    code = b"\x0f\x01\x15" + struct.pack("<I", begin + len(table))
    # jmp 8:0, or mov eax, 0x10000; jmp eax
    real, flat = b"\xea" + struct.pack("<IH", 0, 8), b"\xb8" + struct.pack("<I", _WORK) + b"\xff\xe0"
    leave = real if width == 16 else flat
    source = begin + head + len(code) + 17 + len(leave)
    code += b"\xbe" + struct.pack("<I", source) + b"\xbf" + struct.pack("<I", _WORK)
    code += b"\xb9" + struct.pack("<I", len(work)) + b"\xf3\xa4" + leave
    image = table + struct.pack("<HI", len(table) - 1, begin) + code + work
    magic, flags, end = 0x1BAD_B002, 1 << 16, begin + len(table) + 6 + len(code) + len(work)
    checksum = -(magic + flags) & 0xFFFF_FFFF
    return struct.pack("<8I", magic, flags, checksum, _LOADED, _LOADED, end, end, begin + head) + image
