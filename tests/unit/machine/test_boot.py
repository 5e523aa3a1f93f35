"""What `boot.load` decides before it knows the format: files, command lines, recognition."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unit.machine import kernels
from unit.machine.sparse_ram import SparseRam
from wirt.machine import boot
from wirt.machine.memory_map import MIB, memory_map


def load(kernel: bytes | Path, initrd: bytes | Path | None = None, cmdline: str = "") -> SparseRam:
    memory = SparseRam(memory_map(64 * MIB))
    boot.load(memory, memory.layout, kernel, initrd, cmdline)
    return memory


def test_files_and_bytes_load_alike(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernels.bzimage())
    (tmp_path / "initrd").write_bytes(kernels.cpio({"init": b"x" * 5000}))
    from_files = load(tmp_path / "vmlinuz", tmp_path / "initrd", "quiet")
    from_bytes = load(kernels.bzimage(), kernels.cpio({"init": b"x" * 5000}), "quiet")
    for region in from_files.layout.ram:
        assert from_files.read(region.address, region.size) == from_bytes.read(region.address, region.size)


def test_bios_data_area_names_the_ebda() -> None:
    memory = load(kernels.bzimage())
    assert memory.read(0x40E, 2) == (0x9FC0).to_bytes(2, "little")
    assert memory.read(0x413, 2) == (639).to_bytes(2, "little")


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (b"", "kernel is empty"),
        (b"#!/bin/sh\n", "is not a kernel"),
        (bytes(100_000), "is not a kernel"),
        (kernels.bzimage()[:0x230], "kernel is truncated"),
        (b"\x7fELF", "kernel is truncated"),
        (kernels.elf([kernels.Segment(1, b"\xf4", 0x10_0000)]), "neither a PVH note nor a Multiboot header"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel: bytes, message: str) -> None:
    with pytest.raises(boot.BootError, match=message):
        load(kernel)


def test_message_is_one_sentence_with_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(boot.BootError) as raised:
        load(path)
    assert str(raised.value) == (
        f"The kernel {path} is not a kernel: it is neither bzImage, nor ELF, nor Multiboot."
    )


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for name, message in [
        ("missing", "cannot be opened: No such file"),
        ("", "is not a regular file"),
        ("fifo", "is not a regular file"),
        ("empty", "is empty"),
        ("nul\0", "cannot be opened"),
    ]:
        with pytest.raises(boot.BootError, match=message):
            load(tmp_path / name)
        with pytest.raises(boot.BootError, match=f"initrd .*{message}"):
            load(kernels.bzimage(), tmp_path / name)


def test_endless_device_is_refused() -> None:
    with pytest.raises(boot.BootError, match="not a regular file"):
        load(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("cmdline", "message"), [("a\0b", "NUL character"), ("x" * 65537, "65537 bytes: at most 65536")]
)
@pytest.mark.parametrize("kernel", [kernels.bzimage(), kernels.pvh_elf(), kernels.multiboot_elf()])
def test_impossible_command_lines_are_refused(kernel: bytes, cmdline: str, message: str) -> None:
    with pytest.raises(boot.BootError, match=message):
        load(kernel, None, cmdline)


@pytest.mark.parametrize(
    ("kernel", "to_run"),
    [(kernels.bzimage(), 80 + 16), (kernels.pvh_elf(), 80 + 16), (kernels.multiboot_elf(), 0)],
)
def test_initrd_that_does_not_fit_says_how_much_memory_it_needs(kernel: bytes, to_run: int) -> None:
    """`to_run` is what Linux needs beside what is loaded: the unpacked initrd, and memory to work with."""
    initrd = b"\x01" * (80 * MIB)
    with pytest.raises(
        boot.BootUsageError, match=r"initrd of 80 MiB does not fit .* 64 MiB .* give it (\d+) MiB or more"
    ) as e:
        load(kernel, initrd)
    needed = int(str(e.value).split()[-4]) - to_run
    for size, fits in ((needed, True), (needed - 1, False)):
        memory = SparseRam(memory_map(size * MIB))
        if fits:
            boot.load(memory, memory.layout, kernel, initrd)
        else:
            with pytest.raises(boot.BootError, match="does not fit"):
                boot.load(memory, memory.layout, kernel, initrd)
