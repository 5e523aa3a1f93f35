"""A machine with a name, from another process: listed, looked at, asked to power off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qemu.qmp import EventListener, QMPClient

import wirt
from linux_guest import LINUX_GUEST
from wirt.vm.monitor.client import Client
from wirt.vm.monitor.server import MonitorServer

pytestmark = LINUX_GUEST

WIRT = (sys.executable, "-m", "wirt.cli")
BOOT = 100.0
"""Seconds in which the guest surely boots on a busy machine."""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory of the processes in a test."""
    path = tmp_path / "run"
    path.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """The built-in guest, at its prompt, with the name "web"."""
    line = [*WIRT, "run", "tiny", "-q", "-m", "256M", "--name", "web"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        try:
            shown = b""
            assert run.stdout is not None
            while b":~# " not in shown:
                piece = os.read(run.stdout.fileno(), 4096)
                assert piece, (shown, run.communicate())
                shown += piece
            yield run
        finally:
            run.kill()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WIRT, *words], capture_output=True, text=True, timeout=60, check=False)


def machines() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(command("ls", "--format", "json").stdout)
    return listed


@pytest.mark.parametrize("ending", ["stop", "force", "signal", "kill"])
def test_the_life_of_a_machine_with_a_name(
    process: subprocess.Popen[bytes], ending: str, runtime: Path
) -> None:
    machine = machines()[0]
    assert (machine["name"], machine["pid"], machine["state"]) == ("web", process.pid, "running")
    assert machine["memory"] == 256 << 20
    again = command("run", "tiny", "--name", "web")
    assert again.returncode == 1
    assert again.stderr == (
        f"wirt: A machine named web runs already (process {process.pid}): stop it, or choose another name.\n"
    )
    match ending:
        case "stop":
            assert command("stop", "web", "--timeout", str(BOOT)).returncode == 0
            assert process.wait(BOOT) == 0
        case "force":
            assert command("stop", "web", "--force").returncode == 0
            assert process.wait(BOOT) == 1
        case "signal":
            process.terminate()
            assert process.wait(BOOT) == -signal.SIGTERM
        case "kill":
            process.kill()
            process.wait(BOOT)
            assert (runtime / "wirt/web/monitor.sock").exists()
    assert machines() == []
    if ending != "kill":
        assert list((runtime / "wirt").iterdir()) == []
    assert command("stop", "web").returncode == 3
    assert command("run", "tiny", "-q", "--name", "web", "--exec", "true").returncode == 0


def pixels(name: str) -> bytes:
    with Image.open(name) as picture:
        return picture.convert("RGB").tobytes()


def test_keys_and_screenshots_with_firmware(tmp_path: Path) -> None:
    disk = tmp_path / "empty.img"
    disk.touch()
    os.truncate(disk, 1 << 20)
    socket = str(tmp_path / "monitor.sock")
    with (
        wirt.VM(disks=[disk], memory="64M", boot_menu=True, display="vnc:0") as vm,
        MonitorServer(vm, [socket]),
        Client(socket) as client,
    ):
        vm.screen.wait_for("for boot menu", BOOT)
        client.execute("send-key", keys=[{"type": "qcode", "data": "esc"}])
        vm.screen.wait_for("Select boot device", BOOT)
        client.execute("stop")
        assert command("screenshot", f"unix:{socket}", "menu.png").returncode == 0
        for _ in range(20):
            for name in ("menu.png", "menu.ppm"):
                client.execute("screendump", filename=name, format=name[-3:])
            if same := pixels("menu.png") == pixels("menu.ppm"):
                break
            # The cursor has blinked between the two.
        assert same
    with Image.open("menu.png") as png, Image.open("menu.ppm") as ppm:
        assert (png.format, ppm.format, png.size) == ("PNG", "PPM", (720, 400))
        assert len(png.getcolors() or ()) > 1


def test_a_machine_without_a_screen_says_so() -> None:
    line = [*WIRT, "run", "tiny", "-q", "--exec", "sleep 60", "--name", "web"]
    with subprocess.Popen(line) as run:
        deadline = time.monotonic() + BOOT
        while not machines() and time.monotonic() < deadline:
            time.sleep(0.05)
        done = command("screenshot", "web")
        run.kill()
    assert done.returncode == 1
    assert done.stderr == "wirt: This machine has no screen: make it with vga=True.\n"


def test_qemus_client_resets_and_ends_it(process: subprocess.Popen[bytes], runtime: Path) -> None:
    async def talk() -> None:
        client = QMPClient("test")
        listener = EventListener()
        client.register_listener(listener)
        await client.connect(str(runtime / "wirt/web/monitor.sock"))
        assert (await client.execute("query-name")) == {"name": "web"}
        await client.execute("system_reset")
        assert (await asyncio.wait_for(listener.get(), BOOT))["event"] == "RESET"
        await client.execute("quit")
        assert (await asyncio.wait_for(listener.get(), BOOT))["event"] == "SHUTDOWN"
        # The process may have gone before.
        with contextlib.suppress(EOFError):
            await client.disconnect()

    asyncio.run(talk())
    assert process.wait(BOOT) == 1
