"""`wirt devices`: the devices that a machine can have, with their options."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from typing import Final

from wirt.machine.hardware import MODELS, Model

USAGE: Final = "wirt devices [NAME] [--format table|json]"

DESCRIPTION: Final = """\
Lists the devices that --device of 'wirt run' takes by name, and those that are
always there or come with another option; or tells about one."""

EPILOG: Final = """\
examples:
  wirt devices                       all of them
  wirt devices i6300esb              one, with its options
  wirt run --device i6300esb,action=poweroff"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wirt devices`."""
    group = parser.add_argument_group("what is listed")
    group.add_argument("name", nargs="?", choices=tuple(MODELS), metavar="NAME", help="one device")
    group.add_argument(
        "--format", choices=("table", "json"), default="table", help="for people (default) or for programs"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the list."""
    models = list(MODELS.values()) if arguments.name is None else [MODELS[arguments.name]]
    if arguments.format == "json":
        print(json.dumps([_row(model) for model in models], indent=2))
    else:
        width = min(shutil.get_terminal_size().columns, 100)
        print("\n".join(line for model in models for line in _lines(model, width)))
    return 0


def _row(model: Model) -> dict[str, object]:
    return {
        "name": model.name,
        "summary": model.summary,
        "given": model.given,
        "options": [
            {
                "name": option.name,
                "values": list(option.values),
                "default": option.default,
                "help": option.help,
            }
            for option in model.options
        ],
    }


def _lines(model: Model, width: int) -> list[str]:
    lines = _wrapped(f"{model.name}: {model.summary}", "", "    ", width)
    lines += _wrapped(model.given, "    ", "    ", width)
    for option in model.options:
        values = f"={'|'.join(option.values)}" if option.values else ""
        default = f" (default: {option.default})" if option.default else ""
        lines += _wrapped(f"{option.name}{values}  {option.help}{default}", "    ", "        ", width)
    return lines


def _wrapped(text: str, first: str, others: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
