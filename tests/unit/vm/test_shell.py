"""The shell on a console that shows everything late, and so all at once."""

from __future__ import annotations

import re
from typing import cast

import pytest

import wirt
from wirt import _core
from wirt.vm.console import Console
from wirt.vm.shell import Shell


class LateTerminal:
    """A guest's shell at its prompt, whose answers to a line come in one piece."""

    closed = False

    def __init__(self) -> None:
        self._output = b"tiny:/# "

    def send(self, data: bytes, timeout: float | None = None) -> int:
        framed = re.search(rb"WIRT-BEGIN %s\\n' ([0-9a-f]+)", data)
        if framed is not None:
            nonce = framed[1]
            self._output += b"\x1e@@WIRT-BEGIN %s\nhello\n\x1e@@WIRT-END %s 5\n" % (nonce, nonce)
        self._output += b"tiny:/# "
        return len(data)

    def read(self, position: int, timeout: float | None = None) -> tuple[bytes, int, bool]:
        return self._output[position:], len(self._output), False


def test_a_prompt_that_comes_with_the_end_of_the_output_is_seen() -> None:
    shell = Shell(Console(cast(_core.Terminal, LateTerminal())))
    for _ in range(2):
        done = shell.run("echo hello", 1.0)
        assert (done.stdout, done.returncode) == ("hello\n", 5)


class StuckTerminal:
    """A guest that prints `output` and nothing more, whatever is typed."""

    closed = False

    def __init__(self, output: bytes) -> None:
        self._output = output
        self.typed = b""

    def send(self, data: bytes, timeout: float | None = None) -> int:
        self.typed += data
        return len(data)

    def read(self, position: int, timeout: float | None = None) -> tuple[bytes, int, bool]:
        return self._output[position:], len(self._output), False


def test_only_the_command_itself_is_interrupted() -> None:
    busy = StuckTerminal(b"counting...")
    with pytest.raises(wirt.WaitTimeout, match=r"not ready for a command within 0\.01 s.*'counting\.\.\.'"):
        Shell(Console(cast(_core.Terminal, busy))).run("true", 0.01)
    assert busy.typed == b""
    stuck = StuckTerminal(b"tiny:/# ")
    with pytest.raises(wirt.WaitTimeout):
        Shell(Console(cast(_core.Terminal, stuck))).run("true", 0.01)
    assert stuck.typed.endswith(b"\x03")
