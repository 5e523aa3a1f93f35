"""A session over a machine without a guest."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from fake_vm import CRASHED, FakeVM
from wirt.cli.session import Ending, Session
from wirt.cli.signals import EndedBySignal
from wirt.vm import VM, Result


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):
            os.close(fd)


def session(vm: FakeVM, **options: Any) -> Session:
    return Session(cast(VM, vm), **{"keyboard": None, "output": None} | options)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("result", "ending"),
    [
        (Result("shutdown", 0, "The guest powered off."), Ending(0)),
        (Result("exit", 7, "The guest ended the machine with status 7."), Ending(7)),
        (Result("reset", 0, "The guest asked for a reset."), Ending(0)),
        (CRASHED, Ending(1, CRASHED.message)),
        (Result("halted", 1, "vCPU 0 halted."), Ending(1, "vCPU 0 halted.")),
    ],
)
def test_the_guests_end_is_the_sessions(result: Result, ending: Ending) -> None:
    assert session(FakeVM(on_start=lambda vm: vm.end(result))).run() == ending


def test_the_time_switches_the_machine_off() -> None:
    vm = FakeVM()
    ending = session(vm, timeout=0.05).run()
    assert ending == Ending(1, "The machine still ran after 0.05 s and was switched off.")
    assert vm.result is not None


def test_input_comes_in_order_and_its_end_leaves_the_machine_running(pipe: tuple[int, int]) -> None:
    read, write = pipe
    vm = FakeVM()
    os.write(write, b"one")
    os.write(write, b"\x01x")
    os.close(write)
    ending = session(vm, keyboard=read, timeout=0.2).run()
    assert vm.console.typed == b"one\x01x"
    assert ending.exit_status == 1


def test_input_waits_for_room(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sent = bytes(range(256)) * 200

    def make_room(vm: FakeVM) -> None:
        while len(vm.console.typed) < len(sent):
            vm.console.room += 700
            time.sleep(0.001)
        vm.end()

    vm = FakeVM(on_start=make_room)
    vm.console.room = 0
    threading.Thread(target=lambda: os.write(write, sent)).start()
    assert session(vm, keyboard=read, timeout=20).run() == Ending(0)
    assert vm.console.typed == sent


def test_a_machine_without_room_for_input_still_ends(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.write(write, b"x" * 1000)
    vm = FakeVM(on_start=lambda vm: (until(lambda: vm.console.typed != b""), vm.end())[1])
    vm.console.room = 10
    assert session(vm, keyboard=read).run() == Ending(0)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_session_and_handlers_come_back(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    vm = FakeVM(on_start=lambda _: os.kill(os.getpid(), signum))
    with pytest.raises(EndedBySignal) as ended:
        session(vm, timeout=20).run()
    assert ended.value.signum == signum
    assert vm.result is not None
    assert signal.getsignal(signum) is before


def test_an_ignored_signal_stays_ignored() -> None:
    def hang_up(vm: FakeVM) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.05)
        vm.end()

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert session(FakeVM(on_start=hang_up)).run() == Ending(0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_left_ends_the_session(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    vm = FakeVM()
    with pytest.raises(EndedBySignal) as ended:
        session(vm, output=write, timeout=20).run()
    assert ended.value.signum == signal.SIGPIPE


def test_lost_output_is_told() -> None:
    vm = FakeVM(on_start=FakeVM.end)
    vm.console.output_error = "No space left on device"
    assert session(vm).run() == Ending(1, "The output of COM1 is incomplete: No space left on device.")


@pytest.mark.parametrize(("printed", "ended"), [(b"tiny:~# ", b"\r\n"), (b"bye\r\n", b""), (b"", b"")])
def test_the_guests_last_line_is_ended_at_a_terminal(printed: bytes, ended: bytes) -> None:
    master, slave = pty.openpty()
    try:
        vm = FakeVM(on_start=FakeVM.end)
        vm.console.printed = printed
        session(vm, output=slave).run()
        os.write(slave, b"$")
        shown = b""
        while not shown.endswith(b"$"):
            shown += os.read(master, 100)
        assert shown.replace(b"\r\r", b"\r") == ended + b"$"
    finally:
        os.close(master)
        os.close(slave)


def test_a_machine_that_was_switched_off_is_not_waited_for_by_its_output() -> None:
    vm = FakeVM()
    vm.console.flushed = False
    began = time.monotonic()
    assert session(vm, timeout=0.01).run().exit_status == 1
    assert time.monotonic() - began < 10


def test_a_signal_ends_the_waiting_for_output() -> None:
    def end(vm: FakeVM) -> None:
        vm.end()
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    vm = FakeVM(on_start=end)
    vm.console.flushed = False
    with pytest.raises(EndedBySignal):
        session(vm).run()
