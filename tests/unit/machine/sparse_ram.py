"""Guest RAM for tests: any size, only the pages that were written take space."""

from __future__ import annotations

from wirt.machine.memory_map import PAGE_SIZE, MemoryMap, Range

ZERO_PAGE = bytes(PAGE_SIZE)


class SparseRam:
    """Implements `GuestMemory` for `layout`; notes every write; raises IndexError outside RAM."""

    def __init__(self, layout: MemoryMap) -> None:
        self.layout = layout
        self.writes: list[Range] = []
        self._pages: dict[int, bytearray] = {}

    @property
    def size(self) -> int:
        return self.layout.ram_size

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        first, last = gpa // PAGE_SIZE, (gpa + size - 1) // PAGE_SIZE
        pages = b"".join(bytes(self._pages.get(page, ZERO_PAGE)) for page in range(first, last + 1))
        return pages[gpa % PAGE_SIZE :][:size]

    def write(self, gpa: int, data: bytes) -> None:
        self._check(gpa, len(data))
        self.writes.append(Range(gpa, gpa + len(data)))
        at = 0
        while at < len(data):
            page, offset = divmod(gpa + at, PAGE_SIZE)
            piece = data[at : at + PAGE_SIZE - offset]
            if page in self._pages or piece.count(0) != len(piece):
                self._pages.setdefault(page, bytearray(PAGE_SIZE))[offset : offset + len(piece)] = piece
            at += len(piece)

    def fill(self, gpa: int, size: int, byte: int) -> None:
        """Put old content into RAM, as after a restart; not noted as a write."""
        self.write(gpa, bytes([byte]) * size)
        self.writes.clear()

    def _check(self, gpa: int, size: int) -> None:
        if not any(Range(r.address, r.address + r.size).contains(gpa, size) for r in self.layout.ram):
            raise IndexError(f"{size} bytes at {gpa:#x} are not RAM")
