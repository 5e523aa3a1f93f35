"""The PC, assembled: memory, board, devices, tables and the kernel, up to the first instruction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from wirt import _core
from wirt.devices.device import Device
from wirt.devices.fw_cfg import FwCfg
from wirt.errors import UsageError
from wirt.machine import acpi, backing, boot, drives, firmware, hardware, nets, rom, smbios
from wirt.machine.drives import Disk
from wirt.machine.memory_map import SMBIOS_BASE, MemoryMap, Range, memory_map

RNG_SLOT: Final = 2
CONSOLE_SLOT: Final = 3
FIRST_NET_SLOT: Final = 4
FIRST_DISK_SLOT: Final = 5
LAST_SLOT: Final = 31
"""PCI slots; 0 and 1 are the chipset's. Virtio disks take them upwards from the fifth, other devices
downwards from the last, in the order in which `assemble` adds them.
"""
MAX_DISKS: Final = LAST_SLOT + 1 - FIRST_DISK_SLOT


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
    firmware: rom.Firmware | None = None
    variables: int | None = None
    """A descriptor of the firmware's variables, where it keeps them in flash."""
    boot_order: Sequence[drives.BootKind] = drives.BOOT_ORDER
    boot_menu: bool = False
    serial_firmware: bool = True
    """Firmware talks on the first serial port as well."""
    cpu: str = "host"
    instruments: Instruments = NO_INSTRUMENTS
    disks: Sequence[Disk] = ()
    cdrom_buses: Sequence[drives.CdromBus] = ()
    """What each of the CD-ROM drives hangs on."""
    nets: Sequence[nets.Card] = ()
    vga: bool = False
    virtio: hardware.VirtioInterfaces = "transitional"
    devices: Sequence[Device] = ()
    named_devices: Sequence[hardware.NamedDevice] = ()
    pause_on_io_error: bool = False
    """A disk's request that the host cannot do waits until the machine is resumed; `told` hears of it."""
    told: Callable[[str, str], None] = lambda device, event: None
    """Called from any thread when a device has something to tell: its model, and a word."""
    debug_port: int | None = None
    """A file descriptor for what firmware prints to port 0x402."""
    fw_cfg: Mapping[str, bytes] = MappingProxyType({})
    """The user's files in fw_cfg, by name."""


class FarEnds(NamedTuple):
    """What lies on the far side of devices, and outlives the machine when a guest resets it."""

    serials: Sequence[_core.Terminal]
    virtio_console: _core.Terminal
    screen: _core.Screen
    balloon: _core.Balloon
    cdroms: Sequence[_core.Medium] = ()
    networks: Sequence[_core.Network] = ()
    """One for each card."""
    parallels: Sequence[_core.Terminal] = ()
    floppies: Sequence[tuple[_core.Medium, int | None]] = ()
    """What is in each drive, and the size of the disks that the drive is for: see `add_floppies`."""
    ports: Sequence[tuple[str, _core.Terminal]] = ()
    """Of the virtio console, by name."""


class Pc(NamedTuple):
    """A machine that is ready to start, and its parts. `entry` is where vCPU 0 begins, if a kernel was
    loaded.
    """

    layout: MemoryMap
    memory: _core.GuestMemory
    machine: _core.Machine
    entry: boot.EntryState | None


def assemble(config: PcConfig, ends: FarEnds, *, watchdog_expired: bool = False) -> Pc:
    """Make the machine. `watchdog_expired`: that is why it is made anew.

    Raises BootError, ValueError, CoreError or UsageError with one sentence for the user; nothing is left
    behind then.
    """
    layout = memory_map(config.memory_size)
    variables = 0 if config.variables is None else os.fstat(config.variables).st_size
    behind = backing.make(layout, config.firmware, variables=variables, vga=config.vga)
    memory = behind.memory
    machine = _core.Machine(
        memory,
        config.cpus,
        config.accelerator,
        config.cpu,
        *config.instruments,
        firmware=behind.low_firmware,
        virtio=config.virtio,
    )
    try:
        if config.pause_on_io_error:
            machine.wait_on_io_errors(lambda reason: config.told("disk", reason))
        machine.add_hpet()
        for index, (end, (port, irq)) in enumerate(zip(ends.serials, acpi.SERIAL_PORTS, strict=False)):
            machine.add_uart(f"COM{index + 1}", port, irq, end)
        for index, (end, (port, irq)) in enumerate(zip(ends.parallels, acpi.PARALLEL_PORTS, strict=False)):
            machine.add_parallel(f"LPT{index + 1}", port, irq, end)
        machine.add_rng(RNG_SLOT, "rng0")
        machine.add_console(CONSOLE_SLOT, ends.virtio_console, ends.ports)
        slots = iter(range(LAST_SLOT, FIRST_DISK_SLOT + _virtio_disks(config) - 1, -1))
        boot_paths = {
            **_add_drives(machine, config, ends, slots),
            "net": _add_nets(machine, config, ends, slots),
        }
        if behind.vram is not None:
            bios = rom.read_rom(rom.vga_bios())
            machine.add_vga(_next(slots), ends.screen, behind.vram, backing.VRAM_SIZE, bios)
        if config.firmware is not None:
            _add_flash(machine, config, behind)
        for named in config.named_devices:
            slot = _next(slots) if hardware.MODELS[named.model].pci else None
            place = hardware.Place(
                machine, slot, config.told, ends.balloon, config.memory_size, watchdog_expired
            )
            hardware.add(named, place)
        if config.debug_port is not None:
            machine.add_debug_port(config.debug_port)
        for device in (_fw_cfg(memory, layout, config, ends, boot_paths), *config.devices):
            _attach(machine, layout, device)
        entry = None
        if config.kernel is not None:
            machine.assign_pci_resources()
            rsdp = _place_tables(memory, layout, config, ends)
            entry = boot.load(memory, layout, config.kernel, config.initrd, config.cmdline, rsdp)
    except BaseException:
        machine.close()
        raise
    return Pc(layout, memory, machine, entry)


