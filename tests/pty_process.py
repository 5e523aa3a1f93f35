"""A program at a terminal of its own, as a person would use it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

PATIENCE: Final = 20.0
"""Seconds a program on a busy machine may take for what it does at once elsewhere."""


class PtyProcess:
    """Runs `command` with a pseudo-terminal as its controlling terminal and standard streams. `redirected`
    streams replace the terminal, as Popen's `stdin`, `stdout` and `stderr`. `window` are its lines and
    columns; new pseudo-terminals have none.
    """

    def __init__(self, command: Sequence[str], window: tuple[int, int] = (0, 0), **redirected: Any) -> None:
        self.master, self._slave = pty.openpty()
        termios.tcsetwinsize(self.master, window)
        self.modes_before = self.modes()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._slave) | redirected
        slave = self._slave
        self.process = subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
            **streams,
        )
        self.output = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()
        os.close(self._slave)

    def modes(self) -> list[Any]:
        """The terminal's modes, as termios has them."""
        return termios.tcgetattr(self.master)

    def is_raw(self) -> bool:
        return not self.modes()[3] & (termios.ICANON | termios.ISIG | termios.ECHO)

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, text: bytes, patience: float = PATIENCE) -> bytes:
        """Wait until `text` was printed, and return all output up to its end, which counts as read."""
        deadline = time.monotonic() + patience
        while text not in self.output:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not in {self.output!r}"
            self._receive(left)
        before, _, self.output = self.output.partition(text)
        return before + text

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for the program's end and return its status as Popen does; `output` has what was unread."""
        deadline = time.monotonic() + patience
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still runs; its output: {self.output!r}"
            self._receive(0.01)
        while self._receive(0.0):
            pass
        return self.process.returncode

    def wait_until_raw(self, raw: bool = True, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while self.is_raw() != raw:
            assert time.monotonic() < deadline, f"the terminal's modes: {self.modes()}"
            time.sleep(0.005)

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def _receive(self, timeout: float) -> bool:
        readable, _, _ = select.select([self.master], [], [], timeout)
        if readable:
            self.output += os.read(self.master, 65536)
        return bool(readable)
