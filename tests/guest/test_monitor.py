"""The monitor of machines that run: bare guests that count how often they began."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bare
import wirt
from wirt.vm.events import Event
from wirt.vm.monitor.client import Client
from wirt.vm.monitor.server import MonitorServer

PATIENCE = 20.0
RESET = """
    mov al, 'b'
    mov dx, 0x3f8
    out dx, al
wait:
    mov dx, 0x3fd
    in al, dx
    test al, 1
    jz wait
    mov dx, 0x3f8
    in al, dx
    cmp al, 'r'
    jne wait
    mov dx, 0xcf9
    mov al, 6
    out dx, al
    jmp wait
"""
"""Prints "b" where it begins, and resets the machine when it is sent an "r". For any mode."""


class Watched:
    """A machine whose events wait to be looked at."""

    def __init__(self, accelerator: str, reboot: bool = True) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        kernel = bare.multiboot(RESET)
        self.vm = wirt.VM(kernel=kernel, memory="16M", accel=accelerator, reboot=reboot)
        self.vm.events.subscribe(self.events.put)

    def event(self) -> tuple[str, dict[str, object]]:
        event = self.events.get(timeout=PATIENCE)
        return event.name, dict(event.data)


@pytest.fixture
def watched(accelerator: str) -> Iterator[Watched]:
    watched = Watched(accelerator)
    with watched.vm:
        assert watched.event() == ("RESUME", {})
        watched.vm.console.expect("b", timeout=PATIENCE)
        yield watched


def test_a_guests_reset_is_told_once_the_machine_runs_again(watched: Watched) -> None:
    for _ in range(3):
        watched.vm.console.send("r")
        assert watched.event() == ("RESET", {"guest": True, "reason": "guest-reset"})
        watched.vm.console.expect("b", timeout=PATIENCE)
    watched.vm.kill()
    assert watched.event() == ("SHUTDOWN", {"guest": False, "reason": "host-ui"})


def test_the_reset_button_begins_anew(watched: Watched) -> None:
    vm = watched.vm
    for _ in range(3):
        vm.reset()
        # What comes meanwhile waits for the new machine.
        vm.pause()
        assert vm.state == "paused"
        assert {watched.event()[0], watched.event()[0]} == {"RESET", "STOP"}
        vm.resume()
        assert watched.event() == ("RESUME", {})
        vm.console.expect("b", timeout=PATIENCE)


def test_a_paused_machine_is_paused_at_its_first_instruction(watched: Watched) -> None:
    vm = watched.vm
    vm.pause()
    assert watched.event() == ("STOP", {})
    entry = []
    for _ in range(2):
        vm.reset("host-qmp-system-reset")
        assert vm.state == "paused"
        assert watched.event() == ("RESET", {"guest": False, "reason": "host-qmp-system-reset"})
        assert vm.state == "paused"
        vm.pause()
        entry.append(vm.vcpus[0].registers.rip)
    assert entry[0] == entry[1]
    assert vm.console.read() == b""
    vm.resume()
    assert watched.event() == ("RESUME", {})
    vm.console.expect("b", timeout=PATIENCE)
    assert watched.events.empty()


def test_a_machine_that_is_reset_can_be_switched_off(watched: Watched) -> None:
    watched.vm.reset()
    assert watched.vm.kill().reason == "killed"
    assert watched.vm.state == "ended"
    with pytest.raises(wirt.ClosedError, match="The machine has ended: it cannot be reset"):
        watched.vm.reset()
    vm = wirt.VM(memory="1M")
    with contextlib.closing(vm), pytest.raises(wirt.Error, match="was not started"):
        vm.reset()


def test_a_reset_that_ends_the_machine_is_a_shutdown(accelerator: str) -> None:
    watched = Watched(accelerator, reboot=False)
    with watched.vm as vm:
        vm.console.expect("b", timeout=PATIENCE)
        vm.console.send("r")
        assert watched.event() == ("RESUME", {})
        assert watched.event() == ("SHUTDOWN", {"guest": True, "reason": "guest-reset"})
        assert vm.wait(PATIENCE).reason == "reset"


def test_a_listener_that_fails_is_in_nobodys_way(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[object] = []
    monkeypatch.setattr("threading.excepthook", reports.append)
    listeners: list[Callable[[Event], object]] = [lambda _: 1 // 0, watched.events.put]
    for listener in listeners:
        watched.vm.events.subscribe(listener)
    watched.vm.pause()
    assert [watched.event(), watched.event()] == [("STOP", {})] * 2
    assert len(reports) == 1
    for listener in listeners:
        watched.vm.events.unsubscribe(listener)
    watched.vm.resume()
    watched.vm.kill()
    assert watched.events.qsize() == 0


def test_the_monitor_of_a_machine(accelerator: str, tmp_path: Path) -> None:
    vm = wirt.VM(kernel=bare.multiboot(RESET), memory="16M", accel=accelerator, cpus=2)
    path = str(tmp_path / "monitor.sock")
    with contextlib.closing(vm), MonitorServer(vm, [path]), Client(path) as client:
        assert client.execute("query-status") == {"running": False, "status": "prelaunch"}
        client.execute("cont")
        vm.console.expect("b", timeout=PATIENCE)
        assert client.execute("query-status")["status"] == "running"
        threads = [cpu["thread-id"] for cpu in client.execute("query-cpus-fast")]
        names = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in threads]
        assert names == ["vcpu0\n", "vcpu1\n"]
        client.execute("stop")
        assert vm.state == "paused"
        client.execute("system_reset")
        client.execute("cont")
        vm.console.expect("b", timeout=PATIENCE)
        client.execute("system_powerdown")
        assert client.execute("query-kvm")["enabled"] == (accelerator == "kvm")
        assert client.execute("query-memory-size-summary")["base-memory"] == 16 << 20
        client.execute("quit")
        assert vm.wait(PATIENCE).reason == "killed"
        assert client.execute("query-status") == {"running": False, "status": "shutdown"}
        with pytest.raises(wirt.Error, match="it cannot be reset"):
            client.execute("system_reset")


def test_clients_and_resets_at_once(accelerator: str, tmp_path: Path) -> None:
    """Whatever comes in whatever order: the machine runs in the end, and everybody was answered."""
    vm = wirt.VM(kernel=bare.multiboot(RESET), memory="16M", accel=accelerator)
    path = str(tmp_path / "monitor.sock")
    with vm, MonitorServer(vm, [path]):
        vm.console.expect("b", timeout=PATIENCE)
        deadline = time.monotonic() + 2
        with Client(path) as one, Client(path) as other:
            while time.monotonic() < deadline:
                vm.console.offer(b"r")
                one.execute("system_reset")
                other.execute("stop")
                one.execute("system_powerdown")
                other.execute("cont")
            # Everything has been answered, but the last reset may not be over.
            one.execute("stop")
            vm.console.read()
            other.execute("system_reset")
            one.execute("cont")
        vm.console.expect("b", timeout=PATIENCE)
        assert vm.state == "running"


NMI = """
    mov esp, 0x300000
    mov edi, 0x200000
    mov eax, offset handler
    mov [edi + 2 * 8], ax
    mov [edi + 2 * 8 + 2], cs
    mov word ptr [edi + 2 * 8 + 4], 0x8e00
    shr eax, 16
    mov [edi + 2 * 8 + 6], ax
    push edi
    push 0x07ff0000
    lidt [esp + 2]
    or dword ptr [0xfee000f0], 0x100
    mov dword ptr [0xfee00360], 0x400
    mov dx, 0x3f8
    mov al, 'r'
    out dx, al
