"""QEMU's firmware configuration interface: blobs that firmware and operating systems read by number or name.

It is a model in Python: the interface of Device has all it needs, and firmware moves whole files by DMA, a
few calls for each. Rust would save time only for guests that read byte by byte. Source: QEMU
docs/specs/fw_cfg.rst, as an x86 machine has it: selector at port 0x510, data at 0x511, DMA address at 0x514.
All items are read-only.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping
from functools import cached_property
from threading import Lock
from typing import Final, NamedTuple

from wirt._core import CoreError, GuestMemory
from wirt.devices.device import Device

SELECTOR_PORT: Final = 0x510
PORTS: Final = 12

SIGNATURE: Final = 0x00
ID: Final = 0x01
UUID: Final = 0x02
RAM_SIZE: Final = 0x03
NOGRAPHIC: Final = 0x04
NB_CPUS: Final = 0x05
BOOT_MENU: Final = 0x0E
MAX_CPUS: Final = 0x0F
FILE_DIR: Final = 0x19
FILE_FIRST: Final = 0x20
"""The selector of the first file; the others follow in the order of their names."""
MAX_NAME: Final = 55
"""ASCII characters in a file's name."""
MAX_SIZE: Final = (1 << 32) - 1
"""Bytes in a file."""

_WRITE_CHANNEL: Final = 0x4000
"""A bit of the selector from times when items could be written by port."""
_TRADITIONAL_AND_DMA: Final = 0b11

_SIGNATURE: Final = b"QEMU"
_DATA: Final = 1
_DMA_HIGH: Final = 4
_DMA_LOW: Final = 8
_DMA_SIGNATURE: Final = b"QEMU CFG"

_ERROR: Final = 1 << 0
_READ: Final = 1 << 1
_SKIP: Final = 1 << 2
_SELECT: Final = 1 << 3
_WRITE: Final = 1 << 4
_DESCRIPTOR: Final = struct.Struct(">IIQ")
"""What a DMA address points to: control, length in bytes, address."""
_CHUNK: Final = 64 << 10
"""Bytes copied at once, so that a length of 4 GiB takes no memory of the host's own."""


class Contents(NamedTuple):
    """What is to be read: items by selector (below FILE_FIRST, or with bit 15), and files by name.

    SIGNATURE, ID and FILE_DIR are made by the device. The caller keeps to MAX_NAME and MAX_SIZE.
    """

    items: Mapping[int, bytes]
    files: Mapping[str, bytes]


class FwCfg(Device):
    """The interface over `contents`, which is called when a guest first selects or reads something.

    `memory` is where DMA goes. A transfer that is not wholly RAM ends with the error bit, after a first part
    perhaps; so does every attempt to write an item. Reading beyond an item's end gives zeros.
    """

    ports = range(SELECTOR_PORT, SELECTOR_PORT + PORTS)

    def __init__(self, memory: GuestMemory, contents: Callable[[], Contents]) -> None:
        self._memory = memory
        self._contents = contents
        # Guards what follows: DMA lets go of the interpreter while it copies, and other vCPUs may come.
        self._lock = Lock()
        self._item = _SIGNATURE
        self._position = 0
        self._dma_high = 0

    @property
    def name(self) -> str:
        return "fw_cfg"

    def read(self, offset: int, size: int) -> int:
        if offset == _DATA and size == 1:
            with self._lock:
                return self._take(1)[0]
        if offset >= _DMA_HIGH:
            return int.from_bytes(_DMA_SIGNATURE[offset - _DMA_HIGH :][:size], "little")
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            if (offset, size) == (0, 2):
                self._select(value)
            elif (offset, size) == (_DMA_HIGH, 4):
                self._dma_high = _big_endian(value)
            elif (offset, size) == (_DMA_LOW, 4):
                descriptor = self._dma_high << 32 | _big_endian(value)
                self._dma_high = 0
                self._run(descriptor)

    @cached_property
    def _items(self) -> dict[int, bytes]:
        """Everything by selector."""
        items, files = self._contents()
        data = [files[name] for name in sorted(files)]
        return {
            **items,
            SIGNATURE: _SIGNATURE,
            ID: struct.pack("<I", _TRADITIONAL_AND_DMA),
            FILE_DIR: _directory(files),
            **dict(enumerate(data, FILE_FIRST)),
        }

    def _select(self, selector: int) -> None:
        self._item = self._items.get(selector & ~_WRITE_CHANNEL, b"")
        self._position = 0

    def _take(self, size: int) -> bytes:
        """The next `size` bytes of the item."""
        data = self._item[self._position : self._position + size]
        self._skip(size)
        return data.ljust(size, b"\0")

    def _skip(self, size: int) -> None:
        self._position = min(self._position + size, len(self._item))

    def _run(self, descriptor: int) -> None:
        """Carry out the DMA command at guest-physical `descriptor` and report in its control field."""
        try:
            control, length, address = _DESCRIPTOR.unpack(self._memory.read(descriptor, _DESCRIPTOR.size))
            self._command(control, length, address)
            status = 0
        except CoreError:
            status = _ERROR
        with contextlib.suppress(CoreError):
            self._store(descriptor, status.to_bytes(4, "big"))

    def _command(self, control: int, length: int, address: int) -> None:
        """Raises CoreError for what cannot be done."""
        if control & _SELECT:
            self._select(control >> 16)
        if control & _READ:
            end = address + length
            while address < end:
                size = min(end - address, _CHUNK)
                self._store(address, self._take(size))
                address += size
        elif control & _WRITE:
            raise CoreError("items are read-only")
        elif control & _SKIP:
            self._skip(length)

    def _store(self, address: int, data: bytes) -> None:
        if address + len(data) > 1 << 64:
            raise CoreError(f"no guest RAM at {address:#x}, {len(data)} bytes")
        self._memory.write(address, data)


def _directory(files: Mapping[str, bytes]) -> bytes:
    """The item FILE_DIR: a count, then 64 bytes for each file in the order of the names."""
    entries = [
        struct.pack(">IHH56s", len(data), FILE_FIRST + index, 0, name.encode("ascii"))
        for index, (name, data) in enumerate(sorted(files.items()))
    ]
    return struct.pack(">I", len(entries)) + b"".join(entries)


def _big_endian(value: int) -> int:
    """The number that a little-endian port access of 4 bytes carries."""
    return int.from_bytes(value.to_bytes(4, "little"), "big")
