"""The benchmark guest: `guest/*.c` compiled, and packed with BusyBox, xz and Lua into an initramfs.

Markers on its console: @@INIT (its first process runs), @@B NAME, @@P (a workload's preparations are over),
@@R NAME wall= user= sys= n= sum=, @@E NAME rc= wall=, @@END. `guest/init.c` tells the kernel's parameters.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench import packages
from wirt.machine import tiny
from wirt.machine.tiny import cpio

_SOURCES = Path(__file__).parent / "guest"
_CFLAGS = ("-O2", "-Wall", "-static")
_EMPTY_DIRECTORIES = ("dev", "proc", "sys", "tmp")


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Files on the host. `program` runs a workload natively, with `environment`."""

    kernel: Path
    kernel_version: str
    initrd: Path
    """gzip, with everything."""
    minimal_initrd: Path
    """gzip, with init alone."""
    program: Path
    v3_program: Path
    """The same, compiled for x86-64-v3."""
    environment: Mapping[str, str]


@cache
def build() -> GuestImage:
    """Compile and pack, every time: it takes 5 seconds. Packages are fetched the first time."""
    place = packages.cache() / "guest"
    place.mkdir(parents=True, exist_ok=True)
    linux = tiny.ensure()
    tools = packages.unpacked("guest-tools", ("busybox-static", "lua5.4", "liblua5.4-0"))
    program, v3_program, init = place / "bench", place / "bench.v3", place / "init"
    _compile(_SOURCES / "bench.c", program, "-pthread", "-lm")
    _compile(_SOURCES / "bench.c", v3_program, "-pthread", "-march=x86-64-v3", "-lm")
    _compile(_SOURCES / "init.c", init)

    busybox, lua = tools / "bin/busybox", tools / "usr/bin/lua5.4"
    libraries = tools / "usr/lib/x86_64-linux-gnu"
    xz = Path("/usr/bin/xz")
    files = {
        "init": init,
        "bin/bench": program,
        "bin/bench.v3": v3_program,
        "bin/bench.lua": _SOURCES / "bench.lua",
        "bin/busybox": busybox,
        "bin/xz": xz,
        "bin/lua5.4": lua,
    }
    files |= _shared_libraries((xz, lua), libraries)
    kernel = place / "vmlinuz"
    kernel.write_bytes(linux.kernel.read_bytes())
    return GuestImage(
        kernel=kernel,
        kernel_version=linux.kernel_version,
        initrd=_pack(place / "initrd.gz", files),
        minimal_initrd=_pack(place / "initrd-minimal.gz", {"init": init}),
        program=program,
        v3_program=v3_program,
        environment={
            "PATH": f"{lua.parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LD_LIBRARY_PATH": str(libraries),
            "BUSYBOX": str(busybox),
            "LUASCRIPT": str(_SOURCES / "bench.lua"),
        },
    )


def _compile(source: Path, target: Path, *arguments: str) -> None:
    subprocess.run(["gcc", *_CFLAGS, "-s", "-o", target, source, *arguments], check=True)


def _shared_libraries(programs: Iterable[Path], extra: Path) -> dict[str, Path]:
    """Return what `programs` are linked with, by the name under which the guest's loader finds it."""
    files = {}
    for program in programs:
        environment = os.environ | {"LD_LIBRARY_PATH": str(extra)}
        listed = subprocess.run(["ldd", program], env=environment, capture_output=True, text=True, check=True)
        for match in re.finditer(r"(/\S+)", listed.stdout):
            path = Path(match[1])
            inside = "lib64" if path.parent.name == "lib64" else "lib/x86_64-linux-gnu"
            files[f"{inside}/{path.name}"] = path.resolve()
    return files


def _pack(target: Path, files: Mapping[str, Path]) -> Path:
    entries = [cpio.directory(name) for name in cpio.parents(files)]
    entries += [cpio.directory(name) for name in _EMPTY_DIRECTORIES]
    entries += [cpio.character_device("dev/console", 5, 1)]
    if "bin/busybox" in files:
        entries += [cpio.symlink("bin/sh", "busybox")]
    entries += [cpio.file(name, path.read_bytes(), 0o755) for name, path in sorted(files.items())]
    target.write_bytes(gzip.compress(cpio.archive(entries), mtime=0))
    return target
