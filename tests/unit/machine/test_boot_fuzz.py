"""Damaged images of every format: BootError or success, nothing else, and no write outside usable RAM and
what belongs to a BIOS.
"""

from __future__ import annotations

import gzip

from hypothesis import example, given, settings
from hypothesis import strategies as st

from unit.machine import kernels
from unit.machine.sparse_ram import SparseRam
from wirt.machine import boot
from wirt.machine.memory_map import MIB, Range, memory_map

LAYOUT = memory_map(48 * MIB)
LOW_BIOS_DATA = Range(0, 0x500)
BIOS_AREA = Range(0xE_0000, 0x10_0000)
INITRD = kernels.cpio({"init": b"#!/bin/sh\n", "dev/console": b""})

KERNELS = (
    kernels.bzimage(),
    kernels.bzimage(relocatable=0),
    kernels.pvh_elf(),
    kernels.pvh_elf(bits=32),
    kernels.multiboot_elf(),
    kernels.multiboot_elf(bits=64),
    kernels.multiboot_flat(),
)
INITRDS = (INITRD, gzip.compress(INITRD), bytes(100) + INITRD, b"\x28\xb5\x2f\xfd\x20\x04\x21\x00\x00text")

INTERESTING = st.sampled_from(
    (0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1, 0xA_0000, 48 * MIB)
)
DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 0x300), st.sampled_from((1, 2, 4, 8)), INTERESTING | st.integers(0, (1 << 64) - 1)
    ),
    max_size=4,
)


def damaged(data: bytes, damage: list[tuple[int, int, int]], length: int) -> bytes:
    mutable = bytearray(data)
    for offset, size, value in damage:
        at = offset % len(mutable)
        mutable[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(mutable[:length])


def load_safely(kernel: bytes, initrd: bytes | None, cmdline: str = "") -> None:
    memory = SparseRam(LAYOUT)
    try:
        state = boot.load(memory, LAYOUT, kernel, initrd, cmdline)
    except boot.BootError as error:
        message = str(error)
        assert message.startswith("The ")
        assert message.endswith(".")
        assert "\n" not in message
    else:
        assert any(r.contains(state.rip, 1) for r in (*LAYOUT.usable, BIOS_AREA))
    for write in memory.writes:
        inside = any(r.contains(write.base, write.size) for r in (*LAYOUT.usable, BIOS_AREA))
        assert inside
        assert write.base >= 0x1000 or LOW_BIOS_DATA.contains(write.base, write.size)


@settings(max_examples=1000, deadline=None)
@given(kernel=st.sampled_from(KERNELS), damage=DAMAGE, length=st.just(1 << 20) | st.integers(1, 0x1800))
@example(kernel=kernels.bzimage(), damage=[(0x1F1, 1, 0)], length=1 << 20)
def test_damaged_kernel(kernel: bytes, damage: list[tuple[int, int, int]], length: int) -> None:
    load_safely(damaged(kernel, damage, length), INITRD)


@settings(max_examples=500, deadline=None)
@given(initrd=st.sampled_from(INITRDS), damage=DAMAGE, length=st.just(1 << 20) | st.integers(1, 500))
def test_damaged_initrd(initrd: bytes, damage: list[tuple[int, int, int]], length: int) -> None:
    load_safely(kernels.bzimage(), damaged(initrd, damage, length))


@settings(max_examples=300, deadline=None)
@given(kernel=st.binary(min_size=1, max_size=600), cmdline=st.text(max_size=50))
def test_random_bytes(kernel: bytes, cmdline: str) -> None:
    load_safely(kernel, None, cmdline)
