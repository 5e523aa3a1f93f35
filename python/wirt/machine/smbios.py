"""SMBIOS: what `dmidecode` shows, and where cloud-init finds a server's UUID and serial number.

Both anchors are made: the 32-bit one of SMBIOS 2.8 and the 64-bit one of SMBIOS 3.0, over the same
structures. Source: DMTF DSP0134 version 3.0.0, chapters 5 to 7.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from wirt.machine.memory_map import GIB, KIB, MIB, SMBIOS_BASE, TIB, MemoryMap

MAX_STRING: Final = 255
"""Bytes in a string; the specification sets no limit, but readers have small buffers."""
NO_HANDLE: Final = 0xFFFF
NO_ERROR_INFORMATION: Final = 0xFFFE
ANCHOR32_SIZE: Final = 31
ANCHOR64_SIZE: Final = 24


class SmbiosConfig(NamedTuple):
    """What the structures say. Strings are printable ASCII, at most 255 bytes; empty ones are left out."""

    layout: MemoryMap
    uuid: bytes
    """16 bytes, in the order in which UUIDs are written (RFC 9562)."""
    sockets: int = 1
    cores: int = 1
    """Per socket."""
    threads: int = 1
    """Per core."""
    manufacturer: str = "Wirt"
    product: str = "Wirt PC"
    version: str = ""
    serial: str = ""
    sku: str = ""
    family: str = ""
    asset_tag: str = ""


class SmbiosTables(NamedTuple):
    """The structures, one after the other; `max_size` is the size of the largest, in bytes."""

    structures: bytes
    number: int
    max_size: int

    def anchor32(self, address: int) -> bytes:
        """The SMBIOS 2.8 entry point for structures at `address` (below 4 GiB). Section 5.2.1."""
        tail = bytearray(
            struct.pack("<5sBHIHB", b"_DMI_", 0, len(self.structures), address, self.number, 0x28)
        )
        tail[5] = -sum(tail) & 0xFF
        head = bytearray(struct.pack("<4sBBBBHB5s", b"_SM_", 0, ANCHOR32_SIZE, 2, 8, self.max_size, 0, b""))
        head[4] = -(sum(head) + sum(tail)) & 0xFF
        return bytes(head + tail)

    def anchor64(self, address: int) -> bytes:
        """The SMBIOS 3.0 entry point for structures at `address`. Section 5.2.2."""
        size = len(self.structures)
        anchor = bytearray(
            struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, ANCHOR64_SIZE, 3, 0, 0, 1, 0, size, address)
        )
        anchor[5] = -sum(anchor) & 0xFF
        return bytes(anchor)

    def place(self, base: int = SMBIOS_BASE) -> bytes:
        """Both anchors and the structures as they lie from `base` on: a multiple of 16 in 0xF0000 to
        0xFFFFF.
        """
        structures = base + 64
        anchors = self.anchor64(structures).ljust(32, b"\0") + self.anchor32(structures).ljust(32, b"\0")
        return anchors + self.structures


class _Builder:
    """Numbers structures and appends their strings. Section 6.1."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.count = 0
        self.max_size = 0

    def add(self, kind: int, body: bytes, *strings: str) -> int:
        """Add a structure with `body` after its header; return its handle."""
        handle = kind << 8 | self.count
        structure = struct.pack("<BBH", kind, 4 + len(body), handle) + body
        structure += b"".join(_encode(s) + b"\0" for s in strings if s) or b"\0"
        structure += b"\0"
        self.data += structure
        self.count += 1
        self.max_size = max(self.max_size, len(structure))
        return handle


def _encode(text: str) -> bytes:
    if len(text) > MAX_STRING or not (text.isascii() and text.isprintable()):
        raise ValueError(
            f"{text[:40]!r} is no SMBIOS string: use at most {MAX_STRING} printable ASCII characters."
        )
    return text.encode("ascii")


def _numbers(*strings: str) -> list[int]:
    """The numbers by which a structure names its strings: from 1, 0 for an empty one."""
    numbers = []
    last = 0
    for text in strings:
        last += 1 if text else 0
        numbers.append(last if text else 0)
    return numbers


