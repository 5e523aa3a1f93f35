"""What the monitor's commands do to a machine, and what they refuse."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from monitored_vm import MonitoredVM, Spec
from wirt.vm import VM, Disk, Result
from wirt.vm.events import Event
from wirt.vm.monitor.messages import QmpError, Request, read_request
from wirt.vm.monitor.monitor import Monitor


class Clock:
    """Does what shall be done later when it is told to, in order."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.waiting.append((seconds, what))

    def run(self) -> list[float]:
        """Do everything; return the times that were waited for."""
        waited = []
        while self.waiting:
            seconds, what = self.waiting.pop(0)
            waited.append(seconds)
            what()
        return waited


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(vm: MonitoredVM, clock: Clock) -> Monitor:
    return Monitor(cast(VM, vm), "web", clock.later)


def do(monitor: Monitor, command: str, **arguments: Any) -> Any:
    return monitor.execute(
        Request(command, {name.replace("_", "-"): value for name, value in arguments.items()})
    )


@pytest.mark.parametrize(
    ("state", "result", "status"),
    [
        ("created", None, {"running": False, "status": "prelaunch"}),
        ("running", None, {"running": True, "status": "running"}),
        ("paused", None, {"running": False, "status": "paused"}),
        ("ended", Result("shutdown", 0, ""), {"running": False, "status": "shutdown"}),
        ("ended", Result("internal-error", 1, ""), {"running": False, "status": "internal-error"}),
    ],
)
def test_the_status(
    vm: MonitoredVM, monitor: Monitor, state: str, result: Result | None, status: dict[str, object]
) -> None:
    vm.state, vm.result = state, result
    assert do(monitor, "query-status") == status


@pytest.mark.parametrize(
    ("name", "status"),
    [("GUEST_PANICKED", "guest-panicked"), ("WATCHDOG", "watchdog"), ("BLOCK_IO_ERROR", "io-error")],
)
def test_the_status_says_why_it_is_paused(vm: MonitoredVM, monitor: Monitor, name: Any, status: str) -> None:
    vm.state = "paused"
    monitor.note(Event(name, {"action": "pause"}, 0))
    assert do(monitor, "query-status")["status"] == status
    for event in (Event("RESUME", {}, 0), Event("WATCHDOG", {"action": "reset"}, 0)):
        monitor.note(event)
        assert do(monitor, "query-status")["status"] == "paused"


def test_cont_starts_a_machine_that_was_made(vm: MonitoredVM, monitor: Monitor) -> None:
    vm.state = "created"
    do(monitor, "cont")
    assert (vm.state, vm.done) == ("running", [("start",)])


def test_the_balloon(vm: MonitoredVM, monitor: Monitor) -> None:
    do(monitor, "balloon", value=256 << 20)
    assert do(monitor, "query-balloon") == {"actual": 256 << 20}
    with pytest.raises(QmpError, match="cannot make do"):
        do(monitor, "balloon", value=1 << 40)
    vm.balloon.present = False
    for words in ({"command": "query-balloon"}, {"command": "balloon", "value": 1}):
        with pytest.raises(QmpError, match="no balloon"):
            do(monitor, **words)


def test_what_the_machine_is(monitor: Monitor) -> None:
    assert do(monitor, "query-name") == {"name": "web"}
    assert do(monitor, "query-uuid") == {"UUID": "00010203-0405-0607-0809-0a0b0c0d0e0f"}
    assert do(monitor, "query-memory-size-summary") == {"base-memory": 512 << 20, "plugged-memory": 0}
    assert do(monitor, "query-kvm")["enabled"] is False
    assert do(monitor, "query-target") == {"arch": "x86_64"}
    assert do(monitor, "query-version")["qemu"].keys() == {"major", "minor", "micro"}
    names = [entry["name"] for entry in do(monitor, "query-commands")]
    assert {"query-status", "send-key", "quit"} <= set(names)
    assert "human-monitor-command" not in names


