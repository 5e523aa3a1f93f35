"""The arguments of commands: what kinds there are, and the checks that a client's have to pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from wirt.vm.monitor.messages import QmpError

Check = Callable[[str, object], object]
"""Takes the argument's name and what was sent for it, and returns the value. Raises QmpError."""


class Parameter(NamedTuple):
    """A command's parameter, or a member of a structure. Its name is QMP's."""

    name: str
    check: Check
    optional: bool = False


def checked(parameters: tuple[Parameter, ...], given: Mapping[str, object]) -> dict[str, object]:
    """Return the values by name, of those that were given. Raises QmpError."""
    known = {parameter.name for parameter in parameters}
    for name in given:
        if name not in known:
            raise QmpError("GenericError", f"There is no parameter {name[:80]!r}.")
    values = {}
    for parameter in parameters:
        if parameter.name in given:
            values[parameter.name] = parameter.check(parameter.name, given[parameter.name])
        elif not parameter.optional:
            raise QmpError("GenericError", f"The parameter {parameter.name!r} is missing.")
    return values


def text(name: str, value: object) -> str:
    """A string, without NUL and lone surrogates, which no file's name has."""
    if isinstance(value, str) and "\0" not in value:
        try:
            value.encode()
            return value
        except UnicodeEncodeError:
            pass
    raise _wrong(name, "a string of Unicode characters without NUL")


def boolean(name: str, value: object) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    raise _wrong(name, "true or false")


def integer(least: int, most: int) -> Check:
    """A whole number from `least` to `most`."""

    def check(name: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise _wrong(name, f"a whole number from {least} to {most}")

    return check


def one_of(*words: str) -> Check:
    """One of some words."""

    def check(name: str, value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise _wrong(name, f"one of {', '.join(words)}")

    return check


def array(element: Check, most: int) -> Check:
    """An array of at most so many elements."""

    def check(name: str, value: object) -> list[object]:
        if not isinstance(value, list) or len(value) > most:
            raise _wrong(name, f"an array of at most {most} elements")
        return [element(f"{name}[{index}]", each) for index, each in enumerate(value)]

    return check


def structure(*members: Parameter) -> Check:
    """An object with these members."""

    def check(name: str, value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            raise _wrong(name, "an object")
        return checked(members, value)

    return check


def union(**branches: Check) -> Check:
    """An object of "type" and "data", in which the type says what the data are."""
    kind = one_of(*branches)

    def check(name: str, value: object) -> tuple[str, object]:
        if not isinstance(value, dict) or set(value) != {"type", "data"}:
            raise _wrong(name, "an object with 'type' and 'data'")
        branch = kind(f"{name}.type", value["type"])
        assert isinstance(branch, str)
        return branch, branches[branch](f"{name}.data", value["data"])

    return check


def _wrong(name: str, expected: str) -> QmpError:
    return QmpError("GenericError", f"The parameter {name!r} has to be {expected}.")
