"""An encoder for ACPI Machine Language: just the terms this machine's DSDT is made of.

Every function returns the bytes of one term; terms nest by being passed to one another. Names are written as
in ASL ("\\_SB.PCI0", "_CRS"). Source: ACPI 6.3, chapter 20 (AML grammar) and section 6.4 (resource
descriptors).
"""

from __future__ import annotations

import struct
from typing import Final

ZERO: Final = b"\x00"
ONE: Final = b"\x01"

SYSTEM_IO: Final = 0x01
PCI_CONFIG: Final = 0x02

BYTE_ACCESS: Final = 0x01
PRESERVE: Final = 0x00

ARG0: Final = b"\x68"


def pkg_length(content: int) -> bytes:
    """PkgLength, which counts its own bytes, before `content` bytes. Section 20.2.4."""
    if content + 1 < 1 << 6:
        return bytes([content + 1])
    for extra in (1, 2, 3):
        total = content + 1 + extra
        if total < 1 << (4 + 8 * extra):
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")
    raise ValueError(f"An AML package of {content} bytes is too long: at most 256 MiB are possible.")


def name_string(path: str) -> bytes:
    """NameString. Section 20.2.2."""
    segments_at = len(path) - len(path.lstrip("\\^"))
    prefix = path[:segments_at].encode("ascii")
    segments = [_name_segment(s) for s in path[segments_at:].split(".")] if path[segments_at:] else []
    if not segments:
        return prefix + b"\x00"
    if len(segments) == 1:
        return prefix + segments[0]
    if len(segments) == 2:
        return prefix + b"\x2e" + b"".join(segments)
    return prefix + b"\x2f" + bytes([len(segments)]) + b"".join(segments)


def _name_segment(name: str) -> bytes:
    valid = (
        name.isascii() and name.replace("_", "A").isalnum() and name == name.upper() and not name[0].isdigit()
    )
    if not valid or len(name) > 4:
        raise ValueError(f"{name!r} is no AML name: it has 1 to 4 capital letters, digits or underscores.")
    return name.ljust(4, "_").encode("ascii")


def integer(value: int) -> bytes:
    """The shortest constant for an unsigned 64-bit `value`. Section 20.2.3."""
    if value in (0, 1):
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if 0 <= value < 1 << (8 * size):
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"{value} is no unsigned 64-bit number.")


def string(text: str) -> bytes:
    """An ASCII string. Section 20.2.3."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """The compressed form of an EISA identifier such as "PNP0A03". Section 19.3.4."""
    letters = [ord(c) - 0x40 for c in text[:3]]
    if len(text) != 7 or not all(1 <= n <= 26 for n in letters):
        raise ValueError(
            f"{text!r} is no EISA identifier: it has three capital letters and four hexadecimal digits."
        )
    packed = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return b"\x0c" + packed.to_bytes(4, "big")


def name(path: str, value: bytes) -> bytes:
    return b"\x08" + name_string(path) + value


def scope(path: str, *terms: bytes) -> bytes:
    return _package(b"\x10", name_string(path), *terms)


def device(path: str, *terms: bytes) -> bytes:
    return _package(b"\x5b\x82", name_string(path), *terms)


def method(path: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """A method of 0 to 7 `arguments`."""
    return _package(b"\x14", name_string(path), bytes([arguments | (8 if serialized else 0)]), *terms)


def operation_region(path: str, space: int, offset: int, length: int) -> bytes:
    return b"\x5b\x80" + name_string(path) + bytes([space]) + integer(offset) + integer(length)


def field(region: str, access: int, update: int, *elements: tuple[str, int]) -> bytes:
    """A field list over `region`: names and their sizes, 1 to 63 bits, in order."""
    flags = bytes([access | update << 5])
    return _package(
        b"\x5b\x81", name_string(region), flags, *(_name_segment(n) + bytes([bits]) for n, bits in elements)
    )


def package(*elements: bytes) -> bytes:
    """A package of at most 255 elements."""
    return _package(b"\x12", bytes([len(elements)]), *elements)


def buffer(data: bytes) -> bytes:
    return _package(b"\x11", integer(len(data)), data)


def store(value: bytes, target: bytes) -> bytes:
    return b"\x70" + value + target


def and_(left: bytes, right: bytes, target: bytes = ZERO) -> bytes:
    """The bitwise and, also stored in `target` unless that is the null target."""
    return b"\x7b" + left + right + target


def or_(left: bytes, right: bytes, target: bytes = ZERO) -> bytes:
    return b"\x7d" + left + right + target


def create_dword_field(source: bytes, offset: int, path: str) -> bytes:
    """`path` names the 32 bits from byte `offset` of the buffer `source`."""
    return b"\x8a" + source + integer(offset) + name_string(path)


def if_(condition: bytes, *terms: bytes) -> bytes:
    return _package(b"\xa0", condition, *terms)


def return_(value: bytes) -> bytes:
    return b"\xa4" + value


def _package(opcode: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return opcode + pkg_length(len(content)) + content


def resource_template(*descriptors: bytes) -> bytes:
    """A buffer of resource descriptors and the end tag, whose checksum 0 means none. Section 6.4.2.9."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def io_ports(base: int, size: int, align: int = 1) -> bytes:
    """I/O port descriptor, 16-bit decode, fixed `base`. Section 6.4.2.5."""
    return struct.pack("<BBHHBB", 0x47, 0x01, base, base, align, size)


