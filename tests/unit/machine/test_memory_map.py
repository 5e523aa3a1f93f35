from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirt.machine.memory_map import (
    GIB,
    HIGH_RAM_BASE,
    LOW_RAM_LIMIT,
    MIB,
    PAGE_SIZE,
    VGA_BASE,
    VGA_END,
    E820Type,
    Range,
    memory_map,
)


def test_small_machine_has_all_ram_below_the_hole() -> None:
    layout = memory_map(512 * MIB)
    assert [(r.address, r.size, r.offset) for r in layout.ram] == [
        (0, VGA_BASE, 0),
        (VGA_END, 512 * MIB - VGA_END, VGA_END),
    ]
    assert layout.usable == (Range(0, 0x9FC00), Range(MIB, 512 * MIB))
    assert layout.pci64 == Range(4 * GIB, 36 * GIB)


def test_large_machine_continues_above_4_gib() -> None:
    layout = memory_map(6 * GIB)
    assert layout.low_end == LOW_RAM_LIMIT
    assert layout.high_end == 7 * GIB
    assert layout.ram[-1].address == HIGH_RAM_BASE
    assert layout.ram[-1].offset == 3 * GIB
    assert layout.ram[-1].size == 3 * GIB
    assert layout.pci64 == Range(7 * GIB, 39 * GIB)


@given(pages=st.integers(256, 1 << 24), bits=st.integers(36, 52))
def test_ranges_never_overlap_and_account_for_all_ram(pages: int, bits: int) -> None:
    try:
        layout = memory_map(pages * PAGE_SIZE, bits)
    except ValueError:
        assert HIGH_RAM_BASE + pages * PAGE_SIZE - LOW_RAM_LIMIT > 1 << bits
        return
    assert sum(r.size for r in layout.ram) == layout.ram_size - (VGA_END - VGA_BASE)
    assert max(r.offset + r.size for r in layout.ram) == layout.ram_size
    e820 = [entry.range for entry in layout.e820]
    assert e820 == sorted(e820, key=lambda r: r.base)
    windows = [*e820, layout.pci32, *([layout.pci64] if layout.pci64 else [])]
    for i, one in enumerate(windows):
        assert one.size > 0
        assert not any(one.overlaps(other) for other in windows[i + 1 :])
        assert one.end <= 1 << max(bits, 32)
    ram = [Range(r.address, r.address + r.size) for r in layout.ram]
    assert all(any(r.contains(u.base, u.size) for r in ram) for u in layout.usable)


def test_narrow_address_space_has_no_64_bit_window() -> None:
    assert memory_map(3 * GIB, 32).pci64 is None


@pytest.mark.parametrize(
    ("size", "bits", "message"),
    [
        (0, 40, "at least 1 MiB"),
        (MIB + 1, 40, "no multiple of 4 KiB"),
        (4 * GIB, 32, "at most 3072 MiB do"),
        (MIB, 53, "32 to 52 bits"),
    ],
)
def test_impossible_sizes_are_refused_with_a_reason(size: int, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_map(size, bits)


def test_reserved_areas_hold_firmware_and_ebda() -> None:
    reserved = [e.range for e in memory_map(256 * MIB).e820 if e.type is E820Type.RESERVED]
    for address in (0x9FC00, 0xE0000, 0xFFFFF, 0xFEFF_C000, 0xFFFF_FFF0):
        assert any(r.contains(address, 1) for r in reserved)
