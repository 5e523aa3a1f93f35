"""A bare guest reads fw_cfg: by ports, by string instruction, and by DMA."""

from __future__ import annotations

import struct

import bare
import wirt

FILE = bytes(range(1, 200))

BY_PORT = """
    mov dx, 0x510
    xor ax, ax
    out dx, ax
    mov dx, 0x511
    mov di, 0x900
    mov cx, 6
    rep insb
    mov dx, 0x510
    mov ax, 5
    out dx, ax
    mov dx, 0x511
    in al, dx
    mov [0x910], al
    mov dx, 0x514
    in eax, dx
    mov [0x914], eax
"""

# Looks for opt/x in the directory, then lets DMA bring the file to 0x3000. si: an entry; cx: entries left.
BY_DMA = """
    mov dword ptr [0x800], 0x0a001900   # big-endian: select 0x19, read
    mov dword ptr [0x804], 0x00100000   # 4096 bytes
    mov dword ptr [0x80c], 0x00200000   # to 0x2000
    call transfer
    mov cx, [0x2002]
    xchg cl, ch
    mov si, 0x2004
find:
    cmp dword ptr [si + 8], 0x2f74706f  # "opt/"
    jne next
    cmp word ptr [si + 12], 0x0078      # "x"
    je found
next:
    add si, 64
    loop find
    hlt
found:
    mov ax, [si + 4]                    # the selector as it lies there: big-endian
    mov [0x800], ax
    mov word ptr [0x802], 0x0a00        # select and read
    mov eax, [si]
    mov [0x804], eax
    mov dword ptr [0x80c], 0x00300000   # to 0x3000
    call transfer
    mov dword ptr [0x800], 0x02000000   # read
    mov dword ptr [0x804], 0xffffffff   # 4 GiB
    mov dword ptr [0x80c], 0x00001000   # to 1 MiB, from where on RAM ends after another
    call transfer
    mov eax, [0x800]
    mov [0x820], eax
    jmp end
transfer:
    mov dx, 0x514
    xor eax, eax
    out dx, eax
    mov eax, 0x00080000                 # 0x800, big-endian
    mov dx, 0x518
    out dx, eax
wait:
    test dword ptr [0x800], 0xfeffffff  # done when nothing but the error bit is left
    jnz wait
    ret
"""

END = """
end:
    mov dx, 0xf4
    mov al, 3
    out dx, al
"""


def test_signature_by_ports(accelerator: str) -> None:
    with bare.real_mode_vm(BY_PORT + END, accelerator, cpus=2) as vm:
        assert vm.wait(20).exit_status == 7
        assert vm.memory.read(0x900, 6) == b"QEMU\0\0"
        assert vm.memory.read(0x910, 1) == b"\2"
        assert vm.memory.read(0x914, 4) == b"QEMU"


def test_file_by_dma_and_a_hostile_length(accelerator: str) -> None:
    with bare.real_mode_vm(BY_DMA + END, accelerator, fw_cfg={"opt/x": FILE}) as vm:
        assert vm.wait(20).exit_status == 7
        assert vm.memory.read(0x3000, len(FILE) + 1) == FILE + b"\0"
        assert struct.unpack(">I", vm.memory.read(0x820, 4)) == (1,)


def test_bus_map_names_it(accelerator: str) -> None:
    with wirt.VM(memory="1M", accel=accelerator) as vm:
        assert ("port", 0x510, 0x51B, "fw_cfg") in vm.bus_map()
