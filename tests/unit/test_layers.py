"""The layers of ARCHITECTURE.md: a layer imports from those below it only."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "wirt"

# From the bottom up. A layer may use itself and earlier lines, but not its neighbours in the same line.
PYTHON_LAYERS = [
    {"_core", "errors", "threads"},
    {"devices", "storage", "network", "display"},
    {"machine"},
    {"vm"},
    {"host"},
    {"api"},
    {"cli", "web"},
]
CRATE_LAYERS = [
    {"hv", "block", "net"},
    {"hv-kvm", "recompiler", "board", "display"},
    {"scsi"},
    {"virtio", "ata", "e1000", "vga"},
    {"wirt-core"},
]


def height(layers: list[set[str]], name: str) -> int:
    return next(level for level, names in enumerate(layers) if name in names)


def imported_layers(source: str, module: str) -> Iterator[str]:
    """Yield the layers that the code of `module` imports; a package's dotted name ends in `__init__`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            targets = [f"{origin}.{alias.name}" for alias in node.names] if origin == "wirt" else [origin]
        else:
            continue
        for target in targets:
            top, _, rest = target.partition(".")
            if top == "wirt" and rest:
                yield rest.split(".")[0]


def modules() -> Iterator[tuple[str, str, Path]]:
    """Yield each module in a layer: the layer, the dotted name, the file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if len(relative.parts) > 1 or relative.stem != "__init__":
            yield (
                relative.parts[0].removesuffix(".py"),
                ".".join(("wirt", *relative.with_suffix("").parts)),
                path,
            )


LAYERED = list(modules())


@pytest.mark.parametrize(("layer", "module", "path"), LAYERED, ids=[module for _, module, _ in LAYERED])
def test_python_module_imports_downwards(layer: str, module: str, path: Path) -> None:
    level = height(PYTHON_LAYERS, layer)
    for used in imported_layers(path.read_text(), module):
        assert used == layer or height(PYTHON_LAYERS, used) < level, f"{module} imports wirt.{used}"


def test_python_layers_are_found() -> None:
    assert {"machine", "devices", "vm"} <= {layer for layer, _, _ in LAYERED}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import wirt.cli.run", ["cli"]),
        ("from wirt import api, vm", ["api", "vm"]),
        ("from wirt.host.pool import Pool", ["host"]),
        ("from ..cli import main", ["cli"]),
        ("from . import sibling", ["machine"]),
        ("from ... import cli", ["cli"]),
        ("def late():\n    from wirt.cli import main", ["cli"]),
        ("import json, wirtual", []),
    ],
)
def test_imports_are_seen(source: str, found: list[str]) -> None:
    module = "wirt.machine.tiny.cache" if "..." in source else "wirt.machine.boot"
    assert list(imported_layers(source, module)) == found


def crates() -> dict[str, set[str]]:
    """Return the project's crates with what each needs of the others, development needs aside."""
    manifests = [tomllib.loads(path.read_text()) for path in sorted((ROOT / "crates").glob("*/Cargo.toml"))]
    names = {manifest["package"]["name"] for manifest in manifests}
    return {
        manifest["package"]["name"]: names
        & {*manifest.get("dependencies", {}), *manifest.get("build-dependencies", {})}
        for manifest in manifests
    }


def test_crates_depend_downwards() -> None:
    found = crates()
    assert set(found) == set().union(*CRATE_LAYERS)
    for crate, needs in found.items():
        for need in needs:
            assert height(CRATE_LAYERS, need) < height(CRATE_LAYERS, crate), f"{crate} depends on {need}"
