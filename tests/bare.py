"""Bare guests: a few instructions, assembled by the tests, on an otherwise empty machine."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import wirt

CODE: Final = 0x1000
"""Where the code of a bare guest lies, and where it begins."""
REAL_MODE_CODE: Final = wirt.Segment(selector=0, base=0, limit=0xFFFF, access=0x9B)
ECHO: Final = """
    mov esi, offset text
print:
    lodsb
    test al, al
    jz echo
    mov dx, 0x3f8
    out dx, al
    jmp print
echo:
    mov dx, 0x3fd
    in al, dx
    test al, 1
    jz echo
    mov dx, 0x3f8
    in al, dx
    cmp al, 'q'
    je quit
    xor al, 0x20
    out dx, al
    jmp echo
quit:
    mov dx, 0xf4
    mov al, 2
    out dx, al
text:
    .asciz "ready\\r\\n"
"""
"""Prints "ready" on the first serial port, then each byte it gets with 0x20 flipped; 'q' ends the machine
with status 5. For any mode.
"""
_MULTIBOOT_BASE: Final = 0x10_0000
_MULTIBOOT_HEADER_SIZE: Final = 32


@cache
def assemble(source: str, bits: int = 16, address: int = CODE) -> bytes:
    """Return the machine code of GNU assembler `source` (Intel syntax) for `address`."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        text = f".intel_syntax noprefix\n.code{bits}\n.globl _start\n_start:\n{source}\n"
        (directory / "guest.s").write_text(text)
        subprocess.run(["as", "--64", "-o", "guest.o", "guest.s"], cwd=directory, check=True)
        command = ["ld", f"-Ttext={address:#x}", "--oformat=binary", "-o", "guest.bin", "guest.o"]
        subprocess.run(command, cwd=directory, check=True)
        return (directory / "guest.bin").read_bytes()


def real_mode_vm(
    source: str,
    accelerator: str,
    devices: Sequence[wirt.Device | str] = (),
    *,
    cpus: int = 1,
    cpu: str = "host",
    reboot: bool = False,
    fw_cfg: Mapping[str, bytes] | None = None,
) -> wirt.VM:
    """A machine of 2 MiB, not yet started, whose vCPU 0 begins with `source` in real mode.

    A write to port 0xF4 ends it.
    """
    all_devices = ["isa-debug-exit", *devices]
    vm = wirt.VM(
        memory="2M",
        cpus=cpus,
        cpu=cpu,
        accel=accelerator,
        devices=all_devices,
        reboot=reboot,
        fw_cfg=fw_cfg,
    )
    vm.memory.write(CODE, assemble(source))
    vm.vcpus[0].set_registers(rip=CODE, cs=REAL_MODE_CODE, rsp=CODE)
    return vm


def multiboot(source: str) -> bytes:
    """A Multiboot kernel image at 1 MiB whose 32-bit code is `source`. Multiboot 0.6.96, section 3.1."""
    magic, flags, base = 0x1BADB002, 1 << 16, _MULTIBOOT_BASE
    start = base + _MULTIBOOT_HEADER_SIZE
    code = assemble(source, 32, start)
    end = start + len(code)
    fields = (magic, flags, -(magic + flags) & 0xFFFF_FFFF, base, base, end, end, start)
    return b"".join(field.to_bytes(4, "little") for field in fields) + code
