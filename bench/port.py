"""What a port write costs a guest when Rust handles it, and when a Python device does.

A thousand writes in a loop, less the loop around them. It is CPU time of the vCPU's thread, as a loop of some
milliseconds is easily preempted, and the runs go by turns.
"""

from __future__ import annotations

import time
from statistics import median

import wirt
from bench import peers
from bench.report import Section
from wirt import _core

ROUNDS = 1000
CODE = 0x1000
SCRATCH_REGISTER = 0x3FF
PYTHON_PORT = 0x500


class Sink(wirt.Device):
    """Takes whatever is written."""

    ports = range(PYTHON_PORT, PYTHON_PORT + 1)

    def write(self, offset: int, size: int, value: int) -> None:
        pass


class Clock(wirt.Device):
    """Takes the CPU time of its thread, a vCPU's, at each write; the second write ends the machine."""

    ports = range(0x700, 0x701)

    def __init__(self) -> None:
        self.times: list[int] = []

    def write(self, offset: int, size: int, value: int) -> wirt.Action | None:
        self.times.append(time.thread_time_ns())
        return wirt.Action.shutdown() if len(self.times) == 2 else None


def guest(port: int | None) -> bytes:
    """Real mode: write to 0x700, loop ROUNDS times with a write to `port` (None: a nop), write to 0x700."""
    access = b"\x90" if port is None else b"\xee"
    target = (port or 0).to_bytes(2, "little")
    mark = b"\xba" + Clock.ports.start.to_bytes(2, "little") + b"\xee"
    loop = b"\xb9" + ROUNDS.to_bytes(2, "little") + b"\xba" + target + access + b"\xe2" + bytes((0xFD,))
    return mark + loop + mark + b"\xf4"


def seconds(accelerator: str, port: int | None) -> float:
    """The CPU time of the vCPU's thread between the two marks."""
    clock = Clock()
    vm = wirt.VM(memory="1M", accel=accelerator, devices=[Sink(), clock])
    vm.memory.write(CODE, guest(port))
    vm.vcpus[0].set_registers(rip=CODE, cs=wirt.Segment(selector=0, base=0, limit=0xFFFF, access=0x9B))
    with vm:
        vm.wait(60)
    return (clock.times[1] - clock.times[0]) / 1e9


def measure(quick: bool) -> Section:
    """Take the time of port writes under both accelerators."""
    section = Section(
        "port",
        "What a port write costs, in microseconds of CPU time of the vCPU's thread.",
        ("", "Rust device", "Python device"),
        notes=[f"The Rust device is the scratch register of COM1. Here is {_core.probe().verdict} KVM."],
        versions=[f"wirt: {peers.wirt().version}"],
        data={},
    )
    for accelerator in ("kvm", "recompiler"):
        try:
            ports = (None, SCRATCH_REGISTER, PYTHON_PORT)
            turns = [[seconds(accelerator, port) for port in ports] for _ in range(9 if quick else 25)]
            empty, rust, python = (median(column) for column in zip(*turns, strict=True))
        except wirt.Error as error:
            section.notes.append(f"{accelerator}: {error}")
            continue
        costs = [(time - empty) / ROUNDS * 1e6 for time in (rust, python)]
        section.rows.append((accelerator, *(f"{cost:.2f}" for cost in costs)))
        section.data[accelerator] = dict(zip(("rust_us", "python_us"), costs, strict=True))
    return section
