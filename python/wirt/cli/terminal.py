"""The terminal in raw mode, and always as it was before afterwards."""

from __future__ import annotations

import os
import termios
import tty
from types import TracebackType
from typing import Self

from wirt.cli.terminal_guard import TerminalGuard


class RawTerminal:
    """A terminal whose keys reach the guest one by one, Ctrl-C and Ctrl-Z included.

    A context manager: inside it the terminal is raw. `suspend` and `resume` are for the time a shell has it.
    A terminal that went away, or that another job has now, is left alone. While it is raw, a guard would
    bring it back if this process were killed.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd)
        self._raw = False
        self._guard: TerminalGuard | None = None

    def __enter__(self) -> Self:
        self.resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.suspend()

    def resume(self) -> None:
        """Make the terminal raw, if this process is in its foreground."""
        if self._has_terminal():
            if not self._raw:
                self._guard = TerminalGuard.post(self._fd)
            # At once, without waiting for output to drain: what was typed before is kept for the guest.
            tty.setraw(self._fd, termios.TCSANOW)
            self._raw = True

    def suspend(self) -> None:
        """Make the terminal what it was before."""
        if self._raw and self._has_terminal():
            # TCSADRAIN would wait for ever for a terminal that takes no output.
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
        self._raw = False
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def _has_terminal(self) -> bool:
        """Whether setting modes works, and would not stop this process as a background job."""
        try:
            termios.tcgetattr(self._fd)
        except termios.error:
            return False
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            # Not the controlling terminal: there are no jobs on it.
            return True
