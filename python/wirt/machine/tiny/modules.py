"""Linux kernel modules: what a module says of itself, and the index files by which modprobe finds it.

Sources: the ELF64 specification; Linux include/linux/moduleparam.h (section `.modinfo`); modules.dep(5). A
Debian kernel package brings no `modules.dep`, as depmod makes it at installation.
"""

import lzma
import struct
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import zstandard

_MAX_MODULE = 64 << 20
_ELF_IDENT = b"\x7fELF\x02\x01\x01"
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")


class ModuleError(ValueError):
    """A kernel module is damaged, or one is missing. The message is one sentence."""


class Module(NamedTuple):
    """A kernel module: its `path` below `/lib/modules/RELEASE`, its ELF `image`, and its `.modinfo`."""

    path: str
    image: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def module_name(path: str) -> str:
    """Return a module's name for its file's path: without directory and suffixes, `-` written as `_`."""
    return PurePosixPath(path).name.split(".ko")[0].replace("-", "_")


def load(path: str, content: bytes) -> Module:
    """Read the module file `content`, decompressing `.ko.xz` and `.ko.zst`. Raises ModuleError."""
    try:
        if path.endswith(".xz"):
            content = lzma.LZMADecompressor(memlimit=_MAX_MODULE).decompress(content, _MAX_MODULE)
        elif path.endswith(".zst"):
            content = zstandard.ZstdDecompressor().decompress(content, _MAX_MODULE)
        info = modinfo(content)
    except (lzma.LZMAError, zstandard.ZstdError, struct.error, ValueError) as error:
        raise ModuleError(f"The kernel module {path} is damaged: {error}.") from error
    depends = tuple(name for value in info.get("depends", []) for name in value.split(",") if name)
    path = path[: path.rindex(".ko") + len(".ko")]
    return Module(path, content, depends, tuple(info.get("alias", [])))


def modinfo(image: bytes) -> dict[str, list[str]]:
    """Return the `tag=value` strings of an ELF64 module's `.modinfo` section, in their order.

    Raises ValueError or struct.error for an image that is no such file.
    """
    if not image.startswith(_ELF_IDENT):
        raise ValueError("it is not an ELF64 file")
    (table,) = struct.unpack_from("<Q", image, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", image, 0x3A)
    if entry_size != _SECTION_HEADER.size or names_index >= count:
        raise ValueError("its section table makes no sense")
    sections = [_SECTION_HEADER.unpack_from(image, table + index * entry_size) for index in range(count)]

    def content(section: tuple[int, ...]) -> bytes:
        offset, size = section[4], section[5]
        if offset + size > len(image):
            raise ValueError("a section lies outside of the file")
        return image[offset : offset + size]

    names = content(sections[names_index])
    info: dict[str, list[str]] = {}
    for section in sections:
        start = section[0]
        if names[start : start + 9] != b".modinfo\0":
            continue
        for string in content(section).split(b"\0"):
            tag, separator, value = string.decode("utf-8", "replace").partition("=")
            if separator:
                info.setdefault(tag, []).append(value)
    return info


def closure(names: Iterable[str], files: Mapping[str, bytes]) -> list[Module]:
    """Return the modules `names` and all they depend on, each after its own dependencies.

    `files` maps paths below `/lib/modules/RELEASE` to contents. Raises ModuleError.
    """
    paths = {module_name(path): path for path in files}
    ordered: dict[str, Module] = {}

    def visit(name: str, waiting: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in waiting:
            raise ModuleError(f"The kernel module {name} depends on itself.")
        if name not in paths:
            raise ModuleError(f"The kernel package has no module {name}.")
        module = load(paths[name], files[paths[name]])
        for dependency in module.depends:
            visit(dependency.replace("-", "_"), (*waiting, name))
        ordered[name] = module

    for name in names:
        visit(name.replace("-", "_"), ())
    return list(ordered.values())


def index_files(modules: Iterable[Module]) -> dict[str, bytes]:
    """Return `modules.dep` and `modules.alias` for `modules`, which come after their dependencies."""
    needs: dict[str, dict[str, str]] = {}
    dep, alias = [], []
    for module in modules:
        name = module_name(module.path)
        own = [dependency.replace("-", "_") for dependency in module.depends]
        # In the order of loading: the names of the modules needed, this one included, with their paths.
        needs[name] = {key: path for needed in own for key, path in needs[needed].items()} | {
            name: module.path
        }
        others = list(needs[name].values())[:-1]
        dep.append(f"{module.path}:{''.join(f' {path}' for path in reversed(others))}\n")
        alias += [f"alias {pattern} {name}\n" for pattern in module.aliases]
    return {"modules.dep": "".join(dep).encode(), "modules.alias": "".join(alias).encode()}
