"""`wirt screenshot`: a picture of a machine's screen."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from wirt.cli.target import TARGETS, Target, target
from wirt.cli.target import configure as configure_target
from wirt.errors import Error
from wirt.vm.monitor.client import Client

USAGE: Final = "wirt screenshot NAME|unix:FILE [FILE.png]"

DESCRIPTION: Final = f"""\
Writes a picture of a machine's screen to a PNG file.

{TARGETS}"""

EPILOG: Final = """\
examples:
  wirt screenshot web                    to web.png
  wirt screenshot web shots/login.png
  wirt screenshot web - | display        to standard output

exit status:
  0  done
  1  failed; for instance, the machine has no screen
  2  wrong usage
  3  there is no such machine"""

_UNNAMED: Final = "screenshot"
_LARGEST: Final = 1 << 28
"""Bytes of a picture."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wirt screenshot`."""
    group = parser.add_argument_group("what and where")
    configure_target(group)
    group.add_argument(
        "file", nargs="?", metavar="FILE.png", help="where to (default: NAME.png); -: standard output"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Take the picture."""
    machine = target(arguments.machine)
    picture = _picture(machine)
    if arguments.file == "-":
        sys.stdout.buffer.write(picture)
        return 0
    path = Path(arguments.file or f"{machine.name or _UNNAMED}.png")
    try:
        path.write_bytes(picture)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Error(f"The picture cannot be written to {path}: {reason}.") from None
    if not arguments.quiet and arguments.file is None:
        print(path)
    return 0


def _picture(machine: Target) -> bytes:
    """Have the machine's process write the picture to a file of this user's, and return it."""
    with tempfile.TemporaryDirectory(prefix="wirt-") as directory, Client(machine.monitor) as client:
        path = os.path.join(directory, "screen.png")
        client.execute("screendump", filename=path, format="png")
        try:
            with open(path, "rb") as file:
                picture = file.read(_LARGEST)
        except FileNotFoundError:
            raise Error(f"{machine} has written its picture elsewhere: it sees other files.") from None
    return picture
