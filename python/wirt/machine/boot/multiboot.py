"""Multiboot 1 kernels, ELF or with addresses in the header. Source: Multiboot Specification version 0.6.96,
chapter 3.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from wirt.machine.boot import bios
from wirt.machine.boot.elf import Elf
from wirt.machine.boot.image import BootError, Image
from wirt.machine.boot.placement import Placement
from wirt.machine.boot.state import CODE32_SEGMENT, GDT_SIZE, EntryState, gdt, protected_mode_entry
from wirt.machine.memory_map import EBDA_BASE, HIGH_MEMORY_BASE, KIB, PAGE_SIZE

MAGIC: Final = 0x1BAD_B002
BOOTLOADER_MAGIC: Final = 0x2BAD_B002
SEARCH_SIZE: Final = 8192
HEADER_SIZE: Final = 12
ADDRESSES_SIZE: Final = 20

FLAG_PAGE_ALIGN: Final = 1 << 0
FLAG_MEMORY: Final = 1 << 1
FLAG_VIDEO: Final = 1 << 2
FLAG_ADDRESSES: Final = 1 << 16
REQUIRED_FLAGS: Final = 0xFFFF
KNOWN_FLAGS: Final = FLAG_PAGE_ALIGN | FLAG_MEMORY | FLAG_VIDEO
"""A video mode is a wish: without a mode in the information structure the kernel stays in the one it
finds.
"""

INFO_SIZE: Final = 120
INFO_MEMORY: Final = 1 << 0
INFO_CMDLINE: Final = 1 << 2
INFO_MODULES: Final = 1 << 3
INFO_MEMORY_MAP: Final = 1 << 6
INFO_LOADER_NAME: Final = 1 << 9
LOADER_NAME: Final = b"Wirt\0"
MODULE_SIZE: Final = 16
MEMORY_MAP_ENTRY: Final = struct.Struct("<IQQI")


class Header(NamedTuple):
    """The Multiboot header, found `offset` bytes into the file.

    `addresses` are header_addr, load_addr, load_end_addr, bss_end_addr and entry_addr where the header gives
    them.
    """

    offset: int
    flags: int
    addresses: tuple[int, int, int, int, int] | None


def find_header(image: Image) -> Header | None:
    """Look for a header with a right checksum in the first 8 KiB."""
    start = image.prefix(SEARCH_SIZE)
    magic = MAGIC.to_bytes(4, "little")
    offset = start.find(magic)
    while 0 <= offset <= len(start) - HEADER_SIZE:
        flags, checksum = struct.unpack_from("<II", start, offset + 4)
        if offset % 4 == 0 and (MAGIC + flags + checksum) & 0xFFFF_FFFF == 0:
            if not flags & FLAG_ADDRESSES:
                return Header(offset, flags, None)
            return Header(
                offset, flags, struct.unpack("<IIIII", image.read(offset + HEADER_SIZE, ADDRESSES_SIZE))
            )
        offset = start.find(magic, offset + 1)
    return None


def load(
    placement: Placement, image: Image, header: Header, elf: Elf | None, initrd: Image | None, cmdline: bytes
) -> EntryState:
    """Load a Multiboot kernel: eax will hold the loader's magic, ebx points to the information structure.

    The initrd, of any content, becomes the only module. The command line starts with the kernel's file name,
    as boot loaders have it.
    """
    unknown = header.flags & REQUIRED_FLAGS & ~KNOWN_FLAGS
    if unknown:
        raise BootError(
            f"The {image.what} asks for Multiboot features that do not exist (flags {unknown:#x})."
        )
    if header.addresses:
        entry = _load_by_addresses(placement, image, header.offset, header.addresses)
    elif elf:
        entry = elf.physical_entry()
        elf.check_entry(image, entry)
        elf.load(placement, image)
    else:
        raise BootError(f"The {image.what} has a Multiboot header without addresses, but is no ELF file.")

    module = b""
    if initrd:
        address = placement.place(initrd.size, PAGE_SIZE, initrd.what)
        placement.copy(address, initrd, 0, initrd.size)
        module = struct.pack("<II", address, address + initrd.size)
    info = _place_information(placement, image, initrd, module, cmdline)
    gdt_base = placement.place_low(GDT_SIZE, 16, "boot GDT")
    placement.write(gdt_base, gdt(CODE32_SEGMENT))
    # Section 3.2: what is not mentioned there is to be as the BIOS initialised it.
    start = bios.install(placement, entry, BOOTLOADER_MAGIC)
    return protected_mode_entry(start, gdt_base, rbx=info)


def _load_by_addresses(
    placement: Placement, image: Image, header_offset: int, addresses: tuple[int, int, int, int, int]
) -> int:
    """Load by the header's own addresses; return the entry address."""
    header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr = addresses
    damaged = BootError(
        f"The {image.what} is damaged: the addresses in its Multiboot header contradict each other."
    )
    offset = header_offset - (header_addr - load_addr)
    if not 0 <= offset <= header_offset:
        raise damaged
    size = load_end_addr - load_addr if load_end_addr else image.size - offset
    end = max(bss_end_addr, load_addr + size)
    if size <= 0 or not load_addr <= entry_addr < end:
        raise damaged
    if offset + size > image.size:
        raise image.truncated(offset + size)
    placement.claim(load_addr, end - load_addr, image.what)
    placement.copy(load_addr, image, offset, size)
    placement.zero(load_addr + size, end - load_addr - size)
    return entry_addr


def _place_information(
    placement: Placement, image: Image, initrd: Image | None, module: bytes, cmdline: bytes
) -> int:
    """Write the information structure and what it points to in one piece; return its address."""
    layout = placement.layout
    memory_map = b"".join(
        MEMORY_MAP_ENTRY.pack(MEMORY_MAP_ENTRY.size - 4, e.base, e.size, e.type) for e in layout.e820
    )
    arguments = _file_name(image) + (b" " + cmdline if cmdline else b"") + b"\0"
    module_name = _file_name(initrd) + b"\0" if initrd else b""
    module_at = INFO_SIZE
    memory_map_at = module_at + MODULE_SIZE
    arguments_at = memory_map_at + len(memory_map)
    module_name_at = arguments_at + len(arguments)
    loader_name_at = module_name_at + len(module_name)
    base = placement.place_low(loader_name_at + len(LOADER_NAME), 16, "kernel command line")

    info = bytearray(INFO_SIZE)
    flags = INFO_MEMORY | INFO_CMDLINE | INFO_MEMORY_MAP | INFO_LOADER_NAME | (INFO_MODULES if initrd else 0)
    struct.pack_into("<III", info, 0, flags, EBDA_BASE // KIB, (layout.low_end - HIGH_MEMORY_BASE) // KIB)
    struct.pack_into("<I", info, 16, base + arguments_at)
    if initrd:
        struct.pack_into("<II", info, 20, 1, base + module_at)
        module += struct.pack("<II", base + module_name_at, 0)
    struct.pack_into("<II", info, 44, len(memory_map), base + memory_map_at)
    struct.pack_into("<I", info, 64, base + loader_name_at)
    placement.write(
        base,
        bytes(info) + module.ljust(MODULE_SIZE, b"\0") + memory_map + arguments + module_name + LOADER_NAME,
    )
    return base


def _file_name(image: Image) -> bytes:
    """The file's name as one word of a command line."""
    return image.name.encode("utf-8", "surrogateescape").replace(b" ", b"_").replace(b"\0", b"")
