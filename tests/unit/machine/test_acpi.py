from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from wirt.machine.acpi import HEADER_SIZE, AcpiConfig, AcpiTables, build
from wirt.machine.memory_map import GIB, memory_map

SMALL = AcpiConfig(apic_ids=(0, 1))
LARGE = AcpiConfig(
    apic_ids=tuple(range(300)),
    pci64=memory_map(6 * GIB).pci64,
    serial_ports=4,
    vga=True,
    hpet=True,
    parallel_ports=2,
    pvpanic=True,
    floppy=True,
)


class Placed:
    """Tables as a guest sees them, found from the RSDP."""

    def __init__(self, tables: AcpiTables, base: int = 0xE0000) -> None:
        placed = tables.place(base)
        self.rsdp_address = placed.rsdp_address
        self.blobs = placed.blobs

    def read(self, address: int, size: int) -> bytes:
        for blob in self.blobs:
            if blob.address <= address and address + size <= blob.address + len(blob.data):
                return blob.data[address - blob.address :][:size]
        raise IndexError(f"no table at {address:#x}")

    def table(self, address: int) -> bytes:
        return self.read(address, int.from_bytes(self.read(address + 4, 4), "little"))

    def all(self) -> dict[str, bytes]:
        """Every table by signature, over the XSDT and the FADT."""
        rsdt, _, xsdt = struct.unpack_from("<IIQ", self.read(self.rsdp_address, 36), 16)
        tables = [self.table(rsdt), self.table(xsdt)]
        tables += [self.table(address) for (address,) in struct.iter_unpack("<Q", tables[1][HEADER_SIZE:])]
        fadt = tables[2]
        facs, dsdt = struct.unpack_from("<II", fadt, 36)
        return {t[:4].decode(): t for t in [*tables, self.table(facs), self.table(dsdt)]}


@pytest.mark.parametrize("base", [0xE0000, 0x7FFF_0000])
@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["small", "large"])
def test_every_checksum_is_zero_and_every_pointer_leads_to_a_table(config: AcpiConfig, base: int) -> None:
    placed = Placed(build(config), base)
    rsdp = placed.read(placed.rsdp_address, 36)
    assert rsdp[:8] == b"RSD PTR "
    assert sum(rsdp[:20]) & 0xFF == 0
    assert sum(rsdp) & 0xFF == 0
    tables = placed.all()
    assert set(tables) == {"RSDT", "XSDT", "FACP", "APIC", "FACS", "DSDT"} | (
        {"HPET"} if config.hpet else set()
    )
    for signature, table in tables.items():
        if signature != "FACS":
            assert sum(table) & 0xFF == 0, signature
    rsdt = [p for (p,) in struct.iter_unpack("<I", tables["RSDT"][HEADER_SIZE:])]
    xsdt = [p for (p,) in struct.iter_unpack("<Q", tables["XSDT"][HEADER_SIZE:])]
    assert rsdt == xsdt
    assert struct.unpack_from("<I", tables["FACP"], 40) == struct.unpack_from("<Q", tables["FACP"], 140)
    (facs,) = struct.unpack_from("<I", tables["FACP"], 36)
    assert facs % 64 == 0


def test_tables_fit_below_the_smbios_area() -> None:
    assert all(blob.address + len(blob.data) <= 0xF0000 for blob in build(LARGE).place().blobs)


def test_fadt_describes_the_piix4_power_management_block() -> None:
    fadt = Placed(build(SMALL)).all()["FACP"]
    assert len(fadt) == 276
    assert struct.unpack_from("<H", fadt, 46) == (9,)
    assert struct.unpack_from("<I", fadt, 48) == (0,)
    assert struct.unpack_from("<6I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608)
    assert (fadt[88], fadt[89], fadt[91]) == (4, 2, 4)
    assert fadt[108] == 0x32
    assert struct.unpack_from("<H", fadt, 109) == (0b111,)
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags & 1 << 20 == 0, "not hardware-reduced"
    assert flags & 1 << 4 == 0, "the power button is a fixed feature"
    assert flags & 1 << 10, "the reset register is supported"
    assert fadt[116:129].hex() == "01080001" + "f90c000000000000" + "06"


def test_vga_is_announced_in_the_boot_flags() -> None:
    assert struct.unpack_from("<H", Placed(build(LARGE)).all()["FACP"], 109) == (0b011,)


def madt_entries(madt: bytes) -> list[bytes]:
    entries, at = [], 44
    while at < len(madt):
        entries.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    assert at == len(madt)
    return entries


def test_madt_of_a_small_machine() -> None:
    entries = madt_entries(Placed(build(SMALL)).all()["APIC"])
    assert [e.hex() for e in entries] == [
        "0008000001000000",
        "0008010101000000",
        "010c00000000c0fe00000000",
        "020a0000020000000000",
        "020a0005050000000d00",
        "020a0009090000000d00",
        "020a000a0a0000000d00",
        "020a000b0b0000000d00",
        "0406ff000001",
    ]


def test_apic_ids_beyond_254_are_x2apic_entries() -> None:
    entries = madt_entries(Placed(build(LARGE)).all()["APIC"])
    lapics = [(e[3], e[2]) for e in entries if e[0] == 0]
    x2apics = [struct.unpack_from("<III", e, 4) for e in entries if e[0] == 9]
    assert lapics == [(i, i) for i in range(255)]
    assert x2apics == [(i, 1, i) for i in range(255, 300)]
    assert [e.hex() for e in entries if e[0] == 10] == ["0a0c0000ffffffff01000000"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AcpiConfig(apic_ids=()), "at least one vCPU"),
        (AcpiConfig(apic_ids=(0, 0)), "APIC id of its own"),
        (AcpiConfig(apic_ids=(0,), serial_ports=5), "at most 4 serial ports"),
        (AcpiConfig(apic_ids=(0,), parallel_ports=3), "at most 2 parallel ports"),
    ],
)
def test_impossible_configurations_are_refused(config: AcpiConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config)


