"""Linux bzImage by the 64-bit boot protocol.

Source: the kernel's Documentation/arch/x86/boot.rst and zero-page.rst.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from wirt.machine.boot.image import BootError, BootUsageError, Image
from wirt.machine.boot.initrd import check_complete
from wirt.machine.boot.placement import LINUX_WORKING_SIZE, Placement
from wirt.machine.boot.state import (
    CODE64_SEGMENT,
    GDT_SIZE,
    IDENTITY_SIZE,
    PAGE_TABLES_SIZE,
    EntryState,
    gdt,
    identity_page_tables,
    long_mode_entry,
)
from wirt.machine.memory_map import HIGH_MEMORY_BASE, LOW_RAM_LIMIT, PAGE_SIZE

SECTOR: Final = 512
PARAGRAPH: Final = 16
HEADER_START: Final = 0x1F1
HEADER_SIZE: Final = 0x264
"""Bytes of the file that hold every field up to `init_size`, which protocol 2.12 has."""
MAX_HEADER_END: Final = 0x290
BOOT_FLAG: Final = 0xAA55
MAGIC: Final = b"HdrS"
MIN_VERSION: Final = 0x020C

LOADED_HIGH: Final = 1 << 0
CAN_USE_HEAP: Final = 1 << 7
XLF_KERNEL_64: Final = 1 << 0
ENTRY64_OFFSET: Final = 0x200

BOOT_PARAMS_SIZE: Final = PAGE_SIZE
E820_MAX_ENTRIES: Final = 128
LOADER_UNDEFINED: Final = 0xFF
VID_MODE_NORMAL: Final = 0xFFFF


class SetupHeader(NamedTuple):
    """The fields of the setup header that a 64-bit loader uses, checked.

    `raw` is the header as it goes into the zero page from offset 0x1F1 on. Offsets and sizes are bytes.
    """

    raw: bytes
    setup_size: int
    payload_size: int
    relocatable: bool
    kernel_alignment: int
    initrd_addr_max: int
    cmdline_size: int
    pref_address: int
    init_size: int

    @classmethod
    def parse(cls, image: Image) -> SetupHeader:
        """Read the header of `image`, which `recognises` accepted."""
        header = image.read(0, HEADER_SIZE)
        (version,) = struct.unpack_from("<H", header, 0x206)
        if version < MIN_VERSION:
            raise BootError(
                f"The {image.what} speaks boot protocol {version >> 8}.{version & 0xFF:02d}: "
                "at least 2.12 (Linux 3.8) is needed."
            )
        if not header[0x211] & LOADED_HIGH:
            raise BootError(f"The {image.what} is a zImage, which cannot be loaded high: build a bzImage.")
        xloadflags, cmdline_size = struct.unpack_from("<HI", header, 0x236)
        if not xloadflags & XLF_KERNEL_64:
            raise BootError(
                f"The {image.what} is a 32-bit kernel without a 64-bit entry: use an x86-64 kernel."
            )
        setup_size = ((header[0x1F1] or 4) + 1) * SECTOR
        (syssize,) = struct.unpack_from("<I", header, 0x1F4)
        if syssize * PARAGRAPH <= ENTRY64_OFFSET:
            raise BootError(f"The {image.what} is damaged: its header says that it holds no code.")
        # The size is counted in paragraphs; the last one may be short (memtest86+ 6.10).
        if setup_size + (syssize - 1) * PARAGRAPH >= image.size:
            raise image.truncated(setup_size + syssize * PARAGRAPH)
        payload_size = min(syssize * PARAGRAPH, image.size - setup_size)
        initrd_addr_max, kernel_alignment = struct.unpack_from("<II", header, 0x22C)
        if kernel_alignment.bit_count() != 1:
            raise BootError(
                f"The {image.what} is damaged: its alignment {kernel_alignment:#x} is no power of two."
            )
        pref_address, init_size = struct.unpack_from("<QI", header, 0x258)
        header_end = min(0x202 + header[0x201], MAX_HEADER_END, setup_size)
        return cls(
            raw=image.read(HEADER_START, max(header_end, HEADER_SIZE) - HEADER_START),
            setup_size=setup_size,
            payload_size=payload_size,
            relocatable=bool(header[0x234]),
            kernel_alignment=kernel_alignment,
            initrd_addr_max=initrd_addr_max,
            cmdline_size=cmdline_size,
            pref_address=pref_address,
            init_size=init_size,
        )


def recognises(image: Image) -> bool:
    """Whether the file begins as a Linux kernel does, whatever its age and width."""
    start = image.prefix(0x206)
    return start[0x1FE:] == BOOT_FLAG.to_bytes(2, "little") + start[0x200:0x202] + MAGIC


def load(
    placement: Placement, image: Image, initrd: Image | None, cmdline: bytes, acpi_rsdp: int
) -> EntryState:
    """Load `image` for its 64-bit entry. `acpi_rsdp` is the RSDP's address, or 0.

    A relocatable kernel is loaded where it prefers to run, another one at 1 MiB, from where it moves itself.
    """
    header = SetupHeader.parse(image)
    if len(cmdline) > header.cmdline_size:
        raise BootUsageError(
            f"The kernel command line has {len(cmdline)} bytes, but this kernel takes at most "
            f"{header.cmdline_size}: shorten it."
        )
    # The initrd, and what is unpacked of it.
    placement.to_come = LINUX_WORKING_SIZE + (2 * initrd.size if initrd else 0)
    address = _claim_kernel(placement, image, header)
    placement.copy(address, image, header.setup_size, header.payload_size)

    initrd_address = 0
    if initrd:
        placement.to_come -= initrd.size
        limit = min(header.initrd_addr_max + 1, LOW_RAM_LIMIT)
        initrd_address = placement.place(initrd.size, PAGE_SIZE, initrd.what, limit=limit)
        check_complete(initrd)
        placement.copy(initrd_address, initrd, 0, initrd.size)

    cmdline_address = placement.place_low(len(cmdline) + 1, 16, "kernel command line")
    placement.write(cmdline_address, cmdline + b"\0")
    boot_params = placement.place_low(BOOT_PARAMS_SIZE, PAGE_SIZE, "boot parameters")
    placement.write(
        boot_params,
        _zero_page(
            placement,
            header,
            address,
            initrd_address,
            initrd.size if initrd else 0,
            cmdline_address,
            acpi_rsdp,
        ),
    )
    page_tables = placement.place_low(PAGE_TABLES_SIZE, PAGE_SIZE, "boot page tables")
    placement.write(page_tables, identity_page_tables(page_tables))
    gdt_base = placement.place_low(GDT_SIZE, 16, "boot GDT")
    placement.write(gdt_base, gdt(CODE64_SEGMENT))
    return long_mode_entry(address + ENTRY64_OFFSET, gdt_base, page_tables, rsi=boot_params)


def _claim_kernel(placement: Placement, image: Image, header: SetupHeader) -> int:
    """Claim all the kernel uses before it knows the memory map; return the load address."""
    run_size = max(header.init_size, header.payload_size)
    if header.relocatable:
        address = -(-header.pref_address // header.kernel_alignment) * header.kernel_alignment
        if address + run_size > IDENTITY_SIZE:
            raise BootError(f"The {image.what} wants to run at {address:#x}, beyond the first 4 GiB.")
        placement.claim(address, run_size, image.what)
        return address
    if header.pref_address < HIGH_MEMORY_BASE + header.payload_size:
        start, end = HIGH_MEMORY_BASE, max(header.pref_address, HIGH_MEMORY_BASE) + run_size
        placement.claim(start, end - start, image.what)
    else:
        placement.claim(HIGH_MEMORY_BASE, header.payload_size, image.what)
        placement.claim(header.pref_address, run_size, image.what)
    return HIGH_MEMORY_BASE


def _zero_page(
    placement: Placement,
    header: SetupHeader,
    kernel: int,
    initrd: int,
    initrd_size: int,
    cmdline: int,
    rsdp: int,
) -> bytes:
    """The boot_params structure: only the setup header is the kernel's own, all else starts as zeros."""
    page = bytearray(BOOT_PARAMS_SIZE)
    page[HEADER_START : HEADER_START + len(header.raw)] = header.raw
    struct.pack_into("<Q", page, 0x070, rsdp)
    struct.pack_into("<III", page, 0x0C0, initrd >> 32, initrd_size >> 32, cmdline >> 32)
    entries = placement.layout.e820[:E820_MAX_ENTRIES]
    page[0x1E8] = len(entries)
    for i, entry in enumerate(entries):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * i, entry.base, entry.size, entry.type)
    struct.pack_into("<H", page, 0x1FA, VID_MODE_NORMAL)
    page[0x210] = LOADER_UNDEFINED
    page[0x211] &= ~CAN_USE_HEAP
    struct.pack_into("<I", page, 0x214, kernel)
    struct.pack_into("<II", page, 0x218, initrd & 0xFFFF_FFFF, initrd_size & 0xFFFF_FFFF)
    struct.pack_into("<I", page, 0x228, cmdline & 0xFFFF_FFFF)
    # A list of the loader's own additions; the file has none to give.
    struct.pack_into("<Q", page, 0x250, 0)
    return bytes(page)
