"""Signals as events for a loop, instead of interruptions at any point of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
JOB_CONTROL: Final = (signal.SIGTSTP, signal.SIGCONT)


class EndedBySignal(Exception):
    """The process is to end as if `signum` had ended it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class SignalEvents:
    """A context manager in which the signals of ENDING and JOB_CONTROL wait until they are taken.

    Those that the process ignores (nohup, background jobs of a script) stay ignored. For the main thread.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._wakeup = -1

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for signum in (*ENDING, *JOB_CONTROL):
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._handlers[signum] = signal.signal(signum, _leave_to_pipe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to take."""
        return self._read

    def take(self) -> list[int]:
        """Return the numbers of the signals that came since, oldest first."""
        try:
            return list(os.read(self._read, 64))
        except BlockingIOError:
            return []


def stop_self() -> None:
    """Stop this process as SIGTSTP does by default, and return when it is continued."""
    os.kill(os.getpid(), signal.SIGSTOP)


def end_self(signum: int) -> NoReturn:
    """End this process by the signal, so that a shell sees what it was."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    # Reached when the signal is blocked.
    os._exit(128 + signum)


def _leave_to_pipe(_signum: int, _frame: FrameType | None) -> None:
    """The number is in the pipe already."""
