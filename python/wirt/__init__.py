"""Wirt: virtual machines as Python objects, on KVM or on Wirt's own recompiler.

import wirt

with wirt.VM("tiny", memory="256M", cpus=2) as vm:
    print(vm.exec("uname -a").stdout)
"""

from wirt.devices import Action, Device
from wirt.errors import CapacityError, ClosedError, Error, NotFoundError, UsageError, WaitTimeout
from wirt.machine.boot.state import DescriptorTable, Segment
from wirt.vm import VM, CompletedExec, Console, Disk, Memory, Registers, Result, Vcpu, run

__all__ = [
    "VM",
    "Action",
    "CapacityError",
    "ClosedError",
    "CompletedExec",
    "Console",
    "DescriptorTable",
    "Device",
    "Disk",
    "Error",
    "Memory",
    "NotFoundError",
    "Registers",
    "Result",
    "Segment",
    "UsageError",
    "Vcpu",
    "WaitTimeout",
    "run",
]
