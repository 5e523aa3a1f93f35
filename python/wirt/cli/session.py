"""A machine runs, and somebody attends its serial console: a person at a terminal, or a pipe."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from wirt.cli.keys import KEYS_HELP, Key, KeyFilter
from wirt.cli.signals import ENDING, EndedBySignal, SignalEvents, stop_self
from wirt.errors import Error
from wirt.threads import named_thread
from wirt.vm import VM, Result

if TYPE_CHECKING:
    from wirt.cli.terminal import RawTerminal

_PIECE: Final = 4096
"""Bytes of input taken at once."""
_RETRY: Final = 0.02
"""Seconds until a guest is offered again what it had no room for."""
_LAST_OUTPUT: Final = 1.0
"""Seconds for which the output of a machine that somebody switched off may still take."""
_LONGEST_POLL: Final = 3600.0
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Ending(NamedTuple):
    """How a session ended: what to exit with, and a sentence unless there is nothing to say."""

    exit_status: int
    message: str | None = None


class Session:
    """One machine from its start to its end.

    `keyboard` is where input comes from and `output` where the machine was told to write, both None when its
    console is elsewhere. `timeout` is in seconds from the start.
    """

    def __init__(
        self, vm: VM, *, keyboard: int | None, output: int | None, timeout: float | None = None
    ) -> None:
        self._vm = vm
        self._keyboard = keyboard
        self._output = output
        self._timeout = timeout
        self._terminal = _raw_terminal(keyboard)
        self._output_loss = signal.SIGPIPE if output is None or not os.isatty(output) else signal.SIGHUP
        self._keys = KeyFilter()
        self._pending = b""
        self._listening = False
        self._poll = select.poll()

    def run(self) -> Ending:
        """Start the machine, attend it until it ends, and switch it off if it does not; closing it is left to
        the caller. Raises EndedBySignal when a signal ended the session, and also when its terminal or the
        reader of its output went away.
        """
        with SignalEvents() as signals:
            if self._terminal is None:
                return self._attended(signals)
            with self._terminal:
                return self._attended(signals)

    def _attended(self, signals: SignalEvents) -> Ending:
        ended_read, ended_write = os.pipe2(os.O_CLOEXEC)
        waiter = named_thread("waiter", lambda: self._wait(ended_write))
        try:
            self._vm.start()
            waiter.start()
            try:
                ending = self._attend(signals, ended_read)
            finally:
                limit = None if self._vm.result is not None else _LAST_OUTPUT
                self._vm.kill()
                waiter.join()
                if self._flush(signals, limit):
                    self._end_line()
        finally:
            os.close(ended_read)
            os.close(ended_write)
        error = self._vm.console.output_error
        return ending if error is None else Ending(1, f"The serial output is incomplete: {error}.")

    def _wait(self, ended: int) -> None:
        """The waiter's thread: make `ended` readable when the machine has ended."""
        self._vm.wait()
        os.write(ended, b".")

    def _attend(self, signals: SignalEvents, ended: int) -> Ending:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._poll.register(ended, select.POLLIN)
        self._poll.register(signals.fileno(), select.POLLIN)
        if self._output is not None:
            self._poll.register(self._output, 0)
        self._listen(True)
        while True:
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return Ending(1, f"The machine still ran after {self._timeout:g} s and was switched off.")
            wait = min(left, _RETRY if self._pending else _LONGEST_POLL)
            for fd, events in self._poll.poll(wait * 1000):
                if fd == ended:
                    return _ending_of(self._vm.wait())
                if fd == signals.fileno():
                    self._handle(signals.take())
                elif fd == self._keyboard and not self._take_input():
                    return Ending(0, "The machine was switched off.")
                elif fd == self._output and events & _GONE:
                    raise EndedBySignal(self._output_loss)
            self._offer_pending()

    def _listen(self, wanted: bool) -> None:
        """Let the loop wait for input, or not."""
        if self._keyboard is None or wanted == self._listening:
            return
        if wanted:
            self._poll.register(self._keyboard, select.POLLIN)
        else:
            self._poll.unregister(self._keyboard)
        self._listening = wanted

    def _handle(self, signums: list[int]) -> None:
        for signum in signums:
            if signum in ENDING:
                raise EndedBySignal(signum)
            if self._terminal is not None and signum == signal.SIGTSTP:
                self._terminal.suspend()
            if signum == signal.SIGTSTP:
                stop_self()
            # Continued: whoever had the terminal meanwhile may have left other modes.
            if self._terminal is not None:
                self._terminal.resume()

    def _take_input(self) -> bool:
        """Read what there is; False when a person wants to leave."""
        assert self._keyboard is not None
        try:
            data = os.read(self._keyboard, _PIECE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if self._terminal is not None:
            if not data:
                raise EndedBySignal(signal.SIGHUP)
            return self._type(data)
        if not data:
            self._listen(False)
            self._keyboard = None
        self._pending += data
        return True

    def _type(self, data: bytes) -> bool:
        """Do what a person typed; False when it asks to leave. Keys that a stuck guest has no room for are
        dropped, so that Ctrl-a is always heard.
        """
        for part in self._keys.feed(data):
            match part:
                case Key.QUIT:
                    return False
                case Key.CONTINUE:
                    with contextlib.suppress(Error):
                        self._vm.resume()
                case Key.HELP:
                    _show("\r\n" + KEYS_HELP.replace("\n", "\r\n"))
                case Key.UNKNOWN:
                    _show("\a")
                case _:
                    self._vm.console.offer(part)
        return True

    def _offer_pending(self) -> None:
        """Pass on a pipe's data, and take no more while the guest has no room."""
        if self._pending:
            self._pending = self._pending[self._vm.console.offer(self._pending) :]
            self._listen(not self._pending)

    def _flush(self, signals: SignalEvents, limit: float | None) -> bool:
        """Wait until the output has arrived, at most `limit` seconds, and return whether it has; a signal
        ends the waiting.
        """
        deadline = None if limit is None else time.monotonic() + limit
        while not self._vm.console.flush(_RETRY):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self._handle(signals.take())
        return True

    def _end_line(self) -> None:
        """At a terminal, end the guest's last line, so that what comes next has one of its own."""
        if self._output is None or not os.isatty(self._output):
            return
        if self._vm.console.history()[-1:] not in (b"", b"\n"):
            room = select.poll()
            room.register(self._output, select.POLLOUT)
            # Not where it would wait for a terminal that takes nothing.
            if any(events == select.POLLOUT for _, events in room.poll(0)):
                os.write(self._output, b"\r\n")


def _raw_terminal(fd: int | None) -> RawTerminal | None:
    if fd is None or not os.isatty(fd):
        return None
    from wirt.cli.terminal import RawTerminal

    return RawTerminal(fd)


def _ending_of(result: Result) -> Ending:
    """A guest that ended as it wanted needs no words."""
    wanted = result.reason == "exit" or result.exit_status == 0
    return Ending(result.exit_status, None if wanted else result.message)


def _show(text: str) -> None:
    """Tell the person at the terminal something, as far as there still is one."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), text.encode())
