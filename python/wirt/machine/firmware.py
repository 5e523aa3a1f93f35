"""What the machine tells its firmware through fw_cfg: memory map, tables, boot order, the user's own files.

Source: QEMU docs/specs/fw_cfg.rst for names and items; the commands of `etc/table-loader` are those that
SeaBIOS and OVMF carry out (SeaBIOS src/fw/romfile_loader.h).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from wirt.devices import fw_cfg
from wirt.machine.acpi import AcpiTables, BlobName
from wirt.machine.memory_map import (
    HIGH_RAM_BASE,
    KVM_IDENTITY_MAP_BASE,
    KVM_RESERVED_END,
    E820Type,
    MemoryMap,
)
from wirt.machine.smbios import SmbiosTables

USER_PREFIX: Final = "opt/"
"""Where users' files belong, by fw_cfg.rst; a vendor's name should follow."""

_LOADER_FILES: Final[dict[BlobName, bytes]] = {"rsdp": b"etc/acpi/rsdp", "tables": b"etc/acpi/tables"}
_ALLOCATE: Final = 1
_ADD_POINTER: Final = 2
_ADD_CHECKSUM: Final = 3
_HIGH: Final = 1
"""Zone of an allocation: anywhere below 4 GiB."""
_FSEG: Final = 2
"""Zone of an allocation: 0xF0000 to 0xFFFFF, where RSDPs are looked for."""


def contents(
    *,
    layout: MemoryMap,
    uuid: bytes,
    cpus: int,
    acpi: AcpiTables,
    smbios: SmbiosTables,
    boot_order: Sequence[str],
    boot_menu: bool,
    nographic: bool,
    files: Mapping[str, bytes],
) -> fw_cfg.Contents:
    """Collect all items. `boot_order` are Open Firmware paths of devices to boot from; `boot_menu`: the user
    is asked; `nographic`: firmware talks on the first serial port; `files` are the user's.
    """
    own = {
        "etc/e820": e820(layout),
        "etc/acpi/rsdp": acpi.rsdp,
        "etc/acpi/tables": acpi.tables,
        "etc/table-loader": table_loader(acpi),
        "etc/smbios/smbios-anchor": smbios.anchor32(0),
        "etc/smbios/smbios-tables": smbios.structures,
        "etc/show-boot-menu": struct.pack("<H", boot_menu),
    }
    if boot_order:
        own["bootorder"] = "\n".join(boot_order).encode("ascii") + b"\0"
    return fw_cfg.Contents(
        items={
            fw_cfg.UUID: uuid,
            fw_cfg.RAM_SIZE: struct.pack("<Q", layout.ram_size),
            fw_cfg.NOGRAPHIC: struct.pack("<H", nographic),
            fw_cfg.BOOT_MENU: struct.pack("<H", boot_menu),
            fw_cfg.NB_CPUS: struct.pack("<H", cpus),
            fw_cfg.MAX_CPUS: struct.pack("<H", cpus),
        },
        files={**files, **own},
    )


def e820(layout: MemoryMap) -> bytes:
    """RAM, and what KVM keeps: address, length (64 bits each) and type (32), little-endian.

    Firmware reserves its own places (EBDA, BIOS area, flash) itself, and OVMF would trip over hearing of them
    from here too.
    """
    entries = [
        (0, layout.low_end, E820Type.RAM),
        (KVM_IDENTITY_MAP_BASE, KVM_RESERVED_END - KVM_IDENTITY_MAP_BASE, E820Type.RESERVED),
    ]
    if layout.high_end > HIGH_RAM_BASE:
        entries.append((HIGH_RAM_BASE, layout.high_end - HIGH_RAM_BASE, E820Type.RAM))
    return b"".join(struct.pack("<QQI", *entry) for entry in entries)


def table_loader(acpi: AcpiTables) -> bytes:
    """The commands, 128 bytes each, by which firmware places the ACPI tables."""
    names = _LOADER_FILES
    commands = [
        struct.pack("<I56sIB", _ALLOCATE, names["rsdp"], 16, _FSEG),
        struct.pack("<I56sIB", _ALLOCATE, names["tables"], 64, _HIGH),
    ]
    commands += [
        struct.pack("<I56s56sIB", _ADD_POINTER, names[blob], names["tables"], offset, size)
        for blob, offset, size in acpi.pointers
    ]
    commands += [
        struct.pack("<I56sIII", _ADD_CHECKSUM, names[blob], offset, start, size)
        for blob, offset, start, size in acpi.checksums
    ]
    return b"".join(command.ljust(128, b"\0") for command in commands)
