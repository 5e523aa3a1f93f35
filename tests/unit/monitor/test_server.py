"""Clients of a monitor: how they begin, several of them, and those that mean no good."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any, Self, cast

import pytest

from monitored_vm import MonitoredVM
from wirt.errors import Error
from wirt.vm import VM, Result
from wirt.vm.monitor.connection import MOST_UNSENT
from wirt.vm.monitor.server import MOST_CLIENTS, MonitorServer


class Raw:
    """A client that sends what it likes."""

    def __init__(self, path: str, negotiate: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rb")
        if negotiate:
            assert "QMP" in self.message()
            assert self.ask("qmp_capabilities") == {"return": {}}

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def message(self) -> Any:
        line = self.lines.readline()
        assert line, "the connection has ended"
        return json.loads(line)

    def ask(self, command: str, **arguments: Any) -> Any:
        self.send(json.dumps({"execute": command, "arguments": arguments}).encode())
        return self.message()

    def ended(self) -> bool:
        """Whether nothing more comes."""
        try:
            return self.lines.readline() == b""
        except ConnectionResetError:
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.socket.close()


def error_of(message: Any) -> str:
    return str(message["error"]["class"])


def test_the_beginning(path: str) -> None:
    with Raw(path, negotiate=False) as client:
        greeting = client.message()
        assert greeting["QMP"]["capabilities"] == []
        assert set(greeting["QMP"]["version"]["qemu"]) == {"major", "minor", "micro"}
        assert error_of(client.ask("query-status")) == "CommandNotFound"
        assert error_of(client.ask("qmp_capabilities", enable=["oob"])) == "GenericError"
        assert client.ask("qmp_capabilities", enable=[]) == {"return": {}}
        assert error_of(client.ask("qmp_capabilities")) == "CommandNotFound"
        assert client.ask("query-status") == {"return": {"running": True, "status": "running"}}


def test_ids_come_back_in_order(path: str) -> None:
    with Raw(path) as client:
        ids: list[object] = [1, "two", None, {"three": [True]}, 5]
        client.send(b"".join(json.dumps({"execute": "query-name", "id": each}).encode() for each in ids))
        assert [client.message()["id"] for _ in ids] == ids
        client.send(b'{"execute": "nothing", "id": 6}')
        assert client.message()["id"] == 6


def test_events_come_before_the_answer_and_to_all_who_are_ready(vm: MonitoredVM, path: str) -> None:
    with Raw(path) as one, Raw(path) as other, Raw(path, negotiate=False) as early:
        stopped = one.ask("stop")
        assert (stopped["event"], set(stopped)) == ("STOP", {"event", "timestamp"})
        assert abs(stopped["timestamp"]["seconds"] - time.time()) < 60
        assert one.message() == {"return": {}}
        assert other.message()["event"] == "STOP"
        reset = other.ask("system_reset")
        assert reset["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
        assert other.message() == {"return": {}}
        assert one.message() == reset
        assert "QMP" in early.message()
        assert early.ask("qmp_capabilities") == {"return": {}}
    assert vm.state == "paused"


def test_events_of_the_machine_come_at_once(vm: MonitoredVM, path: str) -> None:
    with Raw(path) as client:
        vm.events.publish("GUEST_PANICKED", action="pause")
        assert client.message()["data"] == {"action": "pause"}


def test_quit_is_answered_and_told(vm: MonitoredVM, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with MonitorServer(cast(VM, vm), [path]) as server, Raw(path) as client:
        assert client.ask("quit")["data"] == {"guest": False, "reason": "host-qmp-quit"}
        assert client.message() == {"return": {}}
        server.close()
        assert client.ended()
    assert vm.state == "ended"
    assert not os.path.exists(path)


def test_the_end_is_told_to_those_who_read_late(vm: MonitoredVM, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with MonitorServer(cast(VM, vm), [path]) as server, Raw(path) as client:
        vm.end(Result("shutdown", 0, ""), "guest-shutdown")
        server.close()
        assert client.message()["data"] == {"guest": True, "reason": "guest-shutdown"}
        assert client.ended()


def test_keys_are_pressed_in_their_time(vm: MonitoredVM, path: str) -> None:
    with Raw(path) as client:
        keys = [{"type": "qcode", "data": "ctrl"}, {"type": "qcode", "data": "c"}]
        assert client.ask("send-key", keys=keys) == {"return": {}}
        assert vm.wait_until_done(4) == [(0x1D, True), (0x2E, True), (0x2E, False), (0x1D, False)]


@pytest.mark.parametrize(
    "trouble",
    [
        b"hello\n",
        b'{"execute": \n}',
        b'{"execute": "x"]',
        b"[" * 1000 + b"\n",
        b"[]",
        b'{"execute": "query-status"',
        b"\xff",
        b'{"execute": "' + b"x" * 100_000 + b'"}\n',
    ],
)
def test_who_sends_nonsense_is_told_and_may_go_on(path: str, trouble: bytes) -> None:
    with Raw(path) as client:
        client.send(trouble)
        # What is unfinished ends here.
        client.send(b"\xff")
        client.send(b'{"execute": "query-name", "id": 7}')
        errors = 0
        while (message := client.message()).get("id") != 7:
            assert error_of(message) == "GenericError"
            errors += 1
        assert 1 <= errors <= 3
        assert message["return"] == {"name": "web"}


def test_half_a_command_is_in_nobodys_way(path: str) -> None:
    with Raw(path) as slow, Raw(path) as other:
        slow.send(b'{"execute": "query-na')
        assert other.ask("query-name") == {"return": {"name": "web"}}
        slow.send(b'me"}')
        assert slow.message() == {"return": {"name": "web"}}


def test_who_sends_all_and_leaves_gets_the_answers(path: str) -> None:
    with Raw(path) as client:
        client.send(b'{"execute": "query-name"}' * 3)
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.message() for _ in range(3)] == [{"return": {"name": "web"}}] * 3
        assert client.ended()


def test_who_leaves_in_the_middle_is_forgotten(path: str) -> None:
    for _ in range(2 * MOST_CLIENTS):
        with Raw(path) as client:
            client.send(b'{"execute": "query-commands"}' * 20)
    deadline = time.monotonic() + 10
    while True:
        # The server may not have seen the end of the last ones yet.
        with Raw(path, negotiate=False) as client:
            if "QMP" in client.message() or time.monotonic() > deadline:
                break
    with Raw(path) as client:
        assert client.ask("query-name") == {"return": {"name": "web"}}


def test_who_does_not_read_is_not_listened_to(path: str) -> None:
    command = b'{"execute": "query-commands"}'
    with Raw(path) as client, Raw(path) as other:
        client.socket.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100 << 20:
                sent += client.socket.send(command * 100)
        assert other.ask("query-name") == {"return": {"name": "web"}}
        client.socket.settimeout(10)
        assert "return" in client.message()


def test_who_does_not_read_events_is_sent_away(vm: MonitoredVM, path: str) -> None:
    with Raw(path) as client, Raw(path) as other:
        size = 10_000
        for _ in range(5 * MOST_UNSENT // size):
            vm.events.publish("WATCHDOG", action="x" * size)
            assert other.message()["event"] == "WATCHDOG"
        assert other.ask("query-name") == {"return": {"name": "web"}}
        seen = 0
        while not client.ended():
            seen += 1
        assert seen < 5 * MOST_UNSENT // size


def test_too_many_clients_are_sent_away(path: str) -> None:
    clients = [Raw(path) for _ in range(MOST_CLIENTS)]
    with Raw(path, negotiate=False) as late:
        assert error_of(late.message()) == "GenericError"
        assert late.ended()
    assert clients[-1].ask("query-name") == {"return": {"name": "web"}}
    for client in clients:
        client.__exit__()


def test_a_mistake_of_ours_is_an_error_of_one_command(
    vm: MonitoredVM, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[object] = []
    monkeypatch.setattr("threading.excepthook", reports.append)
    monkeypatch.setattr(vm, "pause", lambda: 1 // 0)
    with Raw(path) as client:
        assert "Wirt made a mistake (ZeroDivisionError" in client.ask("stop")["error"]["desc"]
        assert client.ask("query-name") == {"return": {"name": "web"}}
    assert len(reports) == 1


def test_the_socket_is_its_owners_and_nobody_elses_is_replaced(vm: MonitoredVM, path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(Error, match=r"cannot listen at unix:.*: somebody listens there already"):
        MonitorServer(cast(VM, vm), [path])
    other = f"{path}.file"
    Path(other).write_text("precious")
    with pytest.raises(Error, match="there is a file already"):
        MonitorServer(cast(VM, vm), [other])
    assert Path(other).read_text() == "precious"
    with pytest.raises(Error, match="at most 107 bytes"):
        MonitorServer(cast(VM, vm), ["/tmp/" + "x" * 110])


def test_a_dead_socket_is_replaced(vm: MonitoredVM, tmp_path: Path) -> None:
    path = str(tmp_path / "dead")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with MonitorServer(cast(VM, vm), [path]), Raw(path) as client:
        assert client.ask("query-name") == {"return": {}}
