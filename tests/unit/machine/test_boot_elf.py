from __future__ import annotations

import struct

import pytest

from unit.machine import kernels
from unit.machine.kernels import PAYLOAD, Segment
from unit.machine.sparse_ram import SparseRam
from wirt.machine import boot
from wirt.machine.boot.state import ACCESS_DB, ACCESS_L
from wirt.machine.memory_map import GIB, MIB, memory_map

PVH_NOTE = Segment(4, kernels.note(b"Xen\0", 18, (0x10_0000).to_bytes(4, "little")))


def load(
    kernel: bytes, initrd: bytes | None = None, cmdline: str = "", ram: int = 64 * MIB
) -> tuple[SparseRam, boot.EntryState]:
    memory = SparseRam(memory_map(ram))
    return memory, boot.load(memory, memory.layout, kernel, initrd, cmdline, acpi_rsdp=0xE0000)


@pytest.mark.parametrize("bits", [32, 64])
def test_pvh_enters_flat_protected_mode_at_the_notes_address(bits: int) -> None:
    _, state = load(kernels.pvh_elf(entry=0x10_0040, bits=bits))
    assert state.rip == 0x10_0040
    assert state.cr0 == 0x11
    assert state.cr3 == state.cr4 == state.efer == 0
    assert state.cs.access & (ACCESS_L | ACCESS_DB) == ACCESS_DB
    assert state.cs.base == state.ds.base == 0
    assert state.cs.limit == state.ds.limit == 0xFFFF_FFFF
    assert state.tr.access & 0x8F == 0x8B


def test_start_info_leads_to_memory_map_module_command_line_and_rsdp() -> None:
    initrd = kernels.cpio({"init": b"#!/bin/sh"})
    memory, state = load(kernels.pvh_elf(), initrd, "console=ttyS0", ram=5 * GIB)
    info = struct.unpack("<IIIIQQQQII", memory.read(state.rbx, 56))
    magic, version, flags, modules, modlist, cmdline, rsdp, memmap, entries, reserved = info
    assert (magic, version, flags, modules, rsdp, reserved) == (0x336EC578, 1, 0, 1, 0xE0000, 0)
    assert memory.read(cmdline, 14) == b"console=ttyS0\0"
    address, size, _, _ = struct.unpack("<QQQQ", memory.read(modlist, 32))
    assert memory.read(address, size) == initrd
    found = [struct.unpack("<QQII", memory.read(memmap + 24 * i, 24)) for i in range(entries)]
    assert found == [(e.base, e.size, e.type, 0) for e in memory.layout.e820]


def test_without_initrd_there_is_no_module() -> None:
    memory, state = load(kernels.pvh_elf())
    assert struct.unpack("<IIIIQ", memory.read(state.rbx, 24))[3:] == (0, 0)


def test_bss_is_cleared_over_what_ram_held_before() -> None:
    memory = SparseRam(memory_map(64 * MIB))
    memory.fill(0x10_0000, 0x4000, 0xAA)
    boot.load(memory, memory.layout, kernels.pvh_elf())
    assert memory.read(0x10_0000, 0x4000) == PAYLOAD + bytes(0x3000 - len(PAYLOAD)) + b"\xaa" * 0x1000


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (kernels.elf([PVH_NOTE], machine=183), "another processor"),
        (kernels.elf([PVH_NOTE], kind=1), "object file"),
        (kernels.elf([]), "0 program headers"),
        (kernels.elf([PVH_NOTE] * 129), "129 program headers"),
        (kernels.elf([PVH_NOTE]), "lies outside of what it loads"),
        (kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x20_0000)]), "lies outside of what it loads"),
        (kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x10_0000, file_size=1 << 63)]), "truncated"),
        (kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x10_0000, offset=1 << 63)]), "truncated"),
        (kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x10_0000, memory_size=16)]), "larger in the file"),
        (
            kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x10_0000), Segment(1, PAYLOAD, 0x10_0800)]),
            "overlaps another part",
        ),
        (
            kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x10_0000), Segment(1, PAYLOAD, 64 * MIB - 1)]),
            "give it 81 MiB or more",
        ),
        (
            kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x10_0000), Segment(1, PAYLOAD, (1 << 64) - 1)]),
            "no RAM in any machine",
        ),
        (
            kernels.elf([PVH_NOTE, Segment(1, PAYLOAD, 0x10_0000), Segment(1, PAYLOAD, 0xA_0000)]),
            "no RAM in any machine",
        ),
        (kernels.elf([Segment(4, b"", file_size=1 << 40)]), "its notes have"),
        (kernels.elf([Segment(4, PVH_NOTE.data[:-2])]), "PVH note is cut off"),
    ],
)
def test_bad_elf_files_are_refused_with_a_reason(kernel: bytes, message: str) -> None:
    with pytest.raises(boot.BootError, match=message):
        load(kernel)


def test_note_of_absurd_length_ends_the_search() -> None:
    absurd = struct.pack("<III", 0xFFFF_FFFF, 0xFFFF_FFFF, 18) + PVH_NOTE.data
    with pytest.raises(boot.BootError, match="neither a PVH note nor a Multiboot header"):
        load(kernels.elf([Segment(4, absurd)]))


def test_initrd_stays_below_4_gib_on_a_large_machine() -> None:
    memory, state = load(kernels.pvh_elf(), b"\x01" * 4096, ram=8 * GIB)
    (modlist,) = struct.unpack("<Q", memory.read(state.rbx + 16, 8))
    assert struct.unpack("<QQ", memory.read(modlist, 16)) == (3 * GIB - 4096, 4096)
