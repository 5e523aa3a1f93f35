"""One machine's monitor: commands are executed here, one after another, whoever sends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from wirt.errors import Error
from wirt.vm.events import Event
from wirt.vm.monitor.arguments import checked
from wirt.vm.monitor.commands import REFUSED, TABLE, Command
from wirt.vm.monitor.hands import Hand, Later, Typist
from wirt.vm.monitor.messages import QmpError, Request

if TYPE_CHECKING:
    from wirt.vm import VM


class Monitor:
    """What clients can do with a machine. One thread uses it, the server's.

    `name` is the machine's, if it has one.
    """

    commands: Final[Mapping[str, Command]] = TABLE

    def __init__(self, vm: VM, name: str | None, later: Later) -> None:
        self.vm: Final = vm
        self.name: Final = name
        self.version: Final = _version()
        self.typist: Final = Typist(vm, later)
        self.hand: Final = Hand(vm)
        self.paused_by = "paused"
        """QMP's RunState of a machine that is paused: also guest-panicked, watchdog and io-error."""

    def execute(self, request: Request) -> object:
        """Execute a command and return its result. Raises QmpError."""
        command = TABLE.get(request.command)
        if command is None:
            sentence = REFUSED.get(request.command, f"There is no command {request.command[:80]!r}.")
            raise QmpError("CommandNotFound", sentence)
        arguments = checked(command.parameters, request.arguments)
        values = {name.replace("-", "_"): value for name, value in arguments.items()}
        try:
            result = command.function(self, **values)
        except Error as error:
            raise QmpError("GenericError", str(error)) from error
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            raise QmpError("GenericError", f"{where}{error.strerror or error}.") from error
        return {} if result is None else result

    def note(self, event: Event) -> None:
        """Remember what an event says about the state of the machine."""
        match event.name:
            case "GUEST_PANICKED" if event.data.get("action") == "pause":
                self.paused_by = "guest-panicked"
            case "WATCHDOG" if event.data.get("action") == "pause":
                self.paused_by = "watchdog"
            case "BLOCK_IO_ERROR":
                self.paused_by = "io-error"
            case "RESUME" | "RESET":
                self.paused_by = "paused"

    def close(self) -> None:
        """Let go of the keys that clients have pressed."""
        self.typist.finish()


def _version() -> tuple[int, int, int]:
    """The installed package's version, as far as it is numbers; zeros where it is not installed."""
    from importlib import metadata

    try:
        words = metadata.version("wirt").split(".")[:3]
    except metadata.PackageNotFoundError:
        words = []
    major, minor, micro = ([int(word) if word.isdecimal() else 0 for word in words] + [0, 0, 0])[:3]
    return major, minor, micro
