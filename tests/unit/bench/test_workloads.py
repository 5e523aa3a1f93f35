"""The guest's markers are understood, and so is a guest that does not get there."""

from __future__ import annotations

import pytest
from bench import workloads
from bench.console import Stopped, started
from bench.workloads import NATIVE, Found, NotBooted, Run


def printing(*lines: str, then: str = "true") -> list[str]:
    """A command that prints `lines` as a guest's console does, and goes on with `then`."""
    return ["sh", "-c", 'for l; do printf "%s\\r\\n" "$l"; done; ' + then, "sh", *lines]


def test_finished_yields_workloads_with_their_checksums() -> None:
    lines = ("@@INIT", "@@B a:5", "@@R a sum=1f", "@@E a:5 rc=0", "noise@@B b:5", "@@P", "@@R b sum=2")
    with started(printing(*lines, "@@E b:5 rc=0", "@@END")) as console:
        found = list(workloads.finished(console, 10))
    assert [(name, run.checksum) for name, run in found] == [("a:5", "1f"), ("b:5", "2")]
    assert all(run.wall >= 0 for _, run in found)


@pytest.mark.parametrize("end", ["@@E a:5 rc=0", "@@E a:5 rc=139"])
def test_finished_workload_without_result_or_with_a_status_fails(end: str) -> None:
    result = () if end.endswith("=0") else ("@@R a sum=1",)
    with started(printing("@@B a:5", *result, end)) as console, pytest.raises(Stopped, match="it failed"):
        list(workloads.finished(console, 10))


def test_finished_end_of_the_machine_is_told_with_its_last_words() -> None:
    command = printing("@@B a:5", "Kernel panic")
    with started(command) as console, pytest.raises(Stopped, match=r"ended: .*Kernel panic") as raised:
        list(workloads.finished(console, 10))
    assert not isinstance(raised.value, NotBooted)


def test_finished_hang_ends_after_the_limit() -> None:
    with (
        started(printing("@@B a:5", then="exec sleep 60")) as console,
        pytest.raises(Stopped, match="time was up"),
    ):
        list(workloads.finished(console, 0.3))


def test_finished_without_any_workload_is_not_booted() -> None:
    with started(printing("no kernel")) as console, pytest.raises(NotBooted, match="no kernel"):
        list(workloads.finished(console, 10))


def test_compare_checksums_names_who_differs_from_native() -> None:
    found = Found()
    for name, checksum in ((NATIVE, "1"), ("wirt", "2"), ("TCG 7.2", "1")):
        found.add("core", name, Run(1.0, 1.0, checksum))
    workloads.compare_checksums(found)
    assert found.failures == ["wirt, core: checksum 2 instead of 1"]
