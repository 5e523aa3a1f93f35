"""Makes a disk with Debian 12 that boots by BIOS and by UEFI: `python -m tools.debian_disk DISK`.

    --arch amd64|i386       i386 has the kernel 686-pae and boots by BIOS alone
    --kernel cloud|generic  the kernel of amd64 (default: cloud, which has fewer drivers and is smaller)

The system has systemd, a login on the screen and on the first serial port, and root without a password. GRUB
and the kernel use both as well. It takes root, Debian's package archive, about 2 GiB in the temporary
directory and some minutes. No loop device is needed: filesystems are made of directories, and the boot loader
is put in place by hand.

    sector 0        GRUB's boot.img and the protective MBR
    partition 1     1 MiB, BIOS boot partition: GRUB's core.img
    partition 2     16 MiB, EFI system partition: EFI/BOOT/BOOTX64.EFI
    partition 3     the rest, ext4, label "root"
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
"""The release alone: mirrors of its updates are less often in order."""
HOST_NAME: Final = "debian"
_MIB: Final = 1 << 20
_SECTOR: Final = 512
_SIZE: Final = 2048 * _MIB
_BIOS_BOOT: Final = (1 * _MIB, 1 * _MIB)
"""Offset and size of the partition, in bytes."""
_ESP: Final = (2 * _MIB, 16 * _MIB)
_ROOT: Final = (18 * _MIB, _SIZE - 19 * _MIB)
"""The last MiB has the second partition table."""
GRUB: Final = Path("/usr/lib/grub")
_GRUB_MODULES: Final = (
    "part_gpt",
    "ext2",
    "search",
    "search_label",
    "normal",
    "configfile",
    "linux",
    "minicmd",
)
_BOOT_IMG_KERNEL_SECTOR: Final = 0x5C
"""Where boot.img has the sector of core.img, 8 bytes. GRUB include/grub/i386/pc/boot.h."""
_BOOT_IMG_CODE: Final = 440
"""Behind it lie the disk's signature and the partitions of the MBR."""
_CORE_IMG_BLOCKS: Final = 0x1F4
"""Where core.img's first sector lists the others: the first (8 bytes), their count (2), a segment (2)."""
_SYSTEM: Final = ("systemd-sysv", "udev", "dbus", "login", "kmod", "initramfs-tools", "e2fsprogs", "iproute2")
_KERNELS: Final = {
    ("amd64", "cloud"): "linux-image-cloud-amd64",
    ("amd64", "generic"): "linux-image-amd64",
    ("i386", "generic"): "linux-image-686-pae",
}
_GRUB_CFG: Final = """\
serial --unit=0 --speed=115200
# The console of UEFI is on the serial port as well.
if [ "$grub_platform" = pc ]; then
    terminal_input serial console
    terminal_output serial console
fi
insmod all_video
set timeout=1
# On a host so busy that a virtual processor runs a fifth of the time, ticks are lost and the check fails.
menuentry "Debian 12" {{
    linux /boot/{kernel} root=LABEL=root ro no_timer_check console=tty0 console=ttyS0,115200
    initrd /boot/{initrd}
}}
"""
_GRUB_START: Final = """\
search --no-floppy --label --set=root root
set prefix=($root)/boot/grub
"""
Progress = Callable[[str], None]


class BuildError(Exception):
    """No disk can be made. The message says why and what to do."""


class Tool(NamedTuple):
    """What the builder needs: a program or a file, and the Debian package that has it."""

    name: str
    package: str

    @property
    def present(self) -> bool:
        if self.name.startswith("/"):
            return Path(self.name).exists()
        return _program(self.name) is not None


TOOLS: Final = (
    Tool("mmdebstrap", "mmdebstrap"),
    Tool("mke2fs", "e2fsprogs"),
    Tool("sfdisk", "fdisk"),
    Tool("mformat", "mtools"),
    Tool("grub-mkimage", "grub-common"),
    Tool(f"{GRUB}/i386-pc/boot.img", "grub-pc-bin"),
    Tool(f"{GRUB}/x86_64-efi/kernel.img", "grub-efi-amd64-bin"),
)


def missing_packages(tools: Sequence[Tool] = TOOLS) -> list[str]:
    """The Debian packages that have to be installed first."""
    return sorted({tool.package for tool in tools if not tool.present})


