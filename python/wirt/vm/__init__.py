"""One virtual machine: what it is made of, how it runs, and what a program can do with it."""

from wirt.machine.drives import Cdrom, Disk
from wirt.machine.pc import Instruments
from wirt.vm.accelerator import Accelerator, choose
from wirt.vm.cdrom import CdromDrive
from wirt.vm.console import Console
from wirt.vm.input import Keyboard, Mouse
from wirt.vm.memory import Memory
from wirt.vm.registers import Registers
from wirt.vm.result import Result
from wirt.vm.run import run
from wirt.vm.screen import Screen
from wirt.vm.shell import CompletedExec
from wirt.vm.sizes import format_size, parse_size
from wirt.vm.spec import Spec
from wirt.vm.vcpu import Vcpu
from wirt.vm.vm import VM

__all__ = [
    "VM",
    "Accelerator",
    "Cdrom",
    "CdromDrive",
    "CompletedExec",
    "Console",
    "Disk",
    "Instruments",
    "Keyboard",
    "Memory",
    "Mouse",
    "Registers",
    "Result",
    "Screen",
    "Spec",
    "Vcpu",
    "choose",
    "format_size",
    "parse_size",
    "run",
]
