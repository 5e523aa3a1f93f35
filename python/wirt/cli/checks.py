"""The checks of `wirt doctor`: one function each, of what the host has."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from wirt import _core
from wirt.cli.cgroup import Cgroup, own_cgroup
from wirt.machine.memory_map import PAGE_SIZE
from wirt.vm import Accelerator, choose

Status = Literal["ok", "limited", "missing"]
Figure = int | float | str | None

OLDEST_KERNEL: Final = (5, 14)
"""The first with KVM's statistics, by which the probe counts instead of timing."""
SMALLEST_GUEST: Final = 512 << 20
"""Bytes of memory that `wirt run` gives a machine when it is not told."""

SEABIOS: Final = (
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/bios-256k.bin",
)
OVMF: Final = (
    ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("usr/share/edk2/x64/OVMF_CODE.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
"""Paths from the root; code and its empty variable store belong together."""


class Check(NamedTuple):
    """One line of the report. `advice` is None where there is nothing to do; `figures` are for programs,
    sizes in bytes.
    """

    name: str
    status: Status
    finding: str
    advice: str | None = None
    figures: Mapping[str, Figure] = MappingProxyType({})


def check_host(root: Path = Path("/")) -> list[Check]:
    """Return all checks, of the host whose files are below `root`."""
    probe = _core.probe()
    cgroup = own_cgroup(root)
    return [
        check_cpu(_cpuinfo(root), platform.machine()),
        check_kernel(platform.release()),
        check_kvm(probe),
        check_accelerator(choose(), machine_error),
        check_memory(_meminfo(root), cgroup),
        check_cores(len(os.sched_getaffinity(0)), os.getloadavg()[0], cgroup),
        check_tun(root / "dev/net/tun"),
        check_cgroups(cgroup),
        check_firmware("SeaBIOS", "seabios", [[root / path] for path in SEABIOS]),
        check_firmware("OVMF", "ovmf", [[root / path for path in paths] for paths in OVMF]),
    ]


def check_cpu(cpuinfo: dict[str, str], machine: str) -> Check:
    """`cpuinfo` are the fields of /proc/cpuinfo, `machine` is what `uname -m` prints."""
    model = cpuinfo.get("model name", "unknown model")
    if machine != "x86_64":
        return Check("CPU", "missing", f"{model}, {machine}", "Use a host with an x86-64 processor.")
    flags = cpuinfo.get("flags", "").split()
    virtualization = next((name for flag, name in (("vmx", "VT-x"), ("svm", "AMD-V")) if flag in flags), None)
    place = " in a virtual machine" if "hypervisor" in flags else ""
    figures: dict[str, Figure] = {"model": model, "virtualization": virtualization}
    if virtualization is not None:
        return Check("CPU", "ok", f"{model}{place}, with {virtualization}", figures=figures)
    advice = (
        "For KVM ask this machine's provider for nested virtualization; without, the recompiler runs guests."
        if place
        else "For KVM turn on virtualization in the firmware setup; without, the recompiler runs guests."
    )
    return Check("CPU", "limited", f"{model}{place}, without VT-x or AMD-V", advice, figures)


def check_kernel(release: str) -> Check:
    """`release` is what `uname -r` prints."""
    figures: dict[str, Figure] = {"release": release}
    numbers = [int(digits) for digits in release.split("-")[0].split(".")[:2] if digits.isdecimal()]
    if tuple(numbers) >= OLDEST_KERNEL:
        return Check("kernel", "ok", f"Linux {release}", figures=figures)
    advice = "Use Linux 5.14 or newer: without its statistics KVM is judged by its speed alone."
    return Check("kernel", "limited", f"Linux {release}", advice, figures)


def check_kvm(probe: _core.Probe) -> Check:
    """The verdict on /dev/kvm, with the figures of the measurement."""
    figures: dict[str, Figure] = {
        "verdict": probe.verdict,
        "api_version": probe.api_version,
        "instructions": probe.instructions,
        "emulated": probe.emulated,
        "ns_per_instruction": probe.ns_per_instruction,
    }
    version = "" if probe.api_version is None else f"API version {probe.api_version}; "
    finding = f"{version}{probe.text}"
    match probe.verdict:
        case "hardware":
            return Check("KVM", "ok", finding, figures=figures)
        case "emulating":
            advice = "Nothing to do, the recompiler is used; for KVM use a host with VT-x or AMD-V."
            return Check("KVM", "limited", finding, advice, figures)
        case "unavailable":
            what, _, advice = probe.text.partition(": ")
            advice = f"{advice[:1].upper()}{advice[1:]}; until then the recompiler is used."
            return Check("KVM", "missing", f"{version}{what}", advice, figures)


def machine_error(accelerator: str) -> str | None:
    """Why no machine can be made with the accelerator, or None."""
    try:
        memory = _core.GuestMemory([(0, PAGE_SIZE, 0, False)])
        _core.Machine(memory, 1, accelerator).close()
    except _core.CoreError as error:
        return str(error)
    return None


def check_accelerator(chosen: Accelerator, error_of: Callable[[str], str | None]) -> Check:
    """Whether the accelerator that `--accel auto` takes makes machines."""
    figures: dict[str, Figure] = {"chosen": chosen.name}
    error = error_of(chosen.name)
    if error is None:
        return Check("accelerator", "ok", f"{chosen.name} is chosen, and makes machines", figures=figures)
    figures["chosen"] = None
    advice = "No guest can run here until that is mended."
    return Check("accelerator", "missing", f"{chosen.name} makes no machines: {error}", advice, figures)


def check_memory(meminfo: dict[str, int], cgroup: Cgroup) -> Check:
    """`meminfo` are the fields of /proc/meminfo in bytes."""
    total, spare = meminfo.get("MemTotal", 0), meminfo.get("MemAvailable", 0)
    finding = f"{_mib(spare)} of {_mib(total)} to spare"
    if cgroup.memory_limit is not None and cgroup.memory_limit < total:
        finding += f"; this process's group may use {_mib(cgroup.memory_limit)}"
        spare = min(spare, cgroup.memory_limit)
    figures: dict[str, Figure] = {"total": total, "spare": spare}
    if spare >= SMALLEST_GUEST:
        return Check("memory", "ok", finding, figures=figures)
    advice = f"End other programs, or give machines less than the usual {_mib(SMALLEST_GUEST)} by --memory."
    return Check("memory", "limited", finding, advice, figures)


def check_cores(usable: int, load: float, cgroup: Cgroup) -> Check:
    """`usable` processors are this process's to use; `load` is the load average of the last minute."""
    finding = f"{usable} usable, load {load:.1f}"
    available = float(usable)
    if cgroup.cpu_limit is not None and cgroup.cpu_limit < usable:
        finding += f"; this process's group may use {cgroup.cpu_limit:g}"
        available = cgroup.cpu_limit
    spare = max(0.0, available - load)
    figures: dict[str, Figure] = {"usable": available, "load": load, "spare": spare}
    if spare >= 0.5:
        return Check("cores", "ok", finding, figures=figures)
    return Check("cores", "limited", finding, "Expect slow guests until other programs need less.", figures)


def check_tun(device: Path) -> Check:
    """Whether network interfaces for guests can be made."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Check("tun", "missing", f"no {device}", "For networks of the host's: as root, 'modprobe tun'.")
    except OSError as error:
        advice = "For networks of the host's run Wirt as root, or allow this user to open it."
        return Check("tun", "limited", f"{device} cannot be opened: {error.strerror}", advice)
    return Check("tun", "ok", f"{device} opens")


def check_cgroups(cgroup: Cgroup) -> Check:
    """Whether shares and limits can be set."""
    figures: dict[str, Figure] = {"version": cgroup.version, "controllers": " ".join(cgroup.controllers)}
    if not cgroup.version:
        advice = "For shares and limits mount them: as root, 'mount -t cgroup2 none /sys/fs/cgroup'."
        return Check("cgroups", "missing", "none mounted", advice, figures)
    finding = f"version {cgroup.version}: {' '.join(cgroup.controllers) or 'no controllers'}"
    if cgroup.writable:
        return Check("cgroups", "ok", finding, figures=figures)
    advice = (
        "For shares and limits run Wirt as root, or by 'systemd-run --user --scope -p Delegate=yes wirt'."
    )
    return Check("cgroups", "limited", f"{finding}; this user may not make groups", advice, figures)


def check_firmware(name: str, package: str, choices: Sequence[Sequence[Path]]) -> Check:
    """Whether all files of one of the `choices` are there; `package` is Debian's name for them."""
    for paths in choices:
        if all(os.access(path, os.R_OK) for path in paths):
            return Check(name, "ok", str(paths[0]), figures={"path": str(paths[0])})
    advice = f"For guests that boot by firmware install it: as root, 'apt-get install {package}'."
    return Check(name, "missing", f"no {choices[0][0]}", advice, {"path": None})


def _cpuinfo(root: Path) -> dict[str, str]:
    """The fields of the first processor."""
    fields = {}
    for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
        if not line.strip():
            break
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def _meminfo(root: Path) -> dict[str, int]:
    sizes = {}
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB" and number.isdecimal():
            sizes[name] = int(number) << 10
    return sizes


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
