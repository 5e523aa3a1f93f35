"""The ACPI tables of the i440FX/PIIX PC: RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT and, on request, HPET.

`build` makes the tables without knowing where they will lie: each pointer holds an offset into the blob of
tables, and `pointers` and `checksums` say what to patch. `AcpiTables.place` patches for a direct boot; a
firmware does the same by the commands of fw_cfg's `etc/table-loader`, which take exactly these lists. Source:
ACPI 6.3 (section numbers below); IA-PC HPET 1.0a section 3.2.4 for HPET.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from wirt.devices import fw_cfg
from wirt.machine import aml
from wirt.machine.memory_map import (
    BIOS_BASE,
    HPET_BASE,
    IOAPIC_BASE,
    LAPIC_BASE,
    PCI32_BASE,
    PCI32_END,
    VGA_BASE,
    VGA_END,
    Range,
)

OEM_ID: Final = b"WIRT  "
OEM_TABLE_ID: Final = b"WIRTPC  "
CREATOR_ID: Final = b"WIRT"
REVISION: Final = 1

PM_BASE: Final = 0x600
"""I/O base of the PIIX4 power management block: PM1a event at +0, PM1a control at +4, PM timer at +8."""
PM_SIZE: Final = 0x40
PM1A_EVENT: Final = PM_BASE
PM1A_CONTROL: Final = PM_BASE + 4
PM_TIMER: Final = PM_BASE + 8
SCI_IRQ: Final = 9
SLEEP_TYPE_S5: Final = 0
"""PIIX4 SUS_TYP value of soft off."""
RESET_PORT: Final = 0xCF9
RESET_VALUE: Final = 0x06
CMOS_CENTURY: Final = 0x32
PVPANIC_PORT: Final = 0x505

PIRQ_LINKS: Final = ("LNKA", "LNKB", "LNKC", "LNKD")
PIRQ_ROUTE_CONTROL: Final = 0x60
"""Offset of PIRQRC A in the configuration space of the PIIX3 ISA bridge at 00:01.0; B to D follow."""
PIRQ_DISABLED: Final = 0x80
PCI_IRQS: Final = (5, 10, 11)
"""IRQs, and at the same time GSIs, the PCI interrupt links may be routed to."""

MAX_XAPIC_ID: Final = 254
HEADER_SIZE: Final = 36
RSDP_SIZE: Final = 36
FADT_SIZE: Final = 276
FACS_SIZE: Final = 64

BlobName = Literal["rsdp", "tables"]


class AcpiConfig(NamedTuple):
    """What the tables depend on. `apic_ids` are those of all vCPUs, in order; UIDs count from 0."""

    apic_ids: tuple[int, ...]
    pci64: Range | None = None
    ioapic_id: int = 0
    serial_ports: int = 1
    """16550s at the usual places, 0 to 4."""
    vga: bool = False
    hpet: bool = False
    parallel_ports: int = 0
    """Parallel ports at the usual places, 0 to 2."""
    pvpanic: bool = False
    floppy: bool = False
    """A floppy controller at the usual ports."""


class Pointer(NamedTuple):
    """`size` bytes at `offset` of `blob` hold an offset into the tables blob: its address is to be added."""

    blob: BlobName
    offset: int
    size: int


class Checksum(NamedTuple):
    """The byte at `offset` of `blob` makes the bytes [start, start + size) sum up to 0 modulo 256."""

    blob: BlobName
    offset: int
    start: int
    size: int


class Blob(NamedTuple):
    """Bytes to be written to guest-physical `address`."""

    address: int
    data: bytes


class PlacedAcpi(NamedTuple):
    """The tables for one place in memory."""

    rsdp_address: int
    blobs: tuple[Blob, ...]


class AcpiTables(NamedTuple):
    """The RSDP and all other tables, relative to each other.

    `offsets` gives each table's place in the blob by its signature. The tables blob needs an alignment of
    64 bytes, the RSDP of 16. Checksum bytes are 0 until everything is patched.
    """

    rsdp: bytes
    tables: bytes
    offsets: dict[str, int]
    pointers: tuple[Pointer, ...]
    checksums: tuple[Checksum, ...]

    def place(self, base: int = BIOS_BASE) -> PlacedAcpi:
        """Patch the tables for `base` (64-byte aligned): the RSDP there, the rest from `base` + 64 on.

        Raises ValueError for an unaligned `base`, or one so high that 32-bit pointers do not reach.
        """
        tables_base = base + 64
        if base % 64 or tables_base + len(self.tables) > 1 << 32:
            raise ValueError(f"ACPI tables cannot lie at {base:#x}: 64-byte alignment below 4 GiB is needed.")
        blobs = {"rsdp": bytearray(self.rsdp), "tables": bytearray(self.tables)}
        for pointer in self.pointers:
            place = slice(pointer.offset, pointer.offset + pointer.size)
            value = int.from_bytes(blobs[pointer.blob][place], "little") + tables_base
            blobs[pointer.blob][place] = value.to_bytes(pointer.size, "little")
        for checksum in self.checksums:
            blob = blobs[checksum.blob]
            blob[checksum.offset] = -sum(blob[checksum.start : checksum.start + checksum.size]) & 0xFF
        return PlacedAcpi(base, (Blob(base, bytes(blobs["rsdp"])), Blob(tables_base, bytes(blobs["tables"]))))


class _Builder:
    """Collects tables into one blob."""

    def __init__(self) -> None:
        self.tables = bytearray()
        self.offsets: dict[str, int] = {}
        self.pointers: list[Pointer] = []
        self.checksums: list[Checksum] = []

    def append(self, signature: str, data: bytes, align: int = 16) -> int:
        """Add a table without a header; return its offset."""
        self.tables.extend(bytes(-len(self.tables) % align))
        offset = self.offsets[signature] = len(self.tables)
        self.tables.extend(data)
        return offset

    def table(
        self, signature: str, revision: int, body: bytes, pointers: Iterable[tuple[int, int]] = ()
    ) -> int:
        """Add a table; `pointers` are (offset from the table's start, size). Return its offset. Section
        5.2.6.
        """
        length = HEADER_SIZE + len(body)
        header = struct.pack(
            "<4sIBB6s8sI4sI",
            *(
                signature.encode("ascii"),
                length,
                revision,
                0,
                OEM_ID,
                OEM_TABLE_ID,
                REVISION,
                CREATOR_ID,
                REVISION,
            ),
        )
        start = self.append(signature, header + body)
        self.pointers.extend(Pointer("tables", start + offset, size) for offset, size in pointers)
        self.checksums.append(Checksum("tables", start + 9, start, length))
        return start


def build(config: AcpiConfig) -> AcpiTables:
    """Make all tables. Raises ValueError for a configuration that has no ACPI form."""
    if not config.apic_ids or len(set(config.apic_ids)) != len(config.apic_ids):
        raise ValueError("ACPI needs at least one vCPU, and each with an APIC id of its own.")
    if not 0 <= config.serial_ports <= len(SERIAL_PORTS):
        raise ValueError(f"A PC has at most {len(SERIAL_PORTS)} serial ports, not {config.serial_ports}.")
    if not 0 <= config.parallel_ports <= len(PARALLEL_PORTS):
        raise ValueError(
            f"A PC has at most {len(PARALLEL_PORTS)} parallel ports, not {config.parallel_ports}."
        )
    builder = _Builder()
    facs = builder.append("FACS", _facs(), align=64)
    dsdt = builder.table("DSDT", 2, _dsdt(config))
    described = [
        builder.table("FACP", 6, _fadt(config, facs, dsdt), ((36, 4), (40, 4), (140, 8))),
        builder.table("APIC", 4, _madt(config)),
    ]
    if config.hpet:
        described.append(builder.table("HPET", 1, _hpet()))
    count = len(described)
    rsdt = builder.table(
        "RSDT", 1, struct.pack(f"<{count}I", *described), [(HEADER_SIZE + 4 * i, 4) for i in range(count)]
    )
    xsdt = builder.table(
        "XSDT", 1, struct.pack(f"<{count}Q", *described), [(HEADER_SIZE + 8 * i, 8) for i in range(count)]
    )
    # Section 5.2.5.3. The first checksum covers the first 20 bytes, the second, made after it, everything.
    rsdp = struct.pack("<8sB6sBIIQB3s", b"RSD PTR ", 0, OEM_ID, 2, rsdt, RSDP_SIZE, xsdt, 0, b"")
    return AcpiTables(
        rsdp=rsdp,
        tables=bytes(builder.tables),
        offsets=builder.offsets,
        pointers=(*builder.pointers, Pointer("rsdp", 16, 4), Pointer("rsdp", 24, 8)),
        checksums=(*builder.checksums, Checksum("rsdp", 8, 0, 20), Checksum("rsdp", 32, 0, RSDP_SIZE)),
    )


def _facs() -> bytes:
    """Section 5.2.10; version 2."""
    return struct.pack("<4sIIIIIQB31s", b"FACS", FACS_SIZE, 0, 0, 0, 0, 0, 2, b"")


def _io_register(port: int, bits: int, access: int) -> bytes:
    """Generic address structure of an I/O register. Section 5.2.3.2."""
    return struct.pack("<BBBBQ", aml.SYSTEM_IO, bits, 0, access, port)


_NO_REGISTER: Final = bytes(12)
_WBINVD: Final = 1 << 0
_PROC_C1: Final = 1 << 2
_NO_SLEEP_BUTTON: Final = 1 << 5
_NO_FIXED_RTC_WAKE: Final = 1 << 6
_RESET_REGISTER: Final = 1 << 10
_FORCE_PHYSICAL_DESTINATION: Final = 1 << 19
_LEGACY_DEVICES: Final = 1 << 0
_HAS_8042: Final = 1 << 1
_NO_VGA: Final = 1 << 2
_MAX_LOGICAL_DESTINATIONS: Final = 8


def _fadt(config: AcpiConfig, facs: int, dsdt: int) -> bytes:
    """Everything after the header. Section 5.2.9.

    SMI_CMD is 0: the machine is always in ACPI mode and SCI_EN always reads as 1. Only FIRMWARE_CTRL points
    to the FACS, as its 64-bit twin must then be 0.
    """
    flags = _WBINVD | _PROC_C1 | _NO_SLEEP_BUTTON | _NO_FIXED_RTC_WAKE | _RESET_REGISTER
    if len(config.apic_ids) > _MAX_LOGICAL_DESTINATIONS:
        flags |= _FORCE_PHYSICAL_DESTINATION
    boot_arch = _LEGACY_DEVICES | _HAS_8042 | (0 if config.vga else _NO_VGA)
    body = struct.pack("<IIBBH", facs, dsdt, 0, 0, SCI_IRQ)
    body += struct.pack("<IBBBB", 0, 0, 0, 0, 0)
    body += struct.pack("<8I", PM1A_EVENT, 0, PM1A_CONTROL, 0, 0, PM_TIMER, 0, 0)
    body += struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0)
    # C2 and C3 latencies above 100 and 1000 us mean: not supported.
    body += struct.pack("<HHHH", 0xFFF, 0xFFF, 0, 0)
    body += struct.pack("<BBBBBHBI", 0, 0, 0, 0, CMOS_CENTURY, boot_arch, 0, flags)
    body += _io_register(RESET_PORT, 8, 1) + struct.pack("<BHB", RESET_VALUE, 0, 3)
    body += struct.pack("<QQ", 0, dsdt)
    body += _io_register(PM1A_EVENT, 32, 2) + _NO_REGISTER
    body += _io_register(PM1A_CONTROL, 16, 2) + _NO_REGISTER + _NO_REGISTER
    body += _io_register(PM_TIMER, 32, 3) + _NO_REGISTER * 4
    body += bytes(8)
    return body


_ENABLED: Final = 1
_PCAT_COMPAT: Final = 1
_ACTIVE_HIGH_LEVEL: Final = 0x0D
_BUS_DEFAULT: Final = 0


def _madt(config: AcpiConfig) -> bytes:
    """Everything after the header. Section 5.2.12."""
    body = struct.pack("<II", LAPIC_BASE, _PCAT_COMPAT)
    wide = False
    for uid, apic_id in enumerate(config.apic_ids):
        if apic_id <= MAX_XAPIC_ID and uid <= MAX_XAPIC_ID:
            body += struct.pack("<BBBBI", 0, 8, uid, apic_id, _ENABLED)
        else:
            wide = True
            body += struct.pack("<BBHIII", 9, 16, 0, apic_id, _ENABLED, uid)
    body += struct.pack("<BBBBII", 1, 12, config.ioapic_id, 0, IOAPIC_BASE, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, _BUS_DEFAULT)
    for number in sorted({*PCI_IRQS, SCI_IRQ}):
        body += struct.pack("<BBBBIH", 2, 10, 0, number, number, _ACTIVE_HIGH_LEVEL)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, _BUS_DEFAULT, 1)
    if wide:
        body += struct.pack("<BBHIB3s", 10, 12, _BUS_DEFAULT, 0xFFFF_FFFF, 1, b"")
    return body


def _hpet() -> bytes:
    """Everything after the header: three 64-bit-capable comparators, vendor 8086, legacy replacement."""
    event_timer_block = 0x8086_A201
    return struct.pack("<I", event_timer_block) + struct.pack("<BBBBQ", 0, 64, 0, 0, HPET_BASE) + bytes(4)


SERIAL_PORTS: Final = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))
"""Base port and IRQ of COM1 to COM4."""
PARALLEL_PORTS: Final = ((0x378, 7), (0x278, 5))
"""Base port and IRQ of LPT1 and LPT2."""


def _dsdt(config: AcpiConfig) -> bytes:
    sleep_type = aml.integer(SLEEP_TYPE_S5)
    terms = [
        aml.name("\\_S5", aml.package(sleep_type, sleep_type, aml.ZERO, aml.ZERO)),
        aml.scope("\\_SB", _pci0(config), *(_link(i) for i in range(len(PIRQ_LINKS)))),
    ]
    return b"".join(terms)


def _pci0(config: AcpiConfig) -> bytes:
    windows = [
        aml.bus_numbers(0, 0xFF),
        aml.io_ports(0xCF8, 8),
        aml.io_window(0, 0xCF7),
        aml.io_window(0xD00, 0xFFFF),
        aml.memory_window32(VGA_BASE, VGA_END - 1, cacheable=True),
        aml.memory_window32(PCI32_BASE, PCI32_END - 1),
    ]
    if config.pci64:
        windows.append(aml.memory_window64(config.pci64.base, config.pci64.end - 1))
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.ZERO),
        aml.name("_CRS", aml.resource_template(*windows)),
        aml.name("_PRT", _routing_table()),
        _isa_bridge(config),
    )


def _routing_table() -> bytes:
    """Pin INTA# to INTD# of each slot to a link: (slot + pin - 1) modulo 4, as an i440FX board is wired."""
    return aml.package(
        *(
            aml.package(
                aml.integer(slot << 16 | 0xFFFF),
                aml.integer(pin),
                aml.name_string("\\_SB." + PIRQ_LINKS[(slot + pin - 1) % len(PIRQ_LINKS)]),
                aml.ZERO,
            )
            for slot in range(32)
            for pin in range(4)
        )
    )


def _isa_bridge(config: AcpiConfig) -> bytes:
    devices = [
        _isa_device("RTC", "PNP0B00", aml.io_ports(0x70, 2), aml.irq(8)),
        _isa_device("KBD", "PNP0303", aml.io_ports(0x60, 1), aml.io_ports(0x64, 1), aml.irq(1)),
        _isa_device("MOU", "PNP0F13", aml.irq(12)),
        _isa_device(
            "DMAC",
            "PNP0200",
            aml.io_ports(0x00, 0x10),
            aml.io_ports(0x80, 0x10),
            aml.io_ports(0xC0, 0x20),
            aml.dma(4),
        ),
        _isa_device("PM", "PNP0C02", aml.io_ports(PM_BASE, PM_SIZE)),
        _isa_device("FWCF", "QEMU0002", aml.io_ports(fw_cfg.SELECTOR_PORT, fw_cfg.PORTS)),
    ]
    for i, (port, number) in enumerate(SERIAL_PORTS[: config.serial_ports]):
        devices.append(
            _isa_device(f"COM{i + 1}", "PNP0501", aml.io_ports(port, 8, 8), aml.irq(number), uid=i + 1)
        )
    for i, (port, number) in enumerate(PARALLEL_PORTS[: config.parallel_ports]):
        devices.append(
            _isa_device(f"LPT{i + 1}", "PNP0400", aml.io_ports(port, 8, 8), aml.irq(number), uid=i + 1)
        )
    if config.floppy:
        ports = (aml.io_ports(0x3F2, 4), aml.io_ports(0x3F7, 1))
        devices.append(_isa_device("FDC0", "PNP0700", *ports, aml.irq(6), aml.dma(2)))
    if config.pvpanic:
        devices.append(_pvpanic())
    if config.hpet:
        devices.append(_isa_device("HPET", "PNP0103", aml.memory32_fixed(HPET_BASE, 0x400, writable=False)))
    return aml.device(
        "ISA",
        aml.name("_ADR", aml.integer(0x0001_0000)),
        aml.operation_region("PIRQ", aml.PCI_CONFIG, PIRQ_ROUTE_CONTROL, len(PIRQ_LINKS)),
        aml.field("PIRQ", aml.BYTE_ACCESS, aml.PRESERVE, *((f"PRQ{i}", 8) for i in range(len(PIRQ_LINKS)))),
        *devices,
    )


def _pvpanic() -> bytes:
    """The port of panics and the methods RDPT and WRPT over it. QEMU's docs/specs/pvpanic.rst."""
    register = aml.name_string("PEPT")
    return _isa_device(
        "PEVT",
        "QEMU0001",
        aml.io_ports(PVPANIC_PORT, 1),
        terms=(
            aml.operation_region("PEOR", aml.SYSTEM_IO, PVPANIC_PORT, 1),
            aml.field("PEOR", aml.BYTE_ACCESS, aml.PRESERVE, ("PEPT", 8)),
            aml.method("RDPT", 0, aml.return_(register)),
            aml.method("WRPT", 1, aml.store(aml.ARG0, register)),
        ),
    )


def _isa_device(name: str, hid: str, *resources: bytes, uid: int = 0, terms: tuple[bytes, ...] = ()) -> bytes:
    """`hid` is a PNP ID of 7 characters or an ACPI ID of 8. Section 6.1.5. `terms` follow the usual ones."""
    return aml.device(
        name,
        aml.name("_HID", aml.eisa_id(hid) if len(hid) == 7 else aml.string(hid)),
        aml.name("_UID", aml.integer(uid)),
        aml.name("_STA", aml.integer(0x0F)),
        aml.name("_CRS", aml.resource_template(*resources)),
        *terms,
    )


def _link(index: int) -> bytes:
    """A PCI interrupt link device over one PIRQ route control register. Section 6.2.13.

    The same links serve the PIC and the APIC: pins of the IOAPIC have the PIC's numbers.
    """
    register = aml.name_string(f"\\_SB.PCI0.ISA.PRQ{index}")
    disabled = aml.integer(PIRQ_DISABLED)
    return aml.device(
        PIRQ_LINKS[index],
        aml.name("_HID", aml.eisa_id("PNP0C0F")),
        aml.name("_UID", aml.integer(index)),
        aml.name("_PRS", aml.resource_template(aml.level_interrupt(*PCI_IRQS))),
        aml.name("RES", aml.resource_template(aml.level_interrupt(0))),
        aml.create_dword_field(aml.name_string("RES"), aml.LEVEL_INTERRUPT_NUMBER, "IRQN"),
        aml.method(
            "_STA",
            0,
            aml.if_(aml.and_(register, disabled), aml.return_(aml.integer(0x09))),
            aml.return_(aml.integer(0x0B)),
        ),
        aml.method("_DIS", 0, aml.or_(register, disabled, register)),
        aml.method(
            "_CRS",
            0,
            aml.and_(register, aml.integer(0x0F), aml.name_string("IRQN")),
            aml.return_(aml.name_string("RES")),
            serialized=True,
        ),
        aml.method(
            "_SRS",
            1,
            aml.create_dword_field(aml.ARG0, aml.LEVEL_INTERRUPT_NUMBER, "NEWN"),
            aml.store(aml.name_string("NEWN"), register),
            serialized=True,
        ),
    )
