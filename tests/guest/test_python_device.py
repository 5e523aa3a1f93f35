"""Devices written in Python, programmed by bare guests."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

import bare
import wirt


class Scratch(wirt.Device):
    """Four bytes that hold what is written."""

    ports = range(0x500, 0x504)

    def __init__(self) -> None:
        self.values = bytearray(4)
        self.calls: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.calls.append(("read", offset, size))
        return int.from_bytes(self.values[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.calls.append(("write", offset, size))
        self.values[offset : offset + size] = value.to_bytes(size, "little")


END = """
    mov dx, 0xf4
    out dx, al
"""


def test_port_device_is_read_and_written(accelerator: str) -> None:
    device = Scratch()
    source = """
        mov dx, 0x500
        mov eax, 0x44332211
        out dx, eax
        mov dx, 0x502
        in ax, dx
        mov [0x900], ax
        mov dx, 0x501
        in al, dx
    """
    with bare.real_mode_vm(source + END, accelerator, [device]) as vm:
        assert vm.wait(10).exit_status == (0x22 << 1) | 1
        assert vm.memory.read(0x900, 2) == b"\x33\x44"
    assert device.values == b"\x11\x22\x33\x44"
    assert device.calls == [("write", 0, 4), ("read", 2, 2), ("read", 1, 1)]


def test_wide_access_reaches_a_byte_device_in_pieces(accelerator: str) -> None:
    class Bytes(Scratch):
        sizes = (1, 1)

    device = Bytes()
    source = """
        mov dx, 0x500
        mov eax, 0x44332211
        out dx, eax
    """
    with bare.real_mode_vm(source + END, accelerator, [device]) as vm:
        vm.wait(10)
    assert device.calls == [("write", offset, 1) for offset in range(4)]
    assert device.values == b"\x11\x22\x33\x44"


def test_mmio_device(accelerator: str) -> None:
    class Window(Scratch):
        ports = None
        mmio = range(0xA_0000, 0xA_0004)

    device = Window()
    source = """
        mov ax, 0xa000
        mov ds, ax
        mov word ptr [2], 0xbeef
        mov al, [3]
    """
    with bare.real_mode_vm(source + END, accelerator, [device]) as vm:
        assert vm.wait(10).exit_status == ((0xBE << 1) | 1) & 0xFF
    assert device.values == b"\x00\x00\xef\xbe"


def test_exception_reads_all_ones_and_is_reported_once(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(wirt.Device):
        ports = range(0x500, 0x501)

        def read(self, offset: int, size: int) -> int:
            raise RuntimeError("no value today")

        def write(self, offset: int, size: int, value: int) -> None:
            raise RuntimeError("no write either")

    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    source = """
        mov dx, 0x500
        xor al, al
        out dx, al
        in al, dx
        in al, dx
        mov [0x900], al
    """
    with bare.real_mode_vm(source + END, accelerator, [Broken()]) as vm:
        vm.wait(10)
        assert vm.memory.read(0x900, 1) == b"\xff"
    assert [str(report.exc_value) for report in reports] == ["no write either"]


def test_an_exception_in_reset_is_reported_and_the_machine_starts_again(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(wirt.Device):
        ports = range(0x500, 0x501)
        starts = 0

        def write(self, offset: int, size: int, value: int) -> wirt.Action:
            self.starts += 1
            return wirt.Action.reset() if self.starts == 1 else wirt.Action.shutdown()

        def reset(self) -> None:
            raise RuntimeError("stuck")

    reports: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reports.append)
    kernel = bare.multiboot("mov dx, 0x500; out dx, al; again: jmp again")
    with wirt.VM(kernel=kernel, memory="4M", accel=accelerator, devices=[Broken()]) as vm:
        assert vm.wait(20).reason == "shutdown"
    assert [str(report.exc_value) for report in reports] == ["stuck"]


@pytest.mark.parametrize(
    ("action", "reason", "status"),
    [
        (wirt.Action.shutdown(), "shutdown", 0),
        (wirt.Action.reset(), "reset", 0),
        (wirt.Action.exit(42), "exit", 42),
    ],
)
def test_actions_end_the_machine(accelerator: str, action: wirt.Action, reason: str, status: int) -> None:
    class Switch(wirt.Device):
        ports = range(0x500, 0x501)

        def write(self, offset: int, size: int, value: int) -> wirt.Action:
            return action

    with bare.real_mode_vm("mov dx, 0x500\n out dx, al\n spin: jmp spin", accelerator, [Switch()]) as vm:
        result = vm.wait(10)
    assert (result.reason, result.exit_status) == (reason, status)


def test_device_runs_on_the_vcpus_thread(accelerator: str) -> None:
    class Look(wirt.Device):
        ports = range(0x500, 0x501)
        native_id = 0

        def write(self, offset: int, size: int, value: int) -> None:
            self.native_id = threading.get_native_id()

    device = Look()
    with bare.real_mode_vm("mov dx, 0x500\n out dx, al\n spin: jmp spin", accelerator, [device]) as vm:
        while not device.native_id:
            pass
        with open(f"/proc/self/task/{device.native_id}/comm") as comm:
            assert comm.read() == "vcpu0\n"
        vm.kill()


def test_device_cannot_wait_for_its_own_vcpu(accelerator: str) -> None:
    class Pauser(wirt.Device):
        ports = range(0x500, 0x501)
        errors: list[str]

        def write(self, offset: int, size: int, value: int) -> wirt.Action:
            self.errors = []
            for attempt in (vm.pause, lambda: vm.vcpus[0].registers):
                try:
                    attempt()
                except wirt.Error as error:
                    self.errors.append(str(error))
            return wirt.Action.shutdown()

    device = Pauser()
    vm = bare.real_mode_vm("mov dx, 0x500\n out dx, al\n spin: jmp spin", accelerator, [device])
    with vm:
        assert vm.wait(10).reason == "shutdown"
    assert len(device.errors) == 2
    assert all("while its vCPU waits" in error for error in device.errors)


@pytest.mark.parametrize(
    ("ports", "says"),
    [
        (None, "neither ports nor mmio"),
        (range(5, 5), "not empty"),
        (range(0xFFFF, 0x10001), "65535"),
        ((0x500, 0x502), "use a range"),
    ],
)
def test_senseless_declarations_are_refused(ports: range | None, says: str) -> None:
    device = wirt.Device()
    device.ports = ports  # type: ignore[misc]
    with pytest.raises(wirt.UsageError, match=says):
        wirt.VM(memory="2M", devices=[device])


@pytest.mark.parametrize("irq", [24, -1, "5"])
def test_an_interrupt_line_that_is_none_is_refused(irq: Any) -> None:
    class Caller(wirt.Device):
        ports = range(0x500, 0x501)

    Caller.irq = irq
    with pytest.raises(wirt.UsageError, match=r"declares irq .*: there are lines 0 to 23\.$"):
        wirt.VM(memory="2M", devices=[Caller()])


def test_overlap_names_both_devices(accelerator: str) -> None:
    class Rival(wirt.Device):
        ports = range(0x3F0, 0x400)

    with pytest.raises(wirt.Error, match=r"Rival overlap .* COM1"):
        wirt.VM(memory="2M", accel=accelerator, devices=[Rival()])


def test_addresses_in_ram_are_refused() -> None:
    class Shadowed(wirt.Device):
        mmio = range(0x1F_F000, 0x20_1000)

    with pytest.raises(wirt.UsageError, match=r"Shadowed .* 0x1ff000 to 0x200fff, .* RAM"):
        wirt.VM(memory="2M", devices=[Shadowed()])
