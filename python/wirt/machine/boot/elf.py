"""ELF kernels, and their entry by the PVH protocol.

Sources: System V ABI, chapters 4 and 5; Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h
(version 1).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from wirt.machine.boot.image import BootError, Image
from wirt.machine.boot.initrd import check_complete
from wirt.machine.boot.placement import LINUX_WORKING_SIZE, Placement
from wirt.machine.boot.state import CODE32_SEGMENT, GDT_SIZE, EntryState, gdt, protected_mode_entry
from wirt.machine.memory_map import PAGE_SIZE

MAGIC: Final = b"\x7fELF"
CLASS_32: Final = 1
CLASS_64: Final = 2
DATA_LITTLE_ENDIAN: Final = 1
TYPE_EXEC: Final = 2
TYPE_DYN: Final = 3
MACHINE_386: Final = 3
MACHINE_X86_64: Final = 62
PT_LOAD: Final = 1
PT_NOTE: Final = 4
MAX_PROGRAM_HEADERS: Final = 128
MAX_NOTES_SIZE: Final = 1 << 20
MAX_NOTES: Final = 4096
XEN_ELFNOTE_PHYS32_ENTRY: Final = 18

START_INFO: Final = struct.Struct("<IIIIQQQQII")
START_INFO_MAGIC: Final = 0x336E_C578
START_INFO_VERSION: Final = 1
MODULE: Final = struct.Struct("<QQQQ")
MEMORY_MAP_ENTRY: Final = struct.Struct("<QQII")


class ProgramHeader(NamedTuple):
    """One program header. Offsets, addresses and sizes are bytes."""

    type: int
    offset: int
    vaddr: int
    paddr: int
    file_size: int
    memory_size: int


class Elf(NamedTuple):
    """The headers of an x86 ELF executable, checked against the file's size."""

    entry: int
    headers: tuple[ProgramHeader, ...]

    @classmethod
    def parse(cls, image: Image) -> Elf:
        """Read the headers of `image`, which `recognises` accepted."""
        ident = image.read(0, 20)
        elf_class, data = ident[4], ident[5]
        if data != DATA_LITTLE_ENDIAN or elf_class not in (CLASS_32, CLASS_64):
            raise BootError(f"The {image.what} is an ELF file, but not for x86.")
        file_type, machine = struct.unpack_from("<HH", ident, 16)
        if machine not in (MACHINE_386, MACHINE_X86_64):
            raise BootError(
                f"The {image.what} is an ELF file for another processor (machine {machine}), not for x86."
            )
        if file_type not in (TYPE_EXEC, TYPE_DYN):
            raise BootError(f"The {image.what} is an ELF object file, not an executable.")
        if elf_class == CLASS_64:
            entry, table = struct.unpack_from("<QQ", image.read(24, 16))
            entry_size, count = struct.unpack("<HH", image.read(54, 4))
            minimum = 56
        else:
            entry, table = struct.unpack_from("<II", image.read(24, 8))
            entry_size, count = struct.unpack("<HH", image.read(42, 4))
            minimum = 32
        if not 0 < count <= MAX_PROGRAM_HEADERS:
            raise BootError(
                f"The {image.what} has {count} program headers: a kernel has 1 to {MAX_PROGRAM_HEADERS}."
            )
        if entry_size < minimum:
            raise BootError(f"The {image.what} is damaged: its program headers are {entry_size} bytes each.")
        raw = image.read(table, entry_size * count)
        return cls(entry, tuple(_program_header(raw, i * entry_size, elf_class) for i in range(count)))

    def load(self, placement: Placement, image: Image) -> None:
        """Load every PT_LOAD segment to its physical address."""
        segments = [h for h in self.headers if h.type == PT_LOAD and h.memory_size]
        if not segments:
            raise BootError(f"The {image.what} has nothing to load.")
        for segment in segments:
            if segment.file_size > segment.memory_size:
                raise BootError(
                    f"The {image.what} is damaged: a segment is larger in the file than in memory."
                )
            if segment.offset + segment.file_size > image.size:
                raise image.truncated(segment.offset + segment.file_size)
            placement.claim(segment.paddr, segment.memory_size, image.what)
        for segment in segments:
            placement.copy(segment.paddr, image, segment.offset, segment.file_size)
            placement.zero(segment.paddr + segment.file_size, segment.memory_size - segment.file_size)

    def physical_entry(self) -> int:
        """The entry point as a physical address: kernels are linked for virtual ones."""
        for header in self.headers:
            if header.type == PT_LOAD and header.vaddr <= self.entry < header.vaddr + header.memory_size:
                return self.entry - header.vaddr + header.paddr
        return self.entry

    def check_entry(self, image: Image, entry: int) -> None:
        """Raise BootError unless physical address `entry` lies in a loaded segment, below 4 GiB."""
        inside = any(h.type == PT_LOAD and h.paddr <= entry < h.paddr + h.memory_size for h in self.headers)
        if not inside or entry >= 1 << 32:
            raise BootError(
                f"The {image.what} is damaged: its entry point {entry:#x} lies outside of what it loads."
            )


