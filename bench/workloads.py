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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import wirt
from bench import guest_image, peers
from bench.console import Console, Line, Stopped, started
from bench.guest_image import GuestImage
from bench.report import Section

NATIVE: Final = "native"
APPEND: Final = "console=ttyS0 quiet panic=-1 reboot=t bench="
_BOOT_LIMIT: Final = 60.0
_NATIVE_RUNS: Final = 3

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

_FULL: Final = {
    "matavx": 4,
    "matavx2": 2,
    "memset": 12,
    "repmovs": 6,
    "aesni": 30,
    **dict.fromkeys(("core", "core.v3", "icall", "lua", "qsort", "libm"), 40),
    **dict.fromkeys(("gettime", "chase", "str"), 50),
    **dict.fromkeys(("sseint", "memcpy"), 60),
}
_QUICK: Final = {
    "matavx": 2,
    "matavx2": 1,
    "memset": 3,
    "repmovs": 3,
    "aesni": 5,
    **dict.fromkeys(("core", "core.v3", "icall", "lua", "qsort"), 20),
    **dict.fromkeys(("gettime", "chase"), 50),
}
"""Per cent of the default work where it is not 20 in a full run, 10 in a quick one: least of TCG's worst, and
enough that the start of a program counts little."""


_ERMS_OFF: Final = "without ERMS"
_STRINGS: Final = ("str", "memcpy", "memset", "repmovs")
"""What TCG runs much faster when the guest believes that string instructions are slow."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a workload: CPU seconds of the monitor, wall seconds on the host, and the checksum."""

    cpu: float
    wall: float
    checksum: str


@dataclass(frozen=True, slots=True)
class Times:
    """Median seconds of CPU time and on the wall."""

    cpu: float
    wall: float


class Ratios(NamedTuple):
    """How a workload's run under Wirt compares: with the fastest TCG, and with the native run."""

    faster: float
    faster_by_wall: float
    slower: float


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

    def median(self, workload: str, name: str) -> Times | None:
        """The medians of all runs, None without any."""
        runs = self.runs.get((workload, name))
        if not runs:
            return None
        return Times(statistics.median(run.cpu for run in runs), statistics.median(run.wall for run in runs))


def measure(quick: bool, only: Sequence[str] = ()) -> Section:
    """Run the workloads (`only` those, or all), class by class and competitor by competitor."""
    known = [name for workloads in CLASSES.values() for name in workloads]
    if unknown := [name for name in only if name not in known]:
        raise wirt.UsageError(f"There is no workload {unknown[0]!r}: choose of {', '.join(known)}.")
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
    percent = _QUICK.get(workload, 10) if quick else _FULL.get(workload, 20)
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
    own, *tcgs = everybody
    section = Section(
        "workloads",
        "Programs in a Linux guest: CPU seconds of the monitor's process, and how they compare.",
        ("", NATIVE, *(peer.name for peer in everybody), "faster than TCG", "by wall", "slower than native"),
        failures=found.failures,
        versions=peers.versions(),
        commands=[
            peer.command(image.kernel, image.initrd, f"{APPEND}{_sized('core', quick)}") for peer in everybody
        ],
        data={},
    )
    names = (NATIVE, *(peer.name for peer in everybody))
    everything: list[Ratios] = []
    means = []
    for title, workloads in CLASSES.items():
        of_class = []
        for workload in workloads:
            times = {name: found.median(workload, name) for name in names}
            if not any(times.values()):
                continue
            section.data[workload] = {name: time and asdict(time) for name, time in times.items()}
            ratios = _ratios(times[own.name], times[NATIVE], [times[peer.name] for peer in tcgs])
            if ratios is not None:
                of_class.append(ratios)
            cells = ["-" if time is None else f"{time.cpu:.3f}" for time in times.values()]
            section.rows.append((workload, *cells, *_ratio_cells(ratios)))
        if of_class:
            means.append((f"mean: {title}", *[""] * (len(everybody) + 1), *_ratio_cells(_mean(of_class))))
        everything += of_class
    if len(means) > 1:
        means.append(("mean: all", *[""] * (len(everybody) + 1), *_ratio_cells(_mean(everything))))
    section.rows += means
    return section


def _ratios(own: Times | None, native: Times | None, tcgs: Sequence[Times | None]) -> Ratios | None:
    """Return the ratios, None where a figure is missing."""
    rivals = [time for time in tcgs if time is not None]
    if own is None or native is None or not rivals:
        return None
    return Ratios(
        min(time.cpu for time in rivals) / own.cpu,
        min(time.wall for time in rivals) / own.wall,
        own.cpu / native.cpu,
    )


def _mean(ratios: Sequence[Ratios]) -> Ratios:
    return Ratios(*(statistics.geometric_mean(column) for column in zip(*ratios, strict=True)))


def _ratio_cells(ratios: Ratios | None) -> Sequence[str]:
    return ["-"] * 3 if ratios is None else [f"{ratio:.1f}x" for ratio in ratios]


def _plain(workload: str) -> str:
    return workload.partition(":")[0]


def _progress(message: str) -> None:
    if sys.stderr.isatty():
        print(f"  {message}", file=sys.stderr, flush=True)