def _virtio_disks(config: PcConfig) -> int:
    return sum(disk.bus == "virtio" for disk in config.disks)


def _next(slots: Iterator[int]) -> int:
    slot = next(slots, None)
    if slot is None:
        raise UsageError("The machine has more PCI devices than its bus has slots: leave some out.")
    return slot


def _add_drives(
    machine: _core.Machine, config: PcConfig, ends: FarEnds, slots: Iterator[int]
) -> Mapping[drives.BootKind, Sequence[str]]:
    """Add disks, CD-ROM and floppy drives; return the paths by which firmware knows them."""

    def on(bus: drives.Bus) -> tuple[list[Disk], list[_core.Medium]]:
        media = [
            medium for medium, other in zip(ends.cdroms, config.cdrom_buses, strict=True) if other == bus
        ]
        return [disk for disk in config.disks if disk.bus == bus], media

    ide = on("ide")
    disk_paths: dict[drives.Bus, Iterator[str]] = {}
    cdrom_paths: dict[drives.Bus, Iterator[str]] = {}
    if any(ide) or config.firmware is not None:
        found = drives.add_ide(machine, *ide)
        disk_paths["ide"], cdrom_paths["ide"] = map(iter, found)
    if any(on("ahci")):
        found = drives.add_ahci(machine, _next(slots), *on("ahci"))
        disk_paths["ahci"], cdrom_paths["ahci"] = map(iter, found)
    if any(on("scsi")):
        found = drives.add_scsi(machine, _next(slots), *on("scsi"))
        disk_paths["scsi"], cdrom_paths["scsi"] = map(iter, found)
    virtio = [(index, disk) for index, disk in enumerate(config.disks) if disk.bus == "virtio"]
    disk_paths["virtio"] = iter(
        [
            drives.add_virtio_disk(machine, slot, index, disk)
            for slot, (index, disk) in enumerate(virtio, FIRST_DISK_SLOT)
        ]
    )
    if ends.floppies:
        machine.add_floppies(ends.floppies)
    return {
        "disk": [next(disk_paths[disk.bus]) for disk in config.disks],
        "cdrom": [next(cdrom_paths[bus]) for bus in config.cdrom_buses],
        "floppy": [drives.floppy_path(drive) for drive in range(len(ends.floppies))],
    }


def _add_nets(machine: _core.Machine, config: PcConfig, ends: FarEnds, slots: Iterator[int]) -> Sequence[str]:
    """Add network cards, the first in a slot of its own; return the paths of those with a ROM."""
    paths = []
    for index, (card, network) in enumerate(zip(config.nets, ends.networks, strict=True)):
        slot = _next(slots) if index else FIRST_NET_SLOT
        path = nets.add_card(machine, slot, index, card, network)
        if card.rom is not None:
            paths.append(path)
    return paths


def _add_flash(machine: _core.Machine, config: PcConfig, behind: backing.Backing) -> None:
    if behind.variables is not None and config.variables is not None:
        machine.add_flash(*behind.variables, config.variables, False)
    if behind.code is not None and config.firmware is not None:
        with config.firmware.code.open("rb") as file:
            machine.add_flash(*behind.code, file.fileno(), True)


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


def _fw_cfg(
    memory: _core.GuestMemory,
    layout: MemoryMap,
    config: PcConfig,
    ends: FarEnds,
    boot_paths: Mapping[drives.BootKind, Sequence[str]],
) -> FwCfg:
    """The firmware interface; its tables are made when a guest asks, which few do after a direct boot."""
    return FwCfg(
        memory,
        lambda: firmware.contents(
            layout=layout,
            uuid=config.uuid,
            cpus=config.cpus,
            acpi=_acpi(layout, config, ends),
            smbios=_smbios(layout, config),
            boot_order=[path for kind in config.boot_order for path in boot_paths.get(kind, ())],
            boot_menu=config.boot_menu,
            nographic=config.serial_firmware,
            files=config.fw_cfg,
        ),
    )


def _place_tables(memory: _core.GuestMemory, layout: MemoryMap, config: PcConfig, ends: FarEnds) -> int:
    """Put ACPI's and SMBIOS's tables where firmware would; return the address of the RSDP."""
    tables = _acpi(layout, config, ends).place()
    for blob in tables.blobs:
        memory.write(blob.address, blob.data)
    memory.write(SMBIOS_BASE, _smbios(layout, config).place(SMBIOS_BASE))
    return tables.rsdp_address


def _acpi(layout: MemoryMap, config: PcConfig, ends: FarEnds) -> acpi.AcpiTables:
    return acpi.build(
        acpi.AcpiConfig(
            apic_ids=tuple(range(config.cpus)),
            pci64=layout.pci64,
            vga=config.vga,
            hpet=True,
            serial_ports=len(ends.serials),
            parallel_ports=len(ends.parallels),
            floppy=bool(ends.floppies),
            pvpanic=any(named.model == "pvpanic" for named in config.named_devices),
        )
    )


def _smbios(layout: MemoryMap, config: PcConfig) -> smbios.SmbiosTables:
    return smbios.build(smbios.SmbiosConfig(layout=layout, uuid=config.uuid, cores=config.cpus))
