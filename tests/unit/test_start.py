"""What a start costs: `wirt run` may import only what it needs on the way to the first instruction."""

import subprocess
import sys

import pytest

SLOW = ("dataclasses", "inspect", "subprocess", "uuid", "importlib.metadata", "json", "hashlib", "tempfile")
"""Modules that take milliseconds to import, or drag in others that do."""


@pytest.mark.parametrize("module", ["wirt.vm.vm", "wirt.cli.run"])
def test_a_start_imports_no_slow_modules(module: str) -> None:
    program = f"import sys\nbefore = set(sys.modules)\nimport {module}\nprint(*set(sys.modules) - before)"
    imported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert module in imported
    assert [name for name in SLOW if name in imported] == []


def test_the_command_line_is_imported_without_machines() -> None:
    program = "import sys\nimport wirt.cli.entry\nprint(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "wirt.cli.entry" in imported
    assert not [name for name in imported if name in ("wirt.vm", "wirt.machine", "wirt._core")]