def build(disk: Path, arch: str, kernel: str, progress: Progress) -> None:
    """Make the raw image `disk` of 2 GiB (sparse), whole or not at all. Raises BuildError."""
    package = _KERNELS.get((arch, kernel))
    if package is None:
        raise BuildError(f"There is no {kernel} kernel for {arch}: the others are {_known_kernels()}.")
    if missing := missing_packages():
        raise BuildError(f"Debian packages are missing. Type:  apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="debian-disk-") as name:
        work = Path(name)
        tree = work / "root"
        progress(f"Installing Debian {SUITE} for {arch} into a directory (some minutes)")
        _install(tree, arch, package)
        progress("Making the boot loader")
        _configure(tree, grub_platforms := _grub_platforms(arch))
        images = {platform: _grub_image(work, platform) for platform in grub_platforms}
        progress("Making the filesystems")
        # Beside the disk, so that it comes to its name in one step.
        unfinished = disk.with_name(f"{disk.name}.part")
        try:
            _partition(unfinished)
            _put_root(unfinished, tree)
            _put_esp(unfinished, work, images.get("x86_64-efi"))
            _put_bios_boot(unfinished, images["i386-pc"])
            unfinished.replace(disk)
        finally:
            unfinished.unlink(missing_ok=True)
    progress(f"{disk} is ready")


def _known_kernels() -> str:
    return ", ".join(f"{arch} {kernel}" for arch, kernel in _KERNELS)


def _grub_platforms(arch: str) -> tuple[str, ...]:
    # A 32-bit kernel is no kernel for a 64-bit UEFI.
    return ("i386-pc", "x86_64-efi") if arch == "amd64" else ("i386-pc",)


def _install(tree: Path, arch: str, kernel: str) -> None:
    packages = [kernel, *_SYSTEM, *(["efibootmgr"] if arch == "amd64" else [])]
    run(
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--architectures={arch}",
        f"--include={','.join(packages)}",
        '--customize-hook=chroot "$1" passwd --delete root',
        "--dpkgopt=force-unsafe-io", "--aptopt=Acquire::Retries \"3\"",
        SUITE, str(tree), MIRROR,
    )  # fmt: skip


def _configure(tree: Path, grub_platforms: Sequence[str]) -> None:
    boot = tree / "boot"
    kernel, initrd = (_only(boot, pattern) for pattern in ("vmlinuz-*", "initrd.img-*"))
    (tree / "etc" / "fstab").write_text("LABEL=root / ext4 defaults 0 1\n")
    (tree / "etc" / "hostname").write_text(f"{HOST_NAME}\n")
    grub = boot / "grub"
    for platform in grub_platforms:
        shutil.copytree(
            GRUB / platform, grub / platform, ignore=lambda _, names: [n for n in names if _not_loaded(n)]
        )
    (grub / "grub.cfg").write_text(_GRUB_CFG.format(kernel=kernel, initrd=initrd))


def _not_loaded(name: str) -> bool:
    return not name.endswith((".mod", ".lst"))


def _only(directory: Path, pattern: str) -> str:
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise BuildError(f"The installed system has {len(found)} files boot/{pattern}, not one.")
    return found[0].name


def _grub_image(work: Path, platform: str) -> bytes:
    start, image = work / "start.cfg", work / f"grub-{platform}"
    start.write_text(_GRUB_START)
    modules = [*_GRUB_MODULES, *(["biosdisk"] if platform == "i386-pc" else ["fat", "efi_gop"])]
    run("grub-mkimage", "-O", platform, "-o", str(image), "-p", "/boot/grub", "-c", str(start), *modules)
    return image.read_bytes()


def _partition(disk: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(_SIZE)
    lines = ["label: gpt"]
    for (offset, size), kind in (
        (_BIOS_BOOT, "21686148-6449-6E6F-744E-656564454649"),
        (_ESP, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
        (_ROOT, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
    ):
        lines.append(f"start={offset // _SECTOR}, size={size // _SECTOR}, type={kind}")
    run("sfdisk", "--quiet", str(disk), stdin="\n".join(lines) + "\n")


def _put_root(disk: Path, tree: Path) -> None:
    offset, size = _ROOT
    # GRUB 2.06 does not know the feature metadata_csum_seed.
    run(
        "mke2fs", "-q", "-t", "ext4", "-L", "root", "-O", "^metadata_csum_seed", "-d", str(tree),
        "-E", f"offset={offset}", str(disk), f"{size >> 10}k",
    )  # fmt: skip


def _put_esp(disk: Path, work: Path, loader: bytes | None) -> None:
    esp = work / "esp.img"
    with esp.open("wb") as file:
        file.truncate(_ESP[1])
    run("mformat", "-i", str(esp), "-T", str(_ESP[1] // _SECTOR), "-h", "16", "-s", "63", "::")
    if loader is not None:
        file_of_loader = work / "BOOTX64.EFI"
        file_of_loader.write_bytes(loader)
        run("mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT")
        run("mcopy", "-i", str(esp), str(file_of_loader), "::/EFI/BOOT/BOOTX64.EFI")
    with disk.open("r+b") as file:
        file.seek(_ESP[0])
        file.write(esp.read_bytes())


def _put_bios_boot(disk: Path, core: bytes) -> None:
    """Put core.img into its partition and boot.img into sector 0, each with the sectors to load."""
    offset, size = _BIOS_BOOT
    if len(core) > size:
        raise BuildError(f"GRUB's core.img has {len(core)} bytes, more than the BIOS boot partition.")
    first, sectors = offset // _SECTOR, -(-len(core) // _SECTOR)
    loader = bytearray(core)
    struct.pack_into("<QH", loader, _CORE_IMG_BLOCKS, first + 1, sectors - 1)
    boot = bytearray((GRUB / "i386-pc" / "boot.img").read_bytes()[:_BOOT_IMG_CODE])
    struct.pack_into("<Q", boot, _BOOT_IMG_KERNEL_SECTOR, first)
    with disk.open("r+b") as file:
        file.write(boot)
        file.seek(offset)
        file.write(loader)


def _program(name: str) -> str | None:
    """The path of a program, which may be outside an ordinary user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def run(name: str, *arguments: str, stdin: str | None = None) -> None:
    done = subprocess.run(
        [_program(name) or name, *arguments], input=stdin, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BuildError(f"{name} failed with status {done.returncode}:\n{last}")


def main() -> int:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tools.debian_disk",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "disk", type=Path, metavar="DISK", help="the raw image to make; one that exists is replaced"
    )
    parser.add_argument("--arch", choices=("amd64", "i386"), default="amd64")
    parser.add_argument("--kernel", choices=("cloud", "generic"), help="default: cloud, for i386 generic")
    wishes = parser.parse_args()
    kernel = wishes.kernel or ("cloud" if wishes.arch == "amd64" else "generic")
    try:
        build(wishes.disk, wishes.arch, kernel, lambda step: print(f"{step} ...", file=sys.stderr))
    except (BuildError, OSError) as error:
        print(f"debian_disk: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
