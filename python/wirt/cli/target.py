"""The machine that a command is about: by its name, or by its monitor's socket."""

from __future__ import annotations

import argparse
from typing import Final, NamedTuple

from wirt.errors import UsageError
from wirt.host.running import find

_UNIX: Final = "unix:"

TARGETS: Final = """\
A machine is named as 'wirt run --name' had it; a word with a slash in it, or
unix:FILE, is the socket of 'wirt run --monitor', or any other QMP monitor's."""


class Target(NamedTuple):
    """A machine: the path of its monitor's socket, and its name and process, where it was found by name."""

    monitor: str
    name: str | None = None
    pid: int | None = None

    def __str__(self) -> str:
        """The machine, as the subject of a sentence."""
        return f"The machine at {self.monitor}" if self.name is None else f"The machine {self.name}"


def configure(group: argparse._ArgumentGroup) -> None:
    """Declare the argument."""
    group.add_argument("machine", metavar="NAME|unix:FILE", help="which machine")


def target(word: str) -> Target:
    """Return the machine that the word names. Raises NotFoundError when none of that name runs."""
    if word == _UNIX:
        raise UsageError(f"{word!r} is no socket: write unix:FILE.")
    if word.startswith(_UNIX) or "/" in word:
        return Target(word.removeprefix(_UNIX))
    machine = find(word)
    return Target(machine.monitor, machine.name, machine.pid)
