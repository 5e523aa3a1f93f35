"""Symbols of guest code: addresses and names, from the files in which they come.

Two forms are told apart by their contents: ELF files with a symbol table (vmlinux; System V ABI, chapter 4),
and lists of address, type and name as System.map and /proc/kallsyms have them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from wirt.errors import Error, NotFoundError

_ELF64: Final = b"\x7fELF\x02\x01"
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE: Final = 2
_FUNCTION: Final = 2
_NO_TYPE: Final = 0
MAX_SIZE: Final = 1 << 30


def read_symbols(path: Path) -> list[tuple[int, str]]:
    """Return (linear address, name) of the code symbols in `path`.

    Raises NotFoundError, or Error with one sentence when there are none or the file makes no sense.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE)
    except FileNotFoundError:
        raise NotFoundError(f"The symbols {path} do not exist.") from None
    except OSError as error:
        raise Error(f"The symbols {path} cannot be read: {error.strerror}.") from error
    try:
        symbols = _of_elf(data) if data.startswith(_ELF64) else _of_list(data)
    except (struct.error, ValueError, IndexError):
        raise Error(
            f"The symbols {path} make no sense: give a vmlinux with symbols, a System.map or /proc/kallsyms."
        ) from None
    if not symbols:
        raise Error(f"The symbols {path} have no code: without root, /proc/kallsyms shows no addresses.")
    return symbols


def _of_elf(data: bytes) -> list[tuple[int, str]]:
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    if size != _SECTION.size:
        raise ValueError(size)
    sections = [_SECTION.unpack_from(data, table + index * size) for index in range(count)]
    symbols = []
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind != _SYMBOL_TABLE:
            continue
        strings = sections[link][4]
        for at in range(offset, offset + length, _SYMBOL.size):
            name, info, _, section, value, _ = _SYMBOL.unpack_from(data, at)
            if info & 0xF in (_FUNCTION, _NO_TYPE) and section and value and name:
                start = strings + name
                symbols.append((value, data[start : data.index(b"\0", start)].decode(errors="replace")))
    return symbols


def _of_list(data: bytes) -> list[tuple[int, str]]:
    symbols = []
    for line in data.splitlines():
        address, kind, name, *_ = line.split()
        if kind in b"tTwW" and int(address, 16):
            symbols.append((int(address, 16), name.decode(errors="replace")))
    return symbols
