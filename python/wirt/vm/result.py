"""How a machine's run ended."""

from __future__ import annotations

from typing import Literal, NamedTuple

from wirt import _core

Reason = Literal[
    "shutdown", "reset", "exit", "triple-fault", "halted", "internal-error", "killed", "panicked"
]


class Result(NamedTuple):
    """`exit_status` is what a command that ran the machine exits with; `message` says in a sentence what
    happened, with the registers after an internal error.
    """

    reason: Reason
    exit_status: int
    message: str


def result_of(event: _core.Event) -> Result:
    """Put the core's event into words."""
    match event.kind:
        case "shutdown":
            return Result("shutdown", 0, "The guest powered off.")
        case "reset":
            return Result("reset", 0, "The guest asked for a reset.")
        case "exit":
            status = event.status or 0
            return Result("exit", status, f"The guest ended the machine with status {status}.")
        case "triple-fault":
            return Result("triple-fault", 1, f"The guest crashed: triple fault on vCPU {event.vcpu}.")
        case "halted":
            return Result("halted", 1, f"vCPU {event.vcpu} halted and no interrupt can wake it.")
        case "internal-error":
            return Result("internal-error", 1, _internal_error(event))
        case "killed":
            return Result("killed", 1, "The machine was switched off.")


def _internal_error(event: _core.Event) -> str:
    text = f"vCPU {event.vcpu} cannot go on: {event.message}"
    if event.instruction:
        text += f"; instruction bytes {event.instruction.hex(' ')}"
    if event.registers is not None:
        values = (f"{name}={value:#x}" for name, value in event.registers.items() if isinstance(value, int))
        text += f"; {' '.join(values)}"
    return text + "."
