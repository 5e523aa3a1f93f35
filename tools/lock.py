"""Pin the Python dependencies: write requirements.lock and requirements-test.lock from pyproject.toml.

Usage: `make lock`. Runs pip-compile, which has to be installed beside this interpreter; its options may be
added (`--upgrade`).

The files hold names, versions and hashes only; where packages come from is the matter of each machine's pip.
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

OPTIONS = [
    "--quiet",
    "--generate-hashes",
    "--allow-unsafe",
    "--strip-extras",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
    "--no-emit-options",
]


def group(project: dict[str, Any], name: str) -> list[str]:
    """Return the requirements of a dependency group with its included groups (PEP 735)."""
    requirements: list[str] = []
    for entry in project["dependency-groups"][name]:
        requirements += group(project, entry["include-group"]) if isinstance(entry, dict) else [entry]
    return requirements


def lock(target: Path, requirements: list[str], *options: str) -> None:
    """Resolve `requirements` into `target`, keeping the pins it already holds unless told to upgrade."""
    command = [
        sys.executable,
        "-m",
        "piptools",
        "compile",
        *OPTIONS,
        *options,
        f"--output-file={target}",
        "-",
    ]
    subprocess.run(command, cwd=ROOT, input="\n".join(requirements), text=True, check=True)


def main() -> None:
    """Write both lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    options = sys.argv[1:]
    runtime = project["project"]["dependencies"]
    pinned = ROOT / "requirements.lock"
    constraint = f"--constraint={pinned}"
    lock(pinned, runtime + group(project, "build"), *options)
    lock(ROOT / "requirements-test.lock", runtime + group(project, "test"), constraint, *options)


if __name__ == "__main__":
    main()
