"""Sizes of memory and disks as people write them."""

from __future__ import annotations

import re
from typing import Final

from wirt.errors import UsageError

_SIZE: Final = re.compile(r"\s*([0-9]+)\s*(?:([KMGT])(?:i?B)?|B)?\s*", re.IGNORECASE)
_SHIFT: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str | int) -> int:
    """Return the bytes that `text` stands for: 512M, 2GiB, 2 g, 65536. All units are binary.

    Raises UsageError for anything else.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise UsageError(f"A size is not negative: {text}.")
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None or len(match[1]) > 18:
        raise UsageError(f"{text!r} is no size: write a number with K, M, G or T, for instance 512M or 2GiB.")
    return int(match[1]) << _SHIFT[(match[2] or "").upper()]


def format_size(size: int) -> str:
    """Return `size` bytes in the largest binary unit that divides it: 512 MiB."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"
