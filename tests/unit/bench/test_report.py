"""Results replace those of the same benchmark and leave the others."""

from __future__ import annotations

from pathlib import Path

from bench import report
from bench.report import Section


def section(name: str, figure: str) -> Section:
    """A section with one row."""
    return Section(name, "What it is.", ("", "s"), rows=[("wirt", figure)], commands=[["run", "a b"]])


def test_save_replaces_the_section_of_the_same_name(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    report.save(results, [section("boot", "1.00"), section("start", "2.00")], "a quick run")
    before = results.read_text()
    report.save(results, [section("boot", "3.00")], "a quick run")
    assert results.read_text() == before.replace("1.00", "3.00")
    assert before.count("## ") == 2
    assert "| wirt | 2.00 |" in before
    assert "run 'a b'" in before


def test_text_aligns_columns_and_colours_failures() -> None:
    shown = section("boot", "1.00")
    shown.failures.append("wirt, core: wrong")
    assert "wirt  1.00\n" in report.text(shown, colour=False)
    assert "\x1b[31mwirt, core: wrong\x1b[0m" in report.text(shown, colour=True)
    assert "\x1b" not in report.text(shown, colour=False)
