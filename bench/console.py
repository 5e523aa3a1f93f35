"""A virtual machine monitor as a process whose standard output is the guest's serial console."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_PIECE = 65536
_MOST_KEPT = 4000
"""Characters of output kept to explain a failure."""


class Stopped(Exception):
    """The process ended or fell silent before what was waited for. The message says how it went."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of output. `wall` and `cpu` are the seconds the process had run and computed when it came."""

    text: str
    wall: float
    cpu: float


class Console:
    """The output of a running process, with its times. CPU time is that of all its threads."""

    def __init__(self, process: subprocess.Popen[bytes], started: float) -> None:
        assert process.stdout is not None
        self._process = process
        self._fd = process.stdout.fileno()
        self._started = started
        # CPUCLOCK_SCHED of another process, as clock_getcpuclockid(3) would give it.
        self._cpu_clock = (~process.pid << 3) | 2
        self._pending = b""
        self._kept = ""
        self._deadline = started

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def allow(self, seconds: float) -> None:
        """Give the process so much time from now on."""
        self._deadline = time.monotonic() + seconds

    def lines(self, timeout: float) -> Iterator[Line]:
        """Yield lines until the output ends. Raises Stopped after `timeout` seconds, or what allow() gave."""
        self.allow(timeout)
        while piece := self._read():
            wall, cpu = self._times()
            *complete, self._pending = (self._pending + piece).split(b"\n")
            for text in complete:
                yield Line(text.decode(errors="replace").rstrip("\r"), wall, cpu)

    def wait_for(self, pattern: str, timeout: float) -> Line:
        """Return the output up to where `pattern` (a regular expression) occurs, a whole line or not."""
        self.allow(timeout)
        while piece := self._read():
            wall, cpu = self._times()
            self._pending += piece
            text = self._pending.decode(errors="replace")
            if re.search(pattern, text):
                return Line(text, wall, cpu)
        raise Stopped(f"it ended before {pattern!r}: {self.last_words()}")

    def wait(self, timeout: float) -> int:
        """Wait for the end of the process, without reading, and return its status."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Stopped(f"it did not end within {timeout:g} s") from None

    def last_words(self) -> str:
        """The last lines of the output, on one line."""
        return " | ".join(line.strip() for line in self._kept.splitlines()[-4:] if line.strip())

    def _read(self) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0 or not select.select([self._fd], [], [], left)[0]:
            raise Stopped(f"the time was up; last output: {self.last_words()}")
        piece = os.read(self._fd, _PIECE)
        self._kept = (self._kept + piece.decode(errors="replace"))[-_MOST_KEPT:]
        return piece

    def _times(self) -> tuple[float, float]:
        wall = time.monotonic() - self._started
        try:
            return wall, time.clock_gettime(self._cpu_clock)
        except OSError:
            return wall, float("nan")


@contextmanager
def started(command: Sequence[str]) -> Iterator[Console]:
    """Start `command` with nothing to read, and end it in the end. Its errors come with its output."""
    begin = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield Console(process, begin)
        finally:
            process.kill()
