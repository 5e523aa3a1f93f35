"""Making the tiny guest: from packages of the distribution's archive to a kernel and an initramfs."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from wirt.machine.tiny import deb, initramfs
from wirt.machine.tiny.apt import Apt, AptError
from wirt.machine.tiny.digest import sha256
from wirt.machine.tiny.modules import ModuleError
from wirt.machine.tiny.progress import Progress

ERRORS = (AptError, deb.DebError, ModuleError)
"""What the functions here raise beside OSError; each message is one sentence."""

_KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
_KERNEL_DEPENDENCY = re.compile(r"\b(linux-image-[0-9][0-9a-z.+-]*-cloud-amd64)(?![^ ,)(|])")
_KERNEL_FILE = re.compile(r"boot/vmlinuz-([0-9A-Za-z.+~-]+)")
_MODULE_FILE = re.compile(r"(?:usr/)?lib/modules/[^/]+/(kernel/.+\.ko(?:\.xz|\.zst)?)")
_BUSYBOX_PACKAGE = "busybox-static"
_BUSYBOX_FILES = ("bin/busybox", "usr/bin/busybox")

_MAX_KERNEL_PACKAGE = 1 << 30
_MAX_BUSYBOX = 32 << 20


class Package(NamedTuple):
    """A package the guest is made of: `file` is its name in the guest's directory, `sha256` its digest."""

    name: str
    version: str
    sha256: str
    file: str


def fetch_packages(target: Path, progress: Progress) -> list[Package]:
    """Fetch the newest kernel and BusyBox into the directory `target`. Raises AptError, OSError."""
    directory = target / "apt"
    apt = Apt(directory, progress)
    apt.update()
    metapackage = apt.candidate(_KERNEL_METAPACKAGE)
    kernel = _KERNEL_DEPENDENCY.search(metapackage.depends)
    if kernel is None:
        raise AptError(
            f"{_KERNEL_METAPACKAGE} {metapackage.version} names no kernel: report this with that version."
        )
    wanted = [apt.candidate(kernel[1]), apt.candidate(_BUSYBOX_PACKAGE)]
    packages = []
    for package, path in zip(wanted, apt.download(wanted), strict=True):
        path.rename(target / path.name)
        packages.append(Package(package.name, package.version, package.sha256, path.name))
    shutil.rmtree(directory)
    return packages


def kept_packages(source: Path, target: Path, manifest: dict[str, Any]) -> list[Package] | None:
    """Link an earlier guest's packages from `source` into `target`; None if they are not all whole."""
    try:
        packages = [Package(**fields) for fields in manifest["packages"]]
        for package in packages:
            file = Path(package.file).name
            os.link(source / file, target / file)
            if sha256(target / file) != package.sha256:
                (target / file).unlink()
                return None
    except (OSError, KeyError, TypeError):
        return None
    return packages if len(packages) == 2 else None


def make(target: Path, packages: list[Package], progress: Progress) -> str:
    """Write `vmlinuz` and `initrd` into `target` from its packages, kernel first; return its release.

    Raises DebError, ModuleError, OSError.
    """
    kernel_package, busybox_package = packages
    progress("Unpacking", 0.0)
    kernel = deb.extract(
        target / kernel_package.file,
        lambda name: bool(_KERNEL_FILE.fullmatch(name) or _MODULE_FILE.fullmatch(name)),
        _MAX_KERNEL_PACKAGE,
    )
    progress("Unpacking", 0.9)
    busybox = deb.extract(target / busybox_package.file, _BUSYBOX_FILES.__contains__, _MAX_BUSYBOX)
    images = {match[1]: data for name, data in kernel.items() if (match := _KERNEL_FILE.fullmatch(name))}
    if len(images) != 1 or len(busybox) != 1:
        raise deb.DebError(
            f"{kernel_package.file} or {busybox_package.file} does not hold the one file wanted of it."
        )
    ((release, image),) = images.items()
    module_files = {
        match[1]: data for name, data in kernel.items() if (match := _MODULE_FILE.fullmatch(name))
    }
    (target / "vmlinuz").write_bytes(image)
    (target / "initrd").write_bytes(initramfs.build(next(iter(busybox.values())), release, module_files))
    progress("Unpacking", 1.0)
    return release
