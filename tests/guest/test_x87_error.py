"""An x87 exception with CR0.NE clear becomes interrupt 13, as on every PC since the AT."""

from __future__ import annotations

from bare import real_mode_vm

DIVIDES_BY_ZERO = """
    cli
    xor ax, ax
    mov ds, ax
    mov ss, ax
    movw [0x75 * 4], offset handler
    movw [0x75 * 4 + 2], 0
    mov al, 0x11
    out 0x20, al
    out 0xa0, al
    mov al, 8
    out 0x21, al
    mov al, 0x70
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xfb
    out 0x21, al
    mov al, 0xdf
    out 0xa1, al
    mov eax, cr0
    and al, 0xd1
    mov cr0, eax
    xor bx, bx
    fninit
    movw [0x800], 0x37b
    fldcw [0x800]
    sti
    fldz
    fld1
    fdiv st, st(1)
    fld1
    fstp st
    fdiv st, st(1)
    fwait
    mov al, bl
    out 0xf4, al
handler:
    inc bx
    fnstsw ax
    and al, 0x84
    cmp al, 0x84
    jne lost
    out 0xf0, al
    fnop
    fnclex
    mov al, 0x20
    out 0xa0, al
    out 0x20, al
    iret
lost:
    mov al, 0x40
    out 0xf4, al
"""
"""Port 0xf4 gets the number of interrupts: one for each division, taken at the next instruction that waits.
After the write to port 0xf0 the handler's own instructions do not wait.
"""


def test_each_exception_is_one_interrupt_until_it_is_acknowledged() -> None:
    with real_mode_vm(DIVIDES_BY_ZERO, "recompiler") as vm:
        assert vm.wait(timeout=60).exit_status == 2 * 2 + 1
