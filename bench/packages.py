"""Debian packages unpacked into Wirt's cache: apt fetches and verifies them, without root."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from wirt.machine.tiny.cache import default_directory

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class PackageError(RuntimeError):
    """apt could not do it. The message is one sentence."""


def cache() -> Path:
    """Return the benchmarks' directory in Wirt's cache."""
    return default_directory() / "bench"


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """Return the directory `name` of the cache, where `packages` of this release are unpacked."""
    return _unpacked(name, False, lambda apt: apt.download(packages))


def unpacked_from_backports(name: str, package: str) -> Path:
    """Return the directory `name` of the cache: `package` of this release's backports, and those packages it
    depends on that are newer than the installed ones or not installed.
    """
    return _unpacked(name, True, lambda apt: apt.download(apt.needed_for(package)))


class _Apt:
    """apt with lists and downloads in `directory`, but the machine's sources, keys and installed packages."""

    def __init__(self, directory: Path, backports: bool) -> None:
        self.directory = directory
        self._options = [
            "-q",
            f"-oDir::State={directory}/state",
            "-oDir::State::status=/var/lib/dpkg/status",
            f"-oDir::Cache={directory}/cache",
            "-oAPT::Sandbox::User=",
            "-oAcquire::Languages=none",
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
        ]
        self._target: list[str] = []
        for path in ("state/lists/partial", "cache/archives/partial"):
            (directory / path).mkdir(parents=True)
        if backports:
            self._use_backports()
        self._run("update")

    def _use_backports(self) -> None:
        """Take the backports of this release, from where the release itself comes, and prefer them."""
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        # Of the machine's lists: the new ones are empty still.
        listing = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)")
        listed = subprocess.run([*listing, "Created-By: Packages"], capture_output=True, text=True).stdout
        sites = [site for site, *rest in map(str.split, listed.splitlines()) if rest == [codename, "main"]]
        if not sites or not _KEYRING.exists():
            raise PackageError("There is no Debian release here whose backports could be used.")
        sources = self.directory / "sources.list"
        suites = (f"{codename}-backports", codename)
        sources.write_text(
            "".join(f"deb [signed-by={_KEYRING}] {sites[0]} {suite} main\n" for suite in suites)
        )
        self._options += [f"-oDir::Etc::SourceList={sources}", "-oDir::Etc::SourceParts=/dev/null"]
        self._target = ["-t", suites[0]]

    def needed_for(self, package: str) -> list[str]:
        """Return what an installation of `package` would fetch, as `name=version`."""
        plan = self._run(*self._target, "install", "--simulate", "--no-install-recommends", package)
        # Inst NAME [OLD-VERSION] (VERSION ORIGIN [ARCHITECTURE])
        lines = [line for line in plan.splitlines() if line.startswith("Inst ")]
        return [f"{line.split()[1]}={line.partition('(')[2].split()[0]}" for line in lines]

    def download(self, packages: Sequence[str]) -> None:
        """Fetch `packages` and unpack them into `directory/root`."""
        if not packages:
            raise PackageError("The release's own version is the newest.")
        self._run("download", *packages)
        for file in sorted(self.directory.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", file, self.directory / "root"], check=True)
            file.unlink()

    def _run(self, *arguments: str) -> str:
        command = ["apt-get", *self._options, *arguments]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True)
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
            reason = complaints[0][3:].rstrip(".") if complaints else "no reason given"
            raise PackageError(f"apt-get {' '.join(arguments)} failed: {reason}.")
        return done.stdout


def _unpacked(name: str, backports: bool, fetch: Callable[[_Apt], None]) -> Path:
    target = cache() / name
    if target.is_dir():
        return target
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        fetch(_Apt(Path(work), backports))
        shutil.move(Path(work) / "root", target)
    return target
