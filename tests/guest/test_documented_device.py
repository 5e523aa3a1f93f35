"""The example in the manual runs as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from wirt.vm import vm
from wirt.vm.accelerator import Accelerator


def test_example_of_the_manual(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "choose", lambda _: Accelerator(accelerator, "by the test"))
    manual = Path(__file__).parents[2] / "docs" / "devices.md"
    _, example, _ = manual.read_text().replace("```python\n", "```").split("```")
    names: dict[str, object] = {}
    exec(compile(example, str(manual), "exec"), names)
    assert names["vm"].accelerator == accelerator  # type: ignore[attr-defined]
