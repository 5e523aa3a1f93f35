"""The command line of the benchmarks."""

from __future__ import annotations

import sys

import bench.__main__
import bench.port
import pytest


def test_ctrl_c_is_a_sentence_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_quick: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.port, "measure", interrupted)
    monkeypatch.setattr(sys, "argv", ["bench", "port", "--no-save"])
    assert bench.__main__.main() == 130
    assert capsys.readouterr().err == "bench: Interrupted.\n"
