"""Bare guests use pvpanic and the watchdog."""

from __future__ import annotations

import time

import pytest

import bare
import wirt

PANIC = """
    mov dx, 0x505
    in al, dx
    cmp al, 7
    jne wrong
    mov al, 1
    out dx, al
wait:
    jmp wait
wrong:
    mov al, 0
    out 0xf4, al
"""
# The i6300esb is the last slot's (31): base address register 0 to 0xD0000000, decoded; then stage 1 and 2 of
# one tick of 1 us each, and the enable bit, all by real-mode code that reaches beyond 64 KiB.
WATCHDOG = """
    cli
    mov eax, 0x8000f810
    mov ebx, 0xd0000000
    call config
    mov eax, 0x8000f804
    mov ebx, 2
    call config
    lgdt [gdt]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 8
    mov ds, bx
    and al, 0xfe
    mov cr0, eax
    mov ebx, 0xd0000000
    mov byte ptr [ebx + 0xc], 0x80
    mov byte ptr [ebx + 0xc], 0x86
    mov dword ptr [ebx], 0x200
    mov byte ptr [ebx + 0xc], 0x80
    mov byte ptr [ebx + 0xc], 0x86
    mov dword ptr [ebx + 4], 0x200
    mov eax, 0x8000f868
    mov ebx, 2
    call config
wait:
    jmp wait
config:
    mov dx, 0xcf8
    out dx, eax
    mov eax, ebx
    mov dx, 0xcfc
    out dx, eax
    ret
    .balign 8
gdt:
    .word 15
    .long table
table:
    .quad 0
    .quad 0x00cf93000000ffff
"""


@pytest.mark.parametrize("accelerator", ["kvm", "recompiler"])
class TestPvpanic:
    def test_a_panic_ends_the_machine(self, accelerator: str) -> None:
        with bare.real_mode_vm(PANIC, accelerator, ["pvpanic"]) as vm:
            result = vm.wait(30)
        assert (result.reason, result.exit_status) == ("panicked", 1)

    def test_or_stops_it(self, accelerator: str) -> None:
        with bare.real_mode_vm(PANIC, accelerator, ["pvpanic,action=pause"]) as vm:
            deadline = time.monotonic() + 30
            while vm.state != "paused" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert vm.state == "paused"

    def test_or_nothing(self, accelerator: str) -> None:
        vm = bare.real_mode_vm(PANIC, accelerator, ["pvpanic,action=none"])
        with vm, pytest.raises(wirt.WaitTimeout):
            vm.wait(0.5)


class TestWatchdog:
    @pytest.mark.parametrize(("action", "reason"), [("poweroff", "shutdown"), ("reset", "reset")])
    def test_a_guest_that_does_not_come_by_is_ended(self, action: str, reason: str) -> None:
        with bare.real_mode_vm(WATCHDOG, "recompiler", [f"i6300esb,action={action}"]) as vm:
            assert vm.wait(30).reason == reason
