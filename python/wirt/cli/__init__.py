"""The command line. Each command is a module with `configure(parser)` and `execute(arguments)`."""

from wirt.cli.entry import main

__all__ = ["main"]
