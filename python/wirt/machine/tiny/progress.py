"""Telling a waiting person how far long work has come."""

import sys
from collections.abc import Callable
from typing import TextIO

Progress = Callable[[str, float], None]
"""Told what is being done, in a few words, and the fraction of it that is done, 0 to 1."""

_WIDTH = 24


class TerminalProgress:
    """A progress bar on the last line of a terminal; silent where `stream` (stderr by default) is none."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = ""

    def __call__(self, step: str, fraction: float) -> None:
        """Show `step` with a bar that is filled by `fraction`, 0 to 1."""
        filled = round(_WIDTH * fraction)
        self._show(f"{step:<32} [{'#' * filled}{' ' * (_WIDTH - filled)}]")

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._show("")

    def _show(self, line: str) -> None:
        if line != self._shown and self._stream.isatty():
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()
            self._shown = line
