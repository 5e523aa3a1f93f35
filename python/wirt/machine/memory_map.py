"""The PC's physical memory map, computed from the amount of RAM.

RAM lies at [0, low_end) with the VGA window cut out of it, and above 4 GiB for what does not fit below the
PCI hole. Addresses are guest-physical bytes. Sources: Intel 82441FX (i440FX) datasheet section 4.1, ACPI 6.3
section 15 (address range types), Intel 82093AA and SDM volume 3 chapter 11 (IOAPIC and local APIC bases).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, Protocol

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40
PAGE_SIZE: Final = 4 * KIB

BDA_BASE: Final = 0x400
"""The BIOS data area; its word at 0x0E is the EBDA's segment, its word at 0x13 the KiB of base memory."""
EBDA_BASE: Final = 0x9_FC00
"""The extended BIOS data area: the last KiB of base memory, reserved."""
VGA_BASE: Final = 0xA_0000
VGA_END: Final = 0xC_0000
BIOS_BASE: Final = 0xE_0000
"""The BIOS area up to 1 MiB: the PC's tables are found by scanning it; the guest's RAM map calls it
reserved.
"""
SMBIOS_BASE: Final = 0xF_0000
"""The part of the BIOS area that is scanned for SMBIOS anchors."""
HIGH_MEMORY_BASE: Final = 1 * MIB

LOW_RAM_LIMIT: Final = 0xC000_0000
PCI32_BASE: Final = 0xC000_0000
PCI32_END: Final = 0xFEC0_0000
IOAPIC_BASE: Final = 0xFEC0_0000
HPET_BASE: Final = 0xFED0_0000
LAPIC_BASE: Final = 0xFEE0_0000
KVM_IDENTITY_MAP_BASE: Final = 0xFEFF_C000
"""One page KVM needs on Intel CPUs for real mode, followed by the three pages of `KVM_TSS_BASE`."""
KVM_TSS_BASE: Final = 0xFEFF_D000
KVM_RESERVED_END: Final = 0xFF00_0000
FIRMWARE_BASE: Final = 0xFFC0_0000
"""Firmware (pflash or ROM) lies somewhere from here to 4 GiB."""
HIGH_RAM_BASE: Final = 4 * GIB

PCI64_ALIGNMENT: Final = 1 * GIB
PCI64_MAX_SIZE: Final = 32 * GIB

MIN_RAM: Final = 1 * MIB


class GuestMemory(Protocol):
    """Guest RAM by guest-physical address. Both methods raise for a range that is not wholly RAM."""

    @property
    def size(self) -> int:
        """Bytes of RAM in all."""

    def read(self, gpa: int, size: int) -> bytes:
        """Return `size` bytes from `gpa`."""

    def write(self, gpa: int, data: bytes) -> None:
        """Store `data` at `gpa`."""


class E820Type(IntEnum):
    """Address range types of ACPI 6.3 section 15.1, table 15-374."""

    RAM = 1
    RESERVED = 2
    ACPI = 3
    NVS = 4


class Range(NamedTuple):
    """The addresses from `base` up to, but not including, `end`."""

    base: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.base

    def contains(self, base: int, size: int) -> bool:
        """Whether all of [base, base + size) lies inside."""
        return self.base <= base and base + size <= self.end

    def overlaps(self, other: Range) -> bool:
        return self.base < other.end and other.base < self.end


class RamRegion(NamedTuple):
    """RAM at `address`, `size` bytes of it, kept in the RAM file from byte `offset` on."""

    address: int
    size: int
    offset: int

    @property
    def range(self) -> Range:
        return Range(self.address, self.address + self.size)


class E820Entry(NamedTuple):
    """One entry of the map that firmware hands to the operating system."""

    base: int
    size: int
    type: E820Type

    @property
    def range(self) -> Range:
        return Range(self.base, self.base + self.size)


