from __future__ import annotations

import struct
from pathlib import Path

import pytest

from unit.machine import kernels
from unit.machine.sparse_ram import SparseRam
from wirt.machine import boot
from wirt.machine.memory_map import MIB, memory_map


def load(
    kernel: bytes | Path, initrd: bytes | Path | None = None, cmdline: str = "", ram: int = 64 * MIB
) -> tuple[SparseRam, boot.EntryState]:
    memory = SparseRam(memory_map(ram))
    return memory, boot.load(memory, memory.layout, kernel, initrd, cmdline)


def set_up(memory: SparseRam, state: boot.EntryState) -> tuple[int, int]:
    """Follow the code that runs before the kernel: what it leaves in EAX, and where it goes."""
    at = state.rip
    while memory.read(at, 1) == b"\xb0":  # mov al, n; out n, al
        assert memory.read(at + 2, 1) == b"\xe6"
        at += 4
    move, eax, jump, distance = struct.unpack("<BIBi", memory.read(at, 10))
    assert (move, jump) == (0xB8, 0xE9)
    return eax, at + 10 + distance


def c_string(memory: SparseRam, address: int) -> bytes:
    return memory.read(address, 256).split(b"\0")[0]


@pytest.mark.parametrize("bits", [32, 64])
def test_elf_kernel_is_entered_with_the_loaders_magic(bits: int) -> None:
    memory, state = load(kernels.multiboot_elf(bits=bits))
    assert set_up(memory, state) == (0x2BADB002, 0x10_000C)
    assert state.cr0 == 0x11
    assert state.rbx + 120 < 0xA_0000
    assert memory.read(0x10_000C, len(kernels.PAYLOAD)) == kernels.PAYLOAD


def test_information_structure_describes_the_machine(tmp_path: Path) -> None:
    kernel, environment = tmp_path / "apic test.elf", tmp_path / "env"
    kernel.write_bytes(kernels.multiboot_elf())
    environment.write_bytes(b"NR_CPUS=2\nMEMSIZE=64\n")
    memory, state = load(kernel, environment, "-v x")
    info = memory.read(state.rbx, 120)
    flags, lower, upper = struct.unpack_from("<III", info, 0)
    assert flags == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert (lower, upper) == (639, 63 * 1024)
    cmdline, modules, module_list = struct.unpack_from("<III", info, 16)
    assert c_string(memory, cmdline) == b"apic_test.elf -v x"
    assert modules == 1
    start, end, name, reserved = struct.unpack("<IIII", memory.read(module_list, 16))
    assert start % 4096 == 0
    assert memory.read(start, end - start) == environment.read_bytes()
    assert (c_string(memory, name), reserved) == (b"env", 0)
    length, at = struct.unpack_from("<II", info, 44)
    entries = list(struct.iter_unpack("<IQQI", memory.read(at, length)))
    assert entries == [(20, e.base, e.size, e.type) for e in memory.layout.e820]
    (loader,) = struct.unpack_from("<I", info, 64)
    assert c_string(memory, loader) == b"Wirt"


def test_without_initrd_there_are_no_modules() -> None:
    memory, state = load(kernels.multiboot_elf())
    flags = int.from_bytes(memory.read(state.rbx, 4), "little")
    assert not flags & 1 << 3


def test_virtual_entry_of_a_higher_half_kernel_becomes_physical() -> None:
    code = kernels.multiboot_header() + kernels.PAYLOAD
    segment = kernels.Segment(1, code, paddr=0x10_0000, vaddr=0xC010_0000)
    memory, state = load(kernels.elf([segment], bits=32, entry=0xC010_000C, machine=3))
    assert set_up(memory, state)[1] == 0x10_000C


def test_addresses_in_the_header_override_the_file_format() -> None:
    memory = SparseRam(memory_map(64 * MIB))
    memory.fill(0x10_0000, 0x3000, 0xAA)
    image = kernels.multiboot_flat()
    state = boot.load(memory, memory.layout, image)
    assert set_up(memory, state)[1] == 0x10_0030
    assert memory.read(0x10_0000, 0x3000) == image + bytes(0x1800) + b"\xaa" * 0x1000


def test_zero_load_end_means_the_rest_of_the_file() -> None:
    image = kernels.multiboot_flat(load_end_addr=0, bss_end_addr=0)
    memory, _ = load(image)
    assert memory.read(0x10_0000, len(image)) == image


def test_kernel_over_all_base_memory_pushes_boot_data_up() -> None:
    image = kernels.multiboot_flat(load_addr=0x1000, header_addr=0x1010, bss_end_addr=0x9_FC00)
    _, state = load(image)
    assert state.rbx >= MIB
    assert state.gdtr.base >= MIB


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (kernels.multiboot_header(flags=1 << 5).ljust(64), "features that do not exist"),
        (kernels.multiboot_header().ljust(64), "without addresses, but is no ELF"),
        (kernels.multiboot_header(checksum=1).ljust(64), "is not a kernel"),
        (b"x" + kernels.multiboot_header().ljust(64), "is not a kernel"),
        (bytes(8192) + kernels.multiboot_header(), "is not a kernel"),
        (kernels.multiboot_header(flags=1 << 16), "truncated"),
        (kernels.multiboot_flat(header_addr=0x0F_0000), "contradict each other"),
        (kernels.multiboot_flat(header_addr=0x10_0011), "contradict each other"),
        (kernels.multiboot_flat(load_end_addr=0x0F_F000), "contradict each other"),
        (kernels.multiboot_flat(entry_addr=0x20_0000), "contradict each other"),
        (kernels.multiboot_flat(load_end_addr=0x10_0801), "truncated"),
        (kernels.multiboot_flat(bss_end_addr=0xFFFF_FFFF), "no RAM in any machine"),
    ],
)
def test_bad_headers_are_refused_with_a_reason(kernel: bytes, message: str) -> None:
    with pytest.raises(boot.BootError, match=message):
        load(kernel)
