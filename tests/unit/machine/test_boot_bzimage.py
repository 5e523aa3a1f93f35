from __future__ import annotations

import struct

import pytest

from unit.machine import kernels
from unit.machine.sparse_ram import SparseRam
from wirt.machine import boot
from wirt.machine.boot.state import ACCESS_DB, ACCESS_L
from wirt.machine.memory_map import GIB, LOW_RAM_LIMIT, MIB, Range, memory_map


def load(
    kernel: bytes, initrd: bytes | None = None, cmdline: str = "", ram: int = 64 * MIB
) -> tuple[SparseRam, boot.EntryState]:
    memory = SparseRam(memory_map(ram))
    return memory, boot.load(memory, memory.layout, kernel, initrd, cmdline, acpi_rsdp=0xE0000)


def translate(memory: SparseRam, cr3: int, address: int) -> int:
    """Walk 4-level page tables as the processor does, 2 MiB pages only."""
    table = cr3
    for shift in (39, 30, 21):
        entry = int.from_bytes(memory.read(table + 8 * (address >> shift & 511), 8), "little")
        assert entry & 3 == 3
        table = entry & 0xF_FFFF_FFFF_F000
    assert entry & 0x80
    return table | address & 0x1F_FFFF


def test_entry_state_is_that_of_the_64_bit_boot_protocol() -> None:
    memory, state = load(kernels.bzimage())
    assert state.rip == 0x100_0200
    assert memory.read(0x100_0000, len(kernels.PAYLOAD)) == kernels.PAYLOAD
    assert state.cr0 & 0x8000_0001 == 0x8000_0001
    assert state.cr4 == 0x20
    assert state.efer == 0x500
    assert state.rflags == 2
    assert (state.cs.selector, state.ds.selector, state.es.selector, state.ss.selector) == (
        0x10,
        0x18,
        0x18,
        0x18,
    )
    assert state.cs.access & (ACCESS_L | ACCESS_DB) == ACCESS_L
    for address in (0, state.rip, state.rsi, 0xFFFF_FFFF):
        assert translate(memory, state.cr3, address) == address


def test_gdt_in_memory_matches_the_segment_registers() -> None:
    memory, state = load(kernels.bzimage())
    gdt = memory.read(state.gdtr.base, state.gdtr.limit + 1)
    assert gdt[:16] == bytes(16)
    assert gdt[0x10:0x18].hex() == "ffff0000009baf00"
    assert gdt[0x18:0x20].hex() == "ffff00000093cf00"
    assert gdt[0x20:0x28].hex() == "67000000008b0000"


def test_zero_page_holds_the_kernels_header_and_the_machine() -> None:
    initrd = kernels.cpio({"init": b"#!/bin/sh"})
    memory, state = load(kernels.bzimage(), initrd, "console=ttyS0", ram=6 * GIB)
    page = memory.read(state.rsi, 4096)
    assert struct.unpack_from("<Q", page, 0x70) == (0xE0000,)
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x1EF] == 0
    assert page[0x210] == 0xFF
    assert struct.unpack_from("<Q", page, 0x250) == (0,)
    (cmdline,) = struct.unpack_from("<I", page, 0x228)
    assert memory.read(cmdline, 14) == b"console=ttyS0\0"
    address, size = struct.unpack_from("<II", page, 0x218)
    assert address % 4096 == 0
    assert address + size <= 0x8000_0000 < address + size + 4096
    assert memory.read(address, size) == initrd
    assert page[0xC0:0xCC] == bytes(12)
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(page[0x1E8])]
    assert entries == [(e.base, e.size, e.type) for e in memory.layout.e820]
    assert (4 * GIB, 3 * GIB, 1) in entries


def test_initrd_ends_at_the_end_of_low_memory_where_the_kernel_allows_it() -> None:
    memory, state = load(kernels.bzimage(initrd_addr_max=0xFFFF_FFFF), b"\x01" * 4096, ram=6 * GIB)
    assert struct.unpack_from("<I", memory.read(state.rsi, 4096), 0x218) == (LOW_RAM_LIMIT - 4096,)


def test_boot_data_stays_clear_of_the_pages_under_the_ebda() -> None:
    memory, _ = load(kernels.bzimage(cmdline_size=65535), None, "x" * 65535)
    low = [w for w in memory.writes if 0x1000 <= w.base < MIB]
    assert low
    assert all(Range(0x1000, 0x9_0000).contains(w.base, w.size) for w in low)


def test_command_line_may_be_as_long_as_the_kernel_says_and_no_longer() -> None:
    load(kernels.bzimage(cmdline_size=10), None, "x" * 10)
    with pytest.raises(boot.BootError, match="has 11 bytes, but this kernel takes at most 10"):
        load(kernels.bzimage(cmdline_size=10), None, "x" * 11)


def test_fixed_kernel_is_loaded_at_1_mib_and_may_move_itself() -> None:
    memory, state = load(kernels.bzimage(relocatable=0), b"\x01" * (40 * MIB))
    assert state.rip == MIB + 0x200
    assert memory.read(MIB, len(kernels.PAYLOAD)) == kernels.PAYLOAD
    (initrd,) = struct.unpack_from("<I", memory.read(state.rsi, 4096), 0x218)
    assert initrd >= 0x140_0000


def test_last_paragraph_may_be_short() -> None:
    memory, _ = load(kernels.bzimage(payload=kernels.PAYLOAD[:-9]))
    assert memory.read(0x100_0000, len(kernels.PAYLOAD)) == kernels.PAYLOAD[:-9] + bytes(9)


def test_bytes_behind_the_code_are_not_loaded() -> None:
    memory, _ = load(
        kernels.bzimage(payload=kernels.PAYLOAD + b"signature", syssize=len(kernels.PAYLOAD) // 16)
    )
    assert memory.read(0x100_0000 + len(kernels.PAYLOAD), 9) == bytes(9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 0x20B}, "boot protocol 2.11: at least 2.12"),
        ({"xloadflags": 0}, "32-bit kernel without a 64-bit entry"),
        ({"loadflags": 0}, "zImage"),
        ({"syssize": 0}, "holds no code"),
        ({"syssize": 257}, "truncated: it has 6656 bytes, but its headers ask for 6672"),
        ({"syssize": 0xFFFF_FFFF}, "truncated"),
        ({"kernel_alignment": 0}, "no power of two"),
        ({"kernel_alignment": 0x30_0000}, "no power of two"),
        ({"pref_address": 0xFFFF_FFFF_FFFF_0000}, "beyond the first 4 GiB"),
        ({"pref_address": 0xC000_0000}, "no RAM in any machine"),
        ({"pref_address": 0, "kernel_alignment": 1}, "no RAM in any machine"),
        ({"init_size": 0xFFFF_FFFF}, "beyond the first 4 GiB"),
        ({"init_size": 0x400_0000}, "give it 96 MiB or more"),
        ({"init_size": 0x400_0000, "relocatable": 0}, "give it 96 MiB or more"),
    ],
)
def test_bad_headers_are_refused_with_a_reason(fields: dict[str, int], message: str) -> None:
    with pytest.raises(boot.BootError, match=message):
        load(kernels.bzimage(**fields))  # type: ignore[arg-type]


def test_initrd_above_the_kernels_limit_is_refused() -> None:
    with pytest.raises(boot.BootError, match="too large: its 16 MiB do not fit below 32 MiB"):
        load(kernels.bzimage(initrd_addr_max=0x1FF_FFFF, init_size=8 * MIB), b"\x01" * (16 * MIB))
