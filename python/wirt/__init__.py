"""Wirt: virtual machines as Python objects, on KVM or on Wirt's own recompiler.

import wirt

with wirt.VM("tiny", memory="256M", cpus=2) as vm:
    print(vm.exec("uname -a").stdout)
"""

from typing import TYPE_CHECKING

__all__ = [
    "VM",
    "Action",
    "CapacityError",
    "Cdrom",
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

if TYPE_CHECKING:
    from wirt.devices import Action, Device
    from wirt.errors import CapacityError, ClosedError, Error, NotFoundError, UsageError, WaitTimeout
    from wirt.machine.boot.state import DescriptorTable, Segment
    from wirt.vm import VM, Cdrom, CompletedExec, Console, Disk, Memory, Registers, Result, Vcpu
    from wirt.vm.run import run


def __getattr__(name: str) -> object:
    # The command line is a part of this package: to import it must not import everything (PEP 562).
    from importlib import import_module

    if name in __all__:
        for origin in ("wirt.errors", "wirt.devices", "wirt.machine.boot.state", "wirt.vm"):
            module = import_module(origin)
            if hasattr(module, name):
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module 'wirt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
