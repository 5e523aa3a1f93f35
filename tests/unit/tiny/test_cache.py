"""The cache, with packages that are made here instead of fetched."""

import threading
from pathlib import Path

import pytest

from wirt.machine import tiny
from wirt.machine.tiny import build, cache
from wirt.machine.tiny.digest import sha256


def ignore(step: str, fraction: float) -> None:
    pass


class Builder:
    """Stands for the archive and the making; counts both."""

    def __init__(self) -> None:
        self.fetched = 0
        self.made = 0
        self.failure: Exception | None = None

    def fetch_packages(self, target: Path, progress: tiny.Progress) -> list[build.Package]:
        self.fetched += 1
        packages = []
        for name in ("kernel", "busybox"):
            (target / f"{name}.deb").write_text(f"{name} {self.fetched}")
            packages.append(build.Package(name, "1", sha256(target / f"{name}.deb"), f"{name}.deb"))
        return packages

    def make(self, target: Path, packages: list[build.Package], progress: tiny.Progress) -> str:
        self.made += 1
        (target / "vmlinuz").write_bytes((target / packages[0].file).read_bytes())
        (target / "initrd").write_bytes((target / packages[1].file).read_bytes())
        if self.failure:
            raise self.failure
        return "6.1.0-test"


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder()
    monkeypatch.setattr(build, "fetch_packages", builder.fetch_packages)
    monkeypatch.setattr(build, "make", builder.make)
    return builder


def test_second_call_neither_fetches_nor_makes(tmp_path: Path, builder: Builder) -> None:
    first = tiny.ensure(tmp_path, ignore)
    assert first.kernel_version == "6.1.0-test"
    assert first.kernel.read_text() == "kernel 1"
    assert tiny.ensure(tmp_path, ignore) == first
    assert (builder.fetched, builder.made) == (1, 1)


@pytest.mark.parametrize("name", ["vmlinuz", "initrd", "manifest.json"])
def test_damaged_file_is_replaced(tmp_path: Path, builder: Builder, name: str) -> None:
    first = tiny.ensure(tmp_path, ignore)
    (first.kernel.parent / name).write_bytes(b"\xff{")
    second = tiny.ensure(tmp_path, ignore)
    assert second.kernel.parent != first.kernel.parent
    assert second.initrd.read_text().startswith("busybox")
    # The packages in the cache are enough, unless what tells of them is lost.
    assert builder.fetched == (2 if name == "manifest.json" else 1)


def test_damaged_package_is_fetched_anew(tmp_path: Path, builder: Builder) -> None:
    first = tiny.ensure(tmp_path, ignore)
    first.kernel.unlink()
    (first.initrd.parent / "busybox.deb").write_text("changed")
    assert tiny.ensure(tmp_path, ignore).kernel.read_text() == "kernel 2"


def test_new_recipe_makes_it_anew_without_the_network(
    tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.ensure(tmp_path, ignore)
    monkeypatch.setattr(cache, "_recipe", lambda: "another")
    tiny.ensure(tmp_path, ignore)
    assert (builder.fetched, builder.made) == (1, 2)


def test_refresh_keeps_only_the_guest_before(tmp_path: Path, builder: Builder) -> None:
    guests = [tiny.ensure(tmp_path, ignore), tiny.refresh(tmp_path, ignore), tiny.refresh(tmp_path, ignore)]
    assert [guest.kernel.exists() for guest in guests] == [False, True, True]
    assert guests[2].kernel.read_text() == "kernel 3"


def test_failure_leaves_the_old_guest_and_no_rubbish(tmp_path: Path, builder: Builder) -> None:
    first = tiny.ensure(tmp_path, ignore)
    builder.failure = build.ERRORS[0]("There is no network.")
    with pytest.raises(tiny.TinyError, match=r"^There is no network\.$"):
        tiny.refresh(tmp_path, ignore)
    assert tiny.ensure(tmp_path, ignore) == first
    assert [path.name for path in (tmp_path / "tiny").glob("build-*")] == [first.kernel.parent.name]


def test_cache_that_cannot_be_written(tmp_path: Path, builder: Builder) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(tiny.TinyError, match="cannot be used: Not a directory"):
        tiny.ensure(tmp_path / "file", ignore)


def test_concurrent_calls_make_it_once(tmp_path: Path, builder: Builder) -> None:
    guests: list[tiny.TinyGuest] = []
    threads = [
        threading.Thread(target=lambda: guests.append(tiny.ensure(tmp_path, ignore))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guests == [guests[0]] * 4
    assert builder.made == 1


def test_relative_xdg_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.default_directory() == Path("/home/someone/.cache/wirt")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/someone")
    assert cache.default_directory() == Path("/var/cache/someone/wirt")


def test_exec_initrd_adds_command_and_nonce(tmp_path: Path, builder: Builder) -> None:
    guest = tiny.ensure(tmp_path, ignore)
    initrd = tiny.exec_initrd(guest, "echo 'ä' \udcff", "n0nce")
    assert initrd.startswith(b"busybox 1")
    assert "echo 'ä' ".encode() + b"\xff" in initrd
    for nonce in ("", "two words", "x" * 65, "a\n"):
        with pytest.raises(ValueError, match="nonce"):
            tiny.exec_initrd(guest, "true", nonce)