def _program_header(raw: bytes, at: int, elf_class: int) -> ProgramHeader:
    if elf_class == CLASS_64:
        kind, _, offset, vaddr, paddr, file_size, memory_size = struct.unpack_from("<IIQQQQQ", raw, at)
    else:
        kind, offset, vaddr, paddr, file_size, memory_size = struct.unpack_from("<IIIIII", raw, at)
    return ProgramHeader(kind, offset, vaddr, paddr, file_size, memory_size)


def recognises(image: Image) -> bool:
    """Whether the file is ELF of any kind."""
    return image.prefix(4) == MAGIC


def pvh_entry(image: Image, elf: Elf) -> int | None:
    """The physical entry address in the note XEN_ELFNOTE_PHYS32_ENTRY, or None without such a note."""
    for header in elf.headers:
        if header.type != PT_NOTE:
            continue
        if header.file_size > MAX_NOTES_SIZE:
            raise BootError(f"The {image.what} is damaged: its notes have {header.file_size} bytes.")
        notes = image.read(header.offset, header.file_size)
        at = 0
        for _ in range(MAX_NOTES):
            if at + 12 > len(notes):
                break
            name_size, desc_size, kind = struct.unpack_from("<III", notes, at)
            desc = at + 12 + -(-name_size // 4) * 4
            name = notes[at + 12 : at + 12 + name_size].rstrip(b"\0")
            if name == b"Xen" and kind == XEN_ELFNOTE_PHYS32_ENTRY and desc_size in (4, 8):
                if desc + desc_size > len(notes):
                    raise BootError(f"The {image.what} is damaged: its PVH note is cut off.")
                return int.from_bytes(notes[desc : desc + desc_size], "little")
            at = desc + -(-desc_size // 4) * 4
    return None


def load_pvh(
    placement: Placement,
    image: Image,
    elf: Elf,
    entry: int,
    initrd: Image | None,
    cmdline: bytes,
    acpi_rsdp: int,
) -> EntryState:
    """Load a kernel for its PVH entry: ebx points to an hvm_start_info.

    `acpi_rsdp` is the RSDP's address, or 0.
    """
    elf.check_entry(image, entry)
    # The initrd, and what is unpacked of it.
    placement.to_come = LINUX_WORKING_SIZE + (2 * initrd.size if initrd else 0)
    elf.load(placement, image)
    modules = b""
    if initrd:
        placement.to_come -= initrd.size
        address = placement.place(initrd.size, PAGE_SIZE, initrd.what)
        check_complete(initrd)
        placement.copy(address, initrd, 0, initrd.size)
        modules = MODULE.pack(address, initrd.size, 0, 0)

    memory_map = b"".join(MEMORY_MAP_ENTRY.pack(e.base, e.size, e.type, 0) for e in placement.layout.e820)
    module_at = START_INFO.size
    memory_map_at = module_at + MODULE.size
    cmdline_at = memory_map_at + len(memory_map)
    base = placement.place_low(cmdline_at + len(cmdline) + 1, 16, "kernel command line")
    start_info = START_INFO.pack(
        START_INFO_MAGIC,
        START_INFO_VERSION,
        0,
        1 if initrd else 0,
        base + module_at if initrd else 0,
        base + cmdline_at,
        acpi_rsdp,
        base + memory_map_at,
        len(placement.layout.e820),
        0,
    )
    placement.write(base, start_info + modules.ljust(MODULE.size, b"\0") + memory_map + cmdline + b"\0")
    gdt_base = placement.place_low(GDT_SIZE, 16, "boot GDT")
    placement.write(gdt_base, gdt(CODE32_SEGMENT))
    return protected_mode_entry(entry, gdt_base, rbx=base)
