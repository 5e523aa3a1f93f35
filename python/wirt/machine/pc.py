"""The PC, assembled: memory, board, devices, tables and the kernel, up to the first instruction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from wirt import _core
from wirt.devices.device import Device
from wirt.devices.fw_cfg import FwCfg
from wirt.errors import UsageError
from wirt.machine import acpi, boot, firmware, rom, smbios
from wirt.machine.memory_map import HIGH_MEMORY_BASE, SMBIOS_BASE, MemoryMap, Range, memory_map
from wirt.storage.raw import open_raw

COM1_PORT: Final = 0x3F8
COM1_IRQ: Final = 4
RNG_SLOT: Final = 2
CONSOLE_SLOT: Final = 3
NET_SLOT: Final = 4
FIRST_DISK_SLOT: Final = 5
"""PCI slots; 0 and 1 are the chipset's. Disks take the slots up to 31."""
MAX_DISKS: Final = 32 - FIRST_DISK_SLOT


class Disk(NamedTuple):
    """A raw disk image. Writes reach the file unless `readonly`."""

    path: Path
    readonly: bool = False


class Instruments(NamedTuple):
    """What the recompiler tells of the code it translates. `dump_block` is a linear guest address whose
    blocks are listed; `perf_map` are addresses and names of guest code for a map that perf reads, None: no
    map.
    """

    dump_block: int | None = None
    perf_map: Sequence[tuple[int, str]] | None = None


NO_INSTRUMENTS: Final = Instruments()


class PcConfig(NamedTuple):
    """What the machine is made of. `memory_size` is in bytes; a kernel is a file or the bytes of one.

    Without a kernel the machine is left at the processor's reset state, which is where firmware begins;
    memory is empty.
    """

    accelerator: str
    memory_size: int
    cpus: int
    uuid: bytes
    """16 bytes, in the order in which UUIDs are written (RFC 9562)."""
    kernel: Path | bytes | None = None
    initrd: Path | bytes | None = None
    cmdline: str | None = ""
    """None is what the kernel's format makes of it: see `boot.load`."""
    firmware: Path | None = None
    cpu: str = "host"
    instruments: Instruments = NO_INSTRUMENTS
    disks: Sequence[Disk] = ()
    devices: Sequence[Device] = ()
    debug_exit: bool = False
    pc_testdev: bool = False
    debug_port: int | None = None
    """A file descriptor for what firmware prints to port 0x402."""
    fw_cfg: Mapping[str, bytes] = MappingProxyType({})
    """The user's files in fw_cfg, by name."""


class Pc(NamedTuple):
    """A machine that is ready to start, and its parts. `entry` is where vCPU 0 begins, if a kernel was
    loaded.
    """

    layout: MemoryMap
    memory: _core.GuestMemory
    machine: _core.Machine
    entry: boot.EntryState | None


def assemble(config: PcConfig, com1: _core.Terminal, virtio_console: _core.Terminal) -> Pc:
    """Make the machine, with the given far ends of its serial port and its virtio console.

    Raises BootError, ValueError, CoreError or UsageError with one sentence for the user; nothing is left
    behind then.
    """
    layout = memory_map(config.memory_size)
    image = rom.read(config.firmware) if config.firmware is not None else None
    memory = _memory(layout, image)
    machine = _core.Machine(
        memory,
        config.cpus,
        config.accelerator,
        config.cpu,
        *config.instruments,
        firmware=None if image is None else layout.ram_size + len(image.data) - rom.LOW_SIZE,
    )
    try:
        machine.add_uart("COM1", COM1_PORT, COM1_IRQ, com1)
        machine.add_rng(RNG_SLOT, "rng0")
        machine.add_console(CONSOLE_SLOT, virtio_console)
        machine.add_net(NET_SLOT, "net0", hardware_address(config.uuid))
        for index, disk in enumerate(config.disks):
            _add_disk(machine, index, disk)
        if config.debug_exit:
            machine.add_debug_exit()
        if config.pc_testdev:
            machine.add_pc_testdev()
        if config.debug_port is not None:
            machine.add_debug_port(config.debug_port)
        for device in (_fw_cfg(memory, layout, config), *config.devices):
            _attach(machine, layout, device)
        entry = None
        if config.kernel is not None:
            machine.assign_pci_resources()
            rsdp = _place_tables(memory, layout, config)
            entry = boot.load(memory, layout, config.kernel, config.initrd, config.cmdline, rsdp)
    except BaseException:
        machine.close()
        raise
    return Pc(layout, memory, machine, entry)


