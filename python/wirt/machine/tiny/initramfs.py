"""The initramfs of the guest "tiny": BusyBox, drivers, and the files below `rootfs/` beside this."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from wirt.machine.tiny import cpio, modules

DRIVERS = (
    *("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon"),
    *("button", "evdev"),
)
"""The machine's devices; the power button, and the file by which acpid hears of it."""

_ROOTFS = Path(__file__).parent / "rootfs"
_EMPTY_DIRECTORIES = ("dev", "mnt", "proc", "run", "sys", "tmp")
_LINKS = {
    "sbin": "bin",
    "usr/bin": "../bin",
    "usr/sbin": "../bin",
    "etc/mtab": "/proc/mounts",
    "bin/sh": "busybox",
}


def build(busybox: bytes, release: str, module_files: Mapping[str, bytes]) -> bytes:
    """Return the initramfs, uncompressed: the kernel unpacks it faster than any compressed form.

    `busybox` is the static program, `release` the kernel's (`uname -r`), and `module_files` maps paths below
    `/lib/modules/RELEASE` to the kernel's modules, of which only those needed are taken. Raises
    `modules.ModuleError` if a module is missing or damaged.
    """
    loadable = modules.closure(DRIVERS, module_files)
    directory = f"lib/modules/{release}"
    files = {"bin/busybox": busybox}
    files |= {
        path.relative_to(_ROOTFS).as_posix(): path.read_bytes()
        for path in _ROOTFS.rglob("*")
        if path.is_file()
    }
    files |= {f"{directory}/{module.path}": module.image for module in loadable}
    files |= {f"{directory}/{name}": content for name, content in modules.index_files(loadable).items()}
    return cpio.archive(_entries(files))


def _entries(files: Mapping[str, bytes]) -> Iterator[cpio.Entry]:
    yield from map(cpio.directory, cpio.parents([*files, *_LINKS]))
    yield from map(cpio.directory, _EMPTY_DIRECTORIES)
    yield cpio.directory("root", 0o700)
    yield cpio.character_device("dev/console", 5, 1)
    for name, target in _LINKS.items():
        yield cpio.symlink(name, target)
    for name, data in sorted(files.items()):
        yield cpio.file(name, data, 0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644)
