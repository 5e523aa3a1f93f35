"""The name and the monitor of a machine that `wirt run` runs."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from wirt.errors import UsageError

if TYPE_CHECKING:
    from wirt.vm import VM

_UNIX: Final = "unix:"


def configure(group: argparse._ArgumentGroup) -> None:
    """Declare the options."""
    group.add_argument("--name", metavar="NAME", help="a name, by which wirt ls, screenshot and stop find it")
    group.add_argument(
        "--monitor",
        action="append",
        default=[],
        type=_path,
        metavar="unix:FILE",
        help="serve QMP at a unix socket; may be given several times. A machine with a name has one anyway",
    )


@contextlib.contextmanager
def monitored(arguments: argparse.Namespace) -> Iterator[Callable[[VM], None]]:
    """Take the name, and return what begins to serve the monitor of the machine, once it is made."""
    if arguments.name is None and not arguments.monitor:
        yield lambda vm: None
        return
    # A start without them does not pay for these.
    from wirt.host.running import Claim
    from wirt.vm.monitor.server import MonitorServer

    with contextlib.ExitStack() as stack:
        claim = None if arguments.name is None else stack.enter_context(Claim(arguments.name))

        def serve(vm: VM) -> None:
            paths = list(arguments.monitor)
            if claim is not None:
                claim.describe(cpus=vm.spec.cpus, memory=vm.spec.memory, accelerator=vm.accelerator)
                paths.append(claim.monitor)
            stack.enter_context(MonitorServer(vm, paths, arguments.name))

        yield serve


def _path(text: str) -> str:
    path = text.removeprefix(_UNIX)
    if path in ("", text):
        raise UsageError(f"{text!r} is no place for a monitor: write unix:FILE.")
    return path
