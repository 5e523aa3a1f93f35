"""A machine's memory as a program looks at it."""

from __future__ import annotations

from collections.abc import Callable

from wirt import _core
from wirt.errors import UsageError


class Memory:
    """Guest RAM by guest-physical address. The guest may change it at any time unless it is paused.

    Raises ClosedError when the machine is closed.
    """

    def __init__(self, memory: Callable[[], _core.GuestMemory]) -> None:
        self._memory = memory

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return self._memory().size

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes. Raises UsageError when not all of them are RAM."""
        if address < 0 or size < 0:
            raise UsageError("Cannot read guest memory: address and size are not negative.")
        try:
            return self._memory().read(address, size)
        except (_core.CoreError, OverflowError, ValueError) as error:
            raise UsageError(f"Cannot read guest memory: {error}.") from error

    def write(self, address: int, data: bytes) -> None:
        """Store `data`. Raises UsageError when not all of it falls on RAM."""
        if address < 0:
            raise UsageError("Cannot write guest memory: addresses are not negative.")
        try:
            self._memory().write(address, data)
        except (_core.CoreError, OverflowError) as error:
            raise UsageError(f"Cannot write guest memory: {error}.") from error