def _memory(layout: MemoryMap, image: rom.Firmware | None) -> _core.GuestMemory:
    """Make RAM, and behind it in the backing memory the firmware."""
    regions = []
    for ram in layout.ram:
        # What the host bridge may show otherwise is a region of its own.
        low = max(0, HIGH_MEMORY_BASE - ram.address) if ram.range.end > HIGH_MEMORY_BASE else 0
        if low:
            regions.append((ram.address, low, ram.offset, False))
        regions.append((ram.address + low, ram.size - low, ram.offset + low, False))
    if image is None:
        return _core.GuestMemory(regions)
    regions.append((image.address, len(image.data), layout.ram_size, True))
    memory = _core.GuestMemory(regions)
    memory.write_backing(layout.ram_size, image.data)
    return memory


def hardware_address(uuid: bytes) -> tuple[int, int, int, int, int, int]:
    """The network card's address: locally administered, and always the same for a machine."""
    first, second, third, fourth, fifth = uuid[-5:]
    return (0x52, first, second, third, fourth, fifth)


def _add_disk(machine: _core.Machine, index: int, disk: Disk) -> None:
    fd = open_raw(disk.path, readonly=disk.readonly)
    try:
        machine.add_disk(FIRST_DISK_SLOT + index, f"disk{index}", fd, disk.readonly, f"wirt-disk{index}")
    finally:
        os.close(fd)


def _attach(machine: _core.Machine, layout: MemoryMap, device: Device) -> None:
    if device.irq is not None:
        device.interrupt = machine.irq_line(device.irq)
    if device.ports is not None:
        machine.add_port_device(device, device.name, device.ports[0], device.ports[-1], device.sizes)
    if device.mmio is not None:
        declared = Range(device.mmio[0], device.mmio[-1] + 1)
        for ram in layout.ram:
            if declared.overlaps(ram.range):
                # RAM would win: no access would ever reach the device.
                raise UsageError(
                    f"Device {device.name} declares addresses {declared.base:#x} to {declared.end - 1:#x}, "
                    f"where this machine has RAM ({ram.address:#x} to {ram.range.end - 1:#x}): choose others."
                )
        machine.add_mmio_device(device, device.name, device.mmio[0], device.mmio[-1], device.sizes)


def _fw_cfg(memory: _core.GuestMemory, layout: MemoryMap, config: PcConfig) -> FwCfg:
    """The firmware interface; its tables are made when a guest asks, which few do after a direct boot."""
    return FwCfg(
        memory,
        lambda: firmware.contents(
            layout=layout,
            uuid=config.uuid,
            cpus=config.cpus,
            acpi=_acpi(layout, config),
            smbios=_smbios(layout, config),
            disk_slots=range(FIRST_DISK_SLOT, FIRST_DISK_SLOT + len(config.disks)),
            files=config.fw_cfg,
        ),
    )


def _place_tables(memory: _core.GuestMemory, layout: MemoryMap, config: PcConfig) -> int:
    """Put ACPI's and SMBIOS's tables where firmware would; return the address of the RSDP."""
    tables = _acpi(layout, config).place()
    for blob in tables.blobs:
        memory.write(blob.address, blob.data)
    memory.write(SMBIOS_BASE, _smbios(layout, config).place(SMBIOS_BASE))
    return tables.rsdp_address


def _acpi(layout: MemoryMap, config: PcConfig) -> acpi.AcpiTables:
    return acpi.build(acpi.AcpiConfig(apic_ids=tuple(range(config.cpus)), pci64=layout.pci64))


def _smbios(layout: MemoryMap, config: PcConfig) -> smbios.SmbiosTables:
    return smbios.build(smbios.SmbiosConfig(layout=layout, uuid=config.uuid, cores=config.cpus))
