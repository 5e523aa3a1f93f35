"""What `wirt doctor` finds, on hosts made up of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pytest

from wirt import _core
from wirt.cli import checks
from wirt.cli.cgroup import Cgroup
from wirt.vm import Accelerator

GIB = 1 << 30
NO_CGROUP = Cgroup(0)


@dataclass
class FakeProbe:
    verdict: Literal["hardware", "emulating", "unavailable"]
    text: str
    api_version: int | None = None
    instructions: int | None = None
    emulated: int | None = None
    ns_per_instruction: float | None = None


def check_kvm(probe: FakeProbe) -> checks.Check:
    return checks.check_kvm(cast(_core.Probe, probe))


@pytest.mark.parametrize(
    ("flags", "status", "finding"),
    [
        ("fpu vmx", "ok", "X, with VT-x"),
        ("svm hypervisor", "ok", "X in a virtual machine, with AMD-V"),
        ("fpu", "limited", "X, without VT-x or AMD-V"),
        ("hypervisor", "limited", "X in a virtual machine, without VT-x or AMD-V"),
    ],
)
def test_cpu(flags: str, status: str, finding: str) -> None:
    check = checks.check_cpu({"model name": "X", "flags": flags}, "x86_64")
    assert (check.status, check.finding) == (status, finding)
    assert (check.advice is None) == (status == "ok")


def test_cpu_of_another_kind_is_missing() -> None:
    assert checks.check_cpu({}, "aarch64").status == "missing"


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("6.1.0-28-cloud-amd64", "ok"),
        ("5.14.0", "ok"),
        ("5.13.19-2-pve", "limited"),
        ("4.19.0", "limited"),
        ("10.0-rc1", "ok"),
        ("strange", "limited"),
    ],
)
def test_kernel(release: str, status: str) -> None:
    assert checks.check_kernel(release).status == status


def test_kvm_in_hardware_is_ok_with_its_figures() -> None:
    check = check_kvm(FakeProbe("hardware", "KVM runs guests on the processor", 12, 1000, 0, 0.5))
    assert (check.status, check.advice) == ("ok", None)
    assert check.finding == "API version 12; KVM runs guests on the processor"
    assert check.figures["ns_per_instruction"] == 0.5


def test_kvm_that_emulates_is_limited() -> None:
    assert check_kvm(FakeProbe("emulating", "KVM emulates", 12, 1000, 1000, 900.0)).status == "limited"


def test_kvm_that_does_not_open_says_what_to_do() -> None:
    check = check_kvm(FakeProbe("unavailable", "/dev/kvm may not be opened: add this user to the group"))
    assert (check.status, check.finding) == ("missing", "/dev/kvm may not be opened")
    assert check.advice == "Add this user to the group; until then the recompiler is used."


def test_an_accelerator_that_makes_no_machines_is_missing() -> None:
    chosen = Accelerator("recompiler", "no /dev/kvm")
    assert checks.check_accelerator(chosen, lambda name: None).status == "ok"
    check = checks.check_accelerator(chosen, lambda name: f"{name} needs AVX")
    assert (check.status, check.figures) == ("missing", {"chosen": None})
    assert "recompiler needs AVX" in check.finding


@pytest.mark.parametrize(
    ("spare", "limit", "status", "counted"),
    [
        (2 * GIB, None, "ok", 2 * GIB),
        (2 * GIB, 1 << 28, "limited", 1 << 28),
        (2 * GIB, 8 * GIB, "ok", 2 * GIB),
        (1 << 28, None, "limited", 1 << 28),
    ],
)
def test_memory(spare: int, limit: int | None, status: str, counted: int) -> None:
    meminfo = {"MemTotal": 4 * GIB, "MemAvailable": spare}
    check = checks.check_memory(meminfo, Cgroup(2, memory_limit=limit))
    assert (check.status, check.figures["spare"]) == (status, counted)


@pytest.mark.parametrize(
    ("load", "limit", "status", "spare"),
    [
        (0.5, None, "ok", 3.5),
        (4.2, None, "limited", 0.0),
        (0.0, 0.25, "limited", 0.25),
        (1.0, 8.0, "ok", 3.0),
    ],
)
def test_cores(load: float, limit: float | None, status: str, spare: float) -> None:
    check = checks.check_cores(4, load, Cgroup(2, cpu_limit=limit))
    assert (check.status, check.figures["spare"]) == (status, spare)


def test_tun(tmp_path: Path) -> None:
    device = tmp_path / "tun"
    assert checks.check_tun(device).status == "missing"
    device.mkdir()
    assert checks.check_tun(device).status == "limited"
    device.rmdir()
    device.touch()
    assert checks.check_tun(device).status == "ok"


@pytest.mark.parametrize(
    ("cgroup", "status"),
    [
        (NO_CGROUP, "missing"),
        (Cgroup(2, ("cpu", "memory")), "limited"),
        (Cgroup(1, ("cpu",), writable=True), "ok"),
    ],
)
def test_cgroups(cgroup: Cgroup, status: str) -> None:
    check = checks.check_cgroups(cgroup)
    assert check.status == status
    assert check.figures["version"] == cgroup.version


def test_firmware_needs_all_files_of_a_choice(tmp_path: Path) -> None:
    code, variables, other = (tmp_path / name for name in ("code", "variables", "other"))
    choices = [[code, variables], [other]]
    code.touch()
    missing = checks.check_firmware("OVMF", "ovmf", choices)
    assert missing.status == "missing"
    assert missing.advice is not None and "apt-get install ovmf" in missing.advice
    other.touch()
    assert checks.check_firmware("OVMF", "ovmf", choices).finding == str(other)
    variables.touch()
    assert checks.check_firmware("OVMF", "ovmf", choices).finding == str(code)


def test_this_host_is_checked_whole() -> None:
    found = {check.name: check for check in checks.check_host()}
    assert list(found) == [
        *("CPU", "kernel", "KVM", "accelerator", "memory", "cores", "tun", "cgroups", "SeaBIOS", "OVMF"),
    ]
    assert found["accelerator"].status == "ok"
    assert found["memory"].figures["total"] == pytest.approx(checks._meminfo(Path("/"))["MemTotal"])
    for check in found.values():
        assert (check.advice is None) == (check.status == "ok"), check
