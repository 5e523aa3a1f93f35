"""A device model as a small Python class."""

from __future__ import annotations

from typing import ClassVar, Final, Protocol

from wirt._core import Action
from wirt.errors import UsageError

__all__ = ["Action", "Device", "Interrupt"]

_LINES: Final = 24
"""Interrupt lines (GSIs) of the I/O APIC."""


class Interrupt(Protocol):
    """A device's connection to its interrupt line."""

    def set(self, high: bool) -> None:
        """Drive the line high, or let it go. The line is high while any device drives it."""

    def pulse(self) -> None:
        """Give one edge."""


class Device:
    """A device that answers a range of I/O ports or of guest-physical addresses.

    A subclass declares `ports` or `mmio`, and overrides `read` and `write`:

        class Scratch(wirt.Device):
            ports = range(0x500, 0x504)

            def __init__(self) -> None:
                self.values = bytearray(4)

            def read(self, offset: int, size: int) -> int:
                return int.from_bytes(self.values[offset : offset + size], "little")

            def write(self, offset: int, size: int, value: int) -> None:
                self.values[offset : offset + size] = value.to_bytes(size, "little")

        with wirt.VM("tiny", devices=[Scratch()]) as vm: ...

    The bus calls only with sizes and offsets that were declared: an access is naturally aligned, wider ones
    are cut into pieces, narrower ones read all ones and write nothing. Calls come on the vCPUs' threads, one
    at a time under the interpreter's lock unless a method lets go of it (a device with 2 vCPUs that waits
    inside a method locks for itself), and the vCPU waits for the answer. An exception is reported once
    through `sys.unraisablehook`; the access then reads all ones.
    """

    ports: ClassVar[range | None] = None
    """The I/O ports, in 0..65535."""
    mmio: ClassVar[range | None] = None
    """The guest-physical addresses, where there is no RAM."""
    sizes: ClassVar[tuple[int, int]] = (1, 4)
    """Bytes in the narrowest and in the widest access it takes: powers of two up to 8."""
    irq: ClassVar[int | None] = None
    """The interrupt line (GSI 0..23), if it has one: `interrupt` is connected to it."""

    interrupt: Interrupt
    """Set before the machine starts, if `irq` is declared."""

    @property
    def name(self) -> str:
        """The name in messages."""
        return type(self).__name__

    def read(self, offset: int, size: int) -> int:
        """Return the `size` bytes at `offset` of the range, as a little-endian number."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> Action | None:
        """Take `size` bytes at `offset` of the range. An Action ends or resets the machine."""
        return None

    def reset(self) -> None:
        """Go into the state after power-on: the machine was reset and starts again.

        An exception here is reported through `threading.excepthook`, and the machine starts nevertheless.
        """


def check_ranges(device: Device) -> None:
    """Refuse a device whose declarations make no sense, by UsageError."""
    name = device.name
    declared = [bounds for bounds in (device.ports, device.mmio) if bounds is not None]
    if not declared:
        raise UsageError(f"Device {name} declares neither ports nor mmio: give it a range of one of them.")
    for bounds in declared:
        if not isinstance(bounds, range):
            raise UsageError(
                f"Device {name} declares {bounds!r}: use a range, for instance range(0x500, 0x502)."
            )
        if bounds.step != 1 or not bounds:
            raise UsageError(f"Device {name} declares {bounds}: use a range of step 1 that is not empty.")
    if device.irq is not None and device.irq not in range(_LINES):
        raise UsageError(f"Device {name} declares irq {device.irq!r}: there are lines 0 to {_LINES - 1}.")
    if device.ports is not None and not 0 <= device.ports[0] <= device.ports[-1] <= 0xFFFF:
        raise UsageError(f"Device {name} declares ports {device.ports}: there are ports 0 to 65535.")
    if device.mmio is not None and not 0 <= device.mmio[0] <= device.mmio[-1] < 1 << 52:
        raise UsageError(f"Device {name} declares addresses {device.mmio}: they have at most 52 bits.")
