"""`python -m bench`: measure, show the tables, keep them in bench/RESULTS.md."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

import wirt
from bench import report
from bench.console import Stopped
from bench.packages import PackageError

BENCHMARKS: Final = {
    "boot": "power-on to the guest's first user process",
    "start": "`wirt run` to the first guest instruction",
    "memory": "memory of the process beyond guest RAM",
    "port": "what a port write costs",
    "translation": "what is translated during a boot, and how often it is taken back",
    "events": "what page faults, interrupts, system calls and other events of systems cost",
    "storage": "disks on each controller, and the serial console, in a Linux guest",
    "display": "what it costs to show a screen that changes entirely",
    "smp": "two vCPUs with a load each, against one",
    "modes": "32-bit and 16-bit code, under Wirt and TCG",
    "workloads": "programs in a Linux guest, under Wirt and TCG, and natively",
}
_RESULTS: Final = Path(__file__).parent / "RESULTS.md"


def main() -> int:
    """Return 0, 1 if a benchmark failed, 2 for wrong usage, or 130 after Ctrl-C: what was done is kept."""
    try:
        return _measure()
    except KeyboardInterrupt:
        print("bench: Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT


def _measure() -> int:
    listed = "\n".join(f"  {name:10} {text}" for name, text in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Measures Wirt beside its peers:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help="which, by default all")
    parser.add_argument("--quick", action="store_true", help="fewer runs and less work: all in some minutes")
    parser.add_argument("--workloads", metavar="NAME,...", help="only these, and their results are not kept")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--no-save", action="store_true", help="leave bench/RESULTS.md as it is")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose of {', '.join(BENCHMARKS)}")

    sections = []
    status = 0
    for name in arguments.names or BENCHMARKS:
        choice = (arguments.workloads.split(","),) if name == "workloads" and arguments.workloads else ()
        try:
            section = import_module(f"bench.{name}").measure(arguments.quick, *choice)
        except (Stopped, PackageError, wirt.Error) as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            status = 1
            continue
        sections.append(section)
        if arguments.format == "table":
            print(report.text(section, sys.stdout.isatty()), flush=True)
        if not (arguments.no_save or arguments.workloads):
            report.save(_RESULTS, [section], "a quick run" if arguments.quick else "a full run")
    if arguments.format == "json":
        print(json.dumps({section.name: section.data for section in sections}, indent=2))
    return 1 if any(section.failures for section in sections) else status


if __name__ == "__main__":
    sys.exit(main())
