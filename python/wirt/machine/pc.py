"""The PC, assembled: memory, board, devices, tables and the kernel, up to the first instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from wirt import _core
from wirt.devices.device import Device
from wirt.machine import acpi, boot, smbios
from wirt.machine.memory_map import SMBIOS_BASE, MemoryMap, memory_map

COM1_PORT: Final = 0x3F8
COM1_IRQ: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PcConfig:
    """What the machine is made of. `memory_size` is in bytes; a kernel is a file or the bytes of one.

    Without a kernel the machine is left at the processor's reset state with empty memory.
    """

    accelerator: str
    memory_size: int
    cpus: int
    uuid: UUID
    kernel: Path | bytes | None = None
    initrd: Path | bytes | None = None
    cmdline: str = ""
    devices: Sequence[Device] = field(default=())


@dataclass(frozen=True, slots=True)
class Pc:
    """A machine that is ready to start, and its parts. `entry` is where vCPU 0 begins, if a kernel was
    loaded.
    """

    layout: MemoryMap
    memory: _core.GuestMemory
    machine: _core.Machine
    entry: boot.EntryState | None


def assemble(config: PcConfig, terminal: _core.Terminal) -> Pc:
    """Make the machine. `terminal` is at the far end of COM1.

    Raises BootError, ValueError or CoreError with one sentence for the user; nothing is left behind then.
    """
    layout = memory_map(config.memory_size)
    memory = _core.GuestMemory([(region.address, region.size, region.offset, False) for region in layout.ram])
    machine = _core.Machine(memory, config.cpus, config.accelerator)
    try:
        machine.add_uart("COM1", COM1_PORT, COM1_IRQ, terminal)
        for device in config.devices:
            _attach(machine, device)
        entry = None
        if config.kernel is not None:
            machine.assign_pci_resources()
            rsdp = _place_tables(memory, layout, config)
            entry = boot.load(memory, layout, config.kernel, config.initrd, config.cmdline, rsdp)
    except BaseException:
        machine.close()
        raise
    return Pc(layout, memory, machine, entry)


def _attach(machine: _core.Machine, device: Device) -> None:
    if device.irq is not None:
        device.interrupt = machine.irq_line(device.irq)
    if device.ports is not None:
        machine.add_port_device(device, device.name, device.ports[0], device.ports[-1], device.sizes)
    if device.mmio is not None:
        machine.add_mmio_device(device, device.name, device.mmio[0], device.mmio[-1], device.sizes)


def _place_tables(memory: _core.GuestMemory, layout: MemoryMap, config: PcConfig) -> int:
    """Put ACPI's and SMBIOS's tables where firmware would; return the address of the RSDP."""
    tables = acpi.build(acpi.AcpiConfig(apic_ids=tuple(range(config.cpus)), pci64=layout.pci64)).place()
    information = smbios.build(smbios.SmbiosConfig(layout=layout, uuid=config.uuid, cores=config.cpus))
    for blob in tables.blobs:
        memory.write(blob.address, blob.data)
    memory.write(SMBIOS_BASE, information.place(SMBIOS_BASE))
    return tables.rsdp_address
