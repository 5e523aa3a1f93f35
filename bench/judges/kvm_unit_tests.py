"""`python -m bench.judges DIR`: run kvm-unit-tests' x86 images, unmodified, under Wirt and under QEMU's TCG.

The images are the user's: a built kvm-unit-tests tree, or a directory with `*.flat` files. Each test ends by
writing to isa-debug-exit, and the exit status is the judgement: see docs/judges.md.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import wirt_program

TIME_LIMIT: Final = 40
"""Seconds a test may take, unless --timeout says otherwise."""
MEMORY_MIB: Final = 512
ENVIRONMENT: Final = b"ACCEL=tcg\nTEST_DEVICE=0\nBOOTLOADER=0\n"
"""What the tests ask their environment: no KVM is below them, whose hypercalls some would use otherwise."""
LONGEST_KEPT: Final = 16 << 20
"""Bytes of a test's output that are looked at."""

STATUSES: Final = {0: "reset", 1: "pass", 3: "fail", 77: "skip", 127: "abort"}
"""What a process's exit status says: the test's judgement through isa-debug-exit, "abort" being an exception
that it did not expect; or that the machine was reset or went off by itself.
"""
_FAILED_LINE: Final = re.compile(r"^FAIL[: ]", re.MULTILINE)


class Unusable(Exception):
    """There is nothing to run. The message says why."""


@dataclass(frozen=True, slots=True)
class Test:
    """One run of an image: `arguments` is its command line, `cpus` and `memory` (MiB) its machine."""

    name: str
    image: Path
    arguments: str = ""
    cpus: int = 1
    memory: int = MEMORY_MIB


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a test. `failures` are the lines of its output that report one."""

    judgement: str
    failures: int
    seconds: float

    def __str__(self) -> str:
        lines = f" ({self.failures})" if self.failures else ""
        return f"{self.judgement}{lines} {self.seconds:.1f} s"


def collect(directory: Path) -> list[Test]:
    """Return the tests of a kvm-unit-tests tree, or of a directory of images.

    `unittests.cfg` names tests, their images, arguments and machines; those whose image was not built, as it
    is for another architecture, are left out. An image that no entry names is a test of its own. Raises
    Unusable.
    """
    x86 = directory / "x86"
    images = x86 if x86.is_dir() else directory
    found = sorted(images.glob("*.flat"))
    if not found:
        raise Unusable(f"There are no images (*.flat) in {images}: build kvm-unit-tests there first.")
    configured = images / "unittests.cfg"
    tests = list(_configured(configured, images)) if configured.exists() else []
    named = {test.image for test in tests}
    return tests + [Test(image.stem, image) for image in found if image not in named]


def _configured(path: Path, images: Path) -> Iterator[Test]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    try:
        parser.read_string(path.read_text())
    except (configparser.Error, UnicodeError) as error:
        raise Unusable(f"{path} is no configuration of tests: {error}") from error
    for name in parser.sections():
        section = parser[name]
        image = images / section.get("file", "")
        # Entries outside of the default set expect a hypervisor that emulates what it is asked to.
        if not image.is_file() or "nodefault" in section.get("groups", ""):
            continue
        memory = re.search(r"-m (\d+)(g?)", section.get("qemu_params", ""))
        yield Test(
            name,
            image,
            _arguments(section.get("test_args", "")),
            section.getint("smp", 1),
            int(memory[1]) * (1024 if memory[2] else 1) if memory else MEMORY_MIB,
        )


def _arguments(text: str) -> str:
    """A shell word of unittests.cfg as the text it stands for; its only command is the date."""
    return " ".join(shlex.split(text.replace("`date +%s`", str(int(time.time())))))


def wirt_command(test: Test, environment: Path) -> list[str]:
    """Return the command that runs `test` under Wirt's recompiler."""
    return [
        *wirt_program(),
        *("run", "--quiet", "--accel", "recompiler", "--no-reboot"),
        *("--device", "isa-debug-exit", "--device", "pc-testdev"),
        *("-c", str(test.cpus), "-m", f"{test.memory}M"),
        *("--kernel", str(test.image), "--initrd", str(environment)),
        *(("--append", test.arguments) if test.arguments else ()),
    ]


