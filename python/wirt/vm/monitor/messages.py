"""What QMP's messages are made of. QEMU, docs/interop/qmp-spec.rst, version 1.0."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, NoReturn

from wirt.vm.events import Event

ErrorClass = Literal["GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound", "KVMMissingCap"]

MOST_DIGITS: Final = 20
"""Of a number: those of 64 bits."""


class QmpError(Exception):
    """A command that failed: its class, and a sentence for people."""

    def __init__(self, kind: ErrorClass, sentence: str) -> None:
        super().__init__(sentence)
        self.kind: Final = kind
        self.echo: Mapping[str, object] = {}
        """What of the command its answer carries."""


class Request(NamedTuple):
    """A command as it was sent. `echo` is what its answer carries: its id, if it has one."""

    command: str
    arguments: Mapping[str, object]
    echo: Mapping[str, object] = MappingProxyType({})


def read_request(text: bytes) -> Request:
    """Read a command. Raises QmpError for what is none, with its id if it has one."""
    try:
        read = json.loads(
            text.decode(),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError):
        # json's own sentences tell of lines and columns, which a stream has not.
        raise QmpError("GenericError", "This is no JSON text in UTF-8.") from None
    if not isinstance(read, dict):
        raise QmpError("GenericError", "A command is a JSON object.")
    echo = {"id": read["id"]} if "id" in read else {}
    try:
        return _request(read, echo)
    except QmpError as error:
        error.echo = echo
        raise


def _request(read: dict[str, object], echo: Mapping[str, object]) -> Request:
    command = read.get("execute")
    if not isinstance(command, str):
        if "exec-oob" in read:
            raise QmpError("GenericError", "Commands are executed in their order: use 'execute'.")
        raise QmpError("GenericError", "A command has the member 'execute', which is a string.")
    for name in read:
        if name not in ("execute", "arguments", "id"):
            raise QmpError("GenericError", f"A command has no member {name[:80]!r}.")
    arguments = read.get("arguments", {})
    if not isinstance(arguments, dict):
        raise QmpError("GenericError", "The member 'arguments' is an object.")
    return Request(command, arguments, echo)


def greeting(version: tuple[int, int, int]) -> bytes:
    """What a client is sent first. None of QMP's capabilities is offered."""
    return _line({"QMP": {"version": version_info(version), "capabilities": []}})


def version_info(version: tuple[int, int, int]) -> dict[str, object]:
    """The version as QMP has it, whose member is called "qemu" whoever the server is."""
    major, minor, micro = version
    return {
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": f"Wirt {major}.{minor}.{micro}",
    }


def success(value: object, echo: Mapping[str, object]) -> bytes:
    """The answer to a command that was executed."""
    return _line({"return": value, **echo})


def failure(error: QmpError) -> bytes:
    """The answer to one that was not."""
    return _line({"error": {"class": error.kind, "desc": str(error)}, **error.echo})


def event_line(event: Event) -> bytes:
    """An event as it is sent."""
    seconds, microseconds = divmod(int(event.time * 1_000_000), 1_000_000)
    message: dict[str, object] = {"event": event.name}
    if event.data:
        message["data"] = event.data
    return _line(message | {"timestamp": {"seconds": seconds, "microseconds": microseconds}})


def _line(message: object) -> bytes:
    # JSON in ASCII, whatever somebody has put into an id.
    return json.dumps(message).encode() + b"\r\n"


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError("a number of more than 64 bits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number of more than 64 bits")
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member that comes twice")
    return members
