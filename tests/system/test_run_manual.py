"""The programs in the README and in the manual run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from linux_guest import LINUX_GUEST

ROOT = Path(__file__).parents[2]
PAGES = "".join((ROOT / name).read_text() for name in ("README.md", "docs/python.md", "docs/monitor.md"))
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGES, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "program",
    [pytest.param(program, marks=LINUX_GUEST if '"tiny"' in program else []) for program in PROGRAMS],
)
def test_a_program_of_the_manual_runs(program: str) -> None:
    assert "assert " in program
    exec(compile(program, "manual", "exec"), {})


def test_the_pages_have_programs() -> None:
    assert len(PROGRAMS) == 5