spin:
    pause
    jmp spin
handler:
    mov al, 'n'
    out dx, al
    jmp spin
"""
"""Prints "r" when LINT1 is NMI, and "n" for one NMI: an emulating KVM has no IRET in protected mode."""


def test_the_nmi_button_is_an_nmi_where_lint1_is(accelerator: str) -> None:
    with wirt.VM(kernel=bare.multiboot(NMI), memory="16M", accel=accelerator) as vm:
        vm.console.expect("r", timeout=PATIENCE)
        vm.nmi()
        vm.console.expect("n", timeout=PATIENCE)
        vm.nmi()
        assert vm.state == "running"
    with wirt.VM(kernel=bare.multiboot(RESET), memory="16M", accel=accelerator) as vm:
        # LINT1 is masked, or this guest would have a triple fault.
        vm.console.expect("b", timeout=PATIENCE)
        vm.nmi()
        vm.console.send("r")
        vm.console.expect("b", timeout=PATIENCE)


PANIC = """
    mov dx, 0x505
    mov al, {}
    out dx, al
spin:
    jmp spin
"""


@pytest.mark.parametrize(("action", "told"), [("pause", "pause"), ("none", "run"), ("poweroff", "poweroff")])
def test_a_panic_is_told(accelerator: str, action: str, told: str) -> None:
    events: queue.Queue[Event] = queue.Queue()
    vm = bare.real_mode_vm(PANIC.format(1), accelerator, [f"pvpanic,action={action}"])
    vm.events.subscribe(events.put)

    def event() -> tuple[str, dict[str, object]]:
        told = events.get(timeout=PATIENCE)
        return told.name, dict(told.data)

    with vm:
        assert [event(), event()] in (
            [("RESUME", {}), ("GUEST_PANICKED", {"action": told})],
            [("GUEST_PANICKED", {"action": told}), ("RESUME", {})],
        )
        match action:
            case "pause":
                assert event() == ("STOP", {})
                assert vm.state == "paused"
            case "none":
                assert vm.state == "running"
            case "poweroff":
                assert event() == ("SHUTDOWN", {"guest": True, "reason": "guest-panic"})
                assert vm.wait(PATIENCE).reason == "panicked"


def test_a_crash_that_the_guest_deals_with_is_told(accelerator: str) -> None:
    events: queue.Queue[Event] = queue.Queue()
    vm = bare.real_mode_vm(PANIC.format(2), accelerator, ["pvpanic"])
    vm.events.subscribe(lambda event: events.put(event) if event.name != "RESUME" else None)
    with vm:
        assert events.get(timeout=PATIENCE).name == "GUEST_CRASHLOADED"
        assert vm.state == "running"


def test_trays_tell_of_their_movements(tmp_path: Path) -> None:
    image = tmp_path / "disc.iso"
    image.write_bytes(bytes(4096))
    events: queue.Queue[Event] = queue.Queue()
    vm = wirt.VM(memory="2M", firmware="none", cdroms=[None, image])
    vm.events.subscribe(events.put)
    path = str(tmp_path / "monitor.sock")

    def moves() -> list[object]:
        told = [events.get(timeout=PATIENCE) for _ in range(2)]
        assert {(event.name, event.data["id"]) for event in told} == {("DEVICE_TRAY_MOVED", "cdrom1")}
        return [event.data["tray-open"] for event in told]

    with contextlib.closing(vm), MonitorServer(vm, [path]), Client(path) as client:
        client.execute("eject", id="cdrom1")
        assert moves() == [True, False]
        assert vm.cdroms[1].path is None
        client.execute("blockdev-change-medium", id="cdrom1", filename=str(image))
        assert moves() == [True, False]
        client.execute("blockdev-open-tray", id="cdrom1")
        assert client.execute("query-block")[1]["tray_open"] is True
        client.execute("blockdev-close-tray", id="cdrom1")
        assert moves() == [True, False]
        assert client.execute("query-block")[1]["inserted"]["file"] == str(image)
        for wrong in (tmp_path, tmp_path / "none", "/dev/null"):
            with pytest.raises(wirt.Error):
                client.execute("blockdev-change-medium", id="cdrom1", filename=str(wrong))
        # A drive that was told to take something else keeps what it has.
        assert vm.cdroms[1].path == image
    assert events.empty()
