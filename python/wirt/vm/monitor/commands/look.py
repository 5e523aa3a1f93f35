"""Commands that tell what a machine is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from wirt.errors import Error
from wirt.vm.monitor.messages import QmpError, version_info

if TYPE_CHECKING:
    from wirt.vm.balloon import Balloon
    from wirt.vm.monitor.monitor import Monitor


def query_version(monitor: Monitor) -> dict[str, object]:
    """Wirt's version."""
    return version_info(monitor.version)


def query_commands(monitor: Monitor) -> list[dict[str, object]]:
    """The commands that there are."""
    return [{"name": name} for name in sorted(monitor.commands)]


def query_name(monitor: Monitor) -> dict[str, object]:
    """The machine's name; nothing when it has none."""
    return {} if monitor.name is None else {"name": monitor.name}


def query_uuid(monitor: Monitor) -> dict[str, object]:
    """The UUID that the guest finds in SMBIOS."""
    text = monitor.vm.spec.uuid.hex()
    return {"UUID": "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))}


def query_target(_monitor: Monitor) -> dict[str, object]:
    """The architecture."""
    return {"arch": "x86_64"}


def query_kvm(monitor: Monitor) -> dict[str, object]:
    """Whether KVM runs the machine, and whether there is one."""
    return {"enabled": monitor.vm.accelerator == "kvm", "present": os.path.exists("/dev/kvm")}


def query_cpus_fast(monitor: Monitor) -> list[dict[str, object]]:
    """The vCPUs with the numbers of their threads. They are cores of one socket, as the guest sees them."""
    threads = _threads()
    return [
        {
            "cpu-index": index,
            "qom-path": f"/machine/cpu[{index}]",
            "thread-id": threads.get(f"vcpu{index}", 0),
            "props": {"socket-id": 0, "core-id": index, "thread-id": 0},
            "target": "x86_64",
        }
        for index in range(monitor.vm.spec.cpus)
    ]


def query_memory_size_summary(monitor: Monitor) -> dict[str, object]:
    """The memory at the start, in bytes; none can be plugged."""
    return {"base-memory": monitor.vm.spec.memory, "plugged-memory": 0}


def _threads() -> dict[str, int]:
    """The threads of this process by their names."""
    threads = {}
    for task in Path("/proc/self/task").iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(OSError):
            threads[(task / "comm").read_text().rstrip("\n")] = int(task.name)
    return threads


def query_balloon(monitor: Monitor) -> dict[str, object]:
    """The bytes of memory that the guest has left."""
    return {"actual": _balloon(monitor).size}


def balloon(monitor: Monitor, value: int) -> None:
    """Ask the guest to make do with so many bytes."""
    try:
        _balloon(monitor).target = value
    except Error as error:
        raise QmpError("GenericError", str(error)) from None


def _balloon(monitor: Monitor) -> Balloon:
    if not monitor.vm.balloon.present:
        raise QmpError("DeviceNotActive", "The machine has no balloon: give it the device virtio-balloon.")
    return monitor.vm.balloon
