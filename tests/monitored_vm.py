"""A machine without a guest, as a monitor sees it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

from wirt.errors import Error, UsageError
from wirt.vm import Result
from wirt.vm.events import Events


class Spec(NamedTuple):
    """What a monitor asks of a machine's spec."""

    cpus: int = 2
    memory: int = 512 << 20
    uuid: bytes = bytes(range(16))
    disks: tuple[Any, ...] = ()


class Frame:
    """A picture of 2 by 1 pixels: red, and nearly blue."""

    width, height = 2, 1
    pixels = bytes([0, 0, 255, 0, 254, 1, 2, 0])

    def update(self) -> list[tuple[int, int, int, int]]:
        return [(0, 0, 2, 1)]


class Screen:
    """Has `Frame`'s picture."""

    def open_frame(self) -> Frame:
        return Frame()

    def png(self) -> bytes:
        return b"\x89PNG a picture"


class Drive:
    """A CD-ROM drive that a guest has locked."""

    def __init__(self, vm: MonitoredVM, name: str, path: Path | None) -> None:
        self._vm = vm
        self.name = name
        self.path = path
        self.open = False
        self.locked = True

    def insert(self, path: str, *, force: bool) -> None:
        self.eject(force=force)
        self.path = Path(path)

    def eject(self, *, force: bool) -> None:
        if not force:
            raise Error("The guest has locked it.")
        self.path = None

    def open_tray(self, *, force: bool) -> None:
        self._vm._do("tray", force)

    def close_tray(self) -> None:
        self._vm._do("tray closed")


class FakeBalloon:
    """512 MiB, of which the guest gives up at once what it is asked for."""

    present = True
    size = 512 << 20

    @property
    def target(self) -> int:
        return self.size

    @target.setter
    def target(self, wish: int) -> None:
        if wish > 512 << 20:
            raise UsageError("A guest with 512 MiB of memory cannot make do with more.")
        self.size = wish


class MonitoredVM:
    """Stands in for wirt.VM, and remembers what was done with it in `done`."""

    def __init__(self) -> None:
        self.spec = Spec()
        self.accelerator = "recompiler"
        self.events = Events()
        self.state = "running"
        self.result: Result | None = None
        self.done: list[tuple[Any, ...]] = []
        self.screen = Screen()
        self.balloon = FakeBalloon()
        self.cdroms = (Drive(self, "cdrom0", None), Drive(self, "cdrom1", Path("/none/disc.iso")))
        self.keyboard = self.mouse = self
        self.changed = threading.Condition()

    def _do(self, *what: Any) -> None:
        with self.changed:
            self.done.append(what)
            self.changed.notify_all()

    def wait_until_done(self, count: int) -> list[tuple[Any, ...]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.done) >= count, 10), self.done
            return list(self.done)

    def start(self) -> None:
        self.state = "running"
        self._do("start")

    def pause(self) -> None:
        if self.state == "ended":
            raise Error("Cannot pause a machine that is ended.")
        self.state = "paused"
        self.events.publish("STOP")

    def resume(self) -> None:
        self.state = "running"
        self.events.publish("RESUME")

    def power_button(self) -> None:
        self._do("power button")
        self.events.publish("POWERDOWN")

    def nmi(self) -> None:
        self._do("nmi")

    def reset(self, cause: str) -> None:
        self.events.publish("RESET", guest=False, reason=cause)

    def kill(self, cause: str) -> None:
        self.end(Result("killed", 1, "The machine was switched off."), cause)

    def end(self, result: Result, cause: str) -> None:
        self.state, self.result = "ended", result
        self.events.publish("SHUTDOWN", guest=cause.startswith("guest"), reason=cause)

    def key(self, code: int, down: bool) -> None:
        self._do(code, down)

    def move_by(self, right: int, down: int) -> None:
        self._do("by", right, down)

    def move(self, x: int, y: int, width: int, height: int, buttons: int) -> None:
        self._do("to", x, y, width, height, buttons)