def build(config: SmbiosConfig) -> SmbiosTables:
    """Make all structures. Raises ValueError for a string or a topology that SMBIOS cannot express."""
    for what, number in (("sockets", config.sockets), ("cores", config.cores), ("threads", config.threads)):
        if not 1 <= number <= 0xFFFF:
            raise ValueError(f"SMBIOS cannot express {number} {what}.")
    if config.sockets > 255 or config.cores * config.threads > 0xFFFF:
        raise ValueError("SMBIOS expresses at most 255 sockets and 65535 threads in each.")
    builder = _Builder()
    _firmware(builder)
    _system(builder, config)
    chassis_strings = (config.manufacturer, config.version, config.serial, config.asset_tag, config.sku)
    maker, version, serial, asset, sku = _numbers(*chassis_strings)
    # Type 3, section 7.4: type "other"; states "safe"; security "none".
    builder.add(
        3,
        struct.pack("<9BIBBBBB", maker, 1, version, serial, asset, 3, 3, 3, 3, 0, 0, 0, 0, 0, sku),
        *chassis_strings,
    )
    for socket in range(config.sockets):
        _processor(builder, config, socket)
    _memory(builder, config.layout)
    # Type 32, section 7.33: no errors at boot.
    builder.add(32, bytes(6) + b"\x00")
    builder.add(127, b"")
    if len(builder.data) > 0xFFFF:
        raise ValueError("The SMBIOS structures are longer than 64 KiB: use fewer sockets.")
    return SmbiosTables(bytes(builder.data), builder.count, builder.max_size)


def _firmware(builder: _Builder) -> None:
    """Type 0, section 7.1. Characteristics: none supported; a virtual machine."""
    strings = ("Wirt", "1", "01/01/2026")
    vendor, version, date = _numbers(*strings)
    builder.add(
        0,
        struct.pack("<BBHBBQBBBBBB", vendor, version, 0xE000, date, 0, 1 << 3, 0, 0x10, 1, 0, 0xFF, 0xFF),
        *strings,
    )


def _system(builder: _Builder, config: SmbiosConfig) -> None:
    """Type 1, section 7.2. The UUID's first three fields are little-endian; woken by the power switch."""
    uuid = struct.pack("<IHH8s", *struct.unpack(">IHH8s", config.uuid))
    strings = (config.manufacturer, config.product, config.version, config.serial, config.sku, config.family)
    maker, product, version, serial, sku, family = _numbers(*strings)
    builder.add(
        1,
        struct.pack("<BBBB16sBBB", maker, product, version, serial, uuid, 6, sku, family),
        *strings,
    )


def _processor(builder: _Builder, config: SmbiosConfig, socket: int) -> None:
    """Type 4, section 7.5: a populated, enabled central processor of family "other" with 64-bit code."""
    strings = (f"CPU {socket}", config.manufacturer)
    designation, maker = _numbers(*strings)
    cores, threads = config.cores, config.cores * config.threads
    body = struct.pack("<BBBBQBBHHHBB", designation, 3, 1, maker, 0, 0, 0, 0, 0, 0, 0x41, 1)
    body += struct.pack("<HHH", NO_HANDLE, NO_HANDLE, NO_HANDLE)
    body += struct.pack("<BBBBBBHH", 0, 0, 0, min(cores, 255), min(cores, 255), min(threads, 255), 1 << 2, 1)
    body += struct.pack("<HHH", cores, cores, threads)
    builder.add(4, body, *strings)


def _memory(builder: _Builder, layout: MemoryMap) -> None:
    """Types 16, 17 and 19, sections 7.17, 7.18 and 7.20: an array of one module, and its addresses."""
    kib = layout.ram_size // KIB
    array = builder.add(
        16,
        struct.pack(
            "<BBBIHHQ",
            *(1, 3, 3, min(kib, 0x8000_0000), NO_ERROR_INFORMATION, 1),
            layout.ram_size if layout.ram_size >= 2 * TIB else 0,
        ),
    )
    mib = -(-layout.ram_size // MIB)
    extended = mib >= 32 * GIB // MIB - 1
    body = struct.pack("<HHHHH", array, NO_ERROR_INFORMATION, 0xFFFF, 0xFFFF, 0x7FFF if extended else mib)
    body += struct.pack("<BBBBBHH", 9, 0, 1, 0, 7, 1 << 1, 0)
    body += struct.pack("<BBBBBIHHHH", 0, 0, 0, 0, 0, mib if extended else 0, 0, 0, 0, 0)
    builder.add(17, body, "DIMM 0")
    for start, end in ((0, layout.low_end), (4 * GIB, layout.high_end)):
        if end > start:
            _mapped_range(builder, array, start, end)


def _mapped_range(builder: _Builder, array: int, start: int, end: int) -> None:
    first, last = start // KIB, end // KIB - 1
    fits = last < 0xFFFF_FFFF
    builder.add(
        19,
        struct.pack(
            "<IIHBQQ",
            *(first if fits else 0xFFFF_FFFF, last if fits else 0xFFFF_FFFF, array, 1),
            *((0, 0) if fits else (start, end - 1)),
        ),
    )
