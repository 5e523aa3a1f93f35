"""A virtual processor as a program looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wirt import _core
from wirt.errors import Error, UsageError
from wirt.machine.boot.state import DescriptorTable, Segment
from wirt.vm.registers import Registers, from_core, to_core


class Vcpu:
    """One virtual processor. A running one is interrupted for a few microseconds when it is asked
    something.
    """

    def __init__(self, machine: Callable[[], _core.Machine], index: int) -> None:
        self._machine = machine
        self.index = index

    @property
    def registers(self) -> Registers:
        """All registers at this moment. Raises Error when the machine is closed, or inside a device."""
        return from_core(self._ask(self._machine().registers))

    def set_registers(self, **values: int | Segment | DescriptorTable) -> None:
        """Set registers by name, as `Registers` has them; the others stay.

        Raises UsageError when there is no such register or it cannot hold the value, Error when no processor
        can be in that state.
        """
        self._ask(self._machine().set_registers, to_core(values))

    def translate(self, address: int) -> int | None:
        """Return the physical address behind a linear one under the current paging; None: not mapped."""
        translated: int | None = self._ask(self._machine().translate, address)
        return translated

    @property
    def statistics(self) -> dict[str, int]:
        """The accelerator's counters for this vCPU, by name."""
        counters: dict[str, int] = self._ask(self._machine().statistics)
        return counters

    def _ask(self, method: Callable[..., Any], *arguments: object) -> Any:
        try:
            return method(self.index, *arguments)
        except _core.CoreError as error:
            raise Error(f"vCPU {self.index}: {error}.") from error
        except OverflowError as error:
            raise UsageError(f"vCPU {self.index}: a value is negative or has more than 64 bits.") from error
        except KeyError as error:
            raise UsageError(f"vCPU {self.index}: {error.args[0]}.") from error
