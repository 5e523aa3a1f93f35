"""Commands in the built-in guest, typed at the shell on its console."""

from __future__ import annotations

import base64
import os
import time
from typing import Final, NamedTuple

from wirt.errors import ClosedError, WaitTimeout
from wirt.vm.console import Console
from wirt.vm.frames import FrameReader

PROMPT: Final = rb"tiny:[^\n]*# "
_INTERRUPT: Final = b"\x03"
_SHOWN: Final = 200
_PIECE: Final = 512
"""Characters typed at once: what a line editor and a terminal surely take."""


class CompletedExec(NamedTuple):
    """A command's output (stdout and stderr in their order) and its exit status, 0 to 255."""

    command: str
    stdout: str
    returncode: int


class Shell:
    """The shell on a console. It must be at its prompt, or about to show it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._at_prompt = False

    def run(self, command: str, timeout: float | None) -> CompletedExec:
        """Run `command` by `sh -c` with no input. Output is decoded as UTF-8, undecodable bytes replaced.

        Raises WaitTimeout or ClosedError. A command that takes too long is interrupted, as by Ctrl-C.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._at_prompt:
            self._await_prompt(deadline, timeout)
        self._at_prompt = False
        try:
            return self._run(command, deadline, timeout)
        except WaitTimeout:
            # Only now is it this command that the guest is busy with.
            self._console.offer(_INTERRUPT)
            raise

    def _run(self, command: str, deadline: float | None, timeout: float | None) -> CompletedExec:
        nonce = os.urandom(16).hex()
        script = f"/run/exec.{nonce}"
        encoded = base64.b64encode(command.encode("utf-8", "surrogateescape")).decode()
        for start in range(0, len(encoded), _PIECE):
            self._type(f"printf %s {encoded[start : start + _PIECE]} >>{script}", deadline)
        frames = FrameReader(nonce)
        self._console.send(
            f"stty raw isig; printf '\\036@@WIRT-BEGIN %s\\n' {nonce}; base64 -d {script} >{script}.sh; "
            f"sh {script}.sh </dev/null; "
            f"printf '\\036@@WIRT-END %s %d\\n' {nonce} $?; stty sane; rm /run/exec.*\n",
            _left(deadline),
        )
        output = b""
        while frames.status is None:
            data = self._console.read(_left(deadline))
            if not data and self._console.closed:
                raise ClosedError(f"The machine ended before the command {command!r} did.")
            if not data and _left(deadline) == 0:
                raise WaitTimeout(
                    f"The command {command!r} took longer than {timeout:g} s and was interrupted."
                )
            output += frames.feed(data)
        self._console.unread(frames.rest)
        self._console.expect(PROMPT, _left(deadline))
        self._at_prompt = True
        return CompletedExec(command, output.decode(errors="replace"), frames.status)

    def _await_prompt(self, deadline: float | None, timeout: float | None) -> None:
        try:
            self._console.expect(PROMPT, _left(deadline))
        except WaitTimeout:
            last = self._console.history()[-_SHOWN:].decode(errors="replace")
            raise WaitTimeout(
                f"The guest's shell was not ready for a command within {timeout:g} s: it still boots, or is "
                f"busy; its last output: {last!r}."
            ) from None

    def _type(self, line: str, deadline: float | None) -> None:
        self._console.send(f"{line}\n", _left(deadline))
        self._console.expect(PROMPT, _left(deadline))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
