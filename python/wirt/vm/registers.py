"""A vCPU's registers."""

from __future__ import annotations

from typing import Any, NamedTuple

from wirt.machine.boot.state import DescriptorTable, EntryState, Segment


class Registers(NamedTuple):
    """General, segment and control registers at one moment. Numbers are unsigned 64-bit.

    `halted` is true while the vCPU waits in HLT. Setting it begins or ends the wait.
    """

    rax: int
    rcx: int
    rdx: int
    rbx: int
    rsp: int
    rbp: int
    rsi: int
    rdi: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    rflags: int
    es: Segment
    cs: Segment
    ss: Segment
    ds: Segment
    fs: Segment
    gs: Segment
    tr: Segment
    ldtr: Segment
    gdtr: DescriptorTable
    idtr: DescriptorTable
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    xcr0: int
    efer: int
    apic_base: int
    halted: bool


def from_core(values: dict[str, Any]) -> Registers:
    """Name what the core gives."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        match value:
            case (selector, base, limit, access):
                named[name] = Segment(selector, base, limit, access)
            case (base, limit):
                named[name] = DescriptorTable(base, limit)
            case _:
                named[name] = value
    return Registers(**named)


def to_core(values: dict[str, int | Segment | DescriptorTable]) -> dict[str, Any]:
    """The opposite of `from_core`, for some of the registers."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        match value:
            case Segment():
                plain[name] = (value.selector, value.base, value.limit, value.access)
            case DescriptorTable():
                plain[name] = (value.base, value.limit)
            case _:
                plain[name] = value
    return plain


def entry_registers(state: EntryState) -> dict[str, Any]:
    """The registers of a boot loader's entry state, as the core takes them."""
    return to_core(state._asdict())
