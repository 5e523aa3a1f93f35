"""`wirt ls`, `wirt stop` and `wirt screenshot`, with machines that have no guests."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from monitored_vm import MonitoredVM
from wirt.cli import ls, stop
from wirt.cli.entry import main
from wirt.errors import Error
from wirt.host.running import Claim
from wirt.vm import VM, Result
from wirt.vm.monitor.server import MonitorServer

POWERED_OFF = Result("shutdown", 0, "The guest powered off.")


class Process:
    """What `wirt run --name` is: a machine with a name and a monitor, until it ends."""

    def __init__(self, name: str) -> None:
        self.vm = MonitoredVM()
        self.claim = Claim(name)
        self.claim.describe(cpus=2, memory=512 << 20, accelerator="kvm")
        self.server = MonitorServer(cast(VM, self.vm), [self.claim.monitor], name)
        self._ended = threading.Event()
        self.vm.events.subscribe(lambda event: self._ended.set() if event.name == "SHUTDOWN" else None)
        threading.Thread(target=self._live).start()

    def _live(self) -> None:
        self._ended.wait(60)
        self.server.close()
        self.claim.release()

    def end(self) -> None:
        self._ended.set()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runtime directory, in which the commands run."""
    path = tmp_path / "run"
    path.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def start() -> Iterator[Callable[[str], Process]]:
    """Starts a machine with a name."""
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Process:
            process = Process(name)
            stack.callback(process.end)
            return process

        yield make


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit status of a command, and what it printed."""
    status = main(words)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_machines_are_listed(start: Callable[[str], Process], capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "ls") == (0, "No machine runs that has a name.\n", "")
    assert said(capsys, "ls", "-q") == (0, "", "")
    assert said(capsys, "ls", "--format", "json") == (0, "[]\n", "")
    start("web")
    start("a-database").vm.state = "paused"
    status, printed, _ = said(capsys, "ls")
    heading, first, second = printed.splitlines()
    pid = str(os.getpid())
    assert status == 0
    assert heading.split() == ["NAME", "PID", "STATE", "CPUS", "MEMORY", "UPTIME"]
    assert first.split()[:-1] == ["a-database", pid, "paused", "2", "512", "MiB"]
    assert second.split()[:-1] == ["web", pid, "running", "2", "512", "MiB"]
    assert first.index("paused") == second.index("running")
    listed = json.loads(said(capsys, "ls", "--format", "json")[1])
    assert [machine["name"] for machine in listed] == ["a-database", "web"]
    assert listed[1]["memory"] == 512 << 20
    assert 0 <= listed[1]["uptime"] < 60


def test_a_machine_that_does_not_answer_is_listed(
    runtime: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ls, "_PATIENCE", 0.05)
    with Claim("web") as claim, socket.socket(socket.AF_UNIX) as mute:
        claim.describe(cpus=2, memory=512 << 20, accelerator="kvm")
        mute.bind(claim.monitor)
        mute.listen()
        status, printed, _ = said(capsys, "ls")
        assert (status, printed.splitlines()[1].split()[2]) == (0, "unresponsive")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1min 0s"), (3599, "59min 59s"), (3600, "1h 0min"), (90061, "1d 1h")],
)
def test_uptimes(seconds: int, text: str) -> None:
    line = ls.Line("web", 1, "running", 1, 1 << 30, seconds, "kvm", "")
    assert ls.table([line]).endswith(f"1 GiB   {text}")


def test_stop_presses_the_power_button_and_waits(
    start: Callable[[str], Process], capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    vm = start("web").vm
    vm.state = "paused"
    # The guest powers off when it is asked to.
    vm.events.subscribe(
        lambda event: vm.end(POWERED_OFF, "guest-shutdown") if event.name == "POWERDOWN" else None
    )
    assert said(capsys, "stop", "web") == (0, "", "")
    assert vm.done == [("power button",)]
    assert vm.result == POWERED_OFF


def test_stop_tells_of_a_guest_that_does_not_power_off(
    start: Callable[[str], Process], capsys: pytest.CaptureFixture[str]
) -> None:
    vm = start("web").vm
    sentence = "wirt: The machine web still runs after 0.05 s: wait longer, or use --force.\n"
    assert said(capsys, "stop", "web", "--timeout", "0.05") == (1, "", sentence)
    assert vm.state == "running"
    assert said(capsys, "stop", "web", "--force") == (0, "", "")
    assert vm.state == "ended"
    assert vm.done == [("power button",)]


def test_a_machine_whose_process_stays_has_ended_all_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wirt.vm.monitor.client._PROCESS_END", 0.05)
    vm = MonitoredVM()
    path = str(tmp_path / "socket")
    with MonitorServer(cast(VM, vm), [path]):
        assert said(capsys, "stop", f"unix:{path}", "--force") == (0, "", "")
    assert vm.state == "ended"


def test_screenshots(
    start: Callable[[str], Process], capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    process = start("web")
    picture = process.vm.screen.png()
    assert main(["screenshot", "web"]) == 0
    assert capfdbinary.readouterr().out == b"web.png\n"
    assert (tmp_path / "web.png").read_bytes() == picture
    assert main(["screenshot", "web", "other.png"]) == 0
    assert capfdbinary.readouterr().out == b""
    assert (tmp_path / "other.png").read_bytes() == picture
    assert main(["screenshot", "web", "-"]) == 0
    assert capfdbinary.readouterr().out == picture
    assert main(["screenshot", "-q", process.claim.monitor]) == 0
    assert (tmp_path / "screenshot.png").read_bytes() == picture


def test_a_screenshot_that_cannot_be_made_or_written(
    start: Callable[[str], Process], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("web")
    status, _, sentence = said(capsys, "screenshot", "web", "none/web.png")
    assert (status, sentence) == (
        1,
        "wirt: The picture cannot be written to none/web.png: No such file or directory.\n",
    )

    def refuse() -> bytes:
        raise Error("This machine has no screen.")

    monkeypatch.setattr(process.vm.screen, "png", refuse)
    assert said(capsys, "screenshot", "web") == (1, "", "wirt: This machine has no screen.\n")
    assert not os.path.exists("web.png")


@pytest.mark.parametrize("command", ["stop", "screenshot"])
@pytest.mark.parametrize(
    ("word", "status", "sentence"),
    [
        ("web", 3, "There is no running machine 'web': 'wirt ls' lists those there are."),
        ("../x", 3, "No monitor listens at ../x."),
        ("unix:nothing", 3, "No monitor listens at nothing."),
        ("./file", 3, "No monitor listens at ./file."),
        ("unix:", 2, "'unix:' is no socket: write unix:FILE."),
        ("unix:" + "x" * 120, 1, "cannot be reached: AF_UNIX path too long."),
    ],
)
def test_a_machine_that_is_not_there(
    command: str, word: str, status: int, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    given = said(capsys, command, word)
    assert given[:2] == (status, "")
    assert sentence in given[2]
    assert given[2].count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "did not answer in 0.05 s."),
        (b"220 mail\r\n", "is no monitor: it sends no JSON objects."),
        (b"[" * 100_000 + b"\n", "is no monitor: it sends no JSON objects."),
        (b"{}\n", "is no monitor: it does not greet as one."),
        (b'{"QMP": {}}\n{"error": {}}\n', "The monitor refuses qmp_capabilities."),
        (b'{"QMP": {}}\n{"event": "X"}\n', "did not answer in 0.05 s."),
    ],
)
def test_what_listens_is_no_monitor(
    answer: bytes,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client: Any = stop.Client
    monkeypatch.setattr(stop, "Client", lambda path: client(path, 0.05))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(answer)
                connection.recv(1 << 16)
                connection.recv(1 << 16)

        thread = threading.Thread(target=serve)
        thread.start()
        status, _, said_to_user = said(capsys, "stop", "./socket")
        thread.join()
    assert status == 1
    assert sentence in said_to_user
