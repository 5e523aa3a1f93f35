"""isa-debug-exit: a guest ends its machine with a status."""

from __future__ import annotations

from wirt.devices.device import Action, Device


class IsaDebugExit(Device):
    """A write of `value` ends the machine with status `value << 1 | 1`, modulo 256. QEMU's device of this
    name.
    """

    ports = range(0xF4, 0xF8)

    @property
    def name(self) -> str:
        return "isa-debug-exit"

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> Action:
        return Action.exit((value << 1 | 1) & 0xFF)
