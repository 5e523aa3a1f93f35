"""Values of options that several commands have."""

from __future__ import annotations

import math

from wirt.errors import UsageError


def seconds(text: str) -> float:
    """Read a number of seconds above 0. Raises UsageError."""
    try:
        read = float(text)
    except ValueError:
        read = math.nan
    if not 0 < read < math.inf:
        raise UsageError(f"{text!r} is no time: give a number of seconds above 0.")
    return read
