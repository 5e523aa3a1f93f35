"""The state in which vCPU 0 enters what was loaded.

The names and the encoding of access rights are those of the accelerator interface's CPU state (`crates/hv`),
so that an entry state is carried over field by field. Sources: Intel SDM volume 3A, sections 3.4.3, 3.4.5 and
4.5.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

CR0_PE: Final = 1 << 0
CR0_ET: Final = 1 << 4
CR0_PG: Final = 1 << 31
CR4_PAE: Final = 1 << 5
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
RFLAGS_FIXED: Final = 1 << 1

TYPE_TSS_BUSY: Final = 0xB
TYPE_DATA: Final = 0x3
"""Data, read and write, accessed."""
TYPE_CODE: Final = 0xB
"""Code, execute and read, accessed."""
ACCESS_S: Final = 1 << 4
ACCESS_P: Final = 1 << 7
ACCESS_L: Final = 1 << 13
ACCESS_DB: Final = 1 << 14
ACCESS_G: Final = 1 << 15

PTE_PRESENT: Final = 1 << 0
PTE_WRITABLE: Final = 1 << 1
PTE_PAGE_SIZE: Final = 1 << 7
PAGE_2M: Final = 1 << 21
IDENTITY_SIZE: Final = 1 << 32
"""Bytes mapped by `identity_page_tables`."""
PAGE_TABLES_SIZE: Final = 6 * 4096


class Segment(NamedTuple):
    """A segment register with its hidden part.

    `limit` is the last valid offset in bytes. `access` holds bits 8 to 23 of a descriptor's second
    doubleword, moved to bit 0: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15. P = 0 means unusable.
    """

    selector: int = 0
    base: int = 0
    limit: int = 0
    access: int = 0

    def descriptor(self) -> bytes:
        """The 8 bytes that describe this segment in the GDT."""
        limit = self.limit >> 12 if self.access & ACCESS_G else self.limit
        low = (limit & 0xFFFF) | (self.base & 0xFFFF) << 16
        high = (
            (self.base >> 16 & 0xFF)
            | (self.access & 0xF0FF) << 8
            | (limit & 0xF_0000)
            | (self.base & 0xFF00_0000)
        )
        return struct.pack("<II", low, high)


UNUSABLE: Final = Segment()


class DescriptorTable(NamedTuple):
    """GDTR or IDTR. `limit` is the last valid byte offset."""

    base: int = 0
    limit: int = 0


NO_TABLE: Final = DescriptorTable()


class EntryState(NamedTuple):
    """Registers of vCPU 0 at the first instruction of the guest. Everything else is as after RESET."""

    rip: int
    cs: Segment
    ds: Segment
    es: Segment
    ss: Segment
    tr: Segment
    gdtr: DescriptorTable
    cr0: int
    fs: Segment = UNUSABLE
    gs: Segment = UNUSABLE
    ldtr: Segment = UNUSABLE
    idtr: DescriptorTable = NO_TABLE
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    rflags: int = RFLAGS_FIXED
    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rbp: int = 0
    rsp: int = 0


BOOT_CS: Final = 0x10
"""Selector of the flat code segment: `__BOOT_CS` of the Linux boot protocol."""
BOOT_DS: Final = 0x18
"""Selector of the flat data segment: `__BOOT_DS` of the Linux boot protocol."""
BOOT_TSS: Final = 0x20

DATA_SEGMENT: Final = Segment(BOOT_DS, 0, 0xFFFF_FFFF, TYPE_DATA | ACCESS_S | ACCESS_P | ACCESS_DB | ACCESS_G)
CODE32_SEGMENT: Final = Segment(
    BOOT_CS, 0, 0xFFFF_FFFF, TYPE_CODE | ACCESS_S | ACCESS_P | ACCESS_DB | ACCESS_G
)
CODE64_SEGMENT: Final = Segment(
    BOOT_CS, 0, 0xFFFF_FFFF, TYPE_CODE | ACCESS_S | ACCESS_P | ACCESS_L | ACCESS_G
)
TSS_SEGMENT: Final = Segment(BOOT_TSS, 0, 0x67, TYPE_TSS_BUSY | ACCESS_P)

GDT_SIZE: Final = 0x30
"""Two unused entries, code, data, and a TSS descriptor of the 16 bytes it takes in long mode."""


def gdt(code: Segment) -> bytes:
    """The GDT that goes with `code`, `GDT_SIZE` bytes."""
    return bytes(16) + code.descriptor() + DATA_SEGMENT.descriptor() + TSS_SEGMENT.descriptor() + bytes(8)


def identity_page_tables(base: int) -> bytes:
    """Page tables for `base` (4 KiB aligned) that map the first 4 GiB onto themselves in 2 MiB pages.

    `PAGE_TABLES_SIZE` bytes: the PML4, a page directory pointer table and four page directories.
    """
    table = PTE_PRESENT | PTE_WRITABLE
    pml4 = struct.pack("<Q", (base + 0x1000) | table).ljust(4096, b"\0")
    pdpt = struct.pack("<4Q", *((base + 0x2000 + 0x1000 * i) | table for i in range(4))).ljust(4096, b"\0")
    pages = IDENTITY_SIZE // PAGE_2M
    directories = struct.pack(f"<{pages}Q", *(i * PAGE_2M | table | PTE_PAGE_SIZE for i in range(pages)))
    return pml4 + pdpt + directories


def protected_mode_entry(rip: int, gdt_base: int, *, rax: int = 0, rbx: int) -> EntryState:
    """32-bit protected mode without paging, flat segments: what PVH and Multiboot ask for.

    `gdt_base` is where the caller put `gdt(CODE32_SEGMENT)`.
    """
    return EntryState(
        rip=rip,
        cs=CODE32_SEGMENT,
        ds=DATA_SEGMENT,
        es=DATA_SEGMENT,
        ss=DATA_SEGMENT,
        fs=DATA_SEGMENT,
        gs=DATA_SEGMENT,
        tr=TSS_SEGMENT,
        gdtr=DescriptorTable(gdt_base, GDT_SIZE - 1),
        cr0=CR0_PE | CR0_ET,
        rax=rax,
        rbx=rbx,
    )


def long_mode_entry(rip: int, gdt_base: int, page_tables: int, *, rsi: int) -> EntryState:
    """64-bit mode on identity page tables, interrupts off: what the Linux 64-bit boot protocol asks for.

    `gdt_base` is where the caller put `gdt(CODE64_SEGMENT)`, `page_tables` where it put
    `identity_page_tables`.
    """
    return EntryState(
        rip=rip,
        cs=CODE64_SEGMENT,
        ds=DATA_SEGMENT,
        es=DATA_SEGMENT,
        ss=DATA_SEGMENT,
        fs=DATA_SEGMENT,
        gs=DATA_SEGMENT,
        tr=TSS_SEGMENT,
        gdtr=DescriptorTable(gdt_base, GDT_SIZE - 1),
        cr0=CR0_PE | CR0_ET | CR0_PG,
        cr3=page_tables,
        cr4=CR4_PAE,
        efer=EFER_LME | EFER_LMA,
        rsi=rsi,
    )