@pytest.mark.parametrize("base", [0xE0010, 0xFFFF_FFC0])
def test_unreachable_places_are_refused(base: int) -> None:
    with pytest.raises(ValueError, match="cannot lie"):
        build(SMALL).place(base)


@pytest.fixture
def iasl() -> str:
    found = shutil.which("iasl")
    if found is None:
        pytest.skip("iasl is not installed (Debian package acpica-tools)")
    return found


@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["small", "large"])
def test_iasl_reads_every_table_and_compiles_the_dsdt_back_to_itself(
    config: AcpiConfig, iasl: str, tmp_path: Path
) -> None:
    tables = Placed(build(config)).all()
    for signature, table in tables.items():
        (tmp_path / f"{signature}.dat").write_bytes(table)
        result = subprocess.run(
            [iasl, "-d", f"{signature}.dat"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        output = result.stdout + result.stderr
        assert result.returncode == 0, output
        assert not re.search(r"\b(error|warning|invalid|incorrect)\b", output, re.IGNORECASE), output
    # -oa: no optimizations, so that the compiler's bytes can be compared with ours.
    result = subprocess.run(
        [iasl, "-oa", "-p", "again", "DSDT.dsl"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "0 Errors, 0 Warnings" in result.stdout, result.stdout
    assert (tmp_path / "again.aml").read_bytes()[HEADER_SIZE:] == tables["DSDT"][HEADER_SIZE:]


def test_dsdt_names_fw_cfg_and_its_ports() -> None:
    dsdt = Placed(build(SMALL)).all()["DSDT"]
    device = dsdt[dsdt.index(b"FWCF") :][:64]
    assert b"_HID\x0dQEMU0002\0" in device
    assert bytes.fromhex("4701 1005 1005 01 0c 7900") in device


def test_dsdt_names_panic_parallel_and_floppy_ports_where_there_are_some() -> None:
    dsdt = Placed(build(LARGE)).all()["DSDT"]
    panic = dsdt[dsdt.index(b"PEVT") :][:128]
    assert b"_HID\x0dQEMU0001\0" in panic
    assert bytes.fromhex("4701 0505 0505 01 01 7900") in panic
    assert bytes.fromhex("5b80 50454f52 01 0b0505 01") in panic, "the operation region is the port"
    parallel = dsdt[dsdt.index(b"LPT2") :][:64]
    assert bytes.fromhex("4701 7802 7802 08 08 222000 7900") in parallel
    floppy = dsdt[dsdt.index(b"FDC0") :][:80]
    assert bytes.fromhex("4701 f203 f203 01 04 4701 f703 f703 01 01 224000 2a0400 7900") in floppy
    small = Placed(build(SMALL)).all()["DSDT"]
    assert b"PEVT" not in small
    assert b"FDC0" not in small
    assert b"LPT1" not in small


def test_dsdt_routes_slots_by_the_piix_swizzle(iasl: str, tmp_path: Path) -> None:
    (tmp_path / "DSDT.dat").write_bytes(Placed(build(SMALL)).all()["DSDT"])
    subprocess.run([iasl, "-d", "DSDT.dat"], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    source = (tmp_path / "DSDT.dsl").read_text()
    routes = re.findall(r"(?:0x([0-9A-F]{8})|0xFFFF),\s+(Zero|One|0x02|0x03),\s+\\?_SB\.(LNK[A-D]),", source)
    pins = {"Zero": 0, "One": 1, "0x02": 2, "0x03": 3}
    found = {(int(a or "0", 16) >> 16, pins[pin]): link for a, pin, link in routes}
    assert len(found) == 128
    assert (found[1, 0], found[2, 0], found[3, 0], found[2, 3]) == ("LNKA", "LNKB", "LNKC", "LNKA")
