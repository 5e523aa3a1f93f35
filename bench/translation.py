"""What the translators do while the guest boots: blocks, their growth, and how often they are taken back."""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path
from typing import Final

import wirt
from bench import guest_image, peers
from bench.boot import APPEND
from bench.console import Stopped, started
from bench.guest_image import GuestImage
from bench.report import Section

_MARK: Final = "@@INIT"
_LIMIT: Final = 120.0
_HOLD: Final = " bench_hold=60"
"""The guest's program waits, so that QEMU can be asked before the machine goes off."""

_INFO_JIT: Final = {
    "translated": r"TB count +(\d+)",
    "guest bytes a block": r"TB avg target size +(\d+)",
    "code growth": r"expansion ratio: +([\d.]+)",
    "invalidations": r"TB invalidate count +(\d+)",
    "times all code was forgotten": r"TB flush count +(\d+)",
}
ROWS: Final = (
    "translated",
    "guest bytes a block",
    "code growth",
    "us to translate a block",
    "invalidations",
    "times all code was forgotten",
    "TLB flushes",
)


def measure(quick: bool) -> Section:
    """Boot the minimal guest once under each, and ask for the counters when its program runs."""
    del quick
    image = guest_image.build()
    found = {"wirt": _wirt(image)}
    for qemu in peers.qemus():
        found[qemu.name] = _qemu(qemu, image)
    return Section(
        "translation",
        "What is translated from power-on to the first user process.",
        ("", *found),
        rows=[(row, *(counters.get(row, "-") for counters in found.values())) for row in ROWS],
        notes=[
            "QEMU does not tell the time. Its TLB flushes are full, partial and elided ones, Wirt's those of "
            "everything and of all but global pages."
        ],
        versions=peers.versions(),
        commands=[peer.command(image.kernel, image.minimal_initrd, APPEND) for peer in peers.qemus()],
        data=dict(found),
    )


def _wirt(image: GuestImage) -> dict[str, str]:
    with wirt.VM(
        kernel=image.kernel,
        initrd=image.minimal_initrd,
        append=APPEND,
        memory=f"{peers.MEMORY_MIB}M",
        accel="recompiler",
    ) as vm:
        vm.console.expect(_MARK, timeout=_LIMIT)
        counters = vm.vcpus[0].statistics
    translated = counters["translated"]
    return {
        "translated": str(translated),
        "guest bytes a block": f"{counters['guest-bytes'] / translated:.0f}",
        "code growth": f"{counters['host-bytes'] / counters['guest-bytes']:.1f}",
        "us to translate a block": f"{counters['translation-ns'] / translated / 1000:.1f}",
        "invalidations": str(counters["invalidations"]),
        "times all code was forgotten": str(counters["restarts"]),
        "TLB flushes": str(counters["flush.all"] + counters["flush.local"]),
    }


def _qemu(qemu: peers.Peer, image: GuestImage) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "monitor"
        monitored = peers.with_options(qemu, "monitored", "-monitor", f"unix:{path},server=on,wait=off")
        with started(monitored.command(image.kernel, image.minimal_initrd, APPEND + _HOLD)) as console:
            console.wait_for(_MARK, _LIMIT)
            try:
                text = _ask(path, "info jit")
            except OSError as error:
                raise Stopped(f"its monitor does not answer: {error}") from error
    counters = {
        row: match[1] for row, pattern in _INFO_JIT.items() if (match := re.search(pattern, text)) is not None
    }
    if flushes := re.findall(r"TLB (?:full|partial|elided) flushes +(\d+)", text):
        counters["TLB flushes"] = str(sum(map(int, flushes)))
    return counters


def _ask(path: Path, command: str) -> str:
    """Return what QEMU's monitor says to a command."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(10)
        monitor.connect(str(path))
        monitor.sendall(command.encode() + b"\n")
        text = ""
        # The answer ends with a prompt, as does what comes before it.
        while "(qemu)" not in text.rpartition("flush")[2] or "flush" not in text:
            if not (piece := monitor.recv(65536)):
                break
            text += piece.decode(errors="replace")
    return text