def test_vcpus_have_the_numbers_of_their_threads(monitor: Monitor) -> None:
    found = threading.Event()

    def live() -> None:
        with open("/proc/thread-self/comm", "w") as comm:
            comm.write("vcpu1")
        numbers.append(threading.get_native_id())
        named.set()
        found.wait(10)

    numbers: list[int] = []
    named = threading.Event()
    thread = threading.Thread(target=live)
    thread.start()
    assert named.wait(10)
    cpus = do(monitor, "query-cpus-fast")
    found.set()
    thread.join()
    assert [(cpu["cpu-index"], cpu["thread-id"]) for cpu in cpus] == [(0, 0), (1, numbers[0])]


def test_keys_are_held_together_and_let_go(vm: MonitoredVM, monitor: Monitor, clock: Clock) -> None:
    keys = [
        {"type": "qcode", "data": "ctrl"},
        {"type": "qcode", "data": "alt"},
        {"type": "number", "data": 0xD3},
    ]
    do(monitor, "send-key", keys=keys, hold_time=500)
    assert vm.done == [(0x1D, True)]
    # Others wait for their turn.
    do(monitor, "send-key", keys=[{"type": "qcode", "data": "ret"}])
    waited = clock.run()
    assert vm.done == [
        (0x1D, True),
        (0x38, True),
        (0xD3, True),
        (0xD3, False),
        (0x38, False),
        (0x1D, False),
        (0x1C, True),
        (0x1C, False),
    ]
    assert waited[2] == 0.5
    assert waited[6] == 0.1
    do(monitor, "send-key", keys=[])
    assert clock.run() == []


def test_the_end_lets_go_of_keys(vm: MonitoredVM, monitor: Monitor) -> None:
    do(monitor, "send-key", keys=[{"type": "qcode", "data": "a"}])
    monitor.close()
    assert vm.done == [(0x1E, True), (0x1E, False)]


def test_too_many_keys_are_refused(monitor: Monitor) -> None:
    keys = [{"type": "qcode", "data": "a"}] * 32
    with pytest.raises(QmpError, match="Too many keys wait"):
        for _ in range(1000):
            do(monitor, "send-key", keys=keys)


def test_events_of_input(vm: MonitoredVM, monitor: Monitor) -> None:
    events = [
        {"type": "key", "data": {"down": True, "key": {"type": "qcode", "data": "shift"}}},
        {"type": "rel", "data": {"axis": "x", "value": -3}},
        {"type": "rel", "data": {"axis": "y", "value": 4}},
        {"type": "btn", "data": {"button": "right", "down": True}},
        {"type": "abs", "data": {"axis": "x", "value": 0x7FFF}},
        {"type": "abs", "data": {"axis": "y", "value": 0}},
        {"type": "btn", "data": {"button": "right", "down": False}},
    ]
    do(monitor, "input-send-event", events=events)
    # The screen has 2 by 1 pixels.
    assert vm.done == [
        (0x2A, True),
        ("by", -3, 4),
        ("to", 1, 0, 2, 1, 4),
        ("to", 1, 0, 2, 1, 4),
        ("to", 1, 0, 2, 1, 0),
    ]


def test_nothing_is_done_of_events_with_a_wrong_one(vm: MonitoredVM, monitor: Monitor) -> None:
    good = {"type": "key", "data": {"down": True, "key": {"type": "qcode", "data": "shift"}}}
    bad = {"type": "key", "data": {"down": True, "key": {"type": "qcode", "data": "any"}}}
    with pytest.raises(QmpError, match="There is no key 'any'"):
        do(monitor, "input-send-event", events=[good, bad])
    assert vm.done == []


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ({"format": "png"}, b"\x89PNG a picture"),
        ({"format": "ppm"}, b"P6\n2 1\n255\n\xff\0\0\x02\x01\xfe"),
        ({}, b"P6\n2 1\n255\n\xff\0\0\x02\x01\xfe"),
    ],
)
def test_pictures(monitor: Monitor, tmp_path: Path, format: dict[str, str], content: bytes) -> None:
    file = tmp_path / "picture"
    file.write_bytes(b"something that is much longer than the picture")
    do(monitor, "screendump", filename=str(file), **format)
    assert file.read_bytes() == content


