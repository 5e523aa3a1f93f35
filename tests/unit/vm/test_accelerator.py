from __future__ import annotations

from types import SimpleNamespace

import pytest

import wirt
from wirt.vm import accelerator


@pytest.mark.parametrize(
    ("verdict", "chosen"),
    [("hardware", "kvm"), ("emulating", "recompiler"), ("unavailable", "recompiler")],
)
def test_auto_follows_the_probe(monkeypatch: pytest.MonkeyPatch, verdict: str, chosen: str) -> None:
    probe = SimpleNamespace(verdict=verdict, text="because")
    monkeypatch.setattr(accelerator._core, "probe", lambda: probe)
    assert accelerator.choose("auto") == accelerator.Accelerator(chosen, "because")


def test_a_forced_accelerator_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator._core, "probe", None)
    assert accelerator.choose("kvm").name == "kvm"
    with pytest.raises(wirt.UsageError, match="no accelerator 'tcg'"):
        accelerator.choose("tcg")


def test_the_real_probe_answers_with_figures() -> None:
    probe = wirt.vm.accelerator._core.probe()
    assert probe.text
    assert (probe.verdict == "unavailable") == (probe.ns_per_instruction is None)
