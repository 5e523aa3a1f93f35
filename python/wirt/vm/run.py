"""One command in a machine of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from wirt.devices.device import Device
from wirt.errors import Error, UsageError, WaitTimeout
from wirt.machine.drives import Disk
from wirt.machine.nets import Net
from wirt.machine.pc import NO_INSTRUMENTS, Instruments
from wirt.vm.frames import FrameReader
from wirt.vm.shell import CompletedExec
from wirt.vm.vm import VM

PANIC_ENDS: Final = "panic=-1"
"""Linux resets at once after a panic, which ends the machine."""


def run(
    command: str,
    *,
    append: str | None = None,
    memory: str | int = "512M",
    cpus: int = 1,
    cpu: str = "host",
    disks: Sequence[str | os.PathLike[str] | Disk] = (),
    nets: Sequence[str | Net] | None = None,
    virtio: str = "transitional",
    accel: str = "auto",
    devices: Sequence[Device | str] = (),
    instruments: Instruments = NO_INSTRUMENTS,
    timeout: float | None = None,
    on_start: Callable[[VM], None] | None = None,
    on_output: Callable[[bytes], None] | None = None,
    on_end: Callable[[VM], None] | None = None,
) -> CompletedExec:
    """Boot the built-in guest, run a shell command in it, and power it off. Takes what `VM` takes.

    `on_start` is told of the machine when it runs, and `on_end` at the end, while it can still be looked at;
    `on_output` gets the command's output as it comes. Raises WaitTimeout when all of it takes longer than
    `timeout` seconds, and Error when the machine ends before the command does.
    """
    from wirt.machine import tiny

    if "\0" in command:
        raise UsageError("The command has a NUL in it, which no command line can hold: leave it out.")
    deadline = None if timeout is None else time.monotonic() + timeout
    nonce = os.urandom(16).hex()
    try:
        initrd = tiny.exec_initrd(tiny.ensure(), command, nonce)
    except tiny.TinyError as error:
        raise Error(str(error)) from error
    frames = FrameReader(nonce)
    output = bytearray()
    with VM(
        "tiny",
        initrd=initrd,
        append=PANIC_ENDS if append is None else f"{PANIC_ENDS} {append}",
        memory=memory,
        cpus=cpus,
        cpu=cpu,
        disks=disks,
        nets=nets,
        virtio=virtio,
        accel=accel,
        devices=devices,
        reboot=False,
        instruments=instruments,
    ) as vm:
        if on_start is not None:
            on_start(vm)
        try:
            while not vm.console.closed:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                part = frames.feed(vm.console.read(left))
                output += part
                if part and on_output is not None:
                    on_output(part)
                if left == 0.0 and not vm.console.closed:
                    if frames.begun:
                        raise WaitTimeout(f"The command {command!r} still runs after {timeout:g} s.")
                    raise WaitTimeout(
                        f"The guest still boots after {timeout:g} s. {_last_output(vm, output)}"
                    )
            result = vm.wait()
        finally:
            if on_end is not None:
                on_end(vm)
    if frames.status is None:
        raise Error(f"The machine ended before the command did. {result.message} {_last_output(vm, output)}")
    return CompletedExec(command, output.decode(errors="replace"), frames.status)


def _last_output(vm: VM, output: bytearray) -> str:
    """The end of the command's output if there is some, and of the guest's otherwise."""
    shown = (output or vm.console.history())[-200:]
    return f"Its last output: {shown.decode(errors='replace')!r}"