def test_disks_and_drives_are_listed(vm: MonitoredVM, monitor: Monitor, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 1 << 20)
    vm.spec = Spec(disks=(Disk(image), Disk(image, readonly=True)))
    one, other, empty, full = do(monitor, "query-block")
    assert [each["device"] for each in (one, other, empty, full)] == ["disk0", "disk1", "cdrom0", "cdrom1"]
    assert (one["inserted"]["file"], one["inserted"]["ro"], one["removable"]) == (str(image), False, False)
    assert one["inserted"]["image"]["virtual-size"] == 1 << 20
    assert one["inserted"]["image"]["actual-size"] < 1 << 20
    assert other["inserted"]["ro"] is True
    assert (empty["removable"], empty["locked"], empty["tray_open"]) == (True, True, False)
    assert "inserted" not in empty
    # Its file was removed.
    assert full["inserted"]["image"]["virtual-size"] == 0


def test_discs_are_exchanged_as_the_guest_allows(vm: MonitoredVM, monitor: Monitor) -> None:
    drive = vm.cdroms[1]
    for command, arguments in (("eject", {}), ("blockdev-change-medium", {"filename": "/other.iso"})):
        with pytest.raises(QmpError, match="The guest has locked it"):
            do(monitor, command, id="cdrom1", **arguments)
    assert drive.path == Path("/none/disc.iso")
    change = {"filename": "/other.iso", "format": "raw", "read_only_mode": "read-only", "force": True}
    do(monitor, "blockdev-change-medium", device="cdrom1", **change)
    assert drive.path == Path("/other.iso")
    do(monitor, "eject", device="cdrom1", force=True)
    assert drive.path is None
    do(monitor, "blockdev-open-tray", id="cdrom1")
    do(monitor, "blockdev-open-tray", id="cdrom1", force=True)
    do(monitor, "blockdev-close-tray", id="cdrom1")
    assert vm.done == [("tray", False), ("tray", True), ("tray closed",)]


def test_the_nmi_button(vm: MonitoredVM, monitor: Monitor) -> None:
    do(monitor, "inject-nmi")
    assert vm.done == [("nmi",)]


