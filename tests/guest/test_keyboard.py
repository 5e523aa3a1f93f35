"""Bare guests hear keys and movements of the mouse: by polling, and by interrupts."""

from __future__ import annotations

import bare
import wirt
from wirt import _core

BYTES = 0x900
"""Where guests store what they read."""
READY = """
    mov dx, 0x3f8
    mov al, '!'
    out dx, al
"""
END = """
    xor al, al
    out 0xf4, al
"""
# Stores CX pairs: bit 5 of the status, which marks the mouse, and the byte.
TAKE = """
take:
    in al, 0x64
    test al, 1
    jz take
    and al, 0x20
    stosb
    in al, 0x60
    stosb
    loop take
    ret
"""
A = 0x1E
UP = 0xC8


def machine_of(vm: wirt.VM) -> _core.Machine:
    return vm._open_pc.machine


def write(port: int, value: int) -> str:
    return f"mov al, {value:#x}\n out {port:#x}, al\n"


def take(count: int) -> str:
    return f"mov cx, {count}\n call take\n"


def press(machine: _core.Machine, *codes: int) -> None:
    for code in codes:
        machine.key(code, True)
        machine.key(code, False)


def test_keys_are_polled_and_lights_are_seen(accelerator: str) -> None:
    lights = write(0x60, 0xED) + take(1) + write(0x60, 4) + take(1)
    source = f"mov di, {BYTES}\n {lights} {READY} {take(6)} {END} {TAKE}"
    with bare.real_mode_vm(source, accelerator) as vm:
        vm.console.expect("!", timeout=10)
        assert machine_of(vm).keyboard_leds == 4
        press(machine_of(vm), A, UP)
        assert vm.wait(10).exit_status == 1
        assert vm.memory.read(BYTES, 16) == bytes.fromhex("00fa 00fa 001e 009e 00e0 0048 00e0 00c8")


def test_the_mouse_moves_for_a_guest_that_asks_for_the_wheel(accelerator: str) -> None:
    commands = (0xF3, 200, 0xF3, 100, 0xF3, 80, 0xF4)
    asks = "".join(write(0x64, 0xD4) + write(0x60, byte) + take(1) for byte in commands)
    source = f"mov di, {BYTES}\n {asks} {READY} {take(4)} {END} {TAKE}"
    with bare.real_mode_vm(source, accelerator) as vm:
        vm.console.expect("!", timeout=10)
        machine_of(vm).mouse(3, 4, -1, 2)
        assert vm.wait(10).exit_status == 1
        answers, packet = vm.memory.read(BYTES, 14), vm.memory.read(BYTES + 14, 8)
        assert answers == bytes.fromhex("20fa" * 7)
        assert packet == bytes.fromhex("202a 2003 20fc 20ff")


def test_each_byte_interrupts_once_and_can_be_read_twice(accelerator: str) -> None:
    # The handler reads as those do that hook a BIOS's interrupt: that one holds the keyboard while it reads.
    source = f"""
        mov word ptr [9 * 4], offset handler
        mov word ptr [9 * 4 + 2], 0
        {write(0x20, 0x11)} {write(0x21, 8)} {write(0x21, 4)} {write(0x21, 1)} {write(0x21, 0xFD)}
        mov di, {BYTES}
        sti
        {READY}
    wait:
        hlt
        jmp wait
    handler:
        {write(0x64, 0xAD)}
        in al, 0x60
        stosb
        in al, 0x60
        stosb
        {write(0x64, 0xAE)}
        {write(0x20, 0x20)}
        cmp di, {BYTES + 12}
        jb more
        {END}
    more:
        iret
    """
    with bare.real_mode_vm(source, accelerator) as vm:
        vm.console.expect("!", timeout=10)
        press(machine_of(vm), A, UP)
        assert vm.wait(10).exit_status == 1
        assert vm.memory.read(BYTES, 12) == bytes.fromhex("1e1e 9e9e e0e0 4848 e0e0 c8c8")


def test_a_held_key_repeats(accelerator: str) -> None:
    # A quarter of a second, then 30 times a second.
    rate = write(0x60, 0xF3) + take(1) + write(0x60, 0) + take(1)
    source = f"mov di, {BYTES}\n {rate} {READY} {take(4)} {END} {TAKE}"
    with bare.real_mode_vm(source, accelerator) as vm:
        vm.console.expect("!", timeout=10)
        machine_of(vm).key(A, True)
        assert vm.wait(10).exit_status == 1
        assert vm.memory.read(BYTES + 4, 8) == bytes.fromhex("001e") * 4


def test_a_machine_that_does_not_run_takes_what_it_is_given(accelerator: str) -> None:
    vm = bare.real_mode_vm("hlt", accelerator)
    try:
        for _ in range(1000):
            press(machine_of(vm), A, 0, 0x80, 0xFF)
            machine_of(vm).mouse(-(1 << 31), (1 << 31) - 1, 1, 0xFF)
    finally:
        vm.close()
