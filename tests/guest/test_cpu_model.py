"""Processor models as bare guests see them: what CPUID shows, and what they may execute."""

from __future__ import annotations

import pytest

import bare
import wirt
from wirt import _core

ASK_CPUID = """
    mov di, 0x800
    mov esi, offset leaves
again:
    mov eax, [esi]
    xor ecx, ecx
    cpuid
    mov [di], ebx
    mov [di + 4], ecx
    add di, 8
    add esi, 4
    cmp esi, offset end
    jb again
    mov dx, 0xf4
    out dx, al
.balign 4
leaves:
    .long 1, 7, 0x80000001
end:
"""
FEATURES = {
    "sse4.2": (0x804, 20),
    "popcnt": (0x804, 23),
    "aes": (0x804, 25),
    "avx": (0x804, 28),
    "movbe": (0x804, 22),
    "avx2": (0x808, 5),
    "bmi2": (0x808, 8),
    "sha": (0x808, 29),
    "avx512f": (0x808, 16),
    "lzcnt": (0x814, 5),
}
"""Where the program stores the register that holds a feature's bit, and the bit."""
V3 = {"avx", "movbe", "avx2", "bmi2", "lzcnt"}


def shown(accelerator: str, cpu: str) -> set[str]:
    with bare.real_mode_vm(ASK_CPUID, accelerator, cpu=cpu) as vm:
        assert vm.wait(20).reason == "exit"
        registers = {
            place: int.from_bytes(vm.memory.read(place, 4), "little") for place in range(0x800, 0x818, 4)
        }
    return {name for name, (place, bit) in FEATURES.items() if registers[place] >> bit & 1}


def test_a_model_shows_its_level_and_nothing_beyond(accelerator: str) -> None:
    if accelerator == "kvm" and _core.probe().verdict != "hardware":
        pytest.skip(f"this KVM shows guests the host's CPUID whatever it is told: {_core.probe().text}")
    assert shown(accelerator, "x86-64-v2") == {"sse4.2", "popcnt"}
    if shown(accelerator, "host") >= V3:
        assert shown(accelerator, "x86-64-v3") == {"sse4.2", "popcnt"} | V3
    else:
        with pytest.raises(wirt.Error, match="has not all features of x86-64-v3: use x86-64-v2 or host"):
            wirt.VM(accel=accelerator, cpu="x86-64-v3")


def test_a_model_that_the_recompiler_cannot_be_is_refused() -> None:
    with pytest.raises(wirt.Error, match="recompiler on this processor has not all features of x86-64-v4"):
        wirt.VM(accel="recompiler", cpu="x86-64-v4")


# Runs an instruction often. The handler of #UD counts at 0x900 and goes on where [0x904] says, behind it.
EXECUTE = """
    mov word ptr [6 * 4], offset undefined
    mov word ptr [6 * 4 + 2], 0
    mov cx, 200
again:
    mov word ptr [0x904], offset behind
    xor esi, esi
    mov eax, 77
    {instruction}
behind:
    pushf
    pop word ptr [0x908]
    mov [0x90c], eax
    loop again
    mov dx, 0xf4
    out dx, al
undefined:
    inc dword ptr [0x900]
    mov bp, sp
    push word ptr [0x904]
    pop word ptr [bp]
    iret
"""


@pytest.mark.parametrize(
    ("instruction", "in_v2", "in_v3"),
    [
        ("popcnt ecx, ecx\n mov cx, 1", 0, 0),
        ("movbe eax, [si]", 200, 0),
        ("rdrand eax", 200, 200),
        ("aesenc xmm0, xmm1", 200, 200),
        ("tzcnt eax, esi", 0, 0),
        ("lzcnt eax, esi", 0, 0),
    ],
)
def test_what_is_not_shown_does_not_exist(instruction: str, in_v2: int, in_v3: int) -> None:
    """Under the recompiler; KVM's guests run on the processor, which can hide only what XCR0 turns off."""
    for cpu, undefined in (("x86-64-v2", in_v2), ("x86-64-v3", in_v3)):
        if cpu == "x86-64-v3" and not shown("recompiler", "host") >= V3:
            pytest.skip("this host's processor is no x86-64-v3")
        with bare.real_mode_vm(EXECUTE.format(instruction=instruction), "recompiler", cpu=cpu) as vm:
            assert vm.wait(20).reason == "exit"
            flags = int.from_bytes(vm.memory.read(0x908, 2), "little")
            assert int.from_bytes(vm.memory.read(0x900, 4), "little") == undefined
        if "zcnt" in instruction:
            # Of zero, BSF and BSR set ZF; TZCNT and LZCNT set CF, and ZF when the result is zero.
            assert (flags & 1, flags >> 6 & 1) == ((0, 1) if cpu == "x86-64-v2" else (1, 0))
