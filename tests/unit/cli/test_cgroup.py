"""Control groups of hosts made up of files."""

from __future__ import annotations

from pathlib import Path

from wirt.cli.cgroup import Cgroup, own_cgroup


def host(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1_MOUNTS = (
    "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
    "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n"
    "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n"
    "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n"
)
V1_PATHS = "3:memory:/job\n2:cpu,cpuacct:/job\n1:name=systemd:/\n0::/\n"


def test_version_2(tmp_path: Path) -> None:
    files = {
        "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n",
        "proc/self/cgroup": "0::/user.slice/job\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n",
        "sys/fs/cgroup/user.slice/job/memory.max": "1073741824\n",
        "sys/fs/cgroup/user.slice/job/cpu.max": "150000 100000\n",
    }
    assert own_cgroup(host(tmp_path, files)) == Cgroup(2, ("cpu", "io", "memory", "pids"), 1 << 30, 1.5, True)


def test_version_2_without_limits_in_the_root_group(tmp_path: Path) -> None:
    files = {
        "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu\n",
    }
    assert own_cgroup(host(tmp_path, files)) == Cgroup(2, ("cpu",), None, None, True)


def test_version_2_with_no_limit_set(tmp_path: Path) -> None:
    files = {
        "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": "max\n",
        "sys/fs/cgroup/job/cpu.max": "max 100000\n",
    }
    assert own_cgroup(host(tmp_path, files)) == Cgroup(2, (), None, None, True)


def test_version_1(tmp_path: Path) -> None:
    files = {
        "proc/self/mounts": V1_MOUNTS,
        "proc/self/cgroup": V1_PATHS,
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "536870912\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    }
    assert own_cgroup(host(tmp_path, files)) == Cgroup(1, ("cpu", "cpuacct", "memory"), 1 << 29, 0.5, True)


def test_version_1_without_limits_in_a_container(tmp_path: Path) -> None:
    files = {
        "proc/self/mounts": V1_MOUNTS + "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        "proc/self/cgroup": V1_PATHS,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert own_cgroup(host(tmp_path, files)) == Cgroup(1, ("cpu", "cpuacct", "memory"), None, None, True)


def test_none_and_nonsense(tmp_path: Path) -> None:
    assert own_cgroup(tmp_path) == Cgroup(0)
    files = {
        "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nx\n",
        "proc/self/cgroup": "\n:\n0::/../..\n",
        "sys/fs/cgroup/cpu.max": "1 0\n",
        "sys/fs/cgroup/memory.max": "lots\n",
    }
    found = own_cgroup(host(tmp_path, files))
    assert (found.memory_limit, found.cpu_limit) == (None, None)
