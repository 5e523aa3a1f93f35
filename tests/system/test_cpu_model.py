"""Processor models as Linux and its programs see them."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

import wirt
from linux_guest import LINUX_GUEST

pytestmark = LINUX_GUEST

# Executes an instruction often enough to be translated; exits with the ZF that it leaves in the end.
PROGRAM = """
.intel_syntax noprefix
.globl _start
_start:
    mov ecx, 10000
again:
    xor esi, esi
    {instruction}
    setz dil
    dec ecx
    jnz again
    movzx edi, dil
    mov eax, 60
    syscall
"""
ILLEGAL = 128 + 4


def build(directory: Path, instruction: str) -> str:
    """A static program for Linux, in base64."""
    (directory / "program.s").write_text(PROGRAM.format(instruction=instruction))
    subprocess.run(["as", "--64", "-o", "program.o", "program.s"], cwd=directory, check=True)
    subprocess.run(["ld", "-s", "-n", "-o", "program", "program.o"], cwd=directory, check=True)
    return base64.b64encode((directory / "program").read_bytes()).decode()


@pytest.mark.parametrize(
    ("cpu", "flags", "no_flags", "statuses"),
    [
        # TZCNT is BSF there, which sets ZF for zero.
        ("x86-64-v2", "sse4_2 popcnt cx16 xsave", "avx bmi1 aes abm", (1, ILLEGAL, ILLEGAL, ILLEGAL, 0)),
        ("x86-64-v3", "avx2 bmi1 bmi2 fma abm", "avx512f aes sha_ni adx", (0, 0, 0, ILLEGAL, 0)),
    ],
)
def test_linux_has_the_features_of_the_level(
    cpu: str, flags: str, no_flags: str, statuses: tuple[int, ...], tmp_path: Path
) -> None:
    try:
        vm = wirt.VM("tiny", cpu=cpu, accel="recompiler", memory="256M")
    except wirt.Error as error:
        pytest.skip(str(error))
    with vm:
        shown = vm.exec("grep -m1 ^flags /proc/cpuinfo").stdout.split()
        assert set(flags.split()) <= set(shown)
        assert not set(no_flags.split()) & set(shown)
        instructions = (
            "tzcnt eax, esi",
            "andn eax, esi, edi; or eax, 1",
            "vpaddd ymm0, ymm1, ymm2; or eax, 1",
            "aesenc xmm0, xmm1; or eax, 1",
            "paddd xmm0, xmm1; or eax, 1",
        )
        got = []
        for instruction in instructions:
            program = build(tmp_path, instruction)
            command = f"echo {program} | base64 -d >/tmp/program; chmod +x /tmp/program; /tmp/program"
            got.append(vm.exec(command).returncode)
    assert tuple(got) == statuses
