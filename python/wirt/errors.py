"""The errors Wirt raises on purpose: each carries one sentence for the user and an exit status."""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Something failed. Its text is one sentence: what is wrong, and what to do about it."""

    exit_status: ClassVar[int] = 1
    """What a command that ends with this error exits with."""


class UsageError(Error):
    """A value that makes no sense."""

    exit_status = 2


class NotFoundError(Error):
    """A file or thing that is not there."""

    exit_status = 3


class CapacityError(Error):
    """The host cannot give what was asked for."""

    exit_status = 4


class WaitTimeout(Error, TimeoutError):
    """What was waited for did not happen in time. The machine runs on."""


class ClosedError(Error):
    """The machine or its console has ended."""
