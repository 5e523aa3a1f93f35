"""The commands by name. A command's module is imported when it is used, as a start must be fast."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Final, NamedTuple, Protocol, cast

from wirt.cli.parser import Parser


class CommandModule(Protocol):
    """What a command's module has."""

    USAGE: str
    """The usage line after "wirt"."""
    DESCRIPTION: str
    EPILOG: str
    configure: Callable[[argparse.ArgumentParser], None]
    """Declares the options."""
    execute: Callable[[argparse.Namespace], int]
    """Does the work and returns the exit status."""


class Command(NamedTuple):
    """A command: its name and what it does, in a few words."""

    name: str
    summary: str

    def load(self) -> CommandModule:
        """Import the command's module."""
        return cast(CommandModule, import_module(f"wirt.cli.{self.name}"))

    def parser(self) -> Parser:
        """Return the parser of the command's arguments."""
        module = self.load()
        parser = Parser(f"wirt {self.name}", module.USAGE, module.DESCRIPTION, module.EPILOG)
        module.configure(parser)
        add_common_options(parser)
        return parser


COMMANDS: Final = {
    command.name: command
    for command in (
        Command("run", "run a virtual machine on this terminal"),
        Command("devices", "list the devices that a machine can have"),
        Command("doctor", "tell what this host offers, and what to do about the rest"),
        Command("completion", "print a shell's completion script"),
    )
}


def add_common_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare the options that everything takes, and return their group."""
    group = parser.add_argument_group("other options")
    group.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    group.add_argument("--debug", action="store_true", help="show where in the program an error arose")
    group.add_argument("-h", "--help", action="help", help="show this help and leave")
    return group
