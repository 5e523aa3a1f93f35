from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import pytest

import wirt
from wirt.vm.console import Console


class FakeTerminal:
    """A terminal whose output the test writes."""

    def __init__(self) -> None:
        self.output = b""
        self.closed = False

    def read(self, position: int, timeout: float | None) -> tuple[bytes, int, bool]:
        if position == len(self.output) and not self.closed:
            time.sleep(min(timeout or 0.0, 0.01))
        return self.output[position:], len(self.output), self.closed

    def send(self, data: bytes, timeout: float | None) -> int:
        return 0 if self.closed else min(len(data), 4)


@pytest.fixture
def terminal() -> Iterator[FakeTerminal]:
    yield FakeTerminal()


def console(terminal: FakeTerminal) -> Console:
    return Console(terminal)  # type: ignore[arg-type]


def test_expect_consumes_up_to_the_match(terminal: FakeTerminal) -> None:
    terminal.output = b"user: root\r\npassword: "
    talk = console(terminal)
    assert talk.expect(r"user: (\w+)")[1] == b"root"
    assert talk.expect(re.compile(b"pass.*: "))[0] == b"password: "
    assert talk.read() == b""


def test_expect_waits_for_the_rest(terminal: FakeTerminal) -> None:
    talk = console(terminal)
    terminal.output = b"log"
    timer = threading.Timer(0.05, lambda: setattr(terminal, "output", b"login:"))
    timer.start()
    assert talk.expect("login:", timeout=5)[0] == b"login:"
    timer.join()


def test_expect_shows_the_last_output_when_time_is_up(terminal: FakeTerminal) -> None:
    terminal.output = b"Kernel panic"
    with pytest.raises(wirt.WaitTimeout, match=r"'login' in 0\.02 s; its last output: 'Kernel panic'"):
        console(terminal).expect("login", timeout=0.02)
    with pytest.raises(TimeoutError):
        console(terminal).expect("login", timeout=0)


def test_expect_finds_what_came_before_the_end(terminal: FakeTerminal) -> None:
    terminal.output = b"bye"
    terminal.closed = True
    talk = console(terminal)
    assert talk.expect("bye")[0] == b"bye"
    with pytest.raises(wirt.ClosedError, match="ended before"):
        talk.expect("more")


def test_send_says_how_much_was_taken(terminal: FakeTerminal) -> None:
    console(terminal).send("four")
    with pytest.raises(wirt.WaitTimeout, match="only 4 of 5 bytes"):
        console(terminal).send("fives", timeout=0)
    terminal.closed = True
    with pytest.raises(wirt.ClosedError):
        console(terminal).send("x")


def test_ctrl_c_ends_a_wait_for_output() -> None:
    talk = Console(wirt.vm.console._core.Terminal())
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        talk.expect("never", timeout=20)
    assert time.monotonic() - start < 5
    timer.join()