def qemu_command(test: Test, environment: Path) -> list[str]:
    """Return the command that runs `test` under QEMU's TCG."""
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-reboot"),
        *("-display", "none", "-serial", "stdio"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-device", "pc-testdev"),
        *("-smp", str(test.cpus), "-m", str(test.memory)),
        *("-kernel", str(test.image), "-initrd", str(environment)),
        *(("-append", test.arguments) if test.arguments else ()),
    ]


RUNNERS: Final[dict[str, Callable[[Test, Path], list[str]]]] = {"wirt": wirt_command, "qemu": qemu_command}


def run(command: Sequence[str], limit: float, log: Path) -> Outcome:
    """Run a test's command for at most `limit` seconds; its output goes to `log`."""
    begin = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            status = process.wait(limit)
            judgement = STATUSES.get(status, f"status {status}")
        except subprocess.TimeoutExpired:
            judgement = "timeout"
        finally:
            process.kill()
            process.wait()
    with log.open("rb") as written:
        text = written.read(LONGEST_KEPT).decode(errors="replace").replace("\r", "")
    return Outcome(judgement, len(_FAILED_LINE.findall(text)), time.monotonic() - begin)


def judge(tests: Sequence[Test], runners: Sequence[str], limit: float, jobs: int, logs: Path) -> int:
    """Run `tests` under each of `runners`, print the table, and return how many Wirt did not pass or skip."""
    with tempfile.NamedTemporaryFile() as environment, ThreadPoolExecutor(jobs) as pool:

        def outcomes(test: Test) -> list[Outcome]:
            return [
                run(RUNNERS[name](test, Path(environment.name)), limit, logs / f"{test.name}.{name}")
                for name in runners
            ]

        environment.write(ENVIRONMENT)
        environment.flush()
        width = max(len(test.name) for test in tests)
        print(f"{'test':{width}}  {'  '.join(f'{name:20}' for name in runners)}".rstrip())
        passed = dict.fromkeys(runners, 0)
        failed = 0
        for test, results in zip(tests, pool.map(outcomes, tests), strict=True):
            print(
                f"{test.name:{width}}  {'  '.join(f'{result!s:20}' for result in results)}".rstrip(),
                flush=True,
            )
            for name, result in zip(runners, results, strict=True):
                passed[name] += result.judgement == "pass"
            failed += results[0].judgement not in ("pass", "skip")
    print("passed: " + ", ".join(f"{name} {count}" for name, count in passed.items()) + f" of {len(tests)}")
    return failed


def main(arguments: Sequence[str]) -> int:
    """Return 0 if Wirt failed no test, 1 if it did, 2 for wrong usage, 3 if there are no images."""
    parser = argparse.ArgumentParser(prog="python -m bench.judges", description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIR", help="a built kvm-unit-tests, or *.flat files")
    parser.add_argument("--only", metavar="NAME,...", help="only these tests")
    parser.add_argument("--qemu", action="store_true", help="run each under QEMU's TCG too")
    parser.add_argument("--timeout", type=float, default=TIME_LIMIT, metavar="SECONDS", help="for each test")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many tests at a time")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep what the tests print there")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or options.timeout <= 0:
        parser.error("--jobs and --timeout have to be above 0")
    if options.qemu and not shutil.which("qemu-system-x86_64"):
        parser.error("there is no qemu-system-x86_64 to compare with")
    try:
        tests = collect(options.directory)
    except Unusable as error:
        print(f"judges: {error}", file=sys.stderr)
        return 3
    if options.only:
        wanted = options.only.split(",")
        if unknown := set(wanted) - {test.name for test in tests}:
            parser.error(f"there is no test {min(unknown)!r}")
        tests = [test for test in tests if test.name in wanted]
    runners = ["wirt", "qemu"] if options.qemu else ["wirt"]
    with tempfile.TemporaryDirectory() as kept:
        logs = options.logs or Path(kept)
        os.makedirs(logs, exist_ok=True)
        failed = judge(tests, runners, options.timeout, options.jobs, logs)
    return 1 if failed else 0
