"""Clients of others, as people have them: vncdotool, and gvnccapture of gtk-vnc where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from unit.display.conftest import Stage
from unit.display.fakes import FakeScreen

Make = Callable[..., Stage]


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


def vncdo(made: Stage, *command: str) -> None:
    host, _, port = made.server.address.rpartition(":")
    run(sys.executable, "-m", "vncdotool.command", "--server", f"{host}::{port}", "--timeout", "30", *command)


def colours(picture: Path) -> list[int]:
    data = Image.open(picture).convert("RGB").tobytes()
    return [int.from_bytes(data[start : start + 3], "big") for start in range(0, len(data), 3)]


def desktop() -> FakeScreen:
    screen = FakeScreen(320, 200)
    screen.fill((20, 30, 200, 100), 0x336699)
    screen.fill((40, 50, 7, 5), 0xFFFFFF)
    return screen


def test_vncdotool_captures_the_screen(stage: Make, tmp_path: Path) -> None:
    made = stage(screen=desktop())
    vncdo(made, "capture", str(tmp_path / "screen.png"))
    assert colours(tmp_path / "screen.png") == made.screen.colours()
    assert made.logged() == []


def test_vncdotool_gives_the_password(stage: Make, tmp_path: Path) -> None:
    made = stage(screen=desktop(), password="secret")
    vncdo(made, "--password", "secret", "capture", str(tmp_path / "screen.png"))
    assert colours(tmp_path / "screen.png") == made.screen.colours()


def test_vncdotool_types_and_clicks(stage: Make) -> None:
    made = stage(screen=desktop())
    vncdo(made, "type", "aB", "key", "ctrl-alt-del", "move", "100", "50", "click", "1")
    made.pointer.wait(
        lambda events: (100, 50, 320, 200, 1) in events and events[-1] == (100, 50, 320, 200, 0)
    )
    events = made.keyboard.wait(lambda events: events.count((0xD3, False)) == 1)
    assert [code for code, down in events if down] == [0x1E, 0x2A, 0x30, 0x1D, 0x38, 0xD3]


@pytest.mark.skipif(not shutil.which("gvnccapture"), reason="needs gvnccapture (package gvncviewer)")
def test_gvnccapture_captures_the_screen(stage: Make, tmp_path: Path) -> None:
    # It takes display numbers, port 5900 + n, and nothing else.
    made = None
    for display in range(40, 99):
        try:
            made = stage(screen=desktop(), listen=f"127.0.0.1:{5900 + display}")
            break
        except Exception as error:
            assert "Address already in use" in str(error)
    assert made is not None
    run("gvnccapture", f"127.0.0.1:{display}", str(tmp_path / "screen.png"))
    assert colours(tmp_path / "screen.png") == made.screen.colours()
