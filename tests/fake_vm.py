"""A machine without a guest: it remembers what it was given, and ends when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wirt.vm import Result

POWERED_OFF = Result("shutdown", 0, "The guest powered off.")
CRASHED = Result("triple-fault", 1, "The guest crashed: triple fault on vCPU 0.")
KILLED = Result("killed", 1, "The machine was switched off.")


@dataclass
class FakeConsole:
    """Takes at most `room` bytes of input."""

    room: int = 1 << 20
    typed: bytes = b""
    printed: bytes = b""
    flushed: bool = True
    output_error: str | None = None

    def offer(self, data: bytes) -> int:
        taken = data[: max(0, self.room - len(self.typed))]
        self.typed += taken
        return len(taken)

    def history(self) -> bytes:
        return self.printed

    def flush(self, timeout: float | None = None) -> bool:
        return self.flushed


@dataclass
class FakeVcpu:
    index: int
    statistics: dict[str, int] = field(default_factory=lambda: {"exits": 3})


class FakeVM:
    """Stands in for wirt.vm.VM. `on_start` runs when it starts, on a thread of its own."""

    def __init__(
        self, guest: str | None = None, on_start: Callable[[FakeVM], None] | None = None, **asked: Any
    ) -> None:
        self.asked = {"guest": guest} | asked
        self.accelerator, self.accelerator_reason = "recompiler", "no /dev/kvm"
        self.display = None
        self.console = FakeConsole()
        self.vcpus = (FakeVcpu(0),)
        self.result: Result | None = None
        self.closed = self.resumed = False
        self._on_start = on_start
        self._ended = threading.Event()

    def start(self) -> None:
        if self._on_start is not None:
            threading.Thread(target=self._on_start, args=(self,)).start()

    def end(self, result: Result = POWERED_OFF) -> None:
        if self.result is None:
            self.result = result
        self._ended.set()

    def wait(self, timeout: float | None = None) -> Result:
        assert self._ended.wait(timeout)
        assert self.result is not None
        return self.result

    def kill(self) -> Result:
        self.end(KILLED)
        return self.wait()

    def resume(self) -> None:
        self.resumed = True

    def listings(self) -> str:
        return ""

    def close(self) -> None:
        self.kill()
        self.closed = True