def test_pictures_go_to_files_only(monitor: Monitor, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in (tmp_path / "fifo", tmp_path, tmp_path / "none" / "picture", Path("/dev/null")):
        with pytest.raises(QmpError):
            do(monitor, "screendump", filename=str(name))


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("nothing", {}, "There is no command 'nothing'."),
        ("human-monitor-command", {"command-line": "info"}, "There is no human monitor: use QMP's commands"),
        ("stop", {"now": True}, "There is no parameter 'now'."),
        ("screendump", {}, "The parameter 'filename' is missing."),
        ("screendump", {"filename": 1}, "The parameter 'filename' has to be a string"),
        ("screendump", {"filename": "a\0b"}, "The parameter 'filename' has to be a string"),
        ("screendump", {"filename": "\ud800"}, "The parameter 'filename' has to be a string"),
        ("screendump", {"filename": "x", "format": "jpg"}, "'format' has to be one of png, ppm."),
        ("screendump", {"filename": "x", "format": None}, "'format' has to be one of png, ppm."),
        ("screendump", {"filename": "x", "head": 1}, "The machine has one screen"),
        ("send-key", {"keys": {}}, "'keys' has to be an array of at most 32 elements."),
        ("send-key", {"keys": [{}] * 33}, "'keys' has to be an array of at most 32 elements."),
        ("send-key", {"keys": ["a"]}, r"'keys\[0\]' has to be an object with 'type' and 'data'."),
        ("send-key", {"keys": [{"type": "qcode"}]}, r"'keys\[0\]' has to be an object with"),
        ("send-key", {"keys": [{"type": [], "data": 1}]}, r"'keys\[0\].type' has to be one of"),
        ("send-key", {"keys": [{"type": "qcode", "data": "any"}]}, "There is no key 'any'."),
        ("send-key", {"keys": [{"type": "qcode", "data": []}]}, r"'keys\[0\].data' has to be a string"),
        ("send-key", {"keys": [{"type": "number", "data": 256}]}, "a whole number from 1 to 255"),
        ("send-key", {"keys": [{"type": "number", "data": True}]}, "a whole number from 1 to 255"),
        ("send-key", {"keys": [{"type": "number", "data": 1.5}]}, "a whole number from 1 to 255"),
        ("send-key", {"keys": [], "hold-time": 0}, "'hold-time' has to be a whole number"),
        ("eject", {}, "Say which drive is meant"),
        ("eject", {"id": "cdrom0", "device": "cdrom0"}, "Say which drive is meant"),
        ("eject", {"id": "disk0"}, "There is no drive 'disk0'; there are: cdrom0, cdrom1."),
        ("eject", {"id": "cdrom0", "force": 1}, "'force' has to be true or false."),
        ("blockdev-change-medium", {"id": "cdrom0"}, "The parameter 'filename' is missing."),
        (
            "blockdev-change-medium",
            {"id": "cdrom0", "filename": "/x", "format": "qcow2"},
            "'format' has to be one of raw.",
        ),
        ("input-send-event", {"events": [{"type": "mtt", "data": {}}]}, "has to be one of key, btn"),
        (
            "input-send-event",
            {"events": [{"type": "rel", "data": {"axis": "z", "value": 1}}]},
            r"'axis' has to be one of x, y.",
        ),
        (
            "input-send-event",
            {"events": [{"type": "btn", "data": {"button": "left", "down": 1}}]},
            "'down' has to be true or false.",
        ),
    ],
)
def test_wrong_commands_are_refused_in_a_sentence(
    vm: MonitoredVM, monitor: Monitor, command: str, arguments: dict[str, object], sentence: str
) -> None:
    with pytest.raises(QmpError, match=sentence) as error:
        monitor.execute(Request(command, arguments))
    known = command not in ("nothing", "human-monitor-command")
    assert error.value.kind in (("GenericError", "DeviceNotFound") if known else ("CommandNotFound",))
    assert vm.done == []


def test_what_the_machine_refuses_is_told(vm: MonitoredVM, monitor: Monitor) -> None:
    vm.state = "ended"
    with pytest.raises(QmpError, match=r"Cannot pause a machine that is ended\."):
        do(monitor, "stop")


@pytest.mark.parametrize(
    "text",
    [
        b'{"execute": "x", "execute": "y"}',
        b'{"execute": NaN}',
        b'{"execute": "x", "id": 1e999}',
        b'{"execute": "x", "id": 123456789012345678901}',
        b'{"execute": "\xff"}',
        b'{"execute": "\xed\xa0\x80"}',
        b"{]",
        b"[]",
        b"{}",
        b'{"execute": 1}',
        b'{"execute": "x", "arguments": []}',
        b'{"execute": "x", "more": 1}',
        b'{"exec-oob": "x"}',
    ],
)
def test_what_is_no_command(text: bytes) -> None:
    with pytest.raises(QmpError) as error:
        read_request(text)
    assert error.value.kind == "GenericError"


def test_errors_carry_the_id_of_their_command() -> None:
    with pytest.raises(QmpError) as error:
        read_request(b'{"id": null, "execute": 1}')
    assert error.value.echo == {"id": None}
    assert read_request(b'{"execute": "x"}').echo == {}
    assert read_request(b'{"execute": "x", "id": {"a": [1]}}').echo == {"id": {"a": [1]}}
