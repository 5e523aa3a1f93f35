"""Results: sections with a table each, shown as text, kept in Markdown, or printed as JSON."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"
_HEAD = """\
# Results of the benchmarks

Written by `make bench`; docs/benchmarks.md says what is measured and how. Compare figures of one section
only: the competitors of a section ran by turns on one machine, and another machine has other ratios.
"""


@dataclass(slots=True)
class Section:
    """What one benchmark found. `rows` are the table's cells as text, `data` the same as JSON has it."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences below the table."""
    failures: list[str] = field(default_factory=list)
    """What went wrong, a sentence each; the exit status tells."""
    versions: list[str] = field(default_factory=list)
    commands: list[Sequence[str]] = field(default_factory=list)
    data: Any = None


def text(section: Section, colour: bool) -> str:
    """Return the section for a terminal or a pipe."""
    table = [section.columns, *section.rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(section.columns))]
    lines = [section.title, ""]
    for row in table:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    lines += ["", *section.notes] if section.notes else []
    red, plain = (_RED, _PLAIN) if colour else ("", "")
    lines += [f"{red}{failure}{plain}" for failure in section.failures]
    return "\n".join(lines) + "\n"


def save(path: Path, sections: Sequence[Section], how: str) -> None:
    """Replace the sections' earlier versions in the Markdown file `path`, or add them. `how` is the run."""
    try:
        old = path.read_text()
    except FileNotFoundError:
        old = ""
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", old, re.MULTILINE | re.DOTALL))
    parts |= {section.name: _markdown(section, how) for section in sections}
    body = "".join(f"\n## {name}\n{part.strip(chr(10))}\n" for name, part in parts.items())
    temporary = path.with_suffix(".new")
    temporary.write_text(_HEAD + body)
    temporary.replace(path)


def _markdown(section: Section, how: str) -> str:
    lines = ["", section.title, "", _row(section.columns)]
    lines += [_row(["---", *["---:"] * (len(section.columns) - 1)]), *map(_row, section.rows), ""]
    for sentence in (*section.notes, *(f"**{failure}**" for failure in section.failures)):
        lines += [sentence, ""]
    today = datetime.date.today().isoformat()
    load = f"load average {os.getloadavg()[1]:.1f} in the end"
    lines += [f"{today}, {how}, {load}, on {machine()}. {'; '.join(section.versions)}."]
    if section.commands:
        lines += ["", "```", *map(_command, section.commands), "```"]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Return the host in a clause: processor, cores, memory, kernel."""
    fields = dict(re.findall(r"^(\S[^\t]*)\t*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    kernel = ".".join(platform.release().split(".")[:2])
    processor = fields.get("model name", "x86-64")
    return f"{processor}, {cores} cores, {pages / 2**30:.0f} GiB, Linux {kernel}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _command(command: Sequence[str]) -> str:
    """Return a command with the directories named as people do who typed `make bench`."""
    line = shlex.join(command)
    for directory, name in ((sys.prefix, ".venv"), (str(Path.cwd()), "."), (str(Path.home()), "~")):
        line = line.replace(f"{directory}/", f"{name}/")
    return line
