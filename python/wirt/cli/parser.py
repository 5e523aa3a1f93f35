"""Parsing of arguments: argparse, with our sentences and suggestions for what was misspelt."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from wirt.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError, takes no abbreviations, and leaves texts as they are."""

    def __init__(self, prog: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the parsed arguments, all of which must be known."""
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            word = unknown[0]
            if not word.startswith("-"):
                raise UsageError(f"'{self.prog}' has no use for {word!r}. See '{self.prog} --help'.")
            name = word.partition("=")[0]
            hint = suggestion(name, self._option_string_actions)
            raise UsageError(f"'{self.prog}' has no option {name}.{hint} See '{self.prog} --help'.")
        return namespace

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help text; unlike argparse's own, this does not keep quiet about a full disk."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message as a sentence."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See '{self.prog} --help'.")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean …?" for the word among `known` that resembles `word` most, or nothing."""
    import difflib

    matches = difflib.get_close_matches(word, list(known), 1)
    return f" Did you mean {matches[0]}?" if matches else ""
