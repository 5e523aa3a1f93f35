"""How much more two vCPUs get done than one: a load on each, against a load on one of them.

All runs are in machines with two vCPUs. The figure is the throughput of two copies over that of one: 2.0
when they do not hinder each other at all. Two native copies on two of the host's cores say what is
possible. The best of several runs counts, of one copy and of two: the speed of a host's cores changes by a
half from second to second where others use it as well. By CPU time it is what two cores would get done that nobody else uses, if nobody waits.
"""

from __future__ import annotations

import os
import subprocess
import time
from functools import partial
from typing import Final, NamedTuple

from bench import guest_image, peers
from bench.console import Line, Stopped, started
from bench.guest_image import GuestImage
from bench.report import Section

WORKLOADS: Final = {"sha256": 10, "hash": 20, "interp": 10, "pipe": 20, "fork": 20, "mmap": 20}
"""Per cent of the default work: programs that stay in their registers, in memory, and in the kernel."""
APPEND: Final = "console=ttyS0 quiet panic=-1 reboot=t bench="
_LIMIT: Final = 240.0


class Spent(NamedTuple):
    """Seconds of CPU time, and on the wall."""

    cpu: float
    wall: float


def measure(quick: bool) -> Section:
    """Run each workload in one copy and in two, by turns."""
    image = guest_image.build()
    own = peers.with_options(peers.wirt(), "2 vCPUs", "-c", "2")
    rivals = [peers.with_options(qemu, "2 vCPUs", "-smp", "2") for qemu in peers.qemus()[:1]]
    names = ("native", own.name, *(rival.name for rival in rivals))
    section = Section(
        "smp",
        "Two loads on two processors: how many times the throughput of one, by wall and by CPU time.",
        ("", *(f"{name}, {what}" for name in names for what in ("wall", "CPU"))),
        versions=peers.versions(),
        commands=[
            peer.command(image.kernel, image.initrd, APPEND + "sha256*2:30") for peer in (own, *rivals)
        ],
        data={},
    )
    if (os.cpu_count() or 1) < 2:
        section.notes.append("This host has one core: by wall there is nothing to gain.")
    for workload, percent in WORKLOADS.items():
        share = percent // 5 if quick else percent
        runs = [
            partial(_natively, image, workload, share),
            *(partial(_in_guest, peer, image, workload, share) for peer in (own, *rivals)),
        ]
        cells: list[str] = []
        section.data[workload] = {}
        for name, run in zip(names, runs, strict=True):
            try:
                turns = [(run(1), run(2)) for _ in range(1 if quick else 7)]
            except Stopped as error:
                section.failures.append(f"{name}, {workload}: {error}")
                cells += ["-", "-"]
                continue
            wall = 2 * min(one.wall for one, _ in turns) / min(two.wall for _, two in turns)
            cpu = 4 * min(one.cpu for one, _ in turns) / min(two.cpu for _, two in turns)
            section.data[workload][name] = {"wall": wall, "cpu": cpu}
            cells += [f"{wall:.2f}x", f"{cpu:.2f}x"]
        section.rows.append((workload, *cells))
    return section


def _in_guest(peer: peers.Peer, image: GuestImage, workload: str, percent: int, copies: int) -> Spent:
    command = peer.command(image.kernel, image.initrd, f"{APPEND}{workload}*{copies}:{percent}")
    start: Line | None = None
    with started(command) as console:
        for line in console.lines(_LIMIT):
            marker, *words = line.text.partition("@@")[2].split() or [""]
            if marker == "B":
                start = line
            elif marker == "E" and start is not None:
                if "rc=0" not in words:
                    break
                return Spent(line.cpu - start.cpu, line.wall - start.wall)
        raise Stopped(f"it failed: {console.last_words()}")


def _natively(image: GuestImage, workload: str, percent: int, copies: int) -> Spent:
    cores = sorted(os.sched_getaffinity(0))
    before, begin = os.times(), time.monotonic()
    running = [
        subprocess.Popen(
            ["taskset", "-c", str(cores[copy % len(cores)]), image.program, workload, str(percent)],
            env={**os.environ, **image.environment},
            stdout=subprocess.DEVNULL,
        )
        for copy in range(copies)
    ]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise Stopped("a native run failed")
    after, end = os.times(), time.monotonic()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Spent(cpu, end - begin)
