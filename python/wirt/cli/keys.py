"""The keys that Wirt keeps for itself at a person's terminal; all others go to the guest."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

ESCAPE: Final = 0x01
"""Ctrl-a: the key after it is for Wirt."""


class Key(Enum):
    """What the key after a Ctrl-a asks for."""

    QUIT = auto()
    CONTINUE = auto()
    HELP = auto()
    UNKNOWN = auto()


KEYS_HELP: Final = """\
Ctrl-a x       switch the machine off and leave
Ctrl-a c       let a machine go on that was stopped
Ctrl-a h       show these keys
Ctrl-a Ctrl-a  send one Ctrl-a to the guest
"""

_KEYS: Final = {ord("x"): Key.QUIT, ord("c"): Key.CONTINUE, ord("h"): Key.HELP}


class KeyFilter:
    """Divides what is typed into bytes for the guest and keys for Wirt."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, typed: bytes) -> list[bytes | Key]:
        """Take what was typed, in pieces of any size, and return its parts in order."""
        parts: list[bytes | Key] = []
        plain = bytearray()
        for byte in typed:
            if self._escaped and byte != ESCAPE:
                if plain:
                    parts.append(bytes(plain))
                    plain.clear()
                parts.append(_KEYS.get(byte, Key.UNKNOWN))
                self._escaped = False
            elif self._escaped or byte != ESCAPE:
                plain.append(byte)
                self._escaped = False
            else:
                self._escaped = True
        if plain:
            parts.append(bytes(plain))
        return parts
