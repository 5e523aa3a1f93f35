"""The tiny guest in the user's cache.

    CACHE/tiny/lock              held while something is being changed
    CACHE/tiny/current           a symbolic link to the directory in use, replaced in one step
    CACHE/tiny/build-XXXX/       vmlinuz, initrd, manifest.json, and the packages they were made of

A directory is complete before `current` names it and is never changed after. The one before it stays, as a
virtual machine may be about to open its files.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wirt.errors import Error
from wirt.machine.tiny.digest import sha256
from wirt.machine.tiny.progress import Progress

if TYPE_CHECKING:
    from wirt.machine.tiny.build import Package

_PACKAGE = Path(__file__).parent
_BUILD_PREFIX = "build-"


class TinyError(Error):
    """The tiny guest cannot be had. The message says in one sentence why, and what to do."""


class TinyGuest(NamedTuple):
    """The files of the guest: `kernel` is a bzImage, `initrd` an uncompressed cpio archive."""

    kernel: Path
    initrd: Path
    kernel_version: str
    """The kernel's release, as `uname -r` prints it."""


def default_directory() -> Path:
    """Return Wirt's cache by the XDG Base Directory Specification; it ignores a relative path."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():
        return configured / "wirt"
    try:
        return Path.home() / ".cache" / "wirt"
    except RuntimeError as error:
        raise TinyError(
            "There is no home directory for the cache: set XDG_CACHE_HOME to a directory."
        ) from error


def prepare(directory: Path, progress: Progress, *, refresh: bool) -> TinyGuest:
    """Return the guest in the cache `directory`, making it if need be, or if `refresh` finds newer packages.

    Safe against other processes doing the same. Raises TinyError.
    """
    place = directory / "tiny"
    if not refresh and (guest := _installed(place)):
        return guest
    # Imported here, as a start with a filled cache needs none of it.
    from wirt.machine.tiny import build

    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place / "lock", progress):
            # Another process may have made it meanwhile.
            if not refresh and (guest := _installed(place)):
                return guest
            current = _current(place)
            target = Path(tempfile.mkdtemp(prefix=_BUILD_PREFIX, dir=place))
            try:
                packages = None if refresh else build.kept_packages(current, target, _manifest(current))
                if packages is None:
                    packages = build.fetch_packages(target, progress)
                kernel_version = build.make(target, packages, progress)
                _finish(target, packages, kernel_version)
                _switch(place, target)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
            _remove_others(place, {target.name, current.name})
    except build.ERRORS as error:
        raise TinyError(str(error)) from error
    except OSError as error:
        raise TinyError(
            f"The cache {place} cannot be used: {error.strerror}: {error.filename}. "
            "Make it writable, or set XDG_CACHE_HOME to a directory that is."
        ) from error
    guest = _installed(place)
    if guest is None:
        raise TinyError(f"The files just written to {place} are damaged: check that disk.")
    return guest


def _installed(place: Path) -> TinyGuest | None:
    """Return the guest that `current` names if it is whole and made by this version's recipe."""
    current = _current(place)
    manifest = _manifest(current)
    try:
        if manifest["recipe"] != _recipe():
            return None
        files = {name: current / name for name in ("vmlinuz", "initrd")}
        if any(sha256(path) != manifest["files"][name] for name, path in files.items()):
            return None
        return TinyGuest(files["vmlinuz"], files["initrd"], str(manifest["kernel_version"]))
    except (OSError, KeyError, TypeError):
        return None


def _current(place: Path) -> Path:
    """Return the directory `current` names. It may be missing."""
    try:
        return place / Path(os.readlink(place / "current")).name
    except OSError:
        return place / "none"


def _manifest(directory: Path) -> dict[str, Any]:
    """Return a directory's manifest, empty if there is none that can be read."""
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _recipe() -> str:
    """Return a digest of all that shapes the guest beside the packages: this Python package's files."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(_PACKAGE)}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another wirt", 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _finish(target: Path, packages: list["Package"], kernel_version: str) -> None:
    """Write the manifest, and see to it that the directory survives a power failure."""
    manifest = {
        "kernel_version": kernel_version,
        "recipe": _recipe(),
        "packages": [package._asdict() for package in packages],
        "files": {name: sha256(target / name) for name in ("vmlinuz", "initrd")},
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for path in (*target.iterdir(), target):
        _sync(path)


def _switch(place: Path, target: Path) -> None:
    """Make `current` name `target`, in one step."""
    link = place / "next"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(place / "current")
    _sync(place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_others(place: Path, kept: set[str]) -> None:
    """Remove older directories, and what a killed process left."""
    for path in place.glob(f"{_BUILD_PREFIX}*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
