"""Completion scripts, run by the shells they are for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pty_process import PtyProcess
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
        ("wirt d", {"devices", "doctor"}),
        ("wirt run --ac", {"--accel", "--accel-stats"}),
        ("wirt run --accel ", {"auto", "kvm", "recompiler"}),
        ("wirt run -q t", {"tiny"}),
        ("wirt run --memory ", set()),
        ("wirt --d", {"--debug"}),
        ("wirt run --accel = k", {"kvm"}),
        ("wirt run --serial f", {"file:"}),
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
    [("wirt do", "doctor"), ("wirt run --accel-", "--accel-stats"), ("wirt run --accel k", "kvm")],
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


@pytest.mark.parametrize("script", ["bash", "zsh", "fish"], indirect=True)
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("wirt -q r", "wirt -q run !"),
        ("wirt run --accel=k", "--accel=kvm !"),
        ("wirt run --disk ima", "--disk images/!"),
        ("wirt run --disk=images/", "--disk=images/a.img !"),
        ("wirt run --disk my", "my\\ disk.img !"),
        ("wirt run --serial n", "--serial none !"),
        ("wirt run --serial f", "--serial file:!"),
        ("wirt run --serial file:images/", "file:images/a.img !"),
    ],
)
def test_a_person_at_the_shell(
    script: Path, typed: str, completed: str, request: pytest.FixtureRequest
) -> None:
    shell = request.node.callspec.params["script"]
    place = script.parent
    (place / "images").mkdir()
    (place / "images/a.img").touch()
    (place / "my disk.img").touch()
    command, setup = {
        "bash": (["bash", "--norc"], "source ./_wirt"),
        "zsh": (["zsh", "-f"], "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -d ./dump"),
        "fish": (["fish", "-N", "--private"], "function fish_prompt; echo '$ '; end; source ./_wirt"),
    }[shell]
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "TERM": "dumb", "PS1": "$ "}
    with PtyProcess(command, cwd=place, env=environment) as terminal:
        terminal.send(f"{setup}; echo rea''dy\n".encode())
        terminal.expect(b"ready")
        terminal.expect(b"$ ")
        # What follows the completed word shows where the cursor is.
        terminal.send(typed.encode() + b"\t!")
        shown = re.sub(rb".\x08", b"", terminal.expect(b"!"))
        assert shown.endswith(completed.encode())
