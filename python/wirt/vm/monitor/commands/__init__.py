"""The monitor's commands: each a function, and a line in this table that says what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from wirt.vm.monitor.arguments import Parameter, array, boolean, integer, one_of, structure, text, union
from wirt.vm.monitor.commands import keys, life, look, media, picture


class Command(NamedTuple):
    """A command: its name in QMP, what it does, and its parameters.

    The function is given the monitor and, by name, with "_" for "-", the arguments. It returns what JSON can
    hold.
    """

    name: str
    function: Callable[..., object]
    parameters: tuple[Parameter, ...] = ()


_KEY: Final = union(qcode=text, number=integer(1, 0xFF))
_MOST_KEYS: Final = 32
_MOST_EVENTS: Final = 256
_LONGEST_HOLD: Final = 60_000
"""Milliseconds."""
_AXIS: Final = Parameter("axis", one_of("x", "y"))
_DOWN: Final = Parameter("down", boolean)
_INPUT_EVENT: Final = union(
    key=structure(Parameter("key", _KEY), _DOWN),
    btn=structure(Parameter("button", one_of(*keys.BUTTONS)), _DOWN),
    rel=structure(_AXIS, Parameter("value", integer(-keys.MOST_STEPS, keys.MOST_STEPS))),
    abs=structure(_AXIS, Parameter("value", integer(0, keys.ABSOLUTE))),
)
_CONSOLE: Final = (
    Parameter("device", text, optional=True),
    Parameter("head", integer(0, 0xFFFF), optional=True),
)
"""Which screen is meant, where a machine has several."""
_DRIVE: Final = (Parameter("device", text, optional=True), Parameter("id", text, optional=True))
"""A drive, by either of them."""
_FORCE: Final = Parameter("force", boolean, optional=True)

TABLE: Final = {
    command.name: command
    for command in (
        Command("query-status", life.query_status),
        Command("stop", life.stop),
        Command("cont", life.cont),
        Command("system_powerdown", life.system_powerdown),
        Command("system_reset", life.system_reset),
        Command("inject-nmi", life.inject_nmi),
        Command("quit", life.leave),
        Command("query-version", look.query_version),
        Command("query-commands", look.query_commands),
        Command("query-name", look.query_name),
        Command("query-uuid", look.query_uuid),
        Command("query-target", look.query_target),
        Command("query-kvm", look.query_kvm),
        Command("query-cpus-fast", look.query_cpus_fast),
        Command("query-memory-size-summary", look.query_memory_size_summary),
        Command("query-balloon", look.query_balloon),
        Command("balloon", look.balloon, (Parameter("value", integer(1, 1 << 62)),)),
        Command("query-block", media.query_block),
        Command("eject", media.eject, (*_DRIVE, _FORCE)),
        Command("blockdev-open-tray", media.open_tray, (*_DRIVE, _FORCE)),
        Command("blockdev-close-tray", media.close_tray, _DRIVE),
        Command(
            "blockdev-change-medium",
            media.change_medium,
            (
                *_DRIVE,
                Parameter("filename", text),
                Parameter("format", one_of("raw"), optional=True),
                _FORCE,
                Parameter("read-only-mode", one_of("retain", "read-only"), optional=True),
            ),
        ),
        Command(
            "screendump",
            picture.screendump,
            (
                Parameter("filename", text),
                Parameter("format", one_of("png", "ppm"), optional=True),
                *_CONSOLE,
            ),
        ),
        Command(
            "send-key",
            keys.send_key,
            (
                Parameter("keys", array(_KEY, _MOST_KEYS)),
                Parameter("hold-time", integer(1, _LONGEST_HOLD), optional=True),
            ),
        ),
        Command(
            "input-send-event",
            keys.input_send_event,
            (Parameter("events", array(_INPUT_EVENT, _MOST_EVENTS)), *_CONSOLE),
        ),
    )
}
"""By name."""

REFUSED: Final = {
    "human-monitor-command": "There is no human monitor: use QMP's commands (query-commands lists them).",
}
"""Commands that people try, and why there are none."""
