"""What a port write costs a guest when Rust handles it, and when a Python device does.

    .venv/bin/python bench/port_exit.py [kvm|recompiler ...]

Prints the microseconds for each write, median of 5 runs of 1,000 writes, less the loop around them. The Rust
device is the scratch register of COM1.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

import wirt
from wirt import _core

ROUNDS = 1000
RUNS = 5
CODE = 0x1000
SCRATCH_REGISTER = 0x3FF
PYTHON_PORT = 0x500


class Sink(wirt.Device):
    """Takes whatever is written."""

    ports = range(PYTHON_PORT, PYTHON_PORT + 1)

    def write(self, offset: int, size: int, value: int) -> None:
        pass


class Clock(wirt.Device):
    """Takes the time at each write; the second write ends the machine."""

    ports = range(0x510, 0x511)

    def __init__(self) -> None:
        self.times: list[int] = []

    def write(self, offset: int, size: int, value: int) -> wirt.Action | None:
        self.times.append(time.perf_counter_ns())
        return wirt.Action.shutdown() if len(self.times) == 2 else None


def guest(port: int | None) -> bytes:
    """Real mode: write to 0x510, loop ROUNDS times with a write to `port` (None: a nop), write to 0x510."""
    access = b"\x90" if port is None else b"\xee"
    target = (port or 0).to_bytes(2, "little")
    mark = b"\xba\x10\x05\xee"
    loop = b"\xb9" + ROUNDS.to_bytes(2, "little") + b"\xba" + target + access + b"\xe2" + bytes((0xFD,))
    return mark + loop + mark + b"\xf4"


def seconds(accelerator: str, port: int | None) -> float:
    """The time between the two marks."""
    clock = Clock()
    vm = wirt.VM(memory="1M", accel=accelerator, devices=[Sink(), clock])
    vm.memory.write(CODE, guest(port))
    vm.vcpus[0].set_registers(rip=CODE, cs=wirt.Segment(selector=0, base=0, limit=0xFFFF, access=0x9B))
    with vm:
        vm.wait(60)
    return (clock.times[1] - clock.times[0]) / 1e9


def measure(accelerator: str) -> None:
    """Print one line."""
    empty, rust, python = (
        statistics.median(seconds(accelerator, port) for _ in range(RUNS))
        for port in (None, SCRATCH_REGISTER, PYTHON_PORT)
    )
    print(
        f"{accelerator:10}  Rust device {(rust - empty) / ROUNDS * 1e6:6.2f} us"
        f"  Python device {(python - empty) / ROUNDS * 1e6:6.2f} us"
        f"  (a port write, {_core.probe().verdict} KVM)"
    )


def main(accelerators: Sequence[str]) -> None:
    for accelerator in accelerators or ("kvm", "recompiler"):
        try:
            measure(accelerator)
        except wirt.Error as error:
            print(f"{accelerator:10}  {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
