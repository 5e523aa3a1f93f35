"""Several vCPUs at once: litmus tests, locks, code and page tables that others change, wake-ups, clocks.

The guest is tests/guest/smp. `WIRT_SMP_ROUNDS=1000 pytest tests/guest/test_smp.py` is the long run.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

import wirt

SOURCES: Final = Path(__file__).with_name("smp")
CFLAGS: Final = (
    *("-m64", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static"),
    *(
        "-fno-pic",
        "-no-pie",
        "-mcmodel=small",
        "-mno-red-zone",
        "-mgeneral-regs-only",
        "-fcf-protection=none",
    ),
    *("-fno-stack-protector", "-fno-strict-aliasing", "-Wl,--build-id=none"),
)
ROUNDS: Final = int(os.environ.get("WIRT_SMP_ROUNDS", "3"))
SECONDS_A_ROUND: Final = 60
PASSED: Final = 3
"""The status of isa-debug-exit for a 1."""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest, a Multiboot kernel."""
    directory = tmp_path_factory.mktemp("smp")
    linked, kernel = directory / "smp64.elf", directory / "smp.elf"
    sources = [SOURCES / "boot.S", *sorted(SOURCES.glob("*.c"))]
    subprocess.run(["gcc", *CFLAGS, f"-Wl,-T,{SOURCES / 'smp.ld'}", "-o", linked, *sources], check=True)
    # Multiboot loaders take 32-bit files.
    subprocess.run(["objcopy", "-O", "elf32-i386", linked, kernel], check=True)
    return kernel


@pytest.mark.timeout(SECONDS_A_ROUND * ROUNDS + 60)
@pytest.mark.parametrize("cpus", [2, 4])
def test_vcpus_agree_as_processors_do(kernel: Path, cpus: int) -> None:
    with wirt.VM(
        kernel=kernel,
        append=f"cpus={cpus} rounds={ROUNDS}",
        cpus=cpus,
        memory="64M",
        accel="recompiler",
        devices=["isa-debug-exit"],
        reboot=False,
    ) as vm:
        result = vm.wait(SECONDS_A_ROUND * ROUNDS)
        output = vm.console.read().decode()
    assert result.exit_status == PASSED, output
    assert f"done: {cpus} processors, {ROUNDS} rounds" in output
