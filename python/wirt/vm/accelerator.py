"""Which accelerator runs a machine: chosen by measuring, not by looking whether a device file exists."""

from __future__ import annotations

from typing import Final, NamedTuple

from wirt import _core
from wirt.errors import UsageError

ACCELERATORS: Final = ("auto", "kvm", "recompiler")


class Accelerator(NamedTuple):
    """An accelerator and, in a clause, why it was chosen."""

    name: str
    reason: str


def choose(wish: str = "auto") -> Accelerator:
    """Return the accelerator for `wish`: the one named, or for "auto" KVM where it runs guests on the
    processor and the recompiler elsewhere. The probe takes 1 to 5 ms.

    Raises UsageError for another word.
    """
    if wish not in ACCELERATORS:
        raise UsageError(f"There is no accelerator {wish!r}: use auto, kvm or recompiler.")
    if wish != "auto":
        return Accelerator(wish, "as asked")
    probe = _core.probe()
    return Accelerator("kvm" if probe.verdict == "hardware" else "recompiler", probe.text)
