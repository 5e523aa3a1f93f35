from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from wirt.machine.memory_map import GIB, MIB, TIB, memory_map
from wirt.machine.smbios import SmbiosConfig, build

UUID_TEXT = "00112233-4455-6677-8899-aabbccddeeff"


def config(ram: int = 512 * MIB, **fields: object) -> SmbiosConfig:
    return SmbiosConfig(layout=memory_map(ram, 48), uuid=UUID(UUID_TEXT).bytes, **fields)  # type: ignore[arg-type]


def structures(data: bytes) -> list[tuple[int, bytes, list[str]]]:
    """(type, formatted part, strings) of each structure, as section 6.1 says to walk them."""
    found, at = [], 0
    while at < len(data):
        formatted = data[at : at + data[at + 1]]
        end = data.index(b"\0\0", at + len(formatted))
        strings = data[at + len(formatted) : end].decode().split("\0")
        found.append((formatted[0], formatted, [s for s in strings if s]))
        at = end + 2
    return found


def test_structures_can_be_walked_and_end_with_the_end_marker() -> None:
    tables = build(config(6 * GIB, sockets=2, serial="S1"))
    found = structures(tables.structures)
    assert [kind for kind, _, _ in found] == [0, 1, 3, 4, 4, 16, 17, 19, 19, 32, 127]
    assert tables.number == len(found)
    handles = [formatted[2:4] for _, formatted, _ in found]
    assert len(set(handles)) == len(handles)


def test_system_structure_holds_the_uuid_in_mixed_byte_order() -> None:
    _, system, strings = structures(build(config(serial="ds=nocloud")).structures)[1]
    assert system[8:24].hex() == "33221100554477668899aabbccddeeff"
    assert strings[system[7] - 1] == "ds=nocloud"


def test_anchors_have_right_checksums_and_lie_where_they_are_scanned() -> None:
    tables = build(config())
    area = tables.place(0xF0000)
    anchor64, anchor32 = area[:24], area[32:63]
    assert anchor64[:5] == b"_SM3_"
    assert sum(anchor64) & 0xFF == 0
    assert struct.unpack_from("<IQ", anchor64, 12) == (len(tables.structures), 0xF0040)
    assert anchor32[:4] == b"_SM_"
    assert anchor32[16:21] == b"_DMI_"
    assert sum(anchor32) & 0xFF == sum(anchor32[16:]) & 0xFF == 0
    assert struct.unpack_from("<HIH", anchor32, 22) == (len(tables.structures), 0xF0040, tables.number)
    assert area[64:] == tables.structures


@pytest.mark.parametrize(
    ("ram", "size", "extended"),
    [
        (512 * MIB, 512, 0),
        (32 * GIB - 2 * MIB, 32766, 0),
        (32 * GIB, 0x7FFF, 32768),
        (3 * TIB, 0x7FFF, 3 << 20),
    ],
)
def test_memory_sizes_use_the_extended_field_when_needed(ram: int, size: int, extended: int) -> None:
    found = {kind: formatted for kind, formatted, _ in structures(build(config(ram)).structures)}
    assert struct.unpack_from("<H", found[17], 0x0C) == (size,)
    assert struct.unpack_from("<I", found[17], 0x1C) == (extended,)
    capacity = (ram // 1024, 0) if ram < 2 * TIB else (0x8000_0000, ram)
    assert (*struct.unpack_from("<I", found[16], 7), *struct.unpack_from("<Q", found[16], 15)) == capacity


@pytest.mark.parametrize(
    "fields",
    [
        {"serial": "x" * 256},
        {"serial": "two\0strings"},
        {"product": "Gerät"},
        {"family": "line\nbreak"},
        {"cores": 0},
        {"sockets": 256},
        {"cores": 65535, "threads": 2},
    ],
)
def test_what_smbios_cannot_express_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="SMBIOS"):
        build(config(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("anchor", ["anchor32", "anchor64"])
def test_dmidecode_reads_it(anchor: str, tmp_path: Path) -> None:
    dmidecode = shutil.which("dmidecode") or shutil.which("dmidecode", path="/usr/sbin")
    if dmidecode is None:
        pytest.skip("dmidecode is not installed (Debian package dmidecode)")
    tables = build(config(40 * GIB, cores=4, threads=2, serial="S-1", asset_tag="A-1"))
    dump = tmp_path / "dump"
    dump.write_bytes(getattr(tables, anchor)(32).ljust(32, b"\0") + tables.structures)
    result = subprocess.run([dmidecode, "--from-dump", dump], capture_output=True, text=True, timeout=60)
    lines = {line.strip() for line in result.stdout.splitlines()}
    assert not result.stderr
    assert not {line for line in lines if "WRONG" in line or "TRUNCATED" in line or "OUT OF SPEC" in line}
    assert {
        "Product Name: Wirt PC",
        "Serial Number: S-1",
        "Asset Tag: A-1",
        f"UUID: {UUID_TEXT}",
        "System is a virtual machine",
        "Core Count: 4",
        "Thread Count: 8",
        "Size: 40 GB",
        "Maximum Capacity: 40 GB",
        "Status: No errors detected",
        "End Of Table",
    } <= lines
