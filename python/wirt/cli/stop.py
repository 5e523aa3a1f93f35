"""`wirt stop`: power a machine off."""

from __future__ import annotations

import argparse
from typing import Final

from wirt.cli.options import seconds
from wirt.cli.target import TARGETS, Target, target
from wirt.cli.target import configure as configure_target
from wirt.errors import Error
from wirt.vm.monitor.client import Client

USAGE: Final = "wirt stop NAME|unix:FILE [--force] [--timeout SECONDS]"

DESCRIPTION: Final = f"""\
Presses a machine's power button and waits until its guest has powered off. A
paused machine is resumed for it.

{TARGETS}"""

EPILOG: Final = """\
examples:
  wirt stop web
  wirt stop web --timeout 120
  wirt stop web --force          pull the plug
  wirt stop web || wirt stop web --force

exit status:
  0  it has ended
  1  it runs on: the guest did not power off in time, or the monitor failed
  2  wrong usage
  3  there is no such machine"""

TIMEOUT: Final = 30.0
"""Seconds that guests have by default, as in `VM.stop`."""
_GOES_ON: Final = ("paused", "watchdog", "io-error")
"""The states in which a machine has to be resumed, and can be."""
_END: Final = 10.0
"""Seconds that a machine without power has for its end."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wirt stop`."""
    configure_target(parser.add_argument_group("machine"))
    group = parser.add_argument_group("how")
    group.add_argument("--force", action="store_true", help="switch it off at once, as when its power fails")
    group.add_argument(
        "--timeout",
        type=seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"how long the guest may take (default: {TIMEOUT:g})",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Stop the machine."""
    machine = target(arguments.machine)
    with Client(machine.monitor) as client:
        if arguments.force:
            _switch_off(machine, client)
        else:
            _power_off(machine, client, arguments.timeout)
    return 0


def _power_off(machine: Target, client: Client, timeout: float) -> None:
    status = client.execute("query-status")
    if status["status"] in _GOES_ON:
        client.execute("cont")
    client.execute("system_powerdown")
    if not client.wait_for_end(timeout):
        raise Error(f"{machine} still runs after {timeout:g} s: wait longer, or use --force.")


def _switch_off(machine: Target, client: Client) -> None:
    client.execute("quit")
    if not client.wait_for_end(_END):
        process = "" if machine.pid is None else f" (process {machine.pid})"
        raise Error(f"{machine} was switched off, but its process{process} has not ended in {_END:g} s.")
