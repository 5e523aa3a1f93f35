"""Names of running machines: one process has each, as long as it lives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wirt.errors import Error, NotFoundError, UsageError
from wirt.host import running as running_module
from wirt.host.running import Claim, find, running

HOLDER = """
import sys
from wirt.host.running import Claim
claim = Claim(sys.argv[1])
claim.describe(cpus=3, memory=1 << 30, accelerator="kvm")
print("claimed", flush=True)
sys.stdin.read()
claim.release()
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime directory."""
    path = tmp_path / "run"
    path.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def holder(runtime: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the name "web"."""
    command = [sys.executable, "-c", HOLDER, "web"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_machine_is_found_while_it_runs(runtime: Path, holder: subprocess.Popen[str]) -> None:
    machine = find("web")
    assert running() == [machine]
    assert (machine.name, machine.pid, machine.cpus, machine.memory) == ("web", holder.pid, 3, 1 << 30)
    assert machine.monitor == f"{runtime}/wirt/web/monitor.sock"
    with pytest.raises(NotFoundError, match="There is no running machine 'other'"):
        find("other")
    holder.communicate("", timeout=20)
    assert running() == []
    assert list((runtime / "wirt").iterdir()) == []


def test_a_name_is_taken_once(runtime: Path, holder: subprocess.Popen[str]) -> None:
    taken = rf"A machine named web runs already \(process {holder.pid}\): stop it, or choose another name\."
    with pytest.raises(Error, match=taken) as error:
        Claim("web")
    assert error.value.exit_status == 1
    # Nobody has taken it away by trying.
    assert find("web").pid == holder.pid
    with Claim("db"):
        assert [machine.name for machine in running()] == ["web"]


def test_the_same_process_takes_it_once_as_well(runtime: Path) -> None:
    with Claim("web") as claim:
        claim.describe(cpus=1, memory=1, accelerator="kvm")
        with pytest.raises(Error, match="runs already"):
            Claim("web")
        assert find("web").pid == os.getpid()
    with Claim("web"):
        pass


def test_what_a_dead_process_left_is_taken_over(runtime: Path, holder: subprocess.Popen[str]) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(find("web").monitor)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(20)
    assert (runtime / "wirt/web/machine.json").exists()
    assert running() == []
    with Claim("web") as claim:
        assert not os.path.exists(claim.monitor)
        # It has not described itself yet.
        assert running() == []
        claim.describe(cpus=1, memory=1, accelerator="kvm")
        assert find("web").pid == os.getpid()
    assert list((runtime / "wirt").iterdir()) == []


def test_a_race_for_a_name_has_one_winner(runtime: Path) -> None:
    for _ in range(30):
        winners: list[Claim] = []
        start = threading.Barrier(4)

        def race(start: threading.Barrier = start, winners: list[Claim] = winners) -> None:
            start.wait(10)
            try:
                winners.append(Claim("web"))
            except Error:
                return

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        winners[0].release()


def test_a_claim_never_ends_up_with_a_lock_that_was_removed(runtime: Path) -> None:
    ended = threading.Event()
    failures: list[str] = []

    def come_and_go() -> None:
        while not ended.is_set():
            try:
                with Claim("web") as claim:
                    claim.describe(cpus=1, memory=1, accelerator="kvm")
                    if find("web").pid != os.getpid():
                        failures.append("another's description")
            except NotFoundError:
                failures.append("lock gone")
            except Error as error:
                if "runs already" not in str(error):
                    failures.append(str(error))

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    ended.wait(1.0)
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a b", "a" * 49, "ä", "a\n", "a\0"])
def test_what_is_no_name(runtime: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a machine"):
        Claim(name)
    with pytest.raises(NotFoundError):
        find(name)


def test_a_directory_that_others_can_use_is_refused(runtime: Path) -> None:
    root = runtime / "wirt"
    root.mkdir(0o755)
    with pytest.raises(Error, match=r"cannot have its directory \(.*/wirt\): it is not a directory of this"):
        Claim("web")
    root.rmdir()
    elsewhere = runtime / "elsewhere"
    elsewhere.mkdir(0o700)
    root.symlink_to(elsewhere)
    with pytest.raises(Error, match="it is not a directory of this user alone"):
        Claim("web")
    assert running() == []


@pytest.mark.parametrize("kind", ["unset", "relative", "public", "missing"])
def test_without_a_runtime_directory_it_is_a_private_one_in_tmp(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "public"
    public.mkdir(0o777)
    public.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", {"public": str(public), "missing": "/none"}.get(kind, "run"))
    if kind == "unset":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert running_module._root() == Path(f"/tmp/wirt-{os.geteuid()}")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"name": "web"}', "[" * 100_000, '{"pid": 1, "name": 2}']
)
def test_a_description_that_makes_no_sense_is_nobodys(runtime: Path, content: str) -> None:
    with Claim("web") as claim:
        claim.describe(cpus=1, memory=1, accelerator="kvm")
        described = runtime / "wirt/web/machine.json"
        good = described.read_text()
        described.write_text(content)
        assert running() == []
        described.write_text(good.replace('"cpus": 1', '"cpus": "1"'))
        assert running() == []
        described.write_text(good)
        assert len(running()) == 1
