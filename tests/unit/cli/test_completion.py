"""Completion scripts, run by the shells they are for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from wirt.cli.commands import COMMANDS
from wirt.cli.entry import main

BASH_DRIVER = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_wirt
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The script for the shell that the test names."""
    shell: str = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    path = tmp_path / "_wirt"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wirt d", {"doctor"}),
        ("wirt run --ac", {"--accel", "--accel-stats"}),
        ("wirt run --accel ", {"auto", "kvm", "recompiler"}),
        ("wirt run -q t", {"tiny"}),
        ("wirt run --memory ", set()),
        ("wirt doctor --format j", {"json"}),
        ("wirt completion z", {"zsh"}),
    ],
)
def test_bash_completes(script: Path, line: str, expected: set[str]) -> None:
    command = ["bash", "-c", BASH_DRIVER, "bash", str(script), *line.split(" ")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert set(done.stdout.split()) == expected
    assert done.stderr == ""


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_files(script: Path) -> None:
    command = ["bash", "-c", BASH_DRIVER, "bash", script, "wirt", "run", "--disk", str(script)[:-2]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == str(script)


@pytest.mark.parametrize("script", ["fish"], indirect=True)
@pytest.mark.parametrize(
    ("line", "expected"),
    [("wirt d", "doctor"), ("wirt run --accel-", "--accel-stats"), ("wirt run --accel k", "kvm")],
)
def test_fish_completes(script: Path, line: str, expected: str) -> None:
    command = ["fish", "-N", "-c", f"source {script}; complete -C '{line}'"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert [answer.split("\t")[0] for answer in done.stdout.splitlines()] == [expected]


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_understands_its_script(script: Path) -> None:
    subprocess.run(["zsh", "-f", "-n", script], check=True, timeout=20)
    text = script.read_text()
    assert text.startswith("#compdef wirt\n")
    for command in COMMANDS:
        assert f"        {command}) _arguments " in text