def irq(number: int) -> bytes:
    """IRQ descriptor without flags: edge-triggered, active high, exclusive. Section 6.4.2.1."""
    return struct.pack("<BH", 0x22, 1 << number)


def dma(channel: int) -> bytes:
    """DMA descriptor: 8 bits, no bus master, compatible timing. Section 6.4.2.2."""
    return struct.pack("<BBB", 0x2A, 1 << channel, 0x00)


def level_interrupt(*numbers: int) -> bytes:
    """Extended interrupt descriptor: consumer, level-triggered, active high, shared. Section 6.4.3.6.

    With several `numbers` they are the choice of a `_PRS`. The first number is at byte 5 of the descriptor.
    """
    length = 2 + 4 * len(numbers)
    return struct.pack(f"<BHBB{len(numbers)}I", 0x89, length, 0x09, len(numbers), *numbers)


LEVEL_INTERRUPT_NUMBER: Final = 5
"""Byte offset of the first number in `level_interrupt`."""


def memory32_fixed(base: int, size: int, *, writable: bool = True) -> bytes:
    """Section 6.4.3.4."""
    return struct.pack("<BHBII", 0x86, 9, 1 if writable else 0, base, size)


_MEMORY: Final = 0
_IO: Final = 1
_BUS: Final = 2
_FIXED: Final = 0x0C
"""Minimum and maximum address are fixed; the range is produced, positively decoded."""


def bus_numbers(first: int, last: int) -> bytes:
    """WordBusNumber. Section 6.4.3.5.3."""
    return _address_space(0x88, "H", _BUS, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """WordIO, entire range. Section 6.4.3.5.3."""
    return _address_space(0x88, "H", _IO, 0x03, first, last)


def memory_window32(first: int, last: int, *, cacheable: bool = False) -> bytes:
    """DWordMemory, read and write. Section 6.4.3.5.2."""
    return _address_space(0x87, "I", _MEMORY, 0x03 if cacheable else 0x01, first, last)


def memory_window64(first: int, last: int) -> bytes:
    """QWordMemory, cacheable, read and write. Section 6.4.3.5.1."""
    return _address_space(0x8A, "Q", _MEMORY, 0x03, first, last)


def _address_space(tag: int, width: str, kind: int, flags: int, first: int, last: int) -> bytes:
    body = struct.pack(f"<BBB5{width}", kind, _FIXED, flags, 0, first, last, 0, last - first + 1)
    return struct.pack("<BH", tag, len(body)) + body
