"""What firmware finds in fw_cfg, and that its loader script makes the tables a direct boot has."""

from __future__ import annotations

import itertools
import struct
from typing import Any
from uuid import UUID

import pytest

from wirt.devices.fw_cfg import Contents
from wirt.machine import acpi, firmware, smbios
from wirt.machine.memory_map import GIB, MIB, memory_map

UUID_TEXT = "00112233-4455-6677-8899-aabbccddeeff"


def contents(ram: int = 256 * MIB, cpus: int = 3, **asked: Any) -> Contents:
    layout = memory_map(ram)
    uuid = UUID(UUID_TEXT).bytes
    return firmware.contents(
        layout=layout,
        uuid=uuid,
        cpus=cpus,
        acpi=acpi.build(acpi.AcpiConfig(apic_ids=tuple(range(cpus)))),
        smbios=smbios.build(smbios.SmbiosConfig(layout=layout, uuid=uuid, cores=cpus)),
        boot_order=asked.get("boot_order", ()),
        boot_menu=asked.get("boot_menu", False),
        nographic=asked.get("nographic", True),
        files={"opt/x": b"mine"},
    )


def test_items_tell_the_machine() -> None:
    items = contents().items
    assert items[0x02].hex() == UUID_TEXT.replace("-", "")
    assert items[0x03] == (256 * MIB).to_bytes(8, "little")
    assert items[0x05] == items[0x0F] == b"\3\0"
    assert (items[0x04], items[0x0E]) == (b"\1\0", b"\0\0")
    items = contents(nographic=False, boot_menu=True).items
    assert (items[0x04], items[0x0E]) == (b"\0\0", b"\1\0")


def test_files() -> None:
    paths = ["/pci@i0cf8/scsi@e/disk@0,0", "/pci@i0cf8/ide@1,1/drive@1/disk@0"]
    files = contents(boot_order=paths).files
    assert sorted(files) == [
        "bootorder",
        "etc/acpi/rsdp",
        "etc/acpi/tables",
        "etc/e820",
        "etc/show-boot-menu",
        "etc/smbios/smbios-anchor",
        "etc/smbios/smbios-tables",
        "etc/table-loader",
        "opt/x",
    ]
    assert files["opt/x"] == b"mine"
    assert files["bootorder"] == "\n".join(paths).encode() + b"\0"
    assert "bootorder" not in contents().files


@pytest.mark.parametrize("ram", [1 * MIB, 64 * MIB, 6 * GIB])
def test_e820_names_all_ram(ram: int) -> None:
    entries = list(struct.iter_unpack("<QQI", contents(ram).files["etc/e820"]))
    assert entries[0] == (0, min(ram, 3 * GIB), 1)
    assert sum(size for _, size, kind in entries if kind == 1) == ram
    assert (0xFEFF_C000, 0x4000, 2) in entries
    ends = sorted((base, base + size) for base, size, _ in entries)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


def test_smbios_anchor_describes_the_structures() -> None:
    files = contents().files
    anchor, structures = files["etc/smbios/smbios-anchor"], files["etc/smbios/smbios-tables"]
    assert (anchor[:4], len(anchor)) == (b"_SM_", 31)
    assert struct.unpack_from("<HI", anchor, 22) == (len(structures), 0)
    assert sum(anchor) & 0xFF == sum(anchor[16:]) & 0xFF == 0


def test_loader_script_makes_the_tables_of_a_direct_boot() -> None:
    """Carry out the script as firmware would, at the place where a direct boot puts the tables."""
    files = contents().files
    script = files["etc/table-loader"]
    assert len(script) % 128 == 0
    base = 0xE0000
    addresses = {"etc/acpi/rsdp": base, "etc/acpi/tables": base + 64}
    blobs: dict[str, bytearray] = {}

    def text(field: bytes) -> str:
        return field.rstrip(b"\0").decode()

    for at in range(0, len(script), 128):
        (command,) = struct.unpack_from("<I", script, at)
        if command == 1:
            name, align, zone = struct.unpack_from("<56sIB", script, at + 4)
            assert (align, zone) == {"etc/acpi/rsdp": (16, 2), "etc/acpi/tables": (64, 1)}[text(name)]
            blobs[text(name)] = bytearray(files[text(name)])
        elif command == 2:
            to, source, offset, size = struct.unpack_from("<56s56sIB", script, at + 4)
            place = slice(offset, offset + size)
            blob = blobs[text(to)]
            value = int.from_bytes(blob[place], "little") + addresses[text(source)]
            blob[place] = value.to_bytes(size, "little")
        else:
            assert command == 3
            name, offset, start, length = struct.unpack_from("<56sIII", script, at + 4)
            blob = blobs[text(name)]
            blob[offset] = (blob[offset] - sum(blob[start : start + length])) & 0xFF
    placed = acpi.build(acpi.AcpiConfig(apic_ids=(0, 1, 2))).place(base)
    assert [bytes(blob) for blob in blobs.values()] == [blob.data for blob in placed.blobs]
