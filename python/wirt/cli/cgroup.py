"""The control groups this process is in, version 1 or 2, as Linux's cgroup documentation describes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_UNLIMITED_V1: Final = 1 << 60
"""Version 1 writes "no limit" as a number near 2**63."""


class Cgroup(NamedTuple):
    """What this process's group says. `version` is 0 where there are none.

    `controllers` are those the host has; `memory_limit` is in bytes and `cpu_limit` in processors, None where
    there is no limit; `writable`: this user may make groups below.
    """

    version: int
    controllers: tuple[str, ...] = ()
    memory_limit: int | None = None
    cpu_limit: float | None = None
    writable: bool = False


def own_cgroup(root: Path) -> Cgroup:
    """Read the group of this process, of the host whose files are below `root`.

    With both versions mounted the one counts that has the memory controller. Limits of groups above are not
    looked at.
    """
    mounts = _mounts(root)
    paths = _paths(root)
    for mount, kind, options in mounts:
        if kind == "cgroup" and "memory" in options:
            return _version_1(mounts, paths, mount)
    for mount, kind, _ in mounts:
        if kind == "cgroup2":
            return _version_2(mount, _group(mount, paths.get("", "/")))
    return Cgroup(0)


def _version_1(mounts: list[tuple[Path, str, list[str]]], paths: dict[str, str], memory: Path) -> Cgroup:
    # A hierarchy's options are its controllers' names among others; "name=" marks one that has none.
    options = {option for _, kind, options in mounts if kind == "cgroup" for option in options}
    found = sorted(name for name in options & paths.keys() if not name.startswith("name="))
    group = _group(memory, paths.get("memory", "/"))
    limit = _number(group / "memory.limit_in_bytes")
    cpu_limit = None
    for mount, kind, names in mounts:
        if kind == "cgroup" and "cpu" in names:
            cpu = _group(mount, paths.get("cpu", "/"))
            quota, period = _number(cpu / "cpu.cfs_quota_us"), _number(cpu / "cpu.cfs_period_us")
            if quota is not None and quota > 0 and period:
                cpu_limit = quota / period
    return Cgroup(
        version=1,
        controllers=tuple(found),
        memory_limit=None if limit is None or limit >= _UNLIMITED_V1 else limit,
        cpu_limit=cpu_limit,
        writable=os.access(group, os.W_OK),
    )


def _version_2(mount: Path, group: Path) -> Cgroup:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return Cgroup(
        version=2,
        controllers=tuple(_text(mount / "cgroup.controllers").split()),
        memory_limit=_number(group / "memory.max"),
        cpu_limit=int(quota) / int(period)
        if quota.isdecimal() and period.isdecimal() and int(period)
        else None,
        writable=os.access(group, os.W_OK),
    )


def _mounts(root: Path) -> list[tuple[Path, str, list[str]]]:
    """The mounted hierarchies: where, kind, options."""
    mounts = []
    for line in _text(root / "proc/self/mounts").splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[2] in ("cgroup", "cgroup2"):
            mounts.append((root / fields[1].lstrip("/"), fields[2], fields[3].split(",")))
    return mounts


def _paths(root: Path) -> dict[str, str]:
    """The group of this process by controller; version 2's has the empty name."""
    paths = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        paths.update(dict.fromkeys(names.split(","), path))
    return paths


def _group(mount: Path, path: str) -> Path:
    """The group's directory. In a container the path may be the host's and not be there: then the mount is
    the group's own.
    """
    group = mount / path.lstrip("/")
    return group if group.is_dir() else mount


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.removeprefix("-").isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
