"""A machine's memory balloon, as a program blows it up."""

from __future__ import annotations

from collections.abc import Callable

from wirt import _core
from wirt.errors import Error, UsageError
from wirt.vm.sizes import format_size, parse_size


class Balloon:
    """How much of its memory a guest is to make do with. What it gives up is the host's again.

    All raises Error when the machine has no balloon: make it with devices=["virtio-balloon"].
    """

    def __init__(self, balloon: _core.Balloon | None, memory: int, ended: Callable[[], bool]) -> None:
        self._balloon = balloon
        self._memory = memory
        self._ended = ended

    @property
    def present(self) -> bool:
        """Whether the machine has a balloon."""
        return self._balloon is not None

    @property
    def target(self) -> int:
        """Bytes that the guest was asked to make do with; can be set, to 512M, 2GiB or bytes.

        The guest follows when it can, or never: see `size`. Raises UsageError for more than it has.
        """
        return self._open.target

    @target.setter
    def target(self, wish: str | int) -> None:
        balloon = self._open
        size = parse_size(wish)
        if not 0 < size <= self._memory:
            raise UsageError(
                f"A guest with {format_size(self._memory)} of memory cannot make do with "
                f"{format_size(size)}: ask for less than it has."
            )
        balloon.set_target(size)

    @property
    def size(self) -> int:
        """Bytes that the guest says it has left."""
        return self._open.size

    def statistics(self, timeout: float = 10.0) -> dict[str, int] | None:
        """Return what the guest says of its memory now, by name: free_memory, total_memory and more, in
        bytes, and counts of events; None when it has no driver that answers in time.
        """
        return self._open.statistics(timeout)

    @property
    def _open(self) -> _core.Balloon:
        if self._balloon is None:
            raise Error("The machine has no balloon: give it the device virtio-balloon.")
        if self._ended():
            raise Error("The machine has ended: its balloon is gone.")
        return self._balloon
