"""Small kernels of every format for tests, each field of which can be set wrong."""

from __future__ import annotations

import struct
from dataclasses import dataclass

PAYLOAD = bytes(range(256)) * 16


def bzimage(
    *,
    payload: bytes = PAYLOAD,
    setup_sects: int = 4,
    syssize: int | None = None,
    magic: bytes = b"HdrS",
    version: int = 0x20F,
    loadflags: int = 1,
    initrd_addr_max: int = 0x7FFF_FFFF,
    kernel_alignment: int = 0x20_0000,
    relocatable: int = 1,
    xloadflags: int = 0x7F,
    cmdline_size: int = 2047,
    pref_address: int = 0x100_0000,
    init_size: int = 0x40_0000,
) -> bytes:
    """A bzImage with the fields of the setup header as given; `syssize` in 16-byte paragraphs."""
    setup = bytearray(((setup_sects or 4) + 1) * 512)
    paragraphs = -(-len(payload) // 16) if syssize is None else syssize
    struct.pack_into("<BHIHHHH", setup, 0x1F1, setup_sects, 0, paragraphs, 0, 0xFFFF, 0, 0xAA55)
    struct.pack_into("<BB4sH", setup, 0x200, 0xEB, 0x6A, magic, version)
    struct.pack_into("<BBHI", setup, 0x210, 0, loadflags, 0x8000, 0x10_0000)
    struct.pack_into(
        "<IIBBHI", setup, 0x22C, initrd_addr_max, kernel_alignment, relocatable, 21, xloadflags, cmdline_size
    )
    struct.pack_into("<QQI", setup, 0x250, 0xDEAD_BEEF, pref_address, init_size)
    return bytes(setup) + payload


@dataclass
class Segment:
    """A program header and its bytes in the file."""

    type: int
    data: bytes
    paddr: int = 0
    memory_size: int | None = None
    file_size: int | None = None
    offset: int | None = None
    vaddr: int | None = None
    """The physical address unless given."""


def elf(
    segments: list[Segment], *, bits: int = 64, entry: int = 0x10_0000, machine: int = 62, kind: int = 2
) -> bytes:
    """An ELF executable of `bits` with these segments, their bytes following the headers in order."""
    wide = bits == 64
    header_size, entry_size = (64, 56) if wide else (52, 32)
    at = header_size + entry_size * len(segments)
    table, body = b"", b""
    for s in segments:
        offset = at + len(body) if s.offset is None else s.offset
        file_size = len(s.data) if s.file_size is None else s.file_size
        memory_size = file_size if s.memory_size is None else s.memory_size
        vaddr = s.paddr if s.vaddr is None else s.vaddr
        if wide:
            table += struct.pack("<IIQQQQQQ", s.type, 7, offset, vaddr, s.paddr, file_size, memory_size, 4096)
        else:
            table += struct.pack("<IIIIIIII", s.type, offset, vaddr, s.paddr, file_size, memory_size, 7, 4096)
        body += s.data
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    sizes = (header_size, entry_size, len(segments), 0, 0, 0)
    if wide:
        header = struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, entry, header_size, 0, 0, *sizes)
    else:
        header = struct.pack("<HHIIIIIHHHHHH", kind, machine, 1, entry, header_size, 0, 0, *sizes)
    return ident + header + table + body


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    """An ELF note, padded to 4 bytes."""
    padded = name + bytes(-len(name) % 4) + desc + bytes(-len(desc) % 4)
    return struct.pack("<III", len(name), len(desc), kind) + padded


def pvh_elf(*, entry: int = 0x10_0000, bits: int = 64) -> bytes:
    """An ELF kernel with a PVH note beside an unrelated one."""
    notes = note(b"GNU\0", 3, b"build id") + note(b"Xen\0", 18, entry.to_bytes(8, "little"))
    load = Segment(1, PAYLOAD, 0x10_0000, memory_size=0x3000)
    return elf(
        [load, Segment(4, notes)], bits=bits, entry=0xFFFF_FFFF if bits == 32 else 0xFFFF_FFFF_8100_0000
    )


def multiboot_header(flags: int = 3, addresses: tuple[int, ...] = (), checksum: int | None = None) -> bytes:
    """A Multiboot 1 header, with a right checksum unless one is given."""
    total = -(0x1BAD_B002 + flags) & 0xFFFF_FFFF if checksum is None else checksum
    return struct.pack(f"<III{len(addresses)}I", 0x1BAD_B002, flags, total, *addresses)


def multiboot_elf(*, flags: int = 3, bits: int = 32) -> bytes:
    """A Multiboot ELF kernel as those of kvm-unit-tests are."""
    code = multiboot_header(flags) + PAYLOAD
    return elf([Segment(1, code, 0x10_0000, memory_size=0x4000)], bits=bits, entry=0x10_000C, machine=3)


def multiboot_flat(*, load_addr: int = 0x10_0000, header_addr: int = 0x10_0010, **overrides: int) -> bytes:
    """A flat Multiboot kernel whose header, 16 bytes into the file, holds the addresses."""
    fields = {
        "load_end_addr": load_addr + 0x800,
        "bss_end_addr": load_addr + 0x2000,
        "entry_addr": load_addr + 0x30,
    }
    fields |= overrides
    header = multiboot_header(1 << 16, (header_addr, load_addr, *fields.values()))
    return (bytes(16) + header).ljust(0x800, b"\xf4")


def cpio(members: dict[str, bytes], *, trailer: bool = True) -> bytes:
    """A cpio archive in the newc format."""
    archive = b""
    for name, data in [*members.items(), *([("TRAILER!!!", b"")] if trailer else [])]:
        encoded = name.encode() + b"\0"
        fields = (0, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        archive += b"070701" + b"".join(b"%08X" % f for f in fields) + encoded
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return archive
