"""`wirt ls`: the machines that run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from wirt.errors import Error
from wirt.host.running import Running, running
from wirt.vm.monitor.client import Client
from wirt.vm.sizes import format_size

USAGE: Final = "wirt ls [--format table|json]"

DESCRIPTION: Final = """\
Lists the machines of this user that run and have a name ('wirt run --name')."""

EPILOG: Final = """\
states:
  running, paused   as they were told
  guest-panicked    paused, as its guest has panicked
  watchdog          paused, as its watchdog expired
  io-error          paused, as the host cannot do what a disk asks for
  prelaunch         made, but not started
  shutdown          ended, but its process has not
  unresponsive      its monitor did not answer in a second

examples:
  wirt ls
  wirt ls --format json | jq -r '.[].name'

exit status:
  0  done, also where there is none
  2  wrong usage"""

_PATIENCE: Final = 1.0
"""Seconds for each machine's answer."""


class Line(NamedTuple):
    """What is said of a machine. Memory is in bytes, uptime in seconds."""

    name: str
    pid: int
    state: str
    cpus: int
    memory: int
    uptime: int
    accelerator: str
    monitor: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `wirt ls`."""
    group = parser.add_argument_group("output")
    group.add_argument("--format", choices=("table", "json"), default="table", help="table (default) or json")


def execute(arguments: argparse.Namespace) -> int:
    """List the machines."""
    lines = [line for machine in running() if (line := _line(machine)) is not None]
    if arguments.format == "json":
        print(json.dumps([line._asdict() for line in lines], indent=2))
    elif lines:
        print(table(lines))
    elif not arguments.quiet:
        print("No machine runs that has a name.")
    return 0


def table(lines: Sequence[Line]) -> str:
    """Return the machines as text."""
    rows = [("NAME", "PID", "STATE", "CPUS", "MEMORY", "UPTIME")]
    rows += [
        (line.name, str(line.pid), line.state, str(line.cpus), format_size(line.memory), _time(line.uptime))
        for line in lines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _line(machine: Running) -> Line | None:
    """Ask a machine for its state; None: it has ended meanwhile."""
    try:
        with Client(machine.monitor, _PATIENCE) as client:
            state = str(client.execute("query-status")["status"])
    except Error:
        if machine not in running():
            return None
        state = "unresponsive"
    uptime = max(0, int(time.time() - machine.started))
    return Line(
        machine.name,
        machine.pid,
        state,
        machine.cpus,
        machine.memory,
        uptime,
        machine.accelerator,
        machine.monitor,
    )


def _time(seconds: int) -> str:
    """Return a length of time in its two largest units."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}min"
    return f"{minutes}min {seconds}s" if minutes else f"{seconds}s"
