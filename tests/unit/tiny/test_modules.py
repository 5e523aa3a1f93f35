import lzma
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirt.machine.tiny import modules


def elf_with_modinfo(*strings: str) -> bytes:
    """Return an ELF64 image with the sections null, .modinfo and .shstrtab."""
    info = b"".join(string.encode() + b"\0" for string in strings)
    names = b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(info) + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2
    )
    sections = [(0, 0, 0), (1, 64, len(info)), (10, 64 + len(info), len(names))]
    headers = [struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 1, 0) for name, at, size in sections]
    return header + info + names + b"".join(headers)


MODULE = elf_with_modinfo(
    "license=GPL", "alias=pci:v00001AF4d*", "depends=b-one,c", "alias=virtio:d1", "oddity"
)


def test_modinfo_collects_tags_in_order() -> None:
    assert modules.modinfo(MODULE) == {
        "license": ["GPL"],
        "alias": ["pci:v00001AF4d*", "virtio:d1"],
        "depends": ["b-one,c"],
    }


@given(st.integers(0, len(MODULE) - 1), st.integers(0, 255), st.integers(0, len(MODULE)))
def test_damaged_module_is_read_or_refused(at: int, value: int, size: int) -> None:
    damaged = (MODULE[:at] + bytes([value]) + MODULE[at + 1 :])[:size]
    try:
        modules.load("kernel/x.ko", damaged)
    except modules.ModuleError as error:
        assert str(error).startswith("The kernel module kernel/x.ko is damaged")


def test_load_decompresses() -> None:
    module = modules.load("kernel/virtio-x.ko.xz", lzma.compress(MODULE))
    assert (module.path, module.image, module.depends) == ("kernel/virtio-x.ko", MODULE, ("b-one", "c"))


def files(**depends: str) -> dict[str, bytes]:
    return {
        f"kernel/{name}.ko": elf_with_modinfo(f"depends={needs}", f"alias=of:{name}")
        for name, needs in depends.items()
    }


def test_closure_puts_dependencies_first_and_leaves_out_the_rest() -> None:
    loaded = modules.closure(["a"], files(a="b,c", b="c", c="", unrelated="a"))
    assert [module.path for module in loaded] == ["kernel/c.ko", "kernel/b.ko", "kernel/a.ko"]


def test_closure_takes_hyphen_for_underscore() -> None:
    loaded = modules.closure(
        ["virtio_rng"], {"kernel/virtio-rng.ko": elf_with_modinfo("depends=rng-core")} | files(rng_core="")
    )
    assert [module.path for module in loaded] == ["kernel/rng_core.ko", "kernel/virtio-rng.ko"]


@pytest.mark.parametrize(
    ("depends", "sentence"),
    [({"a": "b", "b": "a"}, "depends on itself"), ({"a": "gone"}, "has no module gone")],
)
def test_closure_refuses(depends: dict[str, str], sentence: str) -> None:
    with pytest.raises(modules.ModuleError, match=sentence):
        modules.closure(["a"], files(**depends))


def test_index_files_name_the_last_dependency_to_load_first() -> None:
    index = modules.index_files(modules.closure(["a"], files(a="b,c", b="c", c="")))
    assert index["modules.dep"].decode().splitlines() == [
        "kernel/c.ko:",
        "kernel/b.ko: kernel/c.ko",
        "kernel/a.ko: kernel/b.ko kernel/c.ko",
    ]
    assert "alias of:b b\n" in index["modules.alias"].decode()
