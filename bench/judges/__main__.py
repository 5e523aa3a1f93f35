"""`python -m bench.judges DIR`, or `python -m bench.judges single-step DIR`."""

from __future__ import annotations

import sys

from bench.judges import kvm_unit_tests, single_step


def main() -> int:
    """Return the exit status of a suite: kvm-unit-tests, unless the first argument names another."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["single-step"]:
        return single_step.main(arguments[1:])
    return kvm_unit_tests.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
