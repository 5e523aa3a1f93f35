"""`wirt doctor`: what this host offers, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Final

from wirt.cli.checks import Check, Status, check_host

USAGE: Final = "wirt doctor [--format table|json]"

DESCRIPTION: Final = """\
Looks at what Wirt can use of this host: processor, kernel, KVM (measured, not
only looked for), memory and cores to spare, networking, cgroups, firmware. Each
line that is not ok says what to do about it. Changes nothing."""

EPILOG: Final = """\
status:
  ok        all there
  limited   works, but not as well as it could
  missing   not there; only what needs it does not work

examples:
  wirt doctor
  wirt doctor --format json | jq -r '.checks[] | select(.status != "ok") | .advice'

exit status:
  0  guests can run here
  1  they cannot
  2  wrong usage"""

_COLOURS: Final[dict[Status, str]] = {"ok": "\x1b[32m", "limited": "\x1b[33m", "missing": "\x1b[31m"}
_PLAIN: Final = "\x1b[0m"
_NAME_WIDTH: Final = 12
_STATUS_WIDTH: Final = 8
_INDENT: Final = _NAME_WIDTH + 1 + _STATUS_WIDTH + 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `wirt doctor`."""
    group = parser.add_argument_group("output")
    group.add_argument("--format", choices=("table", "json"), default="table", help="table (default) or json")


def execute(arguments: argparse.Namespace) -> int:
    """Check the host, print the findings, and return 0 if guests can run on it, otherwise 1."""
    checks = check_host()
    accelerator = next(check for check in checks if check.name == "accelerator")
    usable = accelerator.status != "missing"
    if arguments.format == "json":
        report = {
            "usable": usable,
            "accelerator": accelerator.figures.get("chosen"),
            "checks": [check._asdict() | {"figures": dict(check.figures)} for check in checks],
        }
        print(json.dumps(report, indent=2))
    elif sys.stdout.isatty():
        coloured = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        print(table(checks, width=shutil.get_terminal_size().columns, coloured=coloured))
    else:
        print(table(checks, width=None, coloured=False))
    return 0 if usable else 1


def table(checks: Sequence[Check], *, width: int | None, coloured: bool) -> str:
    """Return the findings as text: a check's name, status and finding, and below it the advice.

    `width` is in columns; None: lines are not broken.
    """
    lines = []
    for check in checks:
        status = f"{check.status:<{_STATUS_WIDTH}}"
        if coloured:
            status = f"{_COLOURS[check.status]}{status}{_PLAIN}"
        first, *more = _broken(check.finding, width)
        lines.append(f"{check.name:<{_NAME_WIDTH}} {status} {first}")
        if check.advice is not None:
            advice = _broken(check.advice, width and width - 3)
            more += [f"-> {advice[0]}", *(f"   {line}" for line in advice[1:])]
        lines += [" " * _INDENT + line for line in more]
    return "\n".join(lines)


def _broken(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width - _INDENT, 20), break_long_words=False)
