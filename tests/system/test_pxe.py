"""Booting from the network: SeaBIOS, the ROM of iPXE in a network card, DHCP and TFTP."""

from __future__ import annotations

from pathlib import Path

import pytest

import wirt
from bare import assemble
from pxe_server import PxeServer
from wirt.machine import rom

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
PROGRAM = """
    xor ax, ax
    mov ds, ax
    cld
    mov si, offset text
print:
    lodsb
    test al, al
    jz done
    mov ah, al
    mov dx, 0x3fd
full:
    in al, dx
    test al, 0x20
    jz full
    mov al, ah
    mov dx, 0x3f8
    out dx, al
    jmp print
done:
    mov al, 0x43
    cmp word ptr last, 0x4b4f
    jne quit
    mov al, 0x21
quit:
    mov dx, 0xf4
    out dx, al
text:
    .asciz "hello from the network\\r\\n"
    .org 20000
last:
    .ascii "OK"
"""
"""Says hello on the first serial port, and ends with status 2 * 0x21 + 1 if its last bytes came as well."""

pytestmark = [
    pytest.mark.skipif(not SEABIOS.is_file(), reason="SeaBIOS is not installed (Debian package seabios)"),
    pytest.mark.skipif(rom.ipxe("virtio") is None, reason="iPXE is not installed (Debian package ipxe-qemu)"),
    pytest.mark.timeout(120),
]


@pytest.mark.parametrize("model", ["virtio", "e1000"])
def test_a_program_is_booted_from_the_network(model: str) -> None:
    program = assemble(PROGRAM, address=0x7C00)
    with PxeServer({"boot/hello.0": program}) as server:
        card = wirt.Net(server.vm_end, model=model, mac="02:00:00:12:34:56")
        with wirt.VM(boot="net", nets=[card], devices=["isa-debug-exit"], accel="recompiler") as vm:
            vm.console.expect("hello from the network", timeout=100)
            assert vm.wait(20).exit_status == 2 * 0x21 + 1
    assert server.offered_to == {bytes.fromhex("020000123456")}
    assert set(server.requested) == {"boot/hello.0"}


def test_a_card_without_a_rom_does_not_boot(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with PxeServer({}) as server:
        with wirt.VM(disks=[disk], nets=[wirt.Net(server.vm_end, rom="none")], accel="recompiler") as vm:
            vm.console.expect("No bootable device", timeout=100)
            assert b"iPXE" not in vm.console.history()
        assert server.offered_to == set()


def test_the_network_is_tried_after_disks(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with PxeServer({"boot/hello.0": assemble(PROGRAM, address=0x7C00)}) as server:
        cards = [wirt.Net(), wirt.Net(server.vm_end, model="e1000")]
        with wirt.VM(disks=[disk], nets=cards, devices=["isa-debug-exit"], accel="recompiler") as vm:
            vm.console.expect("not a bootable disk", timeout=100)
            vm.console.expect("hello from the network", timeout=100)
            assert vm.wait(20).exit_status == 2 * 0x21 + 1