class MemoryMap(NamedTuple):
    """Where everything in the guest-physical address space lies.

    `low_end` is the end of RAM below the PCI hole; `high_end` the end of RAM above 4 GiB, or 4 GiB when there
    is none. `pci64` is None when the guest's physical address width leaves no room above RAM.
    """

    ram_size: int
    low_end: int
    high_end: int
    ram: tuple[RamRegion, ...]
    e820: tuple[E820Entry, ...]
    pci32: Range
    pci64: Range | None

    @property
    def usable(self) -> tuple[Range, ...]:
        """The ranges an operating system may use as RAM, in ascending order."""
        return tuple(entry.range for entry in self.e820 if entry.type is E820Type.RAM)


def memory_map(ram_size: int, physical_bits: int = 40) -> MemoryMap:
    """Lay out `ram_size` bytes of RAM in an address space of `physical_bits` bits (32 to 52).

    The 128 KiB under the VGA window exist in the RAM file, so that offsets equal addresses below the hole,
    but no region shows them: a guest sees that much less, as on a PC.

    Raises ValueError, with a sentence for the user, when the size is no multiple of 4 KiB, is less than 1 MiB
    or does not fit the address space.
    """
    if not 32 <= physical_bits <= 52:
        raise ValueError(f"A physical address has 32 to 52 bits, not {physical_bits}.")
    if ram_size < MIN_RAM:
        raise ValueError(f"{ram_size} bytes of memory are too little: give the machine at least 1 MiB.")
    if ram_size % PAGE_SIZE:
        raise ValueError(f"{ram_size} bytes of memory are no multiple of 4 KiB: choose a rounder size.")
    low_end = min(ram_size, LOW_RAM_LIMIT)
    high_end = HIGH_RAM_BASE + ram_size - low_end
    address_end = 1 << physical_bits
    if high_end > address_end:
        raise ValueError(
            f"{ram_size // MIB} MiB of memory do not fit into {physical_bits} physical address bits: "
            f"at most {(address_end - HIGH_RAM_BASE + LOW_RAM_LIMIT) // MIB} MiB do."
        )

    ram = [RamRegion(0, VGA_BASE, 0), RamRegion(VGA_END, low_end - VGA_END, VGA_END)]
    e820 = [
        E820Entry(0, EBDA_BASE, E820Type.RAM),
        E820Entry(EBDA_BASE, VGA_BASE - EBDA_BASE, E820Type.RESERVED),
        E820Entry(BIOS_BASE, HIGH_MEMORY_BASE - BIOS_BASE, E820Type.RESERVED),
    ]
    if low_end > HIGH_MEMORY_BASE:
        e820.append(E820Entry(HIGH_MEMORY_BASE, low_end - HIGH_MEMORY_BASE, E820Type.RAM))
    e820.append(E820Entry(KVM_IDENTITY_MAP_BASE, KVM_RESERVED_END - KVM_IDENTITY_MAP_BASE, E820Type.RESERVED))
    e820.append(E820Entry(FIRMWARE_BASE, HIGH_RAM_BASE - FIRMWARE_BASE, E820Type.RESERVED))
    if high_end > HIGH_RAM_BASE:
        ram.append(RamRegion(HIGH_RAM_BASE, high_end - HIGH_RAM_BASE, low_end))
        e820.append(E820Entry(HIGH_RAM_BASE, high_end - HIGH_RAM_BASE, E820Type.RAM))

    pci64_base = -(-high_end // PCI64_ALIGNMENT) * PCI64_ALIGNMENT
    pci64_end = min(pci64_base + PCI64_MAX_SIZE, address_end)
    return MemoryMap(
        ram_size=ram_size,
        low_end=low_end,
        high_end=high_end,
        ram=tuple(ram),
        e820=tuple(e820),
        pci32=Range(PCI32_BASE, PCI32_END),
        pci64=Range(pci64_base, pci64_end) if pci64_end > pci64_base else None,
    )
