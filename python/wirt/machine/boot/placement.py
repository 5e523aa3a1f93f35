"""Placement: which parts of guest RAM the loader has given away, and the only way it writes to RAM.

Each piece claims its range first. A claim lies wholly inside one usable range of the memory map and overlaps
no other claim, so a hostile image can neither write outside RAM nor over another piece.
"""

from __future__ import annotations

from typing import Final

from wirt.machine.boot.image import BootError, BootUsageError, Image
from wirt.machine.memory_map import (
    BDA_BASE,
    BIOS_BASE,
    EBDA_BASE,
    HIGH_MEMORY_BASE,
    HIGH_RAM_BASE,
    KIB,
    LOW_RAM_LIMIT,
    MIB,
    PAGE_SIZE,
    GuestMemory,
    MemoryMap,
    Range,
)

BOOT_DATA_END: Final = 0x9_0000
"""Boot data stays below: Linux borrows pages close under the EBDA while it is still on our page tables."""
LINUX_WORKING_SIZE: Final = 16 * MIB
"""What Linux needs, beside itself and its initrd, to get to a shell; Debian's cloud kernel: 8 MiB."""
_ZEROS: Final = bytes(MIB)
_BIOS: Final = (Range(0, BDA_BASE), Range(BIOS_BASE, HIGH_MEMORY_BASE))


def format_size(size: int) -> str:
    """A size for a message: whole MiB rounded up, or KiB below one MiB."""
    return f"{-(-size // MIB)} MiB" if size >= MIB else f"{-(-size // KIB)} KiB"


class Placement:
    """Claims and fills ranges of guest RAM. Raises BootUsageError for what does not fit into this machine,
    and BootError for what fits into none.

    `to_come` is set by who knows it: the bytes needed beside what is claimed and the piece at hand, for later
    pieces and to run in. Advice on the machine's memory includes them.
    """

    def __init__(self, memory: GuestMemory, layout: MemoryMap) -> None:
        self._memory = memory
        self.layout = layout
        self.to_come = 0
        # Interrupt vectors, BIOS data area, and the page a null pointer hits.
        self._claims = [Range(0, PAGE_SIZE)]

    def write_bios_data_area(self) -> None:
        """Tell the guest where base memory ends, as firmware does."""
        self._memory.write(BDA_BASE + 0x0E, (EBDA_BASE >> 4).to_bytes(2, "little"))
        self._memory.write(BDA_BASE + 0x13, (EBDA_BASE // KIB).to_bytes(2, "little"))

    def write_bios(self, gpa: int, data: bytes) -> None:
        """Store `data` in the interrupt vectors or the BIOS area, neither of which is given to anybody."""
        if not any(area.contains(gpa, len(data)) for area in _BIOS):
            raise AssertionError(f"{len(data)} bytes at {gpa:#x} are not the BIOS's")
        self._memory.write(gpa, data)

    def claim(self, gpa: int, size: int, what: str) -> None:
        """Claim `size` bytes (at least 1) at exactly `gpa`."""
        end = gpa + size
        if not any(usable.contains(gpa, size) for usable in self.layout.usable):
            if gpa < HIGH_MEMORY_BASE or end > LOW_RAM_LIMIT:
                raise BootError(
                    f"The {what} wants to be loaded at {gpa:#x} to {end:#x}, which is no RAM in any machine."
                )
            raise BootUsageError(
                f"The {what} needs {format_size(size)} at address {gpa:#x}, which is beyond this machine's "
                f"{format_size(self.layout.ram_size)} of memory: {self._advice(end)}"
            )
        if self._conflicts(gpa, size):
            raise BootError(f"The {what} overlaps another part of what is loaded at {gpa:#x} to {end:#x}.")
        self._claims.append(Range(gpa, end))

    def place(self, size: int, align: int, what: str, *, limit: int = HIGH_RAM_BASE) -> int:
        """Claim `size` bytes (at least 1) as high as possible below `limit`; return their address.

        The address is a multiple of `align`, a power of two.
        """
        gpa = self._highest(size, align, limit)
        if gpa is None:
            needed = self._lowest_end(size, align)
            if needed > min(limit, LOW_RAM_LIMIT):
                raise BootError(
                    f"The {what} is too large: its {format_size(size)} do not fit below {format_size(limit)} "
                    "beside the rest of what is loaded."
                )
            raise BootUsageError(
                f"The {what} of {format_size(size)} does not fit into this machine's "
                f"{format_size(self.layout.ram_size)} of memory: {self._advice(needed)}"
            )
        self._claims.append(Range(gpa, gpa + size))
        return gpa

    def place_low(self, size: int, align: int, what: str) -> int:
        """`place` in base memory, by custom, or anywhere below 4 GiB when the image occupies that."""
        gpa = self._highest(size, align, BOOT_DATA_END)
        if gpa is None:
            return self.place(size, align, what)
        self._claims.append(Range(gpa, gpa + size))
        return gpa

    def write(self, gpa: int, data: bytes) -> None:
        """Store `data`, which lies inside one claim."""
        self._check(gpa, len(data))
        self._memory.write(gpa, data)

    def copy(self, gpa: int, image: Image, offset: int, size: int) -> None:
        """Store `size` bytes of `image` from `offset` on, inside one claim."""
        self._check(gpa, size)
        for chunk in image.chunks(offset, size):
            self._memory.write(gpa, chunk)
            gpa += len(chunk)

    def zero(self, gpa: int, size: int) -> None:
        """Store zeros, inside one claim: RAM is not empty after a restart."""
        self._check(gpa, size)
        for start in range(gpa, gpa + size, MIB):
            self._memory.write(start, _ZEROS[: min(MIB, gpa + size - start)])

    def _advice(self, end: int) -> str:
        return f"give it {format_size(end + self.to_come)} or more."

    def _check(self, gpa: int, size: int) -> None:
        if not any(taken.contains(gpa, size) for taken in self._claims):
            raise AssertionError(f"unclaimed write of {size} bytes at {gpa:#x}")

    def _conflicts(self, gpa: int, size: int) -> list[Range]:
        wanted = Range(gpa, gpa + size)
        return [taken for taken in self._claims if taken.overlaps(wanted)]

    def _highest(self, size: int, align: int, limit: int) -> int | None:
        for usable in reversed(self.layout.usable):
            gpa = (min(usable.end, limit) - size) & -align
            while gpa >= usable.base:
                conflicts = self._conflicts(gpa, size)
                if not conflicts:
                    return gpa
                gpa = (min(taken.base for taken in conflicts) - size) & -align
        return None

    def _lowest_end(self, size: int, align: int) -> int:
        """How much memory a machine would need for `size` bytes more."""
        gpa = HIGH_MEMORY_BASE
        while conflicts := self._conflicts(gpa, size):
            gpa = -(-max(taken.end for taken in conflicts) // align) * align
        return gpa + size
