"""The fw_cfg device by its ports, over real guest memory and made-up contents."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirt import _core
from wirt.devices.fw_cfg import Contents, FwCfg

RAM = 0x10_0000
ROM = RAM, 0x1000
DESCRIPTOR = 0x2000
TARGET = 0x3000
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16

FILES = {"opt/b": bytes(range(256)) * 3, "etc/a": b"first", "opt/empty": b""}


def memory() -> _core.GuestMemory:
    return _core.GuestMemory([(0, RAM, 0, False), (*ROM, RAM, True)])


class Guest:
    """What a driver does."""

    def __init__(self) -> None:
        self.memory = memory()
        self.device = FwCfg(self.memory, lambda: Contents({5: b"\2\0"}, FILES))

    def read(self, selector: int, size: int) -> bytes:
        self.device.write(0, 2, selector)
        return self.more(size)

    def more(self, size: int) -> bytes:
        return bytes(self.device.read(1, 1) for _ in range(size))

    def dma(self, control: int, length: int, address: int = TARGET, descriptor: int = DESCRIPTOR) -> int:
        """Run one command; return its control field after it."""
        self.memory.write(descriptor, struct.pack(">IIQ", control, length, address))
        self.kick(descriptor)
        return int.from_bytes(self.memory.read(descriptor, 4), "big")

    def kick(self, descriptor: int) -> None:
        high, low = struct.unpack("<II", descriptor.to_bytes(8, "big"))
        self.device.write(4, 4, high)
        self.device.write(8, 4, low)


def test_signature_is_selected_at_power_on_and_zeros_follow_it() -> None:
    assert Guest().more(6) == b"QEMU\0\0"


def test_items_by_port() -> None:
    guest = Guest()
    assert guest.read(0x00, 5) == b"QEMU\0"
    assert guest.read(0x01, 4) == b"\3\0\0\0"
    assert guest.read(0x05, 3) == b"\2\0\0"
    assert guest.read(0x4005, 2) == b"\2\0", "the write bit of old does not matter"
    assert guest.read(0x777, 4) == guest.read(0x8005, 4) == bytes(4), "nothing there"


def test_directory_leads_to_every_file() -> None:
    guest = Guest()
    (count,) = struct.unpack(">I", guest.read(0x19, 4))
    entries = [struct.unpack(">IHH56s", guest.more(64)) for _ in range(count)]
    assert guest.more(8) == bytes(8)
    names = [name.rstrip(b"\0").decode() for *_, name in entries]
    assert names == ["etc/a", "opt/b", "opt/empty"]
    for (size, selector, reserved, _), name in zip(entries, names, strict=True):
        assert reserved == 0
        assert selector >= 0x20
        assert guest.read(selector, size + 2) == FILES[name] + b"\0\0"


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 4), (1, 1), (2, 2), (4, 2), (8, 2), (8, 1)])
def test_other_writes_change_nothing(offset: int, size: int) -> None:
    guest = Guest()
    guest.read(5, 1)
    guest.device.write(offset, size, 0)
    assert guest.more(1) == b"\0"
    assert guest.read(5, 2) == b"\2\0"
    assert guest.memory.read(0, 16) == bytes(16)


def test_dma_register_reads_its_signature() -> None:
    device = Guest().device
    assert device.read(4, 4).to_bytes(4, "little") + device.read(8, 4).to_bytes(4, "little") == b"QEMU CFG"
    assert (device.read(5, 1), device.read(10, 2)) == (ord("E"), 0x4746)


def test_dma_selects_reads_and_fills_with_zeros() -> None:
    guest = Guest()
    guest.memory.write(TARGET, b"\xff" * 1000)
    assert guest.dma(0x21 << 16 | SELECT | READ, 900) == 0
    assert guest.memory.read(TARGET, 901) == FILES["opt/b"] + bytes(900 - 768) + b"\xff"


def test_dma_goes_on_where_the_ports_were_and_skips() -> None:
    guest = Guest()
    guest.read(0x21, 10)
    assert guest.dma(SKIP, 20, address=1 << 63) == 0
    assert guest.dma(READ, 4) == 0
    assert guest.memory.read(TARGET, 4) == FILES["opt/b"][30:34]
    assert guest.more(1) == FILES["opt/b"][34:35]
    assert guest.dma(SKIP, 0xFFFF_FFFF) == 0
    assert guest.more(2) == b"\0\0"


def test_dma_select_alone_and_nothing_at_all_succeed() -> None:
    guest = Guest()
    assert guest.dma(5 << 16 | SELECT, 100) == 0
    assert guest.more(2) == b"\2\0"
    assert guest.dma(0, 100) == 0
    assert guest.dma(READ, 0, address=1 << 63) == 0


def test_items_cannot_be_written() -> None:
    guest = Guest()
    guest.memory.write(TARGET, b"\xaa\xaa")
    assert guest.dma(5 << 16 | SELECT | WRITE, 2) == ERROR
    guest.device.write(1, 1, 0xAA)
    assert guest.read(5, 2) == b"\2\0"


@pytest.mark.parametrize(
    "address", [RAM, ROM[0] + 0x10, RAM - 1, 0x4000_0000, (1 << 64) - 1, (1 << 64) - 0x100, 1 << 63]
)
def test_dma_outside_ram_ends_with_the_error_bit(address: int) -> None:
    guest = Guest()
    assert guest.dma(0x21 << 16 | SELECT | READ, 0x100, address) == ERROR
    assert guest.memory.read(ROM[0], 0x200) == bytes(0x200)
    assert guest.dma(READ, 4) == 0, "the next command is carried out"


@pytest.mark.parametrize("descriptor", [RAM - 8, ROM[0], ROM[0] + 0x1000, (1 << 64) - 4, 1 << 60])
def test_descriptor_outside_ram_changes_no_rom(descriptor: int) -> None:
    guest = Guest()
    guest.kick(descriptor)
    assert guest.memory.read(ROM[0], 0x1000) == bytes(0x1000)


def test_dma_over_its_own_descriptor_reports_last() -> None:
    guest = Guest()
    assert guest.dma(0x21 << 16 | SELECT | READ, 64, address=DESCRIPTOR) == 0
    assert guest.memory.read(DESCRIPTOR + 4, 4) == FILES["opt/b"][4:8]


def test_hostile_length_ends_at_the_end_of_ram() -> None:
    guest = Guest()
    begin = time.monotonic()
    assert guest.dma(0x21 << 16 | SELECT | READ, 0xFFFF_FFFF) == ERROR
    assert time.monotonic() - begin < 5


def test_contents_are_made_once_and_only_when_asked() -> None:
    calls = []

    def contents() -> Contents:
        calls.append(1)
        return Contents({}, {})

    device = FwCfg(memory(), contents)
    assert device.read(1, 1) == ord("Q")
    assert calls == []
    device.write(0, 2, 5)
    device.write(0, 2, 0x19)
    assert calls == [1]


accesses = st.lists(
    st.tuples(
        st.sampled_from([(0, 2), (1, 1), (4, 4), (8, 4), (0, 1), (0, 4), (2, 2), (6, 1), (10, 2)]),
        st.booleans(),
        st.one_of(
            st.sampled_from([0, 5, 0x19, 0x21, 0x21_4000, 0x10_0000, 0x20_0000]), st.integers(0, 2**32 - 1)
        ),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(accesses, st.binary(max_size=64))
def test_random_accesses_never_fail_and_keep_to_their_sizes(
    steps: list[tuple[tuple[int, int], bool, int]], low_memory: bytes
) -> None:
    guest = Guest()
    guest.memory.write(0, low_memory)
    for (offset, size), is_write, value in steps:
        if is_write:
            guest.device.write(offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= guest.device.read(offset, size) < 1 << 8 * size
    assert guest.memory.read(ROM[0], 0x1000) == bytes(0x1000)
    assert guest.read(0x20, 5) == b"first"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1) | st.integers(0, RAM))
def test_random_descriptors_succeed_or_report_an_error(control: int, length: int, address: int) -> None:
    guest = Guest()
    assert guest.dma(control, length, address, descriptor=RAM - 16) in (0, ERROR)
    assert guest.read(0, 4) == b"QEMU"
