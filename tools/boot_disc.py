"""Makes a CD-ROM image that boots something small, for trials: `python -m tools.boot_disc KIND DISC`.

    memtest             Memtest86+ by GRUB, by BIOS and by UEFI
    memtest32           the same, 32-bit
    installer           Debian 12's installer by GRUB, by BIOS and by UEFI; entries: text, serial, graphical
    installer32         the same for i386, by BIOS
    isolinux            isolinux with its prompt, and the installer's kernel as `linux`

Then for instance `wirt run --cdrom DISC --display vnc`. Everything is taken from installed Debian packages.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tools.debian_disk import GRUB, BuildError, Tool, missing_packages, run

_SYSLINUX: Final = Path("/usr/lib/syslinux/modules/bios")
_ISOLINUX: Final = Path("/usr/lib/ISOLINUX/isolinux.bin")
_GRUB_HEAD: Final = """\
insmod all_video
set timeout={timeout}
"""


class Disc(NamedTuple):
    """What is on a disc: files by their path there, and what GRUB offers."""

    files: Mapping[str, Path]
    entries: str
    timeout: int = 0
    """Seconds until GRUB takes its first entry."""
    package: str = ""
    """The Debian package that has the files."""


def _memtest(name: str) -> Disc:
    return Disc(
        {"boot/memtest": Path("/boot") / name},
        'menuentry "Memtest86+" { linux /boot/memtest }\n',
        package="memtest86+",
    )


def _installer(arch: str) -> Disc:
    images = Path("/usr/lib/debian-installer/images/12") / arch
    text, graphical = (images / kind / "debian-installer" / arch for kind in ("text", "gtk"))
    entries = (
        ("text", "nomodeset fb=false no_timer_check", "initrd"),
        ("serial", "console=ttyS0,115200 no_timer_check", "initrd"),
        ("graphical", "vga=788 no_timer_check", "graphical"),
    )
    return Disc(
        {
            "boot/linux": text / "linux",
            "boot/initrd": text / "initrd.gz",
            "boot/graphical": graphical / "initrd.gz",
        },
        "".join(
            f'menuentry "{title}" --hotkey {title[0]} {{\n'
            f"    linux /boot/linux {options}\n    initrd /boot/{initrd}\n}}\n"
            for title, options, initrd in entries
        ),
        timeout=-1,
        package=f"debian-installer-12-netboot-{arch}",
    )


_INSTALLER: Final = _installer("amd64")
_BY_GRUB: Final = {
    "memtest": _memtest("memtest86+x64.bin"),
    "memtest32": _memtest("memtest86+ia32.bin"),
    "installer": _INSTALLER,
    "installer32": _installer("i386"),
}
KINDS: Final = (*_BY_GRUB, "isolinux")


def tools(kind: str) -> list[Tool]:
    """What has to be installed to make a disc of this kind."""
    shared = [Tool("xorriso", "xorriso")]
    if kind == "isolinux":
        return [
            *shared,
            Tool(str(_ISOLINUX), "isolinux"),
            Tool(str(_SYSLINUX / "ldlinux.c32"), "syslinux-common"),
            *(Tool(str(path), _INSTALLER.package) for path in _INSTALLER.files.values()),
        ]
    disc = _BY_GRUB[kind]
    return [
        *shared,
        Tool("grub-mkrescue", "grub-common"),
        Tool("mformat", "mtools"),
        Tool(f"{GRUB}/i386-pc/boot.img", "grub-pc-bin"),
        Tool(f"{GRUB}/x86_64-efi/kernel.img", "grub-efi-amd64-bin"),
        *(Tool(str(path), disc.package) for path in disc.files.values()),
    ]


def make(kind: str, disc: Path) -> None:
    """Make the image `disc`. Raises BuildError."""
    if missing := missing_packages(tools(kind)):
        raise BuildError(f"Debian packages are missing. Type:  apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="boot-disc-") as name:
        tree = Path(name)
        if kind == "isolinux":
            _make_isolinux(tree, disc)
        else:
            _make_grub(tree, _BY_GRUB[kind], disc)


def _make_grub(tree: Path, content: Disc, disc: Path) -> None:
    _copy(tree, content.files)
    configuration = tree / "boot" / "grub" / "grub.cfg"
    configuration.parent.mkdir()
    configuration.write_text(_GRUB_HEAD.format(timeout=content.timeout) + content.entries)
    run("grub-mkrescue", "-o", str(disc), str(tree))


def _make_isolinux(tree: Path, disc: Path) -> None:
    boot = tree / "isolinux"
    boot.mkdir()
    _copy(
        boot,
        {
            "isolinux.bin": _ISOLINUX,
            "ldlinux.c32": _SYSLINUX / "ldlinux.c32",
            "linux": _INSTALLER.files["boot/linux"],
            "initrd": _INSTALLER.files["boot/initrd"],
        },
    )
    (boot / "isolinux.cfg").write_text(
        "PROMPT 1\nTIMEOUT 0\nSAY The prompt of isolinux\n"
        "LABEL linux\n    KERNEL linux\n    INITRD initrd\n    APPEND nomodeset fb=false no_timer_check\n"
    )
    run(
        "xorriso", "-as", "mkisofs", "-o", str(disc), "-b", "isolinux/isolinux.bin",
        "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", str(tree),
    )  # fmt: skip


def _copy(tree: Path, files: Mapping[str, Path]) -> None:
    for name, source in files.items():
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def main() -> int:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tools.boot_disc",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help="as below")
    parser.add_argument("disc", type=Path, metavar="DISC", help="the image to make")
    wishes = parser.parse_args()
    try:
        make(wishes.kind, wishes.disc)
    except (BuildError, OSError) as error:
        print(f"boot_disc: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
