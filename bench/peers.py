"""Who is compared: Wirt's recompiler and QEMU's TCG, as the commands people would type."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench import packages
from wirt import _core
from wirt.machine.tiny.digest import sha256


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to run a Linux guest: `command(kernel, initrd, append)` has the serial console on stdout."""

    name: str
    version: str
    program: list[str]
    command: Callable[[Path, Path, str], list[str]]


MEMORY_MIB = 1024


def wirt_program() -> list[str]:
    """Return how this installation's `wirt` is started."""
    program = Path(sys.executable).parent / "wirt"
    return [str(program)] if program.exists() else [sys.executable, "-m", "wirt.cli"]


@cache
def wirt() -> Peer:
    """Return Wirt with its recompiler."""

    def command(kernel: Path, initrd: Path, append: str) -> list[str]:
        return [
            *wirt_program(),
            *("run", "--quiet", "--accel", "recompiler", "-m", f"{MEMORY_MIB}M", "--no-reboot"),
            *("--kernel", str(kernel), "--initrd", str(initrd), "--append", append),
        ]

    return Peer("wirt", _version(), wirt_program(), command)


@cache
def qemus() -> tuple[Peer, ...]:
    """Return QEMU with TCG: the release's, and the backports' newest where it can be had."""
    system = shutil.which("qemu-system-x86_64")
    found = [] if system is None else [_qemu([system])]
    try:
        root = packages.unpacked_from_backports("qemu-backports", "qemu-system-x86")
    except packages.PackageError as error:
        print(f"Without QEMU from backports: {error}", file=sys.stderr)
    else:
        libraries = root / "usr/lib/x86_64-linux-gnu"
        found.append(
            _qemu(
                [
                    *("env", f"LD_LIBRARY_PATH={libraries}", f"QEMU_MODULE_DIR={libraries / 'qemu'}"),
                    str(root / "usr/bin/qemu-system-x86_64"),
                    *("-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")),
                ]
            )
        )
    return tuple(found)


def versions() -> list[str]:
    """Return what is compared, a clause each."""
    return [f"{peer.name}: {peer.version}" for peer in (wirt(), *qemus())]


def with_options(qemu: Peer, name: str, *options: str) -> Peer:
    """Return `qemu` with further options, which come last and so win."""
    return Peer(
        f"{qemu.name} {name}",
        qemu.version,
        qemu.program,
        lambda kernel, initrd, append: [*qemu.command(kernel, initrd, append), *options],
    )


def _qemu(program: list[str]) -> Peer:
    shown = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"version (\d+\.\d+)\S* \((.*)\)", shown)
    short, full = (match[1], match[2]) if match else ("?", shown.splitlines()[0])

    def command(kernel: Path, initrd: Path, append: str) -> list[str]:
        return [
            *program,
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
            *("-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB)),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-append", append),
        ]

    return Peer(f"TCG {short}", full, program, command)


def _version() -> str:
    """Return the sources' commit and the loaded core's SHA-256: one need not be built of the other."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    tree = done.stdout.strip() if done.returncode == 0 else "unknown"
    return f"tree {tree}, core {sha256(Path(_core.__file__))[:12]}"
