"""The memory behind a machine: RAM, and behind it firmware and the screen's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from wirt import _core
from wirt.errors import NotFoundError, UsageError
from wirt.machine import rom
from wirt.machine.memory_map import HIGH_MEMORY_BASE, HIGH_RAM_BASE, MIB, PAGE_SIZE, MemoryMap

VRAM_SIZE: Final = 16 * MIB
"""The screen's memory: 1920 by 1200 pixels of 32 bits, and a second screen to draw on."""
_VRAM_ALIGNMENT: Final = 2 * MIB


class Flash(NamedTuple):
    """A flash chip in the machine; `offset` is where its contents lie in the backing memory."""

    name: str
    address: int
    size: int
    offset: int


class Backing(NamedTuple):
    """The memory, and where in it what else there is lies."""

    memory: _core.GuestMemory
    low_firmware: int | None
    """The 128 KiB that answer below 1 MiB."""
    variables: Flash | None
    code: Flash | None
    vram: int | None


def make(layout: MemoryMap, firmware: rom.Firmware | None, *, variables: int = 0, vga: bool) -> Backing:
    """Make the memory. With flash, `variables` is the size of its file of variables, in bytes.

    Raises NotFoundError or UsageError for firmware that is none, CoreError when the host has no memory.
    """
    regions = []
    for ram in layout.ram:
        # What the host bridge may show otherwise is a region of its own.
        low = max(0, HIGH_MEMORY_BASE - ram.address) if ram.range.end > HIGH_MEMORY_BASE else 0
        if low:
            regions.append((ram.address, low, ram.offset, False))
        regions.append((ram.address + low, ram.size - low, ram.offset + low, False))
    end = layout.ram_size
    image, store, code = None, None, None
    if firmware is not None and firmware.variables is None:
        image = rom.read(firmware.code)
        regions.append((HIGH_RAM_BASE - len(image.data), len(image.data), end, True))
        end += len(image.data)
    elif firmware is not None:
        store, code = _flash(firmware, variables, end)
        end = code.offset + code.size
    low_firmware = end - rom.LOW_SIZE if firmware is not None else None
    vram = None
    if vga:
        vram = -(-end // _VRAM_ALIGNMENT) * _VRAM_ALIGNMENT
        end = vram + VRAM_SIZE
    memory = _core.GuestMemory(regions, end)
    if image is not None:
        memory.write_backing(layout.ram_size, image.data)
    return Backing(memory, low_firmware, store, code, vram)


def _flash(firmware: rom.Firmware, variables: int, offset: int) -> tuple[Flash, Flash]:
    """The two chips: the variables, and behind them the code up to 4 GiB."""
    size = file_size(firmware.code)
    total = variables + size
    if size % PAGE_SIZE or variables % PAGE_SIZE or size < rom.LOW_SIZE or total > rom.MAX_SIZE:
        raise UsageError(
            f"The firmware {firmware.code} and its variables have {size} and {variables} bytes: together "
            "they have at "
            "most 4 MiB, in steps of 4 KiB."
        )
    base = HIGH_RAM_BASE - total
    return (
        Flash("variables", base, variables, offset),
        Flash("firmware", base + variables, size, offset + variables),
    )


def file_size(path: Path) -> int:
    """Bytes in a file of firmware. Raises NotFoundError."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise NotFoundError(f"The firmware {path} cannot be looked at: {error.strerror}.") from None
