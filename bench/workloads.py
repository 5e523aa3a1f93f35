"""Programs in a Linux guest: under Wirt's recompiler, under QEMU's TCG, and natively.

The figure of a run is the CPU time of the whole virtual machine monitor while the guest's program ran;
natively it is the program's own. All runs of a workload do the same work and have to give the same checksum.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import guest_image, peers
from bench.console import Console, Line, Stopped, started
from bench.guest_image import GuestImage
from bench.report import Section

NATIVE: Final = "native"
APPEND: Final = "console=ttyS0 quiet panic=-1 reboot=t bench="
_BOOT_LIMIT: Final = 60.0
_NATIVE_RUNS: Final = 5

CLASSES: Final = {
    "integer": ("core", "sha256", "hash", "chase", "bignum", "qsort", "interp", "fib", "icall", "lua"),
    "SIMD, FP, strings": (
        *("sseint", "aesni", "str", "memcpy", "memset", "repmovs", "nbody", "matmul", "matsse"),
        *("matavx", "matavx2", "x87", "libm"),
    ),
    "system": ("getpid", "gettime", "pipe", "forkexec", "fork", "mmap", "signal", "file"),
    "tools": ("gzip", "xz", "tar", "shell"),
    "self-modifying": ("smc",),
    "compiled for x86-64-v3": ("core.v3", "sha256.v3", "bignum.v3", "nbody.v3", "matmul.v3"),
}
"""Workloads by class; a geometric mean is of one class, or of all."""

_FULL: Final = {"matavx": 20, "matavx2": 5, "memset": 25, "repmovs": 25}
_QUICK: Final = {
    "matavx": 2,
    "matavx2": 1,
    "memset": 5,
    "repmovs": 5,
    "aesni": 10,
    "nbody.v3": 10,
    "memcpy": 20,
    "gettime": 100,
    "chase": 100,
    "qsort": 40,
    "lua": 40,
    "core": 40,
    "core.v3": 40,
    "icall": 40,
}
"""Per cent of the default work where it is not 100 in a full run, 20 in a quick one: TCG's worst most."""


_ERMS_OFF: Final = "without ERMS"
_STRINGS: Final = ("str", "memcpy", "memset", "repmovs")
"""What TCG runs much faster when the guest believes that string instructions are slow."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a workload: CPU seconds of the monitor, wall seconds on the host, and the checksum."""

    cpu: float
    wall: float
    checksum: str


class NotBooted(Stopped):
    """The guest did not come to its first workload."""


@dataclass(slots=True)
class Found:
    """The runs by workload and competitor, and what went wrong."""

    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, workload: str, name: str, run: Run) -> None:
        """Keep a run."""
        self.runs.setdefault((workload, name), []).append(run)

    def cpu(self, workload: str, name: str) -> float | None:
        """The median CPU time, None without a run."""
        runs = self.runs.get((workload, name))
        return statistics.median(run.cpu for run in runs) if runs else None


def measure(quick: bool, only: Sequence[str] = ()) -> Section:
    """Run the workloads (`only` those, or all), class by class and competitor by competitor."""
    image = guest_image.build()
    everybody = (peers.wirt(), *(peers.qemus()[:1] if quick else _all_tcgs()))
    limit = 40.0 if quick else 240.0
    found = Found()
    for workloads in CLASSES.values():
        chosen = [_sized(name, quick) for name in workloads if not only or name in only]
        for _ in range(1 if quick else 3):
            for peer in everybody:
                its = [name for name in chosen if _ERMS_OFF not in peer.name or _plain(name) in _STRINGS]
                _progress(f"{peer.name}: {' '.join(its)}")
                _run_guests(peer, image, its, limit, found)
        for _ in range(_NATIVE_RUNS):
            for workload in chosen:
                _run_natively(image, workload, found)
    compare_checksums(found)
    return _section(found, everybody, image, quick)


def _all_tcgs() -> tuple[peers.Peer, ...]:
    options = ("-cpu", "max,erms=off,fsrm=off")
    return (*peers.qemus(), *(peers.with_options(qemu, _ERMS_OFF, *options) for qemu in peers.qemus()))


def _sized(workload: str, quick: bool) -> str:
    """Return a workload as the guest's parameter has it: NAME:PERCENT."""
    percent = _QUICK.get(workload, 20) if quick else _FULL.get(workload, 100)
    return f"{workload}:{percent}"


def _run_guests(
    peer: peers.Peer, image: GuestImage, chosen: Sequence[str], limit: float, found: Found
) -> None:
    """Run `chosen` in one guest; where one fails, hangs or ends the machine, the rest in another."""
    rest = list(chosen)
    while rest:
        command = peer.command(image.kernel, image.initrd, APPEND + ",".join(rest))
        try:
            with started(command) as console:
                for workload, run in finished(console, limit):
                    rest.remove(workload)
                    found.add(_plain(workload), peer.name, run)
        except Stopped as error:
            failed = rest.pop(0)
            found.failures.append(f"{peer.name}, {failed}: {error}")
            _progress(found.failures[-1])
            if isinstance(error, NotBooted):
                return


