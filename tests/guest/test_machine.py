"""A machine's life: start, pause, registers, console, reset, crash, end."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import bare
import wirt

COUNT = """
count:
    inc dword ptr [0x900]
    jmp count
"""


def counter(vm: wirt.VM) -> int:
    return int.from_bytes(vm.memory.read(0x900, 4), "little")


def wait_until_counts(vm: wirt.VM, start: int = 0) -> int:
    deadline = time.monotonic() + 10
    while counter(vm) <= start and time.monotonic() < deadline:
        time.sleep(0.001)
    return counter(vm)


def test_console_expects_sends_and_reads(accelerator: str) -> None:
    with bare.real_mode_vm(bare.ECHO, accelerator) as vm:
        assert vm.console.expect("rea(dy)", timeout=10)[1] == b"dy"
        vm.console.send("ab")
        assert vm.console.expect(rb"\nA.", timeout=10)[0] == b"\nAB"
        with pytest.raises(wirt.WaitTimeout, match="did not show 'nothing'"):
            vm.console.expect("nothing", timeout=0.05)
        vm.console.send("q")
        assert vm.wait(10).exit_status == 5
        with pytest.raises(wirt.ClosedError, match="ended before its console showed"):
            vm.console.expect("more", timeout=10)
        assert vm.console.history() == b"ready\r\nAB"


def test_serial_output_reaches_a_descriptor(accelerator: str) -> None:
    read, write = os.pipe()
    vm = wirt.VM(memory="2M", accel=accelerator, serials=[write])
    os.close(write)
    vm.memory.write(bare.CODE, bare.assemble(bare.ECHO))
    vm.vcpus[0].set_registers(rip=bare.CODE, cs=bare.REAL_MODE_CODE)
    with vm, open(read, "rb") as output:
        assert output.read(7) == b"ready\r\n"
        vm.kill()
        vm.close()
        assert output.read() == b""


def test_pause_stops_and_resume_goes_on(accelerator: str) -> None:
    with bare.real_mode_vm(COUNT, accelerator) as vm:
        wait_until_counts(vm)
        for _ in range(20):
            vm.pause()
            assert vm.state == "paused"
            seen = counter(vm)
            registers = vm.vcpus[0].registers
            assert bare.CODE <= registers.rip < bare.CODE + 16
            time.sleep(0.001)
            assert counter(vm) == seen
            vm.resume()
        assert wait_until_counts(vm, seen) > seen


def test_registers_of_a_running_and_of_an_ended_machine(accelerator: str) -> None:
    source = """
        mov eax, 0x11223344
        mov ebx, 0x55667788
    spin:
        jmp spin
    """
    with bare.real_mode_vm(source, accelerator) as vm:
        deadline = time.monotonic() + 10
        while vm.vcpus[0].registers.rbx != 0x55667788 and time.monotonic() < deadline:
            pass
        assert vm.vcpus[0].registers.rax == 0x11223344
        vm.kill()
        registers = vm.vcpus[0].registers
        assert (registers.rax, registers.cs.selector) == (0x11223344, 0)
        assert vm.vcpus[0].translate(0x1234) == 0x1234
    with pytest.raises(wirt.Error, match="closed"):
        _ = vm.vcpus[0].registers


def test_a_vcpu_that_is_set_running_leaves_hlt_and_one_that_is_set_halted_waits(accelerator: str) -> None:
    source = """
        hlt
        mov byte ptr [0x900], 1
        hlt
        mov byte ptr [0x900], 2
    spin:
        jmp spin
    """
    with bare.real_mode_vm(source, accelerator) as vm:
        vcpu = vm.vcpus[0]

        def halted_at(rip: int) -> bool:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                registers = vcpu.registers
                if registers.halted:
                    return registers.rip == rip
            return False

        assert halted_at(bare.CODE + 1)
        vcpu.set_registers(halted=False)
        assert halted_at(bare.CODE + 7)
        assert counter(vm) == 1
        # With another RIP: from the beginning, over the first HLT.
        vm.memory.write(0x900, bytes(4))
        vcpu.set_registers(halted=False, rip=bare.CODE + 1)
        assert halted_at(bare.CODE + 7)
        assert counter(vm) == 1
        vcpu.set_registers(rbx=3)
        assert halted_at(bare.CODE + 7)
        vcpu.set_registers(halted=False)
        wait_until_counts(vm, 1)
        assert not vcpu.registers.halted
        vcpu.set_registers(halted=True)
        assert vcpu.registers.halted


def test_a_processor_that_waits_to_be_started_is_not_started_by_halted(accelerator: str) -> None:
    vm = bare.real_mode_vm(COUNT, accelerator, cpus=2)
    vm.vcpus[1].set_registers(halted=False, rip=bare.CODE, cs=bare.REAL_MODE_CODE)
    with vm:
        wait_until_counts(vm)
        assert vm.vcpus[1].registers.rip == bare.CODE


def test_registers_that_do_not_exist_or_fit_are_refused(accelerator: str) -> None:
    with bare.real_mode_vm(COUNT, accelerator) as vm:
        with pytest.raises(wirt.UsageError, match="no register rxx"):
            vm.vcpus[0].set_registers(rxx=1)
        with pytest.raises(wirt.UsageError, match="64 bits"):
            vm.vcpus[0].set_registers(rax=1 << 64)


def test_a_multiboot_kernel_finds_the_timer_as_a_bios_leaves_it(accelerator: str) -> None:
    source = """
        mov esi, offset real
        mov edi, 0x1000
        mov ecx, offset end - real
        rep movsb
        lgdt [table]
        .byte 0xea
        .long 0x1000
        .word 8
    .code16
    real:
        mov eax, cr0
        and al, 0xfe
        mov cr0, eax
        .byte 0xea
        .word 0x1000 + back - real, 0
    back:
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 0x1000
        lidt [0x1000 + vectors - real]
        sti
    again:
        hlt
        cmp dword ptr [0x46c], 2
        jb again
        mov al, 0x15
        out 0xf4, al
    vectors:
        .word 0x3ff
        .long 0
    descriptors:
        .quad 0, 0x9a000000ffff
    table:
        .word 15
        .long 0x1000 + descriptors - real
    end:
    """
    with wirt.VM(kernel=bare.multiboot(source), accel=accelerator, devices=["isa-debug-exit"]) as vm:
        assert vm.wait(10).exit_status == 0x15 << 1 | 1


def test_triple_fault_ends_the_machine(accelerator: str) -> None:
    # An empty interrupt table, and an instruction that faults.
    source = """
        lidt [empty]
        mov ax, ds:[0xffff]
    empty:
        .word 0
        .long 0
    """
    with bare.real_mode_vm(source, accelerator) as vm:
        result = vm.wait(10)
    assert result.reason in ("triple-fault", "internal-error")
    assert result.exit_status == 1


def test_guest_reset_starts_the_machine_again(accelerator: str) -> None:
    class Restart(wirt.Device):
        ports = range(0x500, 0x501)
        resets = 0

        def reset(self) -> None:
            self.resets += 1

        def write(self, offset: int, size: int, value: int) -> wirt.Action:
            return wirt.Action.reset() if self.resets < 3 else wirt.Action.exit(9)

    # A Multiboot kernel comes back after a reset; memory that was merely written does not.
    kernel = bare.multiboot("mov dx, 0x500\n out dx, al\n spin: jmp spin")
    device = Restart()
    with wirt.VM(kernel=kernel, memory="4M", accel=accelerator, devices=[device]) as vm:
        assert vm.wait(20).exit_status == 9
    assert device.resets == 3


def test_wait_times_out_and_leaves_the_machine_running(accelerator: str) -> None:
    with bare.real_mode_vm(COUNT, accelerator) as vm:
        with pytest.raises(wirt.WaitTimeout, match="still runs"):
            vm.wait(0.05)
        assert vm.state == "running"
        assert vm.kill().reason == "killed"
        assert vm.kill().reason == "killed"


def test_states_that_do_not_allow_it_are_refused(accelerator: str) -> None:
    vm = bare.real_mode_vm(COUNT, accelerator)
    with pytest.raises(wirt.Error, match="Cannot pause a machine that is created"):
        vm.pause()
    with pytest.raises(wirt.Error, match="not started"):
        vm.wait(1)
    with vm:
        with pytest.raises(wirt.Error, match="Cannot start a machine that is running"):
            vm.start()
        vm.kill()
        with pytest.raises(wirt.ClosedError, match="Cannot resume a machine that is ended"):
            vm.resume()


def thread_names() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append((task / "comm").read_text().strip())
    return names


def test_threads_have_names_and_are_gone_after_the_close(accelerator: str) -> None:
    with bare.real_mode_vm(COUNT, accelerator, cpus=3):
        named = {"vcpu0", "vcpu1", "vcpu2", "timers", "supervisor"}
        deadline = time.monotonic() + 5
        while not named <= set(thread_names()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert named <= set(thread_names())
    deadline = time.monotonic() + 5
    while {"vcpu0", "timers"} & set(thread_names()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [name for name in thread_names() if name.startswith("vcpu") or name == "timers"]


def test_memory_outside_ram_is_refused(accelerator: str) -> None:
    with bare.real_mode_vm(COUNT, accelerator) as vm:
        for address, size in [(0xA_0000, 1), (2 << 20, 1), (0x9_FFFF, 2), (0, 4 << 20), (1 << 63, 1)]:
            with pytest.raises(wirt.UsageError, match="Cannot read guest memory"):
                vm.memory.read(address, size)
        with pytest.raises(wirt.UsageError, match="Cannot write guest memory: addresses are not negative"):
            vm.memory.write(-1, b"x")
        with pytest.raises(wirt.UsageError, match="address and size are not negative"):
            vm.memory.read(0, -1)


def test_a_closed_machine_is_not_entered_again(accelerator: str) -> None:
    with bare.real_mode_vm(COUNT, accelerator) as vm:
        pass
    with pytest.raises(wirt.ClosedError, match="The machine is closed"), vm:
        pass


@pytest.mark.parametrize("fd", [999, -1, 1 << 70, "stdio", True])
def test_a_descriptor_that_is_none_is_refused(fd: Any) -> None:
    with pytest.raises(wirt.UsageError, match=f"debug_port is {fd!r}, "):
        wirt.VM(memory="1M", debug_port=fd)


def test_a_program_that_forgets_its_machine_ends_cleanly(accelerator: str) -> None:
    program = f"""
import bare, wirt

class Busy(wirt.Device):
    ports = range(0x500, 0x501)

vm = bare.real_mode_vm("mov dx, 0x500; again: out dx, al; jmp again", {accelerator!r}, [Busy()])
vm.start()
raise SystemExit(3)
"""
    search = os.pathsep.join([str(Path(bare.__file__).parent), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (3, b"")


def test_closed_machine_gives_its_memory_back(accelerator: str) -> None:
    def memories() -> int:
        """Mappings for which huge pages are wanted and that children do not get: what guest memory is."""
        flags = re.findall(r"^VmFlags:(.*)$", Path("/proc/self/smaps").read_text(), re.MULTILINE)
        return sum({"hg", "dc"} <= set(line.split()) for line in flags)

    before = memories()
    gc.disable()
    try:
        vm = bare.real_mode_vm(COUNT, accelerator)
        with vm:
            wait_until_counts(vm)
            assert memories() == before + 1
        assert memories() == before
    finally:
        gc.enable()
    assert vm.state == "ended"
    for look in (lambda: vm.memory.read(0, 1), lambda: vm.vcpus[0].registers, vm.bus_map, vm.start):
        with pytest.raises(wirt.ClosedError, match="closed"):
            look()
    vm.close()
