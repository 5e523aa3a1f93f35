"""Power-on to the guest's first user process."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench import guest_image, peers
from bench.console import Line, Stopped, started
from bench.report import Section

APPEND = "console=ttyS0 quiet panic=-1 reboot=t bench=none"
_MARK = "@@INIT"
_LIMIT = 120.0
"""Seconds a boot may take."""
# With ACPI, Linux finds no clock to calibrate the TSC by and stands still.
_MICROVM = ("-M", "microvm,pit=on,pic=on,rtc=on,isa-serial=on,acpi=off")


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the start of the process, and of CPU time it used."""

    wall: float
    cpu: float


def measure(quick: bool) -> Section:
    """Boot the minimal guest under everybody by turns."""
    image = guest_image.build()
    tcgs = peers.qemus()
    everybody = [peers.wirt(), *tcgs, *(peers.with_options(qemu, "microvm", *_MICROVM) for qemu in tcgs)]
    commands = {peer.name: peer.command(image.kernel, image.minimal_initrd, APPEND) for peer in everybody}
    times: dict[str, list[Times]] = {name: [] for name in commands}
    failures = []
    for _ in range(3 if quick else 7):
        for name, command in commands.items():
            try:
                times[name].append(_boot(command))
            except Stopped as error:
                failures.append(f"{name}: {error}")
    medians = {
        name: Times(statistics.median(run.wall for run in runs), statistics.median(run.cpu for run in runs))
        for name, runs in times.items()
        if runs
    }
    section = Section(
        "boot",
        "Power-on to the first user process: Debian's cloud kernel, an initrd with one program.",
        ("", "wall s", "CPU s", "wirt / it, wall", "wirt / it, CPU"),
        failures=failures,
        versions=peers.versions(),
        commands=list(commands.values()),
        data={name: {"wall": median.wall, "cpu": median.cpu} for name, median in medians.items()},
    )
    wirt = medians.get("wirt")
    for name, median in medians.items():
        ratios = (f"{wirt.wall / median.wall:.2f}", f"{wirt.cpu / median.cpu:.2f}") if wirt else ("", "")
        section.rows.append((name, f"{median.wall:.2f}", f"{median.cpu:.2f}", *ratios))
    return section


def _boot(command: list[str]) -> Times:
    with started(command) as console:
        line: Line = console.wait_for(_MARK, _LIMIT)
        return Times(line.wall, line.cpu)