def finished(console: Console, limit: float) -> Iterator[tuple[str, Run]]:
    """Yield workloads as the guest finishes them. Raises Stopped when one fails or is not done after `limit`
    seconds, or the machine ends before the guest has come to the end of its list.
    """
    start: Line | None = None
    checksum = ""
    try:
        for line in console.lines(_BOOT_LIMIT):
            marker, *words = line.text.partition("@@")[2].split() or [""]
            fields = dict(word.split("=", 1) for word in words if "=" in word)
            match marker:
                case "B" | "P":
                    start = line
                    console.allow(limit)
                case "R":
                    checksum = fields.get("sum", "")
                case "E":
                    if start is None or not checksum or fields.get("rc") != "0":
                        raise Stopped(f"it failed: {console.last_words()}")
                    yield words[0], Run(line.cpu - start.cpu, line.wall - start.wall, checksum)
                    checksum = ""
                case "END":
                    return
        raise Stopped(f"the machine ended: {console.last_words()}")
    except Stopped as error:
        if start is None:
            raise NotBooted(str(error)) from error
        raise


def _run_natively(image: GuestImage, workload: str, found: Found) -> None:
    name, _, percent = workload.partition(":")
    program = image.v3_program if name.endswith(".v3") else image.program
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as place:
        done = subprocess.run(
            [program, name.removesuffix(".v3"), percent],
            env={**os.environ, **image.environment, "BENCHDIR": place},
            capture_output=True,
            text=True,
        )
    match = re.search(r"@@R \S+ wall=(\S+) user=(\S+) sys=(\S+) n=\d+ sum=(\S+)", done.stdout)
    if done.returncode or match is None:
        found.failures.append(f"{NATIVE}, {workload}: status {done.returncode}: {done.stderr.strip()[-300:]}")
        return
    found.add(name, NATIVE, Run(float(match[2]) + float(match[3]), float(match[1]), match[4]))


def compare_checksums(found: Found) -> None:
    """Note whoever differs from the native runs."""
    for (workload, name), runs in found.runs.items():
        right = found.runs.get((workload, NATIVE))
        wrong = {run.checksum for run in runs} - {run.checksum for run in right or runs[:1]}
        if wrong:
            expected = (right or runs)[0].checksum
            found.failures.append(
                f"{name}, {workload}: checksum {', '.join(sorted(wrong))} instead of {expected}"
            )


def _section(found: Found, everybody: Sequence[peers.Peer], image: GuestImage, quick: bool) -> Section:
    wirt, *tcgs = everybody
    section = Section(
        "workloads",
        "Programs in a Linux guest, CPU seconds of the monitor. `faster than TCG` is against the better TCG.",
        ("", NATIVE, *(peer.name for peer in everybody), "faster than TCG", "slower than native"),
        failures=found.failures,
        versions=[f"{peer.name}: {peer.version}" for peer in everybody],
        commands=[
            peer.command(image.kernel, image.initrd, f"{APPEND}{_sized('core', quick)}") for peer in everybody
        ],
        data={},
    )
    ratios: list[tuple[float, float]] = []
    means = []
    for title, workloads in CLASSES.items():
        of_class = []
        for workload in workloads:
            times = {name: found.cpu(workload, name) for name in (NATIVE, *(peer.name for peer in everybody))}
            if not any(times.values()):
                continue
            section.data[workload] = times
            own, native = times[wirt.name], times[NATIVE]
            best = min((time for peer in tcgs if (time := times[peer.name])), default=None)
            cells = [workload, *("-" if time is None else f"{time:.3f}" for time in times.values())]
            if own and native and best:
                of_class.append((best / own, own / native))
                cells += [f"{best / own:.1f}x", f"{own / native:.1f}x"]
            else:
                cells += ["-", "-"]
            section.rows.append(cells)
        if of_class:
            means.append(_mean_row(title, of_class, len(everybody)))
        ratios += of_class
    if len(means) > 1:
        means.append(_mean_row("all", ratios, len(everybody)))
    section.rows += means
    return section


def _mean_row(title: str, ratios: Sequence[tuple[float, float]], width: int) -> Sequence[str]:
    faster, slower = (statistics.geometric_mean(side) for side in zip(*ratios, strict=True))
    return (f"mean: {title}", *[""] * (width + 1), f"{faster:.1f}x", f"{slower:.1f}x")


def _plain(workload: str) -> str:
    return workload.partition(":")[0]


def _progress(message: str) -> None:
    if sys.stderr.isatty():
        print(f"  {message}", file=sys.stderr, flush=True)
